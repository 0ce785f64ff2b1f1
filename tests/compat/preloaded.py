"""Runs in a published client's own Python: imports the client once, then makes of each call a process by a fork.

A command that takes a tenth of a second to do its work takes a second to import it. The client's
files are not touched, and each call is a process of its own that runs the client's own program
with its arguments, environment, folder and streams; only the imports have happened before.

A message on the control socket is one JSON document with the descriptors that belong to it:

- `{"home": {environ}}` and a socket: makes a process that imports the client's own modules with
  that environment, for they look up the home folder when imported, and listens on the socket;
- `{"argv" | "code", "environ", "cwd"}` and four descriptors, standard input, output and
  error, and where to tell `pid\\n` and afterwards `exit code\\n`.

The closed socket ends it. It must never import anything of this project, and never keep a thread.
"""

import atexit
import gc
import json
import os
import pkgutil
import runpy
import selectors
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

MESSAGE_BYTES = 1 << 17
LAZY = ("rich.markdown", "rich.panel")
"""What commands import when they run."""


class Children:
    """Who was forked for a call, and where to tell how it ended."""

    def __init__(self) -> None:
        self.ready = selectors.DefaultSelector()

    def add(self, pid: int, told: int) -> None:
        self.ready.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, told))

    def ended(self, descriptor: int, pid: int, told: int) -> None:
        self.ready.unregister(descriptor)
        os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        if told >= 0:
            _tell(told, os.waitstatus_to_exitcode(status))
            os.close(told)

    def forget(self) -> None:
        """In a child: the others are not its own."""
        for key in list(self.ready.get_map().values()):
            if key.data:
                os.close(key.fd)
                if key.data[1] >= 0:
                    os.close(key.data[1])
        self.ready.close()


def serve(control: socket.socket) -> Callable[[], None]:
    """Answers messages until the socket is closed; in a child, what that child is to do once it has left this loop."""
    children = Children()
    children.ready.register(control, selectors.EVENT_READ, None)
    while True:
        for key, _ in children.ready.select():
            if key.data:
                children.ended(key.fd, *key.data)
                continue
            message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 4)
            if not message:
                return lambda: None
            asked = json.loads(message)
            told = descriptors[3] if len(descriptors) == 4 else -1
            if pid := os.fork():
                children.add(pid, told)
                for descriptor in descriptors:
                    if descriptor != told:
                        os.close(descriptor)
                if told >= 0:
                    _tell(told, pid)
                continue
            children.forget()
            control.close()
            return _task(asked, descriptors)


def _task(asked: dict[str, Any], descriptors: list[int]) -> Callable[[], None]:
    if "home" in asked:
        return lambda: _settle(asked["home"], socket.socket(fileno=descriptors[0]))
    return lambda: _call(asked, descriptors)


def _settle(environ: dict[str, str], control: socket.socket) -> None:
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(environ["HOME"])
    import_client()
    gc.freeze()  # else the first collection in a child copies every page
    serve(control)()


def import_client() -> None:
    """Its command line, with the commands that it imports only when they are asked for, and its SDK.

    But for `v2` of 26.x: hundreds of modules of another interface, for which no step asks.
    """
    import_module("ai.backend.cli.__main__")
    _import_below("ai.backend.client")


def _import_below(package: str) -> None:
    for module in pkgutil.iter_modules(import_module(package).__path__, f"{package}."):
        if not module.name.endswith(".v2"):
            _import(module.name)
            if module.ispkg:
                _import_below(module.name)


def _import(name: str) -> None:
    # What is not in this release, or comes only through another module, is left to whoever needs it.
    with suppress(ImportError):
        import_module(name)


def _call(asked: dict[str, Any], descriptors: list[int]) -> None:
    os.setsid()  # else a password is asked for at the terminal of whoever runs the tests
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
    for descriptor in descriptors:
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(asked["environ"])
    os.chdir(asked["cwd"])
    code = 0
    try:
        _run(asked)
    except SystemExit as left:
        code = _exit_code(left)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    _leave(code)


def _run(asked: dict[str, Any]) -> None:
    if argv := asked.get("argv"):
        sys.argv[:] = argv
        runpy.run_path(argv[0], run_name="__main__")
        return
    sys.argv[:] = ["-c"]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(asked["code"], "<string>", "exec"), main.__dict__)


def _exit_code(left: SystemExit) -> int:
    if left.code is None or isinstance(left.code, int):
        return left.code or 0
    print(left.code, file=sys.stderr)
    return 1


def _leave(code: int) -> None:
    """Ends as an interpreter does, but for taking a thousand modules apart: threads are awaited, `atexit` is heard, streams are flushed."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or 120
    os._exit(code & 0xFF)


def _tell(descriptor: int, number: int) -> None:
    with suppress(BrokenPipeError):  # whoever asked does not want to know any more
        os.write(descriptor, f"{number}\n".encode())


def main() -> None:
    if sys.argv[1:] == ["names"]:
        import_client()
        for name in LAZY:
            _import(name)
        print(*[name for name in sys.modules if name.partition(".")[0] not in ("ai", "__main__")])
        return
    control = socket.socket(fileno=int(sys.argv[1]))
    named = subprocess.run(
        [sys.executable, "-P", __file__, "names"], capture_output=True, text=True, check=True
    )
    for name in named.stdout.split():
        _import(name)
    gc.freeze()
    serve(control)()


if __name__ == "__main__":
    main()
