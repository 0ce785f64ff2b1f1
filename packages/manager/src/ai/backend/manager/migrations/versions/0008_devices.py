"""agents have devices, and kernels hold some of them"""

import sqlalchemy as sa
from alembic import op

from ai.backend.manager.db.column import JsonDocument

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("agents", schema=None) as batch_op:
        for name, empty in (("devices", "[]"), ("accelerators", "[]"), ("device_usage", "{}")):
            batch_op.add_column(
                sa.Column(name, JsonDocument, nullable=False, server_default=sa.text(f"'{empty}'"))
            )
    with op.batch_alter_table("kernels", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("devices", JsonDocument, nullable=False, server_default=sa.text("'{}'"))
        )


def downgrade() -> None:
    with op.batch_alter_table("kernels", schema=None) as batch_op:
        batch_op.drop_column("devices")
    with op.batch_alter_table("agents", schema=None) as batch_op:
        for name in ("device_usage", "accelerators", "devices"):
            batch_op.drop_column(name)
