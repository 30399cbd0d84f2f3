"""The answer to ADD in every version of the spec. Pure. Source: CNI spec 1.1.0 section 5, and the older releases."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fairway_cni.netconf import Dns
from fairway_core.model import family_of
from fairway_kernel.link.objects import GATEWAY4, GATEWAY6

_DEFAULT = {4: "0.0.0.0/0", 6: "::/0"}
_GATEWAY = {4: GATEWAY4, 6: GATEWAY6}


@dataclass(frozen=True, slots=True)
class AttachResult:
    """What was made. `ips` without prefix length; `bridge` is empty in routed mode; `sandbox` is CNI_NETNS letter for letter."""

    ifname: str
    mac: str
    sandbox: str
    host_ifname: str
    ips: tuple[str, ...]
    mtu: int
    bridge: str = ""
    bridge_mac: str = ""
    dns: Dns = field(default_factory=Dns)
    routes: tuple[str, ...] = ()
    previous: Mapping[str, Any] | None = None
    """The result of the plugin that made the interface: it is handed on."""


def render_result(result: AttachResult, version: str) -> bytes:
    """`result` as JSON of the given spec version, one of protocol.VERSIONS."""
    document: dict[str, Any] = {"cniVersion": version}
    if result.previous is not None:
        return json.dumps(_handed_on(result, version)).encode()
    if version in ("0.1.0", "0.2.0"):
        document.update(_by_family(result))
    else:
        document["interfaces"] = _interfaces(result, version)
        document["ips"] = _ips(result, version)
        document["routes"] = [*(_route(ip) for ip in result.ips), *_static(result)]
    document["dns"] = _dns(result.dns)
    return json.dumps(document).encode()


def _prefixed(ip: str) -> str:
    return f"{ip}/{128 if family_of(ip) == 6 else 32}"


def _route(ip: str) -> dict[str, str]:
    family = family_of(ip)
    return {"dst": _DEFAULT[family], "gw": _GATEWAY[family]}


def _handed_on(result: AttachResult, version: str) -> dict[str, Any]:
    """prevResult as it came; resolver settings only where nobody gave any."""
    document = {**(result.previous or {}), "cniVersion": version}
    dns = document.get("dns")
    if not (isinstance(dns, dict) and dns.get("nameservers")):
        document["dns"] = _dns(result.dns)
    return document


def _static(result: AttachResult) -> list[dict[str, str]]:
    families = {family_of(ip) for ip in result.ips}
    return [{"dst": cidr, "gw": _GATEWAY[family_of(cidr)]} for cidr in result.routes if family_of(cidr) in families]


def _by_family(result: AttachResult) -> dict[str, Any]:
    """0.1 and 0.2 have room for one address of each family."""
    return {
        f"ip{family_of(ip)}": {
            "ip": _prefixed(ip),
            "gateway": _GATEWAY[family_of(ip)],
            "routes": [_route(ip), *(route for route in _static(result) if family_of(route["dst"]) == family_of(ip))],
        }
        for ip in reversed(result.ips)
    }


def _interfaces(result: AttachResult, version: str) -> list[dict[str, Any]]:
    """The container's interface is the last; what is on the node comes before it."""
    bridge = [{"name": result.bridge, "mac": result.bridge_mac}] if result.bridge else []
    inside: dict[str, Any] = {"name": result.ifname, "mac": result.mac, "sandbox": result.sandbox}
    if version == "1.1.0":
        inside["mtu"] = result.mtu
    return [*bridge, {"name": result.host_ifname}, inside]


def _ips(result: AttachResult, version: str) -> list[dict[str, Any]]:
    index = 2 if result.bridge else 1
    ips: list[dict[str, Any]] = []
    for ip in result.ips:
        family = family_of(ip)
        entry: dict[str, Any] = {"address": _prefixed(ip), "gateway": _GATEWAY[family], "interface": index}
        if version.startswith("0."):
            entry["version"] = str(family)
        ips.append(entry)
    return ips


def _dns(dns: Dns) -> dict[str, Any]:
    parts = {"nameservers": list(dns.nameservers), "search": list(dns.search), "options": list(dns.options), "domain": dns.domain}
    return {key: value for key, value in parts.items() if value}
