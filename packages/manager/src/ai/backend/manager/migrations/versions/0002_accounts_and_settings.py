"""accounts, policies, presets, templates, dotfiles, settings, tasks, logs"""

import sqlalchemy as sa
from alembic import op

from ai.backend.manager.db.column import JsonDocument, UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit_logs",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False
        ),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("access_key", sa.String(length=20), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("target", sa.String(length=255), nullable=False),
        sa.Column("request_id", sa.String(length=64), nullable=False),
        sa.Column("detail", JsonDocument, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_logs")),
    )
    with op.batch_alter_table("audit_logs", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_audit_logs_created_at"), ["created_at"], unique=False)

    op.create_table(
        "dotfiles",
        sa.Column("scope", sa.String(length=16), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(length=255), nullable=False),
        sa.Column("permission", sa.String(length=3), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "owner", "path", name=op.f("pk_dotfiles")),
    )
    op.create_table(
        "login_failures",
        sa.Column("login", sa.String(length=320), nullable=False),
        sa.Column("failed_at", UtcDateTime, nullable=False),
        sa.PrimaryKeyConstraint("login", "failed_at", name=op.f("pk_login_failures")),
    )
    op.create_table(
        "project_policies",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("max_vfolder_count", sa.Integer(), nullable=False),
        sa.Column("max_quota_scope_bytes", sa.BigInteger(), nullable=False),
        sa.Column("max_network_count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_project_policies")),
    )
    op.create_table(
        "resource_presets",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=256), nullable=False),
        sa.Column("resource_slots", JsonDocument, nullable=False),
        sa.Column("shared_memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("resource_group", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_resource_presets")),
        sa.UniqueConstraint("name", "resource_group", name=op.f("uq_resource_presets_name_resource_group")),
    )
    op.create_table(
        "settings",
        sa.Column("key", sa.String(length=512), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_settings")),
    )
    op.create_table(
        "user_policies",
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("max_vfolder_count", sa.Integer(), nullable=False),
        sa.Column("max_quota_scope_bytes", sa.BigInteger(), nullable=False),
        sa.Column("max_session_count_per_model_session", sa.Integer(), nullable=False),
        sa.Column("max_customized_image_count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_user_policies")),
    )
    op.create_table(
        "resource_group_domains",
        sa.Column("resource_group", sa.String(length=64), nullable=False),
        sa.Column("domain_name", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["domain_name"],
            ["domains.name"],
            name=op.f("fk_resource_group_domains_domain_name"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["resource_group"],
            ["resource_groups.name"],
            name=op.f("fk_resource_group_domains_resource_group"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("resource_group", "domain_name", name=op.f("pk_resource_group_domains")),
    )
    op.create_table(
        "error_logs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("severity", sa.String(length=16), nullable=False),
        sa.Column("source", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=True),
        sa.Column("is_read", sa.Boolean(), nullable=False),
        sa.Column("is_cleared", sa.Boolean(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("context_lang", sa.String(length=64), nullable=False),
        sa.Column("context_env", JsonDocument, nullable=False),
        sa.Column("request_url", sa.Text(), nullable=True),
        sa.Column("request_status", sa.Integer(), nullable=True),
        sa.Column("traceback", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_error_logs_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_error_logs")),
    )
    with op.batch_alter_table("error_logs", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_error_logs_created_at"), ["created_at"], unique=False)

    op.create_table(
        "resource_group_projects",
        sa.Column("resource_group", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"],
            ["projects.id"],
            name=op.f("fk_resource_group_projects_project_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["resource_group"],
            ["resource_groups.name"],
            name=op.f("fk_resource_group_projects_resource_group"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("resource_group", "project_id", name=op.f("pk_resource_group_projects")),
    )
    op.create_table(
        "tasks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("current_progress", sa.BigInteger(), nullable=False),
        sa.Column("total_progress", sa.BigInteger(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("finished_at", UtcDateTime, nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_tasks_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
    )
    op.create_table(
        "templates",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("template_type", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("body", JsonDocument, nullable=False),
        sa.Column("domain_name", sa.String(length=64), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.ForeignKeyConstraint(["domain_name"], ["domains.name"], name=op.f("fk_templates_domain_name")),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_templates_project_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_templates_user_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_templates")),
    )
    op.create_table(
        "resource_group_keypairs",
        sa.Column("resource_group", sa.String(length=64), nullable=False),
        sa.Column("access_key", sa.String(length=20), nullable=False),
        sa.ForeignKeyConstraint(
            ["access_key"],
            ["keypairs.access_key"],
            name=op.f("fk_resource_group_keypairs_access_key"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["resource_group"],
            ["resource_groups.name"],
            name=op.f("fk_resource_group_keypairs_resource_group"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("resource_group", "access_key", name=op.f("pk_resource_group_keypairs")),
    )
    op.create_table(
        "session_dependencies",
        sa.Column("session_id", sa.Uuid(), nullable=False),
        sa.Column("depends_on", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["depends_on"],
            ["sessions.id"],
            name=op.f("fk_session_dependencies_depends_on"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["session_id"],
            ["sessions.id"],
            name=op.f("fk_session_dependencies_session_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("session_id", "depends_on", name=op.f("pk_session_dependencies")),
    )
    op.create_table(
        "web_sessions",
        sa.Column("id_hash", sa.String(length=64), nullable=False),
        sa.Column("access_key", sa.String(length=20), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
        sa.Column("expires_at", UtcDateTime, nullable=False),
        sa.ForeignKeyConstraint(
            ["access_key"],
            ["keypairs.access_key"],
            name=op.f("fk_web_sessions_access_key"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id_hash", name=op.f("pk_web_sessions")),
    )
    with op.batch_alter_table("web_sessions", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_web_sessions_expires_at"), ["expires_at"], unique=False)

    # The rows there are get the policies "default", whose limits are none.
    for table in ("user_policies", "project_policies"):
        extra = (
            "max_session_count_per_model_session, max_customized_image_count"
            if table == "user_policies"
            else "max_network_count"
        )
        numbers = "10, 3" if table == "user_policies" else "3"
        op.execute(
            f"INSERT INTO {table} (name, created_at, max_vfolder_count, max_quota_scope_bytes, {extra})"  # noqa: S608
            f" VALUES ('default', CURRENT_TIMESTAMP, 0, 0, {numbers})"
        )

    # Until now every domain could use every resource group.
    op.execute(
        "INSERT INTO resource_group_domains (resource_group, domain_name)"
        " SELECT resource_groups.name, domains.name FROM resource_groups CROSS JOIN domains"
    )
    with op.batch_alter_table("agents", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("region", sa.String(length=64), nullable=False, server_default=sa.text("'local'"))
        )
        batch_op.add_column(sa.Column("lost_at", UtcDateTime, nullable=True))

    with op.batch_alter_table("domains", schema=None) as batch_op:
        batch_op.add_column(sa.Column("modified_at", UtcDateTime, nullable=True))
        batch_op.add_column(
            sa.Column("allowed_vfolder_hosts", JsonDocument, nullable=False, server_default=sa.text("'{}'"))
        )
        batch_op.add_column(
            sa.Column(
                "allowed_docker_registries", JsonDocument, nullable=False, server_default=sa.text("'[]'")
            )
        )
        batch_op.add_column(sa.Column("integration_id", sa.String(length=512), nullable=True))

    with op.batch_alter_table("kernels", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("preopen_ports", JsonDocument, nullable=False, server_default=sa.text("'[]'"))
        )
        batch_op.add_column(
            sa.Column("service_ports", JsonDocument, nullable=False, server_default=sa.text("'[]'"))
        )

    with op.batch_alter_table("keypair_policies", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column(
                "default_for_unspecified",
                sa.String(length=16),
                nullable=False,
                server_default=sa.text("'UNLIMITED'"),
            )
        )
        batch_op.add_column(
            sa.Column(
                "max_concurrent_sftp_sessions", sa.Integer(), nullable=False, server_default=sa.text("1")
            )
        )
        batch_op.add_column(sa.Column("max_pending_session_count", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("max_pending_session_resource_slots", JsonDocument, nullable=True))
        batch_op.add_column(
            sa.Column("idle_timeout_s", sa.BigInteger(), nullable=False, server_default=sa.text("0"))
        )
        batch_op.add_column(
            sa.Column("allowed_vfolder_hosts", JsonDocument, nullable=False, server_default=sa.text("'{}'"))
        )
        batch_op.add_column(
            sa.Column("max_vfolder_count", sa.Integer(), nullable=False, server_default=sa.text("0"))
        )
        batch_op.add_column(
            sa.Column("max_quota_scope_bytes", sa.BigInteger(), nullable=False, server_default=sa.text("0"))
        )

    with op.batch_alter_table("keypairs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("modified_at", UtcDateTime, nullable=True))
        batch_op.add_column(sa.Column("last_used_at", UtcDateTime, nullable=True))
        batch_op.add_column(
            sa.Column("num_queries", sa.BigInteger(), nullable=False, server_default=sa.text("0"))
        )
        batch_op.add_column(sa.Column("ssh_public_key", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("ssh_private_key_sealed", sa.LargeBinary(), nullable=True))

    with op.batch_alter_table("project_members", schema=None) as batch_op:
        batch_op.add_column(sa.Column("is_admin", sa.Boolean(), nullable=False, server_default=sa.false()))

    with op.batch_alter_table("projects", schema=None) as batch_op:
        batch_op.add_column(sa.Column("modified_at", UtcDateTime, nullable=True))
        batch_op.add_column(
            sa.Column("allowed_vfolder_hosts", JsonDocument, nullable=False, server_default=sa.text("'{}'"))
        )
        batch_op.add_column(sa.Column("integration_id", sa.String(length=512), nullable=True))
        batch_op.add_column(
            sa.Column(
                "policy_name", sa.String(length=64), nullable=False, server_default=sa.text("'default'")
            )
        )
        batch_op.create_foreign_key(
            batch_op.f("fk_projects_policy_name"), "project_policies", ["policy_name"], ["name"]
        )

    with op.batch_alter_table("resource_groups", schema=None) as batch_op:
        batch_op.add_column(sa.Column("is_public", sa.Boolean(), nullable=False, server_default=sa.true()))
        batch_op.add_column(sa.Column("wsproxy_addr", sa.String(length=1024), nullable=True))
        batch_op.add_column(sa.Column("wsproxy_api_token", sa.String(length=128), nullable=True))
        batch_op.add_column(
            sa.Column("driver", sa.String(length=64), nullable=False, server_default=sa.text("'static'"))
        )
        batch_op.add_column(
            sa.Column("driver_opts", JsonDocument, nullable=False, server_default=sa.text("'{}'"))
        )
        batch_op.add_column(
            sa.Column("scheduler", sa.String(length=64), nullable=False, server_default=sa.text("'fifo'"))
        )
        batch_op.add_column(
            sa.Column("scheduler_opts", JsonDocument, nullable=False, server_default=sa.text("'{}'"))
        )
        batch_op.add_column(
            sa.Column("use_host_network", sa.Boolean(), nullable=False, server_default=sa.false())
        )

    with op.batch_alter_table("sessions", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column(
                "cluster_mode", sa.String(length=16), nullable=False, server_default=sa.text("'single-node'")
            )
        )
        batch_op.add_column(sa.Column("starts_at", UtcDateTime, nullable=True))
        batch_op.add_column(sa.Column("batch_timeout_s", sa.BigInteger(), nullable=True))
        batch_op.add_column(sa.Column("callback_url", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("mounts", JsonDocument, nullable=False, server_default=sa.text("'[]'")))
        batch_op.add_column(
            sa.Column("agent_list", JsonDocument, nullable=False, server_default=sa.text("'[]'"))
        )
        batch_op.add_column(
            sa.Column("num_queries", sa.BigInteger(), nullable=False, server_default=sa.text("0"))
        )

    with op.batch_alter_table("users", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("description", sa.String(length=500), nullable=False, server_default=sa.text("''"))
        )
        batch_op.add_column(
            sa.Column("status_info", sa.String(length=128), nullable=False, server_default=sa.text("''"))
        )
        batch_op.add_column(sa.Column("modified_at", UtcDateTime, nullable=True))
        batch_op.add_column(
            sa.Column("need_password_change", sa.Boolean(), nullable=False, server_default=sa.false())
        )
        batch_op.add_column(sa.Column("password_changed_at", UtcDateTime, nullable=True))
        batch_op.add_column(
            sa.Column(
                "policy_name", sa.String(length=64), nullable=False, server_default=sa.text("'default'")
            )
        )
        batch_op.add_column(sa.Column("main_access_key", sa.String(length=20), nullable=True))
        batch_op.add_column(sa.Column("totp_key_sealed", sa.LargeBinary(), nullable=True))
        batch_op.add_column(sa.Column("totp_activated_at", UtcDateTime, nullable=True))
        batch_op.add_column(
            sa.Column("totp_last_step", sa.BigInteger(), nullable=False, server_default=sa.text("0"))
        )
        batch_op.add_column(
            sa.Column("sudo_session_enabled", sa.Boolean(), nullable=False, server_default=sa.false())
        )
        batch_op.add_column(sa.Column("container_uid", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("container_main_gid", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("container_gids", JsonDocument, nullable=True))
        batch_op.add_column(sa.Column("oidc_subject", sa.String(length=512), nullable=True))
        batch_op.create_unique_constraint(batch_op.f("uq_users_oidc_subject"), ["oidc_subject"])
        batch_op.create_foreign_key(
            batch_op.f("fk_users_policy_name"), "user_policies", ["policy_name"], ["name"]
        )


def downgrade() -> None:
    with op.batch_alter_table("users", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("fk_users_policy_name"), type_="foreignkey")
        batch_op.drop_constraint(batch_op.f("uq_users_oidc_subject"), type_="unique")
        batch_op.drop_column("oidc_subject")
        batch_op.drop_column("container_gids")
        batch_op.drop_column("container_main_gid")
        batch_op.drop_column("container_uid")
        batch_op.drop_column("sudo_session_enabled")
        batch_op.drop_column("totp_last_step")
        batch_op.drop_column("totp_activated_at")
        batch_op.drop_column("totp_key_sealed")
        batch_op.drop_column("main_access_key")
        batch_op.drop_column("policy_name")
        batch_op.drop_column("password_changed_at")
        batch_op.drop_column("need_password_change")
        batch_op.drop_column("modified_at")
        batch_op.drop_column("status_info")
        batch_op.drop_column("description")

    with op.batch_alter_table("sessions", schema=None) as batch_op:
        batch_op.drop_column("num_queries")
        batch_op.drop_column("agent_list")
        batch_op.drop_column("mounts")
        batch_op.drop_column("callback_url")
        batch_op.drop_column("batch_timeout_s")
        batch_op.drop_column("starts_at")
        batch_op.drop_column("cluster_mode")

    with op.batch_alter_table("resource_groups", schema=None) as batch_op:
        batch_op.drop_column("use_host_network")
        batch_op.drop_column("scheduler_opts")
        batch_op.drop_column("scheduler")
        batch_op.drop_column("driver_opts")
        batch_op.drop_column("driver")
        batch_op.drop_column("wsproxy_api_token")
        batch_op.drop_column("wsproxy_addr")
        batch_op.drop_column("is_public")

    with op.batch_alter_table("projects", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("fk_projects_policy_name"), type_="foreignkey")
        batch_op.drop_column("policy_name")
        batch_op.drop_column("integration_id")
        batch_op.drop_column("allowed_vfolder_hosts")
        batch_op.drop_column("modified_at")

    with op.batch_alter_table("project_members", schema=None) as batch_op:
        batch_op.drop_column("is_admin")

    with op.batch_alter_table("keypairs", schema=None) as batch_op:
        batch_op.drop_column("ssh_private_key_sealed")
        batch_op.drop_column("ssh_public_key")
        batch_op.drop_column("num_queries")
        batch_op.drop_column("last_used_at")
        batch_op.drop_column("modified_at")

    with op.batch_alter_table("keypair_policies", schema=None) as batch_op:
        batch_op.drop_column("max_quota_scope_bytes")
        batch_op.drop_column("max_vfolder_count")
        batch_op.drop_column("allowed_vfolder_hosts")
        batch_op.drop_column("idle_timeout_s")
        batch_op.drop_column("max_pending_session_resource_slots")
        batch_op.drop_column("max_pending_session_count")
        batch_op.drop_column("max_concurrent_sftp_sessions")
        batch_op.drop_column("default_for_unspecified")

    with op.batch_alter_table("kernels", schema=None) as batch_op:
        batch_op.drop_column("service_ports")
        batch_op.drop_column("preopen_ports")

    with op.batch_alter_table("domains", schema=None) as batch_op:
        batch_op.drop_column("integration_id")
        batch_op.drop_column("allowed_docker_registries")
        batch_op.drop_column("allowed_vfolder_hosts")
        batch_op.drop_column("modified_at")

    with op.batch_alter_table("agents", schema=None) as batch_op:
        batch_op.drop_column("lost_at")
        batch_op.drop_column("region")

    with op.batch_alter_table("web_sessions", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_web_sessions_expires_at"))

    op.drop_table("web_sessions")
    op.drop_table("session_dependencies")
    op.drop_table("resource_group_keypairs")
    op.drop_table("templates")
    op.drop_table("tasks")
    op.drop_table("resource_group_projects")
    with op.batch_alter_table("error_logs", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_error_logs_created_at"))

    op.drop_table("error_logs")
    op.drop_table("resource_group_domains")
    op.drop_table("user_policies")
    op.drop_table("settings")
    op.drop_table("resource_presets")
    op.drop_table("project_policies")
    op.drop_table("login_failures")
    op.drop_table("dotfiles")
    with op.batch_alter_table("audit_logs", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_audit_logs_created_at"))

    op.drop_table("audit_logs")
