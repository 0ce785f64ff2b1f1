"""Replaying a trace: the published steps, and files that are not what they should be."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from ai.backend.scheduler.demand import WHOLE
from sim.replay import POLICIES, BadFile, Trace, arrivals, read_nodes, read_tasks, replay

NODES = "sn,cpu_milli,memory_mib,gpu,model\n" + "".join(
    f"n{i},16000,65536,{i % 3},{'AB'[i % 2]}\n" for i in range(12)
)
TASKS = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n" + "".join(
    f"t{i},{1000 + i % 3 * 1000},1024,{(0, 1, 1, 2)[i % 4]},{(0, 300, 1000, 1000)[i % 4]},{('', 'A', 'A|B')[i % 3]}\n"
    for i in range(40)
)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    nodes, tasks = tmp_path / "nodes.csv", tmp_path / "tasks.csv"
    nodes.write_text(NODES)
    tasks.write_text(TASKS)
    return nodes, tasks


def test_tasks_follow_until_enough_is_asked_for(files: tuple[Path, Path]) -> None:
    tasks = read_tasks(files[1])
    assert {(one.devices, one.share) for one in tasks} == {(0, 0), (0, 300), (1, 0), (2, 0)}
    coming = arrivals(tasks, 12 * WHOLE, 5.0, random.Random(1))
    asked = sum(one.device_milli for one in coming)
    assert 60 * WHOLE <= asked < 62 * WHOLE
    assert sorted(coming[: len(tasks)], key=hash) == sorted(tasks, key=hash)
    assert (
        arrivals(tasks, 12 * WHOLE, 5.0, random.Random(1))
        == coming
        != arrivals(tasks, 12 * WHOLE, 5.0, random.Random(2))
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_places_what_fits(policy: str, files: tuple[Path, Path]) -> None:
    trace = Trace(read_nodes(files[0]), read_tasks(files[1]))
    found = replay(trace, policy, 3.0, 7)
    assert found["rejected"] > 0 and found["placements"] >= 15
    at = found["allocated_gpu_pct_at"]
    assert 60 < at["80"] <= at["100"] <= at["130"] <= 100
    again = replay(trace, policy, 3.0, 7)
    assert {**again, "seconds": 0, "decisions_per_s": 0} == {**found, "seconds": 0, "decisions_per_s": 0}


def test_looking_ahead_packs_better_than_chance(files: tuple[Path, Path]) -> None:
    trace = Trace(read_nodes(files[0]), read_tasks(files[1]))
    by = {
        policy: sum(replay(trace, policy, 1.3, seed)["allocated_gpu_pct_at"]["130"] for seed in range(5))
        for policy in ("fgd", "random")
    }
    assert by["fgd"] > by["random"]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("tasks.csv", TASKS.replace("t3,1000", "t3,many"), "line 5: cpu_milli is 'many'"),
        ("tasks.csv", TASKS.replace(",300,", ",3000,", 1), "line 3: gpu_milli is 3000"),
        ("tasks.csv", TASKS.replace("2,1000,", "2,0,", 1), "gpu_milli is 0, but num_gpu is 2"),
        ("tasks.csv", "name,cpu_milli\n", "line 1: no column memory_mib, num_gpu, gpu_milli"),
        ("tasks.csv", TASKS.splitlines()[0] + "\n", "no task"),
        ("nodes.csv", NODES.replace("n4,16000", "n4,-1"), "line 6: cpu_milli is -1"),
        ("nodes.csv", "", "line 1: no column"),
    ],
)
def test_a_bad_row_is_named(name: str, text: str, told: str, files: tuple[Path, Path]) -> None:
    path = files[0].parent / name
    path.write_text(text)
    with pytest.raises(BadFile, match="(?s)" + told.replace("|", r"\|")):
        Trace(read_nodes(files[0]), read_tasks(files[1]))


def test_the_command_prints_one_object(files: tuple[Path, Path]) -> None:
    def run(*more: str) -> "subprocess.CompletedProcess[str]":
        command = [
            sys.executable,
            "-m",
            "sim.replay",
            "--nodes",
            str(files[0]),
            "--pods",
            str(files[1]),
            *more,
        ]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2]
        )

    found = json.loads(run("--policy", "fgd", "--seed", "3", "--json").stdout)
    assert found["policy"] == "fgd" and found["seed"] == 3 and found["workload"] == "tasks"
    unknown = run("--policy", "luck")
    assert unknown.returncode == 2 and "fgd, best-fit, random" in unknown.stderr
    files[1].write_text(TASKS.replace("t3,1000", "t3,many"))
    broken = run()
    assert broken.returncode == 1 and "line 5" in broken.stderr and "Traceback" not in broken.stderr
