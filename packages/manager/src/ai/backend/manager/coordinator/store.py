"""What resource groups say of their coordinators."""

import sqlalchemy as sa

from ..db.schema import resource_groups


def coordinator(conn: sa.Connection, group: str) -> tuple[str, str | None] | None:
    """Address and token; None: it has none."""
    columns = resource_groups.c
    row = conn.execute(
        sa.select(columns.wsproxy_addr, columns.wsproxy_api_token).where(columns.name == group)
    ).first()
    return (row.wsproxy_addr, row.wsproxy_api_token) if row is not None and row.wsproxy_addr else None
