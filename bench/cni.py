"""ADD and DEL end to end: fairway against Debian's plugins, interleaved in one run.

    python bench/cni.py [--mode bridge|routed] [--count N] [--parallel N] [--rounds N] [--held N,N] [--busy N]

Builds a laboratory with one node and its agent (root needed, and the package containernetworking-plugins), and removes it. Every
contestant runs as a runtime runs it: one process per plugin and call, in the node's namespace, into a fresh namespace.

    fairway               rules, names, masquerade and a durable record are part of it
    bridge + host-local   the reference: no rule, no record but the address
    fairway + port        the same with one host port
    usual chain           bridge with ipMasq + host-local, then portmap, then firewall, with one host port

With --busy so many processes do sums meanwhile, for nodes are seldom idle when containers start.
With --held the same calls are made on nodes that hold so many addresses already, and only these (see _cni_held.py).

Times are wall time in milliseconds, the order is random, a ratio is of medians to the peer in the same run; below 1 is better.
The exit code is not 0 only if something failed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _cni_held import hold, reserve

from fairway_cni.install import NetworkSettings, conflist, shim_bytes
from fairway_kernel import netns
from fairway_netlab.lab import Lab
from fairway_netlab.session import LabSession

PEER_DIR = Path("/usr/lib/cni")
VERBS = ("ADD", "DEL")
PORT = 20_000


@dataclass
class Contestant:
    """A list of plugins, executed in order for ADD and in reverse for DEL, and the times the whole took."""

    name: str
    plugins: list[tuple[Path, dict[str, Any]]]
    port: bool = False
    times: dict[str, list[float]] = field(default_factory=lambda: {verb: [] for verb in VERBS})

    def call(self, verb: str, container: str, path: str, number: int) -> float:
        """Milliseconds of one call. Raises RuntimeError with the plugin's answer if it fails."""
        ports = [{"hostPort": PORT + number, "containerPort": 80, "protocol": "tcp"}] if self.port else []
        env = {"CNI_COMMAND": verb, "CNI_CONTAINERID": container, "CNI_NETNS": path, "CNI_IFNAME": "eth0", "CNI_ARGS": ""}
        env |= {"CNI_PATH": str(PEER_DIR), "PATH": os.environ["PATH"]}
        previous: Mapping[str, Any] | None = None
        start = time.perf_counter()
        for binary, conf in self.plugins if verb == "ADD" else reversed(self.plugins):
            given = {**conf, "runtimeConfig": {"portMappings": ports}, **({"prevResult": previous} if previous else {})}
            code, said = execute(binary, json.dumps(given).encode(), env)
            if code:
                raise RuntimeError(f"{self.name} {verb}: {said.decode()}")
            if verb == "ADD":
                previous = json.loads(said)
        return (time.perf_counter() - start) * 1000


def execute(binary: Path, given: bytes, env: Mapping[str, str]) -> tuple[int, bytes]:
    """Exit code and output of one process, at half of what the subprocess module costs: no pipe that somebody has to serve."""
    stdin, stdout = os.memfd_create("given"), os.memfd_create("said")
    try:
        os.pwrite(stdin, given, 0)
        actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1), (os.POSIX_SPAWN_DUP2, stdout, 2)]
        pid = os.posix_spawn(binary, [str(binary)], env, file_actions=actions)
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status), os.pread(stdout, 1 << 20, 0)
    finally:
        os.close(stdin)
        os.close(stdout)


def started_and_ended(count: int) -> float:
    """Median milliseconds of a program that does nothing: what of every figure is the measuring."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        execute(Path("/bin/true"), b"", {})
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def contestants(directory: Path, socket: str, mode: str) -> list[Contestant]:
    """Each of ours is followed by its peer. Their files are in `directory`."""
    shim = directory / "fairway"
    shim.write_bytes(shim_bytes())
    shim.chmod(0o755)
    network = conflist(NetworkSettings(socket=socket, spool_dir=str(directory / "spool"), name="bench", mode=mode))
    ours = {"cniVersion": "1.0.0", "name": "bench", **network["plugins"][0]}

    def bridge(name: str, subnet: str, **more: Any) -> tuple[Path, dict[str, Any]]:
        ipam = {"type": "host-local", "subnet": subnet, "dataDir": str(directory / "host-local")}
        conf = {"cniVersion": "1.0.0", "name": name, "type": "bridge", "bridge": name, "isGateway": True, "ipam": ipam}
        return PEER_DIR / "bridge", {**conf, **more}

    def chained(kind: str) -> tuple[Path, dict[str, Any]]:
        return PEER_DIR / kind, {"cniVersion": "1.0.0", "name": "chain0", "type": kind, "capabilities": {"portMappings": True}}

    return [
        Contestant(f"fairway ({mode})", [(shim, ours)]),
        Contestant("bridge + host-local", [bridge("peer0", "10.251.0.0/16")]),
        Contestant("fairway + port", [(shim, ours)], port=True),
        Contestant(
            "usual chain", [bridge("chain0", "10.252.0.0/16", ipMasq=True), chained("portmap"), chained("firewall")], port=True
        ),
    ]


def one_by_one(plugins: list[Contestant], count: int) -> None:
    """ADD then DEL, `count` times each, in random order."""
    order = [plugin for plugin in plugins for _ in range(count)]
    random.shuffle(order)
    for number, plugin in enumerate(order):
        name = f"fwbench-{os.getpid()}-{number}"
        path = netns.create(name)
        try:
            for verb in VERBS:
                plugin.times[verb].append(plugin.call(verb, name, path, number))
        finally:
            netns.delete(name)


def side_by_side(plugin: Contestant, width: int, round_number: int) -> dict[str, float]:
    """Wall milliseconds of `width` ADDs at once, then as many DELs."""
    names = [f"fwbench-{os.getpid()}-{round_number}-{number}" for number in range(width)]
    paths = [netns.create(name) for name in names]
    walls = {}
    try:
        with ThreadPoolExecutor(width) as pool:
            for verb in VERBS:
                start = time.perf_counter()
                calls = [(verb, name, path, n) for n, (name, path) in enumerate(zip(names, paths, strict=True))]
                for outcome in [pool.submit(plugin.call, *call) for call in calls]:
                    outcome.result()
                walls[verb] = (time.perf_counter() - start) * 1000
    finally:
        for name in names:
            netns.delete(name)
    return walls


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that want all of a processor, for the length of the block and ten minutes at most."""
    words = [sys.executable, "-c", "import time; end = time.monotonic() + 600\nwhile time.monotonic() < end: sum(range(9999))"]
    burning = [subprocess.Popen(words) for _ in range(count)]
    try:
        yield
    finally:
        for one in burning:
            one.kill()
            one.wait()


def table(title: str, plugins: list[Contestant], value: Callable[[Contestant, str], list[float]]) -> None:
    """Median, least, and the ratio of each of ours to the peer behind it."""
    print(f"\n{title:<34}{'median ms':>10}{'min ms':>9}{'ratio':>8}")
    for verb in VERBS:
        for place, plugin in enumerate(plugins):
            times = value(plugin, verb)
            median = statistics.median(times)
            ratio = "" if place % 2 else f"{median / statistics.median(value(plugins[place + 1], verb)):.2f}"
            print(f"{verb + ' ' + plugin.name:<34}{median:>10.2f}{min(times):>9.2f}{ratio:>8}")


def measure(plugins: list[Contestant], options: argparse.Namespace) -> None:
    """Both parts, each after a warm-up."""
    one_by_one(plugins, 2)
    for plugin in plugins:
        plugin.times = {verb: [] for verb in VERBS}
    one_by_one(plugins, options.count)
    table(f"one by one, n={options.count}", plugins, lambda plugin, verb: plugin.times[verb])
    if options.parallel:
        rounds = [(plugin, side_by_side(plugin, options.parallel, n)) for n in range(options.rounds) for plugin in plugins]
        title = f"{options.parallel} at once, wall, n={options.rounds}"
        table(title, plugins, lambda plugin, verb: [walls[verb] for who, walls in rounds if who is plugin])


def measure_held(session: LabSession, options: argparse.Namespace, directory: Path) -> None:
    """ADD and DEL beside so many held addresses, ours and host-local's, all interleaved."""
    held = [int(count) for count in options.held.split(",")]
    labs = [session.up({"nodes": [{"name": "n1", "podCIDRs": ["10.250.0.0/16"]}]}) for _ in held]
    shared = f"fwbench-{os.getpid()}-held"
    path = netns.create(shared)
    try:
        plugins = [
            one for lab, count in zip(labs, held, strict=True) for one in holders(lab, directory, options.mode, count, path)
        ]
        netns.enter(labs[0].netns("n1"))
        one_by_one(plugins, 2)
        for plugin in plugins:
            plugin.times = {verb: [] for verb in VERBS}
        one_by_one(plugins, options.count)
    finally:
        netns.delete(shared)
    table(f"beside held addresses, n={options.count}", plugins, lambda plugin, verb: plugin.times[verb])


def holders(lab: Lab, directory: Path, mode: str, count: int, path: str) -> list[Contestant]:
    """Ours and its peer, each with `count` held addresses."""
    own = directory / str(count)
    own.mkdir()
    hold(lab, count, path)
    ours, peer = contestants(own, str(lab.node().socket), mode)[:2]
    reserve(own / "host-local" / "peer0", "10.251.0.2", count)
    ours.name, peer.name = f"fairway, {count} held", f"host-local, {count} held"
    return [ours, peer]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mode", default="bridge", choices=["bridge", "routed"])
    parser.add_argument("--count", type=int, default=30, help="calls of each kind, one by one")
    parser.add_argument("--parallel", type=int, default=32, help="calls at once; 0 leaves that part out")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the parallel part")
    parser.add_argument("--held", default="", help="numbers of addresses that are held already, such as 0,20000")
    parser.add_argument("--busy", type=int, default=0, help="processes that keep the machine busy meanwhile")
    options = parser.parse_args()
    with busy(options.busy), LabSession() as session, tempfile.TemporaryDirectory(prefix="fairway-bench-") as directory:
        if options.held:
            measure_held(session, options, Path(directory))
            return
        lab = session.up({"nodes": [{"name": "n1", "podCIDRs": ["10.250.0.0/16"]}]})
        plugins = contestants(Path(directory), str(lab.node().socket), options.mode)
        print(
            f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors; /bin/true takes {started_and_ended(20):.2f} ms"
        )
        # Threads and processes started from here on inherit the namespace.
        netns.enter(lab.netns("n1"))
        measure(plugins, options)


if __name__ == "__main__":
    main()
