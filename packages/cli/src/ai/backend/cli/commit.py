"""`session commit` and `session convert-to-image`: what a session has become, kept."""

from typing import TYPE_CHECKING, Any

import click

from .command import EXIT_FAILURE, State, command, drive

if TYPE_CHECKING:
    from ai.backend.client.client import AsyncClient

_STEP_PERCENT = 5
"""Where output is no terminal each step is a line."""
_WAIT = click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Wait until it is done, and show how far it is."
)


@command("commit")
@click.argument("session_ref", metavar="SESSION")
@click.option("--filename", help="The archive's name; .tar.gz is added.")
@_WAIT
@click.pass_obj
def commit(state: State, session_ref: str, filename: str | None, wait: bool) -> int:
    """Write a session's files as an image archive on its node; the session goes on."""

    async def work(api: "AsyncClient") -> dict[str, Any]:
        begun = await api.sessions.at(session_ref).commit(filename)
        ended = await _follow(api, begun.bgtask_id, f"Committing {session_ref}") if wait else None
        return {"bgtask_id": begun.bgtask_id, "kernel": begun.kernel, "path": begun.path, **_outcome(ended)}

    return _told(state, drive(state, work), "path", f"the archive of {session_ref}")


@command("convert-to-image")
@click.argument("session_ref", metavar="SESSION")
@click.argument("image")
@_WAIT
@click.pass_obj
def convert_to_image(state: State, session_ref: str, image: str, wait: bool) -> int:
    """Make an image of your own out of a session. IMAGE is its name: mine, or mine:v2."""

    async def work(api: "AsyncClient") -> dict[str, Any]:
        begun = await api.sessions.at(session_ref).convert_to_image(image)
        ended = await _follow(api, begun.task_id, f"Making an image of {session_ref}") if wait else None
        return {"task_id": begun.task_id, "image": begun.image, **_outcome(ended)}

    code = _told(state, drive(state, work), "image", "the image")
    if code == 0 and wait and not state.json:
        from .display import remark

        remark(f"Start a session from it with: backend.ai session create {image}")
    return code


async def _follow(api: "AsyncClient", task_id: str, title: str) -> tuple[str, str]:
    """The event that ended the task, and what it said."""
    from ai.backend.common.quantity import format_size

    from .display import progress

    told = ""
    with progress(title) as shown:
        async for event in api.resources.watch_task(task_id):
            done, total = event.data.get("current_progress", 0), event.data.get("total_progress", 0)
            message = str(event.data.get("message", ""))
            if event.name != "bgtask_updated":
                return event.name, message
            if not total or not message:
                continue
            part = 100 * done // total // _STEP_PERCENT * _STEP_PERCENT
            text = f"{title}: {message}, {part} % of {format_size(int(total) >> 20 << 20)}"
            if text != told:
                told = text
                shown.step(text)
    return "bgtask_failed", "the server stopped telling how far it is"


def _outcome(ended: tuple[str, str] | None) -> dict[str, Any]:
    if ended is None:
        return {"ok": True, "status": "started"}
    name, message = ended
    return {"ok": name == "bgtask_done", "status": name.removeprefix("bgtask_"), "message": message}


def _told(state: State, outcome: dict[str, Any], key: str, what: str) -> int:
    from .display import print_json, remark
    from .main import tell

    if state.json:
        print_json(outcome)
    elif not outcome["ok"]:
        tell(State(), outcome["message"], hint="Nothing was left behind; try again.")
    elif outcome["status"] == "started":
        click.echo(f"{what} is being made: {outcome[key]}")
        remark("See whether it is done with 'session commit-status'.")
    else:
        click.echo(f"{what} is ready: {outcome['message'] or outcome[key]}")
    return 0 if outcome["ok"] else EXIT_FAILURE


@command("commit-status")
@click.argument("session_ref", metavar="SESSION")
@click.pass_obj
def commit_status(state: State, session_ref: str) -> None:
    """Show whether an image is being made of a session: ready or ongoing."""
    from .display import print_json

    found = drive(state, lambda api: api.sessions.at(session_ref).commit_status())
    if state.json:
        print_json(found)
    else:
        click.echo(found.status)
