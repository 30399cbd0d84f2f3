"""Connection tracking entries: forget by address, service or mark; clear mark bits.

Promise: what matches is gone when the call returns. Kernels that filter deletions themselves (CTA_FILTER on delete, Linux 6.11)
get one request per match; for older ones, and for IPv6 addresses, the entries are listed, compared here, and deleted one by one.
No request without an address or a mark is ever sent, as that would mean all entries.
Source: linux/netfilter/nfnetlink_conntrack.h; net/netfilter/nf_conntrack_netlink.c for what is filtered where.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

from fairway_core.errors import KernelError
from fairway_kernel.netlink import (
    NETLINK_NETFILTER,
    NLM_F_DUMP,
    NetlinkSocket,
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
    def needle(self) -> bytes:
        """Bytes that every matching entry contains."""
        named = (self.orig.src, self.orig.dst, self.reply.src, self.reply.dst)
        return next((ip_address(item).packed for item in named if item), b"")

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
        return self.forget([match] if address is None else list(_anywhere(match, address)))

    def flush_address(self, address: str) -> int | None:
        """Forget everything an address takes part in, as sender or receiver, before or after translation."""
        return self.delete(address)

    def forget(self, matches: Sequence[Match]) -> int | None:
        """Forget what matches any; the number, or None where the kernel does not say. Raises ValueError for an empty match."""
        if Match() in matches:
            raise ValueError("refusing to forget every connection of the node")
        with self._pool.lend() as channel:
            if self._filtered_delete and all(map(_filter_is_enough, matches)):
                try:
                    channel.transact([_delete_filtered(match, family) for match in matches for family in match.families])
                    return None
                except KernelError as error:
                    if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOENT, errno.ERANGE):
                        raise
                    # Older kernels read the filter as one whole tuple and find it incomplete; they will not learn.
                    self._filtered_delete = False
            return _delete_each(channel, matches)

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
        with self._pool.lend() as channel:
            return [entry for _, entry in _matching(channel, [match or Match()])]

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
    """Whether the kernel's own filter can be trusted with the match: IPv4 addresses with anything, or a mark alone.

    Never IPv6 addresses: ctnetlink_filter_match_tuple compares them the wrong way round (seen on 6.18) and would delete every
    connection but the ones meant.
    """
    if match.orig == Tuple() and match.reply == Tuple():
        return match.protocol is None and match.mark is not None
    # A whole tuple would be taken by older kernels for one entry, whatever else the filter says.
    whole = (item.src and item.dst and item.src_port and item.dst_port for item in (match.orig, match.reply))
    return match.families == (AF_INET,) and not any(whole)


def _tuple_filter(wanted: Tuple, protocol: int | None) -> tuple[int, bytes]:
    """(filter flags, contents of the tuple attribute) for one direction."""
    flags = 0
    parts: list[bytes] = []
    for flag, kind, address in ((FILTER_SRC, CTA_IP_V4_SRC, wanted.src), (FILTER_DST, CTA_IP_V4_DST, wanted.dst)):
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


def _filter(match: Match) -> bytes:
    """The match as attributes of a deletion that the kernel filters; IPv4 addresses only."""
    parts: list[bytes] = []
    flags: list[bytes] = []
    for place, flag, wanted in (
        (CTA_TUPLE_ORIG, CTA_FILTER_ORIG_FLAGS, match.orig),
        (CTA_TUPLE_REPLY, CTA_FILTER_REPLY_FLAGS, match.reply),
    ):
        if wanted == Tuple():
            continue
        bits, body = _tuple_filter(wanted, match.protocol)
        parts.append(nest(place, body))
        flags.append(attr_u32(flag, bits))
    if flags:
        parts.append(nest(CTA_FILTER, *flags))
    if match.mark is not None:
        parts += [attr_be32(CTA_MARK, match.mark[0] & match.mark[1]), attr_be32(CTA_MARK_MASK, match.mark[1])]
    return b"".join(parts)


def _header(family: int) -> bytes:
    return NFGENMSG.pack(family, 0, 0)


def _dump(family: int) -> Request:
    return Request(CT_GET, _header(family), "list connections", NLM_F_DUMP)


def _delete_filtered(match: Match, family: int) -> Request:
    return Request(CT_DELETE, _header(family) + _filter(match), "forget connections")


def _delete_each(channel: NetlinkSocket, matches: Sequence[Match]) -> int:
    requests = [_delete_exact(payload) for payload, _ in _matching(channel, matches)]
    channel.transact(requests)
    return len(requests)


def _matching(channel: NetlinkSocket, matches: Sequence[Match]) -> Iterator[tuple[bytes, Entry]]:
    """Entries that match any, from one listing per family."""
    for family in (AF_INET, AF_INET6):
        concerned = [match for match in matches if family in match.families]
        if not concerned:
            continue
        needles = [match.needle for match in concerned]
        for reply in channel.query(_dump(family)):
            # Most entries are ruled out without decoding them.
            if any(needle in reply.payload for needle in needles):
                entry = _entry(reply.payload)
                if any(match(entry) for match in concerned):
                    yield reply.payload, entry


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
