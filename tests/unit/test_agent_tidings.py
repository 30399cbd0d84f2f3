"""What is wrong, told about the object it concerns: problems, pods that cannot be, foreign changes, failed ADDs, gaps."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from tests.unit.agent_rig import Rig, attachment, running_pod, served, service

from fairway_agent.anomalies import PodAnomalies
from fairway_agent.condition import DOWN, UP
from fairway_agent.gaps import Gaps
from fairway_agent.problems import Problems
from fairway_agent.reports import GAP_REASON
from fairway_agent.tidings import OTHER, SORTS, DriftAlarm, ProblemTeller, add_failure, add_reason, incident_of
from fairway_core.clock import FakeClock
from fairway_core.codec import decode
from fairway_core.keys import Key
from fairway_core.world import Change, World
from fairway_store.kubernetes.events import Incident

LOG = logging.getLogger("test")


def world(*documents: dict[str, Any]) -> World:
    changes = [Change(item.meta.key(type(item).__name__), item) for item in map(decode, documents)]
    return World().apply(changes, 1)[0]


def with_uid(document: dict[str, Any], uid: str) -> dict[str, Any]:
    return {**document, "metadata": {**document["metadata"], "uid": uid}}


@pytest.mark.parametrize(
    ("problem", "about", "reason", "shared"),
    [
        ("nft", "Node/n1", "RulesNotInPlace", False),
        ("object:NetworkPolicy/shop/odd", "NetworkPolicy/shop/odd", "NotUnderstood", True),
        ("object:Node/n7", "Node/n7", "NotUnderstood", True),
        ("pod-range:Pod/shop/web-1", "Pod/shop/web-1", "AddressOutsideRange", False),
        ("drift:links", "Node/n1", "ChangedByOthers", False),
        ("peer-range:n7", "Node/n7", "PodCIDRConflict", True),
        ("peer-route:n7", "Node/n1", "NoRouteToNode", False),
        ("tenants:shop", "Namespace/shop", "TenantsDisagree", True),
        ("health-port-claim:shop/web", "Service/shop/web", "HealthPortTaken", True),
        ("health-port:0.0.0.0:10256", "Node/n1", "HealthPortTaken", False),
        ("of:Pod/too/many/parts", "Node/n1", "NetworkProblem", False),
    ],
)
def test_a_problem_is_about_the_object_it_names(problem: str, about: str, reason: str, shared: bool) -> None:
    known = world(with_uid(running_pod("web-1", "10.244.0.2"), "uid-1"))
    found = incident_of(problem, "text", "n1", known)
    assert (str(found.about), found.reason, found.shared) == (about, reason, shared)
    assert found.uid == ("uid-1" if "web-1" in problem else "")


def test_a_problem_that_lasts_is_told_once_each_time() -> None:
    clock, problems, told = FakeClock(), Problems(LOG), list[Incident]()
    teller = ProblemTeller(problems, "n1", World, told.append, clock)

    def after(seconds: float) -> list[str]:
        clock.advance(seconds)
        teller.round()
        return [item.note for item in told]

    problems.report("dns", "no worker answers")
    problems.report("store:Pod", "the API server is away", blocking=False)
    assert after(0) == after(4) == []
    problems.report("dns", "no worker answers from revision 7")
    assert after(1) == after(60) == ["no worker answers from revision 7"]
    problems.clear("dns")
    after(1)
    problems.report("dns", "again")
    after(1)
    assert after(5)[1:] == ["again"]


class Pods:
    """A world whose pods change, and the problems with them."""

    def __init__(self) -> None:
        self.world = World()
        self.problems = Problems(LOG)
        self.anomalies = PodAnomalies("n1", ["10.244.0.0/24"], self.problems)

    def change(self, *documents: dict[str, Any], gone: str = "") -> list[str]:
        changes = [Change(item.meta.key(type(item).__name__), item) for item in map(decode, documents)]
        changes += [Change(Key("Pod", "shop", gone), None)] if gone else []
        before = self.world
        self.world, touched = before.apply(changes, before.revision + 1)
        self.anomalies.follow(before, self.world, touched)
        assert self.problems.blocking() == []
        return sorted(self.problems.open())


def test_two_pods_with_one_address_are_reported_until_one_is_gone() -> None:
    pods = Pods()
    assert pods.change(running_pod("a", "10.244.0.2"), running_pod("b", "10.244.0.3")) == []
    assert pods.change(running_pod("b", "10.244.0.2")) == ["pod-ip:Pod/shop/b"]
    assert "Pod/shop/a both have the address 10.244.0.2" in pods.problems.text("pod-ip:Pod/shop/b")
    assert pods.change(gone="a") == []


def test_a_pod_on_its_way_out_shares_its_address_in_peace() -> None:
    pods, leaving = Pods(), running_pod("a", "10.244.0.2")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    done = running_pod("b", "10.244.0.2")
    done["status"]["phase"] = "Succeeded"
    assert pods.change(leaving, done, running_pod("c", "10.244.0.2")) == []


def test_an_address_of_nobodys_range_is_reported_unless_we_gave_it() -> None:
    pods, other, hosted = Pods(), running_pod("far", "192.168.7.7"), running_pod("host", "192.0.2.1")
    other["spec"]["nodeName"], hosted["spec"]["hostNetwork"] = "n2", True
    assert pods.change(other, hosted) == []
    assert pods.change(running_pod("a", "192.168.7.2")) == ["pod-range:Pod/shop/a"]
    assert pods.change(attachment("b1", "b", "192.168.7.3"), running_pod("b", "192.168.7.3")) == ["pod-range:Pod/shop/a"]
    assert pods.change(running_pod("a", "10.244.0.9")) == []


def test_foreign_changes_that_do_not_end_are_a_problem() -> None:
    clock, problems, counts = FakeClock(), Problems(LOG), {"nft": 100.0}
    alarm = DriftAlarm(lambda: counts, problems, clock)
    alarm.round()
    for _ in range(40):
        clock.advance(10)
        counts = {"nft": counts["nft"] + 1, "links": 3.0}
        alarm.round()
    assert sorted(problems.open()) == ["drift:nft"] and problems.blocking() == []
    for _ in range(70):
        clock.advance(10)
        alarm.round()
    assert problems.open() == {}


def call(command: str = "ADD", args: str = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1") -> bytes:
    given = {"CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "eth0", "CNI_ARGS": args}
    config = {"cniVersion": "1.0.0", "name": "fairway", "type": "fairway"}
    return "".join(f"{key}={value}\0" for key, value in given.items()).encode() + b"\0" + json.dumps(config).encode()


def said(code: int, message: str, details: str = "") -> bytes:
    return json.dumps({"code": code, "msg": message, "details": details}).encode()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (104, "NoAddress"),
        (105, "HostPortTaken"),
        (11, "NetworkNotReady"),
        (7, "NetworkConfiguration"),
        (101, "NetworkSetupFailed"),
    ],
)
def test_a_failed_add_is_told_about_its_pod(code: int, reason: str) -> None:
    known = world(with_uid(running_pod("web-1", "10.244.0.2"), "uid-1"))
    found = add_failure(call(), said(code, "it failed", "really"), known)
    assert found == Incident(Key("Pod", "shop", "web-1"), reason, "it failed: really", "uid-1")


@pytest.mark.parametrize("body", [call("DEL"), call(args=""), b"", b"\xff\0", call(args="K8S_POD_NAME=unknown")])
def test_other_failures_are_nobodys_event(body: bytes) -> None:
    assert add_failure(body, said(104, "x"), world()) is None
    assert add_failure(call(), b"[]", world(running_pod("web-1", "10.244.0.2"))) is None


def test_a_pod_not_seen_yet_is_known_by_its_uid() -> None:
    args = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=new;K8S_POD_UID=u-9"
    found = add_failure(call(args=args), said(11, "later"), world())
    assert found is not None and (found.uid, found.about.name) == ("u-9", "new")


def test_gaps_are_told_once_and_counted() -> None:
    told: list[str] = []
    gaps = Gaps(lambda key, uid, text: told.append(f"{key} {uid} {text.split(':')[1].strip()}"))
    odd = {"kind": "Service", "metadata": {"uid": "u1"}, "spec": {"sessionAffinity": "Cookie"}}
    key = Key("Service", "shop", "web")
    gaps.see(key, odd)
    gaps.see(key, odd)
    gaps.see(Key("Service", "shop", "other"), {"kind": "Service", "spec": {}})
    assert told == ["Service/shop/web u1 spec.sessionAffinity"] and gaps.counts() == {"Service": 1}
    (shown,) = gaps.as_json()
    assert (shown["name"], shown["gaps"][0]["field"]) == ("web", "spec.sessionAffinity")
    gaps.see(key, {"kind": "Service", "spec": {"sessionAffinity": "None"}})
    assert gaps.counts() == {} and gaps.as_json() == []
    gaps.see(key, odd)
    gaps.see(key, None)
    assert len(told) == 2 and gaps.counts() == {}


async def test_the_status_counts_what_is_not_enforced_and_the_node_stays_ready(tmp_path: Path) -> None:
    rig = Rig()
    await rig.put(service("web", sessionAffinity="Cookie"), service("plain"))
    async with served(tmp_path, rig) as api:
        _, status = await api.call("GET", "/v1/status")
    assert status["ready"] and status["problems"] == []
    assert status["unenforced"]["counts"] == {"Service": 1}
    assert status["unenforced"]["objects"][0]["gaps"][0]["field"] == "spec.sessionAffinity"


async def test_an_object_that_is_not_understood_is_left_out_alone() -> None:
    rig = Rig()
    odd = service("odd", ports=[{"port": 80, "protocol": "QUIC"}])
    revision = await rig.put(odd, service("web", clusterIP="10.96.0.9"))
    async with rig.running():
        await rig.settled(revision)
        assert list(rig.problems.open()) == ["object:Service/shop/odd"] and rig.problems.blocking() == []
        assert rig.reconciler.world.service("shop", "web") is not None
        assert rig.reconciler.world.service("shop", "odd") is None


def test_every_reason_is_explained() -> None:
    text = (Path(__file__).parents[2] / "docs/kubernetes.md").read_text()
    reasons = {sort.reason for sort in (*SORTS.values(), OTHER)} | {add_reason({"code": code}) for code in range(200)}
    assert {reason for reason in (*reasons, GAP_REASON, UP, DOWN) if f"`{reason}`" not in text} == set()


def test_every_sort_of_problem_has_a_reason_of_its_own() -> None:
    """Keys are written where problems are reported; a new one must say how it is told."""
    sources = [file.read_text() for file in (Path(__file__).parents[2] / "agent/fairway_agent").glob("*.py")]
    written = {key for text in sources for key in re.findall(r'problems\.report\(\s*f?"([a-z-]+)[:"]', text)}
    assert {"nft", "dns"} <= written
    assert written - {"store"} <= SORTS.keys()
