"""A full or read-only state directory, and STATUS under load, with the whole agent."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.lab import system
from tests.lab.cni import call

from fairway_netlab.lab import Lab
from fairway_netlab.processes import LabError

pytestmark = pytest.mark.needs_root

SIZE = 2 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "fairway-test", str(tmp_path)], check=True)
    yield tmp_path
    subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def remount(directory: Path, how: str) -> bool:
    done = subprocess.run(["mount", "-o", f"remount,{how}", str(directory)], capture_output=True, check=False)
    return done.returncode == 0


def fill(directory: Path) -> None:
    with (directory / "ballast").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def untouched(lab: Lab) -> bool:
    """No trace of a second container: neither object nor link nor element nor address."""
    pods = [item["metadata"]["name"] for item in system.objects(lab, "pods")]
    links = [line for line in system.on_node(lab, "ip", "-o", "link").splitlines() if "fwb" in line]
    used = [item["used"] for item in lab.request("n1", "GET", "/v1/ipam")["ranges"]]
    return (pods, len(links), used) == (["a"], 1, [1, 1])


def test_a_full_disk_is_an_error_that_leaves_nothing(lab: Callable[..., Lab], small: Path) -> None:
    one = lab(system.topology("bridge", [system.container("a"), system.container("b")], config={"stateDir": str(small)}))
    call(one, "b", "DEL", {})
    system.eventually(lambda: untouched(one), "b is gone")
    fill(small)
    for _ in range(3):
        refusal = call(one, "b", "ADD", {})
        assert (refusal.get("code"), "full" in refusal["details"]) == (11, True), refusal
    assert untouched(one)
    assert call(one, "a", "CHECK", {}) == {}, "what is attached stays"
    assert call(one, "a", "DEL", {})["code"] == 11, "what cannot be recorded is not said to be done"
    listed = {"cniVersion": "1.1.0", "cni.dev/valid-attachments": []}
    assert call(one, "a", "GC", {}, **listed)["code"] == 11
    assert call(one, "a", "STATUS", {}, cniVersion="1.1.0") == {}, "which is no reason to move away"
    (small / "ballast").unlink()
    assert call(one, "a", "DEL", {}) == {}
    assert "code" not in call(one, "a", "ADD", {})
    assert "code" not in call(one, "b", "ADD", {}), "it recovers by itself"
    assert call(one, "b", "CHECK", {}) == {}
    assert call(one, "b", "GC", {}, **listed) == {}
    system.eventually(lambda: not system.objects(one, "attachments"), "both are gone")


def test_a_read_only_state_directory_is_told(lab: Callable[..., Lab], small: Path) -> None:
    one = lab(system.topology("bridge", [system.container("a")], config={"stateDir": str(small)}))
    system.kill_agent(one)
    # Busy for as long as the killed process's files are being closed.
    system.eventually(lambda: remount(small, "ro"), "read-only")
    with pytest.raises(LabError, match="store"):
        one.start_agent()
    for command in ("ADD", "CHECK", "GC"):
        assert call(one, "a", command, {}, cniVersion="1.1.0")["code"] == 11
    deletion = call(one, "a", "DEL", {})
    assert (deletion["code"], "cannot be kept" in deletion["msg"]) == (11, True), deletion
    assert remount(small, "rw")
    one.start_agent()
    assert call(one, "a", "CHECK", {}) == {}
    assert call(one, "a", "DEL", {}) == {}


def test_status_answers_at_once_while_containers_come_and_go(lab: Callable[..., Lab]) -> None:
    names = [f"c{number}" for number in range(6)]
    one = lab(system.topology("bridge", [system.container(name) for name in names]))

    def restart(name: str) -> None:
        for _ in range(2):
            call(one, name, "DEL", {})
            assert "code" not in call(one, name, "ADD", {})

    took = []
    with ThreadPoolExecutor(len(names)) as pool:
        work = [pool.submit(restart, name) for name in names]
        while not all(item.done() for item in work):
            start = time.monotonic()
            assert call(one, "c0", "STATUS", {}, cniVersion="1.1.0") == {}
            took.append(time.monotonic() - start)
        for item in work:
            item.result()
    took.sort()
    # What the process of the plugin waits for a processor on a busy machine is not the agent's.
    assert took[len(took) // 2] < 0.1, took


def test_status_tells_exhaustion(lab: Callable[..., Lab]) -> None:
    one = lab({**system.topology("bridge", [system.container("a")]), "nodes": [{"name": "n1", "podCIDRs": ["10.9.0.4/31"]}]})
    assert call(one, "a", "STATUS", {}, cniVersion="1.1.0") == {}
    assert "code" not in call(one, "a", "ADD", {}, ifname="eth1")
    refusal = call(one, "a", "STATUS", {}, cniVersion="1.1.0")
    assert (refusal["code"], "10.9.0.4/31: 2 of 2 in use" in refusal["details"]) == (51, True)
    call(one, "a", "DEL", {}, ifname="eth1")
    system.eventually(lambda: call(one, "a", "STATUS", {}, cniVersion="1.1.0") == {}, "an address is free again")
