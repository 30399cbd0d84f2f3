"""The network configuration as values. Keys match in any case, because Go's decoder does and containerd relies on it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fairway_cni import faults, podargs
from fairway_cni.faults import CniError

BRIDGE = "bridge"
ROUTED = "routed"
MTU_RANGE = range(1280, 65536)
"""1280 is the least IPv6 allows (RFC 8200, section 5)."""
VALID_ATTACHMENTS = ("cni.dev/valid-attachments", "cni.dev/attachments")
ANNOTATIONS = "io.kubernetes.cri.pod-annotations"

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


@dataclass(frozen=True, slots=True)
class NetConf:
    """One network's configuration. `attachments` None: GC's list is absent, which is not the empty list."""

    cni_version: str
    name: str
    wanted: Wanted | None = None
    attachments: frozenset[tuple[str, str]] | None = None
    prev_result: Mapping[str, Any] | None = None


def fold(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with lower-case keys; of two that differ in case only the later wins, as in Go."""
    return {key.lower(): value for key, value in mapping.items()}


def parse_wanted(document: Mapping[str, Any]) -> Wanted:
    """What `document` (top-level keys folded) asks of an ADD. Raises CniError with code 2 or 7, naming the field."""
    if document.get("ipam"):
        raise CniError(faults.UNSUPPORTED_FIELD, "ipam: addresses come from the node's podCIDRs", "remove ipam from the network")
    runtime = fold(_object(document.get("runtimeconfig"), "runtimeConfig"))
    cni = fold(_object(fold(_object(document.get("args"), "args")).get("cni"), "args.cni"))
    _refuse_unsupported(runtime)
    name = document["name"] if isinstance(document.get("name"), str) else ""
    return Wanted(
        mode=_mode(document.get("mode")),
        namespace=podargs.dns_name(_text(document.get("namespace"), "namespace"), "namespace", faults.CONFIG) or "default",
        mtu=_mtu(document.get("mtu")),
        ips=_addresses(runtime.get("ips"), "runtimeConfig.ips") or _addresses(cni.get("ips"), "args.cni.ips"),
        mac=_mac(runtime.get("mac"), "runtimeConfig.mac") or _mac(cni.get("mac"), "args.cni.mac"),
        dns=_dns(runtime.get("dns"), "runtimeConfig.dns") or _dns(document.get("dns"), "dns"),
        labels=_labels(cni.get("labels")),
        annotations=_annotations(runtime.get(ANNOTATIONS)),
        aliases=_aliases(runtime.get("aliases"), name),
    )


def read_attachments(document: Mapping[str, Any]) -> frozenset[tuple[str, str]] | None:
    """GC's list as (container id, interface) pairs; None if it is absent. Raises CniError with code 7.

    libcni sends the list under both names; the one in the spec decides if they differ.
    """
    found = next((document[key] for key in VALID_ATTACHMENTS if document.get(key) is not None), None)
    if found is None:
        return None
    pairs = set()
    for item in _array(found, VALID_ATTACHMENTS[0]):
        entry = fold(_object(item, VALID_ATTACHMENTS[0]))
        pairs.add((_text(entry.get("containerid"), "containerID"), _text(entry.get("ifname"), "ifname")))
    return frozenset(pairs)


def _bad(where: str, wanted: str) -> CniError:
    return CniError(faults.CONFIG, f"{where}: {wanted} expected")


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _bad(where, "an object")
    return value


def _array(value: Any, where: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _bad(where, "a list")
    return value


def _text(value: Any, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _bad(where, "text")
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    return tuple(_text(item, where) for item in _array(value, where) if item)


def _number(value: Any, where: str) -> int:
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool):
        raise _bad(where, "a number")
    return value


def _mode(value: Any) -> str:
    mode = _text(value, "mode") or BRIDGE
    if mode not in (BRIDGE, ROUTED):
        raise _bad("mode", f"{BRIDGE!r} or {ROUTED!r}")
    return mode


def _mtu(value: Any) -> int:
    mtu = _number(value, "mtu")
    if mtu and mtu not in MTU_RANGE:
        raise _bad("mtu", f"{MTU_RANGE.start}..{MTU_RANGE.stop - 1}")
    return mtu


def _addresses(value: Any, where: str) -> tuple[str, ...]:
    return tuple(podargs.address(text, where, faults.CONFIG) for text in _texts(value, where))


def _mac(value: Any, where: str) -> str:
    return podargs.mac(_text(value, where), where, faults.CONFIG)


def _dns(value: Any, where: str) -> Dns:
    """Both spellings: `nameservers`/`search` of the configuration and `servers`/`searches` of the convention."""
    found = fold(_object(value, where))
    return Dns(
        nameservers=_texts(found.get("nameservers") or found.get("servers"), f"{where}.servers"),
        search=_texts(found.get("search") or found.get("searches"), f"{where}.searches"),
        options=_texts(found.get("options"), f"{where}.options"),
        domain=_text(found.get("domain"), f"{where}.domain"),
    )


def _labels(value: Any) -> dict[str, str]:
    labels: dict[str, str] = {}
    for item in _array(value, "args.cni.labels"):
        pair = fold(_object(item, "args.cni.labels"))
        key, text = _text(pair.get("key"), "args.cni.labels"), _text(pair.get("value"), "args.cni.labels")
        labels.update([podargs.label(key, text, "args.cni.labels", faults.CONFIG)])
    return labels


def _annotations(value: Any) -> dict[str, str]:
    return {key: _text(text, ANNOTATIONS) for key, text in _object(value, ANNOTATIONS).items()}


def _aliases(value: Any, network: str) -> tuple[str, ...]:
    """The convention is a list; podman sends an object of lists, one per network."""
    if isinstance(value, dict):
        value = value.get(network)
    names = tuple(name.lower() for name in _texts(value, "runtimeConfig.aliases"))
    for name in names:
        if not _ALIAS.match(name) or any(not 0 < len(part) < 64 for part in name.split(".")):
            raise _bad("runtimeConfig.aliases", f"DNS names, not {name!r},")
    return names


def _refuse_unsupported(runtime: Mapping[str, Any]) -> None:
    """What would be promised and not kept is refused by name (code 2: the field and its value)."""
    for item in _array(runtime.get("portmappings"), "runtimeConfig.portMappings"):
        port = _number(fold(_object(item, "runtimeConfig.portMappings")).get("hostport"), "runtimeConfig.portMappings.hostPort")
        if port > 0:
            raise CniError(faults.UNSUPPORTED_FIELD, f"runtimeConfig.portMappings: hostPort {port} is not supported")
    for key, value in fold(_object(runtime.get("bandwidth"), "runtimeConfig.bandwidth")).items():
        # containerd sends an unlimited burst beside no rate at all.
        if key.endswith("rate") and _number(value, f"runtimeConfig.bandwidth.{key}"):
            raise CniError(faults.UNSUPPORTED_FIELD, f"runtimeConfig.bandwidth: {key} {value} is not supported")
    if runtime.get("ipranges"):
        raise CniError(faults.UNSUPPORTED_FIELD, f"runtimeConfig.ipRanges: {runtime['ipranges']} is not supported")
