"""The network configuration as values. Keys match in any case, because Go's decoder does and containerd relies on it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fairway_cni import faults, podargs, wishes
from fairway_cni.faults import CniError
from fairway_cni.ranges import RangeSpec
from fairway_cni.values import as_array, as_number, as_object, as_text, as_texts, bad, fold
from fairway_core.model import Bandwidth, HostPort

BRIDGE = "bridge"
ROUTED = "routed"
CHAINED = "chained"
OWN_IPAM = "fairway"
MTU_RANGE = range(1280, 65536)
"""1280 is the least IPv6 allows (RFC 8200, section 5)."""
VALID_ATTACHMENTS = ("cni.dev/valid-attachments", "cni.dev/attachments")
ANNOTATIONS = "io.kubernetes.cri.pod-annotations"
FOREIGN = ("bridge", "vlan", "vlanTrunk", "promiscMode", "disableContainerInterface")
"""Keys of the reference plugin bridge whose meaning nothing here has: to ignore them would be to promise it."""

_PLUGIN = re.compile(r"[a-zA-Z0-9][-a-zA-Z0-9_.]{0,63}\Z", re.ASCII)
_ALIAS = re.compile(r"[a-z0-9_]([-a-z0-9_.]{0,251}[a-z0-9_])?\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Dns:
    """Resolver settings, as in a CNI result."""

    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    domain: str = ""

    def __bool__(self) -> bool:
        return bool(self.nameservers or self.search or self.options or self.domain)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an ADD asks for. `mtu` 0: the node's choice. `ips`, `mac`: from args or runtimeConfig, the latter wins."""

    mode: str = BRIDGE
    namespace: str = "default"
    mtu: int = 0
    ips: tuple[str, ...] = ()
    mac: str = ""
    dns: Dns = field(default_factory=Dns)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    host_ports: tuple[HostPort, ...] = ()
    bandwidth: Bandwidth = Bandwidth()
    ranges: tuple[RangeSpec, ...] = ()
    routes: tuple[str, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    masquerade: bool | None = None
    """None: not said."""
    search_completion: bool = True
    ipam: str = ""
    """The address plugin to delegate to; empty: our own pool."""


@dataclass(frozen=True, slots=True)
class NetConf:
    """One network's configuration. `attachments` None: GC's list is absent, which is not the empty list."""

    cni_version: str
    name: str
    wanted: Wanted | None = None
    attachments: frozenset[tuple[str, str]] | None = None
    prev_result: Mapping[str, Any] | None = None
    ipam: str = ""
    """The address plugin, for every verb."""
    ranges: tuple[RangeSpec, ...] = ()
    """The network's own ranges, for STATUS."""
    chained: bool = False
    """Whether it says that another plugin comes before, for STATUS."""


def parse_wanted(document: Mapping[str, Any], ifname: str) -> Wanted:
    """What `document` (top-level keys folded) asks of an ADD of `ifname`. Raises CniError with code 2 or 7, naming the field."""
    _refuse_foreign(document)
    runtime = fold(as_object(document.get("runtimeconfig"), "runtimeConfig"))
    cni = fold(as_object(fold(as_object(document.get("args"), "args")).get("cni"), "args.cni"))
    ipam = fold(as_object(document.get("ipam"), "ipam"))
    name = document["name"] if isinstance(document.get("name"), str) else ""
    return Wanted(
        mode=_mode(document),
        namespace=podargs.dns_name(as_text(document.get("namespace"), "namespace"), "namespace", faults.CONFIG) or "default",
        mtu=_mtu(document.get("mtu")),
        ips=_addresses(runtime.get("ips"), "runtimeConfig.ips") or _addresses(cni.get("ips"), "args.cni.ips"),
        mac=_mac(runtime.get("mac"), "runtimeConfig.mac") or _mac(cni.get("mac"), "args.cni.mac"),
        dns=_dns(runtime.get("dns"), "runtimeConfig.dns") or _dns(document.get("dns"), "dns"),
        labels=_labels(cni.get("labels")),
        annotations=_annotations(runtime.get(ANNOTATIONS)),
        aliases=_aliases(runtime.get("aliases"), name),
        host_ports=wishes.read_ports(runtime.get("portmappings")),
        bandwidth=wishes.read_bandwidth(runtime.get("bandwidth"), "runtimeConfig.bandwidth")
        or wishes.read_bandwidth(document.get("bandwidth"), "bandwidth"),
        ranges=wishes.read_ranges(runtime.get("ipranges"), "runtimeConfig.ipRanges")
        or wishes.read_ranges(ipam.get("ranges"), "ipam.ranges"),
        routes=wishes.read_routes(document.get("routes"), "routes"),
        sysctls=wishes.read_settings(document.get("sysctl"), "sysctl", ifname),
        masquerade=wishes.read_flag(document.get("ipmasq"), "ipMasq", None),
        search_completion=wishes.read_flag(document.get("searchcompletion"), "searchCompletion", True) is not False,
        ipam=ipam_type(document),
    )


def _refuse_foreign(document: Mapping[str, Any]) -> None:
    asked = [name for name in FOREIGN if document.get(name.lower())]
    if asked:
        raise CniError(faults.UNSUPPORTED_FIELD, f"{', '.join(asked)}: this plugin has no such setting", "see cni/README.md")


def ipam_type(document: Mapping[str, Any]) -> str:
    """The address plugin that `document` names; empty if the addresses are ours. Raises CniError with code 7."""
    name = as_text(fold(as_object(document.get("ipam"), "ipam")).get("type"), "ipam.type")
    if name and not _PLUGIN.match(name):
        raise bad("ipam.type", f"the name of a plugin, not {name!r},")
    return "" if name == OWN_IPAM else name


def own_ranges(document: Mapping[str, Any]) -> tuple[RangeSpec, ...]:
    """The ranges of the network's own that addresses come from. Raises CniError with code 7."""
    ipam = fold(as_object(document.get("ipam"), "ipam"))
    return () if ipam_type(document) else wishes.read_ranges(ipam.get("ranges"), "ipam.ranges")


def read_attachments(document: Mapping[str, Any]) -> frozenset[tuple[str, str]] | None:
    """GC's list as (container id, interface) pairs; None if it is absent. Raises CniError with code 7.

    libcni sends the list under both names; the one in the spec decides if they differ.
    """
    found = next((document[key] for key in VALID_ATTACHMENTS if document.get(key) is not None), None)
    if found is None:
        return None
    pairs = set()
    for item in as_array(found, VALID_ATTACHMENTS[0]):
        entry = fold(as_object(item, VALID_ATTACHMENTS[0]))
        pairs.add((as_text(entry.get("containerid"), "containerID"), as_text(entry.get("ifname"), "ifname")))
    return frozenset(pairs)


def is_chained(document: Mapping[str, Any]) -> bool:
    """Whether the network says that it only follows another plugin; never raises."""
    return document.get("mode") == CHAINED


def _mode(document: Mapping[str, Any]) -> str:
    """A result of another plugin decides; without one the network must not count on one."""
    mode = as_text(document.get("mode"), "mode") or BRIDGE
    if mode not in (BRIDGE, ROUTED, CHAINED):
        raise bad("mode", f"{BRIDGE!r}, {ROUTED!r} or {CHAINED!r}")
    if document.get("prevresult") is not None:
        return CHAINED
    if mode == CHAINED:
        raise CniError(faults.CONFIG, "mode: chained, but no plugin comes before this one", "prevResult is absent")
    return mode


def _mtu(value: Any) -> int:
    mtu = as_number(value, "mtu")
    if mtu and mtu not in MTU_RANGE:
        raise bad("mtu", f"{MTU_RANGE.start}..{MTU_RANGE.stop - 1}")
    return mtu


def _addresses(value: Any, where: str) -> tuple[str, ...]:
    return tuple(podargs.address(text, where, faults.CONFIG) for text in as_texts(value, where))


def _mac(value: Any, where: str) -> str:
    return podargs.mac(as_text(value, where), where, faults.CONFIG)


def _dns(value: Any, where: str) -> Dns:
    """Both spellings: `nameservers`/`search` of the configuration and `servers`/`searches` of the convention."""
    found = fold(as_object(value, where))
    return Dns(
        nameservers=as_texts(found.get("nameservers") or found.get("servers"), f"{where}.servers"),
        search=as_texts(found.get("search") or found.get("searches"), f"{where}.searches"),
        options=as_texts(found.get("options"), f"{where}.options"),
        domain=as_text(found.get("domain"), f"{where}.domain"),
    )


def _labels(value: Any) -> dict[str, str]:
    labels: dict[str, str] = {}
    for item in as_array(value, "args.cni.labels"):
        pair = fold(as_object(item, "args.cni.labels"))
        key, text = as_text(pair.get("key"), "args.cni.labels"), as_text(pair.get("value"), "args.cni.labels")
        labels.update([podargs.label(key, text, "args.cni.labels", faults.CONFIG)])
    return labels


def _annotations(value: Any) -> dict[str, str]:
    return {key: as_text(text, ANNOTATIONS) for key, text in as_object(value, ANNOTATIONS).items()}


def _aliases(value: Any, network: str) -> tuple[str, ...]:
    """The convention is a list; podman sends an object of lists, one per network."""
    if isinstance(value, dict):
        value = value.get(network)
    names = tuple(name.lower() for name in as_texts(value, "runtimeConfig.aliases"))
    for name in names:
        if not _ALIAS.match(name) or any(not 0 < len(part) < 64 for part in name.split(".")):
            raise bad("runtimeConfig.aliases", f"DNS names, not {name!r},")
    return names
