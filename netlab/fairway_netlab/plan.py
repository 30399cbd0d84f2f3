"""From a topology to everything that has to be made: names, addresses, files, `ip` commands. Pure.

Promise: the plan depends on the topology and the directory only, so that another process (`lab down`) knows every name
without being told. Namespaces are called `fwlab-LAB.NODE`, `fwlab-LAB.HOST`,
`fwlab-LAB.NAMESPACE.CONTAINER` and `fwlab-LAB._linkN`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

from fairway_core.errors import UserError
from fairway_netlab.topology import ContainerSpec, LinkSpec, NodeSpec, Serve, Topology

DEFAULT_ROOT = Path("/run/fairway-lab")
NETNS_DIR = Path("/run/netns")
DNS_ADDRESS = "169.254.20.10"
DOMAIN = "cluster.local"
SERVICE_CIDRS = {4: "10.96.0.0/16", 6: "fd00:10:96::/112"}
SOCKET_PATH_LIMIT = 107


@dataclass(frozen=True, slots=True)
class NodePlan:
    """A node: its namespace (by name), its agent's directory and configuration."""

    name: str
    netns: str
    directory: Path
    mode: str
    config: Mapping[str, Any]

    @property
    def run_dir(self) -> Path:
        return Path(self.config["runDir"])

    @property
    def socket(self) -> Path:
        return self.run_dir / "agent.sock"

    @property
    def config_file(self) -> Path:
        return self.directory / "fairway.yaml"

    @property
    def log_file(self) -> Path:
        return self.directory / "agent.log"


@dataclass(frozen=True, slots=True)
class StationPlan:
    """Something that serves and probes: a container, or a host outside. `node` is empty for hosts."""

    name: str
    namespace: str
    netns: str
    node: str
    labels: Mapping[str, str]
    serve: tuple[Serve, ...]
    directory: Path
    resolv_conf: str

    @property
    def title(self) -> str:
        return f"{self.namespace}/{self.name}" if self.node else self.name

    @property
    def container_id(self) -> str:
        return hashlib.sha256(self.netns.encode()).hexdigest()

    @property
    def control(self) -> Path:
        return self.directory / "control.sock"

    @property
    def resolv_file(self) -> Path:
        return self.directory / "resolv.conf"


@dataclass(frozen=True, slots=True)
class LabPlan:
    """Everything, in the order in which it is made. `wiring` is one `ip -batch` text per namespace."""

    name: str
    directory: Path
    nodes: tuple[NodePlan, ...]
    stations: tuple[StationPlan, ...]
    segments: tuple[str, ...]
    wiring: tuple[tuple[str, str], ...]
    addresses: Mapping[str, tuple[str, ...]]
    manifests: tuple[str, ...]

    @property
    def namespaces(self) -> tuple[str, ...]:
        return (*self.segments, *(node.netns for node in self.nodes), *(station.netns for station in self.stations))

    def node(self, name: str) -> NodePlan:
        """The node called `name`; the only one for an empty name. Raises UserError."""
        found = [node for node in self.nodes if node.name == name or (not name and len(self.nodes) == 1)]
        if not found:
            raise UserError(f"laboratory {self.name} has no node {name!r}; it has " + ", ".join(n.name for n in self.nodes))
        return found[0]

    def station(self, name: str) -> StationPlan:
        """The container or host called `name` (NAME if that is clear, or NAMESPACE/NAME). Raises UserError."""
        found = [station for station in self.stations if name in (station.name, station.title)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"{name} is not clear: " + ", ".join(station.title for station in found))
        known = ", ".join(station.title for station in self.stations) or "none"
        raise UserError(f"laboratory {self.name} has no container {name!r}; it has {known}")


def plan_lab(topology: Topology, root: Path = DEFAULT_ROOT) -> LabPlan:
    """The plan of `topology` under `root`. Raises UserError for a path too long for a unix socket or a subnet too small."""
    directory = root / topology.name
    nodes = tuple(_node(topology, spec, directory) for spec in topology.nodes)
    by_name = {node.name: node for node in nodes}
    containers = (_container(topology, spec, by_name, directory) for spec in topology.containers)
    hosts = (
        StationPlan(host.name, "", _netns(topology, host.name), "", {}, tuple(host.serve), directory / "hosts" / host.name, "")
        for host in topology.hosts
    )  # fmt: skip
    members = {**{node.name: node.netns for node in nodes}, **{host.name: _netns(topology, host.name) for host in topology.hosts}}
    segments = tuple(_netns(topology, f"_link{i}") for i, _ in enumerate(topology.links))
    addresses = [_member_addresses(link, i) for i, link in enumerate(topology.links)]
    plan = LabPlan(
        name=topology.name,
        directory=directory,
        nodes=nodes,
        stations=(*containers, *hosts),
        segments=segments,
        wiring=(*_segment_wiring(topology, segments, members), *_member_wiring(topology, members, addresses)),
        addresses=_host_addresses(topology, addresses),
        manifests=tuple(topology.manifests),
    )
    _check_paths(plan)
    return plan


def _netns(topology: Topology, *parts: str) -> str:
    # Names hold neither dots nor underscores, so no two parts of any two laboratories meet in one name.
    return f"fwlab-{topology.name}.{'.'.join(parts)}"


def _check_paths(plan: LabPlan) -> None:
    # A station's socket is bound under its name with ".new" and then renamed.
    drafts = (Path(f"{station.control}.new") for station in plan.stations)
    for path in (*(node.socket for node in plan.nodes), *drafts):
        if len(bytes(path)) > SOCKET_PATH_LIMIT:
            raise UserError(f"{path}: too long for a unix socket ({SOCKET_PATH_LIMIT} bytes); use a shorter directory")


def _node(topology: Topology, spec: NodeSpec, directory: Path) -> NodePlan:
    own = directory / "nodes" / spec.name
    families = sorted({ip_network(cidr).version for node in topology.nodes for cidr in node.podCIDRs} or SERVICE_CIDRS)
    config = {
        "node": {"name": spec.name, **({"podCIDRs": list(spec.podCIDRs)} if spec.podCIDRs else {})},
        "stateDir": str(own / "state"),
        "runDir": str(own / "run"),
        "cluster": {"domain": DOMAIN, "serviceCIDRs": [SERVICE_CIDRS[family] for family in families]},
        "dns": {"listen": [DNS_ADDRESS], "upstreams": []},
    }
    return NodePlan(spec.name, _netns(topology, spec.name), own, spec.mode, merged(config, spec.config))


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, mapping by mapping; everything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def _container(topology: Topology, spec: ContainerSpec, nodes: Mapping[str, NodePlan], directory: Path) -> StationPlan:
    node = nodes[spec.node or topology.nodes[0].name]
    return StationPlan(
        name=spec.name,
        namespace=spec.namespace,
        netns=_netns(topology, spec.namespace, spec.name),
        node=node.name,
        labels=spec.labels,
        serve=tuple(spec.serve),
        directory=directory / "pods" / f"{spec.namespace}.{spec.name}",
        resolv_conf=resolv_conf(node, spec.namespace),
    )


def resolv_conf(node: NodePlan, namespace: str) -> str:
    """As kubelet writes it for dnsPolicy ClusterFirst."""
    domain = node.config["cluster"]["domain"]
    servers = "".join(f"nameserver {address}\n" for address in node.config["dns"]["listen"])
    return f"{servers}search {namespace}.svc.{domain} svc.{domain} {domain}\noptions ndots:5\n"


def cni_environment(station: StationPlan, command: str, netns: str, path: str) -> dict[str, str]:
    """The CNI variables of one call (CNI specification 1.1.0, section 2)."""
    labels = ",".join(f"{key}={value}" for key, value in sorted(station.labels.items()))
    arguments = [
        "IgnoreUnknown=1",
        f"K8S_POD_NAMESPACE={station.namespace}",
        f"K8S_POD_NAME={station.name}",
        *([f"FAIRWAY_LABELS={labels}"] if labels else []),
    ]
    return {
        "CNI_COMMAND": command,
        "CNI_CONTAINERID": station.container_id,
        "CNI_NETNS": netns,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": path,
        "CNI_ARGS": ";".join(arguments),
    }


def cni_config(node: NodePlan) -> dict[str, Any]:
    """The network configuration a runtime would pass on standard input."""
    return {
        "cniVersion": "1.0.0",
        "name": "fairway",
        "type": "fairway",
        "agentSocket": str(node.socket),
        "spoolDir": str(Path(node.config["stateDir"]) / "spool"),
        "mode": node.mode,
    }


def _subnets(link: LinkSpec, index: int) -> list[IPv4Network | IPv6Network]:
    return [ip_network(text) for text in link.subnets or (f"192.168.{100 + index}.0/24", f"fd00:1ab:{index:x}::/64")]


def _member_addresses(link: LinkSpec, index: int) -> dict[str, tuple[str, ...]]:
    """The addresses, with prefix length, of each member."""
    members = [*link.nodes, *link.hosts]
    found: dict[str, tuple[str, ...]] = {}
    for position, name in enumerate(members, start=1):
        for network in _subnets(link, index):
            if position >= network.num_addresses - 1:
                raise UserError(f"links[{index}]: {network} is too small for {len(members)} members")
        found[name] = tuple(f"{network[position]}/{network.prefixlen}" for network in _subnets(link, index))
    return found


def _host_addresses(topology: Topology, links: Sequence[Mapping[str, tuple[str, ...]]]) -> dict[str, tuple[str, ...]]:
    """Plain addresses of the hosts, by name."""
    return {host.name: tuple(_plain(item) for link in links for item in link.get(host.name, ())) for host in topology.hosts}


def _plain(address: str) -> str:
    return address.split("/", maxsplit=1)[0]


def _segment_wiring(topology: Topology, segments: Sequence[str], members: Mapping[str, str]) -> list[tuple[str, str]]:
    result = []
    for i, (link, segment) in enumerate(zip(topology.links, segments, strict=True)):
        lines = ["link add br0 type bridge", "link set br0 up"]
        for j, name in enumerate([*link.nodes, *link.hosts]):
            lines.append(f"link add p{j} type veth peer name net{i} netns {members[name]}")
            lines.append(f"link set p{j} master br0 up")
        result.append((segment, "\n".join(lines) + "\n"))
    return result


def _member_wiring(
    topology: Topology, members: Mapping[str, str], links: Sequence[Mapping[str, tuple[str, ...]]]
) -> list[tuple[str, str]]:
    lines: dict[str, list[str]] = {name: ["link set lo up"] for name in members}
    for i, addresses in enumerate(links):
        for name, given in addresses.items():
            lines[name] += [f"link set net{i} up"]
            lines[name] += [f"addr add {address} dev net{i}{' nodad' if ':' in address else ''}" for address in given]
        for node in topology.nodes:
            if node.name in addresses and topology.links[i].routes:
                _add_routes(lines, node, addresses)
        for host in topology.links[i].hosts:
            gateways = addresses[topology.links[i].nodes[0]] if topology.links[i].nodes else ()
            lines[host] += [f"route replace default via {_plain(gateway)}" for gateway in gateways]
    return [(members[name], "\n".join(batch) + "\n") for name, batch in lines.items()]


def _add_routes(lines: dict[str, list[str]], node: NodeSpec, addresses: Mapping[str, tuple[str, ...]]) -> None:
    """Let the other members of a link reach the containers of `node` through it."""
    for cidr in node.podCIDRs:
        via = [_plain(item) for item in addresses[node.name] if (":" in item) == (":" in cidr)]
        for name in addresses:
            if via and name != node.name:
                lines[name].append(f"route replace {cidr} via {via[0]}")
