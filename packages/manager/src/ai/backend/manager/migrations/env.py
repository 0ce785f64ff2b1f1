"""Run by Alembic with the connection that `db.migration` hands in."""

from typing import Any, Literal

from alembic import context

from ai.backend.manager.db.column import JsonDocument, UtcDateTime
from ai.backend.manager.db.schema import metadata


def render_item(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """Migrations name our column types instead of spelling them out."""
    if kind == "type" and isinstance(item, type(UtcDateTime)):
        return "UtcDateTime"
    return "JsonDocument" if kind == "type" and item is JsonDocument else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    render_item=render_item,
    transaction_per_migration=False,
    transactional_ddl=True,
)
# The caller owns the transaction: a failed migration rolls back whole.
context.run_migrations()
