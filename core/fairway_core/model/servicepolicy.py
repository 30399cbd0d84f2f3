"""ServicePolicy (fairway.dev/v1): how the connections of a Service are shared among its endpoints. Carried; not enforced yet."""

from __future__ import annotations

from dataclasses import dataclass

from fairway_core.model.meta import Meta
from fairway_core.selectors import Selector


@dataclass(frozen=True, slots=True)
class EndpointWeight:
    """The weight of each endpoint whose pod `pods` selects, or whose address is one of `addresses`. 0: no new connections."""

    weight: int
    pods: Selector | None = None
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Active checks. `path` empty: a TCP connection is enough; `port` 0: the endpoint's own; no `statuses`: 200 to 399."""

    interval_ms: int = 5000
    timeout_ms: int = 2000
    healthy_threshold: int = 2
    unhealthy_threshold: int = 3
    port: int = 0
    path: str = ""
    host: str = ""
    statuses: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class OutlierDetection:
    """Endpoints that fail for clients are left out: for the base time, and that much longer each time, up to the maximum."""

    consecutive_failures: int = 5
    interval_ms: int = 10_000
    base_ejection_ms: int = 30_000
    max_ejection_ms: int = 300_000
    max_ejection_percent: int = 50


@dataclass(frozen=True, slots=True)
class SlowStart:
    """A new endpoint's weight grows from so much of its own to all of it within the window."""

    window_ms: int
    min_weight_percent: int = 10


@dataclass(frozen=True, slots=True)
class ServicePolicy:
    """What is asked for about the Service `service` of its namespace. None, or no weights: not asked for.

    `drain_ms`: how long connections to an endpoint that is going may last. Endpoints without a weight of theirs have 1.
    """

    meta: Meta
    service: str
    weights: tuple[EndpointWeight, ...] = ()
    health_check: HealthCheck | None = None
    outlier_detection: OutlierDetection | None = None
    slow_start: SlowStart | None = None
    drain_ms: int | None = None
