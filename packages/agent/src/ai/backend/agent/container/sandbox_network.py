"""The private networks of sandboxes: one folder on disk and one holder process (see `netns.py`) for each.

    network.json  its hosts and subnet, so that a new agent reads what the old one chose
    run           which process the holder is; ready: that it has made everything

A network works when its holder lives and is ready. What is neither is taken away and made anew: nothing is repaired. A sandbox enters
through the holder's descriptors before its program starts, and has no rights over the namespace that it is in.
"""

import asyncio
import contextlib
import json
import shutil
import signal
import subprocess
import sys
from ipaddress import IPv4Network
from pathlib import Path

from . import monitor, netns, network
from .errors import ContainerFailed
from .model import Network, NetworkSpec
from .record import Record

_MAKE_TIMEOUT_S = 30.0
_KILL_TIMEOUT_S = 10.0


class SandboxNetworks:
    """`folder`: made when it is needed. `programs`: paths of nsenter and sleep. Raises OSError, ValueError and TimeoutError besides
    ContainerError."""

    def __init__(
        self, folder: Path, within: IPv4Network, *, nsenter: str, sleep: str, boot_id: str, root: bool
    ) -> None:
        self._folder = folder
        self._within = within
        self._nsenter = nsenter
        self._sleep = sleep
        self._boot_id = boot_id
        self._root = root
        # Whoever chooses a subnet must see what the one before has chosen.
        self._turn = asyncio.Lock()

    def names(self) -> list[str]:
        return sorted(path.name for path in self._folder.iterdir()) if self._folder.is_dir() else []

    async def ensure(self, spec: NetworkSpec) -> Network:
        network.check(spec)
        async with self._turn:
            found = self._kept(spec.name)
            hosts = () if found is None else tuple(host for host, _ in found.addresses)
            if found is not None and hosts == spec.hosts and self._holder(spec.name) is not None:
                return found
            await self._remove(spec.name)
            kept = [one for name in self.names() if (one := self._kept(name)) is not None]
            subnet = network.choose_subnet(
                self._within, len(spec.hosts), [IPv4Network(one.subnet) for one in kept]
            )
            made = network.network_of(spec, subnet)
            try:
                await self._make(made)
            except BaseException:
                await self._remove(spec.name)
                raise
            return made

    async def _make(self, made: Network) -> None:
        folder = self._folder / made.name
        folder.mkdir(parents=True, mode=0o700)
        (folder / "network.json").write_text(json.dumps({"subnet": made.subnet, "addresses": made.addresses}))
        wanted = {
            "folder": str(folder),
            "sleep": self._sleep,
            "prefix": IPv4Network(made.subnet).prefixlen,
            "members": [address for _, address in made.addresses],
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-S", netns.__file__),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_MAKE_TIMEOUT_S):
                _, said = await process.communicate(json.dumps(wanted).encode())
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        if process.returncode != 0:
            raise ContainerFailed(
                f"a network of the session could not be made: {said.decode(errors='replace').strip()[-300:]}",
                hint="The node must allow user and network namespaces (see user.max_net_namespaces), bridges and veth devices.",
            )

    async def remove(self, name: str) -> None:
        async with self._turn:
            await self._remove(name)

    async def _remove(self, name: str) -> None:
        folder = self._folder / name
        if not folder.is_dir():
            return
        pid = self._process(name)
        async with monitor.ended(pid) as gone:
            if pid is not None:
                monitor.send_signal(pid, signal.SIGKILL)
            await monitor.wait_done(gone, _KILL_TIMEOUT_S)
            if not gone.done():
                raise TimeoutError
        shutil.rmtree(folder)

    def check(self, wanted: Network, host: str) -> None:
        """Raises ContainerFailed when there is no such network, or no such host in it."""
        if self._kept(wanted.name) != wanted or host not in dict(wanted.addresses):
            raise ContainerFailed(f"there is no network {wanted.name} with a host {host}")

    def entrance(self, name: str, host: str) -> list[str]:
        """The beginning of a command that runs as that host of the network. Raises ContainerFailed when the network is gone."""
        pid, found = self._holder(name), self._kept(name)
        hosts = [] if found is None else [host for host, _ in found.addresses]
        if pid is None or host not in hosts:
            raise ContainerFailed("the network of this container is gone", hint="Restart the session.")
        command = [self._nsenter, f"--net=/proc/{pid}/fd/{netns.MEMBER_FD + hosts.index(host)}"]
        if not self._root:
            # Rights over the namespace come from its user namespace; they are gone with the next program (capabilities(7)).
            command += [f"--user=/proc/{pid}/ns/user", "--preserve-credentials"]
        return [*command, "--"]

    def _kept(self, name: str) -> Network | None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            data = json.loads((self._folder / name / "network.json").read_bytes())
            addresses = tuple((str(host), str(address)) for host, address in data["addresses"])
            return Network(name=name, subnet=str(IPv4Network(data["subnet"])), addresses=addresses)
        return None

    def _process(self, name: str) -> int | None:
        """The holder's pid if it lives."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            run = Record(self._folder / name).run()
            if run is not None and run.boot_id == self._boot_id and monitor.is_alive(run.pid, run.start_time):
                return run.pid
        return None

    def _holder(self, name: str) -> int | None:
        """The pid of a holder that lives and is ready."""
        return self._process(name) if (self._folder / name / "ready").exists() else None
