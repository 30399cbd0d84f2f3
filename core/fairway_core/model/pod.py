"""Pods and where they live."""

from __future__ import annotations

from dataclasses import dataclass

from fairway_core.model.meta import Meta


@dataclass(frozen=True, slots=True)
class Namespace:
    """A tenant's name space; its labels are what namespaceSelector sees."""

    meta: Meta


MIRROR = "kubernetes.io/config.mirror"
"""Annotation of the object that kubelet makes for a static pod: the uid by which kubelet, and so a runtime, knows the pod."""
ZONE_LABEL = "topology.kubernetes.io/zone"


@dataclass(frozen=True, slots=True)
class Node:
    """A machine that runs pods. Addresses and CIDRs are canonical text.

    `addresses` are all of it, `internal` those that the nodes of the cluster use among themselves (type InternalIP). `leaving`:
    it is being deleted, or the cluster autoscaler said it will be (KEP-3836). `created` is the time as the API server wrote it.
    """

    meta: Meta
    addresses: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    internal: tuple[str, ...] = ()
    leaving: bool = False
    created: str = ""

    @property
    def zone(self) -> str:
        """The zone it is in; empty if nobody said so."""
        return self.meta.labels.get(ZONE_LABEL, "")


@dataclass(frozen=True, slots=True, order=True)
class PodPort:
    """A container port that has a name, so that services and policies can refer to it."""

    name: str
    port: int
    protocol: str = "TCP"


@dataclass(frozen=True, slots=True)
class Pod:
    """A container (group) with its own addresses. `ips` is canonical text, at most one per family is used."""

    meta: Meta
    ips: tuple[str, ...] = ()
    ports: tuple[PodPort, ...] = ()
    node_name: str = ""
    host_network: bool = False
    phase: str = "Pending"
    ready: bool = False
    terminating: bool = False
    hostname: str = ""
    subdomain: str = ""

    def known_as(self, uid: str) -> bool:
        """Whether a runtime may call it by this uid: its own, or, of the mirror of a static pod, that of the pod."""
        return uid in (self.meta.uid, self.meta.annotations.get(MIRROR))

    @property
    def finished(self) -> bool:
        """A completed pod keeps its addresses in status, but they may belong to another pod by now."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def on_pod_network(self) -> bool:
        """Whether policies and endpoints may use its addresses."""
        return bool(self.ips) and not self.host_network and not self.finished
