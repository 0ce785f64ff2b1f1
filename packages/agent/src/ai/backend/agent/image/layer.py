"""The file system of an image, made from Debian packages alone: debootstrap into a folder, trim it, pack it
into one tar file.

Needs root and a package mirror, and no container engine, registry or network name of ours: the mirror is the
one that this machine's apt uses. Two builds from the same packages give the same bytes (sorted, no build
times), so that nodes agree on the digest. The module knows nothing of images' names and labels.
"""

import asyncio
import contextlib
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ai.backend.agent.container.errors import NoSpace
from ai.backend.common.errors import BackendError

REVISION = 1
"""Goes into cache keys: raise it when what is built from the same recipe changes."""
MOUNT_POINTS = ("opt/backend.ai", "opt/kernel", "home/config", "home/work")
_SOURCES = Path("/etc/apt")
_REMOVED = (
    "dev/*",
    "var/cache/apt/*",
    "var/cache/ldconfig/*",
    "var/cache/debconf/*-old",
    "var/lib/apt/lists/*",
    "var/lib/dpkg/*-old",
    "var/lib/systemd/catalog/*",
    "var/log/*",
    "usr/share/man/*",
    "usr/share/info/*",
    "usr/share/locale/*",
    "tmp/*",
    "run/*",
)
_FILES = {
    # debootstrap copies the machine's; engines mount their own over these.
    "etc/hostname": "localhost\n",
    "etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    "etc/resolv.conf": "",
    "etc/machine-id": "",
}
_SHADOW_DAY = "19000"


class ImageBuildFailed(BackendError):
    """The image could not be made; the hint says what to do."""

    code = "image.build-failed"


def check_builder() -> None:
    """Raises ImageBuildFailed when this machine lacks what building takes."""
    if os.geteuid() != 0:
        raise ImageBuildFailed("only root can build an image", hint="Run the command with sudo.")
    for program in ("debootstrap", "unshare", "chroot", "tar"):
        if shutil.which(program) is None:
            hint = "apt-get install debootstrap util-linux coreutils tar"
            raise ImageBuildFailed(f"{program} is not installed", hint=hint)


async def make_root(
    root: Path,
    suite: str,
    packages: Sequence[str],
    *,
    command: Sequence[str],
    smoke: str,
    progress: Callable[[str], None],
) -> list[str]:
    """Makes the folder `root` and returns its packages as sorted "name=version". Raises ImageBuildFailed
    or NoSpace.
    """
    progress(f"installing Debian {suite} with {', '.join(packages)}")
    mirror = find_mirror(suite, _SOURCES)
    include = [f"--include={','.join(packages)}"] if packages else []
    # In a mount namespace of its own: what debootstrap mounts below `root` is gone with it, however it ends.
    await run(
        "unshare", "--mount", "--propagation", "private",
        "debootstrap", "--variant=minbase", *include, suite, str(root), *([mirror] if mirror else []),
    )  # fmt: skip
    progress("checking that it works")
    await _run_smoke(root, command, smoke)
    progress("trimming")
    listing = await run(
        "dpkg-query", f"--admindir={root}/var/lib/dpkg", "--show", "--showformat=${Package}=${Version}\\n"
    )
    await asyncio.to_thread(trim, root)
    return sorted(listing.split())


async def _run_smoke(root: Path, command: Sequence[str], smoke: str) -> None:
    program = root / "smoke"
    program.write_text(smoke)
    program.chmod(0o644)
    inside = ["env", "-i", "PYTHONDONTWRITEBYTECODE=1", *command, f"/{program.name}"]
    said = await run("chroot", str(root), *inside)
    program.unlink()
    if said.strip() != "ok":
        said = said.strip()[-500:]
        raise ImageBuildFailed(f"the image's own test said {said!r}, not 'ok'", hint="Mend the recipe.")


def trim(root: Path) -> None:
    """Takes out what sessions don't need and what differs from build to build, and adds the mount points of
    every session.
    """
    for pattern in _REMOVED:
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for path in (root / "usr/share/doc").rglob("*"):
        # Licences stay.
        if not path.is_dir() and path.name != "copyright":
            path.unlink()
    for name, text in _FILES.items():
        path = root / name
        path.unlink(missing_ok=True)
        path.write_text(text)
    for path in (root / "etc/shadow", root / "etc/shadow-"):
        if path.exists():
            path.write_text(re.sub(r"(?m)^([^:]*:[^:]*):\d+:", rf"\1:{_SHADOW_DAY}:", path.read_text()))
    for name in MOUNT_POINTS:
        (root / name).mkdir(parents=True, exist_ok=True)


async def pack(root: Path, target: Path, *, built_from_s: float) -> None:
    """Writes `root` as a tar file. Files made after `built_from_s` (seconds since 1970) get the time of the
    newest one before.
    """
    newest = await asyncio.to_thread(lambda: max(_times_before(root, built_from_s), default=0))
    await run(
        "tar", "--create", "--file", str(target), "--directory", str(root), "--sort=name", "--numeric-owner",
        "--format=pax", "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
        f"--mtime=@{newest}", "--clamp-mtime", ".",
    )  # fmt: skip


def _times_before(root: Path, limit_s: float) -> Iterator[int]:
    # Package files keep their times (compiled Python modules record them); only what this build wrote is set
    # back.
    for folder, _, names in os.walk(root):
        for name in names:
            time_s = (Path(folder) / name).lstat().st_mtime
            if time_s < limit_s:
                yield int(time_s)


def find_mirror(suite: str, sources: Path) -> str | None:
    """The mirror that apt on this machine has for `suite`; None when it has none (debootstrap then takes its
    default).
    """
    one_line = rf"(?m)^deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+{suite}\s"
    for path in [sources / "sources.list", *sorted((sources / "sources.list.d").glob("*"))]:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = path.read_text()
            if path.suffix == ".list" and (match := re.search(one_line, text)):
                return match[1]
            if path.suffix == ".sources" and (found := _stanza_mirror(suite, text)):
                return found
    return None


def _stanza_mirror(suite: str, text: str) -> str | None:
    for stanza in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"(?m)^([A-Za-z-]+):[ \t]*(.*)$", stanza))
        words = {key: fields.get(key, "").split() for key in ("Types", "Suites", "URIs")}
        if "deb" in words["Types"] and suite in words["Suites"] and words["URIs"]:
            return str(words["URIs"][0])
    return None


async def run(*command: str) -> str:
    """Runs a program to its end and returns what it printed; a cancelled caller takes the program's processes
    along.
    """
    kept = [key for key in os.environ if key in {"PATH", "HOME"} or key.lower().endswith("_proxy")]
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={"LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"} | {k: os.environ[k] for k in kept},
            start_new_session=True,
        )
    )
    try:
        # Shielded: a start that is cancelled half-way ends the program, but not what the program has started by then.
        process = await asyncio.shield(starting)
        said = (await process.communicate())[0].decode(errors="replace")
    except asyncio.CancelledError:
        process = await starting
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    if process.returncode:
        raise _failure(command, process.returncode, said)
    return said


def _failure(command: Sequence[str], code: int, said: str) -> BackendError:
    last = " | ".join(said.strip().splitlines()[-3:])[-1000:]
    if "no space left on device" in said.lower():
        return NoSpace(f"the disk is full: {last}", hint="Free disk space, or choose another cache folder.")
    if "debootstrap" in command and re.search(r"Failed getting rel|Couldn't download|Invalid Rel", said):
        hint = "Check the network and this machine's apt sources: `apt-get update` must work."
    else:
        hint = "Read what the program said."
    program = "debootstrap" if "debootstrap" in command else command[0]
    return ImageBuildFailed(f"{program} ended with {code}: {last}", hint=hint)
