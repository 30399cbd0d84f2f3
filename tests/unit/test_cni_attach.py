"""ADD, DEL, CHECK, GC, STATUS and recovery over fake links and a memory store."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fairway_cni import faults
from fairway_cni.attach import Attacher
from fairway_cni.fake import FakeControl
from fairway_cni.faults import CniError
from fairway_cni.handler import CniHandler
from fairway_cni.ipam import AddressPool
from fairway_cni.plan import Identity, NodeFacts
from fairway_cni.protocol import parse
from fairway_cni.recover import Recoverer
from fairway_cni.spool import Spool, record_name
from fairway_cni.wires import Kernel
from fairway_core.errors import KernelError, StoreUnavailable
from fairway_core.keys import Key
from fairway_core.model import Attachment, HostPort
from fairway_kernel.link.fake import FakeLinks
from fairway_kernel.link.objects import Veth
from fairway_store.api import Put, Write

LOG = logging.getLogger("test")
FACTS = NodeFacts("node-1", "boot-1", "host", nameservers=("169.254.20.10",))


@dataclass
class Node:
    """A node with everything fake, and a runtime's way to call the plugin."""

    spool: Path
    control: FakeControl = field(default_factory=FakeControl)
    links: FakeLinks = field(default_factory=FakeLinks)
    pool: AddressPool = field(default_factory=lambda: AddressPool(["10.1.0.0/29", "fd00::/64"]))
    flushed: list[str] = field(default_factory=list)
    flushed_ports: list[HostPort] = field(default_factory=list)
    reused: dict[str, str] = field(default_factory=dict)
    facts: NodeFacts = FACTS

    def __post_init__(self) -> None:
        self.links.add_namespace("/n/1")
        self.start()

    def start(self) -> None:
        """A fresh agent over the same store and kernel."""
        kernel = Kernel(self.links, self.identify, self.flush, self.flushed_ports.extend)
        store = Spool(self.spool, LOG)
        self.attacher = Attacher(self.control, kernel, self.pool, self.facts, store, LOG, confirm_after=0)
        self.recoverer = Recoverer(self.control, kernel, self.attacher, store, LOG)
        self.handler = CniHandler(self.attacher, LOG)

    def identify(self, path: str) -> str:
        if path == "/proc/1/ns/net":
            return "host"
        self.links.inside(path, "none")
        return self.reused.get(path, f"4:{path}")

    def flush(self, ips: Sequence[str]) -> None:
        self.flushed += ips

    async def call(self, command: str, conf: dict[str, Any] | None = None, **env: str) -> Any:
        """The document of a success; CniError as the runtime sees it otherwise."""
        answer = await self.handler.handle(call_body(command, conf, **env))
        if command == "DEL":
            await self.attacher.settle()
        document = json.loads(answer.body) if answer.body else None
        if answer.exit_code:
            raise CniError(document["code"], document["msg"], document.get("details", ""))
        return document

    @property
    def attachments(self) -> list[Attachment]:
        return self.control.world().attachments()


def call_body(command: str, conf: dict[str, Any] | None = None, **env: str) -> bytes:
    base = {"cniVersion": "1.1.0", "name": "net", "type": "fairway", **(conf or {})}
    variables = {"CNI_COMMAND": command, "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_NETNS": "/n/1", **env}
    head = b"".join(f"{key}={value}".encode() + b"\0" for key, value in variables.items())
    return head + b"\0" + json.dumps(base).encode()


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "spool")


async def failing(node: Node, code: int, command: str, conf: dict[str, Any] | None = None, **env: str) -> CniError:
    with pytest.raises(CniError) as caught:
        await node.call(command, conf, **env)
    assert caught.value.code == code, caught.value
    return caught.value


def clean(node: Node) -> bool:
    """Nothing of any attachment anywhere."""
    state = node.links.read()
    used = sum(used for used, _size in node.pool.counts().values())
    return not (node.attachments or node.control.world().pods() or state.veths or state.routes or state.neighbours or used)


async def test_add_declares_then_wires_then_confirms(node: Node) -> None:
    result = await node.call("ADD", CNI_ARGS="K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;FAIRWAY_LABELS=app=web")
    (attachment,) = node.attachments
    pod = node.control.world().pod("shop", "web-1")
    assert pod is not None
    assert (pod.ips, pod.ready, pod.node_name, dict(pod.meta.labels)) == (attachment.ips, True, "node-1", {"app": "web"})
    assert [ip["address"] for ip in result["ips"]] == ["10.1.0.2/32", "fd00::2/128"]
    assert result["interfaces"][2]["mac"] == "0a:58:0a:01:00:02"
    assert result["dns"]["search"][0] == "shop.svc.cluster.local"
    link = attachment.host_ifname
    assert node.links.calls == [("ensure_bridge", "fw-net"), ("prepare", link), ("connect", link)]
    await node.attacher.drain()
    assert node.attachments[0].confirmed
    alias = node.links.read().veths[0].alias
    assert alias == "fairway network=net pod=shop/web-1 id=c1"


async def test_nothing_is_connected_before_the_rules_are_live(node: Node) -> None:
    node.control.late = True
    await failing(node, faults.TRY_LATER, "ADD")
    assert "connect" not in [name for name, _ in node.links.calls]
    assert clean(node)


async def test_a_link_is_connected_after_both_rules_and_pair_whoever_is_first(node: Node) -> None:
    """Rules that come late do not find an open link, and a pair that comes late is not connected half made."""
    events: list[str] = []
    commit, prepare, connect = node.control.commit, node.links.prepare, node.links.connect

    async def slow_commit(writes: Sequence[Write]) -> int:
        revision = await commit(writes)
        await asyncio.sleep(0.05)
        events.append("live")
        return revision

    def noted(name: str, work: Callable[[Veth], Any], pause: float) -> Callable[[Veth], Any]:
        def do(veth: Veth) -> Any:
            time.sleep(pause)
            events.append(name)
            return work(veth)

        return do

    for pause in (0, 0.1):
        events.clear()
        node.control.commit = slow_commit  # type: ignore[method-assign]
        node.links.prepare = noted("prepare", prepare, pause)  # type: ignore[method-assign]
        node.links.connect = noted("connect", connect, 0)  # type: ignore[method-assign]
        await node.call("ADD")
        assert events[2:] == ["connect"] and set(events[:2]) == {"live", "prepare"}
        await node.call("DEL")


async def test_recovery_leaves_alone_what_an_add_is_making(node: Node) -> None:
    made, go_on = threading.Event(), threading.Event()
    connect = node.links.connect

    def slow(veth: Veth) -> None:
        made.set()
        go_on.wait(5)
        connect(veth)

    node.links.connect = slow  # type: ignore[method-assign]
    adding = asyncio.create_task(node.call("ADD"))
    await asyncio.to_thread(made.wait, 5)
    assert not await node.recoverer.run()
    go_on.set()
    await adding
    assert node.links.read().veths[0].up


@pytest.mark.parametrize("mode", ["bridge", "routed"])
async def test_del_takes_everything_away_any_number_of_times(node: Node, mode: str) -> None:
    await node.call("ADD", {"mode": mode})
    for env in ({"CNI_NETNS": ""}, {}, {"CNI_NETNS": "/gone"}):
        await node.call("DEL", {"mode": "routed"}, **env)
        assert clean(node)
    assert node.flushed == ["10.1.0.2", "fd00::2"]
    await node.attacher.drain()
    assert clean(node)


async def test_del_of_the_unknown_removes_a_link_of_that_key(node: Node) -> None:
    await node.call("ADD")
    forgotten = Node(node.spool, links=node.links)
    await forgotten.call("DEL")
    assert not node.links.read().veths


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EEXIST, errno.ENOENT])
async def test_a_failed_wiring_leaves_nothing_and_a_retry_works(node: Node, number: int) -> None:
    node.links.fail_next = number
    await failing(node, faults.EXISTS if number == errno.EEXIST else faults.WIRING, "ADD")
    assert clean(node)
    await node.call("ADD")


@pytest.mark.parametrize("step", ["prepare", "connect"])
async def test_a_cancelled_add_leaves_nothing(node: Node, step: str) -> None:
    real, started, go_on = getattr(node.links, step), threading.Event(), threading.Event()

    def slow(veth: Veth) -> Any:
        started.set()
        go_on.wait(5)
        return real(veth)

    setattr(node.links, step, slow)
    adding = asyncio.create_task(node.call("ADD"))
    await asyncio.to_thread(started.wait, 5)
    adding.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await adding
    assert clean(node)


async def test_an_interface_of_somebody_else_is_an_error(node: Node) -> None:
    node.links.add_namespace("/n/taken", "eth0")
    error = await failing(node, faults.EXISTS, "ADD", CNI_NETNS="/n/taken")
    assert "eth0" in error.message
    assert clean(node)


async def test_a_bridge_that_vanished_is_made_again(node: Node) -> None:
    await node.call("ADD")
    node.links.lose("fw-net")
    node.links.add_namespace("/n/2")
    await node.call("ADD", CNI_CONTAINERID="c2", CNI_NETNS="/n/2")
    assert "fw-net" in node.links.read().bridges


async def test_add_for_a_live_attachment_is_an_error_even_before_it_is_confirmed(node: Node) -> None:
    await node.call("ADD")
    await failing(node, faults.EXISTS, "ADD")
    await node.attacher.drain()
    await failing(node, faults.EXISTS, "ADD")
    assert len(node.attachments) == 1


async def test_add_over_a_dead_attachment_starts_again(node: Node) -> None:
    await node.call("ADD")
    await node.attacher.drain()
    node.links.remove_namespace("/n/1")
    node.links.add_namespace("/n/2")
    await node.call("ADD", CNI_NETNS="/n/2")
    (attachment,) = node.attachments
    assert attachment.netns == "/n/2"
    assert attachment.ips[0] == "10.1.0.3"


async def test_add_over_a_reused_path_starts_again(node: Node) -> None:
    await node.call("ADD")
    await node.attacher.drain()
    node.links.remove_namespace("/n/1")
    node.links.add_namespace("/n/1")
    node.reused["/n/1"] = "4:other"
    await node.call("ADD")
    assert node.attachments[0].netns_id == "4:other"


async def test_an_unconfirmed_attachment_of_a_former_agent_is_redone(node: Node) -> None:
    await node.call("ADD")
    attachment = node.attachments[0]
    await node.attacher.drain()
    await node.control.commit([Put(attachment.meta.key("Attachment"), await unconfirmed(node, attachment))])
    node.start()
    await node.call("ADD")
    assert len(node.links.read().veths) == len(node.attachments) == 1


async def unconfirmed(node: Node, attachment: Attachment) -> dict[str, Any]:
    entry = await node.control.entry(attachment.meta.key("Attachment"))
    assert entry is not None
    return {**entry.document, "spec": {**entry.document["spec"], "confirmed": False}}


async def test_del_during_add_waits_and_wins(node: Node) -> None:
    adding = asyncio.create_task(node.call("ADD"))
    await asyncio.sleep(0)
    await asyncio.gather(node.call("DEL"), adding)
    await node.attacher.drain()
    assert clean(node)


async def test_many_at_once_get_different_addresses(node: Node) -> None:
    node.pool = AddressPool(["10.1.0.0/24"])
    node.start()
    for number in range(40):
        node.links.add_namespace(f"/m/{number}")
    calls = [node.call("ADD", CNI_CONTAINERID=f"m{number}", CNI_NETNS=f"/m/{number}") for number in range(40)]
    results = await asyncio.gather(*calls)
    assert len({result["ips"][0]["address"] for result in results}) == 40
    assert node.links.calls.count(("ensure_bridge", "fw-net")) == 1


async def test_the_hosts_own_namespace_and_none_are_refused(node: Node) -> None:
    await failing(node, faults.HOST_NAMESPACE, "ADD", CNI_NETNS="/proc/1/ns/net")
    await failing(node, faults.ENVIRONMENT, "ADD", CNI_NETNS="/n/none")
    assert clean(node)


async def test_addresses_and_exhaustion(node: Node) -> None:
    for number in range(5):
        node.links.add_namespace(f"/n/{number}")
        await node.call("ADD", CNI_CONTAINERID=f"x{number}", CNI_NETNS=f"/n/{number}")
    error = await failing(node, faults.ADDRESS, "ADD")
    assert "10.1.0.0/29: 5 of 5 in use" in str(error)
    await failing(node, faults.LIMITED, "STATUS")
    await failing(node, faults.ADDRESS, "ADD", CNI_ARGS="IP=10.1.0.3")
    await failing(node, faults.ADDRESS, "ADD", {"runtimeConfig": {"ips": ["192.0.2.1"]}})


@pytest.fixture
def slow_links(node: Node, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """One address in the pool, and links that go only when the event is set."""
    node.pool = AddressPool(["10.1.0.0/30"])
    node.start()
    node.links.add_namespace("/n/2")
    detach, going = node.links.detach, threading.Event()

    def slowly(host_ifname: str, ips: Sequence[str]) -> None:
        going.wait(5)
        detach(host_ifname, ips)

    monkeypatch.setattr(node.links, "detach", slowly)
    return going


async def waits_for_the_address(node: Node, going: threading.Event) -> None:
    adding = asyncio.create_task(node.call("ADD", CNI_CONTAINERID="c2", CNI_NETNS="/n/2"))
    await asyncio.sleep(0.05)
    assert not adding.done()
    going.set()
    assert (await adding)["ips"][0]["address"] == "10.1.0.2/32"


async def test_the_last_address_on_its_way_back_is_waited_for(node: Node, slow_links: threading.Event) -> None:
    await node.call("ADD")
    assert (await node.handler.handle(call_body("DEL"))).exit_code == 0
    await waits_for_the_address(node, slow_links)


async def test_an_address_whose_traces_are_being_removed_is_waited_for(node: Node, slow_links: threading.Event) -> None:
    removing = asyncio.create_task(node.attacher.drop_stray("10.1.0.2"))
    await asyncio.sleep(0)
    await waits_for_the_address(node, slow_links)
    assert await removing == []
    assert node.flushed == ["10.1.0.2"]


async def test_a_store_that_is_away_is_try_later_and_leaks_nothing(node: Node) -> None:
    node.control.fault = StoreUnavailable("disk full")
    await failing(node, faults.TRY_LATER, "ADD")
    node.control.fault = None
    assert clean(node)
    await node.call("ADD")
    node.control.fault = StoreUnavailable("disk full")
    await failing(node, faults.TRY_LATER, "DEL")
    assert node.pool.owner_of(node.attachments[0].ips[0])
    node.control.fault = None
    await node.call("DEL")
    await node.attacher.drain()
    assert clean(node)


async def declare_pod(node: Node) -> None:
    document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"app": "declared"}},
        "spec": {"containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
    }
    await node.control.commit([Put(Key("Pod", "shop", "web-1"), document)])


POD = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1"


async def test_a_declared_pod_keeps_what_its_author_wrote_and_outlives_the_container(node: Node) -> None:
    await declare_pod(node)
    await node.call("ADD", CNI_ARGS=f"{POD};FAIRWAY_LABELS=app=other,tier=front")
    pod = node.control.world().pod("shop", "web-1")
    assert pod is not None
    assert dict(pod.meta.labels) == {"app": "declared", "tier": "front"}
    assert pod.ports[0].port == 8080
    assert pod.ready
    await node.call("DEL")
    pod = node.control.world().pod("shop", "web-1")
    assert pod is not None
    assert (pod.ips, pod.ready, pod.node_name) == ((), False, "")


async def test_the_newest_attachment_has_the_pod_and_hands_it_back(node: Node) -> None:
    node.links.add_namespace("/n/2")
    await node.call("ADD", CNI_ARGS=POD)
    await node.call("ADD", CNI_ARGS=POD, CNI_CONTAINERID="c2", CNI_NETNS="/n/2")

    def ips() -> tuple[str, ...]:
        pod = node.control.world().pod("shop", "web-1")
        return pod.ips if pod else ()

    assert ips()[0] == "10.1.0.3"
    await node.call("DEL", CNI_CONTAINERID="c2")
    assert ips()[0] == "10.1.0.2"
    await node.call("ADD", CNI_ARGS=POD, CNI_CONTAINERID="c2", CNI_NETNS="/n/2")
    await node.call("DEL")
    assert ips()[0] == "10.1.0.4"
    await node.call("DEL", CNI_CONTAINERID="c2")
    assert ips() == ()
    assert clean(node)


async def test_a_pod_written_meanwhile_is_read_again(node: Node) -> None:
    real = node.control.entry
    races = 2

    async def racing(key: Key) -> Any:
        nonlocal races
        entry = await real(key)
        if races:
            races -= 1
            await declare_pod(node)
            await node.control.commit([Put(key, {**(await real(key)).document, "x": races})])  # type: ignore[union-attr]
        return entry

    node.control.entry = racing  # type: ignore[method-assign]
    await node.control.store.commit([Put(Key("Pod", "shop", "web-1"), {"metadata": {"name": "web-1", "namespace": "shop"}})])
    await node.call("ADD", CNI_ARGS=POD)
    pod = node.control.world().pod("shop", "web-1")
    assert pod is not None
    assert pod.meta.labels["app"] == "declared"


async def test_check_names_every_difference(node: Node) -> None:
    await failing(node, faults.MISMATCH, "CHECK", {"prevResult": {}})
    result = await node.call("ADD")
    await node.call("CHECK", {"prevResult": result})
    await failing(node, faults.CONFIG, "CHECK")
    other = {**result, "ips": [{"address": "192.0.2.9/32"}]}
    assert "192.0.2.9" in str(await failing(node, faults.MISMATCH, "CHECK", {"prevResult": other}))
    node.links.lose("fw-net")
    assert "port of None" in str(await failing(node, faults.MISMATCH, "CHECK", {"prevResult": result}))
    node.links.lose(node.attachments[0].host_ifname)
    error = await failing(node, faults.MISMATCH, "CHECK", {"prevResult": result})
    assert "eth0 in the container is missing" in str(error)
    assert "missing on the node" in str(error)
    await failing(node, faults.MISMATCH, "CHECK", {"prevResult": result}, CNI_NETNS="/n/none")


async def test_gc_removes_what_is_not_listed_of_its_network_only(node: Node) -> None:
    for number in range(1, 4):
        node.links.add_namespace(f"/n/{number}")
        await node.call("ADD", {"name": "other"} if number == 3 else None, CNI_CONTAINERID=f"c{number}", CNI_NETNS=f"/n/{number}")
    await failing(node, faults.CONFIG, "GC")
    assert len(node.attachments) == 3
    await node.call("GC", {"cni.dev/valid-attachments": [{"containerID": "c2", "ifname": "eth0"}]})
    assert [item.container_id for item in node.attachments] == ["c2", "c3"]
    await node.call("GC", {"cni.dev/valid-attachments": []})
    assert [item.container_id for item in node.attachments] == ["c3"]


async def test_gc_goes_on_after_an_error(node: Node) -> None:
    for number in range(3):
        node.links.add_namespace(f"/n/{number}")
        await node.call("ADD", CNI_CONTAINERID=f"c{number}", CNI_NETNS=f"/n/{number}")
    bad = node.attachments[0].host_ifname
    real = node.links.detach

    def refusing(host_ifname: str, ips: Sequence[str]) -> None:
        if host_ifname == bad:
            raise KernelError(errno.EBUSY, "delete")
        real(host_ifname, ips)

    node.links.detach = refusing  # type: ignore[method-assign]
    await failing(node, faults.WIRING, "GC", {"cni.dev/valid-attachments": []})
    assert [item.host_ifname for item in node.attachments] == [bad]
    assert node.pool.owner_of(node.attachments[0].ips[0])


async def test_status_follows_the_agent(node: Node) -> None:
    await node.call("STATUS")
    node.control.reason = "nft is not programmed yet"
    assert "nft" in str(await failing(node, faults.NOT_AVAILABLE, "STATUS"))
    await failing(node, faults.TRY_LATER, "ADD")
    await node.call("DEL")


async def test_recovery_after_a_reboot_releases_everything(node: Node) -> None:
    await node.call("ADD")
    await node.attacher.drain()
    node.links.remove_namespace("/n/1")
    node.facts = NodeFacts("node-1", "boot-2", "host")
    node.start()
    await node.recoverer.run()
    assert clean(node)


async def test_recovery_puts_back_links_ports_and_bridges(node: Node) -> None:
    node.links.add_namespace("/n/2")
    await node.call("ADD")
    await node.call("ADD", {"mode": "routed"}, CNI_CONTAINERID="c2", CNI_NETNS="/n/2")
    await node.attacher.drain()
    before = node.links.read()
    for name in ("fw-net", *(veth.host_ifname for veth in before.veths if veth.master is None)):
        node.links.lose(name)
    node.start()
    assert await node.recoverer.run()
    after = node.links.read()
    assert (after.bridges, after.routes, after.neighbours) == (before.bridges, before.routes, before.neighbours)
    assert [(veth.host_ifname, veth.master, veth.up) for veth in after.veths] == [
        (veth.host_ifname, veth.master, True) for veth in before.veths
    ]
    assert not await node.recoverer.run()


async def test_an_unused_bridge_goes_after_a_while_and_no_used_one(node: Node) -> None:
    await node.call("ADD")
    await node.call("ADD", {"name": "other"}, CNI_IFNAME="eth1")
    await node.attacher.drain()
    await node.call("DEL")
    assert not await node.recoverer.run(), "it is no fault"
    assert node.links.read().bridges == {"fw-net", "fw-other"}, "the next container may come soon"
    hasty = Recoverer(
        node.control,
        Kernel(node.links, node.identify, node.flush, lambda _ports: None),
        node.attacher,
        Spool(node.spool, LOG),
        LOG,
        0,
    )
    await hasty.run()
    assert node.links.read().bridges == {"fw-other"}
    await node.call("ADD")
    await node.attacher.drain()
    await hasty.run()
    assert node.links.read().bridges == {"fw-net", "fw-other"}


async def test_recovery_removes_orphans_and_strays_but_not_the_living(node: Node) -> None:
    node.links.add_namespace("/n/2")
    await node.call("ADD")
    await node.call("ADD", CNI_CONTAINERID="c2", CNI_NETNS="/n/2")
    await node.attacher.drain()
    lost = node.attachments[0]
    fresh = Node(node.spool, links=node.links)
    entry = await node.control.entry(node.attachments[1].meta.key("Attachment"))
    assert entry is not None
    await fresh.control.commit([Put(entry.key, entry.document)])
    fresh.pool.adopt([(ip, entry.key.name) for ip in fresh.attachments[0].ips])
    # A deletion that was cut short.
    node.links.unplug(lost.host_ifname, (), lost.netns, lost.ifname)
    await fresh.recoverer.run()
    await fresh.recoverer.run()
    state = fresh.links.read()
    assert [veth.host_ifname for veth in state.veths] == [fresh.attachments[0].host_ifname]
    assert not {ip for ip, _ in state.routes} & set(lost.ips)
    assert not fresh.pool.owner_of(lost.ips[0])
    assert not await fresh.recoverer.run()


async def test_recovery_ends_an_add_that_never_ended_and_keeps_one_whose_answer_was_given(node: Node) -> None:
    await node.call("ADD")
    await node.attacher.drain()
    attachment = node.attachments[0]
    document = await unconfirmed(node, attachment)
    await node.control.commit([Put(attachment.meta.key("Attachment"), document)])
    node.start()
    await node.recoverer.run()
    assert len(node.attachments) == 1
    node.links.lose(attachment.host_ifname)
    await node.recoverer.run()
    assert clean(node)


async def test_a_link_lost_right_after_its_add_is_made_anew(node: Node) -> None:
    """The store does not know yet that the ADD has succeeded, but the agent does."""
    node.attacher._records._confirm_after = 60
    await node.call("ADD")
    attachment = node.attachments[0]
    assert not attachment.confirmed
    node.links.lose(attachment.host_ifname)
    await node.recoverer.run()
    assert [veth.host_ifname for veth in node.links.read().veths] == [attachment.host_ifname]
    assert len(node.attachments) == 1


async def test_the_address_of_a_link_that_will_not_go_is_not_given_away(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    await node.call("ADD")
    ips = node.attachments[0].ips

    def refuse(host_ifname: str, addresses: Sequence[str]) -> None:
        raise KernelError(errno.EBUSY, "delete link")

    monkeypatch.setattr(node.links, "detach", refuse)
    await node.call("DEL")
    await node.attacher.settle()
    assert all(node.pool.owner_of(ip) for ip in ips)


async def test_an_attachment_taken_for_dead_too_early_is_left_alone(node: Node) -> None:
    """Recovery may look while an ADD is under way and act after it has ended."""
    await node.call("ADD")
    assert await node.attacher.bury(node.attachments[0]) == []
    assert len(node.attachments) == 1
    node.links.lose(node.attachments[0].host_ifname)
    assert await node.attacher.bury(node.attachments[0]) == []
    assert clean(node)


def keep(node: Node, body: bytes) -> Path:
    request = parse(body)
    path = node.spool / record_name(Identity(request.config.name, request.container_id, request.ifname))
    node.spool.mkdir(exist_ok=True)
    path.write_bytes(body)
    return path


async def test_a_spooled_deletion_is_replayed_once(node: Node) -> None:
    await node.call("ADD")
    path = keep(node, call_body("DEL", CNI_NETNS=""))
    (node.spool / "broken.del").write_bytes(b"junk")
    node.start()
    assert await node.recoverer.replay() == 1
    await node.attacher.settle()
    assert clean(node)
    assert not path.exists()
    assert (node.spool / "broken.bad").exists()


async def test_a_spooled_deletion_does_not_meet_the_next_container_of_that_name(node: Node) -> None:
    await node.call("ADD")
    await node.attacher.drain()
    path = keep(node, call_body("DEL"))
    node.links.remove_namespace("/n/1")
    node.links.add_namespace("/n/2")
    await node.call("ADD", CNI_NETNS="/n/2")
    assert not path.exists()
    assert await node.recoverer.replay() == 0
    assert node.attachments[0].netns == "/n/2"


async def test_an_add_after_a_spooled_deletion_replaces_the_living(node: Node) -> None:
    await node.call("ADD")
    await node.attacher.drain()
    keep(node, call_body("DEL"))
    await node.call("ADD")
    assert len(node.attachments) == len(node.links.read().veths) == 1


async def test_a_replay_that_fails_is_kept(node: Node) -> None:
    await node.call("ADD")
    path = keep(node, call_body("DEL"))
    node.control.fault = StoreUnavailable("away")
    assert await node.recoverer.replay() == 0
    assert path.exists()


async def test_the_handler_answers_junk(node: Node) -> None:
    answer = await node.handler.handle(b"junk")
    assert answer.exit_code == 1
    assert json.loads(answer.body)["code"] == faults.IO


async def test_a_pod_has_the_addresses_of_all_its_interfaces(node: Node) -> None:
    """What belongs to no pod is judged by no policy."""
    await node.call("ADD", CNI_ARGS=POD)
    await node.call("ADD", {"name": "second"}, CNI_ARGS=POD, CNI_IFNAME="eth1")

    def ips() -> tuple[str, ...]:
        pod = node.control.world().pod("shop", "web-1")
        return pod.ips if pod else ()

    first, second = (item.ips for item in sorted(node.attachments, key=lambda item: item.ifname))
    assert ips() == (*first, *second), "services send to the first interface"
    await node.call("DEL", CNI_IFNAME="eth0")
    assert ips() == second
    await node.call("ADD", CNI_ARGS=POD)
    assert set(ips()) > set(second) and ips()[-2:] == second
    await node.call("DEL", {"name": "second"}, CNI_IFNAME="eth1")
    assert len(ips()) == 2
    await node.call("DEL")
    assert ips() == () and clean(node)
