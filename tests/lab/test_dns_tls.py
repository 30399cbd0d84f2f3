"""DNS over TLS against servers with good and bad certificates, inside a namespace."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from pathlib import Path

import pytest
from tests.lab.nameservers import QUICK, Connections, Udp, asked, at_once, inside

from fairway_core.clock import SystemClock
from fairway_core.errors import UserError
from fairway_dns.config import Address
from fairway_dns.forward import Forwarder
from fairway_dns.tls import client_context

pytestmark = pytest.mark.needs_root

NAME = "dns.example"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority (ca.pem), and two servers' keys and certificates: `dns.example` of that authority (good), the
    same name signed by itself (rogue).
    """
    path = tmp_path_factory.mktemp("authority")

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
