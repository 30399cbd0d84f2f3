"""A thousand containers come and go: nothing of them stays, in the agent, in the kernel or on the disk."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.lab.system import agent_pid, container, eventually, on_node, policy, service, topology
from tests.runtime.scene import traces

from fairway_netlab.attach import shim_path
from fairway_netlab.lab import Lab
from fairway_netlab.plan import cni_config
from fairway_netlab.processes import in_namespace

pytestmark = [pytest.mark.needs_root, pytest.mark.runtime, pytest.mark.slow]

CYCLES = 1000
WARM_UP = 1200
"""Until then what is bounded fills: the store's last 2,000 changes, its page cache of 2 MB, idle sockets."""
SIDE_BY_SIDE = 4
GROWTH_KIB = 3072
"""Allocators keep some; 3 KiB lost per container would be seen."""

LOOKS = 12
SPARE_SOCKETS = 10
"""Idle netlink sockets are kept, as many as were ever in use at once."""


def call(lab: Lab, verb: str, number: int, netns: str) -> dict[str, Any]:
    """One call of the plugin for a container of its own name and id."""
    shim = shim_path()
    config = cni_config(lab.node()) | {"runtimeConfig": {"aliases": [f"alias-{number}"]}}
    environment = {
        **os.environ,
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": f"soak-{number}",
        "CNI_NETNS": netns,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(shim.parent),
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=soak-{number};FAIRWAY_LABELS=app=web,n=n{number % 7}",
    }
    done = subprocess.run(
        in_namespace(lab.node().netns, [str(shim)]),
        input=json.dumps(config),
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{verb} {number}: {done.stdout}{done.stderr}"
    result: dict[str, Any] = json.loads(done.stdout or "{}")
    return result


def cycles(lab: Lab, numbers: range, namespaces: list[str]) -> None:
    """Attach and detach, several at a time; every tenth runtime has lost the namespace at DEL."""

    def worker(part: int) -> None:
        for number in numbers[part::SIDE_BY_SIDE]:
            call(lab, "ADD", number, namespaces[part])
            call(lab, "DEL", number, "" if number % 10 == 0 else namespaces[part])

    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        list(pool.map(worker, range(SIDE_BY_SIDE)))


def processes(lab: Lab) -> dict[str, int]:
    workers = {file.stem: int(json.loads(file.read_text())["pid"]) for file in lab.node().run_dir.glob("*.pid")}
    return {"agent": agent_pid(lab), **workers}


def held(lab: Lab) -> dict[str, Any]:
    """What must be as it was: everything of the kernel and the store, and files."""
    state = Path(lab.node().config["stateDir"])
    files = {str(path.relative_to(state)) for path in state.rglob("*")}
    tracked = on_node(lab, "cat", "/proc/sys/net/netfilter/nf_conntrack_count").strip()
    return {**traces(lab), "files": sorted(files), "tracked": int(tracked) < 50}


def descriptors(lab: Lab) -> dict[str, int]:
    """Open files and sockets by process, at least: now and then the agent has two dozen for a second, to see whether its workers
    answer.
    """
    counts: dict[str, list[int]] = {}
    for _ in range(LOOKS):
        for name, pid in processes(lab).items():
            counts.setdefault(name, []).append(len(list(Path(f"/proc/{pid}/fd").iterdir())))
        time.sleep(0.25)
    return {name: min(seen) for name, seen in counts.items()}


def memory(lab: Lab) -> dict[str, int]:
    """Resident KiB by process, without what is shared with files."""
    return {name: _anonymous(pid) for name, pid in processes(lab).items()}


def _anonymous(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


@pytest.fixture
def homes(namespaces: Callable[[str], str]) -> Iterator[list[str]]:
    yield [namespaces(f"soak{part}") for part in range(SIDE_BY_SIDE)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", ["bridge", "routed"])
def test_a_thousand_cycles_leave_nothing(
    lab: Callable[[dict[str, Any]], Lab], homes: list[str], mode: str, record_property: Callable[[str, object], None]
) -> None:
    one = lab(topology(mode, containers=[container("web", port=8080, app="web"), container("front", app="front")]))
    front = {"podSelector": {"matchLabels": {"app": "front"}}}
    one.apply([service("web"), policy("front-only", "shop", policyTypes=["Ingress"], ingress=[{"from": [front]}])])
    cycles(one, range(WARM_UP), homes)
    before, size, opened = held(one), memory(one), descriptors(one)
    cycles(one, range(WARM_UP, WARM_UP + CYCLES), homes)
    eventually(lambda: held(one) == before, "what thousand containers held is free", 15)
    after = memory(one)
    growth = {name: after[name] - size[name] for name in size}
    record_property("memory", {"before": size, "growth": growth})
    more = {name: count - opened[name] for name, count in descriptors(one).items()}
    print(f"{mode}: KiB before {size}, growth {growth}; descriptors before {opened}, growth {more}")
    assert held(one) == before
    assert max(growth.values()) < GROWTH_KIB, growth
    assert max(more.values()) < SPARE_SOCKETS, more
    database = sum(path.stat().st_size for path in Path(one.node().config["stateDir"]).glob("*.db*"))
    assert database < 32 << 20
