"""`session ...` and its short forms: everything about sessions but running code."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .app import shutdown_service, start_service
from .command import EXIT_TIMEOUT, PAIR, State, command, drive, slot_amounts
from .commit import commit, commit_status, convert_to_image
from .run import exec_, start_options, wishes_of

if TYPE_CHECKING:
    from ai.backend.client.client import AsyncClient
    from ai.backend.client.session import AsyncSession


@click.group("session")
def session() -> None:
    """All about sessions."""


session.add_command(exec_, "exec")
for one in (commit, convert_to_image, commit_status):
    session.add_command(one)
session.add_command(start_service)
session.add_command(shutdown_service)


@command("create", parent=session)
@click.argument("image")
@click.option("-c", "--startup-command", help="What a batch session runs.")
@click.option("--timeout", "batch_timeout", help="Ends a batch session's command: 90s, 30m, 2h, 1d.")
@click.option("--depends", "dependencies", multiple=True, help="Start after this session has succeeded.")
@click.option(
    "--cluster-mode",
    type=click.Choice(["single-node", "multi-node"]),
    default="single-node",
    show_default=True,
    help="Whether all its containers share a node.",
)
@click.option(
    "--assign-agent", "agents", default="", help="Run there: agents, with commas. For superadministrators."
)
@click.option("-o", "--owner", "owner_access_key", help="Make it for the owner of this access key.")
@click.option(
    "--priority", type=click.IntRange(0, 100), help="Its place in the queue: the highest first. [10]"
)
@click.option(
    "--job-priority",
    type=click.IntRange(-100, 100),
    default=0,
    help="Where its resource group preempts: it may take the place of lower ones.",
)
@click.option("--no-preempt", is_flag=True, help="Nobody may take its place.")
@start_options
@click.pass_obj
def create(
    state: State,
    /,
    image: str,
    startup_command: str | None,
    batch_timeout: str | None,
    dependencies: tuple[str, ...],
    cluster_mode: Any,
    agents: str,
    owner_access_key: str | None,
    priority: int | None,
    job_priority: int,
    no_preempt: bool,
    **options: Any,
) -> int:
    """Make a session, and wait until it runs."""
    wishes = wishes_of(options)
    if wishes["type"] == "batch" and not startup_command:
        raise click.UsageError("a batch session runs a command: give it with --startup-command")

    async def work(api: "AsyncClient") -> "AsyncSession":
        from .display import progress

        with progress(f"Starting a session from {image}"):
            return await api.sessions.create(
                image=image,
                startup_command=startup_command,
                batch_timeout=batch_timeout,
                dependencies=dependencies,
                cluster_mode=cluster_mode,
                agents=[one for one in agents.split(",") if one],
                owner_access_key=owner_access_key,
                priority=priority,
                job_priority=job_priority,
                preemptible=not no_preempt,
                **wishes,
            )

    made = drive(state, work)
    _told_created(state, made, wishes["max_wait_s"])
    return EXIT_TIMEOUT if made.status == "TIMEOUT" else 0


def _told_created(state: State, made: "AsyncSession", max_wait_s: int) -> None:
    from .display import print_json, remark

    if state.json:
        print_json(
            {
                "ok": made.status != "TIMEOUT",
                "sessionId": made.id,
                "sessionName": made.name,
                "status": made.status,
                "created": made.created,
            }
        )
    elif made.status == "TIMEOUT":
        click.echo(f"{made.name} does not run yet ({made.id})")
        remark(f"Error: it did not start within {max_wait_s} s; it stays in the queue.")
        remark(f"  do:    See why with 'backend.ai session why {made.name}'.")
    else:
        verb = "runs" if made.status == "RUNNING" else f"is {made.status}"
        again = "" if made.created else " (it was there before)"
        click.echo(f"{made.name} {verb}{again} ({made.id})")
        remark(f"Run code in it with: backend.ai exec {made.name} -c 'print(1)'")


@command("create-from-template", parent=session)
@click.argument("template_id", metavar="TEMPLATE")
@click.option("-t", "--name", "--client-token", "name", help="The session's name.")
@click.option("-i", "--image", help="Instead of the template's.")
@click.option("-c", "--startup-command", help="Instead of the template's.")
@click.option("-e", "--env", "environ", type=PAIR, multiple=True, help="Instead of the template's.")
@click.option("-r", "--resources", type=PAIR, multiple=True, help="Instead of the template's.")
@click.option("--tag")
@click.option("--depends", "dependencies", multiple=True, help="Start after this session has succeeded.")
@click.option("--no-reuse", is_flag=True, help="Fail when a session of that name exists.")
@click.option("--enqueue-only", is_flag=True, help="Don't wait until it runs.")
@click.option(
    "--max-wait", "max_wait_s", type=click.IntRange(0), default=0, help="Seconds to wait; 0: no limit."
)
@click.pass_obj
def create_from_template(
    state: State,
    /,
    template_id: str,
    environ: tuple[tuple[str, str], ...],
    resources: tuple[tuple[str, str], ...],
    no_reuse: bool,
    **options: Any,
) -> int:
    """Make a session as a template describes it, and wait until it runs."""
    amounts = slot_amounts(resources)

    async def work(api: "AsyncClient") -> "AsyncSession":
        from .display import progress

        with progress("Starting a session"):
            return await api.templates.start(
                template_id, environ=dict(environ), resources=amounts, reuse=not no_reuse, **options
            )

    made = drive(state, work)
    _told_created(state, made, options["max_wait_s"])
    return EXIT_TIMEOUT if made.status == "TIMEOUT" else 0


@command("create-cluster", parent=session)
@click.argument("template_id", metavar="TEMPLATE")
@click.option("-t", "--name", "--client-token", "name", help="The session's name.")
@click.option(
    "--type", type=click.Choice(["interactive", "batch", "inference"]), help="Instead of the template's."
)
@click.option("--tag")
@click.option("--scaling-group", "--sgroup", "resource_group", help="The resource group to run in.")
@click.option("--no-reuse", is_flag=True, help="Fail when a session of that name exists.")
@click.option("--enqueue-only", is_flag=True, help="Don't wait until it runs.")
@click.option(
    "--max-wait", "max_wait_s", type=click.IntRange(0), default=0, help="Seconds to wait; 0: no limit."
)
@click.pass_obj
def create_cluster(state: State, /, template_id: str, no_reuse: bool, **options: Any) -> int:
    """Make a session of several containers as a cluster template describes it, and wait until it runs."""

    async def work(api: "AsyncClient") -> "AsyncSession":
        from .display import progress

        with progress("Starting a session"):
            return await api.templates.start_cluster(template_id, reuse=not no_reuse, **options)

    made = drive(state, work)
    _told_created(state, made, options["max_wait_s"])
    return EXIT_TIMEOUT if made.status == "TIMEOUT" else 0


@command("status-history", parent=session)
@click.argument("session_ref", metavar="SESSION")
@click.pass_obj
def status_history(state: State, session_ref: str) -> None:
    """Show when a session reached each status, also after its end."""
    from .display import print_json, print_table

    found = drive(state, lambda api: api.sessions.at(session_ref).status_history())
    if state.json:
        print_json({"history": found})
        return
    rows = [(status, found[status]) for status in sorted(found, key=lambda one: found[one])]
    print_table(("STATUS", "SINCE"), rows, empty="Nothing is known.")


@command("why", parent=session)
@click.argument("session_ref", metavar="SESSION")
@click.pass_obj
def why(state: State, session_ref: str) -> None:
    """Tell why a session waits, what would let it start, and when if that can be known."""
    from .display import print_fields, print_json

    found = drive(state, lambda api: api.sessions.at(session_ref).why())
    if state.json:
        print_json(found)
        return
    considered = ", ".join(f"{count} by {rule}" for rule, count in found.considered.items())
    waits = found.status == "PENDING"
    print_fields(
        [
            ("session", f"{found.name} ({found.id})"),
            ("status", f"{found.status} since {found.since}"),
            ("rule", found.rule),
            ("why", found.message),
            ("do" if not waits else "then", found.hint),
            ("position", found.position),
            ("agents", f"refused it: {considered}" if considered else ""),
            ("starts", found.estimated_start or ("not known" if waits else "")),
        ]
    )


@command("graph", parent=session)
@click.argument("session_ref", metavar="SESSION")
@click.pass_obj
def graph(state: State, session_ref: str) -> None:
    """Show what a session depends on, all the way down."""
    from .display import print_json

    found = drive(state, lambda api: api.sessions.at(session_ref).dependency_graph())
    if state.json:
        print_json(found)
        return

    def show(node: Any, depth: int) -> None:
        name, status = node.session_name.removesuffix("-"), node.status.rpartition(".")[2]
        click.echo(f"{'  ' * depth}{name} {status}  ({node.session_id})")
        for one in node.depends_on:
            show(one, depth + 1)

    show(found, 0)


session.add_command(graph, "show-graph")


@command("destroy")
@click.argument("sessions", nargs=-1, required=True)
@click.option("-f", "--forced", is_flag=True, help="Kill at once, in any state.")
@click.option("-r", "--recursive", is_flag=True, help="Also the sessions that depend on them.")
@click.option("-s", "--stats", is_flag=True, help="Show what it used.")
@click.pass_obj
def destroy(state: State, sessions: tuple[str, ...], forced: bool, recursive: bool, stats: bool) -> int:
    """End sessions."""

    async def work(api: "AsyncClient") -> int:
        from ai.backend.client.error import ApiError

        from .display import print_json, progress
        from .main import tell

        ended: list[dict[str, Any]] = []
        failed = 0
        for one in sessions:
            try:
                with progress(f"Ending {one}"):
                    at = api.sessions.at(one)
                    if recursive:
                        used, *others = await at.destroy_recursive(forced=forced)
                    else:
                        used, others = await at.destroy(forced=forced), []
            except ApiError as exc:
                if len(sessions) == 1:
                    raise
                failed += 1
                ended.append({"session": one, "ok": False, "message": exc.message})
                tell(State(), exc.message, hint=exc.hint)
                continue
            ended.append({"session": one, "ok": True, "stats": used})
            if not state.json:
                also = f", and {len(others)} that depended on it" if others else ""
                click.echo(f"{one} has ended ({used.get('status', 'terminated')}){also}")
                if stats:
                    _print_stats(used)
        if state.json:
            print_json({"ok": not failed, "items": ended})
        return 1 if failed else 0

    return drive(state, work)


def _print_stats(used: dict[str, Any]) -> None:
    from .display import print_fields

    print_fields(
        [
            (
                name,
                f"{value.get('current')} {value.get('unit_hint', '')}" if isinstance(value, dict) else value,
            )
            for name, value in used.items()
            if name not in ("version", "status")
        ]
    )


session.add_command(destroy)
session.add_command(destroy, "rm")


@command("info")
@click.argument("session_ref", metavar="SESSION")
@click.pass_obj
def info(state: State, session_ref: str) -> None:
    """Show a session, also one that has ended, and why it is as it is."""

    async def work(api: "AsyncClient") -> Any:
        from ai.backend.client.error import ApiError

        try:
            return await api.sessions.get(session_ref)
        except ApiError as exc:
            if exc.status != 404 or (found := await api.sessions.find(session_ref)) is None:
                raise
            return found

    from .display import print_fields, print_json

    found = drive(state, work)
    if state.json:
        print_json(found)
        return
    began = getattr(found, "created_at", "") or getattr(found, "creation_time", "")
    ended = getattr(found, "terminated_at", "") or getattr(found, "termination_time", "")
    print_fields(
        [
            ("name", found.name),
            ("id", found.id),
            ("status", found.status),
            ("reason", found.reason),
            ("message", found.message),
            ("do", found.hint),
            ("image", found.image),
            ("resources", _slots(found.requested_slots)),
            ("tag", found.tag),
            ("created", began),
            ("ended", ended),
        ]
    )


def _slots(slots: Any) -> str:
    """Amounts for people; the published info object has the mapping as a text."""
    import ast

    if isinstance(slots, str):
        try:
            slots = ast.literal_eval(slots)
        except (ValueError, SyntaxError):
            return str(slots)
    from ai.backend.common.quantity import format_size, slot_type

    return ", ".join(
        f"{name} {format_size(int(value)) if slot_type(name) == 'bytes' else value}"
        for name, value in slots.items()
    )


session.add_command(info)


@command("list")
@click.option("-a", "--all", "every", is_flag=True, help="Also those that have ended.")
@click.option("-s", "--status", help="Only these statuses, separated by commas.")
@click.option("--name-only", is_flag=True, help="Only names, one a line.")
@click.option("--limit", type=click.IntRange(1, 100), default=50, show_default=True)
@click.option("--offset", type=click.IntRange(0), default=0)
@click.pass_obj
def list_(state: State, every: bool, status: str | None, name_only: bool, limit: int, offset: int) -> None:
    """List sessions, the newest first."""
    from .display import age, print_json, print_table, remark

    async def work(api: "AsyncClient") -> Any:
        from ai.backend.client.session import LIVE

        statuses = tuple(status.upper().split(",")) if status else () if every else LIVE
        return await api.sessions.list(statuses=statuses, limit=limit, offset=offset)

    page = drive(state, work)
    if state.json:
        print_json(page)
        return
    if name_only:
        for one in page.items:
            click.echo(one.name)
        return
    print_table(
        ("NAME", "STATUS", "IMAGE", "RESOURCES", "AGE", "REASON"),
        [
            (s.name, s.status, s.image, _slots(s.requested_slots), age(s.created_at), s.reason)
            for s in page.items
        ],
        empty="No sessions." if every or status else "No live sessions; --all shows those that have ended.",
    )
    if page.total_count > offset + len(page.items):
        remark(f"{page.total_count} in all; see the next with --offset {offset + len(page.items)}.")


session.add_command(list_)
session.add_command(list_, "ps")


@command("restart", parent=session)
@click.argument("sessions", nargs=-1, required=True)
@click.pass_obj
def restart(state: State, sessions: tuple[str, ...]) -> None:
    """Start sessions anew: files stay, variables are lost."""

    async def work(api: "AsyncClient") -> None:
        from .display import progress

        for one in sessions:
            with progress(f"Restarting {one}"):
                await api.sessions.at(one).restart()

    drive(state, work)
    _done(state, f"{', '.join(sessions)} restarted")


@command("rename", parent=session)
@click.argument("session_ref", metavar="SESSION")
@click.argument("name")
@click.pass_obj
def rename(state: State, session_ref: str, name: str) -> None:
    """Give a session another name."""
    drive(state, lambda api: api.sessions.at(session_ref).rename(name))
    _done(state, f"{session_ref} is now {name}")


@command("interrupt", parent=session)
@click.argument("session_ref", metavar="SESSION")
@click.pass_obj
def interrupt(state: State, session_ref: str) -> None:
    """Interrupt the code that runs in a session."""
    drive(state, lambda api: api.sessions.at(session_ref).interrupt())
    _done(state, f"{session_ref} was interrupted")


def _done(state: State, message: str) -> None:
    from .display import print_json

    if state.json:
        print_json({"ok": True, "msg": message})
    else:
        click.echo(message)


@command("complete", parent=session)
@click.argument("session_ref", metavar="SESSION")
@click.argument("code")
@click.pass_obj
def complete(state: State, session_ref: str, code: str) -> None:
    """Complete code at its end, as an editor would."""
    from .display import print_json

    found = drive(state, lambda api: api.sessions.at(session_ref).complete(code))
    if state.json:
        print_json({"items": found})
    else:
        for one in found:
            click.echo(one)


@command("logs")
@click.argument("session_ref", metavar="SESSION")
@click.pass_obj
def logs(state: State, session_ref: str) -> None:
    """Show what a session printed, also after its end."""
    from .display import print_json

    text = drive(state, lambda api: api.sessions.at(session_ref).logs())
    if state.json:
        print_json({"logs": text})
    else:
        click.echo(text, nl=not text.endswith("\n"))


session.add_command(logs)


@command("task-logs", parent=session)
@click.argument("task", metavar="TASK")
@click.pass_obj
def task_logs(state: State, task: str) -> None:
    """Show what a batch session's command printed so far, by the session's or its main container's id."""
    from .display import print_json

    text = drive(state, lambda api: api.sessions.task_log(task))
    if state.json:
        print_json({"logs": text})
    else:
        click.echo(text, nl=False)


@command("upload")
@click.argument("session_ref", metavar="SESSION")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-b",
    "--basedir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Files keep their paths below this folder.",
)
@click.pass_obj
def upload(state: State, session_ref: str, files: tuple[Path, ...], basedir: Path | None) -> None:
    """Copy files and folders into a session (1 MiB a file)."""

    async def work(api: "AsyncClient") -> list[str]:
        from .display import progress

        with progress("Uploading"):
            return await api.sessions.at(session_ref).upload(files, basedir=basedir)

    _files_done(state, drive(state, work), "sent")


@command("download")
@click.argument("session_ref", metavar="SESSION")
@click.argument("files", nargs=-1, required=True)
@click.option(
    "--dest", type=click.Path(file_okay=False, path_type=Path), default=".", help="Where to. [default: here]"
)
@click.pass_obj
def download(state: State, session_ref: str, files: tuple[str, ...], dest: Path) -> None:
    """Copy files and folders out of a session."""

    async def work(api: "AsyncClient") -> list[str]:
        from .display import progress

        with progress("Downloading"):
            return [str(path) for path in await api.sessions.at(session_ref).download(files, dest)]

    _files_done(state, drive(state, work), "received")


def _files_done(state: State, names: list[str], verb: str) -> None:
    from .display import print_json

    if state.json:
        print_json({"ok": True, "files": names})
    else:
        for name in names:
            click.echo(f"{verb} {name}")


session.add_command(upload)
session.add_command(download)


@command("ls", parent=session)
@click.argument("session_ref", metavar="SESSION")
@click.argument("path", default="/home/work")
@click.pass_obj
def ls(state: State, session_ref: str, path: str) -> None:
    """List a folder of a session."""
    from datetime import UTC, datetime

    from .display import print_json, print_table

    found = drive(state, lambda api: api.sessions.at(session_ref).list_files(path))
    if state.json:
        print_json({"items": found, "total_count": len(found)})
        return
    print_table(
        ("MODE", "SIZE", "CHANGED", "NAME"),
        [
            (f.mode, f.size, f"{datetime.fromtimestamp(f.mtime, UTC):%Y-%m-%d %H:%M:%S}", f.filename)
            for f in sorted(found, key=lambda one: one.filename)
        ],
        empty="The folder is empty.",
    )


@command("events")
@click.argument("session_ref", metavar="[SESSION]", required=False, default="*")
@click.option("--scope", default="*", help="session, kernel, or * for both.")
@click.option("--after", default="", help="Begin after the event with this id, instead of now.")
@click.pass_obj
def events(state: State, session_ref: str, scope: str, after: str) -> None:
    """Watch what happens to a session, or to all of yours."""

    async def work(api: "AsyncClient") -> None:
        from .display import print_json

        async for event in api.sessions.events(session_ref, scope=scope, after=after):
            if state.json:
                print_json({"event": event.name, "id": event.id, **event.data})
            else:
                name = event.data.get("sessionName", "")
                why = event.data.get("message") or event.data.get("reason") or ""
                click.echo(f"{name:<20}  {event.name:<22}  {why}".rstrip())

    drive(state, work)


session.add_command(events)
