"""sessions may go back into the queue, and agents that fail to start sessions rest"""

import sqlalchemy as sa
from alembic import op

from ai.backend.manager.db.column import JsonDocument, UtcDateTime

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("sessions", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("attempts", JsonDocument, nullable=False, server_default=sa.text("'[]'"))
        )
        batch_op.add_column(sa.Column("requeue", JsonDocument, nullable=True))
    with op.batch_alter_table("kernels", schema=None) as batch_op:
        batch_op.add_column(sa.Column("attempt", sa.Integer(), nullable=False, server_default=sa.text("0")))
    with op.batch_alter_table("agents", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("start_failures", sa.Integer(), nullable=False, server_default=sa.text("0"))
        )
        batch_op.add_column(sa.Column("rests_until", UtcDateTime, nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("agents", schema=None) as batch_op:
        batch_op.drop_column("rests_until")
        batch_op.drop_column("start_failures")
    # An older release knows one attempt only.
    op.execute(sa.text("DELETE FROM kernels WHERE attempt <> 0"))
    with op.batch_alter_table("kernels", schema=None) as batch_op:
        batch_op.drop_column("attempt")
    with op.batch_alter_table("sessions", schema=None) as batch_op:
        batch_op.drop_column("requeue")
        batch_op.drop_column("attempts")
