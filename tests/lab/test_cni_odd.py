"""What nobody does on purpose and somebody does all the same: the longest names, the smallest ranges, odd paths."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lab import system
from tests.lab.cni import call

from fairway_netlab.lab import Lab
from fairway_netlab.session import LabSession

pytestmark = pytest.mark.needs_root


@pytest.fixture(scope="module")
def stage() -> Iterator[Lab]:
    with LabSession() as session:
        # A name of its own: other sessions of this process count from one too.
        one = session.up({"name": f"odd{os.getpid()}", **system.topology("bridge", [system.container("a")])})
        call(one, "a", "DEL", {})
        yield one


NAMES: list[dict[str, Any]] = [
    {"args_text": "K8S_POD_NAMESPACE=" + 63 * "n" + ";K8S_POD_NAME=" + ".".join(4 * [62 * "p"])},
    {"args_text": "", "container_id": 300 * "c"},
    {"name": 253 * "n"},
]


@pytest.mark.parametrize("odd", NAMES, ids=["pod", "container", "network"])
def test_names_may_be_as_long_as_they_may_be(stage: Lab, odd: dict[str, Any]) -> None:
    assert "ips" in call(stage, "a", "ADD", {}, **odd)
    (spec,) = [item["spec"] for item in system.objects(stage, "attachments")]
    assert len(spec["podName"]) <= 253
    assert call(stage, "a", "CHECK", {}, **odd) == {}
    assert call(stage, "a", "DEL", {}, **odd) == {}


@pytest.mark.parametrize("ifname", ["all", "default", "e%d"])
def test_a_name_that_means_something_to_the_kernel_is_refused(stage: Lab, ifname: str) -> None:
    refusal = call(stage, "a", "ADD", {}, ifname=ifname)
    assert (refusal["code"], "CNI_IFNAME" in refusal["msg"]) == (4, True), refusal
    assert call(stage, "a", "DEL", {}, ifname=ifname) == {}, "which is no reason not to let it go"


def test_a_path_with_a_space(stage: Lab, tmp_path: Path) -> None:
    path = tmp_path / "a b"
    path.touch()
    subprocess.run(["mount", "--bind", stage.netns("a"), str(path)], check=True)
    try:
        assert call(stage, "a", "ADD", {}, netns=str(path))["interfaces"][2]["sandbox"] == str(path)
        assert call(stage, "a", "DEL", {}, netns=str(path)) == {}
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("cidrs", [["10.9.0.5/32", "fd00:9::5/128"], ["10.9.0.4/31", "fd00:9::4/127"]])
def test_the_smallest_ranges_serve_and_a_pod_reaches_itself(lab: Callable[..., Lab], cidrs: list[str]) -> None:
    nodes = [{"name": "n1", "podCIDRs": cidrs, "mode": "routed"}]
    one = lab({**system.topology(), "nodes": nodes, "containers": [system.container("web", port=8080, app="web")]})
    one.apply([system.service("web")])
    (service,) = system.objects(one, "services")
    for ip in service["spec"]["clusterIPs"]:
        told = one.exec("web", ["bash", "-c", f"exec 3<>/dev/tcp/{ip}/80; timeout 3 head -1 <&3"])
        assert told.stdout.startswith("web "), (ip, told)
