"""The runner's machine: the table is total, and over all sequences of events every run is finished exactly once."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ai.backend.kernel import machine as m
from ai.backend.kernel.protocol import (
    BuildFinished,
    CleanFinished,
    Complete,
    Completions,
    Connect,
    Dying,
    Finished,
    Input,
    Interrupt,
    OpenTerminal,
    Ready,
    Run,
    Shutdown,
    Status,
    StatusReply,
    Stderr,
    Stdout,
    StreamFailed,
    WaitingInput,
)


def query(run_id: str, code: str = "1") -> Run:
    return Run(run_id, "query", code, "", "", "")


def batch(run_id: str, clean: str = "", build: str = "", exec: str = "") -> Run:
    return Run(run_id, "batch", "", clean, build, exec)


def started() -> m.Machine:
    machine = m.Machine("python", True)
    assert machine.start() == [m.StartWorker()]
    assert machine.handle(m.WorkerReady("python 3.11.7")) == [m.Send(Ready(1, "python 3.11.7"))]
    return machine


def test_the_table_is_total() -> None:
    assert set(m.TABLE) == {(phase, event) for phase in m.PHASES for event in m.Event.__args__}


RUN_IDS = st.sampled_from(["a", "b", "c"])
COMMANDS = st.sampled_from(["", "*", "make"])
EVENTS = st.one_of(
    st.builds(query, RUN_IDS),
    st.builds(batch, RUN_IDS, COMMANDS, COMMANDS, COMMANDS),
    st.builds(Run, RUN_IDS, st.just("odd"), st.just(""), st.just(""), st.just(""), st.just("")),
    st.builds(Input, RUN_IDS, st.just("text")),
    st.builds(Interrupt, st.sampled_from(["", "a", "b"])),
    st.builds(Complete, st.sampled_from("qp"), st.just(""), st.just(0), st.just(0), st.just(""), st.just("")),
    st.builds(Status, st.just("s")),
    st.just(m.WorkerReady("python 3")),
    st.builds(m.WorkerText, st.sampled_from(["stdout", "stderr"]), st.just("x")),
    st.just(m.WorkerMedia("image/png", "data:")),
    st.just(m.WorkerHtml("<b>")),
    st.builds(m.WorkerAsked, st.booleans()),
    st.builds(m.WorkerDone, st.sampled_from([0, 130])),
    st.builds(m.WorkerMatches, st.sampled_from("qp"), st.just(("x",))),
    st.builds(m.WorkerEnded, st.just(1), st.sampled_from([0, 9])),
    st.builds(m.StepText, st.integers(1, 4), st.just("stdout"), st.just("x")),
    st.builds(m.StepAsked, st.integers(1, 4), st.booleans()),
    st.builds(m.StepEnded, st.integers(1, 4), st.sampled_from([0, 2])),
    st.builds(Connect, st.sampled_from("xy"), st.sampled_from([0, 80, 70000])),
    st.builds(OpenTerminal, st.sampled_from("tu"), st.just(24), st.just(80)),
    st.builds(m.Dialed, st.sampled_from("xy")),
    st.builds(m.DialFailed, st.sampled_from("xy"), st.booleans(), st.just("why")),
    st.builds(m.TerminalEnded, st.sampled_from("tu"), st.sampled_from(["", "why"])),
    st.sampled_from([Shutdown(""), m.Terminated()]),
)


@settings(max_examples=400)
@given(st.booleans(), st.lists(EVENTS, max_size=40))
def test_every_run_is_finished_exactly_once(has_worker: bool, events: list[Any]) -> None:
    machine = m.Machine("python", has_worker)
    machine.start()
    live: set[str] = set()
    questions: dict[str, int] = {}
    running = 0
    exits = 0
    for event in [*events, Shutdown("end")]:
        if isinstance(event, Run):
            live.add(event.run_id)
        if isinstance(event, Complete) and machine.phase != m.ENDED:
            questions[event.request_id] = questions.get(event.request_id, 0) + 1
        if isinstance(event, m.WorkerDone | m.WorkerEnded | m.StepEnded):
            running = 0
        for effect in machine.handle(event):
            if isinstance(effect, m.RunCode | m.StartStep):
                assert not running, "two things run at once"
                running = 1
            if isinstance(effect, m.Exit):
                exits += 1
            if isinstance(effect, m.GiveInput | m.GiveStepInput):
                assert isinstance(event, Input)
            if isinstance(effect, m.InterruptWorker | m.SignalStep):
                assert isinstance(event, Interrupt)
            if not isinstance(effect, m.Send):
                continue
            message = effect.message
            if isinstance(message, Finished):
                assert message.run_id in live, "finished twice, or never begun"
                live.remove(message.run_id)
            elif isinstance(message, Completions):
                questions[message.request_id] -= 1
                assert questions[message.request_id] >= 0
            elif isinstance(message, StreamFailed):
                assert event.stream_id == message.stream_id
            elif not isinstance(message, Ready | StatusReply | Dying):
                assert message.run_id in live, f"{message} after its run"
        # A step that ended with a stale token goes on in the machine's eyes.
        running = int(machine.phase in (m.QUERY, m.BATCH))
    assert not live
    assert exits == 1


def test_runs_wait_for_the_worker_and_for_each_other() -> None:
    machine = m.Machine("python", True)
    machine.start()
    assert machine.handle(query("a", "1")) == []
    assert machine.handle(query("b", "2")) == []
    assert machine.handle(m.WorkerReady("p"))[1:] == [m.RunCode("1")]
    assert machine.handle(m.WorkerDone(0)) == [m.Send(Finished("a", 0)), m.RunCode("2")]


def test_a_repeated_run_is_answered_once() -> None:
    machine = started()
    assert machine.handle(query("a")) == [m.RunCode("1")]
    assert machine.handle(query("a")) == []
    assert machine.handle(m.WorkerDone(0)) == [m.Send(Finished("a", 0))]


def test_an_interrupt_reaches_only_its_run() -> None:
    machine = started()
    assert machine.handle(Interrupt("")) == []
    machine.handle(query("a"))
    assert machine.handle(Interrupt("b")) == []
    assert machine.handle(Interrupt("a")) == [m.InterruptWorker()]
    assert machine.handle(Interrupt("")) == [m.InterruptWorker()]


def test_input_is_given_only_when_asked_and_once() -> None:
    machine = started()
    machine.handle(query("a"))
    assert machine.handle(Input("a", "early")) == []
    assert machine.handle(m.WorkerAsked(True)) == [m.Send(WaitingInput("a", True))]
    assert machine.handle(Input("b", "wrong")) == []
    assert machine.handle(Input("a", "x")) == [m.GiveInput("x")]
    assert machine.handle(Input("a", "x")) == []


def test_a_killed_worker_ends_the_run_and_is_replaced() -> None:
    machine = started()
    machine.handle(query("a"))
    effects = machine.handle(m.WorkerEnded(0, 9))
    assert effects[0] == m.StartWorker()
    assert "killed by signal 9 (SIGKILL)" in effects[1].message.text  # type: ignore[union-attr]
    assert effects[2] == m.Send(Finished("a", 137))
    assert machine.handle(query("b")) == []
    assert machine.handle(m.WorkerReady("p")) == [m.RunCode("1")]


def test_completions_are_answered_even_when_the_worker_dies() -> None:
    machine = started()
    request = Complete("q", "x", 0, 1, "x", "")
    assert machine.handle(request) == [m.AskMatches(request)]
    assert machine.handle(m.WorkerEnded(0, 9)) == [m.Send(Completions("q", ())), m.StartWorker()]
    assert machine.handle(m.WorkerMatches("q", ("late",))) == []
    assert machine.handle(request) == [m.Send(Completions("q", ()))]


def test_a_worker_that_died_idle_is_told_to_the_next_run() -> None:
    machine = started()
    assert machine.handle(m.WorkerEnded(3, 0)) == [m.StartWorker()]
    machine.handle(m.WorkerReady("p"))
    effects = machine.handle(query("a"))
    assert "exit code 3" in effects[0].message.text  # type: ignore[union-attr]
    assert effects[1] == m.RunCode("1")


def test_a_worker_that_never_gets_ready_ends_the_runner() -> None:
    machine = m.Machine("python", True)
    machine.start()
    machine.handle(query("a"))
    machine.handle(m.WorkerText("stderr", "no such file"))
    dying, finished, leave = machine.handle(m.WorkerEnded(127, 0))
    assert dying.message == Dying(  # type: ignore[union-attr]
        127, "the python interpreter ended with exit code 127 before it was ready: no such file"
    )
    assert finished == m.Send(Finished("a", 130))
    assert leave == m.Exit(1)


def test_the_steps_of_a_batch_run() -> None:
    machine = m.Machine("c", False)
    assert machine.start() == [m.Send(Ready(1, "c"))]
    assert machine.handle(batch("a", "rm x", "*", "./x")) == [m.StartStep(1, "clean", "rm x")]
    assert machine.handle(m.StepText(1, "stdout", "o")) == [m.Send(Stdout("a", "o"))]
    assert machine.handle(m.StepEnded(1, 5)) == [m.Send(CleanFinished("a", 5)), m.StartStep(2, "build", "*")]
    assert machine.handle(m.StepText(1, "stdout", "late")) == []
    assert machine.handle(m.StepEnded(2, 0)) == [m.Send(BuildFinished("a", 0)), m.StartStep(3, "exec", "./x")]
    assert machine.handle(m.StepEnded(3, 7)) == [m.Send(Finished("a", 7))]


def test_nothing_is_run_after_a_failed_build() -> None:
    machine = m.Machine("c", False)
    machine.handle(batch("a", "", "*", "*"))
    effects = machine.handle(m.StepEnded(1, 2))
    assert effects[0] == m.Send(BuildFinished("a", 2))
    assert isinstance(effects[1].message, Stderr)  # type: ignore[union-attr]
    assert effects[2] == m.Send(Finished("a", 127))


def test_interrupts_of_a_batch_run_escalate() -> None:
    machine = m.Machine("c", False)
    machine.handle(batch("a", exec="sleep 9"))
    signals = [machine.handle(Interrupt("a")) for _ in range(4)]
    assert signals == [[m.SignalStep(2)], [m.SignalStep(15)], [m.SignalStep(9)], [m.SignalStep(9)]]
    assert machine.handle(m.StepEnded(1, 130)) == [m.Send(Finished("a", 130))]


def test_no_query_mode_says_what_there_is() -> None:
    machine = m.Machine("c", False, "batch")
    text, finished = machine.handle(query("a"))
    assert text == m.Send(Stderr("a", "c has no interactive mode here; it supports: batch\n"))
    assert finished == m.Send(Finished("a", 127))


def test_the_line_is_bounded() -> None:
    machine = started()
    for number in range(m.QUEUE_MAX + 1):
        machine.handle(query(f"r{number}"))
    refusal = machine.handle(query("one too many"))
    assert refusal[-1] == m.Send(Finished("one too many", m.EXIT_REFUSED))


def test_a_run_that_is_run_at_most_once_answers_again_with_its_end() -> None:
    machine = started()
    once = batch("once:x", exec="make")
    assert machine.handle(once) == [m.StartStep(1, "exec", "make")]
    assert machine.handle(once) == []
    assert machine.handle(m.StepEnded(1, 7)) == [m.Send(Finished("once:x", 7))]
    assert machine.handle(once) == [m.Send(Finished("once:x", 7))]
    assert machine.handle(batch("often", exec="make")) == [m.StartStep(2, "exec", "make")]
    machine.handle(m.StepEnded(2, 0))
    assert machine.handle(batch("often", exec="make")) == [m.StartStep(3, "exec", "make")]


def connect(stream_id: str, port: int = 80) -> Connect:
    return Connect(stream_id, port)


@settings(max_examples=300)
@given(st.lists(EVENTS, max_size=40))
def test_every_stream_is_begun_or_refused_once_and_has_one_outcome(events: list[Any]) -> None:
    machine = m.Machine("python", True)
    machine.start()
    begun: set[str] = set()
    for event in events:
        effects = machine.handle(event)
        starts = [e.stream_id for e in effects if isinstance(e, m.Dial | m.StartTerminal)]
        failures = [
            e.message.stream_id
            for e in effects
            if isinstance(e, m.Send) and isinstance(e.message, StreamFailed)
        ]
        if isinstance(event, Connect | OpenTerminal):
            assert len(starts) + len(failures) == (0 if event.stream_id in begun and not failures else 1)
            begun.update(starts)
        elif isinstance(event, m.Dialed | m.DialFailed | m.TerminalEnded):
            told = isinstance(event, m.DialFailed) or bool(getattr(event, "failure", ""))
            assert failures == ([event.stream_id] if told and event.stream_id in begun else [])
            begun.discard(event.stream_id)
        else:
            assert not starts and not failures


def test_connections_are_made_while_a_run_goes_on() -> None:
    machine = started()
    machine.handle(query("a"))
    assert machine.handle(connect("x", 8080)) == [m.Dial("x", 8080)]
    assert machine.handle(connect("x", 8080)) == []
    assert machine.handle(m.DialFailed("x", True, "nobody")) == [m.Send(StreamFailed("x", True, "nobody"))]
    assert machine.handle(m.DialFailed("x", True, "again")) == []
    assert machine.handle(OpenTerminal("t", 24, 80)) == [m.StartTerminal("t", 24, 80)]
    assert machine.handle(m.TerminalEnded("t", "")) == []


def test_streams_are_bounded_and_ports_are_ports() -> None:
    machine = started()
    for number in range(m.DIALS_MAX):
        assert machine.handle(connect(f"c{number}")) == [m.Dial(f"c{number}", 80)]
    (refused,) = machine.handle(connect("one too many"))
    assert refused.message.refused is False  # type: ignore[union-attr]
    machine.handle(m.Dialed("c0"))
    assert machine.handle(connect("now")) == [m.Dial("now", 80)]
    for number in range(m.TERMINALS_MAX):
        machine.handle(OpenTerminal(f"t{number}", 24, 80))
    (refused,) = machine.handle(OpenTerminal("one too many", 24, 80))
    assert isinstance(refused.message, StreamFailed)  # type: ignore[union-attr]
    for port in (-1, 0, 65536):
        (refused,) = started().handle(connect("x", port))
        assert isinstance(refused.message, StreamFailed)  # type: ignore[union-attr]


def test_no_stream_is_begun_at_the_end() -> None:
    machine = started()
    machine.handle(Shutdown(""))
    for event in (connect("x"), OpenTerminal("x", 24, 80)):
        assert machine.handle(event) == [m.Send(StreamFailed("x", False, "the session is ending"))]
