"""All tables, once, for SQLite and PostgreSQL alike. Only `store.py` files and migrations use them.

Amounts are JSON objects of slot name to integer (milli-units, bytes). Times are UTC (`UtcDateTime` refuses naive values and returns aware
ones on both engines). Enumerations are text with a CHECK by name, so that adding a value is an ordinary migration. What can be derived
from rows (occupied slots of an agent, of a keypair) is never stored.
"""

import sqlalchemy as sa

from .column import JsonDocument, UtcDateTime

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

domains = sa.Table(
    "domains",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("description", sa.String(512), nullable=False, default=""),
    sa.Column("is_active", sa.Boolean, nullable=False, default=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("total_resource_slots", JsonDocument, nullable=False, default=dict),
    sa.Column("modified_at", UtcDateTime, nullable=True),
    sa.Column("allowed_vfolder_hosts", JsonDocument, nullable=False, default=dict),
    sa.Column("allowed_docker_registries", JsonDocument, nullable=False, default=list),
    sa.Column("integration_id", sa.String(512), nullable=True),
)

user_policies = sa.Table(
    "user_policies",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("max_vfolder_count", sa.Integer, nullable=False, default=0),
    sa.Column("max_quota_scope_bytes", sa.BigInteger, nullable=False, default=0),
    sa.Column("max_session_count_per_model_session", sa.Integer, nullable=False, default=10),
    sa.Column("max_customized_image_count", sa.Integer, nullable=False, default=3),
)

project_policies = sa.Table(
    "project_policies",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("max_vfolder_count", sa.Integer, nullable=False, default=0),
    sa.Column("max_quota_scope_bytes", sa.BigInteger, nullable=False, default=0),
    sa.Column("max_network_count", sa.Integer, nullable=False, default=3),
)

projects = sa.Table(
    "projects",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("domain_name", sa.ForeignKey("domains.name"), nullable=False),
    sa.Column("description", sa.String(512), nullable=False, default=""),
    sa.Column("is_active", sa.Boolean, nullable=False, default=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("total_resource_slots", JsonDocument, nullable=False, default=dict),
    sa.Column("modified_at", UtcDateTime, nullable=True),
    sa.Column("allowed_vfolder_hosts", JsonDocument, nullable=False, default=dict),
    sa.Column("integration_id", sa.String(512), nullable=True),
    sa.Column("policy_name", sa.ForeignKey("project_policies.name"), nullable=False, default="default"),
    sa.UniqueConstraint("domain_name", "name"),
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("email", sa.String(254), nullable=False, unique=True),
    sa.Column("username", sa.String(64), nullable=False, unique=True),
    sa.Column("full_name", sa.String(128), nullable=False, default=""),
    sa.Column("password_hash", sa.String(256), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),  # superadmin, admin, user, monitor
    sa.Column("status", sa.String(24), nullable=False, default="active"),
    sa.Column("domain_name", sa.ForeignKey("domains.name"), nullable=False),
    sa.Column("allowed_client_ip", JsonDocument, nullable=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("description", sa.String(500), nullable=False, default=""),
    sa.Column("status_info", sa.String(128), nullable=False, default=""),
    sa.Column("modified_at", UtcDateTime, nullable=True),
    sa.Column("need_password_change", sa.Boolean, nullable=False, default=False),
    sa.Column("password_changed_at", UtcDateTime, nullable=True),
    sa.Column("policy_name", sa.ForeignKey("user_policies.name"), nullable=False, default="default"),
    sa.Column("main_access_key", sa.String(20), nullable=True),
    sa.Column("totp_key_sealed", sa.LargeBinary, nullable=True),
    sa.Column("totp_activated_at", UtcDateTime, nullable=True),  # NULL: not active
    sa.Column("totp_last_step", sa.BigInteger, nullable=False, default=0),  # no code is taken twice
    sa.Column("sudo_session_enabled", sa.Boolean, nullable=False, default=False),
    sa.Column("container_uid", sa.Integer, nullable=True),
    sa.Column("container_main_gid", sa.Integer, nullable=True),
    sa.Column("container_gids", JsonDocument, nullable=True),
    sa.Column("oidc_subject", sa.String(512), nullable=True, unique=True),  # "issuer subject"
)

project_members = sa.Table(
    "project_members",
    metadata,
    sa.Column("project_id", sa.ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("user_id", sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("is_admin", sa.Boolean, nullable=False, default=False),
)

keypair_policies = sa.Table(
    "keypair_policies",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("total_resource_slots", JsonDocument, nullable=False, default=dict),  # {} = unlimited
    sa.Column("max_concurrent_sessions", sa.Integer, nullable=False),
    sa.Column("max_containers_per_session", sa.Integer, nullable=False),
    sa.Column("max_session_lifetime_s", sa.Integer, nullable=False, default=0),  # 0 = unlimited
    sa.Column("default_for_unspecified", sa.String(16), nullable=False, default="UNLIMITED"),
    sa.Column("max_concurrent_sftp_sessions", sa.Integer, nullable=False, default=1),
    sa.Column("max_pending_session_count", sa.Integer, nullable=True),
    sa.Column("max_pending_session_resource_slots", JsonDocument, nullable=True),
    sa.Column("idle_timeout_s", sa.BigInteger, nullable=False, default=0),  # 0 = never
    sa.Column("allowed_vfolder_hosts", JsonDocument, nullable=False, default=dict),
    sa.Column("max_vfolder_count", sa.Integer, nullable=False, default=0),
    sa.Column("max_quota_scope_bytes", sa.BigInteger, nullable=False, default=0),
)

keypairs = sa.Table(
    "keypairs",
    metadata,
    sa.Column("access_key", sa.String(20), primary_key=True),
    sa.Column(
        "secret_key_sealed", sa.LargeBinary, nullable=False
    ),  # sealed with the installation's key, never plain
    sa.Column("user_id", sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("is_active", sa.Boolean, nullable=False, default=True),
    sa.Column("is_admin", sa.Boolean, nullable=False, default=False),
    sa.Column("policy_name", sa.ForeignKey("keypair_policies.name"), nullable=False),
    sa.Column("rate_limit", sa.Integer, nullable=False),  # requests in 15 minutes
    sa.Column("bootstrap_script", sa.Text, nullable=False, default=""),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("modified_at", UtcDateTime, nullable=True),
    sa.Column("last_used_at", UtcDateTime, nullable=True),
    sa.Column("num_queries", sa.BigInteger, nullable=False, default=0),
    sa.Column("ssh_public_key", sa.Text, nullable=True),
    sa.Column("ssh_private_key_sealed", sa.LargeBinary, nullable=True),
)

resource_groups = sa.Table(
    "resource_groups",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("description", sa.String(512), nullable=False, default=""),
    sa.Column("is_active", sa.Boolean, nullable=False, default=True),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("is_public", sa.Boolean, nullable=False, default=True),
    sa.Column("wsproxy_addr", sa.String(1024), nullable=True),
    sa.Column("wsproxy_api_token", sa.String(128), nullable=True),
    sa.Column("driver", sa.String(64), nullable=False, default="static"),
    sa.Column("driver_opts", JsonDocument, nullable=False, default=dict),
    sa.Column("scheduler", sa.String(64), nullable=False, default="fifo"),
    sa.Column("scheduler_opts", JsonDocument, nullable=False, default=dict),
    sa.Column("use_host_network", sa.Boolean, nullable=False, default=False),
)

agents = sa.Table(
    "agents",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("status", sa.String(16), nullable=False),  # agents.model.AgentStatus
    sa.Column("status_changed_at", UtcDateTime, nullable=False),
    sa.Column("resource_group", sa.ForeignKey("resource_groups.name"), nullable=False),
    sa.Column("schedulable", sa.Boolean, nullable=False, default=True),
    sa.Column(
        "generation", sa.BigInteger, nullable=False, default=0
    ),  # of its desired set; grows by one with each change of it
    sa.Column(
        "started_at_us", sa.BigInteger, nullable=False, default=0
    ),  # newest report seen: (started_at_us, sequence)
    sa.Column("sequence", sa.BigInteger, nullable=False, default=0),
    sa.Column("last_seen_at", UtcDateTime, nullable=False),
    sa.Column("first_contact_at", UtcDateTime, nullable=False),
    sa.Column("capacity", JsonDocument, nullable=False, default=dict),
    sa.Column("architecture", sa.String(16), nullable=False),
    sa.Column("backend", sa.String(16), nullable=False),
    sa.Column("version", sa.String(32), nullable=False),
    sa.Column("address", sa.String(128), nullable=False, default=""),
    sa.Column("healthy", sa.Boolean, nullable=False, default=True),
    sa.Column("problem", sa.Text, nullable=False, default=""),
    sa.Column("region", sa.String(64), nullable=False, default="local"),
    sa.Column("lost_at", UtcDateTime, nullable=True),
    sa.Column("start_failures", sa.Integer, nullable=False, default=0),  # in a row: see agents.rotation
    sa.Column("rests_until", UtcDateTime, nullable=True),
    sa.Column("devices", JsonDocument, nullable=False, default=list),  # as reported
    sa.Column("accelerators", JsonDocument, nullable=False, default=list),  # its plugins, as reported
    sa.Column("device_usage", JsonDocument, nullable=False, default=dict),
)

images = sa.Table(
    "images",
    metadata,
    sa.Column("name", sa.String(256), primary_key=True),  # canonical: [registry/]path:tag
    sa.Column("architecture", sa.String(16), primary_key=True),
    sa.Column("digest", sa.String(128), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("labels", JsonDocument, nullable=False, default=dict),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

image_aliases = sa.Table(
    "image_aliases",
    metadata,
    sa.Column("alias", sa.String(128), primary_key=True),
    sa.Column("image_name", sa.String(256), nullable=False),
    sa.Column("architecture", sa.String(16), nullable=False),
)

agent_images = sa.Table(  # which agent holds which image now
    "agent_images",
    metadata,
    sa.Column("agent_id", sa.ForeignKey("agents.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("image_name", sa.String(256), primary_key=True),
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("session_type", sa.String(16), nullable=False),
    sa.Column("status", sa.String(24), nullable=False),  # session.model.SessionStatus
    sa.Column("status_changed_at", UtcDateTime, nullable=False),
    sa.Column(
        "status_history", JsonDocument, nullable=False, default=dict
    ),  # status name -> ISO time of its (last) start
    sa.Column(
        "deadline_at", UtcDateTime, nullable=True
    ),  # when the status, if not terminal, is given up; NULL: only RUNNING
    sa.Column(
        "reason", sa.String(64), nullable=False, default=""
    ),  # stable machine word: why it is in this status
    sa.Column("reason_detail", JsonDocument, nullable=False, default=dict),  # message, hint, numbers
    sa.Column("version", sa.BigInteger, nullable=False, default=1),  # guards every write
    sa.Column("domain_name", sa.ForeignKey("domains.name"), nullable=False),
    sa.Column("project_id", sa.ForeignKey("projects.id"), nullable=False),
    sa.Column("user_id", sa.ForeignKey("users.id"), nullable=False),
    sa.Column("access_key", sa.String(20), nullable=False),
    sa.Column("resource_group", sa.String(64), nullable=False),
    sa.Column("priority", sa.Integer, nullable=False, default=10),
    sa.Column(
        "job_priority", sa.Integer, nullable=False, default=0
    ),  # whom it may preempt: those of a lower one
    sa.Column("preemptible", sa.Boolean, nullable=False, default=True),
    sa.Column("tag", sa.String(64), nullable=True),
    sa.Column("requested_slots", JsonDocument, nullable=False),  # of all its kernels together
    sa.Column("resource_opts", JsonDocument, nullable=False, default=dict),
    sa.Column("environ", JsonDocument, nullable=False, default=dict),
    sa.Column("startup_command", sa.Text, nullable=True),
    sa.Column("bootstrap_script", sa.Text, nullable=False, default=""),
    sa.Column("result", sa.String(16), nullable=False, default="undefined"),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("terminated_at", UtcDateTime, nullable=True),
    sa.Column("cluster_mode", sa.String(16), nullable=False, default="single-node"),
    sa.Column("starts_at", UtcDateTime, nullable=True),
    sa.Column("batch_timeout_s", sa.BigInteger, nullable=True),
    sa.Column("callback_url", sa.Text, nullable=True),
    sa.Column("mounts", JsonDocument, nullable=False, default=list),
    sa.Column("agent_list", JsonDocument, nullable=False, default=list),  # nodes that a superadmin chose
    sa.Column("num_queries", sa.BigInteger, nullable=False, default=0),
    sa.Column("attempts", JsonDocument, nullable=False, default=list),  # earlier ones: it was requeued after
    sa.Column("requeue", JsonDocument, nullable=True),  # agents to blame; NULL: it is over when it ends
)
sa.Index("ix_sessions_access_key_name", sessions.c.access_key, sessions.c.name)
sa.Index("ix_sessions_status", sessions.c.status)
# Lists show the newest first.
sa.Index("ix_sessions_created_at_id", sessions.c.created_at, sessions.c.id)
sa.Index("ix_sessions_user_id_created_at_id", sessions.c.user_id, sessions.c.created_at, sessions.c.id)
# One live session for each (owner key, name): the database itself refuses a second one, whatever races.
sa.Index(
    "uq_sessions_live_name",
    sessions.c.access_key,
    sessions.c.name,
    unique=True,
    sqlite_where=sa.text("status NOT IN ('TERMINATED', 'CANCELLED')"),
    postgresql_where=sa.text("status NOT IN ('TERMINATED', 'CANCELLED')"),
)

kernels = sa.Table(
    "kernels",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("session_id", sa.ForeignKey("sessions.id"), nullable=False, index=True),
    sa.Column("cluster_role", sa.String(16), nullable=False, default="main"),
    sa.Column("cluster_idx", sa.Integer, nullable=False, default=1),
    sa.Column("status", sa.String(24), nullable=False),  # session.model.KernelStatus
    sa.Column("agent_id", sa.ForeignKey("agents.id"), nullable=True, index=True),
    sa.Column("image_name", sa.String(256), nullable=False),
    sa.Column("image_digest", sa.String(128), nullable=False, default=""),
    sa.Column("architecture", sa.String(16), nullable=False),
    sa.Column("image_labels", JsonDocument, nullable=False, default=dict),
    sa.Column("requested_slots", JsonDocument, nullable=False),
    sa.Column("shm_bytes", sa.BigInteger, nullable=False),
    sa.Column("incarnation", sa.Integer, nullable=False, default=1),
    sa.Column(
        "stop_reason", sa.String(64), nullable=False, default=""
    ),  # set once: from then on its target is "stop"
    sa.Column("stop_forced", sa.Boolean, nullable=False, default=False),
    sa.Column("container_id", sa.String(128), nullable=False, default=""),
    sa.Column("step", sa.String(32), nullable=False, default=""),
    sa.Column("exit_code", sa.Integer, nullable=True),
    sa.Column("stats", JsonDocument, nullable=False, default=dict),
    sa.Column("logs", sa.Text, nullable=True),  # kept from the end of the kernel on
    sa.Column("status_changed_at", UtcDateTime, nullable=False),
    sa.Column("preopen_ports", JsonDocument, nullable=False, default=list),
    sa.Column("service_ports", JsonDocument, nullable=False, default=list),
    sa.Column("revision", sa.BigInteger, nullable=False, default=0),  # grows with each change of the row
    sa.Column("attempt", sa.Integer, nullable=False, default=0),  # of its session; 0: the present one
    sa.Column("devices", JsonDocument, nullable=False, default=dict),  # of its agent: id -> milli
)
sa.Index("ix_kernels_status", kernels.c.status)

events = sa.Table(  # the outbox: written in the transaction of the change it tells, kept for a while, ids only grow
    "events",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("created_at", UtcDateTime, nullable=False, index=True),
    sa.Column("name", sa.String(48), nullable=False),  # session_started, kernel_terminated, ...
    sa.Column("session_id", sa.Uuid, nullable=False),
    sa.Column("payload", JsonDocument, nullable=False),
)

# Who may use a resource group that is not public: any of the three is enough.
resource_group_domains = sa.Table(
    "resource_group_domains",
    metadata,
    sa.Column("resource_group", sa.ForeignKey("resource_groups.name", ondelete="CASCADE"), primary_key=True),
    sa.Column("domain_name", sa.ForeignKey("domains.name", ondelete="CASCADE"), primary_key=True),
)

resource_group_projects = sa.Table(
    "resource_group_projects",
    metadata,
    sa.Column("resource_group", sa.ForeignKey("resource_groups.name", ondelete="CASCADE"), primary_key=True),
    sa.Column("project_id", sa.ForeignKey("projects.id", ondelete="CASCADE"), primary_key=True),
)

resource_group_keypairs = sa.Table(
    "resource_group_keypairs",
    metadata,
    sa.Column("resource_group", sa.ForeignKey("resource_groups.name", ondelete="CASCADE"), primary_key=True),
    sa.Column("access_key", sa.ForeignKey("keypairs.access_key", ondelete="CASCADE"), primary_key=True),
)

resource_presets = sa.Table(
    "resource_presets",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("name", sa.String(256), nullable=False),
    sa.Column("resource_slots", JsonDocument, nullable=False),
    sa.Column("shared_memory_bytes", sa.BigInteger, nullable=True),
    sa.Column("resource_group", sa.String(64), nullable=False, default=""),  # "": in every one
    sa.UniqueConstraint("name", "resource_group"),
)

session_dependencies = sa.Table(
    "session_dependencies",
    metadata,
    sa.Column("session_id", sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("depends_on", sa.ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True),
)

templates = sa.Table(
    "templates",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("template_type", sa.String(16), nullable=False),  # task, cluster
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("body", JsonDocument, nullable=False),
    sa.Column("domain_name", sa.ForeignKey("domains.name"), nullable=False),
    sa.Column("project_id", sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
    sa.Column("user_id", sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

dotfiles = sa.Table(
    "dotfiles",
    metadata,
    sa.Column("scope", sa.String(16), primary_key=True),  # user, project, domain
    sa.Column("owner", sa.String(64), primary_key=True),  # access key, project id, domain name
    sa.Column("path", sa.String(255), primary_key=True),
    sa.Column("permission", sa.String(3), nullable=False),
    sa.Column("data", sa.Text, nullable=False),
)

error_logs = sa.Table(
    "error_logs",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("created_at", UtcDateTime, nullable=False, index=True),
    sa.Column("severity", sa.String(16), nullable=False),
    sa.Column("source", sa.String(255), nullable=False),
    sa.Column("user_id", sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=True),
    sa.Column("is_read", sa.Boolean, nullable=False, default=False),
    sa.Column("is_cleared", sa.Boolean, nullable=False, default=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("context_lang", sa.String(64), nullable=False, default=""),
    sa.Column("context_env", JsonDocument, nullable=False, default=dict),
    sa.Column("request_url", sa.Text, nullable=True),
    sa.Column("request_status", sa.Integer, nullable=True),
    sa.Column("traceback", sa.Text, nullable=True),
)

settings = (
    sa.Table(  # what administrators set at run time: a tree of texts, keys like "config/docker/registry/HOST"
        "settings",
        metadata,
        sa.Column("key", sa.String(512), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
)

tasks = sa.Table(  # background tasks and how far they are
    "tasks",
    metadata,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("name", sa.String(64), nullable=False),
    sa.Column("user_id", sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),  # started, done, failed, cancelled
    sa.Column("current_progress", sa.BigInteger, nullable=False, default=0),
    sa.Column("total_progress", sa.BigInteger, nullable=False, default=0),
    sa.Column("message", sa.Text, nullable=False, default=""),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("finished_at", UtcDateTime, nullable=True),
    sa.Column("seen_at", UtcDateTime, nullable=True),  # when the manager that runs it last said so
)

audit_logs = sa.Table(
    "audit_logs",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("created_at", UtcDateTime, nullable=False, index=True),
    sa.Column("user_id", sa.Uuid, nullable=False),
    sa.Column("access_key", sa.String(20), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("target", sa.String(255), nullable=False),
    sa.Column("request_id", sa.String(64), nullable=False, default=""),
    sa.Column("detail", JsonDocument, nullable=False, default=dict),
)

web_sessions = sa.Table(  # logins by cookie; the identifier itself is never stored
    "web_sessions",
    metadata,
    sa.Column("id_hash", sa.String(64), primary_key=True),
    sa.Column("access_key", sa.ForeignKey("keypairs.access_key", ondelete="CASCADE"), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False, index=True),
)

login_failures = sa.Table(
    "login_failures",
    metadata,
    sa.Column("login", sa.String(320), primary_key=True),  # "domain email"
    sa.Column("failed_at", UtcDateTime, primary_key=True),
)
