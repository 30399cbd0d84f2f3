"""The process inside a container of a laboratory: answers on its ports with its name, and probes others when asked.

Run as a script, with the standard library only, so that starting one costs little. Arguments: NAME CONTROL_SOCKET
[PROTOCOL/PORT]… Whoever connects to a served port is told `NAME ADDRESS-OF-THE-CALLER` (TCP at once and then an echo, UDP in
answer to any datagram). The control socket takes one line of JSON, `{"targets": [{host, port, protocol, family}], "timeout"}`,
and answers with one line, `[{"state", "name", "seen", "ms"}]`, in the order asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

OPEN, REFUSED, UNREACHABLE, TIMEOUT, NO_NAME = "open", "refused", "unreachable", "timeout", "no-name"
GREETING_SECONDS = 0.3
LINE_LIMIT = 1 << 20
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6, 0: socket.AF_UNSPEC}
_REFUSALS = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE})


def _greeting(name: str, peer: Any) -> bytes:
    return f"{name} {peer[0]}\n".encode()


class _UdpServer(asyncio.DatagramProtocol):
    def __init__(self, name: str) -> None:
        self._name = name
        self._transport: asyncio.DatagramTransport

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._transport.sendto(_greeting(self._name, addr), addr)


async def _serve(name: str, protocol: str, port: int) -> None:
    loop = asyncio.get_running_loop()
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        kind = socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM
        sock = socket.socket(family, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        if protocol == "TCP":
            await asyncio.start_server(lambda reader, writer: _greet(name, reader, writer), sock=sock)
        else:
            await loop.create_datagram_endpoint(lambda: _UdpServer(name), sock=sock)


async def _greet(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.write(_greeting(name, writer.get_extra_info("peername")))
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _control(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ValueError):
        asked = json.loads(await reader.readline())
        outcomes = await asyncio.gather(*(_probe(target, asked["timeout"]) for target in asked["targets"]))
        writer.write(json.dumps(outcomes).encode() + b"\n")
        await writer.drain()
    writer.close()


async def _probe(target: dict[str, Any], timeout: float) -> dict[str, Any]:
    began = time.monotonic()
    greeting = b""
    try:
        async with asyncio.timeout(timeout):
            address, family = await _resolve(target)
            attempt = _connect if target["protocol"] == "TCP" else _exchange
            greeting = await attempt(family, address)
        state = OPEN
    except TimeoutError:
        state = TIMEOUT
    except socket.gaierror:
        state = NO_NAME
    except OSError as error:
        state = REFUSED if error.errno in _REFUSALS else UNREACHABLE
    name, _, seen = greeting.decode(errors="replace").strip().partition(" ")
    return {"state": state, "name": name, "seen": seen, "ms": round((time.monotonic() - began) * 1000, 3)}


async def _resolve(target: dict[str, Any]) -> tuple[Any, int]:
    """The first address of the host in the family asked for, by the container's own resolver unless it is an address."""
    family, host, port = _FAMILIES[target["family"]], target["host"], target["port"]
    kind = socket.SOCK_STREAM
    try:
        found = socket.getaddrinfo(host, port, family, kind, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, family=family, type=kind)
    return found[0][4], found[0][0]


async def _connect(family: int, address: Any) -> bytes:
    """Connect by TCP; open as soon as the connection stands. A reset before the greeting is a refusal."""
    loop = asyncio.get_running_loop()
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
        # Other servers than ours do not greet.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GREETING_SECONDS):
                return await loop.sock_recv(sock, 256)
    return b""


async def _exchange(family: int, address: Any) -> bytes:
    """One datagram and its answer."""
    loop = asyncio.get_running_loop()
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, address)
        await loop.sock_sendall(sock, b"?\n")
        return await loop.sock_recv(sock, 256)


async def _main(name: str, control: str, ports: list[str]) -> None:
    for text in ports:
        protocol, _, port = text.partition("/")
        await _serve(name, protocol, int(port))
    # Appears last and at once: who sees the socket may use the ports.
    draft = control + ".new"
    server = await asyncio.start_unix_server(_control, draft, limit=LINE_LIMIT)
    Path(draft).rename(control)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2], sys.argv[3:]))
