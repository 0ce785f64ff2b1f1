"""Credentials and one's own account: trading a password for a keypair, passwords, names, roles, SSH keys."""

from typing import Any

from litestar import Response, get, patch, post
from litestar.types import ControllerRouterHandler

from ai.backend.common.errors import InvalidInput
from ai.backend.common.wire.rest import auth as wire
from ai.backend.common.wire.rest.root import Authorize, Authorized, Echo, Keypair, KeypairReply
from ai.backend.manager.account.model import Application
from ai.backend.manager.account.policy import HOST_PERMISSIONS
from ai.backend.manager.login.model import Attempt

from .. import web
from ..auth import principal_of
from ..call import AnyRequest, address_of, form_of, gateway_of, reply
from ..openapi import Operation
from ..peer import headers_of

THROTTLED = "Ten failures in twenty minutes for one user are answered with 429 and Retry-After."


def _opt(**fields: Any) -> dict[str, Any]:
    return {"operation": Operation(tag="auth", **fields)}


async def _echo(request: AnyRequest) -> Response[bytes]:
    return reply(Authorized(echo=(await form_of(request, Echo)).echo))


@get(["/auth", "/auth/test"], opt=_opt(summary="Check a signature", form=Echo, reply=Authorized))
async def test_auth(request: AnyRequest) -> Response[bytes]:
    return await _echo(request)


@post(
    ["/auth", "/auth/test"],
    opt=_opt(
        summary="Check the signature of a request with a body",
        form=Echo,
        form_in="body",
        reply=Authorized,
        while_frozen=True,
    ),
)
async def test_auth_body(request: AnyRequest) -> Response[bytes]:
    return await _echo(request)


@post(
    "/auth/authorize",
    opt=_opt(
        summary="Trade a password for a keypair",
        description=THROTTLED,
        form=Authorize,
        form_in="body",
        reply=KeypairReply,
        refusals=(401, 429),
        anonymous=True,
        while_frozen=True,
    ),
)
async def authorize(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, Authorize)
    if form.type != "keypair":
        raise InvalidInput(f"unsupported type {form.type[:40]!r}", hint="Use keypair.", field="type")
    attempt = Attempt(
        domain_name=form.domain,
        login=form.username,
        password=form.password,
        otp=wire.code_of(form.otp),
        address=address_of(request),
    )
    principal, secret_key = await gateway_of(request).manager.logins.authorize(attempt)
    keypair = Keypair(
        access_key=principal.access_key, secret_key=secret_key, role=principal.role.value, status="active"
    )
    return reply(KeypairReply(data=keypair))


@post(
    "/auth/signup",
    opt=_opt(
        summary="Make yourself an account",
        description="Only where the administrators allow it. You join the project `default`, if the domain has one.",
        form=wire.SignUp,
        form_in="body",
        reply=wire.NewKeypair,
        status=201,
        refusals=(403,),
        anonymous=True,
    ),
)
async def sign_up(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, wire.SignUp)
    manager = gateway_of(request).manager
    # Who comes by session mode is of its one domain, whatever the page says.
    domain = manager.logins.domain_name if request.scope["state"]["web"] else form.domain
    application = Application(
        domain_name=domain,
        email=form.email.strip(),
        password=form.password,
        username=form.username,
        full_name=form.full_name,
        description=form.description,
    )
    member = await manager.accounts.sign_up(application)
    keypair = wire.NewKeypair(access_key=member.principal.access_key, secret_key=member.secret_key)
    return reply(keypair, 201)


@post(
    "/auth/signout",
    opt=_opt(
        summary="Deactivate your account",
        description="And all its keypairs and logins. " + THROTTLED,
        form=wire.SignOut,
        form_in="body",
        reply=dict[str, Any],
        refusals=(403,),
    ),
)
async def sign_out(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, wire.SignOut)
    await gateway_of(request).manager.accounts.sign_out(
        principal_of(request), form.email, form.password, address=address_of(request)
    )
    return reply({})


@post(
    "/auth/update-password",
    opt=_opt(
        summary="Change your password",
        description="Ends your other logins by cookie. " + THROTTLED,
        form=wire.UpdatePassword,
        form_in="body",
        reply=dict[str, Any],
        while_frozen=True,
    ),
)
async def update_password(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, wire.UpdatePassword)
    if form.new_password != form.new_password2:
        return reply(wire.PasswordsDiffer(error_msg="new password mismatch"), 400)
    kept_id = web.presented_id(headers_of(request.scope))[0] if request.scope["state"]["web"] else ""
    await gateway_of(request).manager.logins.change_password(
        principal_of(request),
        form.old_password,
        form.new_password,
        address=address_of(request),
        kept_id=kept_id,
    )
    return reply({})


@post(
    "/auth/update-password-no-auth",
    opt=_opt(
        summary="Change a password that has expired",
        description="Without being logged in, which an expired password does not allow. " + THROTTLED,
        form=wire.UpdateExpiredPassword,
        form_in="body",
        reply=wire.PasswordChanged,
        status=201,
        refusals=(401, 429),
        anonymous=True,
        while_frozen=True,
    ),
)
async def update_expired_password(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, wire.UpdateExpiredPassword)
    changed_at = await gateway_of(request).manager.logins.change_expired_password(
        attempt_of(request, form), form.new_password
    )
    return reply(wire.PasswordChanged(password_changed_at=changed_at.isoformat()), 201)


def attempt_of(request: AnyRequest, form: wire.UpdateExpiredPassword) -> Attempt:
    return Attempt(
        domain_name=form.domain or gateway_of(request).manager.logins.domain_name,
        login=form.username,
        password=form.current_password,
        otp=wire.code_of(form.otp),
        address=address_of(request),
    )


@post(
    "/auth/update-full-name",
    opt=_opt(
        summary="Change your name",
        form=wire.UpdateFullName,
        form_in="body",
        reply=dict[str, Any],
        refusals=(403,),
    ),
)
async def update_full_name(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, wire.UpdateFullName)
    await gateway_of(request).manager.accounts.rename(principal_of(request), form.email, form.full_name)
    return reply({})


@get(
    "/auth/role",
    opt=_opt(
        summary="Your roles",
        form=wire.AskRoles,
        reply=wire.RolesReply,
        refusals=(404,),
    ),
)
async def get_roles(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, wire.AskRoles)
    roles = await gateway_of(request).manager.accounts.roles(principal_of(request), form.group or "")
    return reply(
        wire.RolesReply(
            global_role=roles.global_role, domain_role=roles.domain_role, group_role=roles.group_role
        )
    )


@get("/auth/ssh-keypair", opt=_opt(summary="Your public SSH key", reply=wire.SshPublicKey))
async def get_ssh_keypair(request: AnyRequest) -> Response[bytes]:
    public = await gateway_of(request).manager.accounts.ssh_public_key(principal_of(request))
    return reply(wire.SshPublicKey(ssh_public_key=public))


@patch(
    "/auth/ssh-keypair",
    opt=_opt(
        summary="Make a new SSH key",
        description="RSA, 2048 bits. The private key is told only here.",
        reply=wire.SshKeypairReply,
    ),
)
async def renew_ssh_keypair(request: AnyRequest) -> Response[bytes]:
    pair = await gateway_of(request).manager.accounts.renew_ssh_keypair(principal_of(request))
    return reply(wire.SshKeypairReply(ssh_public_key=pair.public, ssh_private_key=pair.private))


@post(
    "/auth/ssh-keypair",
    opt=_opt(
        summary="Bring an SSH key along",
        form=wire.SetSshKeypair,
        form_in="body",
        reply=wire.SshKeypairReply,
    ),
)
async def set_ssh_keypair(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, wire.SetSshKeypair)
    pair = await gateway_of(request).manager.accounts.set_ssh_keypair(
        principal_of(request), form.pubkey, form.privkey
    )
    return reply(wire.SshKeypairReply(ssh_public_key=pair.public, ssh_private_key=pair.private))


@get(
    "/acl",
    opt=_opt(summary="What may be allowed on folder hosts", reply=wire.Permissions),
)
async def get_permissions(request: AnyRequest) -> Response[bytes]:
    return reply(wire.Permissions(vfolder_host_permission_list=list(HOST_PERMISSIONS)))


ROUTES: tuple[ControllerRouterHandler, ...] = (
    test_auth,
    test_auth_body,
    authorize,
    sign_up,
    sign_out,
    update_password,
    update_expired_password,
    update_full_name,
    get_roles,
    get_ssh_keypair,
    renew_ssh_keypair,
    set_ssh_keypair,
    get_permissions,
)
