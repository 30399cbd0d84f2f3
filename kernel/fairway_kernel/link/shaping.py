"""Rate limits of one attachment as traffic control messages. Pure.

Towards the container: a token bucket (tbf) at the host end. From it: what the host end receives is redirected to an
intermediate device (ifb) `fwi…` with a token bucket of its own, and comes back as if it had just arrived, so that pins and
bridge see the interface it came from. Nothing of it is inside the container, where its owner could take it off.
Source: tc-tbf(8), linux/pkt_sched.h, linux/pkt_cls.h, linux/tc_act/tc_mirred.h.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator, Mapping

from fairway_core.errors import KernelError
from fairway_kernel.link.objects import Shape
from fairway_kernel.link.rtnl import (
    IFLA_GROUP,
    IFLA_IFNAME,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MTU,
    RTM_NEWLINK,
    delete_link,
    link,
)
from fairway_kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Reply,
    Request,
    attr,
    attr_text,
    attr_u32,
    attributes,
    nest,
    text,
)

RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC, RTM_NEWTFILTER = 36, 37, 38, 44
TCA_KIND, TCA_OPTIONS = 1, 2
TCA_TBF_PARMS, TCA_TBF_RATE64, TCA_TBF_BURST = 1, 4, 6
TCA_U32_SEL, TCA_U32_ACT = 5, 7
TCA_ACT_KIND, TCA_ACT_OPTIONS = 1, 2
TCA_MIRRED_PARMS = 2
TC_H_ROOT, TC_H_INGRESS, INGRESS_HANDLE = 0xFFFFFFFF, 0xFFFFFFF1, 0xFFFF0000
TC_ACT_STOLEN, TCA_EGRESS_REDIR = 4, 1
ETH_P_ALL = 3
LINKLAYER_ETHERNET = 1
U32_MAX = 0xFFFFFFFF

BUCKET, REDIRECTOR, DOOR, FILTER = "tbf", "ifb", "ingress", "u32"
"""Kinds of discipline, device and filter, as the kernel's modules register them."""
ABSENT = (errno.ENOENT, errno.EOPNOTSUPP)
"""What the kernel answers to a kind that it has not."""
_NEEDS = {
    "limit": "token bucket (tbf, CONFIG_NET_SCH_TBF)",
    "create": "intermediate device (ifb, CONFIG_IFB)",
    "intercept": "ingress discipline (CONFIG_NET_SCH_INGRESS)",
    "redirect": "filter with redirection (CONFIG_NET_CLS_U32, CONFIG_NET_ACT_MIRRED)",
}
"""By the first word of an operation below."""

TCMSG = struct.Struct("=BxxxiIII")
RATE = struct.Struct("=BBHhHI")
MATCH_ALL = struct.pack("=BBBxHHhhI", 1, 0, 1, 0, 0, 0, 0, 0) + struct.pack("=IIii", 0, 0, 0, 0)
"""struct tc_u32_sel: terminal, one key that any packet has."""
SMALLEST_BURST = 2 << 10
LATENCY = 0.05
"""Seconds a packet waits for tokens at most; half of that, as in the reference plugin, costs a single TCP stream a third."""


def redirector_name(host_ifname: str) -> str:
    """The ifb of a host end: `fwi` and what follows the host end's prefix."""
    return "fwi" + host_ifname[3:]


def wanted_shapes(host_ifname: str, shape: Shape) -> dict[tuple[str, str], int]:
    """(device, discipline) to bytes per second, as `observed_shapes` would read it back."""
    wanted: dict[tuple[str, str], int] = {}
    if shape.ingress_rate:
        wanted[host_ifname, BUCKET] = _bytes(shape.ingress_rate)
    if shape.egress_rate:
        wanted[host_ifname, DOOR] = 0
        wanted[redirector_name(host_ifname), BUCKET] = _bytes(shape.egress_rate)
    return wanted


def limit_ingress(index: int, name: str, shape: Shape) -> list[Request]:
    """Token bucket of the host end, replacing what is there; none if there is no limit."""
    return [_bucket(index, name, shape.ingress_rate, shape.ingress_burst)] if shape.ingress_rate else []


def create_redirector(host_ifname: str, mtu: int, group: int) -> Request:
    """The ifb; one that is there counts as done."""
    body = link(up=True) + attr_text(IFLA_IFNAME, redirector_name(host_ifname)) + attr_u32(IFLA_MTU, mtu)
    body += attr_u32(IFLA_GROUP, group) + nest(IFLA_LINKINFO, attr_text(IFLA_INFO_KIND, REDIRECTOR))
    operation = f"create {redirector_name(host_ifname)} to limit what {host_ifname} receives"
    return Request(RTM_NEWLINK, body, operation, NLM_F_CREATE | NLM_F_EXCL, (errno.EEXIST,))


def delete_redirector(host_ifname: str) -> Request:
    """Remove the ifb; a missing one counts as done."""
    return delete_link(redirector_name(host_ifname))


def limit_egress(index: int, redirector: int, name: str, shape: Shape) -> list[Request]:
    """Token bucket of the ifb, and the way of everything `name` receives through it. Bring the ifb up before."""
    gone = Request(
        RTM_DELQDISC, _tc(index, INGRESS_HANDLE, TC_H_INGRESS), f"remove old redirection of {name}",
        tolerate=(errno.ENOENT, errno.EINVAL),
    )  # fmt: skip
    door = Request(
        RTM_NEWQDISC, _tc(index, INGRESS_HANDLE, TC_H_INGRESS) + attr_text(TCA_KIND, DOOR),
        f"intercept what {name} receives", NLM_F_CREATE | NLM_F_EXCL,
    )  # fmt: skip
    mirred = struct.pack("=IIiiiiI", 0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, redirector)
    action = attr_text(TCA_ACT_KIND, "mirred") + nest(TCA_ACT_OPTIONS, attr(TCA_MIRRED_PARMS, mirred))
    options = attr(TCA_U32_SEL, MATCH_ALL) + nest(TCA_U32_ACT, nest(1, action))
    info = 1 << 16 | struct.unpack("=H", struct.pack(">H", ETH_P_ALL))[0]
    way = Request(
        RTM_NEWTFILTER, _tc(index, 0, INGRESS_HANDLE, info) + attr_text(TCA_KIND, FILTER) + nest(TCA_OPTIONS, options),
        f"redirect what {name} receives", NLM_F_CREATE | NLM_F_EXCL,
    )  # fmt: skip
    return [_bucket(redirector, redirector_name(name), shape.egress_rate, shape.egress_burst), gone, door, way]


def explained(error: KernelError) -> KernelError:
    """The failure of one of these requests, with the feature named that this kernel lacks."""
    feature = _NEEDS.get(error.operation.partition(" ")[0], "")
    if error.errno not in ABSENT or not feature:
        return error
    return KernelError(error.errno, error.operation, f"this kernel has no {feature}")


def dump_shapes() -> Request:
    return Request(RTM_GETQDISC, _tc(0, 0, 0), "list queueing disciplines", NLM_F_DUMP)


def observed_shapes(replies: Iterable[Reply], names: Mapping[int, str]) -> Iterator[tuple[str, str, int]]:
    """(device, discipline, bytes per second) of token buckets and redirections on the devices in `names`."""
    for reply in replies:
        if reply.kind != RTM_NEWQDISC:
            continue
        _, index, _, _, _ = TCMSG.unpack_from(reply.payload)
        found = attributes(reply.payload, TCMSG.size)
        kind = text(found.get(TCA_KIND, b""))
        if index in names and kind in (BUCKET, DOOR):
            yield names[index], kind, _rate(found.get(TCA_OPTIONS, b"")) if kind == BUCKET else 0


def _rate(options: bytes) -> int:
    found = attributes(options)
    if TCA_TBF_RATE64 in found:
        return int(struct.unpack("=Q", found[TCA_TBF_RATE64])[0])
    return int(RATE.unpack_from(found.get(TCA_TBF_PARMS, bytes(12)))[5])


def _bucket(index: int, name: str, rate: int, burst: int) -> Request:
    """`rate` in bits per second, `burst` in bits."""
    speed = _bytes(rate)
    # A bucket smaller than one packet would pass none of that size; runtimes send the largest number for "no limit".
    bucket = min(max(burst // 8, SMALLEST_BURST, speed // 250), U32_MAX)
    limit = min(int(speed * LATENCY) + bucket, U32_MAX)
    ratespec = RATE.pack(0, LINKLAYER_ETHERNET, 0, 0, 0, min(speed, U32_MAX))
    params = ratespec + bytes(RATE.size) + struct.pack("=III", limit, 0, 0)
    options = attr(TCA_TBF_PARMS, params) + attr_u32(TCA_TBF_BURST, bucket)
    if speed > U32_MAX:
        options += attr(TCA_TBF_RATE64, struct.pack("=Q", speed))
    body = _tc(index, 1 << 16, TC_H_ROOT) + attr_text(TCA_KIND, BUCKET) + nest(TCA_OPTIONS, options)
    return Request(RTM_NEWQDISC, body, f"limit {name} to {rate} bit/s", NLM_F_CREATE | NLM_F_REPLACE)


def _bytes(rate: int) -> int:
    return max(rate // 8, 1)


def _tc(index: int, handle: int, parent: int, info: int = 0) -> bytes:
    return TCMSG.pack(0, index, handle, parent, info)
