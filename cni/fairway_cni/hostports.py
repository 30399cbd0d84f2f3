"""Ports of the node that lead to containers: which are taken, and their nftables elements. Pure.

Source: CNI CONVENTIONS "portMappings"; the behaviour of the reference plugin portmap, but for what README.md names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fairway_cni import faults
from fairway_cni.faults import CniError
from fairway_core.cidrs import never_given
from fairway_core.model import Attachment, HostPort, family_of
from fairway_core.model.meta import FAMILIES, Family
from fairway_kernel.nft.objects import Chain, Elements, ElementValue, Layout, SetDecl, Slot

PRIORITY = -98
"""After services (-100): whoever declares a service or node port owns it, and a container cannot take it over."""
_IP: dict[Family, str] = {4: "ip", 6: "ip6"}
_NOT_NODE: dict[Family, str] = {4: "169.254.0.0/16", 6: "{ ::1, fe80::/10 }"}
"""Link-local addresses are those of gateways and of the DNS server; the kernel never sends from ::1 to another device."""


class PortBook:
    """Who holds which port of the node. A port on every address excludes the same port on any one of the same family."""

    def __init__(self) -> None:
        self._held: dict[tuple[Family, str, int], dict[str, str]] = {}

    def reserve(self, owner: str, ports: Sequence[HostPort], families: Sequence[int]) -> None:
        """Take all or none. Raises CniError (code 105) naming the port and who has it, or one that is asked for twice."""
        taken: list[HostPort] = []
        try:
            for port in ports:
                self._take(owner, port, families)
                taken.append(port)
        except CniError:
            self.release(owner, taken)
            raise

    def release(self, owner: str, ports: Sequence[HostPort]) -> None:
        """Give back what `owner` holds of `ports`; anything else is left alone."""
        for port in ports:
            for family in FAMILIES:
                place = (family, port.protocol, port.host_port)
                holders = self._held.get(place, {})
                if holders.get(port.host_ip) == owner:
                    del holders[port.host_ip]
                if not holders:
                    self._held.pop(place, None)

    def _take(self, owner: str, port: HostPort, families: Sequence[int]) -> None:
        concerned = [family for family in families_of(port) if family in families]
        for family in concerned:
            holders = self._held.get((family, port.protocol, port.host_port), {})
            found = next((who for ip, who in holders.items() if not ip or not port.host_ip or ip == port.host_ip), "")
            if found:
                where = f"{port.host_ip or 'every address'} port {port.host_port}/{port.protocol}"
                raise CniError(faults.HOST_PORT, f"runtimeConfig.portMappings: {where} is taken", f"held by {found}")
        for family in concerned:
            self._held.setdefault((family, port.protocol, port.host_port), {})[port.host_ip] = owner


def families_of(port: HostPort) -> tuple[Family, ...]:
    """The families in which a port is open."""
    return (family_of(port.host_ip),) if port.host_ip else FAMILIES


def hostport_layout(pod_cidrs: Sequence[str]) -> Layout:
    """Sets and chains. `pod_cidrs` are this node's own pod networks."""
    targets = {family: (f"{ip} daddr", "th dport") for family, ip in _IP.items()}
    sets = [
        decl
        for family, ip in _IP.items()
        for decl in (
            SetDecl(f"hostport{family}", (f"{ip} daddr", "meta l4proto", "th dport"), targets[family], typeof=True),
            SetDecl(f"hostport_any{family}", ("meta l4proto", "th dport"), targets[family], typeof=True),
            SetDecl(f"hostport_self{family}", (f"ipv{family}_addr", f"ipv{family}_addr")),
        )
    ]
    chains = (
        Chain("hostport_pre", ("jump hostport_dispatch",), f"type nat hook prerouting priority {PRIORITY}; policy accept;"),
        Chain("hostport_out", ("jump hostport_dispatch",), f"type nat hook output priority {PRIORITY}; policy accept;"),
        Chain("hostport_dispatch", ("fib daddr type != local return", *_dispatch())),
        Chain("hostport_post", tuple(_post(pod_cidrs)), "type nat hook postrouting priority 105; policy accept;"),
    )
    return Layout(tuple(sets), chains)


def _dispatch() -> Iterator[str]:
    transport = "meta l4proto { tcp, udp, sctp }"
    for family, ip in _IP.items():
        yield f"meta nfproto ipv{family} {transport} dnat {ip} to {ip} daddr . meta l4proto . th dport map @hostport{family}"
        yield (
            f"meta nfproto ipv{family} {ip} daddr != {_NOT_NODE[family]} {transport} "
            f"dnat {ip} to meta l4proto . th dport map @hostport_any{family}"
        )


def _post(pod_cidrs: Sequence[str]) -> Iterator[str]:
    """A container that reaches itself must see another sender than itself, and 127.0.0.1 means something else to it: both become
    the first address of the pod range, which no container is given.
    """
    yield "ct status & dnat == 0 return"
    for family, ip in _IP.items():
        cidrs = [cidr for cidr in pod_cidrs if family_of(cidr) == family]
        how = f"snat {ip} to {never_given(cidrs[0])}" if cidrs else "masquerade"
        yield f"{ip} saddr . {ip} daddr @hostport_self{family} {how} fully-random"
        if family == 4:
            # Masquerade, because the answer must come to an address that the node itself has.
            yield 'ip saddr 127.0.0.0/8 oifname { "fw-*", "fwr*" } masquerade fully-random'


def ports_of(attachment: Attachment) -> Elements:
    """The elements of one attachment: one per port, family and address of the container."""
    elements: dict[Slot, ElementValue] = {}
    ips = {family_of(ip): ip for ip in reversed(attachment.ips)}
    for port in attachment.host_ports:
        for family in families_of(port):
            ip = ips.get(family)
            if ip is None:
                continue
            key = (port.protocol, port.host_port)
            slot = Slot(f"hostport{family}", (port.host_ip, *key)) if port.host_ip else Slot(f"hostport_any{family}", key)
            elements[slot] = (ip, port.container_port)
            elements[Slot(f"hostport_self{family}", (ip, ip))] = ()
    return elements


def needs_loopback(attachment: Attachment) -> bool:
    """Whether a port of it can be reached through 127.0.0.0/8."""
    return any(not port.host_ip or port.host_ip.startswith("127.") for port in attachment.host_ports)
