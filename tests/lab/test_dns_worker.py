"""Worker processes with real packets between namespaces: IPv4 and IPv6, UDP and TCP, and everything that may die."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import dns.message
import dns.query
import dns.rcode
import pytest

from fairway_dns.config import Address, WorkerConfig
from fairway_dns.feed import ZoneFeed
from fairway_dns.protocol import encode, snapshot
from fairway_dns.views import Fact
from fairway_dns.zone import Record, ZoneDelta
from fairway_kernel.netns import run_in

pytestmark = pytest.mark.needs_root

V4, V6 = "169.254.20.10", "fd00:53::a"
WEB = "web.shop.svc.cluster.local"
FEED = """
import asyncio, sys
from fairway_dns.feed import ZoneFeed
from fairway_dns.zone import Record
async def main():
    feed = ZoneFeed(sys.argv[1])
    await feed.start()
    zone = "shop.svc.cluster.local"
    feed.reset({Record(f"web.{zone}", "A", "10.96.0.10"), Record(f"out.{zone}", "CNAME", "www.example.com")}, 5)
    print(await feed.wait_acked(5, 10), flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@dataclass
class Lab:
    """A node and a client joined by a veth pair; processes started here end here."""

    node: str
    client: str
    path: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def config(self, **more: object) -> WorkerConfig:
        return WorkerConfig(str(self.path / "feed.sock"), (V4, V6), state=str(self.path / "zone"), **more)  # type: ignore[arg-type]

    def worker(self, config: WorkerConfig) -> subprocess.Popen[bytes]:
        read_end, write_end = os.pipe()
        environment = {**os.environ, "FAIRWAY_READY_FD": str(write_end)}

        def start() -> subprocess.Popen[bytes]:
            log = (self.path / "log").open("ab")
            return subprocess.Popen(config.argv(sys.executable), stderr=log, env=environment, pass_fds=[write_end])

        process = run_in(self.node, start)
        self.processes.append(process)
        os.close(write_end)
        assert os.read(read_end, 16) == b"ready\n", (self.path / "log").read_text()
        os.close(read_end)
        return process

    def feed_process(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", FEED, str(self.path / "feed.sock")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"True\n"
        return process

    def ask(self, name: str = WEB, rtype: str = "A", server: str = V4, tcp: bool = False, **more: object) -> dns.message.Message:
        query = dns.message.make_query(name, rtype, **more)  # type: ignore[arg-type]
        how = dns.query.tcp if tcp else dns.query.udp
        return run_in(self.client, lambda: how(query, server, timeout=5))


def ip(namespace: str, *words: str) -> None:
    subprocess.run(["ip", "-n", Path(namespace).name, *words], check=True)


@pytest.fixture
def lab(namespaces: Callable[[str], str], tmp_path: Path) -> Iterator[Lab]:
    made = Lab(namespaces("node"), namespaces("client"), tmp_path)
    ip(made.node, "link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", Path(made.client).name)
    for namespace, device, four, six in (
        (made.node, "up0", "10.9.0.1/24", "fd09::1/64"),
        (made.client, "eth0", "10.9.0.2/24", "fd09::2/64"),
    ):
        ip(namespace, "link", "set", "lo", "up")
        ip(namespace, "link", "set", device, "up")
        ip(namespace, "addr", "add", four, "dev", device)
        ip(namespace, "addr", "add", six, "dev", device, "nodad")
    ip(made.node, "addr", "add", f"{V4}/32", "dev", "lo")
    ip(made.node, "addr", "add", f"{V6}/128", "dev", "lo", "nodad")
    ip(made.client, "route", "add", f"{V4}/32", "via", "10.9.0.1")
    ip(made.client, "route", "add", f"{V6}/128", "via", "fd09::1")
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def addresses(message: dns.message.Message) -> list[str]:
    return [rr.address for rrset in message.answer for rr in rrset if rr.rdtype.name in ("A", "AAAA")]


def test_answers_survive_the_death_of_the_agent_and_their_own(lab: Lab) -> None:
    worker = lab.worker(lab.config())
    assert lab.ask().rcode() == dns.rcode.SERVFAIL
    feed = lab.feed_process()
    for server in (V4, V6):
        for tcp in (False, True):
            assert addresses(lab.ask(server=server, tcp=tcp)) == ["10.96.0.10"]
            assert lab.ask("nope.shop.svc.cluster.local", server=server, tcp=tcp).rcode() == dns.rcode.NXDOMAIN
    feed.kill()
    feed.wait()
    assert addresses(lab.ask()) == ["10.96.0.10"]
    time.sleep(0.2)
    worker.kill()
    worker.wait()
    lab.worker(lab.config())
    assert addresses(lab.ask()) == ["10.96.0.10"]
    assert lab.ask("nope.shop.svc.cluster.local").rcode() == dns.rcode.NXDOMAIN


async def test_a_change_is_visible_once_it_is_acknowledged_both_signs(lab: Lab) -> None:
    feed = ZoneFeed(lab.path / "feed.sock")
    await feed.start()
    feed.reset(frozenset(), 1)
    await asyncio.to_thread(lab.worker, lab.config())
    assert await feed.wait_acked(1, 5)
    one = Record(WEB, "A", "10.96.0.10")
    for revision in range(2, 22, 2):
        feed.publish(ZoneDelta(add=frozenset({one})), revision)
        assert await feed.wait_acked(revision, 2)
        assert addresses(await asyncio.to_thread(lab.ask)) == ["10.96.0.10"]
        feed.publish(ZoneDelta(remove=frozenset({one})), revision + 1)
        assert await feed.wait_acked(revision + 1, 2)
        assert (await asyncio.to_thread(lab.ask)).rcode() == dns.rcode.NXDOMAIN
    await feed.close()


async def test_a_worker_with_an_older_table_listens_once_it_has_the_newer_one(lab: Lab) -> None:
    feed = ZoneFeed(lab.path / "feed.sock")
    await feed.start()
    feed.reset(frozenset(), 1)
    first = await asyncio.to_thread(lab.worker, lab.config())
    assert await feed.wait_acked(1, 5)
    first.terminate()
    await asyncio.to_thread(first.wait)
    more = [Record(f"n{n}.shop.svc.cluster.local", "A", "10.96.0.11") for n in range(3000)]
    feed.reset({*more, Record(WEB, "A", "10.96.0.10")}, 2)
    await asyncio.to_thread(lab.worker, lab.config())
    assert addresses(await asyncio.to_thread(lab.ask)) == ["10.96.0.10"]
    await feed.close()


def stream(lab: Lab) -> socket.socket:
    return run_in(lab.client, lambda: socket.create_connection((V4, 53), timeout=5))


def test_tcp_pipelining_and_half_messages(lab: Lab) -> None:
    lab.worker(lab.config())
    queries = [dns.message.make_query(name, "A") for name in ("localhost", "x.localhost", "a.invalid")]
    wires = [query.to_wire() for query in queries]
    with stream(lab) as connection:
        connection.sendall(b"".join(len(wire).to_bytes(2, "big") + wire for wire in wires)[:-3])
        time.sleep(0.05)
        connection.sendall(wires[-1][-3:])
        file = connection.makefile("rb")
        replies = [dns.message.from_wire(file.read(int.from_bytes(file.read(2), "big"))) for _ in wires]
        assert {reply.id for reply in replies} == {query.id for query in queries}
        file.close()
    with stream(lab) as connection:
        connection.sendall(b"\xff\xff" + bytes(65535))
        assert connection.recv(100)[2 + 3] & 15 == dns.rcode.FORMERR
    with stream(lab) as connection:
        reply = bytearray(wires[0])
        reply[2] |= 0x80
        connection.sendall(len(reply).to_bytes(2, "big") + reply)
        assert connection.recv(100) == b""


NAME_SERVER = """
import dns.message, dns.rrset, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], 5300))
print("up", flush=True)
while True:
    data, client = s.recvfrom(4096)
    q = dns.message.from_wire(data)
    r = dns.message.make_response(q)
    r.answer.append(dns.rrset.from_text(q.question[0].name, 300, "IN", "A", sys.argv[2]))
    s.sendto(r.to_wire(), client)
    if q.question[0].rdtype != 13:  # HINFO: a probe for loops.
        print(q.question[0].name.to_text().lower(), flush=True)
"""


def name_server(lab: Lab, host: str = "127.0.0.2", answer: str = "192.0.2.7") -> subprocess.Popen[bytes]:
    """A server beside the worker that gives every name the same address, and prints the names in lower case."""
    words = [sys.executable, "-c", NAME_SERVER, host, answer]
    process = run_in(lab.node, lambda: subprocess.Popen(words, stdout=subprocess.PIPE))
    lab.processes.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    return process


def test_external_names_are_chased_through_the_upstream_and_cached(lab: Lab) -> None:
    upstream = name_server(lab)
    lab.worker(lab.config(upstreams=(Address("127.0.0.2", 5300),)))
    lab.feed_process()
    found = lab.ask("out.shop.svc.cluster.local")
    assert [rrset.to_text() for rrset in found.answer] == [
        "out.shop.svc.cluster.local. 5 IN CNAME www.example.com.",
        "www.example.com. 300 IN A 192.0.2.7",
    ]
    for _ in range(3):
        assert addresses(lab.ask("WWW.example.com")) == ["192.0.2.7"]
    assert lab.ask("1.2.3.10.in-addr.arpa", "PTR").rcode() == dns.rcode.NXDOMAIN
    assert lab.ask("nope.svc.cluster.local").rcode() == dns.rcode.NXDOMAIN
    query = dns.message.make_query("norecursion.example", "A", flags=0)
    assert run_in(lab.client, lambda: dns.query.udp(query, V4, timeout=5)).rcode() == dns.rcode.REFUSED
    upstream.kill()
    assert upstream.stdout.read() == b"www.example.com.\n"


def test_fixed_names_and_zones_with_servers_of_their_own(lab: Lab) -> None:
    name_server(lab)
    name_server(lab, "127.0.0.3", "192.0.2.33")
    config = lab.config(
        upstreams=(Address("127.0.0.2", 5300),),
        hosts=(("ldap.corp.example", ("10.7.0.1", "fd00::7")), ("old.box", ("10.7.0.2",))),
        stubs=(("corp.example", (Address("127.0.0.3", 5300),)), ("7.10.in-addr.arpa", (Address("127.0.0.3", 5300),))),
    )
    lab.worker(config)
    for _ in range(2):
        assert addresses(lab.ask("LDAP.corp.example")) == ["10.7.0.1"]
        assert addresses(lab.ask("ldap.corp.example", "AAAA")) == ["fd00::7"]
        assert addresses(lab.ask("www.corp.example", tcp=True)) == ["192.0.2.33"]
        assert addresses(lab.ask("corp.example")) == ["192.0.2.33"]
        assert addresses(lab.ask("notcorp.example")) == ["192.0.2.7"]
        assert addresses(lab.ask("9.9.7.10.in-addr.arpa")) == ["192.0.2.33"]
        missing = lab.ask("old.box", "AAAA")
        assert (missing.rcode(), missing.answer) == (dns.rcode.NOERROR, [])
        assert lab.ask("2.0.7.10.in-addr.arpa", "PTR").answer[0][0].to_text() == "old.box."
        assert lab.ask("9.9.8.10.in-addr.arpa", "PTR").rcode() == dns.rcode.NXDOMAIN


def test_replacing_a_worker_under_load_loses_no_query(lab: Lab) -> None:
    first = lab.worker(lab.config())
    asked = answered = 0
    sockets = [run_in(lab.client, _udp) for _ in range(16)]
    wire = dns.message.make_query("localhost", "A").to_wire()
    deadline = time.monotonic() + 1.2
    second = None
    while time.monotonic() < deadline:
        for one in sockets:
            one.send(wire)
        for one in sockets:
            asked += 1
            try:
                answered += one.recv(512)[3] & 15 == 0
            except TimeoutError:
                pass
        if second is None and time.monotonic() > deadline - 0.9:
            second = lab.worker(lab.config())
            first.send_signal(signal.SIGTERM)
    for one in sockets:
        one.close()
    assert first.wait(5) == 0
    assert asked > 300
    assert answered == asked


def _udp() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(2)
    made.connect((V4, 53))
    return made


def test_an_address_may_come_after_the_worker(lab: Lab) -> None:
    ip(lab.node, "addr", "del", f"{V4}/32", "dev", "lo")
    ip(lab.node, "addr", "del", f"{V6}/128", "dev", "lo")
    lab.worker(lab.config())
    ip(lab.node, "addr", "add", f"{V4}/32", "dev", "lo")
    ip(lab.node, "addr", "add", f"{V6}/128", "dev", "lo", "nodad")
    assert addresses(lab.ask("localhost")) == ["127.0.0.1"]
    assert addresses(lab.ask("localhost", "AAAA", server=V6, tcp=True)) == ["::1"]


def test_junk_and_floods_do_not_hurt(lab: Lab) -> None:
    worker = lab.worker(lab.config())

    def send() -> None:
        with _udp() as one:
            for n in range(3000):
                one.send(os.urandom(n % 200))
            for flags in (b"\x80\0", b"\x01\0"):
                one.send(b"\0\1" + flags + b"\0\1" + b"\xff" * 6 + bytes(9000))

    run_in(lab.client, send)
    assert addresses(lab.ask("localhost")) == ["127.0.0.1"]
    worker.terminate()
    assert worker.wait(5) == 0
    lines = [json.loads(line) for line in (lab.path / "log").read_text().splitlines()]
    assert [line["level"] for line in lines if line["level"] not in ("info", "warning")] == []
    assert lines[-1]["message"] == "stopped"


def test_bad_settings_end_with_their_exit_code(lab: Lab) -> None:
    def run(*words: str) -> int:
        command = [sys.executable, "-m", "fairway_dns.worker", *words]
        return run_in(lab.node, lambda: subprocess.run(command, capture_output=True, timeout=5).returncode)

    assert run("--feed", "/x", "--listen", V4, "--upstream", "dns.example") == 2
    assert run("--feed", "/x") == 2
    assert run("--feed", "/x", "--listen", "10.9.0") == 2
    assert run("--feed", "/x", "--listen", V4, "--port", "70000") == 2
    with run_in(lab.node, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as taken:
        taken.bind((V4, 53))
        assert run("--feed", "/x", "--listen", V4) == 1


async def test_a_table_without_views_is_not_served_where_names_are_hidden(lab: Lab) -> None:
    record = Record(WEB, "A", "10.96.0.10")
    (lab.path / "zone").write_bytes(b"".join(map(encode, snapshot({record}, 5))))
    worker = lab.worker(lab.config(views=True))
    assert lab.ask().rcode() == dns.rcode.SERVFAIL
    feed = ZoneFeed(lab.path / "feed.sock", scoped=True)
    await feed.start()
    scoped = Record(WEB, "A", "10.96.0.10", "shop/web")
    facts = {Fact("scope", "shop/web", ("acme", "")), Fact("view", "v", ("", "acme")), Fact("address", "10.9.0.2", ("v",))}
    feed.reset({scoped}, 6, facts)
    assert await feed.wait_acked(6, 10)
    await feed.close()
    worker.kill()
    worker.wait()
    lab.worker(lab.config(views=True))
    # From its own state file now: the client is known by its IPv4 address and nobody by the other.
    assert addresses(await asyncio.to_thread(lab.ask)) == ["10.96.0.10"]
    assert (await asyncio.to_thread(lab.ask, server=V6)).rcode() == dns.rcode.NXDOMAIN
