"""Two tenants ask the same server from their containers, over both families: what exists for whom, and what a lookup costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.rcode
import pytest
from tests.lab.system import container, kill_agent, policy, service, topology

from fairway_kernel import netns
from fairway_netlab.lab import Lab
from fairway_netlab.processes import LabError

pytestmark = pytest.mark.needs_root
LabFactory = Callable[[dict[str, Any]], Lab]

V4, V6 = "169.254.20.10", "fd00:53::a"
NAME = "api.payments.svc.cluster.local"


def tenant(name: str, *namespaces: str, **dns: Any) -> dict[str, Any]:
    spec = {"namespaces": list(namespaces), **({"dns": dns} if dns else {})}
    return {"apiVersion": "fairway.dev/v1", "kind": "Tenant", "metadata": {"name": name}, "spec": spec}


def scene(lab: LabFactory, mode: str = "bridge", **dns: Any) -> Lab:
    """`front` of one namespace, `api-1` and `peer` of another, and the service `api`."""
    containers = [container("front", app="front"), container("api-1", "payments", 8080, app="api"), container("peer", "payments")]
    one = lab(topology(mode, containers, config={"dns": {"listen": [V4, V6], **dns}}))
    one.apply([service("api", "payments")])
    return one


def ask(lab: Lab, who: str, name: str = NAME, rtype: str = "A", server: str = V4, tcp: bool = False) -> dns.message.Message:
    how = dns.query.tcp if tcp else dns.query.udp
    return netns.run_in(lab.netns(who), lambda: how(dns.message.make_query(name, rtype), server, timeout=5))


def exists(lab: Lab, who: str, name: str = NAME) -> bool:
    """Over every way to ask, twice each: whether it does, which all must agree on."""
    rcodes = {ask(lab, who, name, "A", server, tcp).rcode() for server in (V4, V6) for tcp in (False, True) for _ in range(2)}
    assert len(rcodes) == 1, rcodes
    return rcodes == {dns.rcode.NOERROR}


def reverse_of(lab: Lab) -> str:
    address = ask(lab, "api-1").answer[0][0].to_text()
    return ".".join(reversed(address.split("."))) + ".in-addr.arpa"


@pytest.mark.parametrize("mode", ["bridge", "routed"])
def test_a_policy_hides_a_name_from_the_next_answer_on(lab: LabFactory, mode: str) -> None:
    one = scene(lab, mode, visibility="policy")
    assert exists(one, "front")
    for _ in range(3):
        one.apply([policy("closed", "payments")])
        assert not exists(one, "front")
        assert exists(one, "api-1"), "what a pod answers for itself"
        assert not exists(one, "peer")
        assert exists(one, "n1"), "the node sees everything"
        assert ask(one, "front", reverse_of(one), "PTR").rcode() == dns.rcode.NXDOMAIN
        assert not exists(one, "front", "payments.svc.cluster.local")
        assert one.exec("front", ["getent", "hosts", "api.payments"]).returncode == 2
        open_ = {"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "front"}}}]}
        one.apply([policy("closed", "payments", policyTypes=["Ingress"], ingress=[open_])])
        assert exists(one, "front")
        assert not exists(one, "peer")
        assert ask(one, "front", reverse_of(one), "PTR").answer[0][0].to_text() == f"{NAME}."


def test_names_of_a_tenant_are_its_own_unless_it_exports_them(lab: LabFactory) -> None:
    one = scene(lab, visibility="tenant")
    assert exists(one, "front")
    one.apply([tenant("acme", "shop"), tenant("beta", "payments")])
    assert (exists(one, "front"), exists(one, "peer"), exists(one, "n1")) == (False, True, True)
    one.apply([tenant("beta", "payments", exports=[{"services": ["api"], "namespaces": ["payments"]}])])
    assert exists(one, "front")
    one.apply([tenant("beta", "payments")])
    assert not exists(one, "front")
    kill_agent(one)
    assert not exists(one, "front"), "the worker knows without the agent"
    one.start_agent()
    one.apply([])
    assert not exists(one, "front")
    with pytest.raises(LabError, match="namespace shop would belong to Tenant/acme and Tenant/beta"):
        one.apply([tenant("beta", "payments", "shop")])


def sent(lab: Lab, who: str) -> int:
    """Datagrams that left a container so far, over both families."""

    def count() -> int:
        lines = [line.split() for line in Path("/proc/thread-self/net/snmp").read_text().splitlines() if line.startswith("Udp:")]
        names, values = lines
        six = dict(line.split() for line in Path("/proc/thread-self/net/snmp6").read_text().splitlines())
        return int(values[names.index("OutDatagrams")]) + int(six["Udp6OutDatagrams"])

    return netns.run_in(lab.netns(who), count)


def datagrams(lab: Lab, who: str, database: str, name: str) -> tuple[int, str]:
    before = sent(lab, who)
    out = lab.exec(who, ["getent", database, name], check=True).stdout
    return sent(lab, who) - before, out


HOSTS: Mapping[str, list[str]] = {"www.example.com": ["192.0.2.7", "2001:db8::7"], "only4.example.com": ["192.0.2.8"]}


def test_a_lookup_of_a_foreign_name_takes_one_query(lab: LabFactory) -> None:
    one = scene(lab, hosts=HOSTS)
    for _ in range(2):
        count, out = datagrams(one, "front", "ahostsv4", "www.example.com")
        assert "192.0.2.7" in out
        assert count == 1
        count, out = datagrams(one, "front", "ahosts", "only4.example.com")
        assert "192.0.2.8" in out
        assert count == 2, "one of each family"
    count, out = datagrams(one, "front", "ahostsv4", "api.payments")
    assert count == 1
    one.exec("front", ["getent", "ahostsv4", "api.payments.svc.cluster.local"], check=True)
    assert one.exec("front", ["getent", "ahostsv4", "no.example.invalid"]).returncode == 2


def test_without_completion_it_takes_four(lab: LabFactory) -> None:
    one = scene(lab, hosts=HOSTS, completion=False)
    assert datagrams(one, "front", "ahostsv4", "www.example.com")[0] == 4
