"""Links in memory, for tests and dry runs. Shipped, and held to the same contract suite as the kernel's."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from threading import RLock

from fairway_core.errors import KernelError
from fairway_kernel.link.objects import Bridge, FarEnd, InsideState, NodeLinks, ObservedVeth, PeerRoutes, PreparedLink, Veth
from fairway_kernel.link.shaping import redirector_name, wanted_shapes
from fairway_kernel.link.wiring import gateways, port_mac


@dataclass(slots=True)
class _Pair:
    veth: Veth
    index: int
    up: bool = True
    master: str | None = None


@dataclass(slots=True)
class _State:
    namespaces: dict[str, set[str]] = field(default_factory=dict)
    bridges: dict[str, Bridge] = field(default_factory=dict)
    pairs: dict[str, _Pair] = field(default_factory=dict)
    routes: dict[str, str] = field(default_factory=dict)
    neighbours: dict[tuple[str, str], str] = field(default_factory=dict)
    loopback: set[str] = field(default_factory=set)
    service_routes: set[str] = field(default_factory=set)
    links: set[str] = field(default_factory=set)
    peers: set[tuple[str, str]] = field(default_factory=set)
    shapes: dict[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Prepared:
    links: FakeLinks
    veth: Veth

    def connect(self) -> None:
        """See PreparedLink."""
        self.links.connect(self.veth)

    def close(self) -> None:
        """See PreparedLink."""


class FakeLinks:
    """LinkManager over dictionaries. Namespaces exist after `add_namespace`; `calls` lists what was asked, in order.

    `fail_next` makes the next attach fail in the middle, as a kernel might, with the errno given.
    """

    def __init__(self, mtu: int = 1500, own_namespace: str = "") -> None:
        self._state = _State()
        self._lock = RLock()
        self._mtu = mtu
        self._own = own_namespace
        self._serial = 1
        self.fail_next: int | None = None
        self.calls: list[tuple[str, str]] = []

    def add_namespace(self, path: str, *interfaces: str) -> str:
        """Make a container's namespace, with foreign interfaces in it; returns the path."""
        with self._lock:
            self._state.namespaces[path] = set(interfaces)
            return path

    def add_link(self, cidr: str) -> None:
        """A link of the node on which the addresses of `cidr` are reached directly."""
        with self._lock:
            self._state.links.add(cidr)

    def remove_namespace(self, path: str) -> None:
        """The container died: its end of every pair goes, and with it the host end and its routes on the veth itself."""
        with self._lock:
            self._state.namespaces.pop(path, None)
            for name in [name for name, pair in self._state.pairs.items() if pair.veth.netns == path]:
                self._drop(name)

    def lose(self, name: str) -> None:
        """Drift: somebody deleted a device behind our back; whatever hangs on it goes too."""
        with self._lock:
            self._state.bridges.pop(name, None)
            for pair in self._state.pairs.values():
                pair.master = None if pair.master == name else pair.master
            self._drop(name)

    def ensure_bridge(self, bridge: Bridge) -> None:
        """See LinkManager."""
        with self._lock:
            self.calls.append(("ensure_bridge", bridge.name))
            self._state.bridges[bridge.name] = bridge

    def delete_bridge(self, name: str, mac: str = "") -> None:
        """See LinkManager."""
        with self._lock:
            self.calls.append(("delete_bridge", name))
            if name in self._state.bridges and mac in ("", self._state.bridges[name].mac):
                self.lose(name)

    def ensure_loopback(self, addresses: Sequence[str]) -> None:
        """See LinkManager."""
        with self._lock:
            self.calls.append(("ensure_loopback", ",".join(addresses)))
            self._state.loopback = set(addresses)

    def ensure_service_routes(self, cidrs: Sequence[str]) -> None:
        """See LinkManager; the fake node has no default route."""
        with self._lock:
            self.calls.append(("ensure_service_routes", ",".join(cidrs)))
            self._state.service_routes = {str(ip_network(item)) for item in cidrs}

    def ensure_peer_routes(self, wanted: Mapping[str, str]) -> PeerRoutes:
        """See LinkManager; only what `add_link` named is on a link of the fake node."""
        with self._lock:
            self.calls.append(("ensure_peer_routes", ",".join(f"{cidr}={gateway}" for cidr, gateway in sorted(wanted.items()))))
            refused = {cidr: f"there is no way to {gateway}" for cidr, gateway in wanted.items() if not self._is_near(gateway)}
            now = {(cidr, gateway) for cidr, gateway in wanted.items() if cidr not in refused}
            changed = len(now ^ self._state.peers)
            self._state.peers = now
            return PeerRoutes(changed, refused)

    def _is_near(self, address: str) -> bool:
        return any(ip_address(address) in ip_network(link) for link in self._state.links)

    def prepare(self, veth: Veth) -> PreparedLink:
        """See LinkManager."""
        with self._lock:
            self.calls.append(("prepare", veth.host_ifname))
            operation = f"create {veth.host_ifname} with {veth.ifname} inside"
            if veth.netns == self._own:
                raise KernelError(errno.EINVAL, operation, "this is the node's own network namespace")
            if veth.netns not in self._state.namespaces:
                raise KernelError(errno.ENOENT, f"open network namespace {veth.netns}")
            if veth.master is not None and veth.master not in self._state.bridges:
                raise KernelError(errno.ENODEV, f"look up device {veth.master}")
            self._drop(veth.host_ifname)
            if veth.ifname in self._names_inside(veth.netns):
                raise KernelError(errno.EEXIST, operation)
            if self.fail_next is not None:
                number, self.fail_next = self.fail_next, None
                raise KernelError(number, operation)
            self._serial += 1
            self._state.pairs[veth.host_ifname] = _Pair(veth, self._serial, up=False, master=veth.master)
            self._state.shapes.update(wanted_shapes(veth.host_ifname, veth.shape))
            return _Prepared(self, veth)

    def connect(self, veth: Veth) -> None:
        """See PreparedLink."""
        with self._lock:
            self.calls.append(("connect", veth.host_ifname))
            if veth.host_ifname not in self._state.pairs:
                raise KernelError(errno.ENODEV, f"bring up {veth.host_ifname}")
            self._configure(veth)

    def attach(self, veth: Veth) -> None:
        """See LinkManager."""
        self.prepare(veth).connect()

    def ensure_node_side(self, veth: Veth) -> None:
        """See LinkManager."""
        with self._lock:
            self.calls.append(("ensure_node_side", veth.host_ifname))
            if veth.host_ifname not in self._state.pairs:
                raise KernelError(errno.ENODEV, f"look up device {veth.host_ifname}")
            if veth.master is not None and veth.master not in self._state.bridges:
                raise KernelError(errno.ENODEV, f"look up device {veth.master}")
            self._configure(veth)

    def detach(self, host_ifname: str, ips: Sequence[str]) -> None:
        """See LinkManager."""
        with self._lock:
            self.calls.append(("detach", host_ifname))
            for address in ips:
                device = self._state.routes.pop(address, None)
                if device is not None:
                    self._state.neighbours.pop((address, device), None)
            self._drop(host_ifname)
            gone = redirector_name(host_ifname)
            self._state.shapes = {place: rate for place, rate in self._state.shapes.items() if place[0] != gone}

    def unplug(self, host_ifname: str, ips: Sequence[str], netns: str, ifname: str) -> bool:
        """See LinkManager."""
        with self._lock:
            self.calls.append(("unplug", host_ifname))
            pair = self._state.pairs.get(host_ifname)
            if pair is None or (pair.veth.netns, pair.veth.ifname) != (netns, ifname) or netns not in self._state.namespaces:
                return False
            for address in ips:
                device = self._state.routes.pop(address, None)
                self._state.neighbours.pop((address, device or ""), None)
            pair.veth, pair.up = replace(pair.veth, ifname=f"fwx{host_ifname[3:]}"), False
            return True

    def inside(self, netns: str, ifname: str) -> InsideState:
        """See LinkManager."""
        with self._lock:
            if netns not in self._state.namespaces:
                raise KernelError(errno.ENOENT, f"open network namespace {netns}")
            for pair in self._state.pairs.values():
                if (pair.veth.netns, pair.veth.ifname) == (netns, ifname):
                    return _inside(pair)
            return InsideState(exists=ifname in self._state.namespaces[netns])

    def trace(self, host_ifnames: Sequence[str]) -> Mapping[str, FarEnd]:
        """See LinkManager."""
        with self._lock:
            pairs = {name: self._state.pairs[name] for name in host_ifnames if name in self._state.pairs}
            return {name: FarEnd(pair.veth.netns, pair.veth.ifname, _inside(pair)) for name, pair in pairs.items()}

    def read(self) -> NodeLinks:
        """See LinkManager."""
        with self._lock:
            state = self._state
            return NodeLinks(
                bridges=frozenset(state.bridges),
                veths=tuple(_observed(state.pairs[name]) for name in sorted(state.pairs)),
                routes=tuple(sorted(state.routes.items())),
                neighbours=tuple(sorted((address, mac, device) for (address, device), mac in state.neighbours.items())),
                loopback=frozenset(state.loopback),
                shapes=tuple(sorted((*place, rate) for place, rate in state.shapes.items())),
                redirectors=frozenset(device for device, _ in state.shapes if device.startswith("fwi")),
            )

    def default_mtu(self) -> int:
        """See LinkManager."""
        return self._mtu

    def close(self) -> None:
        """See LinkManager."""

    def _names_inside(self, netns: str) -> set[str]:
        ours = {pair.veth.ifname for pair in self._state.pairs.values() if pair.veth.netns == netns}
        return self._state.namespaces[netns] | ours

    def _configure(self, veth: Veth) -> None:
        pair = self._state.pairs[veth.host_ifname]
        pair.veth, pair.up, pair.master = replace(veth, netns=pair.veth.netns), True, veth.master
        device = veth.master or veth.host_ifname
        for address in veth.ips:
            self._state.routes[address] = device
            self._state.neighbours[(address, device)] = veth.mac
        self._state.shapes.update(wanted_shapes(veth.host_ifname, veth.shape))

    def _drop(self, name: str) -> None:
        self._state.pairs.pop(name, None)
        self._state.routes = {address: device for address, device in self._state.routes.items() if device != name}
        self._state.neighbours = {key: mac for key, mac in self._state.neighbours.items() if key[1] != name}
        self._state.shapes = {place: rate for place, rate in self._state.shapes.items() if place[0] != name}


def _observed(pair: _Pair) -> ObservedVeth:
    veth = pair.veth
    return ObservedVeth(veth.host_ifname, pair.index, veth.alias, pair.master, pair.up, port_mac(veth), veth.mtu)


def _inside(pair: _Pair) -> InsideState:
    veth = pair.veth
    return InsideState(True, True, veth.mac, veth.mtu, tuple(sorted(veth.ips)), tuple(gateways(veth.ips)), pair.index)
