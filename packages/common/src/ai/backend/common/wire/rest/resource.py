"""Requests and replies of the calls about resource groups, presets and use. Their fields are snake_case on the wire."""

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from .form import Form, OwnedForm

_Slots = Annotated[dict[str, str], Meta(description='Decimal texts by slot; `"Infinity"` is without limit.')]


class ListGroups(OwnedForm, frozen=True, kw_only=True):
    ALIASES: ClassVar[dict[str, str]] = {"group_id": "group", "group_name": "group", "project": "group"}

    group: Annotated[str, Meta(description="Project, by name or id.")] = ""


class GroupName(msgspec.Struct, frozen=True, kw_only=True):
    name: str


class GroupList(msgspec.Struct, frozen=True, kw_only=True):
    scaling_groups: list[GroupName]


class ProxyVersion(msgspec.Struct, frozen=True, kw_only=True):
    wsproxy_version: Annotated[
        str,
        Meta(description="`v1`: clients tunnel through this API; `v2`: the group has a proxy of its own."),
    ]


class ListPresets(Form, frozen=True, kw_only=True):
    ALIASES: ClassVar[dict[str, str]] = {"resource_group": "scaling_group"}

    scaling_group: Annotated[
        str | None, Meta(description="Those of this resource group, and those for every one.")
    ] = msgspec.field(default=None, name="scaling_group")


class PresetItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    name: str
    resource_slots: dict[str, str]
    shared_memory: str | None
    allocatable: Annotated[
        bool | None, Meta(description="Whether a session of it could run now. Only when checked.")
    ] = None


class PresetList(msgspec.Struct, frozen=True, kw_only=True):
    presets: list[PresetItem]


class CheckPresets(OwnedForm, frozen=True, kw_only=True):
    ALIASES: ClassVar[dict[str, str]] = {
        "resource_group": "scaling_group",
        "group_id": "group",
        "group_name": "group",
        "project": "group",
    }

    scaling_group: Annotated[str | None, Meta(description="Only what this resource group has.")] = (
        msgspec.field(default=None, name="scaling_group")
    )
    group: Annotated[str, Meta(description="Project, by name or id.")] = "default"


class GroupStanding(msgspec.Struct, frozen=True, kw_only=True):
    using: _Slots
    remaining: _Slots


class PresetCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What is hidden is `"NaN"`."""

    keypair_limits: _Slots
    keypair_using: _Slots
    keypair_remaining: Annotated[
        dict[str, str], Meta(description="Within the project's and the domain's limits too.")
    ]
    group_limits: _Slots
    group_using: _Slots
    group_remaining: _Slots
    scaling_group_remaining: _Slots
    scaling_groups: dict[str, GroupStanding]
    presets: list[PresetItem]


class MonthUse(Form, frozen=True, kw_only=True):
    month: Annotated[str, Meta(description="YYYYMM.")]
    group_ids: Annotated[list[str] | None, Meta(description="Projects; all without it.")] = msgspec.field(
        default=None, name="group_ids"
    )


class PeriodUse(Form, frozen=True, kw_only=True):
    ALIASES: ClassVar[dict[str, str]] = {"project_id": "group_id"}

    group_id: str | None = msgspec.field(default=None, name="group_id")
    start_date: Annotated[str, Meta(description="YYYYMMDD.")] = msgspec.field(name="start_date")
    end_date: Annotated[str, Meta(description="YYYYMMDD; at most 100 days.")] = msgspec.field(name="end_date")


class ProjectUse(msgspec.Struct, frozen=True, kw_only=True):
    """Amounts: processors, seconds, bytes. Sums over whole kernels that lived in the time asked for."""

    domain_name: str
    g_id: str
    g_name: str
    g_cpu_allocated: float
    g_cpu_used: float
    g_mem_allocated: int
    g_mem_used: int
    g_shared_memory: int
    g_disk_allocated: int
    g_disk_used: int
    g_io_read: int
    g_io_write: int
    g_device_type: list[str]
    g_smp: float
    g_gpu_mem_allocated: int
    g_gpu_allocated: float
    c_infos: list[dict[str, Any]]


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    value: int | float
    unit_hint: str


class UseBin(msgspec.Struct, frozen=True, kw_only=True):
    """A quarter of an hour, which begins at `date` (seconds since 1970)."""

    date: float
    num_sessions: Measure
    cpu_allocated: Measure
    mem_allocated: Measure
    gpu_allocated: Measure
    io_read_bytes: Measure
    io_write_bytes: Measure
    disk_used: Measure


class SyncAgent(Form, frozen=True, kw_only=True):
    ALIASES: ClassVar[dict[str, str]] = {"agentid": "agent"}

    agent: str


class WatchAgent(Form, frozen=True, kw_only=True):
    agent_id: str = msgspec.field(name="agent_id")
