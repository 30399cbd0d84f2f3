"""The agent's configuration file: every field optional, every path overridable, every mistake named with its line."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from fairway_core.documents.yamlload import parse
from fairway_core.errors import Place, UserError
from fairway_dns.config import parse_address
from fairway_dns.names import to_key
from fairway_dns.tls import client_context

DEFAULT_PATH = Path("/etc/fairway/fairway.yaml")
_DOMAIN = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*$"


def _cidr(text: str) -> str:
    return str(ip_network(text))


def _address(text: str) -> str:
    return str(ip_address(text))


def _name(text: str) -> str:
    to_key(text)
    return text.rstrip(".").lower()


def _listen(text: str) -> str:
    host, _, port = text.rpartition(":")
    ip_address(host.strip("[]"))
    if not 0 < int(port) < 65536:
        raise ValueError(f"port {port} is not in 1-65535")
    return text


def _upstream(text: str) -> str:
    try:
        parse_address(text)
    except UserError as error:
        raise ValueError(error.message) from error
    return text


def _ca_file(text: str) -> str:
    try:
        client_context(_directory(text) if text else "")
    except UserError as error:
        raise ValueError(error.message) from error
    return text


def _directory(text: str) -> str:
    if not text.startswith("/") or "\0" in text:
        raise ValueError(f"{text!r} is not an absolute path")
    return text


Cidr = Annotated[str, AfterValidator(_cidr)]
Address = Annotated[str, AfterValidator(_address)]
Name = Annotated[str, AfterValidator(_name)]
Listen = Annotated[str, AfterValidator(_listen)]
Upstream = Annotated[str, AfterValidator(_upstream)]
CaFile = Annotated[str, AfterValidator(_ca_file)]
Directory = Annotated[str, AfterValidator(_directory)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _node_name() -> str:
    """In a DaemonSet the API server's name for the node comes by environment; it need not be the host name."""
    return os.environ.get("FAIRWAY_NODE_NAME") or socket.gethostname()


def _dns_supervisor() -> str:
    """A DaemonSet that has a container for the DNS workers says so by environment."""
    return os.environ.get("FAIRWAY_DNS_SUPERVISOR") or "agent"


class NodeSection(_Section):
    """Who this node is and which addresses its containers get."""

    name: str = Field(default_factory=_node_name, min_length=1)
    podCIDRs: list[Cidr] = Field(default=["10.244.0.0/24"], min_length=1)
    nonMasqueradeCIDRs: list[Cidr] = []


class ClusterSection(_Section):
    """What all nodes share."""

    domain: str = Field(default="cluster.local", pattern=_DOMAIN)
    serviceCIDRs: list[Cidr] = ["10.96.0.0/16"]


class DnsLimitsSection(_Section):
    """What one container may ask of the DNS server: queries per second (0: no limit), TCP connections at a time."""

    perClientQps: int = Field(default=0, ge=0, le=1_000_000)
    perClientConnections: int = Field(default=64, ge=1, le=256)


class QueryLogSection(_Section):
    """Which queries are logged: a share of all, those slower than so many milliseconds (0: none), failures."""

    sample: float = Field(default=0.0, ge=0, le=1)
    slowMs: int = Field(default=0, ge=0)
    failures: bool = False


class DnsSection(_Section):
    """Where containers ask for names. No upstreams: those of the host's resolv.conf. `hosts` gives names fixed addresses,
    `stubZones` gives zones servers of their own. `visibility`: whether names of other tenants, or of what policy forbids, exist
    for a container; `completion`: whether its search path is gone through here. `supervisor`: whether the agent starts the
    workers itself, or has `fairway dns` do it, a process that they can outlive the agent's container in.
    """

    listen: list[Address] = Field(default=["169.254.20.10"], min_length=1)
    port: int = Field(default=53, ge=1, le=65535)
    upstreams: list[Upstream] = []
    workers: int = Field(default=1, ge=1, le=64)
    supervisor: Literal["agent", "host"] = Field(default_factory=_dns_supervisor, validate_default=True)
    hosts: dict[Name, list[Address]] = {}
    stubZones: dict[Name, list[Upstream]] = {}
    visibility: Literal["all", "tenant", "policy"] = "all"
    completion: bool = True
    tlsCAFile: CaFile = ""
    limits: DnsLimitsSection = Field(default_factory=DnsLimitsSection)
    queryLog: QueryLogSection = Field(default_factory=QueryLogSection)


class StoreSection(_Section):
    """Where objects are kept. The other fields belong to kind kubernetes; no kubeconfig: the pod's service account."""

    kind: Literal["sqlite", "memory", "kubernetes"] = "sqlite"
    kubeconfig: str = ""
    context: str = ""
    servers: list[str] = []
    report: bool = True


class HealthSection(_Section):
    """Where load balancers and autoscalers ask, as they ask kube-proxy; empty: nowhere. auto: 0.0.0.0:10256 with the kubernetes
    store, else nowhere.
    """

    listen: Listen | Literal["", "auto"] = "auto"


class MetricsSection(_Section):
    """Where /metrics, /healthz and /readyz are served; empty: on the control socket only."""

    listen: Listen | Literal[""] = "127.0.0.1:9464"


class LogSection(_Section):
    """How much is said."""

    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(_Section):
    """The whole file."""

    node: NodeSection = Field(default_factory=NodeSection)
    stateDir: Directory = "/var/lib/fairway"
    runDir: Directory = "/run/fairway"
    cluster: ClusterSection = Field(default_factory=ClusterSection)
    dns: DnsSection = Field(default_factory=DnsSection)
    store: StoreSection = Field(default_factory=StoreSection)
    routing: Literal["auto", "direct", "none"] = "auto"
    health: HealthSection = Field(default_factory=HealthSection)
    metrics: MetricsSection = Field(default_factory=MetricsSection)
    log: LogSection = Field(default_factory=LogSection)

    @property
    def clustered(self) -> bool:
        """Whether this node is one of a cluster whose objects an API server holds."""
        return self.store.kind == "kubernetes"

    @property
    def hosted_workers(self) -> bool:
        """Whether DNS workers are started by a process that outlives the agent's container."""
        return self.dns.supervisor == "host"

    @property
    def routes_peers(self) -> bool:
        """Whether the agent sets up routes to other nodes: what `routing` says, or else in a cluster."""
        return self.clustered if self.routing == "auto" else self.routing == "direct"

    @property
    def health_address(self) -> str:
        """Where kube-proxy's health questions are answered; empty: nowhere."""
        if self.health.listen != "auto":
            return self.health.listen
        return "0.0.0.0:10256" if self.clustered else ""

    @property
    def paths(self) -> Paths:
        return Paths(Path(self.stateDir), Path(self.runDir))


@dataclass(frozen=True, slots=True)
class Paths:
    """Every file the agent uses, from its two directories."""

    state: Path
    run: Path

    @property
    def database(self) -> Path:
        return self.state / "fairway.db"

    @property
    def spool(self) -> Path:
        return self.state / "spool"

    @property
    def zone(self) -> Path:
        return self.state / "zone.json"

    @property
    def socket(self) -> Path:
        return self.run / "agent.sock"

    @property
    def queries(self) -> Path:
        return self.run / "dns-queries.log"

    @property
    def worker_host(self) -> Path:
        return self.run / "dns-host.sock"

    @property
    def feed(self) -> Path:
        return self.run / "dns.sock"


def load_config(path: Path) -> Config:
    """Read and check the file; a missing default file means all defaults. Raises UserError naming file, line and field."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        if path == DEFAULT_PATH:
            return Config()
        raise UserError("there is no such configuration file", Place(str(path))) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}", Place(str(path))) from error
    documents = parse(str(path), text)
    if not documents:
        return Config()
    if len(documents) > 1:
        raise UserError("one configuration is expected, but there are several documents", documents[1].place(()))
    try:
        config = Config.model_validate(documents[0].value)
    except ValidationError as error:
        first: Any = error.errors()[0]
        unknown = first["type"] == "extra_forbidden"
        raise UserError(_message(first), documents[0].place(tuple(first["loc"]), at_key=unknown)) from error
    overlap = _overlap(config)
    if overlap is not None:
        raise UserError(overlap[1], documents[0].place(overlap[0]))
    return config


def _overlap(config: Config) -> tuple[tuple[str | int, ...], str] | None:
    """The first range that overlaps an earlier one, as path and message: an address must belong to one thing only."""
    given = [(("node", "podCIDRs", i), text) for i, text in enumerate(config.node.podCIDRs)]
    given += [(("cluster", "serviceCIDRs", i), text) for i, text in enumerate(config.cluster.serviceCIDRs)]
    for place, (path, text) in enumerate(given):
        network = ip_network(text)
        for _, other in given[:place]:
            if network.version == ip_network(other).version and network.overlaps(ip_network(other)):
                return path, f"{text} overlaps {other}"
    return None


def _message(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown field"
    return str(error["msg"]).removeprefix("Value error, ")
