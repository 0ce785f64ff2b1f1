"""Dotfiles in a kernel's home folder: whole, with their mode, the session's own, and never outside."""

import os
import stat
from pathlib import Path
from uuid import UUID

import pytest

from ai.backend.agent.kernel.scratch import Scratch
from ai.backend.common.errors import BackendError
from ai.backend.common.wire.rpc import DesiredKernel, Dotfile

UID = 61234 if os.getuid() == 0 else os.getuid()


def desired(*files: tuple[str, str, str]) -> DesiredKernel:
    return DesiredKernel(
        kernel_id=UUID(int=1),
        session_id=UUID(int=2),
        target="run",
        slots={"cpu": 1000, "mem": 1 << 30},
        dotfiles=[Dotfile(path=p, permission=mode, content=text) for p, mode, text in files],
    )


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    return Scratch(tmp_path / "kernel")


def test_they_are_written_with_mode_and_owner(scratch: Scratch) -> None:
    before = os.umask(0o077)
    try:
        scratch.make(desired((".bashrc", "644", "alias x=y\n"), ("bin/tool", "755", "#!/bin/sh\n")), UID)
    finally:
        os.umask(before)
    for path, mode, text in ((".bashrc", 0o644, "alias x=y\n"), ("bin/tool", 0o755, "#!/bin/sh\n")):
        status = (scratch.work / path).stat()
        assert stat.S_IMODE(status.st_mode) == mode
        assert status.st_uid == UID
        assert (scratch.work / path).read_text() == text
    assert (scratch.work / "bin").stat().st_uid == UID


def test_again_over_what_is_there(scratch: Scratch) -> None:
    scratch.make(desired(("a", "600", "old")), UID)
    scratch.make(desired(("a", "400", "new")), UID)
    assert (scratch.work / "a").read_text() == "new"
    scratch.make(desired(), UID)
    assert (scratch.work / "a").read_text() == "new"


def test_no_link_leads_out(scratch: Scratch, tmp_path: Path) -> None:
    scratch.make(desired(), UID)
    outside = tmp_path / "outside"
    outside.mkdir()
    (scratch.work / "bin").symlink_to(outside)
    (scratch.work / "file").symlink_to(outside / "victim")
    with pytest.raises(BackendError):
        scratch.make(desired(("bin/tool", "755", "x")), UID)
    scratch.make(desired(("file", "644", "x")), UID)
    assert list(outside.iterdir()) == []
    assert not (scratch.work / "file").is_symlink()


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x"])
def test_paths_that_leave_the_home_are_refused(scratch: Scratch, path: str) -> None:
    with pytest.raises(BackendError):
        scratch.make(desired((path, "644", "x")), UID)
