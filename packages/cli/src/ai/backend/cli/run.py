"""`run` and `exec`: code in a new session, and in one that exists."""

import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .command import EXIT_FAILURE, EXIT_TIMEOUT, PAIR, State, command, drive, slot_amounts

if TYPE_CHECKING:
    from ai.backend.client.client import AsyncClient
    from ai.backend.client.session import AsyncSession

    from .terminal import Screen


def _ports(_ctx: click.Context, param: click.Parameter, value: str | None) -> list[int]:
    words = [word.strip() for word in (value or "").split(",") if word.strip()]
    if wrong := [word for word in words if not word.isdecimal() or int(word) > 65535]:
        raise click.BadParameter(f"{wrong[0]!r} is no port", param=param)
    return [int(word) for word in words]


def start_options(function: Any) -> Any:
    """The options of all commands that make a session."""
    for option in reversed(
        (
            click.option("-t", "--name", "--client-token", "name", help="The session's name."),
            click.option(
                "--type",
                "kind",
                type=click.Choice(["interactive", "batch"]),
                default="interactive",
                show_default=True,
            ),
            click.option("-e", "--env", "environ", type=PAIR, multiple=True, help="An environment variable."),
            click.option(
                "-r", "--resources", type=PAIR, multiple=True, help="For example cpu=2 or mem=512m."
            ),
            click.option("--resource-opts", type=PAIR, multiple=True, help="For example shmem=128m."),
            click.option(
                "--device-model",
                "device_models",
                multiple=True,
                help="Of its accelerators, a model that will do; may be given more than once.",
            ),
            click.option("--tag", help="A word of yours to remember it by."),
            click.option("-g", "--group", help="The project."),
            click.option("-d", "--domain"),
            click.option(
                "--scaling-group", "--sgroup", "resource_group", help="The resource group to run in."
            ),
            click.option(
                "-v", "--volume", "-m", "--mount", "mounts", multiple=True, help="A virtual folder."
            ),
            click.option(
                "--preopen",
                "preopen_ports",
                metavar="PORT,...",
                callback=_ports,
                help="Ports of programs of yours, for 'backend.ai app'.",
            ),
            click.option("--cluster-size", type=click.IntRange(1), default=1, show_default=True),
            click.option("--arch", "architecture", help="[default: this machine's]"),
            click.option(
                "--bootstrap-script", type=click.File(), help="A script to run in the container first."
            ),
            click.option("--starts-at", help="When a batch session starts: a time, or 30m, 2h, 1d."),
            click.option("--callback-url", help="Told of each change of the session."),
            click.option("--no-reuse", is_flag=True, help="Fail when a session of that name exists."),
            click.option("--enqueue-only", is_flag=True, help="Don't wait until it runs."),
            click.option(
                "--max-wait", type=click.IntRange(0), default=0, help="Seconds to wait; 0: no limit."
            ),
        )
    ):
        function = option(function)
    return function


def _resource_opts(options: dict[str, Any]) -> dict[str, str]:
    models = ",".join(options.pop("device_models"))
    return dict(options.pop("resource_opts")) | ({"device_models": models} if models else {})


def wishes_of(options: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments of `AsyncSessions.create` from the start options."""
    script = options.pop("bootstrap_script")
    return {
        "name": options.pop("name"),
        "type": options.pop("kind"),
        "environ": dict(options.pop("environ")),
        "resources": slot_amounts(options.pop("resources")),
        "resource_opts": _resource_opts(options),
        "reuse": not options.pop("no_reuse"),
        "max_wait_s": options.pop("max_wait"),
        "bootstrap_script": script.read() if script else None,
        **{
            key: options.pop(key)
            for key in (
                "tag", "group", "domain", "resource_group", "mounts", "preopen_ports", "cluster_size", "architecture", "starts_at",
                "callback_url", "enqueue_only",
            )
        },
    }  # fmt: skip


def output_options(function: Any) -> Any:
    return click.option(
        "--save-media",
        type=click.Path(file_okay=False, path_type=Path),
        help="Save images and the like that the code shows in this folder.",
    )(function)


@command("run")
@click.argument("image")
@click.argument("files", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("-c", "--code", help="Code to run.")
@click.option("--clean", help="Command that cleans up before building. [default: the runtime's]")
@click.option("--build", help="Command that builds the files. [default: the runtime's]")
@click.option("--exec", "exec_", help="Command that runs the files. [default: the runtime's]")
@click.option("--build-log", is_flag=True, help="Show what the build step prints in full.")
@click.option(
    "--basedir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Files keep their paths below this folder.",
)
@click.option("--rm", "remove", is_flag=True, help="End a named session afterwards too.")
@click.option("-s", "--stats", is_flag=True, help="Show what the session used, after its end.")
@click.option("-q", "--quiet", is_flag=True, help="No remarks.")
@output_options
@start_options
@click.pass_obj
def run(
    state: State,
    /,
    image: str,
    files: tuple[Path, ...],
    code: str | None,
    clean: str | None,
    build: str | None,
    exec_: str | None,
    build_log: bool,
    basedir: Path | None,
    remove: bool,
    stats: bool,
    quiet: bool,
    save_media: Path | None,
    **options: Any,
) -> int:
    """Run code or files in a session.

    Without --name the session is made for this and ends with it. With --name it stays (unless --rm), and the next run in it finds the
    variables and files of this one.

    \b
      backend.ai run python -c 'print(6*7)'
      backend.ai run python main.py helper.py
      backend.ai run python -c 'x = 1' --name mine
    """
    from ai.backend.client.execution import batch_options

    if code is None and not files:
        raise click.UsageError("there is nothing to run: give -c CODE, or files")
    wishes = wishes_of(options)
    if wishes["type"] == "batch":
        wishes["startup_command"] = exec_ or code
        if not wishes["startup_command"]:
            raise click.UsageError("a batch session runs a command: give it with --exec or -c")
    temporary = wishes["name"] is None
    wishes["name"] = wishes["name"] or f"run-{secrets.token_hex(5)}"
    job = _Job(
        state=state,
        wishes={"image": image, **wishes},
        files=files,
        basedir=basedir,
        code=code,
        options=None
        if code is not None
        else batch_options(
            clean="*" if clean is None else clean,
            build="*" if build is None else build,
            exec="*" if exec_ is None else exec_,
            build_log=build_log,
        ),
        remove=(temporary or remove) and not wishes["enqueue_only"],
        stats=stats,
        quiet=quiet,
        save_media=save_media,
    )
    return drive(state, job.run)


class _Job:
    """One `run`: make, upload, execute, remove."""

    def __init__(
        self,
        *,
        state: State,
        wishes: dict[str, Any],
        files: tuple[Path, ...],
        basedir: Path | None,
        code: str | None,
        options: dict[str, Any] | None,
        remove: bool,
        stats: bool,
        quiet: bool,
        save_media: Path | None,
    ) -> None:
        self._state = state
        self._wishes = wishes
        self._files = files
        self._basedir = basedir
        self._code = code
        self._options = options
        self._remove = remove
        self._stats = stats
        self._quiet = quiet
        self._save_media = save_media

    async def run(self, api: "AsyncClient") -> int:
        from ai.backend.client.error import ApiError

        session = None
        try:
            session = await self._make(api)
            if session.status in ("PENDING", "TIMEOUT"):
                return self._waiting(session)
            return await self._execute(api, session)
        except ApiError as exc:
            # A refused creation left nothing to remove.
            self._remove = self._remove and (session is not None or exc.status >= 500)
            raise
        finally:
            if self._remove:
                await self._end(api)

    async def _make(self, api: "AsyncClient") -> "AsyncSession":
        from .display import progress, remark

        with progress(f"Starting a session from {self._wishes['image']}"):
            session = await api.sessions.create(**self._wishes)
        if not self._remove and not self._quiet and not self._state.json:
            remark(f"[session {session.name} {'started' if session.created else 'is used again'}]")
        return session

    def _waiting(self, session: "AsyncSession") -> int:
        from .display import print_json, remark

        if self._state.json:
            print_json({"ok": session.status == "PENDING", "session": session.name, "status": session.status})
        if session.status == "PENDING":
            remark(f"Session {session.name} waits for its turn. See 'backend.ai info {session.name}'.")
            return 0
        remark(
            f"Error: session {session.name} did not start within {self._wishes['max_wait_s']} s\n"
            "  whose: the platform's, not yours\n"
            f"  do:    {'Try again later.' if self._remove else f'See why with backend.ai session why {session.name}.'}"
        )
        return EXIT_TIMEOUT

    async def _execute(self, api: "AsyncClient", session: "AsyncSession") -> int:
        from .display import progress
        from .terminal import Screen, run_at_terminal

        if self._wishes["type"] == "batch":
            return await self._follow(api, session)
        if self._files:
            with progress("Uploading"):
                await session.upload(self._files, basedir=self._basedir)
        screen = Screen(save_media=self._save_media, keep=self._state.json)
        exit_code = await run_at_terminal(
            api.sessions,
            session,
            self._code or "",
            mode="query" if self._code is not None else "batch",
            options=self._options,
            screen=screen,
        )
        report(self._state, session, screen, exit_code)
        return exit_code

    async def _follow(self, api: "AsyncClient", session: "AsyncSession") -> int:
        """A batch session runs its command by itself: wait for its end and show what it printed."""
        from .display import progress

        with progress("Running the batch"):
            async for event in session.events(scope="session"):
                if event.name in ("session_terminated", "session_cancelled"):
                    break
        sys.stdout.write(await session.logs())
        self._remove = False
        ended = await api.sessions.find(session.id)
        return ended.exit_code or 0 if ended is not None else EXIT_FAILURE

    async def _end(self, api: "AsyncClient") -> None:
        from ai.backend.client.error import ApiError

        from .display import progress, remark

        sys.stdout.flush()
        with progress("Removing the session"):
            try:
                used = await api.sessions.at(self._wishes["name"]).destroy()
            except ApiError as exc:
                if exc.status != 404:
                    remark(f"The session {self._wishes['name']} could not be removed: {exc.message}")
                return
        if self._stats:
            for name, value in used.items():
                remark(f"{name}: {value}")


def report(state: State, session: "AsyncSession", screen: "Screen", exit_code: int) -> None:
    """The run as JSON, when that is wanted."""
    if not state.json:
        return
    from ai.backend.client.execution import Media, Text

    from .display import print_json

    texts = [item for item in screen.items if isinstance(item, Text)]
    print_json(
        {
            "ok": exit_code == 0,
            "session": session.name,
            "exit_code": exit_code,
            "stdout": "".join(t.text for t in texts if t.kind == "stdout"),
            "stderr": "".join(t.text for t in texts if t.kind == "stderr"),
            "media": [item for item in screen.items if isinstance(item, Media)],
        }
    )


@command("exec")
@click.argument("session")
@click.argument("file", required=False, type=click.File())
@click.option("-c", "--code", help="Code to run.")
@output_options
@click.pass_obj
def exec_(state: State, session: str, file: Any, code: str | None, save_media: Path | None) -> int:
    """Run code in a session that exists, keeping its variables.

    FILE is a file with code, or - for standard input.

    \b
      backend.ai exec mine -c 'print(x + 1)'
      backend.ai exec mine script.py
      echo 'print(x)' | backend.ai exec mine -
    """
    if (code is None) == (file is None):
        raise click.UsageError("give either -c CODE, or one FILE (- for standard input)")
    text = code if code is not None else file.read()

    async def work(api: "AsyncClient") -> int:
        from .terminal import Screen, run_at_terminal

        handle = api.sessions.at(session)
        screen = Screen(save_media=save_media, keep=state.json)
        exit_code = await run_at_terminal(
            api.sessions, handle, text, mode="query", options=None, screen=screen
        )
        report(state, handle, screen, exit_code)
        return exit_code

    return drive(state, work)
