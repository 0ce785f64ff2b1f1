"""Column types that behave alike on SQLite and PostgreSQL."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB


def _written(document: Any) -> str:
    return msgspec.json.encode(document).decode()


JSON_CODEC: dict[str, Any] = {"json_serializer": _written, "json_deserializer": msgspec.json.decode}
"""For the engines: reading many rows is mostly reading their documents."""
JsonDocument = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


class _UtcDateTime(sa.TypeDecorator[datetime]):
    """SQLite would return naive times and accept anything; here both engines take and give aware UTC times."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        if value is None:
            return None
        assert value.tzinfo is not None, "times in the database are UTC, never naive"
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


UtcDateTime = _UtcDateTime()
