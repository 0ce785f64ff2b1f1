"""The template calls, for session and cluster templates alike, and the creation of a session from one."""

from typing import Any

import msgspec
import yaml
from litestar import Response, delete, get, post, put
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler

from ai.backend.common.wire.rest import session as session_wire
from ai.backend.common.wire.rest import template as wire
from ai.backend.manager.template.model import Overlay, Template, TemplateType

from ..call import AnyRequest, begin, reply
from ..openapi import Operation
from .session import created_reply

PATHS = {TemplateType.TASK: "/template/session", TemplateType.CLUSTER: "/template/cluster"}
_COLLECTIONS = list(PATHS.values())
_MEMBERS = [f"{path}/{{template_id:str}}" for path in _COLLECTIONS]
TEMPLATE = (403, 404)


def _opt(**fields: Any) -> dict[str, Any]:
    return {"operation": Operation(tag="template", **fields)}


def _kind(request: AnyRequest) -> TemplateType:
    cluster = request.scope["path"].startswith(PATHS[TemplateType.CLUSTER])
    return TemplateType.CLUSTER if cluster else TemplateType.TASK


def _text(payload: Any) -> str:
    """A payload is text; values that came instead of one are written as text."""
    return payload if isinstance(payload, str) else msgspec.json.encode(payload).decode()


def item_of(template: Template, *, mine: bool) -> wire.TemplateItem:
    return wire.TemplateItem(
        name=template.name,
        id=template.id.hex,
        created_at=template.created_at.isoformat(),
        is_owner=mine,
        user=str(template.user_id),
        group=str(template.project_id),
        user_email=template.user_email,
        group_name=template.project_name,
        domain_name=template.domain_name,
        type=template.template_type.value,
        template=template.body,
    )


def overlay_of(form: wire.CreateFromTemplate) -> Overlay:
    """What the request says on top of the template. Null and empty say nothing."""
    config = form.config
    rest: dict[str, Any] = {
        "reuse": form.reuse_if_exists,
        "enqueue_only": form.enqueue_only,
        "max_wait_s": form.max_wait_seconds,
        "owner_access_key": form.owner_access_key or None,
        "resource_opts": config.resource_opts or {},
        "preopen_ports": tuple(config.preopen_ports),
        "batch_timeout": form.batch_timeout,
        "starts_at": form.starts_at or None,
        "dependencies": tuple(form.dependencies),
        "callback_url": form.callback_url or None,
    }
    mounts = {str(one).partition(":")[0]: str(one).partition(":")[2] for one in config.mounts}
    mounts |= {name: str(path) for name, path in config.mount_map.items()}
    return Overlay(
        name=form.name,
        session_type=form.type or None,
        image=form.image or None,
        domain_name=form.domain or None,
        project=form.group or None,
        tag=form.tag or None,
        startup_command=form.startup_command or None,
        bootstrap_script=form.bootstrap_script or None,
        cluster_size=config.cluster_size or form.cluster_size or None,
        cluster_mode=form.cluster_mode or None,
        resource_group=config.resource_group or None,
        resources=config.resources or None,
        environ=config.environ or None,
        mounts=mounts or None,
        agent_list=tuple(config.agent_list) or None,
        rest=rest,
    )


@post(
    _COLLECTIONS,
    status_code=200,
    opt=_opt(
        summary="Keep templates",
        description="All in the payload, or none.",
        form=wire.CreateTemplate,
        form_in="body",
        reply=list[wire.TemplateCreated],
        refusals=(*TEMPLATE, 412, 503),
    ),
)
async def create_templates(request: AnyRequest) -> Response[bytes]:
    manager, principal, form = await begin(request, wire.CreateTemplate)
    made = await manager.templates.create(
        principal, _kind(request), _text(form.payload), domain_name=form.domain, project=form.group
    )
    return reply([wire.TemplateCreated(id=one.id.hex, user=str(one.user_id)) for one in made])


@get(
    _COLLECTIONS,
    opt=_opt(
        summary="List templates",
        description="Your own; with `all` also those of others, as far as an administrator may see them.",
        form=wire.ListTemplates,
        reply=list[wire.TemplateItem],
        refusals=(403,),
    ),
)
async def list_templates(request: AnyRequest) -> Response[bytes]:
    manager, principal, form = await begin(request, wire.ListTemplates)
    found = await manager.templates.list(principal, _kind(request), everyones=form.all)
    return reply([item_of(one, mine=one.user_id == principal.user_id) for one in found])


@get(
    _MEMBERS,
    opt=_opt(summary="Show a template", form=wire.GetTemplate, reply=wire.TemplateBody, refusals=TEMPLATE),
)
async def get_template(request: AnyRequest, template_id: FromPath[str]) -> Response[bytes]:
    manager, principal, form = await begin(request, wire.GetTemplate)
    found = await manager.templates.get(principal, _kind(request), template_id)
    body = wire.TemplateBody(
        template=found.body,
        name=found.name,
        user_uuid=str(found.user_id),
        group_id=str(found.project_id),
        domain_name=found.domain_name,
    )
    if form.format == "json":
        return reply(body)
    text = yaml.safe_dump(msgspec.to_builtins(body), sort_keys=False, allow_unicode=True)
    return Response(text.encode(), media_type="text/yaml")


@put(
    _MEMBERS,
    opt=_opt(
        summary="Replace a template",
        form=wire.PutTemplate,
        form_in="body",
        reply=wire.TemplateDone,
        refusals=(*TEMPLATE, 503),
    ),
)
async def put_template(request: AnyRequest, template_id: FromPath[str]) -> Response[bytes]:
    manager, principal, form = await begin(request, wire.PutTemplate)
    await manager.templates.put(principal, _kind(request), template_id, _text(form.payload))
    return reply(wire.TemplateDone())


@delete(
    _MEMBERS,
    status_code=200,
    opt=_opt(
        summary="Delete a template",
        form=wire.DeleteTemplate,
        reply=wire.TemplateDone,
        refusals=(*TEMPLATE, 503),
    ),
)
async def delete_template(request: AnyRequest, template_id: FromPath[str]) -> Response[bytes]:
    manager, principal, _ = await begin(request, wire.DeleteTemplate)
    await manager.templates.delete(principal, _kind(request), template_id)
    return reply(wire.TemplateDone())


@post(
    "/session/_/create-from-template",
    opt=_opt(
        summary="Create a session from a template",
        description="What the request says replaces what the template says; null and empty say nothing.",
        form=wire.CreateFromTemplate,
        form_in="body",
        reply=session_wire.SessionCreated,
        status=201,
        refusals=(403, 404, 412, 500, 503),
    ),
)
async def create_session_from_template(request: AnyRequest) -> Response[bytes]:
    manager, principal, form = await begin(request, wire.CreateFromTemplate)
    draft = await manager.templates.draft(principal, form.template_id, overlay_of(form))
    return reply(created_reply(await manager.sessions.create(principal, draft)), 201)


@post(
    "/session/_/create-cluster",
    opt=_opt(
        summary="Create a session of several containers from a cluster template",
        description="All containers of a session are alike here: nodes that differ in more than what the main one runs are refused.",
        form=wire.CreateCluster,
        form_in="body",
        reply=session_wire.SessionCreated,
        status=201,
        refusals=(403, 404, 412, 500, 503),
    ),
)
async def create_cluster(request: AnyRequest) -> Response[bytes]:
    manager, principal, form = await begin(request, wire.CreateCluster)
    over = Overlay(
        name=form.name,
        session_type=form.type or None,
        domain_name=form.domain or None,
        project=form.group or None,
        resource_group=form.resource_group or None,
        tag=form.tag or None,
        rest={
            "reuse": form.reuse_if_exists,
            "enqueue_only": form.enqueue_only,
            "max_wait_s": form.max_wait_seconds,
            "owner_access_key": form.owner_access_key or None,
        },
    )
    draft = await manager.templates.cluster_draft(principal, form.template_id, over)
    return reply(created_reply(await manager.sessions.create(principal, draft)), 201)


ROUTES: tuple[ControllerRouterHandler, ...] = (
    create_templates,
    list_templates,
    get_template,
    put_template,
    delete_template,
    create_session_from_template,
    create_cluster,
)
