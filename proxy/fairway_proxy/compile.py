"""Services and their endpoints to nftables elements. Pure.

One owner per service: ("service", namespace, name). Its elements are its frontends (addresses and node ports), its slots and
what hairpin and affinity need, so a change of one service or one endpoint is compiled without a look at any other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network

from fairway_core.delta import Owner
from fairway_core.endpoints import Backend, backends, usable
from fairway_core.keys import Key
from fairway_core.model import EndpointSlice, Service, ServicePort
from fairway_core.model.meta import FAMILIES, Family, family_of
from fairway_core.topology import Location, Way, chosen, way_of
from fairway_core.world import KIND, World
from fairway_kernel.conntrack import Match
from fairway_kernel.nft.objects import Elements, ElementValue, Layout, Range, Slot
from fairway_proxy.ids import PortIds, PortKey
from fairway_proxy.layout import AFFINITY_TIMEOUTS, service_layout
from fairway_proxy.marks import DROP, ct_mark_of, id_of, mark_of
from fairway_proxy.slots import Target, assign_slots, number_targets, slot_count, targets_of
from fairway_proxy.stale import FRONTEND_SETS, UdpFlows, udp_doors

OTHER_PROXY_LABEL = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"

_INSIDE_SETS: dict[str, Family] = {f"svc_inside{family}": family for family in FAMILIES}


@dataclass(frozen=True, slots=True)
class Frontend:
    """Where clients knock: an element of `svc` (address, protocol, port) or, without address, of `svc_nodeport`. `guarded`:
    only for the service's source ranges.
    """

    family: Family
    slot: Slot
    way: Way
    guarded: bool = False


@dataclass(frozen=True, slots=True)
class _Subject:
    """A service port with what may answer for it, seen from this node."""

    service: Service
    port: ServicePort
    slices: Sequence[EndpointSlice]
    here: Location


@dataclass(frozen=True, slots=True)
class _Draft:
    """What one service compiles to so far: its elements, and the ports it needs numbers for."""

    elements: dict[Slot, ElementValue]
    used: set[PortKey]


class ServiceCompiler:
    """Implements `fairway_kernel.nft.compiler.Compiler` for the L4 proxy of the node called `node_name`."""

    def __init__(self, node_name: str, pod_cidrs: tuple[str, ...]) -> None:
        self._node_name = node_name
        self._layout = service_layout(pod_cidrs)
        self._ids = PortIds()
        self._flows = UdpFlows()

    @property
    def layout(self) -> Layout:
        """Constant sets and chains; see layout.py."""
        return self._layout

    def learn(self, actual: Elements) -> None:
        """Keep the service port ids that the kernel's frontends carry."""
        known = {slot: id_of(int(value[0])) for slot, value in actual.items() if slot.set in FRONTEND_SETS}
        inside = ((slot, value) for slot, value in actual.items() if slot.set in _INSIDE_SETS)
        known |= {_inside_slot(_INSIDE_SETS[slot.set], int(str(slot.key[0]))): id_of(int(value[0])) for slot, value in inside}
        self._ids.learn(known)
        self._flows.learn(actual)

    def update(self, before: World, after: World, touched: frozenset[Key]) -> Mapping[Owner, Elements]:
        """The elements of every service that `touched` concerns: by its own key, by one of its endpoint slices, or because this
        node is in another zone now.
        """
        concerned = services_concerned(before, after, touched)
        if before.zone_of(self._node_name) != after.zone_of(self._node_name):
            concerned |= {(key.namespace, key.name) for key in after.keys_at(KIND, "Service")}
        changed = {owner_of(*name): self._compile(after, *name) for name in sorted(concerned)}
        for owner, elements in changed.items():
            self._flows.see_doors(owner, udp_doors(elements))
        for number in self._ids.settle():
            self._flows.see(number, ())
        self._flows.settle()
        return changed

    def stale_flows(self) -> list[Match]:
        """UDP flows to endpoints that went, or past frontends that came, since the last call. To be forgotten after the commit of
        what `update` returned.
        """
        return self._flows.take()

    def _compile(self, world: World, namespace: str, name: str) -> Elements:
        service = world.service(namespace, name)
        draft = _Draft({}, set())
        if service is not None and is_balanced(service):
            slices = world.slices_of(namespace, name)
            here = Location(self._node_name, world.zone_of(self._node_name))
            draft.elements.update({Slot(f"svc_vips{family_of(ip)}", (ip,)): () for ip in service.cluster_ips})
            for port in service.ports:
                self._compile_port(draft, _Subject(service, port, slices, here))
        for number in self._ids.retain(namespace, name, draft.used):
            self._flows.see(number, ())
        return draft.elements

    def _compile_port(self, draft: _Draft, subject: _Subject) -> None:
        doors = list(frontends_of(subject.service, subject.port))
        by_way = {way: [door for door in doors if door.way == way] for way in Way}
        if by_way[Way.HERE]:
            self._balance(draft, subject, Way.HERE, by_way[Way.HERE])
        if by_way[Way.EDGE]:
            self._balance_edge(draft, subject, by_way[Way.EDGE], by_way[Way.ALL])
        elif by_way[Way.ALL]:
            self._balance(draft, subject, Way.ALL, by_way[Way.ALL])

    def _balance_edge(self, draft: _Draft, subject: _Subject, edge: Sequence[Frontend], others: Sequence[Frontend]) -> None:
        """Clients inside get the marks of way ALL, by the marks that those outside get."""
        families = {door.family for door in edge}
        outside = self._balance(draft, subject, Way.EDGE, edge)
        told_by = [_inside_slot(family, outside[family]) for family in sorted(families)]
        inside = self._balance(draft, subject, Way.ALL, others, families, told_by)
        draft.elements.update({Slot(f"svc_inside{family}", (outside[family],)): (inside[family],) for family in families})

    def _balance(
        self,
        draft: _Draft,
        subject: _Subject,
        way: Way,
        doors: Sequence[Frontend],
        more: Collection[Family] = (),
        told_by: Sequence[Slot] = (),
    ) -> dict[Family, int]:
        """Number, slots and frontends of one way; its marks by family. `more`: families without a door that need slots too;
        `told_by`: what the number is known by, besides doors.
        """
        service, port = subject.service, subject.port
        key = PortKey(service.meta.namespace, service.meta.name, port.protocol, port.port, way)
        draft.used.add(key)
        number = self._ids.assign(key, (*(door.slot for door in doors), *told_by))
        draft.elements.update(_guards(number, service, doors))
        alive: set[Target] = set()
        marks: dict[Family, int] = {}
        for family in sorted({*more, *(door.family for door in doors)}):
            candidates = backends(subject.slices, port, family)
            alive.update(targets_of([backend for backend in candidates if backend.ready or backend.serving]))
            picked, class_ = _choice(candidates, subject.here, way is not Way.ALL)
            mark = marks[family] = mark_of(number, bool(service.affinity_seconds), class_)
            draft.elements.update(dict.fromkeys((door.slot for door in doors if door.family == family), (mark,)))
            draft.elements.update(self._slots(service, family, mark, picked))
        self._flows.see(number, alive if port.protocol == "UDP" else ())
        return marks

    def _slots(
        self, service: Service, family: Family, mark: int, picked: Sequence[Backend]
    ) -> Iterator[tuple[Slot, ElementValue]]:
        targets = targets_of(picked)
        for index, target in enumerate(assign_slots(targets)):
            yield Slot(f"eps{family}", (mark, index)), target
        yield from self._hairpins(family, picked)
        if service.affinity_seconds:
            yield Slot("svc_afftime", (ct_mark_of(mark),)), (affinity_timeout(service.affinity_seconds),)
            yield from _stickiness(family, ct_mark_of(mark), targets)

    def _hairpins(self, family: Family, picked: Sequence[Backend]) -> Iterator[tuple[Slot, ElementValue]]:
        """Only a pod of this node can meet itself here; endpoints written by hand may not say where they are."""
        for backend in picked:
            if backend.node_name in ("", self._node_name):
                yield Slot(f"svc_hairpin{family}", (backend.ip, backend.ip)), ()


def owner_of(namespace: str, name: str) -> Owner:
    """The owner of a service's elements."""
    return ("service", namespace, name)


def services_concerned(before: World, after: World, touched: frozenset[Key]) -> set[tuple[str, str]]:
    """Namespace and name of each service whose elements may differ between the two worlds."""
    concerned: set[tuple[str, str]] = set()
    for key in touched:
        if key.kind == "Service":
            concerned.add((key.namespace, key.name))
        elif key.kind == "EndpointSlice":
            for world in (before, after):
                item = world.get(key)
                if isinstance(item, EndpointSlice) and item.service:
                    concerned.add((key.namespace, item.service))
    return concerned


def is_balanced(service: Service) -> bool:
    """Whether the node's rules serve it: it has a virtual IP or node ports, and is not another proxy's business."""
    others = {OTHER_PROXY_LABEL, HEADLESS_LABEL} & set(service.meta.labels)
    return not (service.headless or service.type == "ExternalName" or others)


def frontends_of(service: Service, port: ServicePort) -> Iterator[Frontend]:
    """Everything that leads to one port of a service."""
    protocol = port.protocol.lower()

    def at(ip: str, guarded: bool = False) -> Frontend:
        family = family_of(ip)
        return Frontend(family, Slot(f"svc{family}", (ip, protocol, port.port)), way_of(service, ip), guarded)

    yield from (at(ip) for ip in (*service.cluster_ips, *service.external_ips))
    yield from (at(ip, bool(service.source_ranges)) for ip in service.load_balancer_ips)
    if port.node_port:
        for family in sorted({family_of(ip) for ip in service.cluster_ips}) or FAMILIES:
            yield Frontend(family, Slot(f"svc_nodeport{family}", (protocol, port.node_port)), way_of(service, ""))


def _inside_slot(family: Family, outside: int) -> Slot:
    """What the number of way ALL is known by after a restart: the number of way EDGE, whatever the class in its mark is now."""
    return Slot(f"svc_inside{family}", (id_of(outside),))


def _choice(candidates: Sequence[Backend], here: Location, local: bool) -> tuple[list[Backend], int]:
    """The backends that share new connections, and the class for their number."""
    picked = chosen(candidates, here, local)
    elsewhere = local and not picked and bool(usable(candidates))
    return picked, DROP if elsewhere else slot_count(len(targets_of(picked)))


def _guards(number: int, service: Service, doors: Sequence[Frontend]) -> Iterator[tuple[Slot, ElementValue]]:
    """Who may use the load balancer's addresses. A family without a range is closed: its clients are in none of them."""
    mark = mark_of(number, False, DROP)
    guarded = [door for door in doors if door.guarded]
    for door in guarded:
        yield Slot(f"svc_guarded{door.family}", door.slot.key), (mark,)
    networks = [ip_network(cidr) for cidr in service.source_ranges]
    for family in sorted({door.family for door in guarded}):
        for low, high in _merged(networks, family):
            yield Slot(f"svc_allowed{family}", (mark, Range(low, high))), ()


def _merged(networks: Sequence[IPv4Network | IPv6Network], family: Family) -> Iterator[tuple[str, str]]:
    """First and last address of each range of one family; interval sets refuse what overlaps."""
    old = collapse_addresses(network for network in networks if isinstance(network, IPv4Network))
    new = collapse_addresses(network for network in networks if isinstance(network, IPv6Network))
    yield from ((str(network[0]), str(network[-1])) for network in (old if family == 4 else new))


def affinity_timeout(seconds: int) -> int:
    """The shortest timeout a rule exists for that is not below `seconds`; a day if there is none."""
    return next((timeout for timeout in AFFINITY_TIMEOUTS if timeout >= seconds), AFFINITY_TIMEOUTS[-1])


def _stickiness(family: Family, ct_mark: int, targets: Sequence[Target]) -> Iterator[tuple[Slot, ElementValue]]:
    for target, number in number_targets(targets).items():
        yield Slot(f"svc_epid{family}", (ct_mark, *target)), (number,)
        yield Slot(f"eps_sticky{family}", (ct_mark, number)), target
