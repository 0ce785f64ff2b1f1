"""Where the runner starts: reads its arguments and forks the language worker before it imports anything else,
so that both get ready at the same time.

    python -I -S launch.py --runtime-type python [--runtime-path /usr/bin/python3] [--socket PATH] [--home
    DIR] [--environ FILE]
"""

from __future__ import annotations

import os
import sys

from . import child
from .lang.language import LANGUAGES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_DEFAULTS = {
    "--runtime-type": "python",
    "--runtime-path": "",
    "--socket": "/opt/kernel/runner.sock",
    "--home": "/home/work",
    "--environ": "/home/config/environ.txt",
}
BOOTSTRAP = ".bootstrap.sh"
_EXEC_WORKER = (
    "import sys; sys.path.insert(0, {folder!r}); import {module} as worker; del sys.path[0]; worker.main()"
)


def main(argv: list[str]) -> int:
    """Runs the kernel runner with the arguments after the program's name; returns its exit code."""
    options = dict(_DEFAULTS)
    for name, value in zip(argv[::2], argv[1::2], strict=False):
        if name not in options:
            return _usage(f"unknown option {name}")
        options[name] = value
    label = options["--runtime-type"]
    if len(argv) % 2 or label not in LANGUAGES:
        return _usage(f"the runtime type must be one of {', '.join(LANGUAGES)}")
    language, home = LANGUAGES[label], options["--home"]
    child.reserve_low_fds()
    env = child.environment(options["--environ"], home, os.environ)
    _bootstrap(home, env)
    runtime_path = options["--runtime-path"] or (sys.executable if language.worker else "")
    start_worker = _worker_starter(language.worker, runtime_path, env, home) if language.worker else None
    worker = start_worker() if start_worker else None

    from .consolelog import ConsoleLog
    from .link import Link
    from .runner import Runner

    return Runner(
        link=Link(options["--socket"]),
        log=ConsoleLog(),
        label=label,
        language=language,
        runtime_path=runtime_path,
        home=home,
        env=env,
        start_worker=start_worker,
        worker=worker,
    ).serve()


def _bootstrap(home: str, env: dict[str, str]) -> None:
    """Runs the user's script, if there is one, to its end: what it installs is there for all that comes after
    it. What it prints is in the container's log; if it fails, the session starts all the same."""
    try:
        os.stat(f"{home}/{BOOTSTRAP}")
    except OSError:
        return
    try:
        pid = os.posix_spawn(
            "/bin/sh", ["sh", "-c", f'cd "$0" && exec /bin/sh ./{BOOTSTRAP} </dev/null', home], env
        )
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except OSError as error:
        os.write(2, f"kernel runner: {BOOTSTRAP} can't be run: {error.strerror}\n".encode())
        return
    if code:
        os.write(2, f"kernel runner: {BOOTSTRAP} ended with {code}\n".encode())


def _worker_starter(
    module: str, runtime_path: str, env: dict[str, str], home: str
) -> Callable[[], child.Child]:
    """How to start the worker: by a plain fork when the user's interpreter is this one, else by executing
    theirs."""
    if runtime_path == sys.executable:
        from .lang import python_worker

        return lambda: child.start(python_worker.main, env, home, control=True)
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lang")
    program = child.which(runtime_path, env["PATH"]) or runtime_path
    argv = [program, "-c", _EXEC_WORKER.format(folder=folder, module=module)]
    return lambda: child.start(argv, env, home, control=True)


def _usage(problem: str) -> int:
    os.write(2, f"kernel runner: {problem}\n".encode())
    return 2
