"""HTTPRoute (gateway.networking.k8s.io/v1). Source of the rules: Gateway API specification 1.4, standard channel; fields of the
experimental channel are accepted and mean nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from fairway_core.documents.errors import Fault
from fairway_core.documents.schema.base import ApiObject, duplicates, names
from fairway_core.documents.schema.gateway import GatewayMeta, Group, Hostname, KindName
from fairway_core.documents.schema.network import PortNumber
from fairway_core.documents.schema.numbers import whole
from fairway_core.documents.schema.text import DnsLabel, DnsSubdomain
from fairway_core.duration import milliseconds

FILTERS = {
    "RequestHeaderModifier": "requestHeaderModifier",
    "ResponseHeaderModifier": "responseHeaderModifier",
    "RequestMirror": "requestMirror",
    "RequestRedirect": "requestRedirect",
    "URLRewrite": "urlRewrite",
    "CORS": "cors",
    "ExternalAuth": "externalAuth",
    "ExtensionRef": "extensionRef",
}
"""The types of filters, and the field in which each is described."""


def _duration(text: str) -> str:
    milliseconds(text)
    return text


Duration = Annotated[str, AfterValidator(_duration)]
Weight = Annotated[int, AfterValidator(whole(0, 1_000_000))]
Percent = Annotated[int, AfterValidator(whole(0, 100))]


class ParentRef(ApiObject):
    """A Gateway, or a Service, that the route wants to be part of."""

    group: Group | None = None
    kind: KindName | None = None
    namespace: DnsLabel | None = None
    name: str
    sectionName: DnsSubdomain | None = None
    port: PortNumber | None = None


class PathMatch(ApiObject):
    """The path of a request. PathPrefix is whole segments."""

    type: Literal["Exact", "PathPrefix", "RegularExpression"] | None = None
    value: str | None = None

    def rules(self) -> Iterator[Fault]:
        value = self.value if self.value is not None else "/"
        if self.type == "RegularExpression":
            return
        if not value.startswith("/") or len(value) > 1024:
            yield Fault(("value",), "must begin with '/' and have at most 1024 characters")
        for part in ("//", "/./", "/../", "%2f", "%2F", "#"):
            if part in value:
                yield Fault(("value",), f"must not contain {part!r}")
        if value.endswith(("/..", "/.")):
            yield Fault(("value",), "must not end with '/..' or '/.'")


class ValueMatch(ApiObject):
    """A header or a query parameter."""

    type: Literal["Exact", "RegularExpression"] | None = None
    name: str
    value: str


class RouteMatch(ApiObject):
    """Conditions that must all hold."""

    path: PathMatch | None = None
    headers: list[ValueMatch] | None = None
    queryParams: list[ValueMatch] | None = None
    method: Literal["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"] | None = None


class Header(ApiObject):
    """A header with its value."""

    name: str
    value: str


class HeaderModifier(ApiObject):
    """Headers set, added and removed."""

    set: list[Header] | None = None
    add: list[Header] | None = None
    remove: list[str] | None = None


class BackendReference(ApiObject):
    """A Service, by default in the route's namespace; it needs a port."""

    group: Group | None = None
    kind: KindName | None = None
    name: str
    namespace: DnsLabel | None = None
    port: PortNumber | None = None

    def rules(self) -> Iterator[Fault]:
        if (self.group or "") == "" and (self.kind or "Service") == "Service" and self.port is None:
            yield Fault((), "a Service needs a port")


class Fraction(ApiObject):
    """A share; the denominator is 100 unless it is given."""

    numerator: Annotated[int, AfterValidator(whole(0, 2**31 - 1))]
    denominator: Annotated[int, AfterValidator(whole(1, 2**31 - 1))] | None = None

    def rules(self) -> Iterator[Fault]:
        if self.numerator > (self.denominator or 100):
            yield Fault(("numerator",), "must not be above the denominator")


class Mirror(ApiObject):
    """Requests that are sent elsewhere too."""

    backendRef: BackendReference
    percent: Percent | None = None
    fraction: Fraction | None = None

    def rules(self) -> Iterator[Fault]:
        if self.percent is not None and self.fraction is not None:
            yield Fault(("fraction",), "cannot stand beside percent", at_key=True)


class PathModifier(ApiObject):
    """A path in place of the whole path, or of the prefix that matched."""

    type: Literal["ReplaceFullPath", "ReplacePrefixMatch"]
    replaceFullPath: str | None = None
    replacePrefixMatch: str | None = None

    def rules(self) -> Iterator[Fault]:
        for kind, value in (("ReplaceFullPath", self.replaceFullPath), ("ReplacePrefixMatch", self.replacePrefixMatch)):
            field = kind[0].lower() + kind[1:]
            if (value is not None) != (self.type == kind):
                yield Fault((field,) if value is not None else (), f"{field} goes with type {kind}, and only with it")


class Redirect(ApiObject):
    """An answer that sends the client elsewhere."""

    scheme: Literal["http", "https"] | None = None
    hostname: Hostname | None = None
    path: PathModifier | None = None
    port: PortNumber | None = None
    statusCode: Literal[301, 302, 303, 307, 308] | None = None


class Rewrite(ApiObject):
    """What the backend sees in place of what the client asked for."""

    hostname: Hostname | None = None
    path: PathModifier | None = None


class Cors(ApiObject):
    """Answers to browsers that ask for other origins."""

    allowOrigins: list[str] | None = None
    allowCredentials: bool | None = None
    allowMethods: list[str] | None = None
    allowHeaders: list[str] | None = None
    exposeHeaders: list[str] | None = None
    maxAge: Annotated[int, AfterValidator(whole(1, 2**31 - 1))] | None = None


class ExtensionRef(ApiObject):
    """A filter of an implementation's own."""

    group: Group
    kind: KindName
    name: str


class RouteFilter(ApiObject):
    """One step that a request goes through: its type, and the field of that type."""

    type: Literal[
        "RequestHeaderModifier", "ResponseHeaderModifier", "RequestMirror", "RequestRedirect",
        "URLRewrite", "CORS", "ExternalAuth", "ExtensionRef",
    ]  # fmt: skip
    requestHeaderModifier: HeaderModifier | None = None
    responseHeaderModifier: HeaderModifier | None = None
    requestMirror: Mirror | None = None
    requestRedirect: Redirect | None = None
    urlRewrite: Rewrite | None = None
    cors: Cors | None = None
    externalAuth: dict[str, Any] | None = None
    extensionRef: ExtensionRef | None = None

    def rules(self) -> Iterator[Fault]:
        for kind, field in FILTERS.items():
            if kind == self.type and getattr(self, field) is None:
                yield Fault((), f"a filter of type {kind} needs {field}")
            if kind != self.type and getattr(self, field) is not None:
                yield Fault((field,), f"cannot stand in a filter of type {self.type}", at_key=True)


class BackendRef(BackendReference):
    """A backend and its share of the requests."""

    weight: Weight | None = None
    filters: list[RouteFilter] | None = None


class Timeouts(ApiObject):
    """How long a request, and one attempt at a backend, may take; 0s is for ever."""

    request: Duration | None = None
    backendRequest: Duration | None = None

    def rules(self) -> Iterator[Fault]:
        whole, one = milliseconds(self.request or "0s"), milliseconds(self.backendRequest or "0s")
        if whole and one > whole:
            yield Fault(("backendRequest",), "must not be longer than request")


class RouteRule(ApiObject):
    """Which requests, and what becomes of them."""

    accepted = names("retry sessionPersistence")
    name: DnsSubdomain | None = None
    matches: list[RouteMatch] | None = None
    filters: list[RouteFilter] | None = None
    backendRefs: list[BackendRef] | None = None
    timeouts: Timeouts | None = None

    def rules(self) -> Iterator[Fault]:
        kinds = [item.type for item in self.filters or ()]
        if "RequestRedirect" in kinds and self.backendRefs:
            yield Fault(("backendRefs",), "must not be given with a RequestRedirect", at_key=True)
        if "RequestRedirect" in kinds and "URLRewrite" in kinds:
            yield Fault(("filters", kinds.index("URLRewrite")), "must not be given with a RequestRedirect")
        for index in duplicates([kind if kind not in ("RequestMirror", "ExtensionRef") else object() for kind in kinds]):
            yield Fault(("filters", index), f"type {kinds[index]} appears twice")


class HTTPRouteSpec(ApiObject):
    """Whose requests, for which names, and the rules for them."""

    accepted = names("useDefaultGateways")
    parentRefs: list[ParentRef] | None = None
    hostnames: list[Hostname] | None = None
    rules_: list[RouteRule] | None = Field(default=None, alias="rules")

    def rules(self) -> Iterator[Fault]:
        given = {"parentRefs": (self.parentRefs, 32), "hostnames": (self.hostnames, 16), "rules": (self.rules_, 16)}
        for field, (values, most) in given.items():
            if len(values or ()) > most:
                yield Fault((field,), f"must be at most {most}, not {len(values or ())}")


class HTTPRoute(ApiObject):
    """gateway.networking.k8s.io/v1 HTTPRoute."""

    accepted = names("status")
    apiVersion: str
    kind: str
    metadata: GatewayMeta
    spec: HTTPRouteSpec
