"""The program that holds the private network of some sandboxes: run as a file by any Python 3.11, standard library only.

    python -I -S netns.py <wanted.json

It makes a user namespace and, in it, one network namespace with a bridge and one for each member, joined to the bridge by a pair of
devices. Nothing else leads in or out: no address on the bridge, no route but the members' own, no device of the machine. In the user
namespace of its own it needs no rights, so that it is the same for root and for everybody. Namespaces live as long as somebody has them
open: this program does, as descriptors MEMBER_FD and following, and becomes `sleep infinity` to do only that. Killing it is the undo.

`wanted.json`: {"folder", "sleep": path of the program, "prefix": length, "members": [address, ...]}. In `folder` it writes `run` (boot
id and /proc/PID/stat, as sandboxes do) before it makes anything, and `ready` when all is there. Exits with 0 then, or with 1 and the
reason on standard error; the holder itself lives on as an orphan. It must never know what a session, a container or an agent is.

Protocols: rtnetlink(7) and the kernel's if_link.h, user_namespaces(7).
"""

import ctypes
import json
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Any, NoReturn

MEMBER_FD = 32
DEVICE = "eth0"
MARK = "BACKENDAI_NETWORK"
_BRIDGE = "br0"

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_NETLINK_ROUTE = 0
_RTM_NEWLINK, _RTM_NEWADDR, _NLMSG_ERROR = 16, 20, 2
_REQUEST, _ACK, _EXCL, _CREATE = 0x1, 0x4, 0x200, 0x400
_IFF_UP = 0x1
_IFLA_IFNAME, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_NET_NS_FD = 3, 10, 18, 28
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL = 1, 2

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> int:
    """In the process that was started: waits for what the holder says."""
    # Some event loops hand down descriptors of their own, and what the holder keeps open never ends for its starter.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    wanted = json.load(sys.stdin)
    reader, writer = os.pipe()
    if not os.fork():
        os.close(reader)
        _become_holder(wanted, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    if said == b"ready":
        return 0
    os.write(2, said or b"it was killed")
    return 1


def _become_holder(wanted: dict[str, Any], writer: int) -> NoReturn:
    try:
        _hold(wanted)
        os.write(writer, b"ready")
    except BaseException as exc:
        os.write(writer, f"{type(exc).__name__}: {exc}".encode())
        os._exit(1)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    # Whoever wonders what sleeps there finds it in /proc/PID/environ.
    os.execve(wanted["sleep"], ["sleep", "infinity"], {MARK: wanted["folder"]})  # noqa: S606


def _hold(wanted: dict[str, Any]) -> None:
    os.setsid()
    os.chdir(wanted["folder"])
    boot, stat = Path("/proc/sys/kernel/random/boot_id").read_text(), Path("/proc/self/stat").read_text()
    Path("run").write_text(boot + stat)
    _own_user_namespace()
    hub = _own_network()
    links = _Links()
    links.up(links.add(_BRIDGE, "bridge"))
    bridge = socket.if_nametoindex(_BRIDGE)
    for index, address in enumerate(wanted["members"]):
        fd = _own_network(MEMBER_FD + index)
        member = _Links()
        links.up(links.add(f"m{index}", "veth", master=bridge, peer=_peer(fd)))
        member.up(member.named("lo"))
        member.up(member.named(DEVICE))
        member.address(socket.if_nametoindex(DEVICE), address, wanted["prefix"])
        _call("setns", hub, _CLONE_NEWNET)
    os.close(hub)
    Path("ready").touch()
    os.chdir("/")


def _call(name: str, *arguments: int) -> None:
    if getattr(_libc, name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _own_user_namespace() -> None:
    """One in which this user is itself, and nobody else is anybody."""
    uid, gid = os.geteuid(), os.getegid()
    _call("unshare", _CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        Path("/proc/self", name).write_text(text)


def _own_network(fd: int | None = None) -> int:
    """Enters a new network namespace and returns a descriptor of it; one with a wanted number outlives `exec`."""
    _call("unshare", _CLONE_NEWNET)
    opened = os.open("/proc/self/ns/net", os.O_RDONLY)
    if fd is None:
        return opened
    os.dup2(opened, fd)
    os.close(opened)
    return fd


class _Links:
    """The devices of the network namespace in which it was made, wherever its maker is later."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE)

    def add(self, name: str, kind: str, *, master: int = 0, peer: bytes = b"") -> bytes:
        attributes = self.named(name)
        if master:
            attributes += _attribute(_IFLA_MASTER, struct.pack("I", master))
        data = _attribute(_INFO_DATA, _attribute(_VETH_PEER, peer)) if peer else b""
        attributes += _attribute(_IFLA_LINKINFO, _attribute(_INFO_KIND, kind.encode()) + data)
        self._ask(_RTM_NEWLINK, _EXCL | _CREATE, _device() + attributes)
        return self.named(name)

    @staticmethod
    def named(name: str) -> bytes:
        return _attribute(_IFLA_IFNAME, name.encode() + b"\0")

    def up(self, name: bytes) -> None:
        self._ask(_RTM_NEWLINK, 0, _device(_IFF_UP) + name)

    def address(self, index: int, address: str, prefix: int) -> None:
        packed = socket.inet_aton(address)
        head = struct.pack("BBBBI", socket.AF_INET, prefix, 0, 0, index)
        own = _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed)
        self._ask(_RTM_NEWADDR, _EXCL | _CREATE, head + own)

    def _ask(self, kind: int, flags: int, body: bytes) -> None:
        self._socket.send(struct.pack("IHHII", 16 + len(body), kind, _REQUEST | _ACK | flags, 0, 0) + body)
        answer = self._socket.recv(65536)
        (answered,) = struct.unpack_from("H", answer, 4)
        (error,) = struct.unpack_from("i", answer, 16)
        if answered != _NLMSG_ERROR or error:
            raise OSError(-error, f"a network device: {os.strerror(-error)}")


def _device(flags: int = 0) -> bytes:
    """struct ifinfomsg; `flags` are also those to change."""
    return struct.pack("BxHiII", socket.AF_UNSPEC, 0, 0, flags, flags)


def _attribute(kind: int, data: bytes) -> bytes:
    padding = b"\0" * (-len(data) % 4)
    return struct.pack("HH", 4 + len(data), kind) + data + padding


def _peer(namespace_fd: int) -> bytes:
    """The other end of a pair, in that namespace."""
    return _device() + _Links.named(DEVICE) + _attribute(_IFLA_NET_NS_FD, struct.pack("I", namespace_fd))


if __name__ == "__main__":
    sys.exit(main())
