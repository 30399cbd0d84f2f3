"""Where the other ends of veths are: from a host end to the container's namespace and interface.

The kernel numbers the namespaces that a namespace has links to (IFLA_LINK_NETNSID) and tells the number of one that is open
(RTM_GETNSID), so a path is found without entering a single container. Source: network_namespaces(7), linux/net_namespace.h.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from fairway_core.errors import KernelError
from fairway_kernel import netns as namespaces
from fairway_kernel.link import decode, survey
from fairway_kernel.link.objects import FarEnd
from fairway_kernel.link.rtnl import dump_links
from fairway_kernel.netlink import NetlinkSocket, Request, attr_u32, attributes, s32

RTM_GETNSID = 90
NETNSA_NSID, NETNSA_FD = 1, 3
RTGENMSG = bytes(4)
"""struct rtgenmsg, family unspecified, padded."""
UNKNOWN = -1
PROC = Path("/proc")
GONE = (errno.ENOENT, errno.ESRCH, errno.EINVAL, errno.ENODEV, errno.EACCES, errno.EPERM)
"""Errors that say the same: no container's namespace can be reached by this path."""


def trace(channel: NetlinkSocket, host_ifnames: Iterable[str]) -> dict[str, FarEnd]:
    """The far ends of these veths that are in a namespace some path leads to, by name. Raises KernelError.

    Costs time in the number of links, named namespaces and processes.
    """
    wanted = set(host_ifnames)
    links = [item for item in decode.links(channel.query(dump_links())) if item.name in wanted and item.kind == "veth"]
    paths = _paths(channel, {item.namespace for item in links} - {UNKNOWN})
    found: dict[str, FarEnd] = {}
    for number, path in paths.items():
        ends = {item.peer: item for item in links if item.namespace == number}
        with _may_be_gone():
            names = namespaces.run_in(path, lambda ends=ends: _names(ends))  # type: ignore[misc]
            found.update({host: FarEnd(path, name, survey.inside(path, name)) for host, name in names.items()})
    return found


def _paths(channel: NetlinkSocket, numbers: set[int]) -> dict[int, str]:
    """A path for each of these namespaces; looks no further once all are found."""
    found: dict[int, str] = {}
    seen: set[tuple[int, int]] = set()
    for path in _candidates():
        if len(found) == len(numbers):
            break
        with _may_be_gone():
            state = path.stat()
            if (state.st_dev, state.st_ino) in seen:
                continue
            seen.add((state.st_dev, state.st_ino))
            number = _number(channel, path)
            if number in numbers:
                found.setdefault(number, str(path))
    return found


@contextmanager
def _may_be_gone() -> Iterator[None]:
    """Processes and names come and go while they are looked at; what else goes wrong must not pass for that."""
    try:
        yield
    except (OSError, KernelError) as error:
        if error.errno not in GONE:
            raise KernelError(error.errno or errno.EIO, "look for containers' namespaces") from error


def _candidates() -> Iterator[Path]:
    """Names first: a path in /proc dies with its process, though others may still be in the namespace."""
    with suppress(OSError):
        yield from sorted(namespaces.NAMED.iterdir())
    for entry in sorted((item.name for item in PROC.iterdir() if item.name.isdigit()), key=int):
        yield PROC / entry / "ns" / "net"


def _number(channel: NetlinkSocket, path: Path) -> int:
    """The number of the namespace at `path` as the channel's namespace counts; UNKNOWN without one."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        asked = Request(RTM_GETNSID, RTGENMSG + attr_u32(NETNSA_FD, fd), f"number of namespace {path}")
        (reply,) = channel.query(asked)
        return s32(attributes(reply.payload, len(RTGENMSG)).get(NETNSA_NSID, b"\xff\xff\xff\xff"))
    finally:
        os.close(fd)


def _names(ends: Mapping[int, decode.Link]) -> dict[str, str]:
    """Runs inside: the names of the links that are the other ends, by host end. An index alone may be another device's."""
    with closing(NetlinkSocket()) as channel:
        here: Sequence[decode.Link] = list(decode.links(channel.query(dump_links())))
    return {ends[item.index].name: item.name for item in here if item.index in ends and item.peer == ends[item.index].index}
