"""The runner client: with hostile and slow peers in memory, and with the real runner over a real socket."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ai.backend.kernel.protocol
from ai.backend.agent.runner.client import OUTPUT_BYTES_MAX, Runner
from ai.backend.agent.runner.link import ZmtpLink
from ai.backend.common.errors import KernelExecutionFailed
from ai.backend.common.wire.rpc import Execute, ExecuteReply
from ai.backend.kernel import protocol as p

ID = UUID(int=1)
LAUNCH = Path(ai.backend.kernel.protocol.__file__).parent / "launch.py"


class MemoryLink:
    def __init__(self, on_message: Callable[[list[bytes]], None]) -> None:
        self.on_message = on_message
        self.sent: list[p.Message] = []
        self.paused = False

    def send(self, frames: list[bytes]) -> None:
        self.sent.append(p.decode(frames))

    def says(self, *messages: p.Message) -> None:
        for message in messages:
            self.on_message(p.encode(message))

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def close(self) -> None:
        pass


def make(killed: list[str] | None = None) -> tuple[Runner, MemoryLink]:
    links: list[MemoryLink] = []

    def link_of(on_message: Callable[[list[bytes]], None]) -> MemoryLink:
        links.append(MemoryLink(on_message))
        return links[0]

    runner = Runner(link_of, on_killed=(killed if killed is not None else []).append, on_dying=lambda _: None)
    return runner, links[0]


def query(code: str = "", run_id: str = "r1", mode: str = "query", flush_s: float = 5.0) -> Execute:
    return Execute(kernel_id=ID, run_id=run_id, mode=mode, code=code, flush_s=flush_s)  # type: ignore[arg-type]


async def test_output_is_merged_in_order_and_ends_with_the_run() -> None:
    runner, link = make()
    running = asyncio.create_task(runner.execute(query("x")))
    await asyncio.sleep(0)
    link.says(
        p.Stdout("r1", "a"), p.Stdout("r1", "b"), p.Stderr("r1", "c"), p.Media("r1", "image/png", "data:,"),
        p.Stdout("r1", "d"), p.Finished("r1", 0),
    )  # fmt: skip
    reply = await running
    assert reply.console == [
        ("stdout", "ab"),
        ("stderr", "c"),
        ("media", ("image/png", "data:,")),
        ("stdout", "d"),
    ]
    assert (reply.status, reply.exit_code) == ("finished", 0)
    with pytest.raises(KernelExecutionFailed):
        await runner.execute(query(mode="continue"))


async def test_without_news_it_answers_after_the_flush_time_and_goes_on() -> None:
    runner, link = make()
    assert (await runner.execute(query("x", flush_s=0.01))).status == "continued"
    link.says(p.Stdout("r1", "late"), p.WaitingInput("r1", True))
    reply = await runner.execute(query(mode="continue"))
    assert (reply.status, reply.is_password, reply.console) == ("waiting-input", True, [("stdout", "late")])
    running = asyncio.create_task(runner.execute(query("typed", mode="input")))
    await asyncio.sleep(0)
    assert link.sent[-1] == p.Input("r1", "typed")
    link.says(p.Finished("r1", 0))
    assert (await running).status == "finished"


async def test_batch_steps_come_one_by_one_however_fast_they_end() -> None:
    runner, link = make()
    running = asyncio.create_task(runner.execute(query(mode="batch")))
    await asyncio.sleep(0)
    link.says(
        p.CleanFinished("r1", 0), p.Stdout("r1", "built"), p.BuildFinished("r1", 0), p.Finished("r1", 3)
    )
    replies = [await running] + [await runner.execute(query(mode="continue")) for _ in range(2)]
    assert [(r.status, r.exit_code, r.console) for r in replies] == [
        ("clean-finished", 0, []),
        ("build-finished", 0, [("stdout", "built")]),
        ("finished", 3, []),
    ]


async def test_a_kernel_that_goes_ends_every_run() -> None:
    runner, _ = make()
    running = [asyncio.create_task(runner.execute(query(run_id=f"r{n}"))) for n in range(3)]
    await asyncio.sleep(0)
    runner.end("it is gone\n")
    for reply in await asyncio.gather(*running):
        assert (reply.status, reply.exit_code, reply.console) == (
            "finished",
            130,
            [("stderr", "it is gone\n")],
        )
    assert (await runner.execute(query(run_id="new"))).exit_code == 130


async def test_a_killed_language_waits_for_its_explanation() -> None:
    killed: list[str] = []
    runner, link = make(killed)
    running = asyncio.create_task(runner.execute(query()))
    await asyncio.sleep(0)
    link.says(p.Finished("r1", 137))
    await asyncio.sleep(0.01)
    assert killed == ["r1"] and not running.done()
    runner.settle("r1", "too much memory")
    assert (await running).console == [("stderr", "too much memory")]


async def test_much_unread_output_holds_the_runner_back_and_reading_lets_it_go_on() -> None:
    runner, link = make()
    await runner.execute(query(flush_s=0))
    piece = "x" * (1 << 20)
    sent = 0
    while not link.paused:
        link.says(p.Stdout("r1", piece))
        sent += 1
        assert sent < 100
    assert OUTPUT_BYTES_MAX - (1 << 20) <= sent << 20 <= OUTPUT_BYTES_MAX + (2 << 20)
    reply = await runner.execute(query(mode="continue"))
    assert len(reply.console[0][1]) == sent << 20 and not link.paused


@pytest.mark.parametrize(
    "record", [p.Stdout("r1", ""), p.WaitingInput("r1", False), p.Media("r1", "x" * 1000, "")]
)
async def test_records_without_text_are_not_free(record: p.Message) -> None:
    runner, link = make()
    await runner.execute(query(flush_s=0))
    sent = 0
    while not link.paused:
        link.says(record)
        sent += 1
        assert sent <= OUTPUT_BYTES_MAX // 64 + 1


async def test_a_rich_result_of_any_published_size_arrives(real: Runner) -> None:
    code = "class R:\n    def _repr_html_(self): return 'x' * 10_000_000\nR()"
    reply, html = await run(real, code, "rich"), ""
    while True:
        html += "".join(str(value) for kind, value in reply.console if kind == "html")
        if reply.status == "finished":
            break
        reply = await real.execute(query("", "rich", "continue", flush_s=20))
    assert len(html) == 10_000_000
    assert (await run(real, "print(1)", "after")).console == [("stdout", "1\n")]


async def test_two_runs_of_one_id_and_too_many_runs_are_refused() -> None:
    runner, _ = make()
    await runner.execute(query(flush_s=0))
    with pytest.raises(KernelExecutionFailed):
        await runner.execute(query())
    for number in range(63):
        await runner.execute(query(run_id=f"n{number}", flush_s=0))
    with pytest.raises(KernelExecutionFailed):
        await runner.execute(query(run_id="one more"))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.binary(max_size=20), max_size=5), max_size=10))
def test_hostile_frames_are_dropped(stream: list[list[bytes]]) -> None:
    async def run() -> None:
        runner, link = make()
        await runner.execute(query(flush_s=0))
        for frames in stream:
            link.on_message(frames)
        link.says(p.Finished("r1", 0))
        assert (await runner.execute(query(mode="continue"))).status == "finished"

    asyncio.run(run())


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[Runner]:
    (tmp_path / "environ.txt").write_text("GREETING=hi\n")
    runner = Runner(
        lambda on_message: ZmtpLink(tmp_path, os.getuid(), on_message),
        on_killed=lambda run_id: runner.settle(run_id, "killed"),
        on_dying=lambda _: None,
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", str(LAUNCH), "--runtime-type", "python", "--socket", str(tmp_path / "runner.sock"),
        "--home", str(tmp_path), "--environ", str(tmp_path / "environ.txt"),
    )  # fmt: skip
    await asyncio.wait_for(runner.ready.wait(), 20)
    yield runner
    runner.close()
    process.terminate()
    await process.wait()


async def run(runner: Runner, code: str, run_id: str) -> ExecuteReply:
    return await runner.execute(query(code, run_id, flush_s=20))


async def test_the_real_runner(real: Runner) -> None:
    assert real.runtime.startswith("python")
    await run(real, "import os; x = os.environ['GREETING']", "1")
    assert (await run(real, "print(x, 42)", "2")).console == [("stdout", "hi 42\n")]
    assert "ZeroDivisionError" in str((await run(real, "1/0", "3")).console)
    waiting = await run(real, "name = input('who? ')", "4")
    assert waiting.status == "waiting-input"
    assert (await real.execute(query("world", "4", "input"))).status == "finished"
    assert (await run(real, "print(name)", "5")).console == [("stdout", "world\n")]
    endless = asyncio.create_task(run(real, "while True: pass", "6"))
    await asyncio.sleep(0.2)
    real.interrupt("6")
    assert (await endless).exit_code == 130
    assert "os.path" in await real.complete("os.pat", 0, 6, "os.pat", "")
    killed = await run(real, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "7")
    assert killed.exit_code == 137 and ("stderr" in dict(killed.console))


async def test_the_real_runner_is_held_back_by_a_slow_reader(real: Runner) -> None:
    reply = await real.execute(query("for i in range(400): print('x' * 100_000)", "big", flush_s=0))
    await asyncio.sleep(1.0)
    assert real._pending() < OUTPUT_BYTES_MAX + (8 << 20)
    total = 0
    while reply.status != "finished":
        total += sum(len(text) for _, text in reply.console)
        reply = await real.execute(query("", "big", "continue", flush_s=5))
    total += sum(len(text) for _, text in reply.console)
    assert total == 400 * 100_001
