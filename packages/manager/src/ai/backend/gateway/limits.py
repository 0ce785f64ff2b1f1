"""How much of anything the gateway takes, with units. Published limits of the protocol are fixed; the rest are generous bounds."""

import msgspec

MIB = 1 << 20
JSON_BYTES_MAX = 8 * MIB
"""Of a request's body, except uploads. Code to execute is the largest thing that comes as JSON."""
UPLOAD_FILES_MAX = 20
UPLOAD_FILE_BYTES_MAX = MIB
UPLOAD_BYTES_MAX = UPLOAD_FILES_MAX * UPLOAD_FILE_BYTES_MAX * 2
"""Of a whole upload: above what is allowed, so that a file that is a little too large is answered and not cut off."""
DOWNLOAD_FILES_MAX = 5
PATH_BYTES_MAX = 1024
FRAME_BYTES_MAX = 16 * MIB
FRAMES_WAITING_MAX = 16
"""Frames that a stream's client may send ahead."""
LIST_ITEMS_MAX = 100
RATE_WINDOW_S = 900
ANONYMOUS_REQUESTS = 1000
HEARTBEAT_S = 15.0
PING_S, PONG_TIMEOUT_S = 20.0, 120.0
"""WebSockets. A client that has paused a download reads no pings either; it is not taken for dead at once."""
STREAM_FLUSH_S = 0.2


class GatewayConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    host_aliases: tuple[str, ...] = ("api.backend.ai",)
    """Hosts that clients of before v4.20181215 may have signed instead of ours (the Java SDK of 2018 has its own built in)."""
    clock_skew_s: int = 900
    """How far a request's date may be off."""
    shutdown_timeout_s: int = 5
    """How long open requests and streams may take to end when the gateway stops."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks of reverse proxies: only from these are X-Forwarded-For and X-Forwarded-Proto believed."""
