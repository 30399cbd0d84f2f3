"""What upstreams do to questions and connections, with scripted servers on real sockets inside a namespace."""

from __future__ import annotations

import asyncio
import logging
import subprocess
from pathlib import Path

import dns.edns
import dns.message
import dns.rcode
import pytest
from tests.lab.nameservers import Connections, Udp, answered, asked, at_once, denied, inside, plain, send, truncating, until

from fairway_core.clock import FakeClock
from fairway_dns.cache import Cache
from fairway_dns.counters import Counters
from fairway_dns.names import to_key
from fairway_dns.prefetch import Prefetcher
from fairway_dns.question import Asked
from fairway_dns.response import Response
from fairway_dns.turn import Turn

pytestmark = pytest.mark.needs_root

LOG = logging.getLogger("test")


def test_truncated_answers_share_one_connection(namespace: str) -> None:
    async def body() -> None:
        await Udp(truncating).start("127.0.0.2")
        server = await Connections(at_once).start("127.0.0.2", 53)
        uplink = plain("127.0.0.2")
        found = await asyncio.gather(*(uplink.resolve(asked(f"n{n}.example")) for n in range(30)))
        assert {one.tail.answers for one in found} == {1}
        assert server.opened == 1
        await uplink.close()

    inside(namespace, body)


def test_a_connection_that_says_nothing_or_nonsense(namespace: str) -> None:
    def nonsense(waiting: list[bytes], writer: asyncio.StreamWriter) -> None:
        send(writer, waiting.pop()[:2] + b"junk")

    async def body() -> None:
        for host, answer in (("127.0.0.2", nonsense), ("127.0.0.3", lambda waiting, writer: None)):
            await Udp(truncating).start(host)
            await Connections(answer).start(host, 53)
            uplink = plain(host)
            assert (await uplink.resolve(asked())).tail.rcode == 2
            assert uplink.pending == 0
            await uplink.close()

    inside(namespace, body)


def test_letters_go_out_in_random_case_and_must_come_back_so(namespace: str) -> None:
    def lowering(data: bytes) -> bytes:
        made = answered(dns.message.from_wire(data))
        end = made.index(0, 12)
        return made[:12] + made[12:end].lower() + made[end:]

    async def body() -> None:
        honest = await Udp(lambda data: answered(dns.message.from_wire(data))).start("127.0.0.2")
        uplink = plain("127.0.0.2")
        for n in range(20):
            assert (await uplink.resolve(asked(f"n{n}.mixed-case-letters.example"))).tail.answers == 1
        assert len({data[14:36] for data in honest.seen}) == 20
        await uplink.close()
        folding = await Udp(lowering).start("127.0.0.3")
        uplink = plain("127.0.0.3")
        for n in range(10):
            assert (await uplink.resolve(asked(f"n{n}.mixed-case-letters.example"))).tail.answers == 1
        # Three were not believed and asked again; then the server was known, and each was asked once.
        assert len(folding.seen) == 13
        await uplink.close()

    inside(namespace, body)


def test_a_server_that_passes_over_mixed_case_is_asked_in_lower_case(namespace: str) -> None:
    async def body() -> None:
        def picky(data: bytes) -> bytes | None:
            end = data.index(0, 12)
            return answered(dns.message.from_wire(data)) if data[12:end] == data[12:end].lower() else None

        server = await Udp(picky).start("127.0.0.2")
        uplink = plain("127.0.0.2")
        for n in range(3):
            assert (await uplink.resolve(asked(f"n{n}.mixed-case-letters.example"))).tail.answers == 1
        before = len(server.seen)
        assert (await uplink.resolve(asked("last.mixed-case-letters.example"))).tail.answers == 1
        assert len(server.seen) == before + 1
        await uplink.close()

    inside(namespace, body)


def test_questions_of_one_turn_leave_together_and_all_arrive(namespace: str) -> None:
    async def body() -> None:
        server = await Udp(lambda data: answered(dns.message.from_wire(data))).start("127.0.0.2")
        turn = Turn()
        uplink = plain("127.0.0.2", turn=turn)
        found: list[Response] = []
        with turn:
            for n in range(150):
                uplink.ask(asked(f"n{n}.example"), found.append)
            await asyncio.sleep(0.05)
            assert server.seen == []
        await until(lambda: len(found) == 150)
        assert {one.tail.answers for one in found} == {1}
        assert len(server.seen) == 150
        refused = plain("127.0.0.9", turn=turn)
        with turn:
            for n in range(5):
                refused.ask(asked(f"n{n}.example"), found.append)
        await until(lambda: len(found) == 155)
        assert {(one.tail.rcode, one.tail.ede) for one in found[150:]} == {(2, 23)}
        await uplink.close()
        await refused.close()

    inside(namespace, body)


def test_an_upstream_that_asks_us_back_is_found_out(namespace: str, caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        counters = Counters()
        loop = asyncio.get_running_loop()

        def back(data: bytes) -> bytes | None:
            query = dns.message.from_wire(data)
            question = query.question[0]
            uplink.returned(Asked(to_key(question.name.to_text().lower()), question.rdtype))
            return None

        await Udp(back).start("127.0.0.2")
        good = await Udp(lambda data: answered(dns.message.from_wire(data))).start("127.0.0.3")
        uplink = plain("127.0.0.2", log=LOG, counters=counters)
        start = loop.time()
        found = await uplink.resolve(asked())
        assert (found.tail.rcode, found.tail.ede) == (2, 22)
        assert loop.time() - start < 1.0
        assert counters.values["loops:"] == 1
        assert "127.0.0.2:53 sends our questions back" in caplog.text
        await uplink.close()
        uplink = plain("127.0.0.2", "127.0.0.3", log=LOG, counters=counters)
        start = loop.time()
        assert (await uplink.resolve(asked())).tail.answers == 1
        assert (await uplink.resolve(asked("b.example"))).tail.answers == 1
        assert loop.time() - start < 0.28
        assert len(good.seen) >= 2
        await uplink.close()

    inside(namespace, body)


def test_an_upstream_that_ends_probes_itself_is_no_loop(namespace: str) -> None:
    async def body() -> None:
        counters = Counters()
        server = await Udp(lambda data: denied(dns.message.from_wire(data))).start("127.0.0.2")
        uplink = plain("127.0.0.2", log=LOG, counters=counters)
        for n in range(5):
            assert (await uplink.resolve(asked(f"n{n}.example"))).tail.rcode == 3
        kinds = [dns.message.from_wire(data).question[0].rdtype for data in server.seen]
        assert kinds.count(13) == 1
        assert "loops:" not in counters.values
        await uplink.close()

    inside(namespace, body)


def test_renewals_are_fetched_in_the_background_and_bounded(namespace: str) -> None:
    async def body() -> None:
        silent: list[bytes] = []
        server = await Udp(lambda data: None if silent else answered(dns.message.from_wire(data))).start("127.0.0.2")
        clock, uplink, counters = FakeClock(), plain("127.0.0.2"), Counters()
        cache = Cache(clock)
        Prefetcher(cache, uplink, counters)
        names = [asked(f"n{n}.example") for n in range(40)]

        async def warm(these: list[Asked]) -> None:
            for one in these:
                cache.put(one, await uplink.resolve(one))
                for _ in range(3):
                    cache.get(one)

        await warm(names[:1])
        clock.advance(59)
        assert cache.get(names[0]) is not None
        await until(lambda: len(server.seen) == 2)
        await until(lambda: cache.get(names[0]).expires > clock.monotonic() + 50)  # type: ignore[union-attr]
        await warm(names)
        silent.append(b"")
        clock.advance(59)
        for one in names:
            cache.get(one)
        assert uplink.pending == 32
        await until(lambda: uplink.pending == 0)
        assert all(cache.get(one) for one in names)
        assert counters.values == {"prefetched:": 33}
        await uplink.close()

    inside(namespace, body)


def test_link_local_upstreams(namespace: str) -> None:
    name = Path(namespace).name
    for words in ("link add up0 type veth peer name up1", "link set up0 up", "link set up1 up"):
        subprocess.run(["ip", "-n", name, *words.split()], check=True)
    subprocess.run(["ip", "-n", name, *["addr", "add", "fe80::53/64", "dev", "up0", "nodad"]], check=True)

    async def body() -> None:
        await Udp(lambda data: answered(dns.message.from_wire(data))).start("fe80::53%up0")
        uplink = plain("fe80::53%up0")
        assert (await uplink.resolve(asked())).tail.answers == 1
        await uplink.close()
        gone = plain("fe80::53%nosuch0")
        assert (await gone.resolve(asked())).tail.ede == 23
        await gone.close()

    inside(namespace, body)


def test_a_server_that_fails_is_asked_once_and_its_reason_passed_on(namespace: str) -> None:
    async def body() -> None:
        def bogus(data: bytes) -> bytes:
            made = dns.message.make_response(dns.message.from_wire(data))
            made.set_rcode(dns.rcode.SERVFAIL)
            made.use_edns(0, options=[dns.edns.EDEOption(6, "bogus")])
            return made.to_wire()

        server = await Udp(bogus).start("127.0.0.2")
        uplink = plain("127.0.0.2")
        found = await uplink.resolve(asked())
        assert (found.tail.rcode, found.tail.ede, len(server.seen)) == (2, 6, 1)
        assert found.ttl > 0
        await uplink.close()

    inside(namespace, body)
