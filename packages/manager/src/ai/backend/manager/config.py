"""The manager's settings: limits and deadlines, each with its unit in the name."""

import msgspec


class ManagerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    pending_timeout_s: int = 7 * 86400
    """How long a session may wait for resources before it is cancelled."""
    start_timeout_s: int = 300
    """From placement to running; the agent's own, shorter limit usually answers first."""
    restart_timeout_s: int = 120
    terminate_timeout_s: int = 120
    """How long an agent may take to confirm an end before the session is shown as ERROR (its slots stay held)."""
    error_timeout_s: int = 86400
    """How long a session may stay in ERROR before it is given up as terminated."""
    agent_lost_after_s: float = 15.0
    """Silence after which an agent is shown as LOST: nothing new is placed there; what runs is left alone."""
    call_timeout_s: float = 30.0
    destroy_wait_s: float = 30.0
    event_retention_s: int = 7 * 86400
    logs_bytes_max: int = 1 << 20
