"""Lets Python programs of batch mode ask the user for input: put on PYTHONPATH by the runner, under any
CPython >= 3.8.

When standard input is /dev/null, as the runner leaves it (not a file or pipe of the program's own),
`sys.stdin` asks the runner for each line over the unix socket named by BACKEND_INPUT_SOCKET. The image's own
sitecustomize is then imported as if this were not here.
"""

from __future__ import annotations

import os
import sys


def _is_null(fd: int) -> bool:
    try:
        return os.fstat(fd).st_rdev == os.stat(os.devnull).st_rdev
    except OSError:
        return False


def _install(path: str) -> None:
    import io

    class Stdin(io.TextIOBase):
        encoding, errors, name, mode = "utf-8", "strict", "<stdin>", "r"

        def readable(self) -> bool:
            return True

        def readline(self, size: int | None = -1) -> str:  # type: ignore[override]
            import socket

            sys.stdout.flush()
            hidden = sys._getframe(1).f_code.co_filename.endswith("getpass.py")
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.connect(path)
                connection.sendall(b"1" if hidden else b"0")
                with connection.makefile("r", encoding="utf-8", errors="replace") as answer:
                    return answer.read()

        def read(self, size: int | None = -1) -> str:
            return self.readline()

    sys.stdin = sys.__stdin__ = Stdin()  # type: ignore[misc, assignment]


if os.environ.get("BACKEND_INPUT_SOCKET") and _is_null(0):
    _install(os.environ["BACKEND_INPUT_SOCKET"])

sys.path[:] = [folder for folder in sys.path if folder != os.path.dirname(os.path.abspath(__file__))]
_this = sys.modules.pop("sitecustomize", None)
try:
    import sitecustomize  # type: ignore[import-not-found]  # noqa: F401
except ImportError:
    if _this is not None:
        sys.modules["sitecustomize"] = _this
