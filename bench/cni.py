"""ADD and DEL end to end: fairway against Debian's bridge + host-local, interleaved in one run.

    ip netns add node; nsenter --net=/run/netns/node fairway agent --config FILE &
    python bench/cni.py --netns /run/netns/node --socket RUNDIR/agent.sock

Needs root, a running agent whose namespace is --netns, and the package containernetworking-plugins. Both plugins run as a
runtime runs them: one process per call, in the node's namespace, into a fresh namespace per container. Times are wall time of
the process in milliseconds; the order is random; the ratio is of medians, below 1 is better than the peer.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from fairway_cni.install import NetworkSettings, conflist, shim_bytes
from fairway_kernel import netns

PEER_DIR = Path("/usr/lib/cni")
PEER_BRIDGE = "cnibench0"


@dataclass
class Plugin:
    """One contestant: its executable, configuration, and the times it took."""

    name: str
    binary: Path
    conf: bytes
    times: dict[str, list[float]] = field(default_factory=lambda: {"ADD": [], "DEL": []})

    def call(self, command: str, container: str, path: str) -> float:
        """Milliseconds of one call. Raises RuntimeError with the plugin's answer if it fails."""
        env = {"CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_NETNS": path, "CNI_IFNAME": "eth0"}
        env |= {"CNI_PATH": str(self.binary.parent), "PATH": os.environ["PATH"]}
        start = time.perf_counter()
        done = subprocess.run([self.binary], input=self.conf, capture_output=True, env=env, check=False)
        took = (time.perf_counter() - start) * 1000
        if done.returncode:
            raise RuntimeError(f"{self.name} {command}: {done.stdout.decode()} {done.stderr.decode()}")
        return took


def contestants(directory: Path, socket: str, mode: str) -> list[Plugin]:
    """Fairway and the peer, with files in `directory`."""
    shim = directory / "fairway"
    shim.write_bytes(shim_bytes())
    shim.chmod(0o755)
    network = conflist(NetworkSettings(socket=socket, spool_dir=str(directory / "spool"), name="bench", mode=mode))
    ours = {"cniVersion": "1.0.0", "name": "bench", **network["plugins"][0]}
    ipam = {"type": "host-local", "subnet": "10.251.0.0/16", "dataDir": str(directory / "host-local")}
    peer = {"cniVersion": "1.0.0", "name": "peer", "type": "bridge", "bridge": PEER_BRIDGE, "isGateway": True, "ipam": ipam}
    return [
        Plugin(f"fairway ({mode})", shim, json.dumps(ours).encode()),
        Plugin("bridge + host-local", PEER_DIR / "bridge", json.dumps(peer).encode()),
    ]


def one_by_one(plugins: list[Plugin], count: int) -> None:
    """ADD then DEL, `count` times each, in random order."""
    order = [plugin for plugin in plugins for _ in range(count)]
    random.shuffle(order)
    for number, plugin in enumerate(order):
        name = f"fwbench-{os.getpid()}-{number}"
        path = netns.create(name)
        try:
            for command in ("ADD", "DEL"):
                plugin.times[command].append(plugin.call(command, name, path))
        finally:
            netns.delete(name)


def side_by_side(plugin: Plugin, width: int, round_number: int) -> dict[str, float]:
    """Wall milliseconds of `width` ADDs at once, then as many DELs."""
    names = [f"fwbench-{os.getpid()}-{round_number}-{number}" for number in range(width)]
    paths = [netns.create(name) for name in names]
    walls = {}
    try:
        with ThreadPoolExecutor(width) as pool:
            for command in ("ADD", "DEL"):
                start = time.perf_counter()
                for outcome in [pool.submit(plugin.call, command, name, path) for name, path in zip(names, paths, strict=True)]:
                    outcome.result()
                walls[command] = (time.perf_counter() - start) * 1000
    finally:
        for name in names:
            netns.delete(name)
    return walls


def table(title: str, plugins: list[Plugin], value: Callable[[Plugin, str], list[float]]) -> None:
    """Median, least and ratio to the last contestant."""
    print(f"{title:<34}{'median ms':>10}{'min ms':>9}{'ratio':>8}")
    for command in ("ADD", "DEL"):
        base = statistics.median(value(plugins[-1], command))
        for plugin in plugins:
            times = value(plugin, command)
            median = statistics.median(times)
            print(f"{command + ' ' + plugin.name:<34}{median:>10.2f}{min(times):>9.2f}{median / base:>8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--netns", required=True, help="path of the agent's network namespace")
    parser.add_argument("--socket", required=True, help="the agent's socket")
    parser.add_argument("--mode", default="bridge", choices=["bridge", "routed"])
    parser.add_argument("--count", type=int, default=40, help="calls of each kind, one by one")
    parser.add_argument("--parallel", type=int, default=32, help="calls at once; 0 leaves that part out")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the parallel part")
    options = parser.parse_args()
    # Threads and child processes started from here on inherit the namespace.
    netns.enter(options.netns)
    with tempfile.TemporaryDirectory(prefix="fairway-bench-") as directory:
        plugins = contestants(Path(directory), options.socket, options.mode)
        try:
            one_by_one(plugins, 2)
            for plugin in plugins:
                plugin.times = {"ADD": [], "DEL": []}
            one_by_one(plugins, options.count)
            table(f"one by one, n={options.count}", plugins, lambda plugin, command: plugin.times[command])
            if options.parallel:
                rounds = [
                    (plugin, side_by_side(plugin, options.parallel, n)) for n in range(options.rounds) for plugin in plugins
                ]
                title = f"{options.parallel} at once, wall, n={options.rounds}"
                table(title, plugins, lambda plugin, command: [walls[command] for who, walls in rounds if who is plugin])
        finally:
            subprocess.run(["ip", "link", "delete", PEER_BRIDGE], check=False, capture_output=True)


if __name__ == "__main__":
    main()
