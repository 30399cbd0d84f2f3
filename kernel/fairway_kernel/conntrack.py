"""Connection tracking entries: forget by address, service or mark; clear mark bits.

Promise: what matches is gone when the call returns. Kernels that filter deletions themselves (CTA_FILTER on delete, Linux 6.11)
get one request; older ones are asked for the matching entries (filtered by the kernel from 5.8 on, here before), which are then
deleted one by one. No request without a tuple or a mark is ever sent, as that would mean all entries.
Source: linux/netfilter/nfnetlink_conntrack.h; net/netfilter/nf_conntrack_netlink.c for what is filtered where.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from fairway_core.errors import KernelError
from fairway_kernel.netlink import (
    NETLINK_NETFILTER,
    NLM_F_DUMP,
    NetlinkSocket,
    Reply,
    Request,
    SocketPool,
    attr,
    attr_be16,
    attr_be32,
    attr_u8,
    attr_u32,
    attributes,
    nest,
)

CT_NEW, CT_GET, CT_DELETE = 0x100, 0x101, 0x102

CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_MARK, CTA_ZONE, CTA_MARK_MASK, CTA_FILTER = 1, 2, 8, 18, 21, 25
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST = 1, 2, 3, 4
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS = 1, 2
FILTER_SRC, FILTER_DST, FILTER_PROTO, FILTER_SRC_PORT, FILTER_DST_PORT = 1 << 0, 1 << 1, 1 << 3, 1 << 4, 1 << 5

AF_INET, AF_INET6 = 2, 10
NFGENMSG = struct.Struct(">BBH")


@dataclass(frozen=True, slots=True)
class Tuple:
    """One direction of a connection; as a filter, empty fields match anything."""

    src: str = ""
    dst: str = ""
    src_port: int = 0
    dst_port: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """A tracked connection. `protocol` is an IP protocol number."""

    protocol: int
    orig: Tuple
    reply: Tuple
    mark: int = 0


@dataclass(frozen=True, slots=True)
class Match:
    """Which entries: all given fields must agree. `mark` is (value, mask)."""

    protocol: int | None = None
    orig: Tuple = Tuple()
    reply: Tuple = Tuple()
    mark: tuple[int, int] | None = None

    def __call__(self, entry: Entry) -> bool:
        """Whether an entry matches."""
        if self.protocol is not None and entry.protocol != self.protocol:
            return False
        if self.mark is not None and entry.mark & self.mark[1] != self.mark[0] & self.mark[1]:
            return False
        return _agrees(self.orig, entry.orig) and _agrees(self.reply, entry.reply)

    @property
    def families(self) -> tuple[int, ...]:
        """The address families it can match; none if it names addresses of both."""
        named = {_family(item) for item in (self.orig.src, self.orig.dst, self.reply.src, self.reply.dst) if item}
        if not named:
            return (AF_INET, AF_INET6)
        return tuple(named) if len(named) == 1 else ()


class Conntrack:
    """The entries of the namespace at path `netns`, or of the calling thread's. Safe for many threads."""

    def __init__(self, netns: str | None = None, *, filtered_delete: bool = True) -> None:
        """`filtered_delete` False behaves as on a kernel that cannot filter deletions."""
        self._pool = SocketPool(netns, NETLINK_NETFILTER)
        self._filtered_delete = filtered_delete

    def delete(
        self,
        address: str | None = None,
        *,
        mark: tuple[int, int] | None = None,
        protocol: int | None = None,
        orig_src: str = "",
        orig_dst: str = "",
        orig_dst_port: int = 0,
        reply_src: str = "",
        reply_src_port: int = 0,
        reply_dst: str = "",
    ) -> int | None:
        """Forget the entries that match all of what is given; the number, or None where the kernel does not say.

        `address` matches in any of the four places; `mark` is (value, mask); `orig_dst` is what the client asked for (a virtual
        IP), `reply_src` what it was sent to. Raises ValueError if nothing is given and KernelError.
        """
        match = Match(protocol, Tuple(orig_src, orig_dst, 0, orig_dst_port), Tuple(reply_src, reply_dst, reply_src_port), mark)
        if address is None:
            return self.forget(match)
        total: int | None = 0
        for place in _anywhere(match, address):
            number = self.forget(place)
            total = None if number is None or total is None else total + number
        return total

    def flush_address(self, address: str) -> int | None:
        """Forget everything an address takes part in, as sender or receiver, before or after translation."""
        return self.delete(address)

    def forget(self, match: Match) -> int | None:
        """Forget what matches; the number, or None where the kernel does not say. Raises ValueError for an empty match."""
        if match == Match():
            raise ValueError("refusing to forget every connection of the node")
        with self._pool.lend() as channel:
            if self._filtered_delete and _filter_is_enough(match):
                try:
                    channel.transact([_delete_filtered(match, family) for family in match.families])
                    return None
                except KernelError as error:
                    if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT, errno.ERANGE):
                        raise
                    # Older kernels read the filter as one whole tuple and find it incomplete; they will not learn.
                    self._filtered_delete = False
            return _delete_each(channel, match)

    def sweep_mark(self, mask: int) -> int:
        """Clear the bits of `mask` in the mark of every entry, other bits untouched; the number of entries changed."""
        with self._pool.lend() as channel:
            requests = [
                _change_mark(reply.payload, mask)
                for family in (AF_INET, AF_INET6)
                for reply in channel.query(_dump(family))
                if _mark(attributes(reply.payload, 4)) & mask
            ]
            channel.transact(requests)
        return len(requests)

    def entries(self, match: Match | None = None) -> list[Entry]:
        """The tracked connections that match, in no particular order."""
        wanted = match or Match()
        with self._pool.lend() as channel:
            return [entry for family in wanted.families for _, entry in _matching(channel, wanted, family)]

    def close(self) -> None:
        self._pool.close()


def _anywhere(match: Match, address: str) -> Iterator[Match]:
    """The match once for each place the address can be in; a place that is taken by another address cannot match."""
    for side in ("orig", "reply"):
        for end in ("src", "dst"):
            taken = getattr(getattr(match, side), end)
            if taken in ("", address):
                changes: dict[str, Any] = {side: replace(getattr(match, side), **{end: address})}
                yield replace(match, **changes)


def _agrees(wanted: Tuple, found: Tuple) -> bool:
    return (
        wanted.src in ("", found.src)
        and wanted.dst in ("", found.dst)
        and wanted.src_port in (0, found.src_port)
        and wanted.dst_port in (0, found.dst_port)
    )


def _family(address: str) -> int:
    return AF_INET6 if ":" in address else AF_INET


def _filter_is_enough(match: Match) -> bool:
    """Whether the kernel's own filter can express the match: it needs an address, or a mark alone."""
    if match.orig == Tuple() and match.reply == Tuple():
        return match.protocol is None and match.mark is not None
    # A whole tuple would be taken by older kernels for one entry, whatever else the filter says.
    whole = (item.src and item.dst and item.src_port and item.dst_port for item in (match.orig, match.reply))
    return len(match.families) == 1 and not any(whole)


def _tuple_filter(wanted: Tuple, family: int, protocol: int | None) -> tuple[int, bytes]:
    """(filter flags, contents of the tuple attribute) for one direction."""
    flags, source, target = 0, CTA_IP_V6_SRC if family == AF_INET6 else CTA_IP_V4_SRC, 0
    target = source + 1 if family == AF_INET else CTA_IP_V6_DST
    parts: list[bytes] = []
    for flag, kind, address in ((FILTER_SRC, source, wanted.src), (FILTER_DST, target, wanted.dst)):
        if address:
            flags |= flag
            parts.append(attr(kind, ip_address(address).packed))
    body = nest(CTA_TUPLE_IP, *parts)
    if protocol is None:
        return flags, body
    flags |= FILTER_PROTO
    ports = [attr_u8(CTA_PROTO_NUM, protocol)]
    for flag, kind, port in (
        (FILTER_SRC_PORT, CTA_PROTO_SRC_PORT, wanted.src_port),
        (FILTER_DST_PORT, CTA_PROTO_DST_PORT, wanted.dst_port),
    ):
        if port:
            flags |= flag
            ports.append(attr_be16(kind, port))
    return flags, body + nest(CTA_TUPLE_PROTO, *ports)


def _filter(match: Match, family: int) -> bytes:
    """The match as attributes for a dump or a deletion that the kernel filters."""
    parts: list[bytes] = []
    flags: list[bytes] = []
    for place, flag, wanted in (
        (CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS, match.orig),
        (CTA_TUPLE_REPLY, CTA_FILTER_REPLY_FLAGS, match.reply),
    ):
        if wanted == Tuple():
            continue
        bits, body = _tuple_filter(wanted, family, match.protocol)
        parts.append(nest(place, body))
        flags.append(attr_u32(flag, bits))
    if flags:
        parts.append(nest(CTA_FILTER, *flags))
    if match.mark is not None:
        parts += [attr_be32(CTA_MARK, match.mark[0] & match.mark[1]), attr_be32(CTA_MARK_MASK, match.mark[1])]
    return b"".join(parts)


def _header(family: int) -> bytes:
    return NFGENMSG.pack(family, 0, 0)


def _dump(family: int, filtered: bytes = b"") -> Request:
    return Request(CT_GET, _header(family) + filtered, "list connections", NLM_F_DUMP)


def _delete_filtered(match: Match, family: int) -> Request:
    return Request(CT_DELETE, _header(family) + _filter(match, family), "forget connections")


def _delete_each(channel: NetlinkSocket, match: Match) -> int:
    requests = [_delete_exact(payload) for family in match.families for payload, _ in _matching(channel, match, family)]
    channel.transact(requests)
    return len(requests)


def _matching(channel: NetlinkSocket, match: Match, family: int) -> Iterator[tuple[bytes, Entry]]:
    for reply in _candidates(channel, match, family):
        entry = _entry(reply.payload)
        if match(entry):
            yield reply.payload, entry


def _candidates(channel: NetlinkSocket, match: Match, family: int) -> Iterable[Reply]:
    """Entries that may match; where the kernel does not take the filter, all of the family."""
    try:
        return channel.query(_dump(family, _filter(match, family)))
    except KernelError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
        return channel.query(_dump(family))


def _exact(payload: bytes) -> bytes:
    """Header, original tuple and zone of an entry as the kernel wrote them: its identity."""
    found = attributes(payload, NFGENMSG.size)
    zone = attr(CTA_ZONE, found[CTA_ZONE]) if CTA_ZONE in found else b""
    return _header(payload[0]) + nest(CTA_TUPLE_ORIG, found[CTA_TUPLE_ORIG]) + zone


def _delete_exact(payload: bytes) -> Request:
    return Request(CT_DELETE, _exact(payload), "forget a connection", tolerate=(errno.ENOENT,))


def _change_mark(payload: bytes, mask: int) -> Request:
    """The kernel keeps the bits outside CTA_MARK_MASK, so a mark set meanwhile is not lost."""
    body = _exact(payload) + attr_be32(CTA_MARK, 0) + attr_be32(CTA_MARK_MASK, mask)
    return Request(CT_NEW, body, "clear mark bits of a connection", tolerate=(errno.ENOENT,))


def _mark(found: dict[int, bytes]) -> int:
    return int.from_bytes(found.get(CTA_MARK, b""), "big")


def _entry(payload: bytes) -> Entry:
    found = attributes(payload, NFGENMSG.size)
    protocol, orig = _decode_tuple(found.get(CTA_TUPLE_ORIG, b""))
    return Entry(protocol, orig, _decode_tuple(found.get(CTA_TUPLE_REPLY, b""))[1], _mark(found))


def _decode_tuple(data: bytes) -> tuple[int, Tuple]:
    found = attributes(data)
    addresses = attributes(found.get(CTA_TUPLE_IP, b""))
    proto = attributes(found.get(CTA_TUPLE_PROTO, b""))
    src, dst = (_address(addresses, kinds) for kinds in ((CTA_IP_V4_SRC, CTA_IP_V6_SRC), (CTA_IP_V4_DST, CTA_IP_V6_DST)))
    ports = [int.from_bytes(proto.get(kind, b""), "big") for kind in (CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT)]
    return int.from_bytes(proto.get(CTA_PROTO_NUM, b""), "big"), Tuple(src, dst, *ports)


def _address(found: dict[int, bytes], kinds: Sequence[int]) -> str:
    data = next((found[kind] for kind in kinds if kind in found), b"")
    return str(ip_address(data)) if data else ""
