"""Images of sessions: what may be written where, what of a home folder is taken, and an agent that makes them on the fake backend."""

import asyncio
import contextlib
import io
import json
import os
import socket
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from msgspec import structs

from ai.backend.agent.commit import home, service
from ai.backend.agent.commit.policy import check_place, left_out_of, room_refusal, tar_bytes
from ai.backend.agent.container.errors import NoSpace
from ai.backend.agent.image.archive import ArchiveWriter, LayerCut, copy_layers
from ai.backend.common.bus import InProcessBus
from ai.backend.common.errors import (
    BackendError,
    CommitBroken,
    CommitExists,
    CommitOngoing,
    InvalidInput,
    InvalidSessionState,
    KernelError,
    QuotaExceeded,
    StreamClosed,
    Unavailable,
)
from ai.backend.common.stream import Stream
from ai.backend.common.wire import rpc
from ai.backend.common.wire.commit import CommitStep, StepReader, encode
from ai.backend.common.wire.rpc import Dotfile, KernelState

from .test_agent_service import K1, K2, Node, wish

USER = "b5306f10-a14b-4ec2-aed1-7cc33f55a226"
ROOM: dict[str, int] = {
    "free_bytes": 1000, "reserve_bytes": 100, "used_bytes": 50, "size_max": 800, "user_max": 500,
}  # fmt: skip


# Decisions.


@pytest.mark.parametrize(
    ("folder", "filename"),
    [
        ("..", "a.tar.gz"),
        ("", "a.tar.gz"),
        ("a/b", "a.tar.gz"),
        (USER, "a/b.tar.gz"),
        (USER, "../a.tar.gz"),
        (USER, ".partial.tar.gz"),
        (USER, "a.tar"),
        (USER, "a..tar.gz"),
        (USER, "x" * 200 + ".tar.gz"),
        (USER, "a\n.tar.gz"),
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(folder: str, filename: str) -> None:
    with pytest.raises(InvalidInput):
        check_place(folder, filename)


def test_a_plain_name_is_a_place() -> None:
    check_place(USER, "Mine-2.1_x.tar.gz")


@pytest.mark.parametrize(
    ("needed", "change", "kind", "words"),
    [
        (801, {}, QuotaExceeded, ("801", "800")),
        (451, {}, QuotaExceeded, ("451", "50", "500")),
        (450, {"free_bytes": 549}, NoSpace, ("450", "549", "100")),
    ],
)
def test_a_refusal_has_the_numbers(
    needed: int, change: dict[str, int], kind: type[BackendError], words: tuple[str, ...]
) -> None:
    refusal = room_refusal(needed, **{**ROOM, **change})
    assert isinstance(refusal, kind) and refusal.hint
    assert all(word in refusal.message for word in words), refusal.message


def test_what_just_fits_is_let_be() -> None:
    assert room_refusal(450, **{**ROOM, "free_bytes": 550}) is None


def test_a_dotfile_with_a_strange_path_leaves_nothing_else_out() -> None:
    found = left_out_of([".config/key", "", ".", "../.ssh"])
    assert found == {PurePosixPath(".ssh"), PurePosixPath(".bootstrap.sh"), PurePosixPath(".config/key")}


# The home folder.


def packed(folder: Path, tmp_path: Path, **options: Any) -> dict[str, tarfile.TarInfo]:
    left_out = options.get("left_out", left_out_of([]))
    limit = tar_bytes(home.measure(folder, left_out))
    target = tmp_path / "home.tar"
    told: list[int] = []
    size = home.pack(folder, target, left_out, bytes_max=limit, tell=told.append)
    assert size == target.stat().st_size <= limit
    with tarfile.open(target) as tar:
        return {one.name: one for one in tar}


def test_a_home_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / ".ssh").mkdir(parents=True)
    (work / ".ssh/id_rsa").write_text("key")
    (work / "deep/er").mkdir(parents=True)
    (work / "deep/er/tool").write_text("tool")
    (work / "deep/er/tool").chmod(0o4755)
    (work / "secret").write_text("dotfile")
    (work / "outside").symlink_to("/etc/shadow")
    (work / "folder").symlink_to("/etc")
    os.mkfifo(work / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fsencode(work / "socket"))
    found = packed(work, tmp_path, left_out=left_out_of(["secret"]))
    inner = "home/work"
    assert sorted(found) == [
        "home", inner, f"{inner}/deep", f"{inner}/deep/er", f"{inner}/deep/er/tool", f"{inner}/folder", f"{inner}/outside",
    ]  # fmt: skip
    assert (found[f"{inner}/outside"].issym(), found[f"{inner}/outside"].linkname) == (True, "/etc/shadow")
    assert (found[f"{inner}/deep/er/tool"].mode, found[f"{inner}/deep/er/tool"].uid) == (0o755, 1000)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_becomes_a_link_is_not_followed(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, outside = tmp_path / "work", tmp_path / "outside"
    (work / "folder").mkdir(parents=True)
    (work / "file").write_bytes(b"x")
    outside.mkdir()
    (outside / "treasure").write_text("hidden")
    target = outside if kind == "folder" else outside / "treasure"
    look = os.stat

    def stat(path: Any, **options: Any) -> os.stat_result:
        """As user code may: right after it was looked at."""
        found = look(path, **options)
        if path == kind:
            (work / kind).rename(tmp_path / "gone")
            (work / kind).symlink_to(target)
        return found

    monkeypatch.setattr(os, "stat", stat)
    home.pack(work, tmp_path / "home.tar", frozenset(), bytes_max=1 << 20, tell=lambda _: None)
    monkeypatch.undo()
    assert (work / kind).is_symlink() and b"hidden" not in (tmp_path / "home.tar").read_bytes()


def test_a_file_that_shrinks_is_filled_up(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "a").write_bytes(b"x" * (3 << 20))
    shrunk = False

    def tell(_: int) -> None:
        nonlocal shrunk
        if not shrunk:
            shrunk = True
            os.truncate(work / "a", 1000)

    home.pack(work, tmp_path / "home.tar", frozenset(), bytes_max=8 << 20, tell=tell)
    with tarfile.open(tmp_path / "home.tar") as tar:
        content = tar.extractfile("home/work/a").read()  # type: ignore[union-attr]
    assert len(content) == 3 << 20 and content.rstrip(b"\0").strip(b"x") == b""


def test_a_home_that_grows_and_grows_is_given_up(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    for name in "abcdef":
        (work / name).write_bytes(b"x" * (1 << 20))
    with pytest.raises(InvalidInput, match="grows"):
        home.pack(work, tmp_path / "home.tar", frozenset(), bytes_max=2 << 20, tell=lambda _: None)


def test_what_comes_out_of_an_image_is_its_users(tmp_path: Path) -> None:
    folder = tmp_path / "fresh"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/file").write_text("x")
    (folder / "link").symlink_to("/etc/passwd")
    os.mkfifo(folder / "sub/pipe")
    home.own(folder, 12345)
    assert not (folder / "sub/pipe").exists()
    if os.getuid() == 0:
        for path in ("sub", "sub/file", "link"):
            assert (folder / path).lstat().st_uid == 12345
    assert Path("/etc/passwd").stat().st_uid == 0


# Archives.


def member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("form", ["old", "new"])
def test_layers_are_copied_and_the_old_configuration_stays_behind(tmp_path: Path, form: str) -> None:
    small, large = b"small layer", b"L" * (2 << 20)
    paths = ("1/layer.tar", "2/layer.tar") if form == "old" else ("blobs/sha256/1", "blobs/sha256/2")
    saved = io.BytesIO()
    with tarfile.open(fileobj=saved, mode="w") as tar:
        member(tar, paths[0], large)
        member(tar, paths[1], small)
        member(tar, "config.json", b'{"config": {"Env": ["SECRET=s3cret"]}}')
        link = tarfile.TarInfo("3/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, f"../{paths[0]}"
        tar.addfile(link)
        layers = [paths[1], paths[0], "3/layer.tar"]
        member(tar, "manifest.json", json.dumps([{"Config": "config.json", "Layers": layers}]).encode())
    saved.seek(0)
    target = tmp_path / "made.tar"
    with ArchiveWriter(target, compress=False, tell=lambda _: None) as writer:
        names = copy_layers(saved, writer)
        digest = writer.describe("a:1", names, architecture="amd64", configuration={"Labels": {"x": "y"}})
    assert b"s3cret" not in target.read_bytes()
    with tarfile.open(target) as tar:
        (manifest,) = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
        assert manifest["Config"] == f"{digest.removeprefix('sha256:')}.json"
        contents = [tar.extractfile(name).read() for name in manifest["Layers"]]  # type: ignore[union-attr]
    assert contents == [small, large, large]


@pytest.mark.parametrize("broken", [b"", b"no tar" * 1000])
def test_what_is_no_archive_is_refused(tmp_path: Path, broken: bytes) -> None:
    writer = ArchiveWriter(tmp_path / "made.tar", compress=False, tell=lambda _: None)
    with pytest.raises((tarfile.TarError, ValueError)), writer:
        copy_layers(io.BytesIO(broken), writer)


def test_a_layer_that_ends_early_is_no_layer(tmp_path: Path) -> None:
    writer = ArchiveWriter(tmp_path / "made.tar", compress=True, tell=lambda _: None)
    with pytest.raises(LayerCut), writer:
        writer.add_layer(io.BytesIO(b"short"), 10)


# Progress over the wire.


def test_steps_come_in_any_portions() -> None:
    steps = [CommitStep(done_bytes=n, total_bytes=10, message="ü") for n in range(3)]
    data = b"".join(map(encode, steps))
    reader = StepReader()
    assert [step for at in range(len(data)) for step in reader.feed(data[at : at + 1])] == steps
    with pytest.raises(StreamClosed):
        StepReader().feed(b"nonsense\n")
    with pytest.raises(StreamClosed):
        StepReader().feed(b"x" * (2 << 20))


# The agent.


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def order(**more: Any) -> rpc.Commit:
    wanted = {"image": "local/python:3.11", "folder": USER, "filename": "mine.tar.gz", **more}
    return rpc.Commit(kernel_id=K1, **wanted)


@asynccontextmanager
async def working(node: Node, **config: Any) -> AsyncIterator[Path]:
    """A running session with a file in its home; gives the folder of archives."""
    async with node.agent(**config) as agent:
        await node.sync(wish(dotfiles=[Dotfile(path=".token", permission="600", content="s3cret")]))
        await node.state(KernelState.RUNNING)
        (agent._kernels[K1].scratch.work / "notes.txt").write_text("notes")
        yield node.folder / "state" / "commits"


async def opened(node: Node, request: rpc.Commit) -> Stream:
    return await node.bus.open_stream("a1", request, timeout_s=5)


async def ended(stream: Stream) -> rpc.ImageReport | None:
    reader, last = StepReader(), None
    async with asyncio.timeout(20):
        while data := await stream.receive():
            for step in reader.feed(data):
                last = step.image
    stream.close()
    return last


def left_in(commits: Path) -> list[str]:
    return sorted(str(path.relative_to(commits)) for path in commits.rglob("*") if path.is_file())


async def reopened(node: Node, request: rpc.Commit) -> Stream:
    """Once the agent has let go of the one before."""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(CommitOngoing):
                return await opened(node, request)
            await asyncio.sleep(0.01)


async def test_an_archive_is_written_and_its_name_is_taken(node: Node) -> None:
    async with working(node) as commits:
        made = await ended(await opened(node, order()))
        archive = commits / USER / "mine.tar.gz"
        assert made is not None and made.size_bytes == archive.stat().st_size
        with tarfile.open(archive) as tar, tarfile.open(fileobj=tar.extractfile("layer0.tar")) as layer:
            assert layer.getnames() == ["home", "home/work", "home/work/notes.txt"]
        with pytest.raises(CommitExists):
            await opened(node, order())
        assert left_in(commits) == [f"{USER}/mine.tar.gz"]
        assert archive.stat().st_mode & 0o077 == 0 or commits.stat().st_mode & 0o077 == 0


async def test_one_at_a_time_and_only_of_what_runs(node: Node) -> None:
    node.world.commits.clear()
    async with working(node) as commits:
        stream = await opened(node, order())
        with pytest.raises(CommitOngoing):
            await opened(node, order(filename="other.tar.gz"))
        with pytest.raises(KernelError):
            await opened(node, rpc.Commit(kernel_id=K2, image="a:1"))
        with pytest.raises(InvalidInput):
            await opened(node, rpc.Commit(kernel_id=K1, image="a:1", folder="..", filename="a.tar.gz"))
        node.world.commits.set()
        assert await ended(stream) is not None
        assert await ended(await opened(node, order(filename="other.tar.gz"))) is not None
        assert left_in(commits) == [f"{USER}/mine.tar.gz", f"{USER}/other.tar.gz"]


async def test_a_node_makes_some_at_a_time(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "AT_ONCE_MAX", 1)
    node.world.commits.clear()
    async with working(node):
        await node.sync(wish(), wish(K2))
        await node.state(KernelState.RUNNING, K2)
        stream = await opened(node, order())
        second = structs.replace(order(filename="second.tar.gz"), kernel_id=K2)
        with pytest.raises(Unavailable):
            await opened(node, second)
        node.world.commits.set()
        assert await ended(stream) is not None
        assert await ended(await opened(node, second)) is not None


async def test_the_end_of_the_session_is_the_end_of_it(node: Node) -> None:
    node.world.commits.clear()
    async with working(node) as commits:
        stream = await opened(node, order())
        await stream.receive()
        await node.sync(wish(target="stop", stop_reason="user-requested"))
        with pytest.raises(CommitBroken):
            await ended(stream)
        await node.state(KernelState.TERMINATED)
        assert left_in(commits) == [] and list(commits.iterdir()) == [] and node.nothing_left()


async def test_a_restart_of_the_session_is_the_end_of_it(node: Node) -> None:
    node.world.commits.clear()
    async with working(node) as commits:
        stream = await opened(node, order())
        await stream.receive()
        await node.sync(wish(incarnation=2))
        with pytest.raises(CommitBroken):
            await ended(stream)
        await node.until(lambda kernels: kernels[K1].incarnation == 2 and kernels[K1].state == "running")
        assert list(commits.iterdir()) == []


async def test_when_nobody_listens_any_more_it_is_broken_off(tmp_path: Path) -> None:
    # Not by the bus, which cancels what lingers.
    node = Node(tmp_path, bus=InProcessBus(stream_linger_s=600))
    node.world.commits.clear()
    async with working(node) as commits:
        stream = await opened(node, order())
        await stream.receive()
        stream.close()
        second = await reopened(node, order())
        node.world.commits.set()
        assert await ended(second) is not None
        assert left_in(commits) == [f"{USER}/mine.tar.gz"]


async def test_what_a_killed_agent_left_is_removed_at_the_next_start(node: Node) -> None:
    leftover = node.folder / "state" / "commits" / ".partial-x"
    leftover.mkdir(parents=True)
    (leftover / "home.tar").write_bytes(b"x")
    async with working(node) as commits:
        assert list(commits.iterdir()) == []


@pytest.mark.parametrize("error", [NoSpace("full"), BackendError("broken")])
async def test_a_failure_is_told_and_leaves_nothing(node: Node, error: Any) -> None:
    async with working(node) as commits:
        node.world.fail_next("commit", error)
        with pytest.raises(BackendError, match=error.message):
            await ended(await opened(node, order()))
        assert list(commits.iterdir()) == []
        assert await ended(await opened(node, order())) is not None


@pytest.mark.parametrize(
    ("config", "words"),
    [({"commit_size_max": "1k"}, "at most"), ({"commit_user_max": "1k"}, "already")],
)
async def test_without_room_nothing_is_begun(node: Node, config: dict[str, str], words: str) -> None:
    async with working(node, **config) as commits:
        with pytest.raises(QuotaExceeded, match=words):
            await ended(await opened(node, order()))
        assert list(commits.iterdir()) == []


async def test_a_session_from_an_image_begins_with_its_home(node: Node) -> None:
    async with working(node) as commits:
        image = "customized/u/mine:latest"
        made = await ended(await opened(node, order(image=image, folder="", filename="", labels={"a": "b"})))
        assert made is not None and made.labels["a"] == "b"
        await node.until(lambda _: image in {one.name for one in node.reports[-1].images})
        assert list(commits.iterdir()) == []
        await node.sync(wish(), structs.replace(wish(K2), image=image, home_from_image=True))
        await node.state(KernelState.RUNNING, K2)
        work = node.folder / "scratch" / str(K2) / "work"
        assert (work / "notes.txt").read_text() == "notes" and not (work / ".token").exists()
        assert work.stat().st_mode & 0o777 == 0o700
        if os.getuid() == 0:
            assert work.stat().st_uid == (work / "notes.txt").stat().st_uid != 0


async def test_a_session_that_is_being_made_has_no_image_yet(node: Node) -> None:
    async with node.agent():
        node.world.latency_s = (0.2, 0.2)
        await node.sync(wish())
        with pytest.raises((InvalidSessionState, KernelError)):
            await opened(node, order())
