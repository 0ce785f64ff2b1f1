"""Free amounts while one plan is made. Reserving is exact and can be undone; nothing else in a cycle keeps sums."""

from collections.abc import Iterable

from ai.backend.common.quantity import ResourceSlots

from .model import AgentView


class Ledger:
    """Free slots of each agent, less what this plan has reserved so far."""

    def __init__(self, agents: Iterable[AgentView]) -> None:
        self._free = {agent.id: agent.capacity - agent.occupied for agent in agents}

    def free(self, agent_id: str) -> ResourceSlots:
        return self._free[agent_id]

    def reserve(self, agent_id: str, slots: ResourceSlots) -> None:
        """The caller has checked that it fits."""
        assert slots.fits(self._free[agent_id]), "reserved more than is free"
        self._free[agent_id] -= slots

    def release(self, agent_id: str, slots: ResourceSlots) -> None:
        self._free[agent_id] += slots
