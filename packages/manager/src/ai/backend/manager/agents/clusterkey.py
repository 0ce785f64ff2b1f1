"""The SSH key with which the containers of one session know each other.

It is derived from the installation's own secret and the session's id: the same for every container, on whatever agent and whenever it
starts, and kept nowhere. Only agents are told it. Pure.
"""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from ai.backend.common.wire.rpc import ClusterKey

from ..secret import Secrets
from ..session.model import Session


def cluster_key(secrets: Secrets, session: Session) -> ClusterKey | None:
    """None for a session of one container."""
    if len(session.kernels) == 1:
        return None
    key = Ed25519PrivateKey.from_private_bytes(secrets.derive(f"cluster-ssh {session.id}"))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode()
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    return ClusterKey(private=private, public=f"{public} backend.ai-cluster")
