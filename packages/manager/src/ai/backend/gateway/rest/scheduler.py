"""Why sessions wait, and dry runs of the scheduler: decode, call the service, encode."""

from typing import Any

from litestar import Response, get, post
from litestar.params import FromPath
from litestar.types import ControllerRouterHandler

from ai.backend.common.wire.rest import scheduler as wire
from ai.backend.manager.scheduling.model import (
    AgentDraft,
    Refused,
    Simulated,
    SimulationDraft,
    Why,
    WorkloadDraft,
    need_row,
)

from ..auth import principal_of
from ..call import AnyRequest, begin, form_of, gateway_of, reply
from ..openapi import Operation


def _explanation(why: Why | Refused) -> dict[str, Any]:
    """The fields of `wire.Explanation`."""
    return {
        "rule": str(why.rule),
        "message": why.message,
        "hint": why.hint,
        "position": why.position,
        "slots": [wire.SlotShort(**short.texts()) for short in why.shortfalls],
        "unblock": [wire.NeedItem(**need_row(need)) for need in why.unblock],
        "considered": {rule.value: count for rule, count in why.considered},
        "limits": list(why.limits),
        "estimated_start": why.estimated_start.isoformat() if why.estimated_start else None,
    }


def why_reply(why: Why) -> wire.Why:
    session = why.session
    return wire.Why(
        id=str(session.id),
        name=session.name,
        status=session.status.value,
        since=session.status_changed_at.isoformat(),
        **_explanation(why),
    )


def draft_of(form: wire.DryRun) -> SimulationDraft:
    snapshot = form.snapshot
    return SimulationDraft(
        resource_group=form.resource_group or "default",
        workloads=tuple(
            WorkloadDraft(
                name=one.name,
                slots=one.slots,
                kernels=one.kernels,
                count=one.count,
                single_node=one.single_node,
                architecture=one.architecture,
                image=one.image,
                priority=one.priority,
            )
            for one in form.workloads
        ),
        agents=None
        if snapshot is None
        else tuple(
            AgentDraft(
                id=one.id,
                slots=one.slots,
                occupied=one.occupied,
                architecture=one.architecture,
                images=None if one.images is None else tuple(one.images),
                schedulable=one.schedulable,
            )
            for one in snapshot.agents
        ),
    )


def result_of(made: Simulated) -> wire.DryResult:
    return wire.DryResult(
        placements=[
            wire.DryPlaced(name=one.name, copy=one.copy, agents=list(one.agents)) for one in made.placements
        ],
        refusals=[
            wire.DryRefused(name=one.name, copy=one.copy, **_explanation(one)) for one in made.refusals
        ],
        agents=made.agents,
        waiting=made.waiting,
    )


@get(
    "/session/{name:str}/why",
    opt={
        "operation": Operation(
            tag="session",
            summary="Why a session waits",
            description="Of one that waits: the rule that refuses it, what is asked and available, its position, what would let it start, "
            "and when, if that can be known. Of any other: since when it is as it is, and why.",
            form=wire.GetWhy,
            reply=wire.Why,
            refusals=(403, 404),
        )
    },
)
async def get_why(request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
    manager, principal, _ = await begin(request, wire.GetWhy)
    return reply(why_reply(await manager.explanations.why(principal, name)))


@post(
    "/scheduler/dry-run",
    status_code=200,
    opt={
        "operation": Operation(
            tag="settings",
            summary="Where sessions would start",
            description="Plans as the scheduler would, for the live cluster and queue or for agents that are given, and writes nothing. "
            "Superadministrators only.",
            form=wire.DryRun,
            form_in="body",
            reply=wire.DryResult,
            refusals=(404,),
            while_frozen=True,
        )
    },
)
async def dry_run(request: AnyRequest) -> Response[bytes]:
    form = await form_of(request, wire.DryRun)
    made = await gateway_of(request).manager.explanations.dry_run(principal_of(request), draft_of(form))
    return reply(result_of(made))


ROUTES: tuple[ControllerRouterHandler, ...] = (get_why, dry_run)
