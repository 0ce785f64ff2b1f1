"""The Python language worker: holds the user's variables and runs their code, one run at a time, in its main
thread.

Theory of operation. The worker is one self-contained file that must run under any CPython >= 3.8 of any
image, so it imports nothing but the standard library, and at start only built-in modules (its start is on the
path of every session). It speaks to the runner over one socket, the *control channel* (format: `_frame`),
which the main thread reads while nothing runs, so that a run costs no change of threads; what can't wait for
its end comes through a pipe *aside*, which a thread attends to.

What user code prints goes through `Outbox`, in order and in batches. In a run that lasts, and between runs, it
leaves at once when nothing was sent lately, else at most `FLUSH_S` later. A short run puts it on the *shelf*, a
pipe that wakes nobody: the runner looks there when the run ends, lasts, or dies. File descriptors 1 and 2 are
pipes to the runner, for subprocesses and C code; before the worker sends records it waits until the runner has
emptied these pipes, and before it starts a subprocess it sends its own records, so the order is that of the
program.

An interrupt names the run that it is meant for by its number, counted from 1 on both sides; the attending
thread turns it into SIGINT to the process group. The handler raises KeyboardInterrupt only while user code
runs, and never in the middle of a record. Forked children (multiprocessing) lose the control channel and write to
the pipes instead.

It must never know: ZeroMQ, run identifiers, the agent.
"""

from __future__ import annotations

import _ast
import _thread
import builtins
import io
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Coroutine, Iterator
    from types import CodeType, FrameType, ModuleType, TracebackType
    from typing import Any
else:
    import _signal  # signal.py wraps it in enums, for 4 ms

CONTROL_FD, ASIDE_FD, SHELF_FD = 3, 4, 5
FLUSH_S = 0.02
FLUSH_BYTES = 16384
SHELF_BYTES, ATOMIC_BYTES = 16384, 4096
"""How much of a run the shelf takes (less than a pipe holds), and of which size a write is never torn."""
RECORD_BYTES = 32768
MEDIA_BYTES_MAX = 10 << 20
EXIT_INTERRUPTED = 130
_ALLOW_TOP_LEVEL_AWAIT = 0x2000
_ONLY_AST = 0x0400
_CO_COROUTINE = 0x80
_FUTURE_FLAGS = 0x1FE0000
_FIONREAD = 0x541B


def _frame(kind: bytes, *fields: bytes) -> bytes:
    """On every channel: 4 bytes big-endian length, then a kind (1 byte) and fields joined by NUL; only the last
    field may contain NUL itself. To the runner: H(runtime) O(bytes) E(bytes) M(mime, data) L(html) W("1" or "")
    D(exit code) K(id, matches by newline); on the shelf only O and E. From it, by the control channel: R(code),
    the next only after D; aside: N(number of the run) interrupt, F() the run lasts, I(line), C(id, text before the cursor)."""
    body = kind + b"\0".join(fields)
    return len(body).to_bytes(4, "big") + body


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _wake(lock: _thread.LockType) -> None:
    """Releases a lock that is used as an event: whoever waits for it goes on, once."""
    try:
        if lock.locked():
            lock.release()
    except RuntimeError:
        pass  # another thread was first


def _records(fd: int) -> Iterator[tuple[bytes, bytes]]:
    """What comes from the runner, as (kind, payload). When it hangs up, this process ends."""
    buffer = b""
    while True:
        try:
            data = os.read(fd, 65536)
        except OSError:
            data = b""
        if not data:
            os._exit(0)
        buffer += data
        while len(buffer) >= 4:
            end = 4 + int.from_bytes(buffer[:4], "big")
            if len(buffer) < end:
                break
            yield buffer[4:5], buffer[5:end]
            buffer = buffer[end:]


class Outbox:
    """All records on their way to the runner, in order. Any thread may add; sending never tears a record, not
    even for an interrupt."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.interrupted = False  # an interrupt came while sending: raise it after the record
        self._main = _thread.get_ident()
        self._records: list[tuple[bytes, bytes]] = []
        self._bytes = 0
        self.sending = False
        self._lock = _thread.allocate_lock()
        self._dirty = _thread.allocate_lock()  # held while there is nothing for the flusher to do
        self._dirty.acquire()
        self._flusher = False
        self._shelf_bytes = 0  # that may still go on the shelf
        self._last_sent_s = 0.0
        try:
            import fcntl

            self._ioctl: Any = fcntl.ioctl
        except ImportError:
            self._ioctl = None

    def write(self, kind: bytes, data: bytes) -> None:
        """Adds text output: on the shelf, or sent soon, and whole lines at once when nothing was sent lately."""
        if self._shelf_bytes:
            record = _frame(kind, data)
            self._shelf_bytes -= len(record)
            if len(record) <= ATOMIC_BYTES and self._shelf_bytes > 0:
                self._await_pipes()
                os.write(SHELF_FD, record)
                return
            self.clear_shelf()
        for start in range(0, len(data), RECORD_BYTES):
            self._records.append((kind, data[start : start + RECORD_BYTES]))
        self._bytes += len(data)
        quiet = time.monotonic() - self._last_sent_s > FLUSH_S
        if self._bytes > FLUSH_BYTES or (quiet and data.endswith(b"\n")):
            self.flush()
        else:
            if not self._flusher:
                self._flusher = True
                _thread.start_new_thread(self._flush_forever, ())
            _wake(self._dirty)

    def open_shelf(self) -> None:
        """A run begins; nobody knows yet how long it lasts."""
        self._shelf_bytes = SHELF_BYTES

    def clear_shelf(self) -> None:
        """The run lasts: has the runner take what is on the shelf, before anything that comes after it."""
        if self._shelf_bytes:
            self._shelf_bytes = 0
            self._records.insert(0, (b"O", b""))

    def detach(self) -> None:
        """In a forked child: nothing leaves any more."""
        self._shelf_bytes = 0
        self.flush = lambda: None  # type: ignore[method-assign]

    def post(self, kind: bytes, *fields: bytes) -> None:
        """Sends a record now, after everything that was written before."""
        self._shelf_bytes = 0
        self._records.append((kind, b"\0".join(fields)))
        self.flush()

    def flush(self) -> None:
        self.clear_shelf()
        main = _thread.get_ident() == self._main
        if main:
            if self.sending:
                return  # called by a signal handler amid our own flush, which goes on until nothing is left
            self.sending = True
        try:
            with self._lock:
                while self._records:
                    batch = self._records[:]
                    del self._records[: len(batch)]
                    self._bytes = 0
                    self._await_pipes()
                    self._send(batch)
                self._last_sent_s = time.monotonic()
        finally:
            if main:
                self.sending = False
                if self.interrupted:
                    self.interrupted = False
                    raise KeyboardInterrupt

    def _flush_forever(self) -> None:
        while True:
            self._dirty.acquire()
            time.sleep(FLUSH_S)
            self.flush()

    def _await_pipes(self) -> None:
        """Until the runner has taken what subprocesses wrote so far; gives up on those that never stop
        writing."""
        if self._ioctl is None:
            return
        for _ in range(200):
            try:
                if not any(any(self._ioctl(fd, _FIONREAD, bytes(4))) for fd in (1, 2)):
                    return
            except OSError:
                return  # user code closed or replaced the descriptor
            time.sleep(0.0005)

    def _send(self, batch: list[tuple[bytes, bytes]]) -> None:
        out: list[bytes] = []
        kind = b""
        pieces: list[bytes] = []
        size = 0
        for next_kind, data in batch:
            if next_kind == kind and kind in b"OE" and size + len(data) <= RECORD_BYTES:
                pieces.append(data)
                size += len(data)
                continue
            if kind:
                out.append(_frame(kind, b"".join(pieces)))
            kind, pieces, size = next_kind, [data], len(data)
        out.append(_frame(kind, b"".join(pieces)))
        view = memoryview(b"".join(out))
        while view:
            view = view[os.write(self.fd, view) :]


class Sink(io.BufferedIOBase):
    """The binary layer under sys.stdout and sys.stderr."""

    def __init__(self, outbox: Outbox, kind: bytes, fd: int, name: str) -> None:
        self._outbox, self._kind, self._fd = outbox, kind, fd
        self.name, self.mode = name, "w"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def write(self, data: Any) -> int:
        copy = bytes(data)
        if copy:
            self._outbox.write(self._kind, copy)
        return len(copy)

    def flush(self) -> None:
        self._outbox.flush()

    def close(self) -> None:
        pass  # user code that closes sys.stdout closes it for itself only


class Stdin(io.TextIOBase):
    """sys.stdin: each line is asked of the user. There is no end of input."""

    encoding, errors, name, mode = "utf-8", "strict", "<stdin>", "r"

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def readable(self) -> bool:
        return True

    def readline(self, size: int | None = -1) -> str:  # type: ignore[override]
        return self._worker.ask(False) + "\n"

    def read(self, size: int | None = -1) -> str:
        return self.readline()

    def close(self) -> None:
        pass  # `exit()` closes sys.stdin


class Hooks:
    """A meta path finder that adjusts a few modules when user code first imports them, so that nobody pays
    for those never used."""

    def __init__(self, hooks: dict[str, Callable[[Any], None]]) -> None:
        self._hooks = hooks

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        hook = self._hooks.pop(name, None)
        if hook is None:
            return None
        spec: Any = None
        for finder in sys.meta_path:
            spec = (
                finder.find_spec(name, path, target)
                if finder is not self and hasattr(finder, "find_spec")
                else None
            )
            if spec is not None:
                break
        else:
            return None
        load = getattr(spec.loader, "exec_module", None)
        if load is None:
            return spec

        def exec_module(module: ModuleType) -> None:
            load(module)
            hook(module)

        try:
            spec.loader.exec_module = exec_module
        except AttributeError:
            pass  # a loader that cannot be wrapped: the module then works as it is
        return spec


class Worker:
    """The persistent interpreter session."""

    def __init__(self, fd: int) -> None:
        self.outbox = Outbox(fd)
        self._fd = fd
        self._pid = os.getpid()
        self._running = False
        self._done = 0  # runs so far
        self._interrupted = 0  # the run that an interrupt came for, while the main thread has not heeded it
        self._input = ""
        self._input_ready = _thread.allocate_lock()
        self._input_ready.acquire()
        self._asking = _thread.allocate_lock()
        self._count = 0
        self._flags = 0
        self._sources: dict[str, Any] = {}
        self._loop: Any = None
        self._main_module: Any = type(sys)("__main__")
        self._names: dict[str, Any] = self._main_module.__dict__
        self._names["__builtins__"] = builtins

    def serve(self) -> None:
        """Announces itself and runs code until the runner hangs up."""
        self._install()
        _signal.signal(_signal.SIGINT, self._on_sigint)
        _thread.start_new_thread(self._attend, ())
        self.outbox.post(b"H", _encode("python " + ".".join(map(str, sys.version_info[:3]))))
        for _, code in _records(self._fd):
            exit_code = self._run_guarded(code.decode("utf-8", "replace"))
            if os.getpid() != self._pid:
                self._leave_child()
            self._done += 1
            self.outbox.post(b"D", str(exit_code).encode())

    def ask(self, is_password: bool) -> str:
        """Waits for a line from the user."""
        if os.getpid() != self._pid:
            raise EOFError("a child process cannot ask for input")
        with self._asking:
            self._input_ready.acquire(False)  # what was left of a wait that an interrupt ended
            self.outbox.post(b"W", b"1" if is_password else b"")
            self._input_ready.acquire()
            return self._input

    # ---- set-up

    def _install(self) -> None:
        sys.modules["__main__"] = self._main_module
        sys.argv = [""]
        sys.stdout = sys.__stdout__ = self._stream(b"O", 1, "<stdout>")  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = self._stderr = self._stream(b"E", 2, "<stderr>")  # type: ignore[misc]
        sys.stdin = sys.__stdin__ = Stdin(self)  # type: ignore[misc, assignment]
        sys.displayhook = self._display_result
        builtins.display = self._display  # type: ignore[attr-defined]
        system = os.system

        def flushing_system(command: Any) -> int:
            self.outbox.flush()
            return system(command)

        flushing_system.__name__ = flushing_system.__qualname__ = "system"
        flushing_system.__doc__ = system.__doc__
        os.system = flushing_system
        os.register_at_fork(before=self.outbox.flush, after_in_child=self._detach_child)
        hooks: dict[str, Callable[[Any], None]] = {
            "getpass": self._hook_getpass,
            "linecache": lambda module: module.cache.update(self._sources),
            "subprocess": self._hook_subprocess,
            "matplotlib.pyplot": self._hook_pyplot,
        }
        for name in list(hooks):
            if name in sys.modules:
                hooks.pop(name)(sys.modules[name])
        sys.meta_path.insert(0, Hooks(hooks))

    def _stream(self, kind: bytes, fd: int, name: str) -> Any:
        form: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace", "newline": "\n"}
        stream: Any = io.TextIOWrapper(Sink(self.outbox, kind, fd, name), write_through=True, **form)
        stream.mode = "w"
        return stream

    def _hook_getpass(self, module: Any) -> None:
        def getpass(prompt: str = "Password: ", stream: Any = None, **options: Any) -> str:
            (stream or sys.stdout).write(prompt)
            return self.ask(True)

        getpass.__doc__ = module.getpass.__doc__
        module.getpass = getpass

    def _hook_subprocess(self, module: Any) -> None:
        init = module.Popen.__init__

        def __init__(popen: Any, *args: Any, **options: Any) -> None:
            self.outbox.flush()
            init(popen, *args, **options)

        __init__.__wrapped__ = init  # type: ignore[attr-defined]
        __init__.__doc__ = init.__doc__
        module.Popen.__init__ = __init__

    def _hook_pyplot(self, module: Any) -> None:
        def show(*args: Any, **options: Any) -> None:
            """Shows all open figures."""
            self._show_figures()

        module.show = show

    def _detach_child(self) -> None:
        """In a forked child: writes to the pipes, and never again to the control channel."""
        for fd in (CONTROL_FD, ASIDE_FD, SHELF_FD):
            os.close(fd)
        for fd, name in ((1, "stdout"), (2, "stderr")):
            form: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace", "closefd": False}
            stream = open(fd, "w", buffering=1, **form)  # noqa: SIM115 -- it lives as long as the child
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        self._stderr = sys.stderr
        self._running = True  # an interrupt in a child is an ordinary one
        self.outbox.detach()

    def _leave_child(self) -> None:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(0)

    # ---- what the runner says while code runs

    def _attend(self) -> None:
        for kind, payload in _records(ASIDE_FD):
            self._take(kind, payload)

    def _take(self, kind: bytes, payload: bytes) -> None:
        if kind == b"N":
            number = int(payload)
            if number > self._done:
                self._interrupted = number
                os.killpg(os.getpgrp(), _signal.SIGINT)
        elif kind == b"F":
            self.outbox.flush()
        elif kind == b"I":
            self._input = payload.decode("utf-8", "replace")
            _wake(self._input_ready)
        elif kind == b"C":
            request_id, _, text = payload.partition(b"\0")
            try:
                matches = complete(text.decode("utf-8", "replace"), self._names)
            except Exception:  # an object whose __dir__ raises has no completions
                matches = []
            self.outbox.post(b"K", request_id, _encode("\n".join(matches)))

    # ---- running code

    def _on_sigint(self, signum: int, frame: FrameType | None) -> None:
        if not self._running:
            return
        self._interrupted = 0
        if self.outbox.sending:
            self.outbox.interrupted = True
            return
        raise KeyboardInterrupt

    def _run_guarded(self, code: str) -> int:
        """Runs code; an interrupt at any point ends here and nowhere else."""
        exit_code = 0
        try:
            try:
                _signal.signal(_signal.SIGINT, self._on_sigint)
                self.outbox.open_shelf()
                self._running = True
                if self._interrupted > self._done:
                    raise KeyboardInterrupt
                exit_code = self._run(code)
            finally:
                self._running = False
        except KeyboardInterrupt:
            exit_code = EXIT_INTERRUPTED
        while self._running or self.outbox.interrupted:
            try:
                self._running = self.outbox.interrupted = False
            except KeyboardInterrupt:
                pass
        return exit_code

    def _run(self, code: str) -> int:
        self._count += 1
        filename = f"<input {self._count}>"
        entry = (len(code), None, [line + "\n" for line in code.split("\n")], filename)
        self._sources[filename] = entry
        if "linecache" in sys.modules:
            sys.modules["linecache"].cache[filename] = entry
        exit_code = 0
        try:
            try:
                steps = self._compile(code, filename)
            except (SyntaxError, ValueError, OverflowError, MemoryError, RecursionError) as exc:
                self._report(exc, None)
                return 0
            for step, is_value in steps:
                value = self._evaluate(step)
                if is_value and os.getpid() == self._pid:
                    sys.displayhook(value)
        except SystemExit as exc:
            if exc.code is not None and not isinstance(exc.code, int):
                self._stderr.write(f"{exc.code}\n")
        except KeyboardInterrupt as exc:
            exit_code = EXIT_INTERRUPTED
            self._report(exc, exc.__traceback__)
        except BaseException as exc:
            self._report(exc, exc.__traceback__)
        if os.getpid() == self._pid:
            self._show_figures()
        return exit_code

    def _compile(self, code: str, filename: str) -> list[tuple[CodeType, bool]]:
        """The code objects to run in turn, each with whether its value is to be displayed."""
        flags = self._flags | _ALLOW_TOP_LEVEL_AWAIT
        tree = compile(code, filename, "exec", flags | _ONLY_AST, True)
        parts: list[tuple[CodeType, bool]] = []
        last = tree.body[-1] if tree.body else None
        if isinstance(last, _ast.Expr):
            tree.body.pop()
        if tree.body:
            parts.append((compile(tree, filename, "exec", flags, True), False))
            self._flags |= parts[0][0].co_flags & _FUTURE_FLAGS
        if isinstance(last, _ast.Expr):
            flags = self._flags | _ALLOW_TOP_LEVEL_AWAIT
            parts.append((compile(_ast.Expression(last.value), filename, "eval", flags, True), True))
        return parts

    def _evaluate(self, step: CodeType) -> Any:
        value = eval(step, self._names)  # noqa: S307 -- running code is what it is for
        return self._await(value) if step.co_flags & _CO_COROUTINE else value

    def _await(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Top-level await: one event loop for the whole session."""
        import asyncio

        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        task = self._loop.create_task(coroutine)
        try:
            return self._loop.run_until_complete(task)
        except KeyboardInterrupt:
            task.cancel()
            try:
                self._loop.run_until_complete(task)
            except asyncio.CancelledError:
                pass
            raise

    def _report(self, exc: BaseException, tb: TracebackType | None) -> None:
        """A traceback as the interpreter prints it, without the frames of this file."""
        while tb is not None and tb.tb_frame.f_code.co_filename == __file__:
            tb = tb.tb_next
        sys.last_type, sys.last_value, sys.last_traceback = type(exc), exc, tb
        if sys.excepthook is not sys.__excepthook__:
            sys.excepthook(type(exc), exc, tb)
            return
        import traceback

        self._stderr.write("".join(traceback.format_exception(type(exc), exc, tb)))

    # ---- display

    def _display_result(self, value: Any) -> None:
        if value is None:
            return
        builtins._ = None  # type: ignore[attr-defined]
        self._show(value)
        builtins._ = value  # type: ignore[attr-defined]

    def _display(self, *values: Any) -> None:
        """Shows values in their richest form: HTML, a picture, else their repr."""
        for value in values:
            self._show(value)

    def _show(self, value: Any) -> None:
        if not isinstance(value, type):
            for mime, data in _rich_forms(value):
                self._show_rich(mime, data)
                return
        sys.stdout.write(repr(value) + "\n")

    def _show_rich(self, mime: str, data: Any) -> None:
        if isinstance(data, (bytes, bytearray)):
            from binascii import b2a_base64

            encoded = b2a_base64(data, newline=False)
        else:
            encoded = _encode(str(data))
            if mime.startswith("image/") and mime != "image/svg+xml":
                encoded = encoded.replace(b"\n", b"")  # bundles hold base64 text
        if len(encoded) > MEDIA_BYTES_MAX:
            self._stderr.write(f"a result of {len(encoded)} bytes of {mime} is too large to show\n")
        elif mime == "text/plain":
            sys.stdout.write(encoded.decode() + "\n")
        elif mime == "text/html":
            self.outbox.post(b"L", encoded)
        elif mime.startswith("image/") and mime != "image/svg+xml":
            self.outbox.post(b"M", mime.encode(), b"data:" + mime.encode() + b";base64," + encoded)
        else:
            self.outbox.post(b"M", mime.encode(), encoded)

    def _show_figures(self) -> None:
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is None or not hasattr(pyplot, "get_fignums"):
            return
        try:
            for number in pyplot.get_fignums():
                picture = io.BytesIO()
                pyplot.figure(number).savefig(picture, format="png", bbox_inches="tight")
                self._show_rich("image/png", picture.getvalue())
            pyplot.close("all")
        except Exception as exc:
            self._report(exc, exc.__traceback__)


_RICH = (
    ("text/html", "_repr_html_"),
    ("image/svg+xml", "_repr_svg_"),
    ("image/png", "_repr_png_"),
    ("image/jpeg", "_repr_jpeg_"),
    ("text/markdown", "_repr_markdown_"),
    ("text/latex", "_repr_latex_"),
)


def _rich_forms(value: Any) -> Iterator[tuple[str, Any]]:
    """(mime, data) by preference, of those the value offers."""
    bundle = _call(value, "_repr_mimebundle_")
    if isinstance(bundle, tuple) and bundle:
        bundle = bundle[0]
    if isinstance(bundle, dict):
        for mime in [mime for mime, _ in _RICH] + ["text/plain"]:
            if bundle.get(mime) is not None:
                yield mime, bundle[mime]
    for mime, method in _RICH:
        data = _call(value, method)
        if isinstance(data, tuple) and data:
            data = data[0]
        if data is not None:
            yield mime, data


def _call(value: Any, method: str) -> Any:
    try:
        function = getattr(type(value), method, None) and getattr(value, method)
        return function() if callable(function) else None
    except Exception:  # a broken rich form: the next one, or the repr, is shown instead
        return None


def complete(text: str, names: dict[str, Any]) -> list[str]:
    """Completions of the dotted name that `text` ends with. Looks names up; calls nothing but `__getattr__`
    and `__dir__`."""
    start = len(text)
    while start and (text[start - 1].isidentifier() or text[start - 1].isdigit() or text[start - 1] == "."):
        start -= 1
    *path, prefix = text[start:].split(".")
    if not path:
        import keyword

        found = set(keyword.kwlist) | set(list(names))  # noqa: C414 -- a copy in one step: user code changes it meanwhile | set(dir(builtins))
    else:
        if path[0] in names:
            value = names[path[0]]
        elif hasattr(builtins, path[0]):
            value = getattr(builtins, path[0])
        else:
            return []
        for name in path[1:]:
            value = getattr(value, name)
        found = {name for name in dir(value) if isinstance(name, str)}
    if not prefix.startswith("_"):
        found = {name for name in found if not name.startswith("_")}
    return [".".join([*path, name]) for name in sorted(found) if name.startswith(prefix)][:1000]


def main() -> None:
    """The worker's process begins here, with the control channel as descriptor CONTROL_FD."""
    for fd in (CONTROL_FD, ASIDE_FD, SHELF_FD):
        os.set_inheritable(fd, False)
    Worker(CONTROL_FD).serve()
