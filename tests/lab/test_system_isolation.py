"""No packet before policy; changes of policy reach established connections; both wiring modes, both families."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.lab.system import container, on_node, policy, service, topology

from fairway_kernel import netns
from fairway_netlab.attach import attach, detach
from fairway_netlab.lab import Lab
from fairway_netlab.matrix import Matrix

pytestmark = pytest.mark.needs_root
LabFactory = Callable[[dict[str, Any]], Lab]


@pytest.mark.parametrize("mode", ["bridge", "routed"])
def test_names_services_and_policy_agree(lab: LabFactory, matrix: Callable[[Lab], Matrix], mode: str) -> None:
    containers = [
        container("front", app="front"),
        container("web-1", port=8080, app="web"),
        container("web-2", port=8080, app="web"),
        container("api-1", "payments", 8080, app="api"),
    ]
    one = lab(topology(mode, containers))
    one.apply([service("web"), service("api", "payments")])
    open_ = matrix(one)
    for protocol in ("TCP", "UDP"):
        for family in (4, 6):
            kind: Any = {"protocol": protocol, "family": family}
            open_.expect_some("front", "web", 80, answered_by=["web-1", "web-2"], **kind)
            open_.expect_some("front", "api.payments", 80, answered_by=["api-1"], **kind)
            open_.expect_some("web-1", "web", 80, answered_by=["web-1", "web-2"], **kind)
            open_.expect_some("front", "web-1", 8080, **kind)
    open_.check()
    one.apply([policy("closed", "payments"), policy("only-web", "payments", podSelector={"matchLabels": {"app": "api"}}, ingress=[
        {"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": 8080}]}
    ])])  # fmt: skip
    closed = matrix(one)
    for family in (4, 6):
        closed.expect_none("front", "api.payments", 80, family=family)
        closed.expect_none("front", "api-1", 8080, family=family)
        closed.expect_some("web-1", "api.payments", 80, family=family, answered_by=["api-1"])
        closed.expect_none("web-1", "api.payments", 80, "UDP", family=family)
        closed.expect_some("front", "web", 80, family=family)
    closed.check()


@pytest.mark.parametrize("mode", ["bridge", "routed"])
def test_a_pod_reaches_itself_through_its_service(lab: LabFactory, matrix: Callable[[Lab], Matrix], mode: str) -> None:
    one = lab(topology(mode, [container("web-1", port=8080, app="web")]))
    one.apply([service("web"), policy("closed", "shop")])
    check = matrix(one)
    for protocol in ("TCP", "UDP"):
        for family in (4, 6):
            kind: Any = {"protocol": protocol, "family": family}
            check.expect_some("web-1", "web", 80, answered_by=["web-1"], **kind)
    check.check()


def test_a_pod_started_under_default_deny_leaks_nothing_in_50_starts(lab: LabFactory) -> None:
    """A neighbour knocks as fast as it can at the address the next pod will get; the pod must never see a packet of it."""
    one = lab(topology(containers=[container("knocker", "evil"), container("first", "shop")]))
    one.apply([policy("closed", "shop")])
    guest = one.station("first")
    detach(one.node(), guest)
    leaked = []
    for _ in range(50):
        leaked.extend(_start_under_fire(one, guest))
    assert leaked == []


def _start_under_fire(one: Lab, guest: Any) -> list[bytes]:
    """Attach the guest while every address it could get is knocked at; what its socket, bound before, receives."""
    inside = netns.run_in(one.netns("first"), lambda: _listener(socket.AF_INET))
    inside6 = netns.run_in(one.netns("first"), lambda: _listener(socket.AF_INET6))
    knocker = netns.run_in(one.netns("knocker"), lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    knocker6 = netns.run_in(one.netns("knocker"), lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    with inside, inside6, knocker, knocker6:
        import threading

        stop = threading.Event()
        thread = threading.Thread(target=_knock, args=(knocker, knocker6, stop))
        thread.start()
        try:
            attach(one.node(), guest)
            time.sleep(0.02)
        finally:
            stop.set()
            thread.join()
        got = [sock.recv(100) for sock in (inside, inside6) if _readable(sock)]
        detach(one.node(), guest)
        return got


def _listener(family: socket.AddressFamily) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(("", 7777))
    sock.setblocking(False)
    return sock


def _readable(sock: socket.socket) -> bool:
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    return True


def _knock(sock: socket.socket, sock6: socket.socket, stop: Any) -> None:
    while not stop.is_set():
        for last in range(2, 70):
            for knocker, address in ((sock, f"10.244.0.{last}"), (sock6, f"fd00:10:244::{last:x}")):
                try:
                    knocker.sendto(b"x", (address, 7777))
                except OSError:
                    continue


def test_the_knocking_would_be_heard_without_a_policy(lab: LabFactory) -> None:
    """The test above can fail: the same knocks get through where nothing forbids them."""
    one = lab(topology(containers=[container("knocker", "evil"), container("first", "shop")]))
    guest = one.station("first")
    detach(one.node(), guest)
    assert any(_start_under_fire(one, guest) for _ in range(5))


def test_a_forbidden_connection_is_cut_and_its_neighbour_lives(lab: LabFactory) -> None:
    one = lab(topology(containers=[container("a", app="a"), container("b", app="b"), container("server", "payments", 8080)]))
    links = {}
    for name in ("a", "b"):
        for family in (4, 6):
            address = (one.address("server", family), 8080)
            links[name, family] = netns.run_in(one.netns(name), lambda address=address: socket.create_connection(address, 5))  # type: ignore[misc]
            assert b"server" in links[name, family].recv(100)
    allow = [{"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "a"}}}]}]
    one.apply([policy("only-a", "payments", ingress=allow)])
    for family in (4, 6):
        links["a", family].sendall(b"ping")
        assert links["a", family].recv(100) == b"ping"
        with pytest.raises(ConnectionResetError):
            for _ in range(20):
                links["b", family].sendall(b"ping")
                time.sleep(0.02)
    for sock in links.values():
        sock.close()


def test_a_connection_opened_while_rules_were_gone_does_not_outlive_their_repair(lab: LabFactory) -> None:
    """What a stranger let in is judged again once the rules are back."""
    one = lab(topology(containers=[container("a", app="a"), container("server", "payments", 8080)]))
    one.apply([policy("closed", "payments")])
    attempts = []
    for _ in range(20):
        # The isolated identities are emptied: until the agent notices, nobody is isolated.
        on_node(one, "nft", "flush", "set", "inet", "fairway", "policy_isolated_ingress")
        try:
            link = netns.run_in(one.netns("a"), lambda: socket.create_connection((one.address("server"), 8080), 1))
        except OSError:
            time.sleep(1.2)
            continue
        attempts.append(link)
        break
    (link,) = attempts
    matrix_closed = Matrix(one).expect_none("a", "server", 8080, family=4)
    matrix_closed.check()
    with link, pytest.raises(ConnectionResetError):
        for _ in range(20):
            link.sendall(b"ping")
            time.sleep(0.05)
