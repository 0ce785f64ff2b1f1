"""A private PostgreSQL for tests: Debian's server in a temporary folder, on a unix socket of its own; never the machine's."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

USER = "postgres"
"""The database's superuser; the server itself runs as `nobody`, whom every machine has, for it refuses root."""
SERVER_UID = 65534


def server_folder() -> Path | None:
    """Where initdb and pg_ctl are, newest version first."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda p: int(p.parts[-3]), reverse=True
    )
    return found[0].parent if found else None


class PrivatePostgres:
    """Started by `start`, ended by `stop`. `url(database)` is what `PostgresDatabase` takes."""

    def __init__(self, bin_dir: Path) -> None:
        self._bin = bin_dir
        # Short, and traversable by the server's user: unix socket paths end at 107 characters.
        self._made = 0
        self.root = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))

    def _run(self, *command: str) -> None:
        as_user = (
            ["setpriv", f"--reuid={SERVER_UID}", f"--regid={SERVER_UID}", "--clear-groups"]
            if os.getuid() == 0
            else []
        )
        done = subprocess.run(
            [*as_user, *command],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.root,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        )
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} failed: {done.stdout}{done.stderr}")

    def start(self) -> None:
        if os.getuid() == 0:
            os.chown(self.root, SERVER_UID, SERVER_UID)
        data = str(self.root / "data")
        self._run(str(self._bin / "initdb"), "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-c listen_addresses= -c unix_socket_directories={self.root} -c fsync=off -c full_page_writes=off"
        self._run(
            str(self._bin / "pg_ctl"), "-D", data, "-w", "-l", str(self.root / "log"), "-o", options, "start"
        )

    def stop(self) -> None:
        self._run(str(self._bin / "pg_ctl"), "-D", str(self.root / "data"), "-m", "immediate", "-w", "stop")
        shutil.rmtree(self.root)

    def url(self, database: str = USER) -> str:
        return f"postgresql://{USER}@/{database}?host={self.root}"

    def create(self) -> str:
        """A fresh database; returns its URL."""
        self._made += 1
        name = f"t{self._made}"
        self._run(str(self._bin / "createdb"), "-h", str(self.root), "-U", USER, name)
        return self.url(name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PrivatePostgres]:
    bin_dir = server_folder()
    if bin_dir is None:
        message = "PostgreSQL's server is not installed (Debian: apt-get install postgresql)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    server = PrivatePostgres(bin_dir)
    server.start()
    yield server
    server.stop()
