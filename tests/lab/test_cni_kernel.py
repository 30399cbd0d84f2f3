"""A kernel that lacks what a container asks for. What is missing is asked for under a name that no kernel has."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

import pytest

from fairway_cli import nodecheck
from fairway_cni.faults import as_cni_error
from fairway_core.errors import KernelError
from fairway_kernel import netns, probe
from fairway_kernel.link import shaping
from fairway_kernel.link.manager import KernelLinks
from fairway_kernel.link.objects import Shape, Veth

pytestmark = pytest.mark.needs_root

BOTH = Shape(8_000_000, 0, 8_000_000, 0)
MISSING = pytest.mark.parametrize(
    ("kind", "shape", "words"),
    [
        ("BUCKET", BOTH, "token bucket (tbf, CONFIG_NET_SCH_TBF)"),
        ("REDIRECTOR", Shape(egress_rate=8_000_000), "intermediate device (ifb, CONFIG_IFB)"),
        ("DOOR", BOTH, "ingress discipline (CONFIG_NET_SCH_INGRESS)"),
        ("FILTER", BOTH, "CONFIG_NET_CLS_U32"),
    ],
)


def veth(path: str, shape: Shape, number: int = 1) -> Veth:
    return Veth(
        f"fwr{number:011x}", path, "eth0", "0a:58:0a:f4:00:01", ("10.244.0.1",), 1500, "a", "02:00:00:00:00:01", shape=shape
    )


@MISSING
def test_a_limit_that_the_kernel_cannot_keep_is_refused_by_name(
    namespaces: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, kind: str, shape: Shape, words: str
) -> None:
    node, inside = namespaces("node"), namespaces("c")
    links = KernelLinks(node)
    monkeypatch.setattr(shaping, kind, "fairway-none")
    with pytest.raises(KernelError) as caught:
        links.attach(veth(inside, shape))
    refusal = as_cni_error(caught.value)
    assert (refusal.code, "this kernel has no" in refusal.details, words in refusal.details) == (101, True, True)
    found = links.read()
    assert (found.veths, found.redirectors, found.routes, found.shapes) == ((), frozenset(), (), ())
    assert names(node) == names(inside) == ["lo"]
    links.attach(veth(inside, Shape()))
    assert len(links.read().veths) == 1, "and without a limit it works"
    links.close()


def names(path: str) -> Sequence[str]:

    return netns.run_in(path, lambda: [name for _, name in socket.if_nameindex()])


@MISSING
def test_the_check_of_the_node_names_it(monkeypatch: pytest.MonkeyPatch, kind: str, shape: Shape, words: str) -> None:
    del shape
    monkeypatch.setattr(shaping, kind, "fairway-none")
    failed = [trial for trial in probe.try_links() if trial.error]
    assert [(trial.name, words in trial.error) for trial in failed] == [("rate limits", True)]


def test_the_finding_is_a_warning_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shaping, "BUCKET", "fairway-none")
    monkeypatch.setattr(probe, "try_nft", list)
    (finding,) = [item for item in nodecheck.features() if item.state != "ok"]
    assert (finding.subject, finding.state) == ("rate limits", "warn")
    assert ("tbf" in finding.found, "sch_tbf" in finding.remedy) == (True, True)


def test_what_is_there_is_not_blamed() -> None:
    busy = KernelError(16, "limit fwb1 to 1 bit/s")
    assert shaping.explained(busy) is busy
