"""Each invariant is seen to fail: a check that can't fail is not one."""

from dataclasses import replace
from random import Random

from sim.checkers import Checkers, ContainerFact, KernelRow, NetworkFact, Rows, SessionRow
from sim.faults import Kind, plan
from sim.story import LINES_KEPT, Story

SESSION = SessionRow(
    id="s1", name="work", access_key="AK", status="RUNNING", version=1, has_deadline=False, reason=""
)
KERNEL = KernelRow(id="k1", session_id="s1", status="RUNNING", agent_id="i-1", slots={"cpu": 1000})
FACT = ContainerFact(agent_id="i-1", name="c1", kernel_id="k1", uid=1000, memory_bytes=1, cpu_milli=1000)


def rows(*sessions: SessionRow, kernels: tuple[KernelRow, ...] = ()) -> Rows:
    return Rows(sessions=sessions, kernels=kernels, capacities={"i-1": {"cpu": 2000}})


def fed(*steps: Rows, containers: tuple[ContainerFact, ...] = ()) -> list[str]:
    checkers = Checkers(patience_s=10)
    checkers.containers_changed(0, containers)
    for number, step in enumerate(steps):
        checkers.rows_changed(float(number), step)
    return checkers.violations


def test_a_sound_history() -> None:
    assert fed(rows(SESSION, kernels=(KERNEL,)), containers=(FACT,)) == []


def test_over_capacity() -> None:
    many = tuple(replace(KERNEL, id=f"k{n}") for n in range(3))
    assert "over capacity: cpu 3000 of 2000" in fed(rows(SESSION, kernels=many))[0]
    assert fed(rows(SESSION, kernels=(*many[:2], replace(many[2], status="TERMINATED")))) == []
    assert fed(rows(SESSION, kernels=(*many[:2], replace(many[2], status="PENDING")))) == []


def test_an_unknown_slot_is_over_capacity() -> None:
    assert fed(rows(SESSION, kernels=(replace(KERNEL, slots={"cuda.device": 1}),)))


def test_two_live_sessions_of_one_name() -> None:
    other = replace(SESSION, id="s2")
    assert "two live sessions" in fed(rows(SESSION, other))[0]
    assert fed(rows(SESSION, replace(other, access_key="AK2"))) == []
    assert fed(rows(SESSION, replace(other, status="TERMINATED"))) == []


def test_history() -> None:
    ended = replace(SESSION, status="TERMINATED", version=2)
    assert "left the terminal" in fed(rows(ended), rows(replace(SESSION, version=3)))[0]
    assert "fell from version" in fed(rows(replace(SESSION, version=5)), rows(SESSION))[0]
    assert "vanished" in fed(rows(SESSION), rows())[0]
    assert "without a deadline" in fed(rows(replace(SESSION, status="TERMINATING")))[0]


def test_what_runs_ends_only_for_a_cause() -> None:
    def ended(reason: str) -> list[str]:
        return fed(
            rows(SESSION), rows(replace(SESSION, status="TERMINATING", has_deadline=True, reason=reason))
        )

    assert ended("user-requested") == []
    assert "ended for 'failed-to-start'" in ended("failed-to-start")[0]


def test_uids_and_doubles() -> None:
    assert "share uid" in fed(containers=(FACT, replace(FACT, name="c2", kernel_id="k2")))[0]
    assert "runs twice" in fed(containers=(FACT, replace(FACT, name="c2", agent_id="i-2")))[0]


def test_mismatches_may_last_a_while_but_not_long() -> None:
    checkers = Checkers(patience_s=10)
    checkers.rows_changed(0, rows(SESSION, kernels=(KERNEL,)))
    checkers.tick(9)
    assert checkers.violations == []
    checkers.containers_changed(9, (FACT,))
    checkers.tick(100)
    assert checkers.violations == []
    checkers.containers_changed(100, ())
    checkers.tick(111)
    assert "RUNNING without a container" in checkers.violations[0]


def test_orphans_and_the_end_of_faults() -> None:
    checkers = Checkers(patience_s=10, faults_end_at_s=50)
    checkers.containers_changed(0, (FACT,))
    checkers.tick(60)
    assert checkers.violations == []
    checkers.tick(61)
    assert "no row that wants it" in checkers.violations[0]


def test_the_end() -> None:
    checkers = Checkers(patience_s=10)
    checkers.rows_changed(0, rows(replace(SESSION, status="SCHEDULED", has_deadline=True), kernels=(KERNEL,)))
    checkers.finish(all_ended=False)
    assert "stuck in SCHEDULED" in checkers.violations[0]
    checkers = Checkers(patience_s=10)
    checkers.rows_changed(0, rows(replace(SESSION, status="PENDING", has_deadline=True)))
    checkers.finish(all_ended=False)
    assert "without a reason" in checkers.violations[0]
    checkers = Checkers(patience_s=10)
    checkers.containers_changed(0, (FACT,))
    checkers.finish(all_ended=True)
    assert "left over" in checkers.violations[0]


def test_acknowledged_is_committed() -> None:
    checkers = Checkers(patience_s=10)
    checkers.rows_changed(0, rows(SESSION))
    checkers.acknowledged("s1")
    assert checkers.violations == []
    checkers.acknowledged("s2")
    assert "acknowledged" in checkers.violations[0]


def test_fault_plans_are_seeded_and_end_in_time() -> None:
    seen = set()
    for seed in range(300):
        faults = plan(Random(seed), nodes=3, from_s=5, until_s=100)
        assert faults == plan(Random(seed), nodes=3, from_s=5, until_s=100)
        assert faults == sorted(faults, key=lambda fault: fault.at_s)
        assert all(fault.at_s >= 5 and fault.over_at_s <= 100.001 for fault in faults)
        seen |= {fault.kind for fault in faults}
    assert seen == set(Kind)


def test_fingerprints_cover_all_lines() -> None:
    first, second = Story(), Story()
    for number in range(2 * LINES_KEPT):
        first.tell(number, "x")
        second.tell(number, "x" if number != 3 else "y")
    assert first.lines() == second.lines()
    assert first.fingerprint != second.fingerprint


def test_a_batch_session_has_one_result_and_keeps_it() -> None:
    done = replace(SESSION, status="TERMINATED", reason="task-finished", result="success", version=2)
    assert fed(rows(SESSION), rows(done)) == []
    assert "without a result" in fed(rows(replace(done, result="undefined")))[0]
    assert "success became failure" in fed(rows(done), rows(replace(done, result="failure")))[0]


def test_nothing_starts_before_what_it_depends_on() -> None:
    needed = replace(SESSION, id="s2", name="first")
    for needed_is, session_is, sound in (
        (replace(needed, status="TERMINATED", result="success"), SESSION, True),
        (needed, SESSION, False),
        (replace(needed, status="TERMINATED", result="failure"), SESSION, False),
        (needed, replace(SESSION, status="PENDING", has_deadline=True, reason="waits"), True),
        (replace(needed, status="CANCELLED"), replace(SESSION, status="CANCELLED"), True),
    ):
        both = replace(rows(session_is, needed_is), dependencies=(("s1", "s2"),))
        assert (fed(both) == []) is sound


def test_a_gang_is_placed_whole() -> None:
    def at(*agents: str | None, **more: bool) -> list[str]:
        kernels = tuple(replace(KERNEL, id=f"k{n}", agent_id=one, slots={}) for n, one in enumerate(agents))
        return fed(rows(replace(SESSION, **more), kernels=kernels))  # type: ignore[arg-type]

    assert "in part" in at("i-1", None)[0]
    assert "of one node is on 2" in at("i-1", "i-2")[0]
    assert at("i-1", "i-1") == [] and at("i-1", "i-2", single_node=False) == []


def test_no_attempt_outlives_the_next() -> None:
    def past(status: str) -> list[str]:
        before = replace(KERNEL, id="k0", status=status, agent_id="i-2", attempt=1, slots={})
        return fed(rows(SESSION, kernels=(before, replace(KERNEL, slots={}))))

    assert "still holds what its attempt 1 got" in past("TERMINATING")[0]
    assert past("CANCELLED") == []


def test_a_network_is_there_for_its_containers_and_no_longer() -> None:
    network = NetworkFact(agent_id="i-1", session_id="s1")
    checkers = Checkers(patience_s=10)
    checkers.networks_changed(0, [network])
    checkers.rows_changed(0, rows(SESSION, kernels=(KERNEL,)))
    checkers.containers_changed(1, [replace(FACT, network="s1")])
    checkers.tick(20)
    assert checkers.violations == []
    checkers.networks_changed(21, [replace(network, agent_id="i-2")])
    assert "c1 on i-1 runs without its network" in checkers.violations[0]
    checkers.tick(25)
    assert len(checkers.violations) == 1
    checkers.tick(40)
    assert "the network of s1 on i-2 has no kernel that uses it" in checkers.violations[1]
    checkers.finish(all_ended=True)
    assert any("network of s1 on i-2 is left over" in violation for violation in checkers.violations)
