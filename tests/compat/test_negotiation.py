"""Each client and the server agree on a version, and signed requests of every shape are understood."""

import re

import pytest

from .client import Client
from .cluster import Cluster

NEGOTIATED = {"23.9.10": (7, "20230615"), "25.5.2": (8, "20240915"), "26.9.6": (8, "20240915")}

SDK_VERSIONS = """
from ai.backend.client.session import Session
with Session() as s:
    give(list(s.api_version))
"""

SDK_GET = """
from ai.backend.client.session import Session
with Session() as s:
    give(s.Manager.status())
"""

SDK_PATH_CHARACTERS = """
from ai.backend.client.session import Session
from ai.backend.client.exceptions import BackendAPIError
with Session() as s:
    try:
        s.ComputeSession("no such~name+%").get_info()
    except BackendAPIError as e:
        give([e.status, e.data["type"], e.data["title"]])
"""

SDK_ECHO = """
import asyncio
from ai.backend.client.session import AsyncSession
from ai.backend.client.request import Request
async def main():
    async with AsyncSession():
        rqst = Request(method, "/auth")
        rqst.set_json({"echo": "héllo"})
        async with rqst.fetch() as resp:
            give(await resp.json())
asyncio.run(main())
"""


def test_config_names_both_versions(admin: Client, version: str) -> None:
    told = admin.cli("config").ok().text
    year, rest = version.split(".", 1)
    assert re.search(rf"Client version: {year}\.0?{re.escape(rest)} ", told)
    assert "Server version: 25.5.2 (API: v8.20240915)" in told
    assert f"Negotiated API version: {NEGOTIATED[version]}" in told


def test_the_sdk_negotiates_the_lower_version(admin: Client, version: str) -> None:
    assert admin.sdk(SDK_VERSIONS) == list(NEGOTIATED[version])


def test_a_signed_get_is_understood(user: Client) -> None:
    told = user.sdk(SDK_GET)
    assert told["status"] == "running"
    assert isinstance(told["active_sessions"], int)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_signed_body_is_read_with_any_method(user: Client, method: str) -> None:
    assert user.sdk(SDK_ECHO, method=method) == {"authorized": "yes", "echo": "héllo"}


def test_a_path_is_verified_as_it_was_sent(user: Client) -> None:
    status, slug, title = user.sdk(SDK_PATH_CHARACTERS)
    assert status == 404, "an escaped path must not break the signature"
    assert slug == "https://api.backend.ai/probs/object-not-found"
    assert title == "No such session."


def test_the_endpoint_may_end_with_a_slash(user: Client, cluster: Cluster) -> None:
    told = user.cli("config", env={"BACKEND_ENDPOINT": f"{cluster.endpoint}/"}).ok().text
    assert "Server version: 25.5.2" in told
