"""SSH keys of users: made here, or brought along. Nothing is kept.

The library's parts for this are loaded when they are used, which is rarely: a start must not pay for them.
"""

from ai.backend.common.errors import InvalidInput

from .model import SshKeypair

BITS = 2048
CHARACTERS_MAX = 16 * 1024


def generate() -> SshKeypair:
    """RSA, because every SSH there is takes it. Takes a good part of a second: call it in a thread."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=BITS)
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.TraditionalOpenSSL, form.NoEncryption())
    public = key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH)
    return SshKeypair(public=public.decode() + "\n", private=private.decode())


def check(public: str, private: str) -> SshKeypair:
    """A pair from outside, if it is one. Raises InvalidInput."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization as form

    if max(len(public), len(private)) > CHARACTERS_MAX:
        raise InvalidInput("that is too long for an SSH key", limit=CHARACTERS_MAX, field="privkey")
    text = private.strip() + "\n"
    try:
        is_openssh = "BEGIN OPENSSH PRIVATE KEY" in text
        load = form.load_ssh_private_key if is_openssh else form.load_pem_private_key
        key = load(text.encode(), password=None)
        derived = key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH).decode()
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise InvalidInput(
            "that is no SSH private key without a passphrase",
            hint="Use PEM or OpenSSH form.",
            field="privkey",
        ) from exc
    if public.split()[:2] != derived.split()[:2]:
        raise InvalidInput("the public key does not belong to the private one", field="pubkey")
    return SshKeypair(public=public.strip() + "\n", private=text)
