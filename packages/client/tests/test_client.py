"""The client against a server that verifies every signature."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from ai.backend.client.client import AsyncClient
from ai.backend.client.config import ClientConfig
from ai.backend.client.error import ApiError, InvalidCall, Unreachable
from ai.backend.client.execution import Finished, InputRequest, Media, StepEnd, Text, batch_options
from ai.backend.client.sync import Client


def config_of(server: Any, **changes: Any) -> ClientConfig:
    return ClientConfig(
        **{
            "endpoint": server.url,
            "access_key": server.environ["BACKEND_ACCESS_KEY"],
            "secret_key": server.environ["BACKEND_SECRET_KEY"],
            **changes,
        }
    )


@pytest.fixture
async def api(server: Any):  # type: ignore[no-untyped-def]
    async with AsyncClient(config_of(server)) as client:
        yield client


async def test_a_session_from_birth_to_end(server: Any, api: AsyncClient) -> None:
    made = await api.sessions.create(
        image="python",
        name="mine",
        resources={"cpu": 1, "mem": "256m"},
        environ={"A": "b"},
        resource_group="gpu",
    )
    assert (made.name, made.status, made.created) == ("mine", "RUNNING", True)
    sent = next(body for method, path, body in server.requests if (method, path) == ("POST", "/session"))
    assert sent["image"] == "python" and sent["reuseIfExists"] is True
    assert (
        sent["config"]["resources"] == {"cpu": 1, "mem": "256m"} and sent["config"]["scalingGroup"] == "gpu"
    )
    assert not (await api.sessions.create(image="python", name="mine")).created
    assert (await api.sessions.get("mine")).id == made.id
    assert [one.name for one in (await api.sessions.list()).items] == ["mine"]
    await made.rename("other name/with slash")
    assert (await api.sessions.get("other name/with slash")).id == made.id
    await made.restart()
    assert (await made.destroy())["status"] == "terminated"
    assert (await api.sessions.list()).items == []
    assert [one.status for one in (await api.sessions.list(statuses=())).items] == ["TERMINATED"]


@pytest.mark.parametrize("transport", ["websocket", "http"])
async def test_output_comes_in_order_and_input_is_answered(api: AsyncClient, transport: Any) -> None:
    asked: list[bool] = []

    def on_input(request: InputRequest) -> str:
        asked.append(request.is_password)
        return "blue"

    session = await api.sessions.create(image="python")
    code = "out one\nerr two\nask\naskpass\nmedia\nexit 3"
    items = [item async for item in session.execute(code, on_input=on_input, transport=transport)]
    assert [i.text for i in items if isinstance(i, Text)] == [
        "one\n", "two\n", "? ", "got blue\n", "? ", "got blue\n",
    ]  # fmt: skip
    assert asked == [False, True]
    assert [i.mime for i in items if isinstance(i, Media)] == ["image/png"]
    assert items[-1] == Finished(3)


@pytest.mark.parametrize("transport", ["websocket", "http"])
async def test_a_batch_has_steps(api: AsyncClient, transport: Any) -> None:
    session = await api.sessions.create(image="python")
    await session.write_file("main.toy", b"out built\nexit 7")
    ran = await session.run(mode="batch", options=batch_options(build="make all"), transport=transport)
    assert [i.step for i in ran.items if isinstance(i, StepEnd)] == ["clean", "build"]
    assert (ran.stdout, ran.exit_code) == ("built\n", 7)
    assert Text("log", "build make all\n") in ran.items


async def test_a_console_runs_many_over_one_socket(server: Any, api: AsyncClient) -> None:
    session = await api.sessions.create(image="python")
    async with session.console() as console:
        for number in range(3):
            assert (await console.run(f"out {number}")).stdout == f"{number}\n"
    assert len([path for _, path, _ in server.requests if path.endswith("/execute?keep=1")]) == 1


async def test_input_that_nobody_gives(api: AsyncClient) -> None:
    session = await api.sessions.create(image="python")
    with pytest.raises(InvalidCall, match="waits for input"):
        await session.run("ask")


async def test_an_interrupt_ends_the_run_also_while_it_asks(api: AsyncClient) -> None:
    session = await api.sessions.create(image="python")
    running = asyncio.create_task(session.run("out on\nloop"))
    asking = asyncio.Event()

    async def never(_: InputRequest) -> str:
        asking.set()
        await asyncio.Event().wait()
        return ""

    while not running.done():
        await session.interrupt()
        await asyncio.sleep(0.01)
    assert running.result().stderr == "KeyboardInterrupt\n"
    waiting = asyncio.create_task(session.run("ask\nout after", on_input=never))
    await asking.wait()
    await session.interrupt()
    assert (await waiting).stdout == "? after\n"


async def test_refusals_keep_everything_the_server_said(api: AsyncClient) -> None:
    with pytest.raises(ApiError) as refused:
        await api.sessions.create(image="cobol")
    told = refused.value
    assert (told.status, told.code, told.fault.value) == (404, "image.not-found", "user")
    assert told.title == "No such environment image." and "cobol" in told.message and "Known" in told.hint


async def test_a_refused_stream_says_why(api: AsyncClient) -> None:
    with pytest.raises(ApiError) as refused:
        await api.sessions.at("gone").run("out x")
    assert refused.value.code == "session.not-found" and refused.value.hint


async def test_a_session_that_dies_under_a_run(api: AsyncClient) -> None:
    session = await api.sessions.create(image="python")
    with pytest.raises(ApiError) as broken:
        await session.run("out before\ndie")
    assert broken.value.code == "session.not-found"
    found = await api.sessions.find(session.id)
    assert found is not None and found.reason == "out-of-memory"


async def test_nobody_answers_and_another_endpoint_does(server: Any) -> None:
    async with AsyncClient(config_of(server, endpoint="http://127.0.0.1:1")) as api:
        with pytest.raises(Unreachable, match=r"nothing answers at http://127.0.0.1:1"):
            await api.version()
    async with AsyncClient(config_of(server, endpoint=f"http://127.0.0.1:1,{server.url}")) as api:
        assert (await api.version()).manager == "25.5.2"
        session = await api.sessions.create(image="python")
        assert (await session.run("out x")).stdout == "x\n"


async def test_a_wrong_key_is_refused(server: Any) -> None:
    async with AsyncClient(config_of(server, secret_key="wrong")) as api:
        with pytest.raises(ApiError, match="Signature mismatch") as refused:
            await api.sessions.list()
    assert refused.value.status == 401
    server.refused.clear()


async def test_files_there_and_back(server: Any, api: AsyncClient, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub dir").mkdir(parents=True)
    for number in range(45):
        (tree / "sub dir" / f"ü{number}.bin").write_bytes(bytes([number]) * 100)
    (tree / "empty").write_bytes(b"")
    session = await api.sessions.create(image="python")
    names = await session.upload([tree])
    assert len(names) == 46 and "tree/sub dir/ü7.bin" in names
    assert server.sessions[session.id].files["tree/sub dir/ü7.bin"] == bytes([7]) * 100
    assert len([p for m, p, _ in server.requests if p.endswith("/upload")]) == 3, "20 files a request"
    got = await session.download([f"tree/sub dir/ü{n}.bin" for n in range(7)], tmp_path / "down")
    assert [p.read_bytes() for p in got] == [bytes([n]) * 100 for n in range(7)]
    assert await session.read_file("tree/empty") == b""
    assert len(await session.list_files()) == 46
    assert await session.upload([tree / "empty"], basedir=tmp_path) == ["tree/empty"]


async def test_what_can_not_be_uploaded_is_refused_before_sending(
    server: Any, api: AsyncClient, tmp_path: Path
) -> None:
    (tmp_path / "fine").write_bytes(b"x")
    (tmp_path / "big").write_bytes(b"x" * ((1 << 20) + 1))
    session = await api.sessions.create(image="python")
    for paths, basedir, words in (
        (["fine", "big"], None, "too large"),
        (["nothing"], None, "does not exist"),
        (["fine"], tmp_path / "other", "not inside"),
    ):
        with pytest.raises(InvalidCall, match=words):
            await session.upload([tmp_path / p for p in paths], basedir=basedir)
    assert not server.sessions[session.id].files


async def test_events_resume_where_the_connection_broke(server: Any, api: AsyncClient) -> None:
    server.events_cut = 2
    seen = [(e.id, e.name) async for e in api.sessions.events("some-name")]
    assert seen == [("1", "session_enqueued"), ("2", "session_started"), ("3", "session_terminated")]
    assert "/events/session?scope=%2A&sessionName=some-name" in [path for _, path, _ in server.requests]


async def test_a_temporary_session_ends_with_its_block(server: Any, api: AsyncClient) -> None:
    with pytest.raises(ZeroDivisionError):
        async with api.sessions.temporary(image="python") as session:
            assert server.sessions[session.id].status == "RUNNING"
            raise ZeroDivisionError
    assert server.sessions[session.id].status == "TERMINATED"
    async with await api.sessions.create(image="python") as second:
        await second.destroy()


async def test_completion_logs_images(api: AsyncClient) -> None:
    session = await api.sessions.create(image="python")
    await session.run("out said")
    assert await session.logs() == "said\n"
    assert await session.complete("impor") == ["impor_done"]
    assert [image.name for image in await api.images()] == ["local/python:3.11"]
    assert (await api.health()).agents == 1


def test_the_blocking_twin_does_the_same(server: Any, tmp_path: Path) -> None:
    with Client(config_of(server)) as api:
        with api.sessions.create(image="python", name="twin") as session:
            assert session.created and session.name == "twin"
            assert session.run("out 1\nask", on_input=lambda _: "x").stdout == "1\n? got x\n"
            assert [i.text for i in session.execute("out a\nout b") if isinstance(i, Text)] == ["a\n", "b\n"]
            stream = session.execute("out first\nloop")
            assert next(stream) == Text("stdout", "first\n")
            stream.close()  # type: ignore[attr-defined]
            with session.console() as console:
                assert console.run("out c").stdout == "c\n"
            (tmp_path / "f").write_bytes(b"f")
            assert session.upload([tmp_path / "f"]) == ["f"]
        assert [e.name for e in api.sessions.events("twin")][-1] == "session_terminated"
        with pytest.raises(ApiError):
            api.sessions.get("twin")
        assert api.version().manager == "25.5.2"
