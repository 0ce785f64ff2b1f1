"""The real runner and worker, over a real ZeroMQ socket: what a user of query mode sees."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ai.backend.kernel.protocol import (
    Complete,
    Completions,
    Dying,
    Finished,
    Html,
    Input,
    Interrupt,
    Media,
    Run,
    Shutdown,
    Status,
    StatusReply,
    Stderr,
    Stdout,
    WaitingInput,
)

Start = Callable[..., Any]
OTHERS = sorted(
    path
    for path in {
        *Path.home().glob(".pyenv/versions/3.*/bin/python3"),
        Path("/usr/bin/python3"),
    }
    if path.exists()
)
OLDEST = [path for path in OTHERS if path.parent.parent.name.startswith("3.8")]


def test_state_persists_and_the_last_value_is_shown(agent: Any) -> None:
    assert agent.ready.runtime.startswith("python 3.")
    assert agent.run("x = 41") == [Finished("r1", 0)]
    assert agent.run("x + 1", "r2") == [Stdout("r2", "42\n"), Finished("r2", 0)]
    assert agent.run("_ + 1", "r3")[0] == Stdout("r3", "43\n")
    assert agent.run("None") == [Finished("r1", 0)]
    assert agent.run("") == [Finished("r1", 0)]


def test_output_keeps_its_order(agent: Any) -> None:
    code = "import os, sys, subprocess\nfor i in range(3):\n print('o', i); print('e', i, file=sys.stderr); os.system(f'echo s {i}')\n"
    records = agent.run(code)
    assert "".join(record.text for record in records[:-1]) == "o 0\ne 0\ns 0\no 1\ne 1\ns 1\no 2\ne 2\ns 2\n"
    assert [type(record) for record in records[:2]] == [Stdout, Stderr]
    records = agent.run(
        "print(1)\nsubprocess.run(['sh', '-c', 'echo 2; echo 3 >&2'])\nprint(4, flush=True)\nos.write(1, b'5') and None"
    )
    assert agent.out(records) == "1\n2\n4\n5"
    assert agent.err(records) == "3\n"


def test_output_after_a_subprocess_comes_after_its_own(agent: Any) -> None:
    code = "import os\nfor i in range(40): os.system(f'echo s {i}'); print('o', i, flush=True)"
    assert agent.out(agent.run(code)) == "".join(f"s {i}\no {i}\n" for i in range(40))


def test_many_small_prints_come_in_few_records(agent: Any) -> None:
    records = agent.run("for i in range(100_000): print(i)")
    assert agent.out(records) == "".join(f"{i}\n" for i in range(100_000))
    assert len(records) < 200


def test_a_print_before_a_pause_is_shown_before_it_ends(agent: Any) -> None:
    agent.send(Run("r1", "query", "import time\nprint('a'); print('b'); time.sleep(60)", "", "", ""))
    text = ""
    while "b\n" not in text:
        text += agent.receive().text
    agent.send(Interrupt("r1"))
    assert agent.expect(Finished)[-1].exit_code == 130


def test_errors_are_tracebacks_of_user_code_only(agent: Any) -> None:
    records = agent.run("def f():\n    return 1 / 0\nf()")
    text = agent.err(records)
    assert records[-1] == Finished("r1", 0)
    assert "return 1 / 0" in text
    assert text.rstrip().endswith("ZeroDivisionError: division by zero")
    assert "python_worker" not in text
    assert "SyntaxError" in agent.err(agent.run("def"))
    assert agent.err(agent.run("raise SystemExit('bye')")) == "bye\n"
    assert agent.run("exit()") == [Finished("r1", 0)]
    assert "python_worker" not in agent.err(agent.run("import json; json.loads('{')"))
    assert (
        agent.out(agent.run("import inspect\nprint(inspect.getsource(f))"))
        == "def f():\n    return 1 / 0\n\n"
    )


def test_rich_results(agent: Any) -> None:
    agent.run(
        "class H:\n def _repr_html_(self): return '<b>h</b>'\n"
        "class S:\n def _repr_svg_(self): return '<svg/>'\n"
        "class P:\n def _repr_png_(self): return b'\\x89PNG'\n"
        "class B:\n def _repr_mimebundle_(self, include=None, exclude=None):\n  return {'text/plain': 'p', 'image/png': 'aGk='}\n"
        "class Broken:\n def _repr_html_(self): 1 / 0\n def __repr__(self): return 'plain'\n"
    )
    assert agent.run("H()")[0] == Html("r1", "<b>h</b>")
    assert agent.run("S()")[0] == Media("r1", "image/svg+xml", "<svg/>")
    assert agent.run("P()")[0] == Media("r1", "image/png", "data:image/png;base64,iVBORw==")
    assert agent.run("B()")[0] == Media("r1", "image/png", "data:image/png;base64,aGk=")
    assert agent.run("Broken()")[0] == Stdout("r1", "plain\n")
    assert agent.run("print(1)\ndisplay(H(), 2)\nprint(3)")[:-1] == [
        Stdout("r1", "1\n"),
        Html("r1", "<b>h</b>"),
        Stdout("r1", "2\n3\n"),
    ]


def test_figures_are_shown_at_the_end(agent: Any) -> None:
    if (
        agent.out(agent.run("import importlib.util as u; print(u.find_spec('matplotlib') is not None)"))
        != "True\n"
    ):
        pytest.skip("matplotlib is not installed for the interpreter under test")
    records = agent.run("import matplotlib.pyplot as plt\nplt.plot([1, 2]) and None\nprint('x')")
    assert [type(record) for record in records] == [Stdout, Media, Finished]


def test_input_and_passwords(agent: Any) -> None:
    records = agent.run("name = input('who? '); print('hi', name)")
    assert records == [Stdout("r1", "who? "), WaitingInput("r1", False)]
    agent.send(Input("other", "wrong"))
    agent.send(Input("r1", "Bob"))
    assert agent.expect(Finished) == [Stdout("r1", "hi Bob\n"), Finished("r1", 0)]
    records = agent.run("import getpass, sys; p = getpass.getpass(); q = sys.stdin.readline(); (p, q)")
    assert records == [Stdout("r1", "Password: "), WaitingInput("r1", True)]
    agent.send(Input("r1", "s3cret"))
    assert agent.expect(WaitingInput) == [WaitingInput("r1", False)]
    agent.send(Input("r1", "line"))
    assert agent.expect(Finished)[0] == Stdout("r1", "('s3cret', 'line\\n')\n")


@pytest.mark.parametrize("code", ["while True: pass", "import time; time.sleep(60)", "input()"])
def test_interrupts(agent: Any, code: str) -> None:
    agent.run("kept = 1")
    agent.send(Interrupt(""))  # idle: dropped
    agent.send(Run("r1", "query", f"print('on')\n{code}\nimport time; time.sleep(60)", "", "", ""))
    agent.expect(Stdout)
    if "input" in code:
        agent.expect(WaitingInput)
    agent.send(Interrupt("another"))
    agent.send(Interrupt("r1"))
    records = agent.expect(Finished)
    assert records[-1] == Finished("r1", 130)
    assert "KeyboardInterrupt" in agent.err(records)
    agent.send(Interrupt("r1"))
    assert agent.run("kept", "r2") == [Stdout("r2", "1\n"), Finished("r2", 0)]


def test_an_interrupt_right_after_its_run_is_not_lost(agent: Any) -> None:
    for number in range(20):
        agent.send(Run(f"r{number}", "query", "while True: pass", "", "", ""))
        agent.send(Interrupt(f"r{number}"))
        assert agent.expect(Finished)[-1] == Finished(f"r{number}", 130)
        assert agent.run("1", "x") == [Stdout("x", "1\n"), Finished("x", 0)]


def test_an_interrupt_reaches_subprocesses(agent: Any) -> None:
    agent.send(
        Run("r1", "query", "import os\nprint('on')\nos.system('echo sub; exec sleep 60') & 127", "", "", "")
    )
    while "sub" not in agent.receive().text:
        pass
    agent.send(Interrupt("r1"))
    assert agent.expect(Finished) == [Stdout("r1", "2\n"), Finished("r1", 0)]


def test_user_code_may_handle_an_interrupt(agent: Any) -> None:
    agent.send(
        Run(
            "r1",
            "query",
            "try:\n print('on')\n while True: pass\nexcept KeyboardInterrupt: print('off')",
            "",
            "",
            "",
        )
    )
    agent.expect(Stdout)
    agent.send(Interrupt("r1"))
    assert agent.expect(Finished) == [Stdout("r1", "off\n"), Finished("r1", 0)]


def test_an_endless_printer_can_be_interrupted(agent: Any) -> None:
    agent.send(Run("r1", "query", "while True: print('x' * 100)", "", "", ""))
    agent.expect(Stdout)
    agent.send(Interrupt("r1"))
    assert agent.expect(Finished)[-1].exit_code == 130


def test_completion_idle_and_during_a_run(agent: Any) -> None:
    agent.run("import os\nfortytwo = 42")
    agent.send(Complete("c1", "fort", 0, 4, "fort", ""))
    assert agent.receive() == Completions("c1", ("fortytwo",))
    agent.send(Run("r1", "query", "print('on')\nwhile True: pass", "", "", ""))
    agent.expect(Stdout)
    agent.send(Complete("c2", "x = os.path.joi", 0, 15, "x = os.path.joi", ""))
    assert agent.expect(Completions)[-1] == Completions("c2", ("os.path.join",))
    agent.send(Complete("c3", "nothing.at.all", 0, 14, "nothing.at.all", ""))
    assert agent.expect(Completions)[-1] == Completions("c3", ())
    agent.send(Status("s1"))
    assert agent.expect(StatusReply)[-1] == StatusReply("s1", "r1", agent.ready.runtime)
    agent.send(Interrupt("r1"))
    agent.expect(Finished)


def test_runs_are_serial(agent: Any) -> None:
    for number in range(5):
        agent.send(Run(f"r{number}", "query", f"print({number})", "", "", ""))
    for number in range(5):
        assert agent.expect(Finished) == [Stdout(f"r{number}", f"{number}\n"), Finished(f"r{number}", 0)]


def test_modules_of_the_home_folder_pickle_and_await(agent: Any) -> None:
    (agent.home / "mine.py").write_text("value = 7\n")
    assert (
        agent.out(
            agent.run(
                "import mine, pickle\nclass C: pass\n(mine.value, type(pickle.loads(pickle.dumps(C()))) is C)"
            )
        )
        == "(7, True)\n"
    )
    code = "import asyncio\nasync def f():\n await asyncio.sleep(0)\n return 5\nawait f()"
    assert agent.out(agent.run(code)) == "5\n"
    assert agent.out(agent.run("asyncio.run(f())")) == "5\n"


def test_children_write_and_do_not_disturb(agent: Any) -> None:
    code = (
        "import multiprocessing, os\ndef f(x):\n print('child', x, flush=True)\n return x * 2\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool: print(sorted(pool.map(f, range(3))))\n"
        "if os.fork() == 0: print('forked')\nelse: os.wait() and None"
    )
    records = agent.run(code)
    assert "[0, 2, 4]" in agent.out(records)
    assert agent.out(records).count("child") == 3
    assert agent.out(records).count("forked") == 1
    assert records[-1] == Finished("r1", 0)
    assert agent.run("1")[0] == Stdout("r1", "1\n")


def test_a_killed_worker_is_told_and_replaced(agent: Any) -> None:
    agent.run("x = 1")
    records = agent.run("import os, signal; print('last words'); os.kill(os.getpid(), signal.SIGKILL)")
    assert agent.out(records) == "last words\n"
    assert "signal 9" in agent.err(records)
    assert records[-1] == Finished("r1", 137)
    assert "NameError" in agent.err(agent.run("x", "r2"))
    assert agent.run("os = __import__('os'); os._exit(3)")[-1] == Finished("r1", 3)
    assert agent.run("os = __import__('os'); os.abort()")[-1] == Finished("r1", 134)


def test_garbage_in_the_control_channel_costs_only_the_worker(agent: Any) -> None:
    assert agent.run("import os; os.write(3, b'\\xff' * 100)")[-1] == Finished("r1", 137)
    assert agent.run("1") == [Stdout("r1", "1\n"), Finished("r1", 0)]


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_slow_reader_bounds_the_memory_of_both(agent: Any) -> None:
    agent.socket.close()
    agent.socket = agent.bind(hwm=2)
    worker = int(agent.out(agent.run("import os; os.getpid()")))
    agent.send(Run("r1", "query", "line = 'x' * 999\nfor _ in range(30_000): print(line)", "", "", ""))
    before = rss_bytes(agent.process.pid), rss_bytes(worker)
    first = agent.receive()
    used = None
    while used != (used := cpu_ticks(worker)):  # until it is blocked
        time.sleep(0.2)
    for pid, then in zip((agent.process.pid, worker), before, strict=True):
        assert rss_bytes(pid) - then < 6 << 20
    received = len(first.text)
    peak = 0
    while True:
        record = agent.receive()
        if isinstance(record, Stdout):
            received += len(record.text)
        peak = max(peak, rss_bytes(agent.process.pid) - before[0])
        if isinstance(record, Finished):
            break
    assert received == 30_000 * 1000
    assert peak < 6 << 20
    assert rss_bytes(worker) - before[1] < 6 << 20


def test_the_runner_survives_a_restart_of_the_agent(agent: Any) -> None:
    agent.run("x = 5")
    agent.send(Run("r1", "query", "print('before'); input(); print('after')", "", "", ""))
    agent.expect(WaitingInput)
    agent.socket.close()
    agent.socket = agent.bind()
    agent.send(Status("s"))
    assert agent.expect(StatusReply)[-1].run_id == "r1"
    agent.send(Input("r1", ""))
    assert agent.expect(Finished) == [Stdout("r1", "after\n"), Finished("r1", 0)]
    assert agent.out(agent.run("x")) == "5\n"


def test_a_restart_amid_output_garbles_nothing(agent: Any) -> None:
    agent.socket.close()
    agent.socket = agent.bind(hwm=1)
    agent.send(Run("r1", "query", "for i in range(300_000): print(i)", "", "", ""))
    agent.expect(Stdout)
    for _ in range(3):
        agent.socket.close()
        agent.socket = agent.bind(hwm=1)
        text = agent.expect(Stdout)[-1].text  # what the last agent had taken is gone; what comes is whole
        assert text.splitlines()[1:-1] == [
            str(i) for i in range(int(text.splitlines()[1]), int(text.splitlines()[-2]) + 1)
        ]
    assert agent.expect(Finished)[-1] == Finished("r1", 0)


def test_unreadable_messages_are_dropped(agent: Any) -> None:
    for frames in ([b"nonsense"], [b"run", b"too few"], [b"finished", b"r", b"0"], [b"\xff" * 300] * 3):
        agent.socket.send_multipart(frames)
    assert agent.run("1") == [Stdout("r1", "1\n"), Finished("r1", 0)]


def test_a_broken_pipe_is_an_exception(agent: Any) -> None:
    code = "import os\nr, w = os.pipe(); os.close(r)\ntry: os.write(w, b'x')\nexcept BrokenPipeError: print('broken')"
    assert agent.run(code) == [Stdout("r1", "broken\n"), Finished("r1", 0)]


def test_the_environment(start: Start) -> None:
    agent = start()
    (agent.folder / "environ.txt").write_text("GREETING=hello=world\n\nbroken line\n")
    agent.send(Shutdown(""))
    assert agent.process.wait(10) == 0
    again = type(agent)(agent.folder)
    try:
        code = "import os; [os.environ[k] for k in ('GREETING', 'HOME', 'USER', 'LANG')], os.getcwd() == os.environ['HOME']"
        assert (
            again.out(again.run(code))
            == f"(['hello=world', '{agent.home}', 'work', '{os.environ.get('LANG', 'C.UTF-8')}'], True)\n"
        )
    finally:
        again.close()


def test_what_is_printed_is_in_the_container_log(agent: Any) -> None:
    agent.run("print('to the log'); __import__('os').system('echo from a child') and None")
    assert "to the log\nfrom a child\n" in agent.container_log()
    agent.run("line = 'y' * 1023\nfor _ in range(11 * 1024): print(line)")
    assert (agent.folder / "container.log").stat().st_size <= 10 << 20
    assert "dropped" in agent.container_log()


@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_sigterm_ends_it_in_order(agent: Any, number: int) -> None:
    worker = int(agent.out(agent.run("import os; os.getpid()")))
    agent.process.send_signal(number)
    assert agent.process.wait(10) == 0
    assert not Path(f"/proc/{worker}").exists()


def test_shutdown_finishes_what_runs(agent: Any) -> None:
    agent.send(Run("r1", "query", "print('on')\nwhile True: pass", "", "", ""))
    agent.expect(Stdout)
    agent.send(Shutdown("enough"))
    assert agent.expect(Finished)[-1] == Finished("r1", 130)
    assert agent.process.wait(10) == 0


def test_a_missing_interpreter_is_told(start: Start) -> None:
    agent = start("--runtime-path", "/nowhere/python3", ready=False)
    dying = agent.receive()
    assert isinstance(dying, Dying)
    assert "/nowhere/python3" in dying.reason
    assert agent.process.wait(10) == 1


@pytest.mark.parametrize(
    "interpreter", [*OLDEST[:1], *OTHERS[-1:], *(p for p in OTHERS if "3.13" in str(p))], ids=str
)
def test_the_worker_runs_under_the_interpreter_of_the_image(start: Start, interpreter: Path) -> None:
    agent = start("--runtime-path", str(interpreter))
    code = "import sys\nprint(sys.version_info[:2])\nprint('err', file=sys.stderr)\n1 / 0"
    records = agent.run(code)
    assert "ZeroDivisionError" in agent.err(records)
    assert agent.out(agent.run("sys.executable")).strip("'\n") != ""
    agent.run("name = input()")
    agent.send(Input("r1", "Eve"))
    agent.expect(Finished)
    assert agent.out(agent.run("name")) == "'Eve'\n"
    assert agent.out(agent.run("import asyncio\nawait asyncio.sleep(0, 3)")) == "3\n"
    agent.send(Run("r1", "query", "print(1)\nwhile True: pass", "", "", ""))
    agent.expect(Stdout)
    agent.send(Interrupt("r1"))
    assert agent.expect(Finished)[-1].exit_code == 130
