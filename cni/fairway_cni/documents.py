"""Attachments and pods as stored documents. Pure.

A Pod that nobody declared is made at ADD and removed at DEL. A declared one keeps everything its author wrote; only labels that
the author did not set, nodeName and status are added, and taken away again. If several attachments claim one pod name, the Pod
has the addresses of all, so that policies hold for all; those of the newest container come first, for services send there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fairway_core.addressing import PRIMARY
from fairway_core.keys import Key
from fairway_core.model import Attachment
from fairway_store.api import ABSENT, Delete, Document, Entry, Put, Write


@dataclass(frozen=True, slots=True)
class Said:
    """What the runtime said about a pod at ADD."""

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    uid: str = ""


def pod_key(attachment: Attachment) -> Key:
    """The key of the Pod an attachment belongs to."""
    return Key("Pod", attachment.pod_namespace, attachment.pod_name)


def attachment_document(attachment: Attachment) -> Document:
    """The stored form; `fairway_core.codec.decode` reads it back."""
    spec = {
        "network": attachment.network,
        "containerID": attachment.container_id,
        "ifname": attachment.ifname,
        "netns": attachment.netns,
        "podNamespace": attachment.pod_namespace,
        "podName": attachment.pod_name,
        "hostIfname": attachment.host_ifname,
        "mac": attachment.mac,
        "ips": list(attachment.ips),
        "mode": attachment.mode,
        "mtu": attachment.mtu,
        "bootID": attachment.boot_id,
        "netnsID": attachment.netns_id,
        "confirmed": attachment.confirmed,
        "podDeclared": attachment.pod_declared,
        "aliases": list(attachment.aliases),
        **_extras(attachment),
    }
    return {"apiVersion": "fairway.dev/v1", "kind": "Attachment", "metadata": {"name": attachment.meta.name}, "spec": spec}


def _extras(attachment: Attachment) -> dict[str, Any]:
    """What most attachments do not have: absent rather than empty, since every attachment is written twice."""
    limits = attachment.bandwidth
    found: dict[str, Any] = {
        "hostPorts": [
            {"protocol": p.protocol, "hostPort": p.host_port, "containerPort": p.container_port, "hostIP": p.host_ip}
            for p in attachment.host_ports
        ],
        "bandwidth": limits
        and {
            "ingressRate": limits.ingress_rate,
            "ingressBurst": limits.ingress_burst,
            "egressRate": limits.egress_rate,
            "egressBurst": limits.egress_burst,
        },
        "routes": list(attachment.routes),
        "sysctls": dict(attachment.sysctls),
        "delegate": attachment.delegate,
    }
    found = {name: value for name, value in found.items() if value}
    if not attachment.masquerade:
        found["masquerade"] = False
    if not attachment.search_completion:
        found["searchCompletion"] = False
    if attachment.adopted:
        found["adopted"] = True
    return found


def claim_pod(entry: Entry | None, attachment: Attachment, node: str, said: Said, others: Sequence[Attachment] = ()) -> Write:
    """The write that gives the Pod to `attachment`: running, ready, with its addresses and those of `others` of the pod."""
    base: Document = entry.document if entry and attachment.pod_declared else {"apiVersion": "v1", "kind": "Pod"}
    meta = dict(base.get("metadata") or {})
    meta.update(name=attachment.pod_name, namespace=attachment.pod_namespace)
    # What the declaration says about the pod's identity is not the runtime's to change.
    meta["labels"] = {**said.labels, **(meta.get("labels") or {})}
    if said.annotations:
        meta["annotations"] = {**(meta.get("annotations") or {}), **said.annotations}
    if said.uid and not meta.get("uid"):
        meta["uid"] = said.uid
    document = {
        **base,
        "metadata": meta,
        "spec": {**(base.get("spec") or {}), "nodeName": node},
        "status": _status(_addresses(attachment, others)),
    }
    return Put(pod_key(attachment), document, entry.revision if entry else ABSENT)


def release_pod(entry: Entry | None, attachment: Attachment, others: Sequence[Attachment]) -> list[Write]:
    """The writes that take the Pod from `attachment`: none if it has none of its addresses."""
    before = entry.document if entry else {}
    if entry is None or set(attachment.ips).isdisjoint(listed := _ips(before)):
        return []
    key = pod_key(attachment)
    if others:
        left = [ip for item in reversed(others) for ip in item.ips]
        in_order = [ip for ip in listed if ip in left]
        document = {**before, "status": _status(tuple(dict.fromkeys([*in_order, *left])))}
        return [Put(key, document, entry.revision)]
    if not attachment.pod_declared:
        return [Delete(key, entry.revision)]
    document = {name: value for name, value in before.items() if name != "status"}
    document["spec"] = {name: value for name, value in (document.get("spec") or {}).items() if name != "nodeName"}
    return [Put(key, document, entry.revision)]


def _addresses(newest: Attachment, others: Sequence[Attachment]) -> tuple[str, ...]:
    """Of the newest container first, and there of its first interface."""

    def place(item: Attachment) -> tuple[bool, bool, str]:
        return item.container_id != newest.container_id, item.ifname != PRIMARY, item.meta.name

    return tuple(dict.fromkeys(ip for item in sorted([newest, *others], key=place) for ip in item.ips))


def _status(ips: tuple[str, ...]) -> dict[str, Any]:
    return {
        "phase": "Running",
        "podIP": ips[0],
        "podIPs": [{"ip": ip} for ip in ips],
        "conditions": [{"type": "Ready", "status": "True"}],
    }


def _ips(document: Document) -> tuple[str, ...]:
    return tuple(item.get("ip", "") for item in (document.get("status") or {}).get("podIPs") or ())
