"""The agent programs that a run can choose from, by name."""

from .scenario import make_model_agent
from .world import MakeAgent

MAKERS: dict[str, MakeAgent] = {"model": make_model_agent}
