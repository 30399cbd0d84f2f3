"""Scripted name servers for tests of the forwarder, and how to run them inside a namespace."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import dns.message
import dns.rcode
import dns.rrset

from fairway_core.clock import SystemClock
from fairway_dns.config import Address
from fairway_dns.forward import Forwarder, ForwardLimits
from fairway_dns.names import to_key
from fairway_dns.question import Asked
from fairway_kernel.netns import run_in

NAME = "dns.example"
QUICK = ForwardLimits(patience=0.3, total=1.5)


def inside(namespace: str, body: Callable[[], Awaitable[None]]) -> None:
    subprocess.run(["ip", "-n", Path(namespace).name, "link", "set", "lo", "up"], check=True)

    async def run() -> None:
        await body()

    run_in(namespace, lambda: asyncio.run(run()))


def answered(query: dns.message.Message, address: str = "192.0.2.1") -> bytes:
    made = dns.message.make_response(query)
    made.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", address))
    return made.to_wire()


def denied(query: dns.message.Message) -> bytes:
    made = dns.message.make_response(query)
    made.set_rcode(dns.rcode.NXDOMAIN)
    return made.to_wire()


def asked(name: str = "www.example.com") -> Asked:
    return Asked(to_key(name), 1)


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class Udp(asyncio.DatagramProtocol):
    """A server over UDP; `reply` gives the octets to send for the octets that came, or none."""

    def __init__(self, reply: Callable[[bytes], bytes | None]) -> None:
        self.reply, self.seen = reply, list[bytes]()

    async def start(self, host: str, port: int = 53) -> Udp:
        made = asyncio.get_running_loop().create_datagram_endpoint(lambda: self, local_addr=(host, port))
        self.transport, _ = await made
        return self

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self.seen.append(data)
        reply = self.reply(data)
        if reply is not None:
            self.transport.sendto(reply, address)  # type: ignore[attr-defined]


class Connections:
    """A server over TCP or TLS. `answer` is called with all queries read so far that were not answered, and the writer."""

    def __init__(self, answer: Callable[[list[bytes], asyncio.StreamWriter], None]) -> None:
        self.answer = answer
        self.opened = 0
        self.sizes: list[int] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def start(self, host: str, port: int, context: ssl.SSLContext | None = None) -> Connections:
        self.server = await asyncio.start_server(self._serve, host, port, ssl=context)
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        self.writers.append(writer)
        waiting: list[bytes] = []
        try:
            while True:
                waiting.append(await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")))
                self.sizes.append(len(waiting[-1]))
                self.answer(waiting, writer)
        except (EOFError, OSError):
            writer.close()


def send(writer: asyncio.StreamWriter, octets: bytes) -> None:
    writer.write(len(octets).to_bytes(2, "big") + octets)


def at_once(waiting: list[bytes], writer: asyncio.StreamWriter) -> None:
    while waiting:
        send(writer, answered(dns.message.from_wire(waiting.pop())))


def truncating(data: bytes) -> bytes:
    return data[:2] + b"\x83\x80" + data[4:6] + bytes(6) + data[12 : data.index(0, 12) + 5]


def plain(*hosts: str, **more: object) -> Forwarder:
    return Forwarder([Address(host) for host in hosts], (), SystemClock(), QUICK, **more)  # type: ignore[arg-type]


def certificates(path: Path) -> Path:
    """In the folder: an authority (ca.pem), and keys and certificates of two servers for NAME, one by the authority (good), one
    by itself (rogue). The folder again.
    """

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], check=True, cwd=path, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    (path / "names").write_text(f"subjectAltName=DNS:{NAME}\nbasicConstraints=CA:FALSE\n")
    subject, names = ("-subj", f"/CN={NAME}"), ("-addext", f"subjectAltName=DNS:{NAME}")
    openssl("req", "-x509", *key, "-days", "2", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem")
    openssl("req", "-x509", *key, "-days", "2", *subject, *names, "-keyout", "rogue.key", "-out", "rogue.pem")
    openssl("req", "-new", *key, *subject, "-keyout", "good.key", "-out", "good.csr")
    sign = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
    openssl("x509", "-req", "-in", "good.csr", *sign, "-out", "good.pem")
    return path


def shows(authority: Path, which: str) -> ssl.SSLContext:
    """What a server shows."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(authority / f"{which}.pem", authority / f"{which}.key")
    return context
