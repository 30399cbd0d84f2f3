"""What attachments need of a LinkManager beyond wiring: rate limits and being cut off; the fake and the kernel alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from fairway_kernel.link.fake import FakeLinks
from fairway_kernel.link.manager import KernelLinks
from fairway_kernel.link.objects import LinkManager, Shape, Veth
from fairway_kernel.link.shaping import wanted_shapes

SHAPE = Shape(8_000_000, 100_000, 40_000_000_000, 4294967295)


@dataclass(frozen=True)
class Stage:
    links: LinkManager
    container: Callable[[str], str]


@pytest.fixture(params=["fake", pytest.param("kernel", marks=pytest.mark.needs_root)])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    if request.param == "fake":
        fake = FakeLinks()
        yield Stage(fake, lambda hint: fake.add_namespace(f"/ns/{hint}"))
        return
    namespaces = request.getfixturevalue("namespaces")
    real = KernelLinks(namespaces("node"))
    yield Stage(real, namespaces)
    real.close()


def veth(path: str, number: int = 1, shape: Shape = SHAPE) -> Veth:
    ips = (f"10.244.0.{number}", f"fd00::{number}")
    return Veth(
        f"fwr{number:011x}", path, "eth0", f"0a:58:0a:f4:00:{number:02x}", ips, 1500, "a", "02:00:00:00:00:01", shape=shape
    )


def test_limits_are_there_after_attach_and_gone_after_detach(stage: Stage) -> None:
    one = veth(stage.container("a"))
    stage.links.attach(one)
    wanted = tuple(sorted((*place, rate) for place, rate in wanted_shapes(one.host_ifname, SHAPE).items()))
    for _ in range(2):
        found = stage.links.read()
        assert (found.shapes, found.redirectors) == (wanted, {f"fwi{one.host_ifname[3:]}"})
        stage.links.ensure_node_side(one)
    assert [rate for _, _, rate in wanted] == [5_000_000_000, 0, 1_000_000]
    stage.links.detach(one.host_ifname, one.ips)
    assert (stage.links.read().shapes, stage.links.read().redirectors) == ((), frozenset())


def test_what_is_cut_off_frees_its_name_and_is_still_to_be_detached(stage: Stage) -> None:
    path = stage.container("a")
    one, two = veth(path, 1, Shape()), veth(path, 2, Shape())
    stage.links.attach(one)
    assert stage.links.unplug(one.host_ifname, one.ips, path, "eth0")
    found = stage.links.read()
    assert ([item.up for item in found.veths], found.routes, found.neighbours) == ([False], (), ())
    assert not stage.links.inside(path, "eth0").exists
    stage.links.attach(two)
    assert not stage.links.unplug(one.host_ifname, one.ips, path, "eth0"), "that name is another's now"
    assert stage.links.inside(path, "eth0").up
    stage.links.detach(one.host_ifname, one.ips)
    assert [item.host_ifname for item in stage.links.read().veths] == [two.host_ifname]


def test_nothing_is_cut_off_where_nothing_is(stage: Stage) -> None:
    path = stage.container("a")
    assert not stage.links.unplug("fwr00000000001", (), path, "eth0")
    stage.links.attach(veth(path))
    assert not stage.links.unplug("fwr00000000001", (), "/ns/gone", "eth0")
