"""A private PostgreSQL for tests: Debian's server in a temporary folder, on a unix socket of its own; never the machine's."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from ai.backend.manager.db.migration import migrate
from ai.backend.manager.db.postgres import PostgresDatabase

USER = "postgres"
"""The database's superuser; the server itself runs as `nobody`, whom every machine has, for it refuses root."""
SERVER_UID = 65534
TEMPLATE = "migrated"
_START_S = 60


def server_folder() -> Path | None:
    """Where initdb and postgres are, newest version first."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]), reverse=True
    )
    return found[0].parent if found else None


def ensure_postgres() -> str:
    """Installs Debian's server when it is missing; returns why there is none, or nothing."""
    if server_folder() is not None:
        return ""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return "PostgreSQL's server is not installed (Debian: apt-get install postgresql)"
    command = ["apt-get", "install", "--yes", "--no-install-recommends", "postgresql"]
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for _ in range(2):
        done = subprocess.run(command, env=environ, check=False, capture_output=True, text=True)
        if done.returncode == 0 and server_folder() is not None:
            return ""
        # A fresh machine has no package lists.
        subprocess.run(["apt-get", "update"], env=environ, check=False, capture_output=True)
    return f"apt-get install postgresql failed: {done.stderr.strip()[-300:]}"


class PrivatePostgres:
    """Started by `start`, ended by `stop`. `url(database)` is what `PostgresDatabase` takes."""

    def __init__(self, bin_dir: Path) -> None:
        self._bin = bin_dir
        self._made = 0
        self._has_template = False
        self._process: subprocess.Popen[bytes] | None = None
        # Short, and traversable by the server's user: unix socket paths end at 107 characters.
        self.root = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))

    def _command(self, program: str, *arguments: str) -> list[str]:
        """PostgreSQL refuses to run as root. Ends with this process, also when a test run is killed."""
        nobody = [f"--reuid={SERVER_UID}", f"--regid={SERVER_UID}", "--clear-groups"]
        who = nobody if os.geteuid() == 0 else []
        return ["setpriv", "--pdeathsig", "QUIT", *who, str(self._bin / program), *arguments]

    def _environ(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            self._command(program, *arguments),
            capture_output=True,
            text=True,
            check=False,
            cwd=self.root,
            env=self._environ(),
        )
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed: {done.stdout}{done.stderr}")

    def start(self) -> None:
        """Returns when the server answers. Raises RuntimeError with the end of its log when it does not come up."""
        data = self.root / "data"
        if not data.exists():
            if os.geteuid() == 0:
                os.chown(self.root, SERVER_UID, SERVER_UID)
            self._run("initdb", "-D", str(data), "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync")
        with (self.root / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(
                    "postgres", "-D", str(data), "-k", str(self.root), "-c", "listen_addresses=",
                    "-c", "fsync=off", "-c", "full_page_writes=off", "-c", "shared_buffers=32MB",
                ),
                cwd=self.root, env=self._environ(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            asked = [str(self._bin / "pg_isready"), "-q", "-h", str(self.root), "-U", USER]
            if subprocess.run(asked, check=False, env=self._environ()).returncode == 0:
                return
            time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"PostgreSQL did not come up: {(self.root / 'log').read_text()[-1500:]}")

    def stop(self) -> None:
        """Ends the server and its connections at once, as a crash does; `start` finds its databases again."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.root)

    def url(self, database: str = USER) -> str:
        return f"postgresql://{USER}@/{database}?host={self.root}"

    def create(self, *, template: str = "template1") -> str:
        """A fresh database; returns its URL."""
        self._made += 1
        name = f"t{self._made}"
        self._run("createdb", "-h", str(self.root), "-U", USER, "-T", template, name)
        return self.url(name)

    async def create_migrated(self) -> str:
        """A fresh database of the newest schema, copied from one that was migrated once; returns its URL."""
        if not self._has_template:
            self._run("createdb", "-h", str(self.root), "-U", USER, TEMPLATE)
            database = PostgresDatabase(self.url(TEMPLATE), rng=Random(0))
            await migrate(database)
            await database.close()
            self._has_template = True
        return self.create(template=TEMPLATE)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PrivatePostgres]:
    """A running server, shared by all tests of the run (of this worker, under xdist)."""
    reason = ensure_postgres()
    bin_dir = server_folder()
    if bin_dir is None:
        # In CI a missing service is a failure, elsewhere a skip that says so.
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    server = PrivatePostgres(bin_dir)
    try:
        server.start()
        yield server
    finally:
        server.remove()
