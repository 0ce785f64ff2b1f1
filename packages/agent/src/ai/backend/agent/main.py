"""Builds an agent for this machine: chooses the container backend, makes the runner volume, finds places for everything."""

import asyncio
import hashlib
import os
import platform
from pathlib import Path

from ai.backend.common.bus import AgentBus
from ai.backend.common.clock import Clock
from ai.backend.common.errors import ConfigError
from ai.backend.common.ids import Random
from ai.backend.common.log import get_logger

from .config import AgentConfig
from .container.backend import ContainerBackend
from .container.docker import DockerBackend
from .container.errors import BackendUnavailable
from .container.sandbox import SandboxBackend
from .kernel.journal import Journal, NodeFacts
from .resource.accelerator import load_accelerators
from .resource.alloc import Strategy
from .resource.device import Devices
from .runner.link import ZmtpLink
from .runner.volume import ensure_runner_volume
from .service import Agent

log = get_logger(__name__)


def node_folder(config: AgentConfig) -> Path:
    """Where the runner volume and scratch folders go."""
    data_home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return config.node_root_path(is_root=os.getuid() == 0, data_home=data_home)


async def build_agent(config: AgentConfig, *, home: Path, clock: Clock, rng: Random, bus: AgentBus) -> Agent:
    """An agent whose state lies in `home`. Raises BackendUnavailable when the wanted backend does not work here."""
    try:
        callers = load_accelerators(config.accelerators, disabled=config.accelerators_disabled)
    except ValueError as exc:
        raise ConfigError(f"agent.accelerators: {exc}", hint="See docs/admin/accelerators.md.") from exc
    root = node_folder(config)
    for folder in (root, root / "runner", root / "clusters"):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711)
    # Two clusters on one machine share the runner volume, and nothing else.
    mine = root / "clusters" / hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:12]
    mine.mkdir(exist_ok=True)
    mine.chmod(0o711)
    journal = Journal(home / "agent")
    journal.open()
    facts = journal.facts()
    if facts is None:
        facts = NodeFacts(agent_id=config.id or f"i-{platform.node()}-{rng.getrandbits(32):08x}"[:64])
        journal.write_facts(facts)
    volume = await asyncio.to_thread(
        ensure_runner_volume, root / "runner", progress=lambda text: log.info("runner-volume", step=text)
    )
    backend = await choose_backend(
        config, owner=facts.agent_id, folder=mine, root=root, home=home, volume=volume
    )
    log.info("agent-built", agent=facts.agent_id, backend=backend.kind)
    return Agent(
        config=config,
        clock=clock,
        bus=bus,
        backend=backend,
        agent_id=facts.agent_id,
        state_dir=home / "agent",
        scratch_dir=mine / "scratch",
        runner_volume=volume,
        link=lambda _kernel_id, scratch, uid, on_message: ZmtpLink(scratch.run, uid, on_message),
        architecture=platform.machine(),
        own_uid=None if os.getuid() == 0 else os.getuid(),
        devices=Devices(callers, Strategy(config.device_strategy)),
    )


async def choose_backend(
    config: AgentConfig, *, owner: str, folder: Path, root: Path, home: Path, volume: Path
) -> ContainerBackend:
    """The backend of the configuration, opened. `auto`: Docker if an engine answers and has an image for sessions, else the sandbox."""
    if config.backend in ("auto", "docker"):
        docker = DockerBackend(
            config.docker_host or None, owner, state_dir=home / "docker", network_range=config.network_range
        )
        try:
            await docker.open()
            if config.backend == "docker" or await docker.images():
                return docker
            log.info("docker-has-no-image", hint="Build one with 'backend.ai image build'.")
        except BackendUnavailable as exc:
            if config.backend == "docker":
                raise
            log.info("docker-not-used", why=exc.message)
        await docker.close()
    sandbox = SandboxBackend(
        state_dir=folder / "containers",
        bin_dir=root / "bin",
        images_dir=root / "images",
        runner_volume=volume,
        cgroup_parent=f"/backend.ai/{folder.name}",
        network_range=config.network_range,
    )
    await sandbox.open()
    return sandbox
