"""lists of sessions by age"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_sessions_created_at_id", "sessions", ["created_at", "id"])
    op.create_index("ix_sessions_user_id_created_at_id", "sessions", ["user_id", "created_at", "id"])


def downgrade() -> None:
    op.drop_index("ix_sessions_user_id_created_at_id", "sessions")
    op.drop_index("ix_sessions_created_at_id", "sessions")
