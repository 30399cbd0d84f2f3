"""Gateway, HTTPRoute and ServicePolicy as users write them: what is refused, what is accepted."""

from __future__ import annotations

import pytest

from fairway_core.codec import decode
from fairway_core.documents import InvalidDocuments, validate
from fairway_core.duration import milliseconds
from fairway_core.errors import UserError
from fairway_core.model import EndpointWeight, Gateway, HealthCheck, HTTPRoute, OutlierDetection, RouteParent, ServicePolicy
from fairway_core.selectors import selector_from_labels

GATEWAY = "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: shop}\nspec: "
ROUTE = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: web, namespace: shop}\nspec: "
POLICY = "apiVersion: fairway.dev/v1\nkind: ServicePolicy\nmetadata: {name: web, namespace: shop}\nspec: "
HTTP = "{name: http, port: 80, protocol: HTTP}"
TARGET = "targetRef: {kind: Service, name: web}"


def errors(text: str) -> list[str]:
    try:
        validate("f", text)
    except InvalidDocuments as invalid:
        return [str(error) for error in invalid.errors]
    return []


REFUSED = [
    (GATEWAY + "{gatewayClassName: c}", "f:4:7: spec.listeners: is required"),
    (GATEWAY + "{gatewayClassName: c, listeners: []}", "spec.listeners: must be 1 to 64, not 0"),
    (GATEWAY + f"{{gatewayClassName: c, listeners: [{HTTP}, {HTTP}]}}", "spec.listeners[1].name: appears twice"),
    (
        GATEWAY + f"{{gatewayClassName: c, listeners: [{HTTP}], listener: 1}}",
        "spec.listener: unknown field 'listener'; did you mean 'listeners'?",
    ),
    (
        GATEWAY + "{gatewayClassName: c, listeners: [{name: a, port: 80, protocol: HTTP, tls: {mode: Terminate}}]}",
        "tls: must not be given for protocol HTTP",
    ),
    (
        GATEWAY + "{gatewayClassName: c, listeners: [{name: a, port: 443, protocol: HTTPS, tls: {mode: Passthrough}}]}",
        "tls.mode: must be Terminate for protocol HTTPS",
    ),
    (
        GATEWAY + "{gatewayClassName: c, listeners: [{name: a, port: 80, protocol: HTTP, hostname: '10.0.0.1'}]}",
        "'10.0.0.1' is an address, not a name",
    ),
    (ROUTE + "{parentRef: []}", "f:4:8: spec.parentRef: unknown field 'parentRef'; did you mean 'parentRefs'?"),
    (ROUTE + "{hostnames: ['*.*.example.org']}", "'*.example.org' is not a DNS name"),
    (ROUTE + "{rules: [{backendRefs: [{name: web}]}]}", "spec.rules[0].backendRefs[0]: a Service needs a port"),
    (ROUTE + "{rules: [{backendRefs: [{name: web, port: 80, weight: -1}]}]}", "weight: must be between 0 and 1000000, not -1"),
    (ROUTE + "{rules: [{matches: [{path: {value: web}}]}]}", "path.value: must begin with '/'"),
    (ROUTE + "{rules: [{matches: [{path: {value: /a/../b}}]}]}", "path.value: must not contain '/../'"),
    (ROUTE + "{rules: [{matches: [{method: FETCH}]}]}", "method: must be 'GET', 'HEAD'"),
    (ROUTE + "{rules: [{matches: [{header: []}]}]}", "unknown field 'header'; did you mean 'headers'?"),
    (ROUTE + "{rules: [{filters: [{type: URLRewrite}]}]}", "filters[0]: a filter of type URLRewrite needs urlRewrite"),
    (
        ROUTE + "{rules: [{filters: [{type: URLRewrite, urlRewrite: {}, requestRedirect: {}}]}]}",
        "requestRedirect: cannot stand in a filter of type URLRewrite",
    ),
    (ROUTE + "{rules: [{filters: [{type: Retry}]}]}", "filters[0].type: must be 'RequestHeaderModifier'"),
    (
        ROUTE + "{rules: [{filters: [{type: RequestRedirect, requestRedirect: {}}], backendRefs: [{name: a, port: 1}]}]}",
        "backendRefs: must not be given with a RequestRedirect",
    ),
    (
        ROUTE + "{rules: [{filters: [{type: CORS, cors: {}}, {type: CORS, cors: {}}]}]}",
        "spec.rules[0].filters[1]: type CORS appears twice",
    ),
    (ROUTE + "{rules: [{timeouts: {request: 1.5s}}]}", "timeouts.request: '1.5s' is not a duration"),
    (ROUTE + "{rules: [{timeouts: {request: 1s, backendRequest: 2s}}]}", "backendRequest: must not be longer than request"),
    (
        ROUTE + "{rules: [{filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replacePrefixMatch: /}}}]}]}",
        "replacePrefixMatch goes with type ReplacePrefixMatch, and only with it",
    ),
    (POLICY + "{drain: {timeout: 5s}}", "f:4:7: spec.targetRef: is required"),
    (POLICY + f"{{{TARGET}}}", "spec: needs weights, healthCheck, outlierDetection, slowStart or drain"),
    (
        POLICY + "{targetRef: {kind: Gateway, name: web}, drain: {timeout: 5s}}",
        "targetRef.kind: must be 'Service', not 'Gateway'",
    ),
    (
        POLICY + "{targetRef: {kind: Service, name: web, namespace: pay}, drain: {timeout: 5s}}",
        "f:4:46: spec.targetRef.namespace: unknown field 'namespace'",
    ),
    (
        POLICY + f"{{{TARGET}, healthCheck: {{tcp: {{}}, timeout: 9s}}}}",
        "timeout: a check must not take longer than the interval",
    ),
    (POLICY + f"{{{TARGET}, healthCheck: {{tcp: {{}}, interval: 1h, path: /}}}}", "healthCheck.path: unknown field 'path'"),
    (POLICY + f"{{{TARGET}, slowStart: {{window: 30}}}}", "slowStart.window: must be text, not 30"),
    (POLICY + f"{{{TARGET}, drain: {{timeout: forever}}}}", "drain.timeout: 'forever' is not a duration"),
    (POLICY + f"{{{TARGET}, weights: [{{weight: 2}}]}}", "spec.weights[0]: needs podSelector or addresses, and not both"),
]


@pytest.mark.parametrize(("text", "wanted"), REFUSED)
def test_refused_with_one_clear_line(text: str, wanted: str) -> None:
    found = errors(text)
    assert any(wanted in line for line in found), found


ACCEPTED = [
    GATEWAY
    + f"{{gatewayClassName: c, listeners: [{HTTP}], addresses: [{{type: IPAddress, value: 192.0.2.1}}]}}\nstatus: {{x: 1}}",
    GATEWAY + "{gatewayClassName: c, infrastructure: {labels: {a: b}}, listeners: [{name: a, port: 443, protocol: HTTPS, "
    "hostname: '*.x.org', tls: {certificateRefs: [{name: c}], options: {a.b/c: d}}, "
    "allowedRoutes: {namespaces: {from: Selector, selector: {}}}}]}",
    GATEWAY + "{gatewayClassName: c, listeners: [{name: a, port: 53, protocol: UDP}, {name: b, port: 53, protocol: TCP}]}",
    ROUTE
    + "{parentRefs: [{name: edge, sectionName: http}, {kind: Service, group: '', name: web, port: 80}], hostnames: [a.org]}",
    ROUTE + "{rules: [{name: r, matches: [{path: {type: PathPrefix, value: /a}, headers: [{name: x, value: y, type: Exact}], "
    "method: GET, queryParams: [{name: q, value: v}]}], filters: [{type: RequestMirror, "
    "requestMirror: {backendRef: {name: m, port: 1}, "
    "fraction: {numerator: 1}}}, {type: RequestHeaderModifier, requestHeaderModifier: "
    "{set: [{name: a, value: b}], remove: [c]}}], backendRefs: [{name: web, port: 80, weight: 9, "
    "filters: [{type: URLRewrite, urlRewrite: {hostname: b.org}}]}], "
    "timeouts: {request: 10s, backendRequest: 500ms}, retry: {attempts: 2}}]}",
    ROUTE + "{rules: [{filters: [{type: RequestRedirect, requestRedirect: {scheme: https, port: 443, statusCode: 308}}]}]}",
    ROUTE + "{rules: [{filters: [{type: ExtensionRef, extensionRef: {group: x.org, kind: Thing, name: t}}], backendRefs: []}]}",
    ROUTE
    + "{rules: [{matches: [{path: {type: RegularExpression, value: '.*'}}], backendRefs: [{group: x.org, kind: T, name: t}]}]}",
]


@pytest.mark.parametrize("text", ACCEPTED)
def test_accepted_and_decoded(text: str) -> None:
    assert errors(text) == []
    (loaded,) = validate("f", text)
    assert isinstance(decode(loaded.document), (Gateway, HTTPRoute))


def test_a_service_policy_is_carried_whole() -> None:
    text = POLICY + (
        f"{{{TARGET}, weights: [{{podSelector: {{matchLabels: {{track: canary}}}}, weight: 5}}, "
        "{addresses: [192.0.2.7], weight: 0}], healthCheck: {http: {path: /up, expectedStatuses: [204]}, interval: 1m, "
        "unhealthyThreshold: 1}, outlierDetection: {}, "
        "slowStart: {window: 1m30s}, drain: {timeout: 0s}}"
    )
    (loaded,) = validate("f", text)
    found = decode(loaded.document)
    assert isinstance(found, ServicePolicy)
    canary = selector_from_labels({"track": "canary"})
    assert found.weights == (EndpointWeight(5, canary), EndpointWeight(0, None, ("192.0.2.7",)))
    assert found.health_check == HealthCheck(interval_ms=60_000, unhealthy_threshold=1, path="/up", statuses=(204,))
    assert (found.service, found.outlier_detection, found.drain_ms) == ("web", OutlierDetection(), 0)
    assert found.slow_start is not None and (found.slow_start.window_ms, found.slow_start.min_weight_percent) == (90_000, 10)


def test_a_route_knows_its_parents() -> None:
    (loaded,) = validate("f", ROUTE + "{parentRefs: [{name: edge, namespace: infra}, {kind: Service, name: web}], rules: [{}]}")
    found = decode(loaded.document)
    assert isinstance(found, HTTPRoute) and found.rules == 1
    assert found.parents == (RouteParent("Gateway", "infra", "edge"), RouteParent("Service", "shop", "web"))


def test_what_only_a_newer_version_of_a_service_policy_has_is_told_not_guessed() -> None:
    spec = {"targetRef": {"kind": "Service", "name": "web"}, "healthCheck": {"grpc": {}}}
    with pytest.raises(UserError, match="tcp or http"):
        decode({"kind": "ServicePolicy", "metadata": {"name": "p", "namespace": "shop"}, "spec": spec})


@pytest.mark.parametrize(("text", "length"), [("0s", 0), ("1h30m", 5_400_000), ("1s500ms", 1500), ("00010s", 10_000)])
def test_durations(text: str, length: int) -> None:
    assert milliseconds(text) == length


@pytest.mark.parametrize("text", ["", "5", "-1s", "1.5h", "1d", "123456s", "1h1h1h1h1h", " 1s", "1S"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        milliseconds(text)
