"""Requests and replies about accounts and logins. Replies are snake_case on the wire, as published."""

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from .form import Form

Otp = Annotated[str | int | None, Meta(description="The present code, of who has two-factor authentication.")]


def code_of(otp: str | int | None) -> str:
    """A one-time code as text; one that came as a number has lost its zeros in front."""
    if otp is None:
        return ""
    return str(otp).zfill(6) if isinstance(otp, int) else otp.strip()


class SignUp(Form, frozen=True, kw_only=True):
    domain: str = "default"
    email: str
    password: str
    username: Annotated[str, Meta(description="Empty: one is made of the address.")] = ""
    full_name: str = ""
    description: str = ""


class NewKeypair(msgspec.Struct, frozen=True, kw_only=True):
    access_key: str
    secret_key: str


class SignOut(Form, frozen=True, kw_only=True):
    ALIASES: ClassVar[dict[str, str]] = {"username": "email"}

    email: Annotated[str, Meta(description="Your own.")]
    password: str


class UpdatePassword(Form, frozen=True, kw_only=True):
    old_password: str
    new_password: str
    new_password2: Annotated[str, Meta(description="Once more, against slips of the fingers.")]


class PasswordsDiffer(msgspec.Struct, frozen=True, kw_only=True):
    error_msg: str


class UpdateExpiredPassword(Form, frozen=True, kw_only=True):
    domain: str | None = None
    username: str
    current_password: str
    new_password: str
    otp: Otp = None


class PasswordChanged(msgspec.Struct, frozen=True, kw_only=True):
    password_changed_at: str


class UpdateFullName(Form, frozen=True, kw_only=True):
    email: Annotated[str, Meta(description="Your own.")]
    full_name: str


class AskRoles(Form, frozen=True, kw_only=True):
    group: Annotated[str | None, Meta(description="Id of a project.")] = None


class RolesReply(msgspec.Struct, frozen=True, kw_only=True):
    global_role: str
    domain_role: str
    group_role: str | None


class SshPublicKey(msgspec.Struct, frozen=True, kw_only=True):
    ssh_public_key: str | None


class SshKeypairReply(msgspec.Struct, frozen=True, kw_only=True):
    ssh_public_key: str
    ssh_private_key: str


class SetSshKeypair(Form, frozen=True, kw_only=True):
    pubkey: str
    privkey: str


class Permissions(msgspec.Struct, frozen=True, kw_only=True):
    vfolder_host_permission_list: list[str]


class Ping(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    details: str = "Success"


class WebLogin(Form, frozen=True, kw_only=True):
    username: Annotated[str, Meta(description="E-mail address or user name.")]
    password: str
    otp: Otp = None
    domain: str | None = None


class TokenLogin(Form, frozen=True, kw_only=True):
    ALIASES: ClassVar[dict[str, str]] = {"token": "sToken"}

    s_token: Annotated[
        str | None,
        Meta(description="A JWT signed (HS256) with the shared secret: `email`, `jti`, `exp`. Or a cookie."),
    ] = msgspec.field(default=None, name="sToken")


class WebUser(msgspec.Struct, frozen=True, kw_only=True):
    access_key: str
    role: str
    status: str


class WebRefusal(msgspec.Struct, frozen=True, kw_only=True):
    type: str
    title: str
    details: str


class WebLoginReply(msgspec.Struct, frozen=True, kw_only=True):
    """Of a login that failed too: its status is 200. `data` is a WebUser or a WebRefusal."""

    authenticated: bool
    data: Any


class WebLoginCheck(msgspec.Struct, frozen=True, kw_only=True):
    authenticated: bool
    data: WebUser | None
    session_id: str


class WebPasswordReply(msgspec.Struct, frozen=True, kw_only=True):
    data: WebRefusal | None
    password_changed_at: str | None


class NewTotp(msgspec.Struct, frozen=True, kw_only=True):
    totp_key: Annotated[str, Meta(description="In base32.")]
    totp_uri: Annotated[str, Meta(description="For a QR code.")]


class VerifyTotp(Form, frozen=True, kw_only=True):
    otp: str | int


class RemoveTotp(Form, frozen=True, kw_only=True):
    email: Annotated[str | None, Meta(description="Somebody else's, as an administrator.")] = None


class Success(msgspec.Struct, frozen=True, kw_only=True):
    success: bool = True


class OpenIdLogin(Form, frozen=True, kw_only=True):
    next: Annotated[str, Meta(description="A path on this site, to go to afterwards.")] = "/"


class OpenIdCallback(Form, frozen=True, kw_only=True):
    state: str = ""
    code: str = ""
    iss: str = ""
    error: str = ""
