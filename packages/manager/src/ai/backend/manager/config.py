"""The manager's settings: limits and deadlines, each with its unit in the name."""

import msgspec


class LoginConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """Logins by password and by cookie."""

    domain: str = "default"
    """Whose users log in at `/server/login`, and whom strangers join who sign up there."""
    signup: bool = False
    """Whether strangers may make themselves an account. Off, also in the embedded cluster: an account is the right to run code here."""
    failures_max: int = 10
    failures_window_s: int = 1200
    """So many failed logins of one name in so long, and the next attempts are refused unseen."""
    web_session_s: int = 7 * 86400
    """How long a login by cookie lasts."""
    max_password_age_s: int = 0
    """After which a password must be changed before it lets anybody in; 0: never."""
    token_secret: str = ""
    """Shared with a site that sends its users here already authenticated (`/server/token-login`), at least 32 characters; empty: off."""

    def __repr__(self) -> str:
        return "LoginConfig(...)"


class OpenIdConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """Logins through an OpenID provider."""

    issuer: str = ""
    """As the provider names itself: https, without `/.well-known/...`. Empty: off."""
    client_id: str = ""
    client_secret: str = ""
    scopes: tuple[str, ...] = ("openid", "email", "profile")
    algorithms: tuple[str, ...] = ("RS256", "PS256", "ES256")
    """With which an ID token may be signed."""
    email_claim: str = "email"
    trust_unverified_email: bool = False
    """Whether an address counts that the provider does not call verified. Only for providers that let nobody choose their address."""
    create_users: bool = False
    """Whether somebody unknown gets an account."""
    domain: str = "default"
    project: str = "default"
    """What new users join; empty: no project."""
    public_url: str = ""
    """Where browsers reach this server, when that is not what they send as Host: the provider sends them back there."""

    def __repr__(self) -> str:
        return f"OpenIdConfig(issuer={self.issuer!r}, client_id={self.client_id!r})"


class CoordinatorConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"
):
    """How app proxies of resource groups reach services in sessions: through relays, TCP ports that the manager opens on demand."""

    relay_host: str = "127.0.0.1"
    """The address at which relays listen. This machine's loopback serves a coordinator beside the manager only."""
    relay_told_host: str = ""
    """By what coordinators know this machine, when that is not `relay-host`."""
    relay_ports: tuple[int, int] = (0, 0)
    """First and last port of relays; 0 and 0: any free one."""
    peers: tuple[str, ...] = ()
    """Addresses and networks that may use relays besides a coordinator's own: the proxy's workers, where they are elsewhere."""
    timeout_s: float = 10.0
    """For each request to a coordinator."""


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
    plugins_disabled: tuple[str, ...] = ()
    """Names of plugins that are not loaded."""
    customized_images_max: int = 20
    """How many images a user may make of sessions."""
    callback_loopback: bool | None = None
    """Whether sessions' callbacks may go to this machine itself. Unset: only in the embedded cluster, where that is the user's own."""
    callback_link_local: bool = False
    """Whether they may go to link-local addresses, where clouds keep their metadata and credentials."""
    login: LoginConfig = msgspec.field(default_factory=LoginConfig)
    openid: OpenIdConfig = msgspec.field(default_factory=OpenIdConfig)
    coordinator: CoordinatorConfig = msgspec.field(default_factory=CoordinatorConfig)
