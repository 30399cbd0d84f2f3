"""A whole agent coming to a large cluster: from its start until its rules and names are live. Used by kubernetes.py."""

from __future__ import annotations

import argparse
import os
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from _kubernetes_add import ROOT, bound_of, lags, served

from fairway_netlab.control import call
from fairway_netlab.lab import Lab
from fairway_netlab.session import LabSession

NODES = 100
PER_SLICE = 5


def serve(namespace: str, kubeconfig: str, options: argparse.Namespace, pipe: Connection) -> None:
    """The server's process: says "filled", and ends with whoever started it."""
    sys.path.append(str(ROOT))
    from tests.kubernetes.serve import ServedDouble

    server = ServedDouble(Path(namespace))
    server.kubeconfig(Path(kubeconfig))
    server.start()
    server.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "spec": {"podCIDRs": ["10.250.0.0/16"]}})
    server.put(*pods(options), *services(options), *slices(options), *policies(options))
    pipe.send("filled")
    pipe.recv()


def address(number: int) -> str:
    return f"10.{128 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def meta(name: str, label: int) -> dict[str, Any]:
    return {"name": name, "namespace": "bench", "labels": {"app": f"a{label}"}, "uid": name}


def pods(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Four of each application for 5,000 applications."""
    for number in range(options.pods):
        ip = address(number)
        status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}
        spec = {
            "nodeName": f"far-{number % NODES}",
            "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 80}]}],
        }
        labels = meta(f"pod-{number}", number // 4)
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": labels, "spec": spec, "status": status}


def services(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for number in range(options.services):
        ip = f"10.96.{number >> 8 & 255}.{number & 255}"
        spec = {"clusterIP": ip, "clusterIPs": [ip], "selector": {"app": f"a{number}"}, "ports": [{"name": "http", "port": 80}]}
        yield {"apiVersion": "v1", "kind": "Service", "metadata": meta(f"svc-{number}", number), "spec": spec}


def slices(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for number in range(options.endpoints // PER_SLICE):
        name = f"svc-{number % max(1, options.services)}"
        labels = {"kubernetes.io/service-name": name}
        ends = [{"addresses": [address(number * PER_SLICE + i)], "conditions": {"ready": True}} for i in range(PER_SLICE)]
        yield {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": f"{name}-{number}", "namespace": "bench", "labels": labels},
            "addressType": "IPv4",
            "endpoints": ends,
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        }


def policies(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Each isolates one application and lets the next one in."""
    for number in range(options.policies):
        peers = [{"podSelector": {"matchLabels": {"app": f"a{number + 1}"}}}]
        rules = [{"from": peers, "ports": [{"port": 8080, "protocol": "TCP"}]}]
        spec = {"podSelector": {"matchLabels": {"app": f"a{number}"}}, "policyTypes": ["Ingress"], "ingress": rules}
        kind = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
        yield {**kind, "metadata": {"name": f"policy-{number}", "namespace": "bench"}, "spec": spec}


def measure(options: argparse.Namespace) -> None:
    """Time from the start of the agent to readiness, its memory, and what it then has."""
    name = f"bench{os.getpid()}"
    with LabSession() as session, tempfile.TemporaryDirectory(prefix="fairway-bench-") as text:
        kubeconfig = Path(text) / "kubeconfig"
        with served(f"/run/netns/fwlab-{name}.n1", kubeconfig, options, serve) as server:
            server.recv()
            config = {"store": {"kind": "kubernetes", "kubeconfig": str(kubeconfig)}}
            started = time.monotonic()
            lab = session.up({"name": name, "nodes": [{"name": "n1", "podCIDRs": [], "config": config}]})
            took = time.monotonic() - started
            report(lab, took)


def report(lab: Lab, took: float) -> None:
    status = call(lab.node().socket, "GET", "/v1/status")
    resident, peak = memory(lab)
    print(f"load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors, the server on the same machine")
    print(f"objects            {', '.join(f'{count} {kind}' for kind, count in status['counts'].items() if count)}")
    print(f"live               {status['live']}")
    print(f"start to ready     {took:.1f} s: rules of everything in the kernel, names answered")
    print(f"agent's memory     {resident} MiB, {peak} MiB at the peak")
    beats = lags(lab)
    longest = max((bound for bound, count in beats.items() if count), default=0.0)
    print(f"loop lag           99 % of the beats below {bound_of(beats, 0.99):g} ms, all below {longest * 1000:g} ms")


def memory(lab: Lab) -> tuple[int, int]:
    """Resident MiB of the agent, now and at most."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(lab.node().socket))
        pid, _, _ = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines["VmRSS"].split()[0]) >> 10, int(lines["VmHWM"].split()[0]) >> 10
