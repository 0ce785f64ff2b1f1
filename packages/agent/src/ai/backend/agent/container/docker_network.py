"""The private networks of containers on Docker Engine. Belongs to `docker.py`, which maps the errors.

The engine is the record: a network is called `<owner>.N.<name>` and labelled with its owner, its name and its hosts. It is a bridge of
which the machine is no part: "internal" alone would leave the bridge's own address to the machine, and with it every service of the
machine that listens on all addresses. Every container has an address of its own choice of ours and finds all names in /etc/hosts.
"""

import asyncio
import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import AddressValueError, IPv4Network, NetmaskValueError
from pathlib import Path
from typing import Any

from aiodocker import Docker
from aiodocker.exceptions import DockerError

from . import network
from .errors import ContainerFailed
from .model import ContainerSpec, Network, NetworkSpec

OWNER_LABEL = "ai.backend.docker.owner"
_NAME_LABEL = "ai.backend.docker.network"
_HOSTS_LABEL = "ai.backend.docker.network-hosts"
_DEAD_NAME_SERVER = "127.0.0.1"
"""Older engines would ask the machine's own name server for whatever the containers of an internal network look up."""
_TRIES = 16


class DockerNetworks:
    """Raises ContainerError of its own, and DockerError, aiohttp's errors and OSError from the engine."""

    def __init__(self, owner: str, within: IPv4Network) -> None:
        self._owner = owner
        self._within = within
        # The engine lets two networks have one name: one at a time looks and makes.
        self._turn = asyncio.Lock()

    def reference(self, name: str) -> str:
        return f"{self._owner}.N.{name}"

    def device(self, name: str) -> str:
        """What the bridge is called among the machine's network devices, of at most 15 characters."""
        return f"bai-{hashlib.sha256(self.reference(name).encode()).hexdigest()[:10]}"

    async def names(self, docker: Docker) -> list[str]:
        found = await docker.networks.list(filters={"label": [f"{OWNER_LABEL}={self._owner}"]})
        return sorted({item["Labels"][_NAME_LABEL] for item in found})

    async def ensure(self, docker: Docker, spec: NetworkSpec) -> Network:
        network.check(spec)
        async with self._turn:
            mine = await self._mine(docker, spec.name)
            if len(mine) == 1 and json.loads(mine[0]["Labels"][_HOSTS_LABEL]) == [*spec.hosts]:
                return network.network_of(spec, _subnets(mine)[0])
            await self._delete(docker, mine)
            taken = [*_subnets(await docker.networks.list()), *_routed()]
            for _ in range(_TRIES):
                subnet = network.choose_subnet(self._within, len(spec.hosts), taken)
                try:
                    await docker.networks.create(self._configuration(spec, subnet))
                except DockerError as exc:
                    if "overlap" not in exc.message.lower():
                        raise
                    taken.append(subnet)  # of somebody whom only the engine knows
                else:
                    return network.network_of(spec, subnet)
            raise ContainerFailed(
                f"the engine refused {_TRIES} parts of {self._within} for a network",
                hint="Give the agent another network-range.",
            )

    def _configuration(self, spec: NetworkSpec, subnet: IPv4Network) -> dict[str, Any]:
        return {
            "Name": self.reference(spec.name),
            "CheckDuplicate": True,
            "Driver": "bridge",
            "Internal": True,
            "Attachable": False,
            "EnableIPv6": False,
            "IPAM": {
                "Driver": "default",
                "Config": [{"Subnet": str(subnet), "Gateway": str(subnet.network_address + 1)}],
            },
            "Options": {
                "com.docker.network.bridge.name": self.device(spec.name),
                "com.docker.network.bridge.inhibit_ipv4": "true",
                "com.docker.network.bridge.enable_ip_masquerade": "false",
            },
            "Labels": {
                OWNER_LABEL: self._owner,
                _NAME_LABEL: spec.name,
                _HOSTS_LABEL: json.dumps(spec.hosts),
            },
        }

    async def remove(self, docker: Docker, name: str) -> None:
        async with self._turn:
            await self._delete(docker, await self._mine(docker, name))

    async def _mine(self, docker: Docker, name: str) -> list[dict[str, Any]]:
        labels = [f"{OWNER_LABEL}={self._owner}", f"{_NAME_LABEL}={name}"]
        return await docker.networks.list(filters={"label": labels})

    async def _delete(self, docker: Docker, found: Iterable[dict[str, Any]]) -> None:
        for item in found:
            try:
                one = await docker.networks.get(item["Id"])
                for attached in (await one.show())["Containers"] or ():
                    # Also what an engine that died has left of containers that are gone; those it knows by the network alone.
                    with suppress(DockerError):
                        await one.disconnect({"Container": attached, "Force": True})
                await one.delete()
            except DockerError as exc:
                if exc.status != 404:
                    raise

    def attach(self, spec: ContainerSpec, configuration: dict[str, Any]) -> None:
        """Changes a container's configuration so that it starts inside of its network."""
        if spec.network is None:
            return
        addresses = dict(spec.network.addresses)
        if spec.hostname not in addresses:
            raise ContainerFailed(f"network {spec.network.name} has no host {spec.hostname}")
        reference = self.reference(spec.network.name)
        configuration["NetworkDisabled"] = False
        configuration["NetworkingConfig"] = {
            "EndpointsConfig": {
                reference: {
                    "Aliases": [spec.hostname],
                    "IPAMConfig": {"IPv4Address": addresses[spec.hostname]},
                }
            }
        }
        configuration["HostConfig"] |= {
            "NetworkMode": reference,
            "Dns": [_DEAD_NAME_SERVER],
            "ExtraHosts": [
                f"{host}:{address}" for host, address in addresses.items() if host != spec.hostname
            ],
        }


def _subnets(items: Iterable[dict[str, Any]]) -> list[IPv4Network]:
    found = []
    for item in items:
        for config in (item.get("IPAM") or {}).get("Config") or ():
            with suppress(AddressValueError, NetmaskValueError, KeyError):
                found.append(IPv4Network(config["Subnet"], strict=False))
    return found


def _routed() -> list[IPv4Network]:
    """What the agent's machine, which is most often the engine's, has routes to."""
    try:
        return network.routed(Path("/proc/net/route").read_text())
    except OSError:
        return []
