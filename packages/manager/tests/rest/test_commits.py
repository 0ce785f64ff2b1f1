"""Archives and images of sessions, with a real manager: what is promised, refused, shown meanwhile, and kept in the end."""

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from ai.backend.common.bus import Accept
from ai.backend.common.errors import CommitExists, ImageExists, InvalidInput, QuotaExceeded
from ai.backend.common.ids import UserId
from ai.backend.common.wire import rpc
from ai.backend.common.wire.commit import CommitStep, encode
from ai.backend.manager.commit.policy import archive_name, check_new_image, check_visibility, image_name
from ai.backend.manager.image.model import Image
from ai.backend.manager.image.policy import OWNER_LABEL, owned_by, resolve

from .conftest import IMAGE, World

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ME, OTHER = UserId(UUID(int=1)), UserId(UUID(int=2))
STATUS = 'query { compute_session(id: "%s") { commit_status } }'


# Decisions.


def image(name: str, owner: UserId | None = None) -> Image:
    labels = {} if owner is None else {OWNER_LABEL: f"user:{owner}"}
    return Image(name=name, architecture="x86_64", digest="d", size_bytes=1, labels=labels)


@pytest.mark.parametrize(
    ("given", "session", "name"),
    [
        (None, "mysess", "mysess-20260102-030405.tar.gz"),
        ("", "../häßlich", "h--lich-20260102-030405.tar.gz"),
        (None, "...", "session-20260102-030405.tar.gz"),
        ("mine", "s", "mine.tar.gz"),
        ("mine.tar.gz", "s", "mine.tar.gz"),
        ("v1.2", "s", "v1.2.tar.gz"),
    ],
)
def test_archive_names(given: str | None, session: str, name: str) -> None:
    assert archive_name(given, session, NOW) == name


@pytest.mark.parametrize(
    "bad", ["../x", "a/b", "/etc/passwd", ".hidden", "a..b", "x" * 122, "a b", "a\n", "ä", "-x", ".tar.gz"]
)
def test_what_is_no_archive_name(bad: str) -> None:
    with pytest.raises(InvalidInput):
        archive_name(bad, "s", NOW)


def test_everybody_has_a_place_for_images() -> None:
    assert image_name("mine", ME) == f"customized/{ME.hex}/mine:latest"
    assert image_name("mine:v2", OTHER) == f"customized/{OTHER.hex}/mine:v2"
    for bad in (
        "",
        "a/b",
        "Mine",
        "a:b:c",
        "a:",
        ":b",
        "a..b",
        "../x",
        "x" * 65,
        f"a:{'x' * 65}",
        "a\n",
        "-a",
    ):
        with pytest.raises(InvalidInput):
            image_name(bad, ME)


def test_who_may_have_an_image() -> None:
    check_visibility(None, None, ME)
    check_visibility("USER", str(ME), ME)
    for visibility, owner in (("project", None), ("user", str(OTHER)), ("x" * 10_000, None)):
        with pytest.raises(InvalidInput):
            check_visibility(visibility, owner, ME)
    assert (
        owned_by(image("a:1"), ME)
        and owned_by(image("a:1", ME), ME)
        and not owned_by(image("a:1", OTHER), ME)
    )


def test_a_name_is_taken_once_and_images_are_counted() -> None:
    mine = [image(image_name(name, ME), ME) for name in ("a", "b")]
    images = [image("local/python:3.11"), *mine, image(image_name("a", OTHER), OTHER)]
    check_new_image(image_name("c", ME), images, ME, limit=3)
    with pytest.raises(ImageExists):
        check_new_image(image_name("a", ME), images, ME, limit=3)
    with pytest.raises(QuotaExceeded, match="2"):
        check_new_image(image_name("c", ME), images, ME, limit=2)


def test_an_image_of_a_user_hides_none() -> None:
    images = [
        image("local/python:3.11"),
        image(image_name("python:99", ME), ME),
        image(image_name("own", ME), ME),
    ]
    for reference, name in (
        ("python", "local/python:3.11"),
        ("python:99", image_name("python:99", ME)),
        ("own", image_name("own", ME)),
    ):
        found = resolve(reference, "x86_64", images, {})
        assert found is not None and found.name == name


# The manager.


class Committing:
    """An agent that makes images as far as the test lets it."""

    def __init__(self, world: World) -> None:
        self.asked: list[rpc.Commit] = []
        self.go_on = asyncio.Event()
        self.gone = asyncio.Event()
        self.error: Exception | None = None
        world.agent.streams = self.serve

    async def serve(self, request: rpc.StreamRequest, accept: Accept) -> None:
        assert isinstance(request, rpc.Commit)
        self.asked.append(request)
        if request.filename == "taken.tar.gz":
            raise CommitExists("it is there")
        stream = accept()
        await stream.send(encode(CommitStep(done_bytes=1, total_bytes=4, message="reading")))
        going, closed = asyncio.create_task(self.go_on.wait()), asyncio.create_task(stream.receive())
        await asyncio.wait({going, closed}, return_when=asyncio.FIRST_COMPLETED)
        going.cancel()
        closed.cancel()
        if self.error is not None:
            raise self.error
        made = rpc.ImageReport(
            name=request.image,
            digest="sha256:1",
            architecture="x86_64",
            size_bytes=4 << 20,
            labels=IMAGE.labels | request.labels,
        )
        await stream.send(encode(CommitStep(done_bytes=4, total_bytes=4, image=made)))


async def shown(world: World, session_id: str) -> tuple[str, str]:
    """By REST and by GraphQL."""
    rest = (await world.call("GET", "/session/mysess/commit")).json["status"]
    answer = await world.call("POST", "/admin/gql", {"query": STATUS % session_id, "variables": {}})
    return rest, answer.json["data"]["compute_session"]["commit_status"]


async def ended(world: World, task_id: str) -> tuple[str, Any]:
    events = await world.events(f"/events/background-task?task_id={task_id}")
    return next(one for one in events if one[0] not in ("bgtask_updated", "server_close"))


async def test_an_archive(world: World) -> None:
    agent = Committing(world)
    session_id = (await world.start()).json["sessionId"]
    assert await shown(world, session_id) == ("ready", "ready")
    await world.call("POST", "/user-config/dotfiles", {"path": ".token", "data": "x", "permission": "600"})
    answer = await world.call("POST", "/session/mysess/commit", {"filename": "mine"})
    user_id = world.who["user"].user_id
    assert answer.status == 201 and answer.json["path"] == f"{user_id}/mine.tar.gz"
    assert await shown(world, session_id) == ("ongoing", "ongoing")
    for path, body in (("commit", {}), ("imagify", {"image_name": "mine"})):
        again = await world.call("POST", f"/session/mysess/{path}", body)
        assert (again.status, again.json["error_code"]) == (409, "session.commit-ongoing")
    agent.go_on.set()
    name, data = await ended(world, answer.json["bgtask_id"])
    assert name == "bgtask_done" and data["message"] == f"{user_id}/mine.tar.gz (4 MiB)"
    assert await shown(world, session_id) == ("ready", "ready")
    (asked,) = agent.asked
    assert (asked.folder, asked.filename, asked.labels) == (str(user_id), "mine.tar.gz", {})
    assert asked.left_out == [".token"]


@pytest.mark.parametrize("error", [CommitExists("broken off"), RuntimeError("secret detail")])
async def test_a_failure_is_told_and_another_may_be_begun(world: World, error: Exception) -> None:
    agent = Committing(world)
    agent.error = error
    agent.go_on.set()
    await world.start()
    answer = await world.call("POST", "/session/mysess/commit")
    name, data = await ended(world, answer.json["bgtask_id"])
    assert name == "bgtask_failed" and "secret" not in data["message"]
    assert ("broken off" in data["message"]) is isinstance(error, CommitExists)
    agent.error = None
    answer = await world.call("POST", "/session/mysess/commit")
    assert (await ended(world, answer.json["bgtask_id"]))[0] == "bgtask_done"


async def test_what_the_agent_refuses_is_refused_at_once(world: World) -> None:
    Committing(world)
    session_id = (await world.start()).json["sessionId"]
    answer = await world.call("POST", "/session/mysess/commit", {"filename": "taken"})
    assert (answer.status, answer.json["error_code"]) == (409, "session.commit-exists")
    assert await shown(world, session_id) == ("ready", "ready")


async def test_only_of_a_session_that_runs_and_is_ones_own(world: World) -> None:
    Committing(world)
    for path in ("commit", "imagify?image_name=mine"):
        assert (await world.call("POST", f"/session/mysess/{path}")).status == 404
    session_id = (await world.start()).json["sessionId"]
    for path in ("commit", "imagify?image_name=mine"):
        assert (await world.call("POST", f"/session/{session_id}/{path}", key="peer")).status == 404


async def test_an_image_is_its_makers_alone(world: World) -> None:
    agent = Committing(world)
    agent.go_on.set()
    await world.start()
    answer = await world.call("POST", "/session/mysess/imagify?image_name=mine")
    assert answer.status == 201
    full = answer.json["image"]
    assert (await ended(world, answer.json["task_id"]))[0] == "bgtask_done"
    labels = agent.asked[0].labels
    assert labels[OWNER_LABEL] == f"user:{world.who['user'].user_id}"
    assert labels["ai.backend.customized-image.name"] == "mine"
    again = await world.call("POST", "/session/mysess/imagify?image_name=mine")
    assert (again.status, again.json["error_code"]) == (409, "image.exists")
    listed = {key: await names(world, key) for key in ("user", "peer", "admin", "root")}
    assert {key: full in found for key, found in listed.items()} == {
        "user": True, "peer": False, "admin": False, "root": True,
    }  # fmt: skip
    world.agent.images = [
        IMAGE,
        rpc.ImageReport(name=full, digest="sha256:1", architecture="x86_64", size_bytes=1, labels=labels),
    ]
    await world.agent.report()
    for key, reference, status in (
        ("user", "mine", 201), ("user", full, 201), ("peer", full, 404), ("admin", "mine", 404), ("root", full, 404),
    ):  # fmt: skip
        name = f"from-{key}-{len(reference)}"
        made = await world.call("POST", "/session", {"name": name, "image": reference}, key=key)
        assert made.status == status, (key, reference, made.body)
    started = [kernel for sync in world.agent.syncs for kernel in sync.kernels if kernel.image == full]
    assert started and all(kernel.home_from_image for kernel in started)


async def names(world: World, key: str) -> set[str]:
    answer = await world.call(
        "POST", "/admin/gql", {"query": "query { images { name tag } }", "variables": {}}, key=key
    )
    return {f"{one['name']}:{one['tag']}" for one in answer.json["data"]["images"]}
