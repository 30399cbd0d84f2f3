"""Addresses survive what goes wrong around them: none is given out twice, none is lost, with the whole agent."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.lab import system
from tests.lab.caller import Container

from fairway_kernel import netns
from fairway_netlab.lab import Lab
from fairway_netlab.session import LabSession

pytestmark = pytest.mark.needs_root


@pytest.fixture(scope="module")
def node() -> Iterator[Lab]:
    """A node with an agent; each test leaves it without containers."""
    with LabSession() as session:
        # A name of its own: other sessions of this process count from one too.
        yield session.up({"name": f"addresses{os.getpid()}", "nodes": [{"name": "n1", "podCIDRs": ["10.244.0.0/24"]}]})


def used(lab: Lab) -> int:
    return sum(int(item["used"]) for item in lab.request("n1", "GET", "/v1/ipam")["ranges"])


def address(result: dict[str, Any]) -> str:
    return str(result["ips"][0]["address"].split("/")[0])


def addresses_inside(one: Container) -> list[str]:
    """What the kernel has in the container, whatever anybody believes."""
    shown = subprocess.run(
        ["nsenter", f"--net={one.netns}", "ip", "-j", "-4", "addr"], capture_output=True, text=True, check=True
    ).stdout
    return [item["local"] for link in json.loads(shown) for item in link["addr_info"] if link["ifname"] != "lo"]


def stopped(lab: Lab) -> Path:
    """The state directory, after a kill of the agent."""
    system.kill_agent(lab)
    return Path(lab.node().config["stateDir"])


def test_an_old_state_file_does_not_give_an_address_to_two(node: Lab, namespaces: Callable[[str], str], tmp_path: Path) -> None:
    one = node
    known, *unknown = [Container(one, namespaces("c")) for _ in range(4)]
    first = known.call("ADD").result
    state = stopped(one)
    shutil.copytree(state, tmp_path / "old", ignore=shutil.ignore_patterns("spool"))
    one.start_agent()
    theirs = [address(item.call("ADD").result) for item in unknown]
    stopped(one)
    for path in (tmp_path / "old").iterdir():
        shutil.copy2(path, state / path.name)
    for path in state.glob("*-wal"):
        if not (tmp_path / "old" / path.name).exists():
            path.unlink()
    one.start_agent()
    fresh = [Container(one, namespaces("c")) for _ in range(3)]
    given = {address(item.call("ADD").result) for item in fresh}
    everywhere = [ip for item in (known, *unknown, *fresh) for ip in addresses_inside(item)]
    assert sorted(everywhere) == sorted({address(first), *theirs, *given}), "nobody is cut off, and no address is there twice"
    assert known.call("CHECK", {"prevResult": first}).code == 0
    assert all(item.call("DEL").code == 0 for item in (known, *unknown, *fresh))
    system.eventually(lambda: used(one) == 0, "all are free")


def test_what_went_while_the_agent_was_down_is_released(node: Lab, namespaces: Callable[[str], str]) -> None:
    one = node
    dead, deleted, alive = [Container(one, namespaces("c")) for _ in range(3)]
    results = [item.call("ADD").result for item in (dead, deleted, alive)]
    stopped(one)
    netns.delete(dead.netns.rpartition("/")[2])
    assert deleted.call("DEL").code == 0, "kept on disk"
    one.start_agent()
    system.eventually(lambda: used(one) == 1, "two are free")
    assert addresses_inside(deleted) == []
    assert alive.call("CHECK", {"prevResult": results[2]}).code == 0
    assert alive.call("DEL").code == 0


def test_add_and_del_of_one_container_at_once_end_as_the_last_says(node: Lab, namespaces: Callable[[str], str]) -> None:
    one = node
    this = Container(one, namespaces("c"))
    with ThreadPoolExecutor(2) as pool:
        for _ in range(8):
            adding, deleting = pool.submit(this.call, "ADD"), pool.submit(this.call, "DEL")
            assert deleting.result().code == 0
            assert adding.result().code == 0
            system.eventually(lambda: len(addresses_inside(this)) == used(one), "what is held is there")
            assert this.call("DEL").code == 0
            system.eventually(lambda: used(one) == 0, "the address is free")


def test_exhaustion_names_the_pool_and_its_use_and_ends_with_a_del(
    lab: Callable[..., Lab], namespaces: Callable[[str], str]
) -> None:
    one = lab({"nodes": [{"name": "n1", "podCIDRs": ["10.9.0.0/30"]}]})
    first, second = (Container(one, namespaces("c")) for _ in range(2))
    assert first.call("ADD").code == 0
    for command, code in (("ADD", 104), ("STATUS", 51)):
        reply = second.call(command)
        assert (reply.code, "10.9.0.0/30: 1 of 1 in use" in reply.words) == (code, True), reply
    ranges = {"type": "fairway", "ranges": [[{"subnet": "10.8.0.0/24"}]]}
    assert second.call("STATUS", {"ipam": ranges}).code == 0, "a network with ranges of its own has addresses"
    assert first.call("DEL").code == 0
    assert second.call("ADD").code == 0, "an address on its way back is waited for"
