"""The journal: what was written comes back; what can't be read is set aside, never fatal."""

from pathlib import Path
from uuid import UUID

import msgspec
import pytest

from ai.backend.agent.container.errors import NoSpace
from ai.backend.agent.kernel.journal import Entry, Journal, NodeFacts
from ai.backend.common.wire.rpc import DesiredKernel

ID = UUID(int=7)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal(tmp_path)
    made.open()
    return made


def entry(**more: object) -> Entry:
    desired = DesiredKernel(kernel_id=ID, session_id=UUID(int=8), target="run", image="local/python:3.11")
    return Entry(desired=desired, state="running", uid=200_000, **more)  # type: ignore[arg-type]


def test_round_trip_and_forgetting(journal: Journal, tmp_path: Path) -> None:
    journal.write(entry(reason="out-of-memory", exit_code=137))
    journal.write_logs(ID, b"last words")
    again = Journal(tmp_path)
    assert again.entries() == [entry(reason="out-of-memory", exit_code=137)]
    assert again.logs(ID) == b"last words"
    again.forget(ID)
    assert again.entries() == [] and again.logs(ID) == b""
    again.forget(ID)


def test_facts_survive(journal: Journal, tmp_path: Path) -> None:
    assert journal.facts() is None
    journal.write_facts(NodeFacts(agent_id="a1", generation=12))
    assert Journal(tmp_path).facts() == NodeFacts(agent_id="a1", generation=12)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 99}', b"\xff\xfe"])
def test_unreadable_entries_are_set_aside(journal: Journal, tmp_path: Path, content: bytes) -> None:
    journal.write(entry())
    (tmp_path / "kernels" / f"{UUID(int=9)}.json").write_bytes(content)
    (tmp_path / "agent.json").write_bytes(content)
    assert [e.desired.kernel_id for e in journal.entries()] == [ID]
    assert journal.facts() is None
    assert (tmp_path / "kernels" / f"{UUID(int=9)}.unreadable").exists()


def test_fields_of_newer_agents_are_ignored(journal: Journal, tmp_path: Path) -> None:
    journal.write(entry())
    path = tmp_path / "kernels" / f"{ID}.json"
    path.write_bytes(msgspec.json.encode({**msgspec.json.decode(path.read_bytes()), "future": 1}))
    assert journal.entries() == [entry()]


def test_a_folder_that_can_not_be_written_is_no_space(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "kernels" / f"{ID}.new").mkdir()
    with pytest.raises(NoSpace):
        journal.write(entry())
