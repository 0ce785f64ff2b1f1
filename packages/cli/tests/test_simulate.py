"""Files of workloads: what they say reaches the cluster as it was meant, and what is wrong in one is told with its line."""

import json
from pathlib import Path
from typing import Any

import click
import pytest

from ai.backend.cli.simulate import agents_of, workloads_of


def read(folder: Path, name: str, text: str) -> Any:
    path = folder / name
    path.write_text(text)
    return workloads_of(path)


def test_a_table_is_read(tmp_path: Path) -> None:
    rows, group = read(
        tmp_path,
        "w.csv",
        "name,cpu,mem,cuda.device,count,kernels,single_node,image,priority\n"
        "small,0.5,512,,3,,,,\n"
        "\n"
        "pair, 2 ,1g,1,,2,no,python:3.11,50\n",
    )
    assert group is None and [row.where for row in rows] == ["line 2", "line 4"]
    small, pair = (row.workload for row in rows)
    assert small.slots == {"cpu": "0.5", "mem": "512m"} and (small.count, small.kernels) == (3, 1)
    assert small.single_node and small.image == "" and small.priority == 10
    assert pair.slots == {"cpu": "2", "mem": "1g", "cuda.device": "1"}
    assert (pair.kernels, pair.single_node, pair.image, pair.priority) == (2, False, "python:3.11", 50)


def test_json_is_read(tmp_path: Path) -> None:
    items = [{"name": "a", "slots": {"cpu": 1, "mem": "1g"}, "count": 2}]
    for given, named in ((items, None), ({"workloads": items, "resource_group": "gpu"}, "gpu")):
        rows, group = read(tmp_path, "w.json", json.dumps(given))
        assert group == named and [(row.where, row.workload.count) for row in rows] == [("workload 1", 2)]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("w.csv", "cpu,cuont\n1,2\n", "line 1: no column 'cuont'"),
        ("w.csv", "cpu,cpu\n1,2\n", "line 1: no column 'cpu', or one twice"),
        ("w.csv", "cpu,count\n1,2\nmany,1\n", "line 3: 'many' is no amount of cpu"),
        ("w.csv", "cpu,count\n1,2\n1,-1\n", "line 3: count is a number, not '-1'"),
        ("w.csv", "cpu,single_node\n1,perhaps\n", "line 2: single_node is true or false"),
        ("w.csv", "cpu,mem\n1\n", "line 2: 1 cells, but 2 columns"),
        ("w.csv", "name,cpu\n\"a\n,b\",1\nx,1g\n", "line 4: '1g' is no amount"),
        ("w.json", '{"workloads": [\n{"slots": }]}', "line 2: this is no JSON"),
        ("w.json", '{"jobs": []}', "write a list of workloads"),
        ("w.json", '[{"slots": {"cpu": 1}}, {"slots": {"cpu": 1}, "cuont": 1}]', "workload 2: Object contains unknown field `cuont`"),
        ("w.json", '[{"slots": {"cpu": "x"}}]', "workload 1: 'x' is no amount of cpu"),
        ("w.json", "[" * 100_000, "this is no JSON"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, name: str, text: str, told: str) -> None:
    with pytest.raises(click.BadParameter) as caught:
        read(tmp_path, name, text)
    assert told in caught.value.message and name in caught.value.message


def test_what_can_not_be_read(tmp_path: Path, cli: Any) -> None:
    (tmp_path / "latin.csv").write_bytes(b"name,cpu\n\xff,1\n")
    (tmp_path / "snapshot.json").write_text('{"agents": [{"id": "a"}]}')
    for path, told in (("nothing.csv", "No such file"), ("latin.csv", "UTF-8")):
        done = cli("admin", "scheduler", "simulate", path)
        assert done.returncode == 4 and told in done.stderr and "Traceback" not in done.stderr
    with pytest.raises(click.BadParameter, match="agent 1: Object missing required field `slots`"):
        agents_of(tmp_path / "snapshot.json")


def test_help_documents_the_columns(cli: Any) -> None:
    told = cli("admin", "scheduler", "simulate", "--help").stdout
    for word in ("kernels", "single_node", "priority", "--snapshot", "occupied", "MiB"):
        assert word in told
