"""Requests and replies of the calls about settings, the manager's state and the scheduler. Their fields are snake_case on the wire."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from .form import Form


class Announce(Form, frozen=True, kw_only=True):
    enabled: bool = False
    message: Annotated[
        str | None, Meta(description="What commands show. Needed when `enabled`; otherwise it is forgotten.")
    ] = None


class SetManagerStatus(Form, frozen=True, kw_only=True):
    status: Annotated[str, Meta(description="`running` or `frozen`.")]
    force_kill: Annotated[
        bool, Meta(description="With `frozen`: end every session, and answer when they have ended.")
    ] = msgspec.field(default=False, name="force_kill")


class SchedulerOperation(Form, frozen=True, kw_only=True):
    op: Annotated[str, Meta(description="`include-agents` or `exclude-agents`.")]
    args: Annotated[list[str], Meta(description="Ids of agents.")] = msgspec.field(default_factory=list)


class TriggerScheduler(Form, frozen=True, kw_only=True):
    event: Annotated[str, Meta(description="`schedule`, `precond` or `start`; each means: look now.")] = ""


class SchedulerStatus(msgspec.Struct, frozen=True, kw_only=True):
    pending_sessions: int
    schedulable_agents: int
    runs: Annotated[dict[str, int], Meta(description="By loop, since this manager was started.")]
    failures: dict[str, int]


class GetSetting(Form, frozen=True, kw_only=True):
    key: Annotated[str, Meta(description="Names separated by `/`.")] = ""
    prefix: Annotated[bool, Meta(description="All that is below the key, as nested names.")] = False


class SettingFound(msgspec.Struct, frozen=True, kw_only=True):
    result: Annotated[Any, Meta(description="A text, null, or nested names.")]


class SetSetting(Form, frozen=True, kw_only=True):
    key: str
    value: Annotated[
        str | int | float | bool | dict[str, Any],
        Meta(description="A text, or nested names with texts: at most 16 of them."),
    ]


class DeleteSetting(Form, frozen=True, kw_only=True):
    key: str
    prefix: bool = False


class SettingDone(msgspec.Struct, frozen=True, kw_only=True):
    result: str = "ok"


class SlotDetails(Form, frozen=True, kw_only=True):
    sgroup: Annotated[str | None, Meta(description="Only what agents of this resource group have.")] = None


class NumberFormat(msgspec.Struct, frozen=True, kw_only=True):
    binary: bool
    round_length: int


class SlotDetail(msgspec.Struct, frozen=True, kw_only=True):
    slot_name: str
    description: str
    human_readable_name: str
    display_unit: str
    number_format: NumberFormat
    display_icon: str
