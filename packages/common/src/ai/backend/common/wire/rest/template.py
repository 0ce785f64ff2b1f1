"""Requests and replies of the template calls, as they are on the wire (snake_case there)."""

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from .form import Form, OwnedForm
from .session import SlotAmounts

Payload = Annotated[
    Any,
    Meta(
        description="YAML or JSON text: one template or several, bare or as `{name, group_id, template}`. JSON values will do too."
    ),
]


class CreateTemplate(OwnedForm, frozen=True, kw_only=True):
    ALIASES: ClassVar[dict[str, str]] = {
        "groupname": "group",
        "project": "group",
        "domainname": "domain",
    }

    payload: Payload
    group: Annotated[str, Meta(description="Project, by name or id.")] = "default"
    domain: str = "default"


class ListTemplates(OwnedForm, frozen=True, kw_only=True):
    all: Annotated[bool, Meta(description="Everyone's that you may see, not only your own.")] = False


class GetTemplate(OwnedForm, frozen=True, kw_only=True):
    format: Annotated[Literal["json", "yaml"], Meta(description="How to answer; both say the same.")] = "json"


class PutTemplate(OwnedForm, frozen=True, kw_only=True):
    payload: Payload


class DeleteTemplate(OwnedForm, frozen=True, kw_only=True):
    """Nothing but whom to act as."""


class TemplateCreated(msgspec.Struct, frozen=True, kw_only=True):
    id: Annotated[str, Meta(description="32 hexadecimal digits.")]
    user: str


class TemplateItem(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    id: str
    created_at: str
    is_owner: bool
    user: str
    group: str
    user_email: str
    group_name: str
    domain_name: str
    type: Annotated[str, Meta(description="`task` or `cluster`.")]
    template: dict[str, Any]


class TemplateBody(msgspec.Struct, frozen=True, kw_only=True):
    template: dict[str, Any]
    name: str
    user_uuid: str
    group_id: str
    domain_name: str


class TemplateDone(msgspec.Struct, frozen=True, kw_only=True):
    success: bool = True


class FromTemplateConfig(Form, frozen=True, kw_only=True):
    ALIASES: ClassVar[dict[str, str]] = {"scalinggroup": "resourceGroup"}

    environ: dict[str, str] | None = None
    resources: SlotAmounts | None = None
    resource_opts: SlotAmounts | None = msgspec.field(default=None, name="resource_opts")
    resource_group: str | None = None
    cluster_size: int | None = None
    mounts: list[Any] = msgspec.field(default_factory=list)
    mount_map: dict[str, Any] = msgspec.field(default_factory=dict, name="mount_map")
    preopen_ports: list[Any] = msgspec.field(default_factory=list, name="preopen_ports")
    agent_list: list[str] = msgspec.field(default_factory=list)


class CreateFromTemplate(OwnedForm, frozen=True, kw_only=True):
    """Like the creation of a session; what is missing, null or empty comes from the template."""

    ALIASES: ClassVar[dict[str, str]] = {
        "sessionname": "name",
        "clientsessiontoken": "name",
        "lang": "image",
        "sessiontype": "type",
        "groupname": "group",
        "project": "group",
        "domainname": "domain",
    }

    template_id: Annotated[str, Meta(description="Of a session template.")] = msgspec.field(
        name="template_id"
    )
    name: str
    image: str | None = None
    type: str | None = None
    group: str | None = None
    domain: str | None = None
    cluster_size: int | None = None
    cluster_mode: str | None = None
    tag: str | None = None
    enqueue_only: bool = False
    max_wait_seconds: float = 0
    reuse_if_exists: bool = True
    startup_command: str | None = None
    batch_timeout: str | float | None = msgspec.field(default=None, name="batch_timeout")
    bootstrap_script: str | None = msgspec.field(default=None, name="bootstrap_script")
    starts_at: str | None = msgspec.field(default=None, name="starts_at")
    dependencies: list[str] = msgspec.field(default_factory=list)
    callback_url: str | None = msgspec.field(default=None, name="callback_url")
    config: FromTemplateConfig = FromTemplateConfig()


class CreateCluster(OwnedForm, frozen=True, kw_only=True):
    """What is missing, null or empty comes from the template."""

    ALIASES: ClassVar[dict[str, str]] = {
        "sessionname": "name",
        "clientsessiontoken": "name",
        "sessiontype": "type",
        "groupname": "group",
        "project": "group",
        "domainname": "domain",
        "scalinggroup": "resourceGroup",
    }

    template_id: Annotated[str, Meta(description="Of a cluster template.")] = msgspec.field(
        name="template_id"
    )
    name: str
    type: str | None = None
    group: str | None = None
    domain: str | None = None
    resource_group: Annotated[
        str | None, Meta(description="Where to run; also accepted as `scaling_group`.")
    ] = None
    tag: str | None = None
    enqueue_only: bool = False
    max_wait_seconds: float = 0
    reuse_if_exists: bool = True
