"""Query octets -> reply octets: the table first, then the cache, then the upstreams."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import Any, ClassVar, TypeVar

from fairway_dns.answer import EDE_NOT_AUTHORITATIVE, EDE_OTHER, Elsewhere, answer, failure
from fairway_dns.authority import Authorities
from fairway_dns.cache import Cache, Kept
from fairway_dns.complete import Completion
from fairway_dns.counters import Counters
from fairway_dns.fastcache import Aging, FastCache, cacheable
from fairway_dns.forward import Forwarder, Routes
from fairway_dns.fresh import Fresh
from fairway_dns.holding import Holder
from fairway_dns.identity import Identity
from fairway_dns.learned import Found, found_in
from fairway_dns.measure import NameKinds
from fairway_dns.prepared import Prepared
from fairway_dns.question import Asked
from fairway_dns.response import Response, join_chain
from fairway_dns.table import Table
from fairway_dns.views import Asker
from fairway_dns.wire import HEADER, HINFO, NOERROR, NXDOMAIN, RD, REFUSED, SERVFAIL, SRV, Query, Tail, parse_query, render
from fairway_dns.zone import TTL

STALE_AFTER = 1.8
"""Seconds a client waits for the upstreams before it gets an expired answer, if there is one (RFC 8767, 5)."""
HELD_BACK = failure(SERVFAIL, EDE_OTHER, "the addresses of this name could not be let through in time")
OURS = Elsewhere(b"")
"""Where an answer comes from that no upstream has a part in."""

T = TypeVar("T")


class Later:
    """A reply that must be fetched, for one `query` from `asker`. Either `start` or `drop` is called, once."""

    __slots__ = ("asked", "asker", "elsewhere", "query", "resolver", "take", "tcp", "ticket", "timer")
    path: ClassVar[str] = "forwarded"
    ticket: Any

    def __init__(self, resolver: Resolver, query: Query, elsewhere: Elsewhere, asked: Asked, asker: Asker, tcp: bool) -> None:
        self.resolver, self.query, self.elsewhere, self.asked = resolver, query, elsewhere, asked
        self.asker, self.tcp = asker, tcp
        self.take: Callable[[bytes, Any], None] | None = None
        self.timer: asyncio.TimerHandle | None = None

    def start(self, take: Callable[[bytes, T], None], ticket: T) -> None:
        """Ask for it. `take` is called once, perhaps at once, with the reply and with `ticket`."""
        self.take, self.ticket = take, ticket
        self.resolver.fetch(self)

    def drop(self) -> None:
        """Nobody can wait for it."""
        self.resolver.count(self.query, self.tcp)

    def arrived(self, response: Response) -> None:
        """The upstreams' answer, or that they have none."""
        self.resolver.arrived(self, response)

    async def __call__(self) -> bytes:
        """Start and wait."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.start(_resolve, future)
        return await future


class Held(Later):
    """A reply that is known, with addresses that its asker may not hear yet."""

    __slots__ = ("tail",)
    path: ClassVar[str] = "local"

    def __init__(self, resolver: Resolver, query: Query, tail: Tail, elsewhere: Elsewhere, asker: Asker, tcp: bool) -> None:
        asked = Asked(query.name, query.qtype, query.dnssec, query.checking_disabled)
        super().__init__(resolver, query, elsewhere, asked, asker, tcp)
        self.tail = tail

    def start(self, take: Callable[[bytes, T], None], ticket: T) -> None:
        self.take, self.ticket = take, ticket
        self.resolver.count(self.query, self.tcp)
        self.resolver.give(self, self.tail)


def _resolve(reply: bytes, future: asyncio.Future[bytes]) -> None:
    if not future.done():
        future.set_result(reply)


class Resolver:
    """Promise: `handle` answers what is known at once and never blocks; nothing raises for what a client or an upstream sent."""

    def __init__(
        self,
        table: Table,
        authorities: Authorities,
        cache: Cache,
        forwarder: Forwarder | Routes,
        counters: Counters,
        log: logging.Logger,
        prepared: Prepared | None = None,
        completion: Completion | None = None,
        identity: Identity | None = None,
        kinds: NameKinds | None = None,
        holder: Holder | None = None,
    ) -> None:
        """Without a `holder` no reply is held back."""
        self._table = table
        self._authorities = authorities
        self._cache = cache
        self._forwarder = forwarder
        self._counters = counters
        self._log = log
        self._prepared = prepared
        self._completion = completion
        self._identity = identity or Identity()
        self._kinds = kinds or NameKinds("cluster.local")
        self._holder = holder
        self.fresh = Fresh(table, prepared, counters, self._kinds) if prepared is not None else None
        """Makes replies for the batch loop."""
        self._turn = 0
        self._kept: Kept | None = None

    def handle(self, data: bytes, tcp: bool, client: bytes = b"") -> bytes | Later | None:
        """The reply; or how to get it from an upstream; or None for a message that must be dropped. `client` is the address of
        the sender, packed: 4 or 16 octets in network order, none if it is not known.
        """
        query = parse_query(data)
        if query is None:
            self._counters.add("dropped")
            return None
        self._turn += 1
        asker = self._table.views.asker(client)
        found = self._local(query, asker)
        elsewhere = OURS
        if isinstance(found, Elsewhere):
            elsewhere = found
            asked = Asked(found.name, query.qtype, query.dnssec, query.checking_disabled)
            tail = self._remembered(query, found, asked)
            if tail is None:
                return Later(self, query, found, asked, asker, tcp)
            found = tail
        until = inf
        if asker.sight.watch is not None and self._holder is not None:
            what = _watched(asker, query, found, elsewhere)
            until = inf if what is None else self._holder.until(what)
            if not until:
                return Held(self, query, found, elsewhere, asker, tcp)
        self.count(query, tcp)
        reply = self._render(query, found, tcp)
        self._count_reply(query, found, tcp, asker, "local")
        if self._prepared is not None and not tcp and cacheable(data, query):
            self._teach(self._prepared, asker, data, query, found, reply, until)
        return reply

    def probe(self, data: bytes) -> bytes | None:
        """The reply to a question of the agent's own about a name of ours: found as for anybody, but counted for nobody."""
        query = parse_query(data)
        found = self._local(query, self._table.views.anybody) if query is not None else None
        return self._render(query, found, tcp=False) if query is not None and isinstance(found, Tail) else None

    def count(self, query: Query, tcp: bool) -> None:
        """A query came in."""
        self._counters.query(query.qtype, "tcp" if tcp else "udp")

    def _teach(self, prepared: Prepared, asker: Asker, data: bytes, query: Query, tail: Tail, reply: bytes, until: float) -> None:
        """Let the fast path have what would be the answer to the same octets next time, up to a monotonic time."""
        tails = self._rotations(query, tail) if until == inf else ()
        if tails and query.qtype != SRV:
            count = self._cell(query, tail, asker, cached=False)
            prepared.shared(asker).learn(data, query, [render(query, one) for one in tails], count)
        elif self._completion is not None and self._completion.concerns(query):
            # The same octets mean another name to somebody with another search path.
            self._remember(prepared.own(asker), asker, data, query, tail, reply, 2, until)
        else:
            self._remember(prepared.shared(asker), asker, data, query, tail, reply, 1, until)

    def _remember(
        self, fast: FastCache, asker: Asker, data: bytes, query: Query, tail: Tail, reply: bytes, most: int, until: float
    ) -> None:
        """`most`: more records than that come in changing order, which one prepared reply cannot show."""
        kept = self._kept
        count = self._cell(query, tail, asker, cached=kept is not None)
        if kept is not None and tail is kept.tail:
            # Its TTL goes down as time does, so what could be told once can be told to its end.
            fast.learn_until(data, query, reply, count, kept.until, self._aging(query, kept, reply))
        elif kept is not None:
            # Names of ours led there: it falls with the next change of them.
            fast.learn_volatile(data, query, reply, count, min(kept.until, until))
        elif tail.answers <= most and tail.rcode in (NOERROR, NXDOMAIN):
            fast.learn_volatile(data, query, reply, count, until)

    def _cell(self, query: Query, tail: Tail, asker: Asker, cached: bool) -> list[int]:
        return self._counters.cell(query.qtype, tail.rcode, cached, self._kinds.of(query.name), self._view(asker))

    def _view(self, asker: Asker) -> str:
        """The view's label: the tenant, where tenants see different things."""
        return asker.sight.label if self._table.zone.scoped else ""

    def _aging(self, query: Query, kept: Kept, reply: bytes) -> Aging | None:
        start = HEADER + len(query.question)
        body = kept.response.tail.body
        if reply[start : start + len(body)] != kept.tail.body:
            return None  # It was cut to size.
        ttls = tuple((start + offset, int.from_bytes(body[offset : offset + 4], "big")) for offset in kept.response.ttl_at)
        asked = Asked(query.name, query.qtype, query.dnssec, query.checking_disabled)
        return Aging(kept.stored, kept.expires, ttls, partial(self._cache.touch, asked))

    def _rotations(self, query: Query, tail: Tail) -> Sequence[Tail]:
        node = self._table.zone.find(query.name)
        tails = node.tails.get(query.qtype, ()) if node is not None else ()
        return tails if any(one is tail for one in tails) else ()

    def _local(self, query: Query, asker: Asker) -> Tail | Elsewhere:
        self._kept = None
        # What the asker may not see is left out before anything is made of the rest.
        zone = self._table.seen(asker.sight)
        try:
            found = answer(zone, self._authorities, query, self._turn)
            if asker.namespace and self._completion is not None and isinstance(found, Tail) and found.rcode == NXDOMAIN:
                found = self._completion.complete(zone, query, asker.namespace, found, self._turn)
        except Exception as error:
            # The edge of the process: whatever is wrong with one name, its client gets an answer.
            return self._broken(query, error)
        return found

    def _remembered(self, query: Query, elsewhere: Elsewhere, asked: Asked) -> Tail | None:
        """What is known without asking an upstream."""
        if not query.flags & RD and not elsewhere.chain:
            # Looking into the cache for somebody who asks us not to recurse would tell what others asked (RFC 5625, 6.3 in
            # spirit).
            return failure(REFUSED, EDE_NOT_AUTHORITATIVE, "recursion was not asked for")
        kept = self._kept = self._cache.get(asked, self._forwarder.apex(elsewhere.name))
        if kept is None:
            return None
        self._counters.add("cache_hits")
        return self._join(query, elsewhere, kept.tail)

    def fetch(self, later: Later) -> None:
        """Ask the upstreams for it. It gets their answer, or an expired one if they fail or take too long."""
        query = later.query
        if query.qtype == HINFO and self._forwarder.returned(later.asked):
            self.give(later, failure(SERVFAIL, EDE_OTHER))
        else:
            self._forwarder.ask(later.asked, later.arrived)
        # The question has left; all that follows has the time that the server takes.
        self.count(query, later.tcp)
        self._counters.add("forwarded")
        if later.take is not None and self._cache.get_stale(later.asked) is not None:
            later.timer = asyncio.get_running_loop().call_later(STALE_AFTER, self._give_old, later)

    def arrived(self, later: Later, response: Response) -> None:
        """What came of `fetch`."""
        if response.tail.rcode not in (NOERROR, NXDOMAIN) and self._give_old(later):
            return
        # The client's reply leaves first: what is kept for others can wait.
        self.give(later, self._join(later.query, later.elsewhere, response.tail) if later.elsewhere.chain else response.tail)
        try:
            self._cache.put(later.asked, response)
        except Exception as error:
            self._broken(later.query, error)

    def _give_old(self, later: Later) -> bool:
        """Whether an expired answer is good enough, or was."""
        old = self._cache.get_stale(later.asked)
        if old is None:
            return False
        if later.take is not None:
            self._counters.add("stale")
            self._cache.hold_stale(later.asked)
            self.give(later, self._join(later.query, later.elsewhere, old))
        return True

    def give(self, later: Later, tail: Tail) -> None:
        """The reply leaves, if none has, as soon as it may be told."""
        if later.asker.sight.watch is not None and self._holder is not None:
            what = _watched(later.asker, later.query, tail, later.elsewhere)
            if what is not None and not self._holder.until(what):
                self._holder.ask(what, lambda good: self._leave(later, tail if good else HELD_BACK))
                return
        self._leave(later, tail)

    def _leave(self, later: Later, tail: Tail) -> None:
        take, later.take = later.take, None
        if take is None:
            return
        take(self._render(later.query, tail, later.tcp), later.ticket)
        if later.timer is not None:
            later.timer.cancel()
        self._count_reply(later.query, tail, later.tcp, later.asker, later.path)

    def _join(self, query: Query, elsewhere: Elsewhere, tail: Tail) -> Tail:
        if not elsewhere.chain:
            return tail
        if elsewhere.denial is not None and tail.rcode == NXDOMAIN:
            return elsewhere.denial
        try:
            return join_chain(query.name, query.qtype, elsewhere.chain, TTL, tail)
        except Exception as error:
            return self._broken(query, error)

    def _broken(self, query: Query, error: Exception) -> Tail:
        self._counters.add("errors")
        self._log.error("no answer for %r type %d: %s", query.name, query.qtype, error, exc_info=error)
        return failure(SERVFAIL, EDE_OTHER, "a fault of this server, which its log describes")

    def _render(self, query: Query, tail: Tail, tcp: bool) -> bytes:
        return render(query, tail, tcp, self._identity.options(query, tcp) if query.wants else b"")

    def _count_reply(self, query: Query, tail: Tail, tcp: bool, asker: Asker, path: str) -> None:
        transport = "tcp" if tcp else "udp"
        self._counters.reply(self._kinds.of(query.name), query.qtype, tail.rcode, transport, path, self._view(asker))


def _watched(asker: Asker, query: Query, tail: Tail, elsewhere: Elsewhere) -> Found | None:
    watch = asker.sight.watch
    return found_in(watch, query, tail, elsewhere.name) if watch is not None else None
