"""Requests and replies of the calls about scheduling. Their fields are snake_case on the wire."""

from typing import Annotated

import msgspec
from msgspec import Meta

from .form import Form, OwnedForm

SlotAmounts = dict[str, str | int | float]


class GetWhy(OwnedForm, frozen=True, kw_only=True):
    """Nothing but whom to act as."""


class SlotShort(msgspec.Struct, frozen=True, kw_only=True):
    slot: str
    asked: str
    available: str


class NeedItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that has to become true. What does not apply is left out."""

    kind: Annotated[
        str,
        Meta(
            description="`agent`, `schedulable`, `image`, `free`, `devices`, `limit`, `time` or `sessions`."
        ),
    ]
    text: Annotated[str, Meta(description='Goes on after "It starts when".')]
    agent: str = ""
    group: Annotated[str, Meta(description="Resource group that an agent has to join.")] = ""
    architecture: str = ""
    images: list[str] = []
    models: Annotated[list[str], Meta(description="Of devices; one of them.")] = []
    slots: Annotated[
        dict[str, str],
        Meta(description="What has to get free on the agent, or what an agent that joins has to have."),
    ] = {}


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    rule: Annotated[str, Meta(description="The rule that refuses it, or the reason of its status.")]
    message: str
    hint: Annotated[str, Meta(description="What would let it start, in a sentence.")]
    position: Annotated[int | None, Meta(description="In its queue, from 1; null when it is in none.")]
    slots: Annotated[list[SlotShort], Meta(description="Slots that fall short on the nearest agent.")]
    unblock: Annotated[list[NeedItem], Meta(description="What has to become true, all of it.")]
    considered: Annotated[dict[str, int], Meta(description="Agents, by the first rule that refused them.")]
    limits: Annotated[
        list[dict[str, str]],
        Meta(
            description="Limits it would go over: `scope`, `name`, `what`, `asked`, and `used` and `allowed` unless hidden."
        ),
    ]
    estimated_start: Annotated[
        str | None,
        Meta(
            description="When sessions with a time limit have made room at the latest, if nobody comes in between; null: not known."
        ),
    ]


class Why(Explanation, frozen=True, kw_only=True):
    id: str
    name: str
    status: str
    since: Annotated[str, Meta(description="Of this status.")]


class DryWorkload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    slots: Annotated[SlotAmounts, Meta(description='Of each kernel: `{"cpu": 1, "mem": "1g"}`.')]
    name: str = "workload"
    kernels: Annotated[int, Meta(description="1 to 256.")] = 1
    count: Annotated[int, Meta(description="How many such sessions; all counts together: 10,000.")] = 1
    single_node: bool = True
    architecture: str = "x86_64"
    image: Annotated[str, Meta(description="None: any agent has it.")] = ""
    priority: int = 10


class DryAgent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    id: str
    slots: Annotated[SlotAmounts, Meta(description="Its capacity.")]
    occupied: SlotAmounts = {}
    architecture: str = "x86_64"
    images: Annotated[
        list[str] | None, Meta(description="Canonical names. None: all that are asked for.")
    ] = None
    schedulable: bool = True


class DrySnapshot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    agents: list[DryAgent]


class DryRun(Form, frozen=True, kw_only=True):
    workloads: list[DryWorkload]
    resource_group: str = "default"
    snapshot: Annotated[
        DrySnapshot | None,
        Meta(
            description="Instead of the live cluster: these agents, all free but for what they say, and an empty queue."
        ),
    ] = None


class DryPlaced(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    copy: Annotated[int, Meta(description="From 1 to the workload's count.")]
    agents: Annotated[list[str], Meta(description="Of its kernels, in order.")]


class DryRefused(Explanation, frozen=True, kw_only=True):
    name: str
    copy: int


class DryResult(msgspec.Struct, frozen=True, kw_only=True):
    placements: list[DryPlaced]
    refusals: list[DryRefused]
    agents: Annotated[int, Meta(description="In the resource group.")]
    waiting: Annotated[int, Meta(description="Sessions that really wait in the same queue.")]
