"""Logging an error never makes another one, whatever its details are called."""

from ai.backend.common.errors import KernelCreationFailed
from ai.backend.gateway.problem import note, problem_of


async def test_details_may_have_any_name() -> None:
    error = KernelCreationFailed(
        "no shell", reason="failed-to-start", path="/x", code="y", event="z", level="w"
    )
    scope = {"path": "/session", "state": {}}
    await note(error, scope)  # type: ignore[arg-type]
    status, body = problem_of(error)
    assert (
        status == 500
        and body["error_code"] == "kernel.creation-failed"
        and body["data"]["reason"] == "failed-to-start"
    )
