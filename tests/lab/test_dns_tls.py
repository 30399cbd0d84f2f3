"""DNS over TLS against servers with good and bad certificates, inside a namespace."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.lab.nameservers import NAME, QUICK, Connections, Udp, asked, at_once, certificates, inside, shows

from fairway_core.clock import SystemClock
from fairway_core.errors import UserError
from fairway_dns.config import Address
from fairway_dns.forward import Forwarder
from fairway_dns.tls import client_context

pytestmark = pytest.mark.needs_root


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates(tmp_path_factory.mktemp("authority"))


def secure(authority: Path, *servers: Address) -> Forwarder:
    return Forwarder(servers, (), SystemClock(), QUICK, security=client_context(str(authority / "ca.pem")))


def test_tls_one_connection_many_questions_out_of_order_padded(namespace: str, authority: Path) -> None:
    def all_backwards(waiting: list[bytes], writer: asyncio.StreamWriter) -> None:
        if len(waiting) == 20:
            at_once(waiting, writer)

    async def body() -> None:
        server = await Connections(all_backwards).start("127.0.0.2", 853, shows(authority, "good"))
        uplink = secure(authority, Address("127.0.0.2", 853, NAME))
        found = await asyncio.gather(*(uplink.resolve(asked(f"n{n}.example")) for n in range(20)))
        assert {one.tail.answers for one in found} == {1}
        assert server.opened == 1
        assert {size % 128 for size in server.sizes} == {0}
        await uplink.close()

    inside(namespace, body)


@pytest.mark.parametrize(("which", "name"), [("rogue", NAME), ("good", "other.example")], ids=["authority", "name"])
def test_tls_without_the_right_certificate_nothing_is_asked_and_nothing_in_clear(
    namespace: str, authority: Path, which: str, name: str
) -> None:
    async def body() -> None:
        server = await Connections(at_once).start("127.0.0.2", 853, shows(authority, which))
        clear = [await Connections(at_once).start("127.0.0.2", 53), await Udp(lambda data: None).start("127.0.0.2")]
        uplink = secure(authority, Address("127.0.0.2", 853, name))
        found = await uplink.resolve(asked())
        assert (found.tail.rcode, found.tail.ede) == (2, 23)
        assert (server.sizes, clear[0].opened, clear[1].seen) == ([], 0, [])  # type: ignore[union-attr]
        await uplink.close()

    inside(namespace, body)


def test_tls_a_connection_that_breaks_costs_no_answer(namespace: str, authority: Path) -> None:
    def closes_first(waiting: list[bytes], writer: asyncio.StreamWriter) -> None:
        if len(server) == 0:
            server.append(writer)
            writer.transport.abort()
        else:
            at_once(waiting, writer)

    server: list[asyncio.StreamWriter] = []

    async def body() -> None:
        listener = await Connections(closes_first).start("127.0.0.2", 853, shows(authority, "good"))
        uplink = secure(authority, Address("127.0.0.2", 853, NAME))
        assert (await uplink.resolve(asked())).tail.answers == 1
        assert (await uplink.resolve(asked("b.example"))).tail.answers == 1
        assert listener.opened == 2
        listener.writers[1].transport.abort()
        await asyncio.sleep(0.05)
        assert (await uplink.resolve(asked("c.example"))).tail.answers == 1
        await uplink.close()

    inside(namespace, body)


def test_tls_to_a_server_that_comes_back(namespace: str, authority: Path) -> None:
    async def body() -> None:
        uplink = secure(authority, Address("127.0.0.2", 853, NAME))
        assert (await uplink.resolve(asked())).tail.rcode == 2
        await Connections(at_once).start("127.0.0.2", 853, shows(authority, "good"))
        async with asyncio.timeout(5):
            while (await uplink.resolve(asked())).tail.rcode:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await uplink.close()

    inside(namespace, body)


def test_tls_settings_that_cannot_work(authority: Path, tmp_path: Path) -> None:
    (tmp_path / "junk.pem").write_text("junk")
    for path in (tmp_path / "none.pem", tmp_path / "junk.pem"):
        with pytest.raises(UserError, match=path.name):
            client_context(str(path))
