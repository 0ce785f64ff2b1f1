"""The calls about dotfiles of keypairs, projects and domains, and about bootstrap scripts."""

from typing import Any

from litestar import Response, delete, get, patch, post
from litestar.types import ControllerRouterHandler

from ai.backend.common.wire.rest import dotfile as wire
from ai.backend.manager.dotfile.model import Dotfile, Scope

from ..call import AnyRequest, begin, reply
from ..openapi import Operation

RULES = (
    "At most 100 files of 64 KiB together; they are written into the home folders of new sessions, a keypair's over its project's "
    "over its domain's."
)
ADMINISTRATORS = f"Administrators of the domain only. {RULES}"
OWN, OF_PROJECT, OF_DOMAIN = "/user-config/dotfiles", "/group-config/dotfiles", "/domain-config/dotfiles"


def _opt(**fields: Any) -> dict[str, Any]:
    return {"operation": Operation(tag="dotfiles", **fields)}


def _changing(form: Any, summary: str, description: str = RULES, **fields: Any) -> dict[str, Any]:
    place = {"form_in": "body"} if "form_in" not in fields else {}
    settings = {"reply": wire.Nothing, "refusals": (403, 404, 503)} | place | fields
    return _opt(summary=summary, description=description, form=form, **settings)


def _reading(form: Any, summary: str) -> dict[str, Any]:
    return _opt(
        summary=summary,
        description="With `path` one file as an object, without it a list of all.",
        form=form,
        reply=list[wire.Dotfile] | wire.Dotfile,
        refusals=(403, 404),
    )


def item_of(file: Dotfile) -> wire.Dotfile:
    return wire.Dotfile(path=file.path, perm=file.permission, permission=file.permission, data=file.data)


def place_of(form: Any) -> dict[str, str]:
    """Where a form says that the files are."""
    return {"project": getattr(form, "group", ""), "domain_name": getattr(form, "domain", "")}


async def _list(request: AnyRequest, form: Any, scope: Scope) -> Response[bytes]:
    manager, principal, filled = await begin(request, form)
    where = place_of(filled)
    if filled.path is not None:
        return reply(item_of(await manager.dotfiles.get(principal, scope, filled.path, **where)))
    return reply([item_of(file) for file in await manager.dotfiles.list(principal, scope, **where)])


async def _create(request: AnyRequest, form: Any, scope: Scope) -> Response[bytes]:
    manager, principal, filled = await begin(request, form)
    await manager.dotfiles.create(
        principal, scope, filled.path, filled.permission, filled.data, **place_of(filled)
    )
    return reply(wire.Nothing())


async def _change(request: AnyRequest, form: Any, scope: Scope) -> Response[bytes]:
    manager, principal, filled = await begin(request, form)
    await manager.dotfiles.change(
        principal, scope, filled.path, filled.permission, filled.data, **place_of(filled)
    )
    return reply(wire.Nothing())


async def _delete(request: AnyRequest, form: Any, scope: Scope) -> Response[bytes]:
    manager, principal, filled = await begin(request, form)
    await manager.dotfiles.delete(principal, scope, filled.path, **place_of(filled))
    return reply(wire.Deleted())


@get(OWN, opt=_reading(wire.GetDotfiles, "List or show dotfiles"))
async def get_dotfiles(request: AnyRequest) -> Response[bytes]:
    return await _list(request, wire.GetDotfiles, Scope.USER)


@post(OWN, status_code=200, opt=_changing(wire.PutDotfile, "Add a dotfile", refusals=(403, 503)))
async def create_dotfile(request: AnyRequest) -> Response[bytes]:
    return await _create(request, wire.PutDotfile, Scope.USER)


@patch(OWN, opt=_changing(wire.PutDotfile, "Change a dotfile"))
async def change_dotfile(request: AnyRequest) -> Response[bytes]:
    return await _change(request, wire.PutDotfile, Scope.USER)


@delete(
    OWN,
    status_code=200,
    opt=_changing(wire.DeleteDotfile, "Delete a dotfile", "", form_in="query", reply=wire.Deleted),
)
async def delete_dotfile(request: AnyRequest) -> Response[bytes]:
    return await _delete(request, wire.DeleteDotfile, Scope.USER)


@get(OF_PROJECT, opt=_reading(wire.GetProjectDotfiles, "List or show a project's dotfiles"))
async def get_project_dotfiles(request: AnyRequest) -> Response[bytes]:
    return await _list(request, wire.GetProjectDotfiles, Scope.PROJECT)


@post(
    OF_PROJECT,
    status_code=200,
    opt=_changing(wire.PutProjectDotfile, "Add a dotfile to a project", ADMINISTRATORS),
)
async def create_project_dotfile(request: AnyRequest) -> Response[bytes]:
    return await _create(request, wire.PutProjectDotfile, Scope.PROJECT)


@patch(OF_PROJECT, opt=_changing(wire.PutProjectDotfile, "Change a project's dotfile", ADMINISTRATORS))
async def change_project_dotfile(request: AnyRequest) -> Response[bytes]:
    return await _change(request, wire.PutProjectDotfile, Scope.PROJECT)


@delete(
    OF_PROJECT,
    status_code=200,
    opt=_changing(
        wire.DeleteProjectDotfile,
        "Delete a project's dotfile",
        "Administrators of the domain only.",
        form_in="query",
        reply=wire.Deleted,
    ),
)
async def delete_project_dotfile(request: AnyRequest) -> Response[bytes]:
    return await _delete(request, wire.DeleteProjectDotfile, Scope.PROJECT)


@get(OF_DOMAIN, opt=_reading(wire.GetDomainDotfiles, "List or show a domain's dotfiles"))
async def get_domain_dotfiles(request: AnyRequest) -> Response[bytes]:
    return await _list(request, wire.GetDomainDotfiles, Scope.DOMAIN)


@post(
    OF_DOMAIN,
    status_code=200,
    opt=_changing(wire.PutDomainDotfile, "Add a dotfile to a domain", ADMINISTRATORS),
)
async def create_domain_dotfile(request: AnyRequest) -> Response[bytes]:
    return await _create(request, wire.PutDomainDotfile, Scope.DOMAIN)


@patch(OF_DOMAIN, opt=_changing(wire.PutDomainDotfile, "Change a domain's dotfile", ADMINISTRATORS))
async def change_domain_dotfile(request: AnyRequest) -> Response[bytes]:
    return await _change(request, wire.PutDomainDotfile, Scope.DOMAIN)


@delete(
    OF_DOMAIN,
    status_code=200,
    opt=_changing(
        wire.DeleteDomainDotfile,
        "Delete a domain's dotfile",
        "Administrators of the domain only.",
        form_in="query",
        reply=wire.Deleted,
    ),
)
async def delete_domain_dotfile(request: AnyRequest) -> Response[bytes]:
    return await _delete(request, wire.DeleteDomainDotfile, Scope.DOMAIN)


@get(
    "/user-config/bootstrap-script",
    opt=_opt(
        summary="The keypair's bootstrap script",
        description="A JSON text, empty when there is none.",
        form=wire.GetBootstrapScript,
        reply=str,
        refusals=(403,),
    ),
)
async def get_bootstrap_script(request: AnyRequest) -> Response[bytes]:
    manager, principal, _ = await begin(request, wire.GetBootstrapScript)
    return reply(await manager.dotfiles.script(principal))


@post(
    "/user-config/bootstrap-script",
    status_code=200,
    opt=_changing(
        wire.SetBootstrapScript,
        "Set the keypair's bootstrap script",
        "It runs at the start of each new session that brings no script of its own.",
        refusals=(403, 503),
    ),
)
async def set_bootstrap_script(request: AnyRequest) -> Response[bytes]:
    manager, principal, form = await begin(request, wire.SetBootstrapScript)
    await manager.dotfiles.set_script(principal, form.script)
    return reply(wire.Nothing())


ROUTES: tuple[ControllerRouterHandler, ...] = (
    get_dotfiles,
    create_dotfile,
    change_dotfile,
    delete_dotfile,
    get_project_dotfiles,
    create_project_dotfile,
    change_project_dotfile,
    delete_project_dotfile,
    get_domain_dotfiles,
    create_domain_dotfile,
    change_domain_dotfile,
    delete_domain_dotfile,
    get_bootstrap_script,
    set_bootstrap_script,
)
