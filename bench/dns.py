"""Names per second, latency and loss of a DNS worker next to unbound, side by side in one run.

    python bench/dns.py [--part NAME …] [--rounds N] [--seconds S] [--names N] [--rate QPS]

Parts: `service` (names of the service zone; unbound serves the same as local-data), `cached` (foreign names, warm in both
caches), `uncached` (names never seen before, through one local upstream), `latency` (open-loop probe at --rate on service
names: loss, p50, p99), `cold` (the same from the first moment of a process, which is started anew for each round), `headless`
(1,000 endpoints over TCP), `load` (a table of 10,000 services to its first answer), `change` (from `publish` to the new answer
at the client), `junk` (memory while a million distinct names are asked for).

Client and servers sit in two namespaces joined by a veth pair; the server owns core 0, the client and the upstream core 1.
Rounds alternate between the servers, so that other load on the machine hits both. Needs root, dnsperf and unbound.
Figures are medians over the rounds (latency: the best round); ratios are fairway / unbound.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from _dns_probe import Latency, ask_in_turn, probe

from fairway_dns.config import Address, WorkerConfig
from fairway_dns.feed import ZoneFeed
from fairway_dns.names import to_key
from fairway_dns.protocol import encode, snapshot
from fairway_dns.views import Fact
from fairway_dns.zone import Record, ZoneDelta
from fairway_kernel import netns

ZONE = "bench.svc.cluster.local"
NODE, CLIENT = "10.9.0.1", "10.9.0.2"
PORTS = {"fairway": 53, "unbound": 5353, "views": 5354}
UPSTREAM = 5300
ENDPOINTS = 1000
UNBOUND = """
server:
  directory: "{path}"
  pidfile: ""
  chroot: ""
  username: ""
  use-syslog: no
  verbosity: 0
  interface: {address}
  port: {port}
  access-control: 0.0.0.0/0 allow
  num-threads: 1
  do-ip6: no
  so-rcvbuf: 8m
  module-config: "iterator"
  msg-cache-size: 64m
  rrset-cache-size: 128m
  num-queries-per-thread: 4096
  outgoing-range: 8192
  do-not-query-localhost: no
  local-zone: "cluster.local." static
  local-zone: "{extra}." {kind}
"""


def records(count: int, scoped: bool = False) -> list[Record]:
    """So many services with one address each, and one headless service with a thousand endpoints."""
    space = ZONE.partition(".")[0]
    plain = [Record(f"s{n}.{ZONE}", "A", f"10.96.{n >> 8}.{n & 255}", f"{space}/s{n}" if scoped else "") for n in range(count)]
    return plain + [Record(f"big.{ZONE}", "A", f"10.244.{n >> 8}.{n & 255}") for n in range(ENDPOINTS)]


def facts(count: int) -> list[Fact]:
    """A hundred views of one tenant, each with something else hidden; the client has the first."""
    space = ZONE.partition(".")[0]
    found = [Fact("scope", f"{space}/s{n}", ("acme", f"g{n % 100}")) for n in range(count)]
    for n in range(100):
        found += [Fact("view", f"v{n}", (space, "acme")), Fact("address", f"10.9.0.{n + 2}", (f"v{n}",))]
        found.append(Fact("except", f"v{n}", (f"of-others-{n}",)))
    return found


@dataclass(frozen=True, slots=True)
class Load:
    """One run of dnsperf: answers per second, CPU microseconds of the server per answer, share of queries lost, answers."""

    qps: float
    cpu: float
    lost: float
    done: int


class Bench:
    """Two namespaces, the servers in one, the client in the other."""

    def __init__(self, path: Path, names: int, realtime: bool) -> None:
        self.path, self.names = path, names
        self.priority = ["chrt", "-f", "10"] if realtime else []
        self._stack = ExitStack()
        self.node, self.client = (f"fwbench-{os.getpid()}-{side}" for side in ("node", "client"))
        for name in (self.node, self.client):
            netns.create(name)
            self._stack.callback(netns.delete, name)
        self._wire()

    def close(self) -> None:
        self._stack.close()

    def _wire(self) -> None:
        for words in (
            f"-n {self.node} link add veth0 type veth peer name veth0 netns {self.client}",
            f"-n {self.node} addr add {NODE}/24 dev veth0",
            f"-n {self.client} addr add {CLIENT}/24 dev veth0",
            *(f"-n {name} link set {device} up" for name in (self.node, self.client) for device in ("lo", "veth0")),
        ):
            subprocess.run(["ip", *words.split()], check=True)

    @contextmanager
    def process(self, where: str, core: int, words: Iterable[str]) -> Iterator[subprocess.Popen[bytes]]:
        """A process in a namespace on one core, ended at the end."""
        command = ["ip", "netns", "exec", where, *self.priority, "taskset", "-c", str(core), *words]
        log = (self.path / "server.log").open("ab")
        made = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield made
        finally:
            made.send_signal(signal.SIGTERM)
            made.wait()
            log.close()

    @contextmanager
    def fairway(self, server: str = "fairway") -> Iterator[subprocess.Popen[bytes]]:
        """A worker that starts from its state file; "views": one that knows who asks."""
        state = self.path / f"zone-{server}"
        scoped = server == "views"
        frames = snapshot(records(self.names, scoped), 1, facts(self.names) if scoped else (), scoped)
        state.write_bytes(b"".join(map(encode, frames)))
        upstreams = (Address("127.0.0.1", UPSTREAM),)
        config = WorkerConfig(str(self.path / "feed.sock"), (NODE,), PORTS[server], upstreams, str(state), views=scoped)
        with self.process(self.node, 0, config.argv(sys.executable)) as process:
            self.await_answer(server, f"s1.{ZONE}")
            yield process

    @contextmanager
    def unbound(self) -> Iterator[subprocess.Popen[bytes]]:
        text = UNBOUND.format(path=self.path, address=NODE, port=PORTS["unbound"], extra="junk.test", kind="transparent")
        data = "".join(f'  local-data: "{r.name}. 5 IN {r.type} {r.data}"\n' for r in records(self.names))
        file = self.path / "unbound.conf"
        file.write_text(f'{text}{data}forward-zone:\n  name: "."\n  forward-addr: 127.0.0.1@{UPSTREAM}\n')
        with self.process(self.node, 0, ["unbound", "-d", "-c", str(file)]) as process:
            self.await_answer("unbound", f"s1.{ZONE}")
            yield process

    @contextmanager
    def upstream(self) -> Iterator[subprocess.Popen[bytes]]:
        """Answers every name below `example`, for both servers."""
        text = UNBOUND.format(path=self.path, address="127.0.0.1", port=UPSTREAM, extra="example", kind="redirect")
        file = self.path / "upstream.conf"
        file.write_text(f'{text}  local-data: "example. 3600 IN A 192.0.2.1"\n')
        with self.process(self.node, 1, ["unbound", "-d", "-c", str(file)]) as process:
            yield process

    def await_answer(self, server: str, name: str) -> None:
        deadline = time.monotonic() + 20
        while not self.ask(server, name, 0.2):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{server} does not answer: {(self.path / 'server.log').read_text()}")

    def ask(self, server: str, name: str, timeout: float = 2.0) -> list[str]:
        """The addresses of `name`, asked once over UDP; none for silence or a denial."""

        def body() -> list[str]:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
                made.settimeout(timeout)
                made.connect((NODE, PORTS[server]))
                try:
                    made.send(query(name))
                    reply = made.recv(2048)
                except OSError:
                    time.sleep(0.002)
                    return []
            count = struct.unpack_from("!H", reply, 6)[0]
            start = len(query(name))
            return [socket.inet_ntoa(reply[start + 16 * n + 12 : start + 16 * n + 16]) for n in range(count)]

        return netns.run_in(f"/run/netns/{self.client}", body)

    def dnsperf(self, server: str, pid: int, lines: Iterable[str], seconds: float, *, once: bool = False) -> Load:
        """Ask `lines` for so many seconds, over and over; or `once` each, if the time is enough."""
        file = self.path / "queries"
        file.write_text("".join(f"{line} A\n" for line in lines))
        words = f"dnsperf -s {NODE} -p {PORTS[server]} -d {file} -l {seconds} -c 16 -T 1 -q 128 -t 2{' -n 1' * once}"
        command = f"ip netns exec {self.client} {' '.join(self.priority)} taskset -c 1 {words}"
        before = cpu_seconds(pid)
        text = subprocess.run(command.split(), check=True, capture_output=True, text=True).stdout
        spent = cpu_seconds(pid) - before
        sent, done = (int(found(rf"Queries {word}: +(\d+)", text)) for word in ("sent", "completed"))
        return Load(float(found(r"Queries per second: +([\d.]+)", text)), spent / done * 1e6, 1 - done / sent, done)

    def latency(
        self, server: str, names: list[str], rate: int, seconds: float, begins: Callable[[], None] = lambda: None
    ) -> Latency:
        """What an open-loop client sees; `begins` is called when its first query is about to leave."""
        queries = [query(name) for name in names]

        def body() -> Latency:
            os.sched_setaffinity(0, {1})
            if self.priority:
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
            begins()
            return probe(NODE, PORTS[server], queries, rate, seconds)

        return netns.run_in(f"/run/netns/{self.client}", body)

    def in_turn(self, server: str, names: list[str]) -> float:
        """Median microseconds of one answer, asked one after another by a client that sleeps while it waits."""

        def body() -> float:
            os.sched_setaffinity(0, {1})
            return ask_in_turn(NODE, PORTS[server], [query(name) for name in names])

        return netns.run_in(f"/run/netns/{self.client}", body)


def query(name: str, qtype: int = 1) -> bytes:
    return struct.pack("!HHHHHH", 7, 0x100, 1, 0, 0, 0) + to_key(name) + struct.pack("!HH", qtype, 1)


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"dnsperf said: {text}")
    return match.group(1)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> float:
    """Resident memory in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def compare(title: str, runs: dict[str, list[Load]], us: str = "fairway", them: str = "unbound") -> None:
    """One line per server and the ratios."""
    middle = {
        name: tuple(statistics.median(getattr(run, field) for run in many) for field in ("qps", "cpu", "lost"))
        for name, many in runs.items()
    }
    for name, (qps, cpu, lost) in middle.items():
        print(f"{title:10} {name:8} {qps:10,.0f} qps   {cpu:6.2f} us CPU/query   lost {lost:.3%}")
    (ours, our_cpu, _), (theirs, their_cpu, _) = middle[us], middle[them]
    print(f"{title:10} ratio    {ours / theirs:10.2f} x qps   {their_cpu / our_cpu:6.2f} x queries per CPU second", flush=True)


def throughput(bench: Bench, title: str, lines: Callable[[str, int], Iterable[str]], options: argparse.Namespace) -> None:
    runs: dict[str, list[Load]] = {"fairway": [], "unbound": []}
    with bench.upstream(), bench.fairway() as ours, bench.unbound() as theirs:
        pids = {"fairway": ours.pid, "unbound": theirs.pid}
        for server, pid in pids.items():
            bench.dnsperf(server, pid, lines(server, -1), 1)
        for turn in range(options.rounds):
            for server, pid in pids.items():
                runs[server].append(bench.dnsperf(server, pid, lines(server, turn), options.seconds))
    compare(title, runs)


def part_service(bench: Bench, options: argparse.Namespace) -> None:
    throughput(bench, "service", lambda _server, _turn: (f"s{n}.{ZONE}" for n in range(bench.names)), options)


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
            compare(f"views {title}", runs, "views", "fairway")


def part_cached(bench: Bench, options: argparse.Namespace) -> None:
    throughput(bench, "cached", lambda _server, _turn: (f"w{n}.example" for n in range(bench.names)), options)


def part_uncached(bench: Bench, options: argparse.Namespace) -> None:
    def fresh(server: str, turn: int) -> Iterator[str]:
        return (f"u{turn}-{n}.example" for n in range(int(60_000 * options.seconds)))

    throughput(bench, "uncached", fresh, options)
    with bench.upstream(), bench.fairway(), bench.unbound():
        best: dict[str, float] = {}
        best_of = ("fairway", "unbound")
        for turn in range(options.rounds):
            for server in best_of:
                names = [f"l{turn}-{n}.example" for n in range(2000)]
                took = bench.in_turn(server, names)
                best[server] = min(took, best.get(server, took))
        ratio = best["fairway"] / best["unbound"]
        print(f"uncached   p50 in turn: fairway {best['fairway']:.0f} us, unbound {best['unbound']:.0f} us, ratio {ratio:.2f}")


def part_latency(bench: Bench, options: argparse.Namespace) -> None:
    names = [f"s{n}.{ZONE}" for n in range(bench.names)]
    runs: dict[str, list[Latency]] = {"fairway": [], "unbound": []}
    with bench.upstream(), bench.fairway(), bench.unbound():
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
            f"{title:10} {server:8} offered {best.offered:,.0f}/s   lost {best.lost} of {best.sent}   p50 {best.p50:.0f} us   "
            f"p99 {best.p99:.0f} us   (p99 of all runs: {every}; lost: {', '.join(str(run.lost) for run in many)})",
            flush=True,
        )


def part_cold(bench: Bench, options: argparse.Namespace) -> None:
    """As `latency`, but each round is the first seconds of a process that has answered one question before."""
    names = [f"s{n}.{ZONE}" for n in range(bench.names)]
    runs: dict[str, list[Latency]] = {"fairway": [], "unbound": []}
    waits, memory = [], []

    def once(server: str) -> Latency:
        with bench.fairway() if server == "fairway" else bench.unbound() as process:
            since = time.perf_counter()
            found = bench.latency(server, names, options.rate, options.seconds, lambda: waits.append(time.perf_counter() - since))
            if server == "fairway":
                memory.append(resident(process.pid))
            return found

    for _turn in range(max(3, options.rounds)):
        for server, many in runs.items():
            many.append(once(server))
    print(f"cold       the load began {max(waits) * 1e3:.1f} ms after the first answer or sooner; worker {max(memory):.0f} MB")
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
    print(f"headless   {ENDPOINTS} addresses over TCP: fairway {ours:.0f} us, unbound {theirs:.0f} us, ratio {ours / theirs:.2f}")


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
    print(f"load       {bench.names + ENDPOINTS} records pushed, connected and acknowledged in {taken:.3f} s")


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
    print(f"change     publish to answer: median {statistics.median(times):.2f} ms, max {max(times):.2f} ms")


def part_junk(bench: Bench, options: argparse.Namespace) -> None:
    with bench.upstream(), bench.fairway() as process:
        print(f"junk       before {resident(process.pid):.0f} MB")
        total = 0
        # Names of ours that do not exist, foreign ones that do, and foreign ones below a name that does not.
        for zone, count in ((ZONE, 400_000), ("example", 300_000), ("missing", 300_000)):
            load = bench.dnsperf("fairway", process.pid, (f"j{n}.{zone}" for n in range(count)), 120, once=True)
            total += load.done
            print(
                f"junk       {zone:24} {load.qps:9,.0f} qps   lost {load.lost:.3%}   "
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
