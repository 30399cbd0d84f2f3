"""Parts of a configuration that ask for something beyond an address: ports, limits, ranges, routes, kernel settings. Pure.

Every function takes the decoded JSON value and raises CniError with code 2 (a value we cannot serve) or 7 (one that is wrong),
naming the field. Keys match in any case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from fairway_cni import faults, podargs
from fairway_cni.faults import CniError
from fairway_cni.ranges import RangeSpec
from fairway_cni.values import as_array, as_number, as_object, as_text, as_texts, bad, fold
from fairway_core.model import Bandwidth, HostPort
from fairway_kernel.link.objects import GATEWAY4, GATEWAY6

PORTS = "runtimeConfig.portMappings"
PROTOCOLS = ("tcp", "udp", "sctp")
IFNAME = "IFNAME"
"""Stands for the interface's name in a kernel setting, as in the reference plugin tuning."""
SAFE_SETTINGS = re.compile(
    r"net/(core/somaxconn"
    r"|ipv4/(ip_local_port_range|ip_local_reserved_ports|ip_unprivileged_port_start|ping_group_range|tcp_[a-z0-9_]+"
    r"|udp_[rw]mem_min|icmp_echo_ignore_broadcasts"
    r"|conf/IFNAME/(arp_[a-z]+|rp_filter|log_martians|force_igmp_version|promote_secondaries)"
    r"|neigh/IFNAME/[a-z0-9_]+)"
    r"|ipv6/(bindv6only|conf/IFNAME/(mtu|hop_limit|autoconf|use_tempaddr|router_solicitations|ndisc_notify)"
    r"|neigh/IFNAME/[a-z0-9_]+)"
    r"|unix/max_dgram_qlen)\Z",
    re.ASCII,
)
_VALUE = re.compile(r"[0-9A-Za-z_., \t-]{1,256}\Z", re.ASCII)
RATE_LIMIT = 1 << 62


def read_ports(value: Any) -> tuple[HostPort, ...]:
    """portMappings. What has no host port is left out, as containerd and kubelet mean it."""
    found: dict[HostPort, None] = {}
    for item in as_array(value, PORTS):
        entry = fold(as_object(item, PORTS))
        host = as_number(entry.get("hostport"), f"{PORTS}.hostPort")
        if host <= 0:
            continue
        inside = as_number(entry.get("containerport"), f"{PORTS}.containerPort")
        for port, name in ((host, "hostPort"), (inside, "containerPort")):
            if not 0 < port < 65536:
                raise bad(f"{PORTS}.{name}", f"a port number, not {port},")
        protocol = (as_text(entry.get("protocol"), f"{PORTS}.protocol") or "tcp").lower()
        if protocol not in PROTOCOLS:
            raise CniError(faults.UNSUPPORTED_FIELD, f"{PORTS}.protocol: {protocol!r} is not one of {', '.join(PROTOCOLS)}")
        found[HostPort(protocol, host, inside, _host_ip(entry.get("hostip")))] = None
    return tuple(found)


def _host_ip(value: Any) -> str:
    text = as_text(value, f"{PORTS}.hostIP")
    ip = podargs.address(text, f"{PORTS}.hostIP", faults.CONFIG) if text else ""
    # Said by runtimes that mean every address.
    return "" if ip in ("0.0.0.0", "::") else ip


def read_bandwidth(value: Any, where: str) -> Bandwidth:
    """Rates in bits per second, bursts in bits. A burst beside no rate means nothing."""
    found = fold(as_object(value, where))
    names = ("ingressRate", "ingressBurst", "egressRate", "egressBurst")
    numbers = [as_number(found.get(name.lower()), f"{where}.{name}") for name in names]
    for name, number in zip(names, numbers, strict=True):
        if not 0 <= number <= RATE_LIMIT:
            raise bad(f"{where}.{name}", f"bits from 0 to 2^62, not {number},")
    for rate, way in ((numbers[0], "ingress"), (numbers[2], "egress")):
        if 0 < rate < 8 * 1024:
            raise bad(f"{where}.{way}Rate", f"at least 8192 bit/s, not {rate},")
    return Bandwidth(
        numbers[0], numbers[1] if numbers[0] else 0, numbers[2], numbers[3] if numbers[2] else 0
    )  # fmt: skip


def read_ranges(value: Any, where: str) -> tuple[RangeSpec, ...]:
    """host-local's form: a list of range sets, each a list of ranges; we add `exclude`, a list of addresses and CIDRs."""
    specs = []
    for group in as_array(value, where):
        for item in group if isinstance(group, list) else [group]:
            entry = fold(as_object(item, where))
            try:
                specs.append(
                    RangeSpec.make(
                        as_text(entry.get("subnet"), f"{where}.subnet"),
                        as_text(entry.get("rangestart"), f"{where}.rangeStart"),
                        as_text(entry.get("rangeend"), f"{where}.rangeEnd"),
                        as_texts(entry.get("exclude"), f"{where}.exclude"),
                    )
                )
            except ValueError as fault:
                raise CniError(faults.CONFIG, f"{where}: {fault}") from fault
    return tuple(specs)


def read_routes(value: Any, where: str) -> tuple[str, ...]:
    """Destinations besides the default. The next hop is always the node: another one is refused, never ignored."""
    found = []
    for item in as_array(value, where):
        entry = fold(as_object(item, where))
        dst, gw = as_text(entry.get("dst"), f"{where}.dst"), as_text(entry.get("gw"), f"{where}.gw")
        try:
            network = ip_network(dst, strict=False)
        except ValueError as fault:
            raise CniError(faults.CONFIG, f"{where}.dst: {dst!r} is not an address range") from fault
        if gw and gw not in (GATEWAY4, GATEWAY6):
            raise CniError(faults.UNSUPPORTED_FIELD, f"{where}.gw: {gw} cannot be: the next hop is the node")
        if network.prefixlen:
            found.append(str(network))
    return tuple(dict.fromkeys(found))


def read_settings(value: Any, where: str, ifname: str) -> tuple[tuple[str, str], ...]:
    """Kernel settings of the container, from the allow-list; names with dots or slashes. Raises with code 2 for any other."""
    found: dict[str, str] = {}
    for name, text in as_object(value, where).items():
        path = name if "/" in name else name.replace(".", "/")
        if not SAFE_SETTINGS.match(path):
            raise CniError(faults.UNSUPPORTED_FIELD, f"{where}: {name} is not on the list of settings a network may set")
        if not isinstance(text, str) or not _VALUE.match(text):
            raise bad(f"{where}.{name}", "text")
        found[path.replace(IFNAME, ifname)] = text
    return tuple(sorted(found.items()))


def read_flag(value: Any, where: str, default: bool | None) -> bool | None:
    """A truth value, or the default if it is absent."""
    if value is None:
        return default
    if not isinstance(value, bool):
        raise bad(where, "true or false")
    return value


def previous_addresses(previous: Mapping[str, Any], ifname: str, netns: str) -> tuple[str, ...]:
    """The addresses of the container's interface in a prevResult of any version, IPv4 first. Raises with code 7 if it has none.

    An address without `interface` is taken to be the container's, as in the oldest versions.
    """
    where = "prevResult"
    result = fold(previous)
    interfaces = [fold(as_object(item, where)) for item in as_array(result.get("interfaces"), where)]
    ours = {n for n, item in enumerate(interfaces) if item.get("name") == ifname and item.get("sandbox") in (netns, None)}
    ours = ours or {n for n, item in enumerate(interfaces) if item.get("sandbox")}
    texts = []
    for item in as_array(result.get("ips"), where):
        entry = fold(as_object(item, where))
        if entry.get("interface") is None or entry["interface"] in ours:
            texts.append(as_text(entry.get("address"), f"{where}.ips.address"))
    for name in ("ip4", "ip6"):
        texts.append(as_text(fold(as_object(result.get(name), where)).get("ip"), f"{where}.{name}.ip"))
    ips = {podargs.address(text, f"{where}.ips", faults.CONFIG) for text in texts if text}
    if not ips:
        raise CniError(faults.CONFIG, f"{where}: {ifname} has no address there")
    return tuple(sorted(ips, key=lambda ip: (":" in ip, ip_address(ip).packed)))
