"""Calls about the service itself: version, health, what there is."""

import base64
import hashlib
from typing import Any

from litestar import Response, get
from litestar.types import ControllerRouterHandler

from ai.backend.common.quantity import format_amount, slot_type
from ai.backend.common.wire.rest.root import (
    AgentItem,
    AgentList,
    DeviceItem,
    Health,
    ImageItem,
    ImageList,
    Version,
)
from ai.backend.common.wire.version import CURRENT, MANAGER_VERSION
from ai.backend.manager.agents.model import Agent, Device

from ..auth import principal_of
from ..call import AnyRequest, gateway_of, reply
from ..decode import prefers_html
from ..openapi import Operation

HEALTH_AGE_S = 1.0
_STYLE = (
    "body{font:1rem/1.6 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem;color:#1d2733}"
    "code,pre{background:#eef1f4;border-radius:4px;padding:.1rem .3rem}pre{padding:.8rem;overflow:auto}"
    "a{color:#0b62b8}@media(prefers-color-scheme:dark){body{background:#15191e;color:#e3e8ee}"
    "code,pre{background:#242b33}a{color:#7ab8f5}}"
)
_PAGE = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>Backend.AI</title><style>{_STYLE}</style></head>
<body><main><h1>Backend.AI</h1>
<p>This is the API of a computing cluster: it runs your code in containers.</p>
<ul>
<li><a href="/openapi.json">API description</a> (OpenAPI 3.1)</li>
<li><a href="/health">Health</a></li>
<li><a href="/admin/graphiql">GraphiQL</a>, for administrators</li>
</ul>
<p>From a terminal, with a keypair in <code>BACKEND_ACCESS_KEY</code> and <code>BACKEND_SECRET_KEY</code> and this address in
<code>BACKEND_ENDPOINT</code>:</p>
<pre>backend.ai run python:latest -c 'print("hello")'
backend.ai --help</pre>
<p>The documentation is in the <code>docs</code> folder of the distribution; <code>backend.ai COMMAND --help</code> explains each
command.</p>
<p>API {CURRENT}, manager {MANAGER_VERSION}</p></main></body></html>
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


def _opt(**fields: Any) -> dict[str, Any]:
    return {"operation": Operation(tag="service", **fields)}


@get(
    "/",
    opt=_opt(
        summary="Versions",
        description="What clients ask first. A browser gets a page instead.",
        reply=Version,
        anonymous=True,
    ),
)
async def get_version(request: AnyRequest) -> Response[Any]:
    if prefers_html(request.headers.get("accept", "")):
        headers = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer", "Vary": "Accept"}
        return Response(_PAGE.encode(), media_type="text/html", headers=headers)
    response = reply(Version(version=str(CURRENT), manager=MANAGER_VERSION))
    response.headers["Vary"] = "Accept"
    return response


@get("/openapi.json", opt=_opt(summary="This description", reply=dict[str, Any], anonymous=True))
async def get_openapi(request: AnyRequest) -> Response[bytes]:
    return Response(gateway_of(request).openapi, media_type="application/json")


@get(
    "/health",
    opt=_opt(
        summary="Liveness",
        description="Cheap. `agents` counts those that take new sessions; 0 means that sessions will wait.",
        reply=Health,
        anonymous=True,
    ),
)
async def get_health(request: AnyRequest) -> Response[bytes]:
    manager = gateway_of(request).manager
    state, now = request.app.state, manager.clock.monotonic()
    counted_at, agents = state.get("health", (-HEALTH_AGE_S, 0))
    if now - counted_at >= HEALTH_AGE_S:
        agents = await manager.agents.count_alive()
        state["health"] = (now, agents)
    return reply(Health(status="ok", agents=agents))


@get(
    "/config/resource-slots",
    opt=_opt(
        summary="Kinds of resource slots",
        description="Slot names and how they are counted: `count`, `bytes` or `unique`.",
        reply=dict[str, str],
        anonymous=True,
    ),
)
async def get_resource_slots(request: AnyRequest) -> Response[bytes]:
    slots = await gateway_of(request).manager.settings.slots()
    return reply({slot.slot_name: slot_type(slot.slot_name) for slot in slots})


def device_item(device: Device) -> DeviceItem:
    return DeviceItem(
        id=device.id,
        slot=device.slot,
        model=device.model,
        memory_bytes=device.memory_bytes,
        numa_node=device.numa_node,
        location=device.location,
        problem=device.problem,
        held=format_amount(device.slot, device.held),
        percent=device.percent,
        used_bytes=device.used_bytes,
    )


def agent_item(agent: Agent) -> AgentItem:
    return AgentItem(
        id=agent.id,
        status=agent.status.value,
        schedulable=agent.schedulable,
        healthy=agent.healthy,
        takes_sessions=agent.takes_sessions,
        problem=agent.why_not,
        resource_group=agent.resource_group,
        capacity=agent.capacity.texts(),
        occupied=agent.occupied.texts(),
        architecture=agent.architecture,
        backend=agent.backend,
        version=agent.version,
        address=agent.address,
        last_seen_at=agent.last_seen_at.isoformat(),
        devices=list(map(device_item, agent.devices)),
    )


@get(
    "/agents",
    opt=_opt(
        summary="Agents",
        description="Each with its capacity, what is taken of it, and why it takes no sessions. Superadministrators only.",
        reply=AgentList,
        refusals=(403,),
    ),
)
async def list_agents(request: AnyRequest) -> Response[bytes]:
    agents = await gateway_of(request).manager.agents.list(principal_of(request))
    return reply(AgentList(items=[agent_item(agent) for agent in agents], total_count=len(agents)))


@get("/images", opt=_opt(summary="Images that sessions can be started from", reply=ImageList))
async def list_images(request: AnyRequest) -> Response[bytes]:
    images = await gateway_of(request).manager.images.list(principal_of(request))
    items = [
        ImageItem(
            name=image.name,
            architecture=image.architecture,
            digest=image.digest,
            size_bytes=image.size_bytes,
            labels=image.labels,
        )
        for image in images
    ]
    return reply(ImageList(items=items, total_count=len(items)))


ROUTES: tuple[ControllerRouterHandler, ...] = (
    get_version,
    get_openapi,
    get_health,
    get_resource_slots,
    list_agents,
    list_images,
)
