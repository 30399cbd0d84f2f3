"""Gateway and HTTPRoute (gateway.networking.k8s.io/v1). Carried and shown; not served yet."""

from __future__ import annotations

from dataclasses import dataclass

from fairway_core.model.meta import Meta


@dataclass(frozen=True, slots=True)
class Listener:
    """Where a Gateway is asked to listen. `hostname` empty: every name."""

    name: str
    port: int
    protocol: str
    hostname: str = ""


@dataclass(frozen=True, slots=True)
class Gateway:
    """A way in for requests, served by the controller of its class."""

    meta: Meta
    class_name: str
    listeners: tuple[Listener, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class RouteParent:
    """What a route wants to be part of: a Gateway, or a Service (requests within the cluster)."""

    kind: str
    namespace: str
    name: str
    section: str = ""


@dataclass(frozen=True, slots=True)
class HTTPRoute:
    """Rules for requests that come by its parents. `rules` counts them."""

    meta: Meta
    parents: tuple[RouteParent, ...] = ()
    hostnames: tuple[str, ...] = ()
    rules: int = 0
