"""ServicePolicy (fairway.dev/v1): what no standard says about how connections are shared among the endpoints of a Service.

Attached as the Gateway API attaches policies to what they are about (GEP-713, direct attachment). Durations are GEP-2257's;
terms and defaults are those of Envoy's outlier detection and slow start, of probes in Kubernetes, where these have the notion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator

from fairway_core.documents.errors import Fault, shown
from fairway_core.documents.schema.base import ApiObject, ObjectMeta, duplicates
from fairway_core.documents.schema.network import Address, PortNumber
from fairway_core.documents.schema.numbers import whole
from fairway_core.documents.schema.selector import LabelSelector
from fairway_core.documents.schema.text import DnsLabel1035, DnsSubdomain
from fairway_core.duration import milliseconds
from fairway_core.model.servicepolicy import HealthCheck, OutlierDetection

LONGEST = "24h"


def _within(low: str, high: str = LONGEST) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not milliseconds(low) <= milliseconds(text) <= milliseconds(high):
            raise ValueError(f"{shown(text)} is not within {low} and {high}")
        return text

    return check


def _path(text: str) -> str:
    if not text.startswith("/") or len(text) > 1024 or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"{shown(text)} is not a path (beginning with '/', no spaces, at most 1024)")
    return text


Period = Annotated[str, AfterValidator(_within("100ms"))]
Span = Annotated[str, AfterValidator(_within("0s"))]
Count = Annotated[int, AfterValidator(whole(1, 100))]
Percent = Annotated[int, AfterValidator(whole(1, 100))]
Weight = Annotated[int, AfterValidator(whole(0, 1000))]
HttpStatus = Annotated[int, AfterValidator(whole(100, 599))]
HttpPath = Annotated[str, AfterValidator(_path)]


class ServicePolicyMeta(ObjectMeta):
    """A policy's name is a DNS name."""

    name: DnsSubdomain


class TargetRef(ApiObject):
    """A Service of the policy's own namespace."""

    group: Literal[""] | None = None
    kind: Literal["Service"]
    name: DnsLabel1035


class EndpointWeight(ApiObject):
    """How much each of some endpoints gets, relative to the others; the first entry that fits an endpoint counts."""

    podSelector: LabelSelector | None = None
    addresses: list[Address] | None = None
    weight: Weight

    def rules(self) -> Iterator[Fault]:
        if (self.podSelector is None) == (self.addresses is None):
            yield Fault((), "needs podSelector or addresses, and not both")
        if self.addresses == []:
            yield Fault(("addresses",), "must name something, or be left out")
        for index in duplicates(list(self.addresses or ())):
            yield Fault(("addresses", index), "appears twice")


class TcpCheck(ApiObject):
    """A connection is made and closed."""


class HttpCheck(ApiObject):
    """A GET request; an answer with one of the statuses is good, any from 200 to 399 if none is given."""

    path: HttpPath
    host: DnsSubdomain | None = None
    expectedStatuses: list[HttpStatus] | None = None

    def rules(self) -> Iterator[Fault]:
        if self.expectedStatuses == []:
            yield Fault(("expectedStatuses",), "must name something, or be left out")
        for index in duplicates(list(self.expectedStatuses or ())):
            yield Fault(("expectedStatuses", index), "appears twice")


class HealthCheckSpec(ApiObject):
    """Active checks by every node; `port` stands in for the endpoint's own."""

    interval: Period | None = None
    timeout: Period | None = None
    healthyThreshold: Count | None = None
    unhealthyThreshold: Count | None = None
    port: PortNumber | None = None
    tcp: TcpCheck | None = None
    http: HttpCheck | None = None

    def rules(self) -> Iterator[Fault]:
        if (self.tcp is None) == (self.http is None):
            yield Fault((), "needs tcp or http, and not both")
        interval = milliseconds(self.interval) if self.interval else HealthCheck().interval_ms
        timeout = milliseconds(self.timeout) if self.timeout else HealthCheck().timeout_ms
        if timeout > interval:
            yield Fault(("timeout",) if self.timeout else ("interval",), "a check must not take longer than the interval")


class OutlierDetectionSpec(ApiObject):
    """Endpoints that fail for real clients are left out for a while, longer each time."""

    consecutiveFailures: Count | None = None
    interval: Period | None = None
    baseEjectionTime: Period | None = None
    maxEjectionTime: Period | None = None
    maxEjectionPercent: Percent | None = None

    def rules(self) -> Iterator[Fault]:
        base = milliseconds(self.baseEjectionTime) if self.baseEjectionTime else OutlierDetection().base_ejection_ms
        most = milliseconds(self.maxEjectionTime) if self.maxEjectionTime else OutlierDetection().max_ejection_ms
        if base > most:
            field = "maxEjectionTime" if self.maxEjectionTime else "baseEjectionTime"
            yield Fault((field,), "baseEjectionTime must not be longer than maxEjectionTime")


class SlowStartSpec(ApiObject):
    """The weight of an endpoint that has become ready grows to its own within the window."""

    window: Period
    minWeightPercent: Percent | None = None


class DrainSpec(ApiObject):
    """Connections to an endpoint that is going may last so long; then they are reset."""

    timeout: Span


class ServicePolicySpec(ApiObject):
    """What is asked for, about which Service."""

    targetRef: TargetRef
    weights: list[EndpointWeight] | None = None
    healthCheck: HealthCheckSpec | None = None
    outlierDetection: OutlierDetectionSpec | None = None
    slowStart: SlowStartSpec | None = None
    drain: DrainSpec | None = None

    def rules(self) -> Iterator[Fault]:
        if self.weights == []:
            yield Fault(("weights",), "must name something, or be left out")
        asked = (self.weights, self.healthCheck, self.outlierDetection, self.slowStart, self.drain)
        if all(part is None for part in asked):
            yield Fault((), "needs weights, healthCheck, outlierDetection, slowStart or drain")


class ServicePolicy(ApiObject):
    """fairway.dev/v1 ServicePolicy."""

    apiVersion: str
    kind: str
    metadata: ServicePolicyMeta
    spec: ServicePolicySpec
