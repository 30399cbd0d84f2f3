"""ADD on a node of a cluster: idle, and while the API server sends a steady stream of events. Used by kubernetes.py."""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import re
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from fairway_cni.install import NetworkSettings, conflist, shim_bytes
from fairway_kernel import netns
from fairway_netlab.control import request
from fairway_netlab.lab import Lab
from fairway_netlab.processes import run
from fairway_netlab.session import LabSession

ROOT = Path(__file__).parent.parent
"""Where the stand-in of the tests is."""
SETTLE_SECONDS = 0.5


def pod(name: str, node: str, address: str = "") -> dict[str, Any]:
    meta = {"name": name, "namespace": "bench", "labels": {"app": "bench"}, "uid": name}
    status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]} if address else {"phase": "Pending"}
    spec = {"nodeName": node, "containers": [{"name": "c"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec, "status": status}


def serve(namespace: str, kubeconfig: str, options: argparse.Namespace, pipe: Connection) -> None:
    """The server's process. True begins a stream of changes to pods of other nodes, False ends it, None ends the process; every
    stream is answered with the changes made per second."""
    sys.path.append(str(ROOT))
    from tests.kubernetes.serve import ServedDouble

    server = ServedDouble(Path(namespace))
    server.kubeconfig(Path(kubeconfig))
    server.start()
    spec = {"podCIDRs": ["10.250.0.0/16"]}
    server.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "spec": spec})
    server.put(*(pod(f"add-{number}", "n1") for number in range(options.adds * 2 * options.rounds + 5)))
    server.put(*(pod(f"far-{number}", "n2", address(number)) for number in range(options.far)))
    pipe.send("filled")
    homes, total = list(range(options.far)), 0
    while pipe.recv():
        started, sent = time.monotonic(), 0
        while not pipe.poll():
            while sent < (time.monotonic() - started) * options.rate:
                sent += 1
                total += 1
                number = total % options.far
                if total % 100 < options.moving:
                    # A pod that was there before never had it.
                    homes[number] += options.far
                server.put(pod(f"far-{number}", "n2", address(homes[number])))
                if sent % 1000 == 0:
                    server.forget(1000)
            time.sleep(0.002)
        pipe.recv()
        pipe.send(sent / (time.monotonic() - started))
    server.close()


def address(number: int) -> str:
    return f"10.200.{number >> 8 & 255}.{number & 255}"


@contextmanager
def served(
    namespace: str, kubeconfig: Path, options: argparse.Namespace, body: Callable[..., None] = serve
) -> Iterator[Connection]:
    """A process that runs `body`, and the pipe to it."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=body, args=(namespace, str(kubeconfig), options, there), daemon=True)
    process.start()
    try:
        yield here
    finally:
        process.terminate()
        process.join()


class Plugin:
    """Our plugin as kubelet's runtime calls it."""

    def __init__(self, directory: Path, socket: str) -> None:
        self._shim = directory / "fairway"
        self._shim.write_bytes(shim_bytes())
        self._shim.chmod(0o755)
        network = conflist(NetworkSettings(socket=socket, spool_dir=str(directory / "spool"), name="bench", mode="bridge"))
        self._config = json.dumps({"cniVersion": "1.0.0", "name": "bench", **network["plugins"][0]})
        self._serial = 0

    def adds(self, count: int) -> list[float]:
        """Milliseconds of each of `count` ADDs, each followed by its DEL."""
        return [self._once() for _ in range(count)]

    def _once(self) -> float:
        self._serial += 1
        name = f"fwbench-{os.getpid()}-{self._serial}"
        path = netns.create(name)
        try:
            started = time.perf_counter()
            self._call("ADD", name, path)
            took = (time.perf_counter() - started) * 1000
            self._call("DEL", name, path)
        finally:
            netns.delete(name)
        return took

    def _call(self, verb: str, name: str, path: str) -> None:
        arguments = f"IgnoreUnknown=1;K8S_POD_NAMESPACE=bench;K8S_POD_NAME=add-{self._serial}"
        env = {"CNI_COMMAND": verb, "CNI_CONTAINERID": name, "CNI_NETNS": path, "CNI_IFNAME": "eth0", "CNI_ARGS": arguments}
        run([str(self._shim)], self._config, {**env, "CNI_PATH": "/usr/lib/cni", "PATH": os.environ["PATH"]})


def measure(options: argparse.Namespace) -> None:
    """Rounds of idle and loaded ADDs by turns, so that the machine's mood is the same for both."""
    name = f"bench{os.getpid()}"
    with LabSession() as session, tempfile.TemporaryDirectory(prefix="fairway-bench-") as text:
        directory = Path(text)
        kubeconfig = directory / "kubeconfig"
        with served(f"/run/netns/fwlab-{name}.n1", kubeconfig, options) as server:
            server.recv()
            config = {"store": {"kind": "kubernetes", "kubeconfig": str(kubeconfig)}}
            lab = session.up({"name": name, "nodes": [{"name": "n1", "podCIDRs": [], "config": config}]})
            time.sleep(SETTLE_SECONDS)
            plugin = Plugin(directory, str(lab.node().socket))
            # Processes started from here on inherit the namespace.
            netns.enter(lab.netns("n1"))
            report(rounds(plugin, server, options, lambda: lags(lab)))


@dataclass
class Found:
    """Milliseconds of ADDs between the streams and during them, events per second, and beats of the agent's loop by how late."""

    idle: list[float] = field(default_factory=list)
    loaded: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    beats: Counter[float] = field(default_factory=Counter)


def rounds(plugin: Plugin, server: Connection, options: argparse.Namespace, late: Callable[[], Counter[float]]) -> Found:
    """`late` tells the beats so far."""
    plugin.adds(4)
    found = Found()
    for _ in range(options.rounds):
        found.idle += plugin.adds(options.adds)
        before = late()
        server.send(True)
        time.sleep(SETTLE_SECONDS)
        found.loaded += plugin.adds(options.adds)
        time.sleep(options.seconds)
        server.send(False)
        found.rates.append(float(server.recv()))
        found.beats += late() - before
        time.sleep(SETTLE_SECONDS)
    server.send(None)
    return found


def lags(lab: Lab) -> Counter[float]:
    """Beats of the agent's event loop so far, by the upper bound of their lateness in seconds."""
    text = request(lab.node().socket, "GET", "/metrics")[1].decode()
    counts = re.findall(r'^fairway_loop_lag_seconds_bucket\{le="(\S+)"\} (\S+)$', text, re.M)
    found: Counter[float] = Counter()
    below = 0.0
    for bound, count in counts:
        found[float(bound)] = int(float(count) - below)
        below = float(count)
    return found


def bound_of(beats: Counter[float], share: float) -> float:
    """The bound that this share of the beats stayed below, in milliseconds."""
    seen = 0
    for bound in sorted(beats):
        seen += beats[bound]
        if seen >= share * beats.total():
            return bound * 1000
    return math.nan


def report(found: Found) -> None:
    def middle_and_high(times: list[float]) -> tuple[float, float]:
        return statistics.median(times), statistics.quantiles(times, n=20)[-1]

    (calm, calm_high), (busy, busy_high) = middle_and_high(found.idle), middle_and_high(found.loaded)
    print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors, {len(found.idle)} ADDs each")
    print(f"ADD idle           p50 {calm:.2f} ms, p95 {calm_high:.2f} ms (peer)")
    print(f"ADD under events   p50 {busy:.2f} ms, p95 {busy_high:.2f} ms at {statistics.mean(found.rates):.0f} events per second")
    print(f"ratio              p50 {busy / calm:.2f}, p95 {busy_high / calm_high:.2f}")
    print(
        f"loop lag           {found.beats.total()} beats under events: half below {bound_of(found.beats, 0.5):g} ms, "
        f"99 % below {bound_of(found.beats, 0.99):g} ms"
    )
