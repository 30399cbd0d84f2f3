"""The state directory is lost or an old copy comes back while containers run: with the whole agent, nobody is cut off."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.lab import system
from tests.lab.cni import call

from fairway_kernel import netns
from fairway_kernel.link.manager import KernelLinks
from fairway_netlab.lab import Lab
from fairway_netlab.probe import Target

pytestmark = pytest.mark.needs_root
LabFactory = Callable[[dict[str, Any]], Lab]


def stopped(lab: Lab) -> Path:
    """The state directory of a node whose agent is dead."""
    system.kill_agent(lab)
    return Path(json.loads(lab.node().config_file.read_text())["stateDir"])


def lose(state: Path) -> None:
    for path in state.glob("fairway.db*"):
        path.unlink()


def reaches(lab: Lab, source: str, ips: tuple[str, ...]) -> bool:
    return [outcome.state for outcome in lab.probe(source, [Target(ip, 8080) for ip in ips])] == ["open"] * len(ips)


def records(lab: Lab) -> dict[str, dict[str, Any]]:
    return {item["spec"]["podName"]: item["spec"] for item in system.objects(lab, "attachments")}


def links(lab: Lab) -> list[str]:
    return sorted(line.split("@")[0] for line in system.on_node(lab, "ip", "-br", "link").splitlines() if line.startswith("fw"))


@pytest.mark.parametrize("mode", ["bridge", "routed"])
def test_the_state_directory_is_lost_while_containers_run(lab: LabFactory, mode: str) -> None:
    one = lab(system.topology(mode, [system.container("a"), system.container("b", port=8080, app="web"), system.container("c")]))
    call(one, "c", "DEL", {})
    ips, before = one.addresses("b"), records(one)
    talk = netns.run_in(one.netns("a"), lambda: socket.create_connection((ips[0], 8080), 5))
    assert talk.recv(100)
    lose(stopped(one))
    one.start_agent()
    talk.sendall(b"still there")
    assert talk.recv(100) == b"still there"
    talk.close()
    assert reaches(one, "a", ips)
    after = records(one)
    kept = ("ips", "mac", "ifname", "containerID", "network", "hostIfname", "mode", "mtu", "netnsID")
    assert {name: [spec[key] for key in kept] for name, spec in after.items()} == {
        name: [spec[key] for key in kept] for name, spec in before.items()
    }
    assert one.exec("a", ["getent", "hosts", f"{ips[0].replace('.', '-')}.shop.pod.cluster.local"], check=True).stdout
    result = call(one, "c", "ADD", {})
    assert not {item["address"].split("/")[0] for item in result["ips"]} & {*ips, *one.addresses("a")}
    for name in ("a", "b"):
        assert call(one, name, "CHECK", {}) == {}
        assert call(one, name, "ADD", {})["code"] == 102, "it is attached"
    for name in ("a", "b", "c"):
        assert call(one, name, "DEL", {}) == {}
    system.eventually(lambda: [name for name in links(one) if not name.startswith("fw-")] == [], "all links are gone")
    assert (system.objects(one, "attachments"), system.objects(one, "pods")) == ([], [])


def restarted(lab: Lab, name: str) -> tuple[str, ...]:
    """The container is attached anew, in a namespace of the same path, as a runtime does after a crash of the container."""
    assert call(lab, name, "DEL", {}) == {}
    result = call(lab, name, "ADD", {})
    return tuple(item["address"].split("/")[0] for item in result["ips"])


def test_an_old_copy_of_the_state_comes_back(lab: LabFactory, tmp_path: Path) -> None:
    names = ("front", "old", "moved", "new")
    one = lab(system.topology("bridge", [system.container(name, port=8080, app=name) for name in names]))
    one.apply([system.policy("closed", "shop", podSelector={"matchLabels": {"app": "new"}})])
    call(one, "new", "DEL", {})
    state = stopped(one)
    shutil.copytree(state, tmp_path / "copy")
    one.start_agent()
    stale = one.addresses("moved")
    ips = {"new": restarted(one, "new"), "moved": restarted(one, "moved"), "front": one.addresses("front")}
    assert call(one, "old", "DEL", {}) == {}, "the copy does not know that either"
    meta = {"name": "new", "namespace": "shop", "labels": {"app": "new"}}
    stopped(one)
    lose(state)
    for path in (tmp_path / "copy").glob("fairway.db*"):
        shutil.copy(path, state / path.name)
    one.start_agent()
    assert reaches(one, "front", ips["moved"]), "attached anew since"
    assert {name: set(spec["ips"]) for name, spec in records(one).items() if name != "old"} == {
        name: set(value) for name, value in ips.items()
    }
    assert not set(stale) & {ip for spec in records(one).values() for ip in spec["ips"]}
    one.apply([{"apiVersion": "v1", "kind": "Pod", "metadata": meta}])
    system.eventually(lambda: not reaches(one, "front", ips["new"]), "labels that come later are obeyed")
    for name in ("new", "moved", "front"):
        assert call(one, name, "CHECK", {}) == {}
        assert call(one, name, "DEL", {}) == {}


@contextmanager
def nameless() -> Iterator[int]:
    """A process in a namespace that has no name."""
    process = subprocess.Popen(["unshare", "--net", "sleep", "60"], stdout=subprocess.DEVNULL)
    try:
        home = Path("/proc/self/ns/net").stat().st_ino
        deadline = time.monotonic() + 10
        while Path(f"/proc/{process.pid}/ns/net").stat().st_ino == home and time.monotonic() < deadline:
            time.sleep(0.01)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def test_a_namespace_without_a_name_is_found_by_its_process(namespaces: Callable[[str], str]) -> None:
    from tests.contract.test_link_manager import veth

    manager = KernelLinks(namespaces("node"))
    try:
        with nameless() as pid:
            item = veth(f"/proc/{pid}/ns/net", 5, bridged=False)
            manager.attach(item)
            end = manager.trace([item.host_ifname])[item.host_ifname]
            assert (end.netns, end.ifname, end.inside.ips) == (item.netns, "eth0", item.ips)
    finally:
        manager.close()
