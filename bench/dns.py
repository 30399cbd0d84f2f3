"""Names per second, latency and loss of a DNS worker next to unbound, side by side in one run.

    python bench/dns.py [--part NAME …] [--rounds N] [--seconds S] [--names N] [--rate QPS]

Parts: `service` (names of the service zone; unbound serves the same as local-data), `cached` (foreign names, warm in both
caches), `uncached` (names never seen before, through one local upstream), `latency` (open-loop probe at --rate on service
names: loss, p50, p99), `cold` (the same from the first moment of a process, which is started anew for each round), `headless`
(1,000 endpoints over TCP), `load` (a table of 10,000 services to its first answer), `change` (from `publish` to the new answer
at the client), `junk` (memory while a million distinct names are asked for).

Client and servers sit in two namespaces joined by a veth pair; the server owns core 0, the client and the upstream core 1.
Rounds alternate between the servers, so that other load on the machine hits all. Needs root, dnsperf and unbound. If
FAIRWAY_BENCH_COREDNS names a CoreDNS binary, it is a further peer of service, cached, uncached, latency and cold (with one
thread, a hosts file for the service names, its cache in front of the upstream); without it there is no word of it.

Figures are medians over the rounds (latency, cold and p50 in turn: the best round); ratios are fairway to the peer. dnsperf
needs as much of its core for a query as the servers of theirs, so its queries per second tell of both, and of how a server does
with small batches. The lines marked `full` are by a client that needs half as much and keeps 512 queries under way, so that
the server is the bound. Where other load shares the cores, queries per second of CPU are the honest figure: they are the
same whoever else is running, up to what caches lose. --realtime keeps other load off.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import socket
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from _dns_bench import ENDPOINTS, NODE, PORTS, ZONE, Bench, Load, query, records, resident
from _dns_probe import Latency

from fairway_dns.feed import ZoneFeed
from fairway_dns.zone import Record, ZoneDelta
from fairway_kernel import netns


def compare(title: str, runs: dict[str, list[Load]], us: str = "fairway") -> None:
    """One line per server, and one with our ratios to each of the others."""
    fields = ("qps", "cpu", "lost")
    middle = {name: [statistics.median(getattr(run, field) for run in many) for field in fields] for name, many in runs.items()}
    for name, (qps, cpu, lost) in middle.items():
        print(f"{title:12} {name:8} {qps:10,.0f} qps   {cpu:6.2f} us CPU/query   lost {lost:.3%}")
    our_qps, our_cpu, _ = middle.pop(us)
    for name, (qps, cpu, _) in middle.items():
        print(f"{title:12} ratio to {name}: {our_qps / qps:.2f} x qps   {cpu / our_cpu:.2f} x queries per CPU second", flush=True)


def throughput(
    bench: Bench, title: str, lines: Callable[[str, int], Iterable[str]], options: argparse.Namespace, saturated: bool = False
) -> None:
    """dnsperf against all servers by turns; then, if `saturated`, a client that is cheaper than they are."""
    with bench.all_serving() as pids:
        for server, pid in pids.items():
            bench.dnsperf(server, pid, lines(server, -1), 1)
        ways = {title: bench.dnsperf, **({f"{title} full": bench.saturate} if saturated else {})}
        for name, ask in ways.items():
            runs: dict[str, list[Load]] = {server: [] for server in pids}
            for turn in range(options.rounds):
                for server, pid in pids.items():
                    runs[server].append(ask(server, pid, lines(server, turn), options.seconds))
            compare(name, runs)


def part_service(bench: Bench, options: argparse.Namespace) -> None:
    throughput(bench, "service", lambda _server, _turn: (f"s{n}.{ZONE}" for n in range(bench.names)), options, True)


def part_views(bench: Bench, options: argparse.Namespace) -> None:
    """What it costs to know who asks: a worker with views beside one without, by turns."""
    kinds = {"service": f"s{{}}.{ZONE}", "cached": "w{}.example"}
    with bench.upstream(), bench.fairway() as plain, bench.fairway("views") as knowing:
        for title, form in kinds.items():
            runs: dict[str, list[Load]] = {"fairway": [], "views": []}
            lines = [form.format(n) for n in range(bench.names)]
            for turn in range(options.rounds + 1):
                for server, pid in (("fairway", plain.pid), ("views", knowing.pid)):
                    load = bench.dnsperf(server, pid, lines, options.seconds if turn else 1)
                    runs[server] += [load] if turn else []
            compare(f"views {title}", runs, "views")


def part_cached(bench: Bench, options: argparse.Namespace) -> None:
    throughput(bench, "cached", lambda _server, _turn: (f"w{n}.example" for n in range(bench.names)), options, True)


def part_uncached(bench: Bench, options: argparse.Namespace) -> None:
    def fresh(server: str, turn: int) -> Iterator[str]:
        return (f"u{turn}-{n}.example" for n in range(int(60_000 * options.seconds)))

    throughput(bench, "uncached", fresh, options)
    with bench.all_serving() as pids:
        seen: dict[str, list[float]] = {server: [] for server in pids}
        for turn in range(max(5, options.rounds)):
            for server, many in seen.items():
                many.append(bench.in_turn(server, [f"l{turn}-{n}.example" for n in range(2000)]))
    best = {server: min(many) for server, many in seen.items()}
    for server in best:
        every = ", ".join(f"{took:.0f}" for took in seen[server])
        ratio = best["fairway"] / best[server]
        print(
            f"uncached     p50 in turn: {server:8} {best[server]:.0f} us (all rounds: {every})   our ratio {ratio:.2f}",
            flush=True,
        )


def part_latency(bench: Bench, options: argparse.Namespace) -> None:
    names = [f"s{n}.{ZONE}" for n in range(bench.names)]
    with bench.all_serving() as pids:
        runs: dict[str, list[Latency]] = {server: [] for server in pids}
        for _turn in range(max(3, options.rounds)):
            for server, many in runs.items():
                many.append(bench.latency(server, names, options.rate, options.seconds))
    show("latency", runs)


def show(title: str, runs: dict[str, list[Latency]]) -> None:
    """One line per server: its best round, and what the others were like."""
    for server, many in runs.items():
        best = min(many, key=lambda run: (run.lost, run.p99))
        every = ", ".join(f"{run.p99:.0f}" for run in many)
        print(
            f"{title:12} {server:8} offered {best.offered:,.0f}/s   lost {best.lost} of {best.sent}   p50 {best.p50:.0f} us   "
            f"p99 {best.p99:.0f} us   (p99 of all runs: {every}; lost: {', '.join(str(run.lost) for run in many)})",
            flush=True,
        )


def part_cold(bench: Bench, options: argparse.Namespace) -> None:
    """As `latency`, but each round is the first seconds of a process that has answered one question before."""
    names = [f"s{n}.{ZONE}" for n in range(bench.names)]
    runs: dict[str, list[Latency]] = {server: [] for server in bench.servers}
    waits, memory = [], []

    def once(server: str) -> Latency:
        with bench.serving(server) as process:
            since = time.perf_counter()
            found = bench.latency(server, names, options.rate, options.seconds, lambda: waits.append(time.perf_counter() - since))
            if server == "fairway":
                memory.append(resident(process.pid))
            return found

    for _turn in range(max(3, options.rounds)):
        for server, many in runs.items():
            many.append(once(server))
    print(f"cold         the load began {max(waits) * 1e3:.1f} ms after the first answer or sooner; worker {max(memory):.0f} MB")
    show("cold", runs)


def part_headless(bench: Bench, options: argparse.Namespace) -> None:
    ask = query(f"big.{ZONE}")

    def many(server: str, count: int = 200) -> tuple[float, int]:
        with socket.create_connection((NODE, PORTS[server])) as connection, connection.makefile("rb") as file:
            start = time.perf_counter()
            for _ in range(count):
                connection.sendall(len(ask).to_bytes(2, "big") + ask)
                reply = file.read(int.from_bytes(file.read(2), "big"))
            return (time.perf_counter() - start) / count * 1e6, struct.unpack_from("!H", reply, 6)[0]

    with bench.fairway(), bench.unbound():
        times: dict[str, list[float]] = {"fairway": [], "unbound": []}
        for _ in range(options.rounds):
            for server, seen in times.items():
                took, answers = netns.run_in(f"/run/netns/{bench.client}", lambda server=server: many(server))  # type: ignore[misc]
                assert answers == ENDPOINTS, f"{server}: {answers} answers"
                seen.append(took)
    ours, theirs = (statistics.median(seen) for seen in times.values())
    print(
        f"headless     {ENDPOINTS} addresses over TCP: fairway {ours:.0f} us, unbound {theirs:.0f} us, ratio {ours / theirs:.2f}"
    )


def part_load(bench: Bench, options: argparse.Namespace) -> None:
    async def body() -> float:
        feed = ZoneFeed(bench.path / "feed.sock")
        await feed.start()
        start = time.perf_counter()
        feed.reset(records(bench.names), 2)
        await feed.wait_acked(2, 20)
        taken = time.perf_counter() - start
        await feed.close()
        return taken

    with bench.fairway():
        taken = asyncio.run(body())
    print(f"load         {bench.names + ENDPOINTS} records pushed, connected and acknowledged in {taken:.3f} s")


def part_change(bench: Bench, options: argparse.Namespace) -> None:
    async def body() -> list[float]:
        feed = ZoneFeed(bench.path / "feed.sock")
        await feed.start()
        feed.reset(records(bench.names), 1)
        await feed.wait_acked(1, 20)
        times = []
        for turn in range(100):
            old = Record(f"s{turn}.{ZONE}", "A", f"10.96.0.{turn}")
            new = Record(f"s{turn}.{ZONE}", "A", f"10.97.0.{turn}")
            await asyncio.to_thread(bench.ask, "fairway", new.name)
            start = time.perf_counter()
            feed.publish(ZoneDelta(frozenset({new}), frozenset({old})), turn + 2)
            while await asyncio.to_thread(bench.ask, "fairway", new.name) != [new.data]:
                pass
            times.append((time.perf_counter() - start) * 1000)
        await feed.close()
        return times

    with bench.fairway():
        times = asyncio.run(body())
    print(f"change       publish to answer: median {statistics.median(times):.2f} ms, max {max(times):.2f} ms")


def part_junk(bench: Bench, options: argparse.Namespace) -> None:
    with bench.upstream(), bench.fairway() as process:
        print(f"junk         before {resident(process.pid):.0f} MB")
        total = 0
        # Names of ours that do not exist, foreign ones that do, and foreign ones below a name that does not.
        for zone, count in ((ZONE, 400_000), ("example", 300_000), ("missing", 300_000)):
            load = bench.dnsperf("fairway", process.pid, (f"j{n}.{zone}" for n in range(count)), 120, once=True)
            total += load.done
            print(
                f"junk         {zone:24} {load.qps:9,.0f} qps   lost {load.lost:.3%}   "
                f"{total:9,} answered   resident {resident(process.pid):.0f} MB",
                flush=True,
            )


PARTS = {
    name.removeprefix("part_"): function
    for name, function in list(globals().items())
    if name.startswith("part_")
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="DNS worker against unbound.")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part; may be repeated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--names", type=int, default=10_000)
    parser.add_argument("--rate", type=int, default=60_000)
    parser.add_argument(
        "--realtime", action="store_true", help="SCHED_FIFO for servers and clients, on a machine with other load"
    )
    options = parser.parse_args()
    for tool in ("dnsperf", "unbound"):
        if shutil.which(tool) is None:
            parser.error(f"{tool} is not installed")
    with tempfile.TemporaryDirectory(prefix="fairway-bench-") as path:
        bench = Bench(Path(path), options.names, options.realtime)
        try:
            print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
            for name in options.part or PARTS:
                PARTS[name](bench, options)
            print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
        finally:
            bench.close()


if __name__ == "__main__":
    main()
