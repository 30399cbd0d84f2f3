"""Topologies: what a laboratory consists of. Pure; README.md is the reference.

Promise: unknown fields, dangling references, double names and overlapping ranges are all reported, with file, line and column.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_network
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from fairway_core.errors import Place, UserError

Location = tuple[str | int, ...]
Fault = tuple[Location, str]

_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?|")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


def _cidr(text: str) -> str:
    return str(ip_network(text))


def _labels(labels: dict[str, str]) -> dict[str, str]:
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            raise ValueError(f"{key}={value} is not a label")
    return labels


# Names become parts of namespace names and of DNS names.
LabName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
Cidr = Annotated[str, AfterValidator(_cidr)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Serve(_Part):
    """A port on which the container answers with its name."""

    protocol: Literal["TCP", "UDP"] = "TCP"
    port: int = Field(ge=1, le=65535)


class NodeSpec(_Part):
    """A node with an agent of its own. `config` is merged over the configuration the laboratory writes for it. Without
    `podCIDRs` they are left to the agent: one that follows an API server takes those of its Node object.
    """

    name: Name
    podCIDRs: list[Cidr] = Field(default=["10.244.0.0/24", "fd00:10:244::/64"])
    mode: Literal["bridge", "routed"] = "bridge"
    config: dict[str, Any] = {}


class ContainerSpec(_Part):
    """A container, attached by the CNI plugin. Without `node` it is on the first one."""

    name: Name
    namespace: Name = "default"
    node: str = ""
    labels: Annotated[dict[str, str], AfterValidator(_labels)] = {}
    serve: list[Serve] = []


class HostSpec(_Part):
    """A machine outside all nodes, reachable over a link."""

    name: Name
    serve: list[Serve] = []


class LinkSpec(_Part):
    """One layer 2 segment. `subnets` gives one range per family; the members get addresses from .1 in the order written.
    `routes` false: the members find the way to the containers of its nodes by themselves.
    """

    nodes: list[str] = []
    hosts: list[str] = []
    subnets: list[Cidr] = []
    routes: bool = True


class Topology(_Part):
    """The whole laboratory; without nodes a plain network of hosts. `manifests` are applied before containers are attached."""

    name: LabName
    nodes: list[NodeSpec] = []
    containers: list[ContainerSpec] = []
    hosts: list[HostSpec] = []
    links: list[LinkSpec] = []
    manifests: list[str] = []


def parse_topology(source: str, text: str) -> Topology:
    """Read a topology in YAML. Raises InvalidDocuments (a UserError) with every fault's file, line, column and field."""
    # Commands that use a running laboratory do without PyYAML and the schemas of objects.
    from fairway_core.documents.yamlload import parse

    documents = parse(source, text)
    if len(documents) != 1:
        raise UserError(f"one topology is expected, not {len(documents)}", Place(source))
    try:
        return check_topology(documents[0].value)
    except _Faults as error:
        # What is missing or unknown is best shown at the name of the field or of its parent.
        raise _invalid([UserError(text, documents[0].place(at, at_key=True)) for at, text in error.faults]) from error


def topology_from(value: Mapping[str, Any]) -> Topology:
    """A topology from a mapping, as tests write it. Raises InvalidDocuments (a UserError)."""
    try:
        return check_topology(value)
    except _Faults as error:
        raise _invalid([UserError(text, Place("<topology>", field=_dotted(at))) for at, text in error.faults]) from error


def _invalid(errors: Sequence[UserError]) -> UserError:
    from fairway_core.documents.errors import InvalidDocuments

    return InvalidDocuments(errors)


class _Faults(Exception):
    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(faults)
        self.faults = faults


def check_topology(value: object) -> Topology:
    """Shape first, then what the parts say about each other."""
    try:
        topology = Topology.model_validate(value)
    except ValidationError as error:
        raise _Faults([(item["loc"], _message(item)) for item in error.errors()]) from error
    faults = [*_double_names(topology), *_dangling(topology), *_overlaps(topology)]
    if faults:
        raise _Faults(faults)
    return topology


def _message(item: Any) -> str:
    plain = {"extra_forbidden": "unknown field", "missing": "is required"}
    return plain.get(item["type"]) or str(item["msg"]).removeprefix("Value error, ")


def _double_names(topology: Topology) -> Iterator[Fault]:
    names: set[str] = set()
    parts: list[tuple[Location, str]] = [
        *((("nodes", i, "name"), item.name) for i, item in enumerate(topology.nodes)),
        *((("hosts", i, "name"), item.name) for i, item in enumerate(topology.hosts)),
        *((("containers", i, "name"), f"{item.namespace}/{item.name}") for i, item in enumerate(topology.containers)),
    ]
    for location, name in parts:
        if name in names:
            yield location, f"{name} is there already"
        names.add(name)


def _dangling(topology: Topology) -> Iterator[Fault]:
    nodes, hosts = {item.name for item in topology.nodes}, {item.name for item in topology.hosts}
    for i, container in enumerate(topology.containers):
        if not nodes or (container.node and container.node not in nodes):
            yield ("containers", i, "node"), f"there is no node {container.node}".rstrip()
    for i, link in enumerate(topology.links):
        for j, name in enumerate(link.nodes):
            if name not in nodes:
                yield ("links", i, "nodes", j), f"there is no node {name}"
        for j, name in enumerate(link.hosts):
            if name not in hosts:
                yield ("links", i, "hosts", j), f"there is no host {name}"
    linked = {name for link in topology.links for name in link.hosts}
    for i, host in enumerate(topology.hosts):
        if host.name not in linked:
            yield ("hosts", i), f"{host.name} is on no link"


def _overlaps(topology: Topology) -> Iterator[Fault]:
    """Ranges of different nodes and links must be disjoint; so must the ranges of one node."""
    seen: list[tuple[str, Any]] = []
    places: list[tuple[Location, str, str]] = []
    for i, node in enumerate(topology.nodes):
        places += [(("nodes", i, "podCIDRs", j), node.name, cidr) for j, cidr in enumerate(node.podCIDRs)]
    for i, link in enumerate(topology.links):
        places += [(("links", i, "subnets", j), f"link {i}", cidr) for j, cidr in enumerate(link.subnets)]
    for location, owner, cidr in places:
        network = ip_network(cidr)
        for other, taken in seen:
            if network.version == taken.version and network.overlaps(taken):
                yield location, f"{cidr} overlaps {taken} of {other}"
        seen.append((owner, network))


def _dotted(location: Location) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
