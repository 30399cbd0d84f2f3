"""Bridges of networks that are not in use any more go; never one that an ADD is just about to use."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fairway_cni import plan
from fairway_cni.plan import Identity, NodeFacts
from fairway_cni.wires import Kernel, Wires
from fairway_core.errors import KernelError
from fairway_core.model import Attachment, Meta
from fairway_kernel import netns
from fairway_kernel.link.manager import KernelLinks
from fairway_kernel.link.objects import Bridge

pytestmark = pytest.mark.needs_root

ROUNDS = 12


def attachment(number: int, path: str) -> Attachment:
    who = Identity("net", f"c{number}", "eth0")
    ip = f"10.244.0.{number + 2}"
    return Attachment(
        meta=Meta(who.object_name), network="net", container_id=who.container_id, ifname="eth0", netns=path,
        pod_namespace="default", pod_name=who.container_id, host_ifname=who.host_ifname("bridge"), ips=(ip,),
        mac=f"0a:58:0a:f4:00:{number:02x}", mode="bridge", mtu=1500, boot_id="b",
    )  # fmt: skip


@pytest.fixture
def links(namespaces: Callable[[str], str]) -> KernelLinks:
    return KernelLinks(namespaces("node"))


def wires_of(links: KernelLinks) -> Wires:
    kernel = Kernel(links, lambda path: str(netns.identity(path)), lambda _ips: None, lambda _ports: None)
    return Wires(kernel, NodeFacts("n", "b", ""))


def test_a_bridge_goes_and_the_next_container_has_it_again(links: KernelLinks, namespaces: Callable[[str], str]) -> None:
    wires, one = wires_of(links), attachment(1, namespaces("c"))
    wires.attach(one)
    assert not wires.drop_bridge("fw-net", lambda: True)
    wires.detach(one)
    assert links.read().bridges == {"fw-net"}
    assert wires.drop_bridge("fw-net", lambda: False)
    assert links.read().bridges == frozenset()
    assert wires.drop_bridge("fw-net", lambda: False), "one that is gone is gone"
    wires.attach(one)
    assert [veth.master for veth in links.read().veths] == ["fw-net"]


def test_a_bridge_of_somebody_else_stays(links: KernelLinks) -> None:
    theirs = Bridge("fw-lan", "02:00:00:00:00:01")
    links.ensure_bridge(theirs)
    wires_of(links).drop_bridge("fw-lan", lambda: False)
    assert links.read().bridges == {"fw-lan"}


def test_containers_that_come_while_it_goes_are_on_it(links: KernelLinks, namespaces: Callable[[str], str]) -> None:
    """One container comes and goes; whenever the world does not have it, the bridge is taken away."""
    wires, one = wires_of(links), attachment(1, namespaces("c"))
    world: set[str] = set()
    dropped, over = [0], threading.Event()

    def drop() -> None:
        while not over.is_set():
            dropped[0] += wires.drop_bridge("fw-net", lambda: bool(world))

    hammer = threading.Thread(target=drop)
    hammer.start()
    try:
        for number in range(ROUNDS):
            again = replace(one, ips=(f"10.244.1.{number}",))
            world.add("net")
            wires.attach(again)
            state = links.read()
            assert [veth.master for veth in state.veths] == [plan.bridge_name("net")], number
            assert (again.ips[0], "fw-net") in state.routes, number
            wires.detach(again)
            world.clear()
    finally:
        over.set()
        hammer.join()
    assert dropped[0]


def test_a_full_bridge_is_named_with_its_remedy(links: KernelLinks, namespaces: Callable[[str], str]) -> None:
    wires = wires_of(links)
    wires.attach(attachment(1, namespaces("c")))
    pairs = "".join(f"link add p{n} type veth peer name q{n}\nlink set p{n} master fw-net\n" for n in range(1022))
    subprocess.run(["ip", "-n", Path(links._netns or "").name, "-b", "-"], input=pairs, text=True, check=True)
    with pytest.raises(KernelError, match=r"EXFULL: a bridge .* 1,023 ports .* routed"):
        wires.attach(attachment(2, namespaces("d")))
