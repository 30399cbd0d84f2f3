"""Containers without a record, or with an old one, are taken over from what the node's kernel says."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.test_cni_attach import Node

from fairway_cni import plan
from fairway_cni.adopt import look, neighbours_of, rebuild
from fairway_cni.alias import SIZE, alias_of, read_alias
from fairway_cni.ipam import AddressPool
from fairway_cni.wires import Kernel
from fairway_core.errors import StoreUnavailable, UserError
from fairway_core.keys import Key
from fairway_core.model import Attachment, Pod
from fairway_kernel.link.objects import FarEnd, InsideState, NodeLinks, ObservedVeth
from fairway_store.api import Put

LABELS = {"K8S_POD_NAMESPACE": "shop", "K8S_POD_NAME": "web", "FAIRWAY_LABELS": "app=web"}
ARGS = ";".join(f"{key}={value}" for key, value in LABELS.items())


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "spool")


async def attached(node: Node, mode: str = "bridge", **env: str) -> Attachment:
    await node.call("ADD", {"mode": mode}, CNI_ARGS=ARGS, **env)
    await node.attacher.drain()
    return node.attachments[0]


def forgetful(node: Node) -> Node:
    """The same node with an agent that knows nothing."""
    return Node(node.spool, links=node.links)


def told(item: Attachment) -> Attachment:
    """What a link tells of an attachment."""
    return replace(item, adopted=True, confirmed=True, pod_declared=False)


@pytest.mark.parametrize("mode", ["bridge", "routed"])
async def test_a_lost_store_costs_no_container(node: Node, mode: str, caplog: pytest.LogCaptureFixture) -> None:
    before = await attached(node, mode)
    links = node.links.read()
    fresh = forgetful(node)
    with caplog.at_level(logging.WARNING):
        await fresh.recoverer.run()
    assert fresh.attachments == [told(before)]
    assert fresh.links.read() == links, "nothing of it was touched"
    (warning,) = caplog.messages
    assert "c1" in warning and "labels" in warning and "host ports" in warning
    pod = fresh.control.world().get(Key("Pod", "shop", "web"))
    assert isinstance(pod, Pod) and pod.ips == before.ips
    assert not await fresh.recoverer.run(), "all is well now"
    fresh.links.add_namespace("/n/2")
    other = await fresh.call("ADD", CNI_CONTAINERID="c2", CNI_NETNS="/n/2")
    assert not {ip["address"].split("/")[0] for ip in other["ips"]} & set(before.ips)
    await fresh.call("CHECK", {"prevResult": {}})
    await fresh.call("DEL", CNI_NETNS="")
    assert [item.container_id for item in fresh.attachments] == ["c2"]
    assert fresh.control.world().get(Key("Pod", "shop", "web")) is None
    assert not fresh.pool.owner_of(before.ips[0])


async def test_labels_of_a_pod_in_the_store_hold_for_who_is_taken_over(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    await attached(node)
    fresh = forgetful(node)
    meta = {"name": "web", "namespace": "shop", "labels": {"app": "vault"}}
    await fresh.control.commit([Put(Key("Pod", "shop", "web"), {"apiVersion": "v1", "kind": "Pod", "metadata": meta})])
    await fresh.recoverer.run()
    pod = fresh.control.world().get(Key("Pod", "shop", "web"))
    assert isinstance(pod, Pod) and pod.meta.labels == {"app": "vault"}
    assert "labels" not in caplog.messages[-1]
    await fresh.call("DEL")
    assert fresh.control.world().get(Key("Pod", "shop", "web")), "its author's"


async def test_what_a_network_says_about_all_its_containers_survives(node: Node) -> None:
    await node.call("ADD", {"ipMasq": False, "searchCompletion": False})
    await node.attacher.drain()
    fresh = forgetful(node)
    await fresh.recoverer.run()
    assert (fresh.attachments[0].masquerade, fresh.attachments[0].search_completion) == (False, False)


async def older(node: Node, changes: dict[str, Any]) -> Node:
    """An agent whose store has an older record of the one attachment."""
    entry = await node.control.entry(node.attachments[0].meta.key("Attachment"))
    assert entry is not None
    fresh = forgetful(node)
    document = {**entry.document, "spec": {**entry.document["spec"], **changes}}
    await fresh.control.commit([Put(entry.key, document)])
    fresh.pool.adopt([(ip, entry.key.name) for ip in fresh.attachments[0].ips])
    fresh.start()
    return fresh


DEAD = plan.Identity("net", "dead", "eth0")
RESTARTED = {"ips": ["10.1.0.5", "fd00::5"], "mac": "0a:58:0a:01:00:05", "netns": "/n/gone", "aliases": ["db"]}


@pytest.mark.parametrize("mode", ["bridge", "routed"])
@pytest.mark.parametrize("changes", [RESTARTED, {**RESTARTED, "bootID": "boot-0"}, {"bootID": "boot-0", "aliases": ["db"]}])
async def test_a_record_older_than_its_link_is_brought_up_to_date(node: Node, mode: str, changes: dict[str, Any]) -> None:
    before = await attached(node, mode)
    fresh = await older(node, changes)
    await fresh.recoverer.run()
    await fresh.recoverer.run()
    assert fresh.attachments == [replace(before, aliases=("db",), confirmed=True)], "what the runtime said still holds"
    assert [ip for ip in RESTARTED["ips"] if fresh.pool.owner_of(ip)] == []
    assert all(fresh.pool.owner_of(ip) for ip in before.ips)
    assert not await fresh.recoverer.run()


async def test_ordinary_drift_is_not_taken_for_an_old_record(node: Node) -> None:
    before = await attached(node)
    node.links.detach("fwb-none", before.ips)
    await node.recoverer.run()
    assert node.attachments == [before]
    assert {ip for ip, _ in node.links.read().routes} == set(before.ips)


async def test_an_address_of_the_dead_goes_to_the_living_that_has_it(node: Node) -> None:
    before = await attached(node)
    entry = await node.control.entry(before.meta.key("Attachment"))
    assert entry is not None
    fresh = forgetful(node)
    spec = {**entry.document["spec"], "containerID": "dead", "hostIfname": "fwb00000000000", "netns": "/n/gone"}
    dead = {**entry.document, "metadata": {"name": DEAD.object_name}, "spec": spec}
    await fresh.control.commit([Put(DEAD.key, dead)])
    fresh.pool.adopt([(ip, DEAD.object_name) for ip in before.ips])
    fresh.start()
    await fresh.recoverer.run()
    assert fresh.attachments == [told(before)]
    assert {ip for ip, _ in fresh.links.read().routes} == set(before.ips), "routes that went with the dead are back"


async def test_of_two_containers_with_one_address_only_the_recorded_stays(node: Node) -> None:
    before = await attached(node)
    fresh = forgetful(node)
    assert fresh.pool.hold(before.ips[0], "somebody")
    await fresh.recoverer.run()
    assert fresh.attachments == []
    assert fresh.links.read().veths == ()
    assert not fresh.pool.owner_of(before.ips[1])


async def test_whom_the_store_cannot_take_is_kept_and_asked_again(node: Node) -> None:
    before = await attached(node)
    fresh = forgetful(node)
    fresh.control.fault = StoreUnavailable("full")
    await fresh.recoverer.run()
    assert (fresh.attachments, len(fresh.links.read().veths), len(fresh.links.read().routes)) == ([], 1, 2)
    fresh.control.fault = None
    await fresh.recoverer.run()
    assert fresh.attachments == [told(before)]


async def test_an_add_that_comes_first_wins(node: Node) -> None:
    before = await attached(node)
    kernel = Kernel(node.links, node.identify, node.flush, node.flushed_ports.extend)
    seen = look([before.host_ifname], node.links.read(), kernel, "boot-1")
    assert await node.attacher.adopt(seen.attachments[before.host_ifname]) == []
    assert node.attachments == [before]
    await node.call("DEL")
    assert await node.attacher.adopt(seen.attachments[before.host_ifname]) == [], "nor is a container there that has gone"
    assert node.attachments == []


async def test_addresses_outside_of_all_pools_stay_taken(node: Node) -> None:
    ranges = {"ranges": [[{"subnet": "10.9.0.0/24"}]]}
    before = await node.call("ADD", {"ipam": ranges})
    fresh = Node(node.spool, links=node.links, pool=AddressPool(["10.1.0.0/29"]))
    await fresh.recoverer.run()
    fresh.links.add_namespace("/n/2")
    other = await fresh.call("ADD", {"ipam": ranges}, CNI_CONTAINERID="c2", CNI_NETNS="/n/2")
    assert other["ips"] != before["ips"]


VETH = ObservedVeth("", 7, "", "fw-net", True, "fe:58:0a:01:00:02", 1400)
INSIDE = InsideState(True, True, "0a:58:0a:01:00:02", 1400, ("10.1.0.2", "10.1.0.99"))
END = FarEnd("/run/netns/a", "eth0", INSIDE)
WHO = plan.Identity("net", "c1", "eth0")


def links(*neighbours: tuple[str, str, str]) -> NodeLinks:
    return NodeLinks(frozenset(), (), (), neighbours, frozenset())


def veth(**changes: Any) -> ObservedVeth:
    return replace(VETH, **{"host_ifname": WHO.host_ifname("bridge"), "alias": "fairway network=net pod=a/b id=c1", **changes})


OWN = ("10.1.0.2", INSIDE.mac, "fw-net")


def test_only_what_the_node_reaches_through_a_link_is_its_containers() -> None:
    foreign = [("10.1.0.99", "0a:58:0a:01:00:63", "fw-net"), ("10.1.0.3", INSIDE.mac, "fw-other")]
    found = rebuild(veth(), END, links(OWN, *foreign), "boot", "4:1")
    assert (found.ips, found.mac, found.ifname, found.mtu, found.boot_id, found.netns_id) == (
        ("10.1.0.2",), INSIDE.mac, "eth0", 1400, "boot", "4:1",
    )  # fmt: skip
    assert neighbours_of(veth(master=None), links(OWN)) == {OWN[:2]}, "a port that has lost its bridge"


@pytest.mark.parametrize(
    ("changes", "end", "neighbours", "reason"),
    [
        ({"alias": "somebody's"}, END, [OWN], "alias"),
        ({"alias": "fairway network=net pod=a/b id=c2"}, END, [OWN], "not that of eth0 of c2"),
        ({}, None, [OWN], "no path"),
        ({}, replace(END, ifname="eth1"), [OWN], "not that of eth1"),
        ({}, replace(END, inside=replace(INSIDE, mac="0a:58:0a:01:00:63")), [OWN], "no address"),
        ({}, END, [], "no address"),
    ],
)
def test_what_is_not_certain_is_not_taken_over(
    changes: dict[str, Any], end: FarEnd | None, neighbours: list[tuple[str, str, str]], reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        rebuild(veth(**changes), end, links(*neighbours), "boot", "4:1")


async def test_aliases_say_what_they_said(node: Node) -> None:
    item = await attached(node)
    said = read_alias(alias_of(item))
    assert said and (said.network, said.pod_namespace, said.pod_name, said.container_id) == ("net", "shop", "web", "c1")
    assert read_alias(alias_of(replace(item, pod_name="p" * SIZE))) is None, "a name that was cut is none"


async def test_where_an_api_server_has_the_pods_none_is_written(node: Node) -> None:
    before = await attached(node)
    fresh = forgetful(node)
    fresh.control.owns_pods = False
    await fresh.recoverer.run()
    assert fresh.attachments == [replace(told(before), pod_declared=True)]
    assert not [line for line in fresh.control.log if "Pod" in line]
