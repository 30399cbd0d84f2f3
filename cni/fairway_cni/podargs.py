"""CNI_ARGS: the pairs a runtime adds about the container. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

from fairway_cni import faults
from fairway_cni.faults import CniError

KNOWN = frozenset(
    {
        "IgnoreUnknown",
        "IP",
        "MAC",
        "K8S_POD_NAMESPACE",
        "K8S_POD_NAME",
        "K8S_POD_UID",
        "K8S_POD_INFRA_CONTAINER_ID",
        "FAIRWAY_LABELS",
    }
)
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False", ""})
_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?\Z", re.ASCII)
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?\Z", re.ASCII)
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?\Z", re.ASCII)
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class PodArgs:
    """Who the container is and what it asks for. Empty fields were not given. `ips` in canonical form, `mac` in lower case.

    podman puts the container's name into K8S_POD_NAME; an underscore there, which no DNS name has, becomes a dash.
    """

    namespace: str = ""
    name: str = ""
    uid: str = ""
    ips: tuple[str, ...] = ()
    mac: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def parse_args(text: str) -> PodArgs:
    """Read `K=V;K=V`. Raises CniError with code 4; an unknown key is a fault unless IgnoreUnknown is true (as in Go's skel)."""
    pairs: dict[str, str] = {}
    for item in filter(None, text.split(";")):
        key, equals, value = item.partition("=")
        if not equals:
            raise CniError(faults.ENVIRONMENT, f"CNI_ARGS: {item!r} is not KEY=VALUE")
        pairs[key] = value
    ignore = pairs.get("IgnoreUnknown", "")
    if ignore not in _TRUE | _FALSE:
        raise CniError(faults.ENVIRONMENT, f"CNI_ARGS: IgnoreUnknown {ignore!r} is neither true nor false")
    unknown = sorted(pairs.keys() - KNOWN)
    if unknown and ignore not in _TRUE:
        raise CniError(faults.ENVIRONMENT, f"CNI_ARGS: unknown {', '.join(unknown)}", "IgnoreUnknown=1 would allow that")
    place = faults.ENVIRONMENT
    return PodArgs(
        namespace=dns_name(pairs.get("K8S_POD_NAMESPACE", ""), "CNI_ARGS: K8S_POD_NAMESPACE", place),
        name=dns_name(pairs.get("K8S_POD_NAME", "").replace("_", "-"), "CNI_ARGS: K8S_POD_NAME", place),
        uid=pairs.get("K8S_POD_UID", ""),
        ips=tuple(address(ip, "CNI_ARGS: IP", place) for ip in filter(None, pairs.get("IP", "").split(","))),
        mac=mac(pairs.get("MAC", ""), "CNI_ARGS: MAC", place),
        labels=_labels(pairs.get("FAIRWAY_LABELS", "")),
    )


def _labels(text: str) -> dict[str, str]:
    labels: dict[str, str] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise CniError(faults.ENVIRONMENT, f"CNI_ARGS: FAIRWAY_LABELS: {item!r} is not key=value")
        labels.update([label(key, value, "CNI_ARGS: FAIRWAY_LABELS", faults.ENVIRONMENT)])
    return labels


def dns_name(text: str, where: str, code: int) -> str:
    """`text` in lower case if it can name an object (RFC 1123 subdomain), or empty. Raises CniError with `code`."""
    lowered = text.lower()
    if lowered and (not _DNS_NAME.match(lowered) or len(lowered) > 253):
        raise CniError(code, f"{where}: {text!r} is not a DNS name")
    return lowered


def address(text: str, where: str, code: int) -> str:
    """An address, with or without prefix length, in canonical form. Raises CniError with `code`."""
    try:
        return str(ip_address(text.partition("/")[0]))
    except ValueError as fault:
        raise CniError(code, f"{where}: {text!r} is not an address") from fault


def mac(text: str, where: str, code: int) -> str:
    """A unicast MAC address in lower case with colons, or empty. Raises CniError with `code`."""
    lowered = text.lower().replace("-", ":")
    if lowered and (not _MAC.match(lowered) or int(lowered[:2], 16) & 1 or lowered == "00:00:00:00:00:00"):
        raise CniError(code, f"{where}: {text!r} is not the MAC address of one interface")
    return lowered


def label(key: str, value: str, where: str, code: int) -> tuple[str, str]:
    """A label in Kubernetes' syntax. Raises CniError with `code`."""
    if not _LABEL_KEY.match(key) or not _LABEL_VALUE.match(value):
        raise CniError(code, f"{where}: {key!r}={value!r} is not a label")
    return key, value
