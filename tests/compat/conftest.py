"""One cluster for the whole run; each published client against it, and a table of what each of them could do at the end."""

import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from xdist.remote import Producer  # type: ignore[import-untyped]
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from . import cluster as clusters
from . import installs
from .client import CALLS, Client, machine_environ
from .cluster import Account, Cluster
from .interpreters import NoInterpreter
from .sessions import Running, running
from .starter import Starter

HERE = Path(__file__).parent
SHOWN_CALLS = 4
FAILED = pytest.StashKey[bool]()
INSTALLING_S = 900
"""A broken run's end, not an expectation: a client's first use installs a hundred distributions."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(INSTALLING_S))


class ByClient(LoadScopeScheduling):  # type: ignore[misc]
    """In parallel each client keeps to one process, and so to one cluster. (Groups as marks do not work with pytest 9.2.)"""

    def _split_scope(self, nodeid: str) -> str:
        _, _, parameters = nodeid.partition("[")
        return next((version for version in installs.RELEASES if version in parameters), installs.JS_VERSION)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByClient:
    return ByClient(config, log)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    running = clusters.start(tmp_path_factory.mktemp("compat") / "home")
    yield running
    clusters.stop(running)


def installed(install: Callable[[], Path]) -> Path:
    """A client that its machine can't run is skipped, but in continuous integration."""
    try:
        return install()
    except NoInterpreter as missing:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(missing))


@pytest.fixture(scope="session", params=list(installs.RELEASES))
def version(request: pytest.FixtureRequest) -> str:
    """Each test runs once with each published client, the reference first."""
    return str(request.param)


@pytest.fixture(scope="session")
def venv(version: str) -> Path:
    return installed(lambda: installs.install_python_client(installs.RELEASES[version]))


@pytest.fixture(scope="session")
def js_folder() -> Path:
    return installed(installs.install_js_client)


@pytest.fixture(scope="session")
def starter(venv: Path) -> Iterator[Starter]:
    starter = Starter(venv / "bin/python", machine_environ())
    yield starter
    starter.close()


@pytest.fixture(scope="session")
def client_of(
    cluster: Cluster, version: str, venv: Path, starter: Starter, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Account], Client]:
    """Makes a client of the version under test for an account, with nothing remembered from another."""

    def make(account: Account) -> Client:
        return Client(
            version=version,
            command=[str(venv / "bin/backend.ai")],
            home=tmp_path_factory.mktemp(f"client-{version}"),
            env=cluster.env(account),
            starter=starter,
        )

    return make


@pytest.fixture(scope="session")
def admin(cluster: Cluster, client_of: Callable[[Account], Client]) -> Client:
    """The client, as superadmin."""
    return client_of(cluster.admin)


@pytest.fixture(scope="session")
def user(cluster: Cluster, client_of: Callable[[Account], Client]) -> Client:
    """The client, as a plain user."""
    return client_of(cluster.user)


@pytest.fixture(scope="module")
def live(user: Client) -> Iterator[Running]:
    """A running session of the plain user, shared by the steps of a file that leave it as it is."""
    with running(user, "live") as session:
        yield session


@pytest.fixture(autouse=True)
def tidy(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[None]:
    """Each test begins without the calls of another, and what a failed one left running takes no room from the next."""
    CALLS.clear()
    yield
    if request.node.stash.get(FAILED, False):
        clusters.sweep(cluster, keep="live-")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows the client calls of a failed test, and notes on the report which client it was about."""
    report = yield
    client = _client_under_test(item)
    if client:
        report.user_properties.append(("client", client))
        item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
        if report.failed and CALLS:
            report.sections.append(("client calls", "\n\n".join(map(str, CALLS[-SHOWN_CALLS:]))))
    return report


def _client_under_test(item: pytest.Item) -> str:
    if HERE not in item.path.parents:
        return ""
    if "js" in getattr(item, "fixturenames", ()):
        return f"npm {installs.JS_VERSION}"
    return str(getattr(getattr(item, "callspec", None), "params", {}).get("version", ""))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    table = Counter[tuple[str, str]]()
    for outcome, kinds in {"passed": ["passed"], "failed": ["failed", "error"]}.items():
        for kind in kinds:
            for report in terminalreporter.stats.get(kind, []):
                for name, value in getattr(report, "user_properties", ()):
                    if name == "client":
                        table[value, outcome] += 1
    if not table:
        return
    terminalreporter.section("published clients")
    terminalreporter.write_line(f"{'client':<12} {'passed':>6} {'failed':>6}")
    for client in sorted({client for client, _ in table}):
        terminalreporter.write_line(f"{client:<12} {table[client, 'passed']:>6} {table[client, 'failed']:>6}")
