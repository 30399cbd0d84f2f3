"""A worker process and what its upstreams do to it, inside a namespace."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import dns.asyncquery
import dns.edns
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from tests.lab.nameservers import Connections, Udp, answered, at_once, certificates, inside, shows, until

from fairway_dns.config import WorkerConfig, parse_address, parse_stub

pytestmark = pytest.mark.needs_root

HOST, PORT = "127.0.0.10", 5310


@asynccontextmanager
async def worker(path: Path, *upstreams: str, stub: str = "", ca: str = "") -> AsyncIterator[Path]:
    """A worker that answers; its log."""
    config = WorkerConfig(
        str(path / "feed"),
        (HOST,),
        PORT,
        tuple(map(parse_address, upstreams)),
        str(path / "zone"),
        stubs=(parse_stub(stub),) if stub else (),
        tls_ca=ca,
    )
    with (path / "log").open("wb") as log:
        process = subprocess.Popen(config.argv(sys.executable), stderr=log)  # noqa: ASYNC220
    try:
        await until(lambda: b"listening" in (path / "log").read_bytes(), 20)
        yield path / "log"
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)


async def ask(name: str, rtype: str = "A") -> dns.message.Message:
    return await dns.asyncquery.udp(dns.message.make_query(name, rtype, use_edns=0), HOST, 5, PORT)


def reasons(message: dns.message.Message) -> list[int]:
    return [int(option.code) for option in message.options if isinstance(option, dns.edns.EDEOption)]


def questions(server: Udp) -> list[bytes]:
    """What the server was asked, without probes for loops."""
    return [data for data in server.seen if dns.message.from_wire(data).question[0].rdtype != dns.rdatatype.HINFO]


def test_upstreams_and_stub_zones_over_tls(namespace: str, tmp_path: Path) -> None:
    authority = certificates(tmp_path)

    async def body() -> None:
        for host in ("127.0.0.2", "127.0.0.3"):
            await Connections(at_once).start(host, 853, shows(authority, "good"))
        stub = "corp.example=tls://127.0.0.3#dns.example"
        async with worker(tmp_path, "tls://127.0.0.2#dns.example", stub=stub, ca=str(authority / "ca.pem")):
            for name in ("www.example.com", "www.corp.example"):
                assert (await ask(name)).answer[0][0].to_text() == "192.0.2.1"

    inside(namespace, body)


def test_a_loop_is_ended_named_and_counted(namespace: str, tmp_path: Path) -> None:
    class Relay(Udp):
        """A forwarder that asks the worker."""

        def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
            self.seen.append(data)
            self.tasks = [*getattr(self, "tasks", []), asyncio.get_running_loop().create_task(self.relay(data, address))]

        async def relay(self, data: bytes, address: tuple[str, int]) -> None:
            found = await dns.asyncquery.udp(dns.message.from_wire(data), HOST, 5, PORT)
            self.transport.sendto(found.to_wire(), address)  # type: ignore[attr-defined]

    async def body() -> None:
        loop = asyncio.get_running_loop()
        relay = await Relay(lambda data: None).start("127.0.0.2", 5311)
        async with worker(tmp_path, "127.0.0.2:5311") as log:
            start = loop.time()
            assert (await ask("www.example.com")).rcode() == dns.rcode.SERVFAIL
            assert loop.time() - start < 2
            await until(lambda: b"sends our questions back" in log.read_bytes())
            seen = len(relay.seen)
            found = await ask("other.example.com")
            assert (found.rcode(), reasons(found)) == (dns.rcode.SERVFAIL, [22])
            assert len(relay.seen) == seen

    inside(namespace, body)


def test_a_failure_is_remembered_and_says_so(namespace: str, tmp_path: Path) -> None:
    def failing(data: bytes) -> bytes:
        made = dns.message.make_response(dns.message.from_wire(data))
        made.set_rcode(dns.rcode.SERVFAIL)
        return made.to_wire()

    async def body() -> None:
        server = await Udp(failing).start("127.0.0.2")
        async with worker(tmp_path, "127.0.0.2"):
            found = [await ask("www.example.com") for _ in range(5)]
            assert {one.rcode() for one in found} == {dns.rcode.SERVFAIL}
            assert [reasons(one) for one in found[1:]] == [[13]] * 4
            assert len(questions(server)) == 1

    inside(namespace, body)


def test_below_a_denied_name_nobody_asks(namespace: str, tmp_path: Path) -> None:
    def denying(data: bytes) -> bytes:
        query = dns.message.from_wire(data)
        if not query.question[0].name.to_text().lower().endswith("gone.example."):
            return answered(query)
        made = dns.message.make_response(query)
        made.set_rcode(dns.rcode.NXDOMAIN)
        soa = "ns.example. mail.example. 1 2 3 4 60"
        made.authority.append(dns.rrset.from_text("example.", 300, "IN", "SOA", soa))
        return made.to_wire()

    async def body() -> None:
        server = await Udp(denying).start("127.0.0.2")
        async with worker(tmp_path, "127.0.0.2"):
            for name in ("gone.example", "a.gone.example", "b.a.gone.example", "b.a.gone.example", "a.gone.example"):
                found = await ask(name)
                assert (found.rcode(), found.authority[0].name.to_text()) == (dns.rcode.NXDOMAIN, "example.")
            assert len(questions(server)) == 1
            assert (await ask("here.example")).answer

    inside(namespace, body)
