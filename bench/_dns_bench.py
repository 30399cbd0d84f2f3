"""Where `bench/dns.py` measures: two namespaces, the servers in one, the clients in the other."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from _dns_load import saturate
from _dns_peers import COREDNS_VARIABLE, coredns_argv, corefile, hosts_file, unbound_conf, upstream_conf
from _dns_probe import Latency, ask_in_turn, probe

from fairway_dns.config import Address, WorkerConfig
from fairway_dns.names import to_key
from fairway_dns.protocol import encode, snapshot
from fairway_dns.views import Fact
from fairway_dns.zone import Record
from fairway_kernel import netns

ZONE = "bench.svc.cluster.local"
NODE, CLIENT = "10.9.0.1", "10.9.0.2"
PORTS = {"fairway": 53, "unbound": 5353, "views": 5354, "coredns": 5355}
UPSTREAM = 5300
ENDPOINTS = 1000


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
        file = self.path / "unbound.conf"
        data = records(self.names)
        file.write_text(unbound_conf(self.path, NODE, PORTS["unbound"], data, f"127.0.0.1@{UPSTREAM}"))
        with self.process(self.node, 0, ["unbound", "-d", "-c", str(file)]) as process:
            self.await_answer("unbound", f"s1.{ZONE}")
            yield process

    @contextmanager
    def coredns(self) -> Iterator[subprocess.Popen[bytes]]:
        config, hosts = self.path / "Corefile", self.path / "hosts"
        hosts.write_text(hosts_file(records(self.names)))
        config.write_text(corefile(NODE, PORTS["coredns"], hosts, f"127.0.0.1:{UPSTREAM}"))
        with self.process(self.node, 0, coredns_argv(os.environ[COREDNS_VARIABLE], config)) as process:
            self.await_answer("coredns", f"s1.{ZONE}")
            yield process

    @property
    def servers(self) -> tuple[str, ...]:
        """Whom is compared: ourselves, unbound, and CoreDNS if the environment names one."""
        return ("fairway", "unbound", "coredns") if os.environ.get(COREDNS_VARIABLE) else ("fairway", "unbound")

    def serving(self, server: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """One of `servers`, from its first answer on."""
        made: AbstractContextManager[subprocess.Popen[bytes]] = getattr(self, server)()
        return made

    @contextmanager
    def all_serving(self) -> Iterator[dict[str, int]]:
        """All servers and their upstream: process ids by name."""
        with self.upstream(), ExitStack() as stack:
            yield {server: stack.enter_context(self.serving(server)).pid for server in self.servers}

    @contextmanager
    def upstream(self) -> Iterator[subprocess.Popen[bytes]]:
        """Answers every name below `example`, for all servers."""
        file = self.path / "upstream.conf"
        file.write_text(upstream_conf(self.path, "127.0.0.1", UPSTREAM))
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

    def saturate(self, server: str, pid: int, lines: Iterable[str], seconds: float) -> Load:
        """As `dnsperf`, by a client that leaves no doubt whose core is the bound."""
        queries = [query(line) for line in lines]

        def body() -> Load:
            self._as_client()
            before = cpu_seconds(pid)
            found = saturate(NODE, PORTS[server], queries, seconds)
            spent = cpu_seconds(pid) - before
            return Load(found.qps, spent / max(1, found.done) * 1e6, 1 - found.done / found.sent, found.done)

        return netns.run_in(f"/run/netns/{self.client}", body)

    def _as_client(self) -> None:
        """For a thread: the client's core, and the priority of all that is measured."""
        os.sched_setaffinity(0, {1})
        if self.priority:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))

    def latency(
        self, server: str, names: list[str], rate: int, seconds: float, begins: Callable[[], None] = lambda: None
    ) -> Latency:
        """What an open-loop client sees; `begins` is called when its first query is about to leave."""
        queries = [query(name) for name in names]

        def body() -> Latency:
            self._as_client()
            begins()
            return probe(NODE, PORTS[server], queries, rate, seconds)

        return netns.run_in(f"/run/netns/{self.client}", body)

    def in_turn(self, server: str, names: list[str]) -> float:
        """Median microseconds of one answer, asked one after another by a client that sleeps while it waits."""

        def body() -> float:
            self._as_client()
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
