"""Slurm from Debian on this machine, private: one node that claims 64 processors, no accounting, jobs that do nothing.

Needs root and Debian's packages; `available` says why it can't be measured elsewhere.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "slurm-wlm-basic-plugins")
CPUS = 64
PATIENCE_S = 120
CONFIG = """\
ClusterName=bench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge/socket
CryptoType=crypto/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
MaxArraySize=10001
MaxJobCount=20000
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES State=UP
"""


def available() -> str:
    """Why not; empty when it is. Installs what is missing."""
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    if shutil.which("slurmctld") and shutil.which("slurmd") and shutil.which("munged"):
        return ""
    if shutil.which("apt-get") is None:
        return "Slurm is not installed"
    print(f"installing {', '.join(PACKAGES)} ...", file=sys.stderr)
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    # A package's own service must not start: ours is a private one.
    guard = Path("/usr/sbin/policy-rc.d")
    made = not guard.exists()
    if made:
        guard.write_text("#!/bin/sh\nexit 101\n")
        guard.chmod(0o755)
    try:
        subprocess.run(["apt-get", "update", "-q"], env=environ, check=False, capture_output=True)
        command = ["apt-get", "install", "-yq", "--no-install-recommends", *PACKAGES]
        done = subprocess.run(command, env=environ, check=False, capture_output=True, text=True)
    finally:
        if made:
            guard.unlink()
    return "" if done.returncode == 0 else f"apt-get: {done.stderr.strip()[-200:]}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running() -> Iterator[dict[str, str]]:
    """The environment in which its programs reach it."""
    root = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    started: list[subprocess.Popen[bytes]] = []
    try:
        for name in ("munge", "state", "spool"):
            (root / name).mkdir()
        host = socket.gethostname().split(".")[0]
        config = root / "slurm.conf"
        config.write_text(
            CONFIG.format(root=root, host=host, port=_free_port(), node_port=_free_port(), cpus=CPUS)
        )
        key = root / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        environ = {**os.environ, "SLURM_CONF": str(config)}
        munge = root / "munge"
        commands = [
            [
                "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={munge}/socket",
                f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed",
            ],
            ["slurmctld", "-D", "-c"],
            ["slurmd", "-D", "-N", host],
        ]  # fmt: skip
        for command in commands:
            path = shutil.which(command[0], path=f"{os.environ['PATH']}:/usr/sbin")
            assert path is not None, command[0]
            with (root / f"{command[0]}.out").open("wb") as out:
                started.append(
                    subprocess.Popen([path, *command[1:]], env=environ, stdout=out, stderr=subprocess.STDOUT)
                )
            time.sleep(0.5)
        _wait(["sinfo", "-h", "-o", "%T"], "idle", environ, root)
        yield environ
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(root, ignore_errors=True)


def _wait(command: list[str], wanted: str, environ: dict[str, str], root: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    said = ""
    while time.monotonic() < deadline:
        done = subprocess.run(command, env=environ, check=False, capture_output=True, text=True)
        said = (done.stdout + done.stderr).strip()
        if done.returncode == 0 and done.stdout.strip() == wanted:
            return
        time.sleep(0.05)
    logs = "\n".join(
        path.read_text(errors="replace")[-800:]
        for path in sorted(root.glob("*.log")) + sorted(root.glob("*.out"))
    )
    raise RuntimeError(f"Slurm did not get to {wanted!r}: {said}\n{logs}")


def jobs_per_s(jobs: int) -> float:
    """From the submission of one array of jobs that do nothing, which is its fastest way, until all have ended."""
    with running() as environ:
        began_s = time.perf_counter()
        subprocess.run(
            ["sbatch", "-Q", f"--array=1-{jobs}", "-o", "/dev/null", "--wrap", "true"],
            env=environ, check=True, capture_output=True, cwd="/tmp",
        )  # fmt: skip
        _wait(["squeue", "-h", "-o", "%i"], "", environ, Path(environ["SLURM_CONF"]).parent)
        return jobs / (time.perf_counter() - began_s)
