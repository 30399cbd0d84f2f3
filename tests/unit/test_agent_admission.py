"""Admission: what users leave out is decided once and kept; what they ask for is theirs or refused."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairway_agent.admission import NODE_PORTS, admit, ranges_from
from fairway_core.codec import decode, key_of
from fairway_core.errors import ExhaustedError, UserError
from fairway_core.world import Change, World

CIDRS = ("10.96.0.0/24", "fd00:10:96::/112")


def service(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"ports": [{"port": 80}], **spec},
    }


def world_of(*stored: dict[str, Any]) -> World:
    return World().apply([Change(key_of(document), decode(document)) for document in stored], 1)[0]


def fresh(*stored: dict[str, Any], cidrs: tuple[str, ...] = CIDRS) -> Any:
    return ranges_from(cidrs, world_of(*stored), ())


def test_a_service_gets_one_address_of_the_first_family() -> None:
    spec = admit(service("web"), None, fresh())["spec"]
    assert len(spec["clusterIPs"]) == 1
    assert ip_address(spec["clusterIP"]) in ip_network(CIDRS[0])


def test_dual_stack_is_asked_for_by_policy_or_families() -> None:
    for extra in ({"ipFamilyPolicy": "PreferDualStack"}, {"ipFamilies": ["IPv6", "IPv4"]}):
        ips = admit(service("web", **extra), None, fresh())["spec"]["clusterIPs"]
        assert sorted(":" in ip for ip in ips) == [False, True]
    assert ":" in admit(service("web", ipFamilies=["IPv6", "IPv4"]), None, fresh())["spec"]["clusterIP"]


def test_a_family_without_range_is_refused() -> None:
    with pytest.raises(UserError, match="IPv6"):
        admit(service("web", ipFamilies=["IPv6"]), None, fresh(cidrs=("10.96.0.0/24",)))
    with pytest.raises(UserError, match="second family"):
        admit(service("web", ipFamilyPolicy="RequireDualStack"), None, fresh(cidrs=("10.96.0.0/24",)))


def test_an_address_is_kept_for_life() -> None:
    stored = admit(service("web"), None, fresh())
    changed = service("web", ports=[{"port": 8080}])
    again = admit(changed, stored, ranges_from(CIDRS, world_of(stored), ()))
    assert again["spec"]["clusterIPs"] == stored["spec"]["clusterIPs"]


def test_a_taken_address_is_refused_and_names_its_holder() -> None:
    stored = admit(service("web", clusterIP="10.96.0.7"), None, fresh())
    with pytest.raises(UserError, match=r"10\.96\.0\.7 belongs to Service/shop/web"):
        admit(service("api", clusterIP="10.96.0.7"), None, fresh(stored))


def test_nobody_is_given_what_another_of_the_same_apply_holds_or_asks_for() -> None:
    ranges = ranges_from(("10.96.0.0/29",), world_of(), ())
    held = [admit(service(name), None, ranges) for name in ("a", "b", "c", "d")]
    asked = service(
        "z", clusterIP=next(f"10.96.0.{n}" for n in range(1, 7) if all(d["spec"]["clusterIP"] != f"10.96.0.{n}" for d in held))
    )
    applied = [service("new"), *(service(d["metadata"]["name"]) for d in held), asked]
    again = ranges_from(("10.96.0.0/29",), world_of(*held), applied)
    before = [None, *held, None]
    ips = [admit(document, old, again)["spec"]["clusterIP"] for document, old in zip(applied, before, strict=True)]
    assert ips[1:5] == [d["spec"]["clusterIP"] for d in held]
    assert len(set(ips)) == 6


def test_an_address_outside_the_range_is_refused() -> None:
    with pytest.raises(UserError, match=r"192\.0\.2\.1 is not in the service range 10\.96\.0\.0/24"):
        admit(service("web", clusterIP="192.0.2.1"), None, fresh())


def test_headless_and_external_names_get_no_address() -> None:
    assert admit(service("db", clusterIP="None"), None, fresh())["spec"]["clusterIPs"] == ["None"]
    assert "clusterIPs" not in admit(service("x", type="ExternalName", externalName="a.example"), None, fresh())["spec"]


def test_node_ports_are_given_kept_and_guarded() -> None:
    stored = admit(service("web", type="NodePort"), None, fresh())
    port = stored["spec"]["ports"][0]["nodePort"]
    assert port in NODE_PORTS
    again = admit(service("web", type="NodePort"), stored, ranges_from(CIDRS, world_of(stored), ()))
    assert again["spec"]["ports"][0]["nodePort"] == port
    with pytest.raises(UserError, match="nodePort"):
        admit(service("api", type="NodePort", ports=[{"port": 1, "nodePort": port}]), None, fresh(stored))


def test_exhaustion_names_the_range() -> None:
    ranges = fresh(cidrs=("10.96.0.0/30",))
    admit(service("a"), None, ranges)
    admit(service("b"), None, ranges)
    with pytest.raises(ExhaustedError, match=r"10\.96\.0\.0/30 is exhausted: 2 of 2"):
        admit(service("c"), None, ranges)


def test_status_survives_an_apply() -> None:
    before = {"kind": "Pod", "metadata": {"name": "p", "namespace": "n"}, "status": {"podIP": "10.0.0.1"}}
    after = admit({"kind": "Pod", "metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}}}, before, fresh())
    assert after["status"] == {"podIP": "10.0.0.1"}


@given(st.lists(st.text("abcdefgh", min_size=1, max_size=6), unique=True, max_size=40))
def test_no_address_or_port_is_given_twice(names: list[str]) -> None:
    ranges = fresh()
    admitted = [admit(service(n, type="NodePort", ipFamilyPolicy="PreferDualStack"), None, ranges) for n in names]
    ips = [ip for document in admitted for ip in document["spec"]["clusterIPs"]]
    ports = [document["spec"]["ports"][0]["nodePort"] for document in admitted]
    assert len(set(ips)) == len(ips) == 2 * len(names)
    assert len(set(ports)) == len(ports)


def test_a_health_check_port_is_given_kept_and_guarded() -> None:
    local = {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
    stored = admit(service("web", **local), None, fresh())
    port = stored["spec"]["healthCheckNodePort"]
    assert port in NODE_PORTS and port != stored["spec"]["ports"][0]["nodePort"]
    assert admit(service("web", **local), stored, fresh(stored))["spec"]["healthCheckNodePort"] == port
    assert "healthCheckNodePort" not in admit(service("web", type="LoadBalancer"), stored, fresh(stored))["spec"]
    with pytest.raises(UserError, match=f"{port}/TCP belongs to Service/shop/web"):
        ranges_from(CIDRS, world_of(stored), [service("api", healthCheckNodePort=port, **local)])
    with pytest.raises(UserError, match="belongs to"):
        ranges_from(CIDRS, world_of(stored), [service("api", type="NodePort", ports=[{"port": 80, "nodePort": port}])])
    other = admit(service("api", **local), None, fresh(stored))
    assert other["spec"]["healthCheckNodePort"] != port
