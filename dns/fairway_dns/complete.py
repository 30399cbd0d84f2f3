"""The rest of a search path, gone through here instead of by the client. Pure.

A pod's resolver has `search <ns>.svc.<domain> svc.<domain> <domain>` and ndots:5, so it asks for www.example.com as
www.example.com.<ns>.svc.<domain> first, then two more names that do not exist, then the name that was meant: four queries of each
type. Whoever is known to have this search path gets the answer to the first: a CNAME to the name that the path leads to.
"""

from __future__ import annotations

from fairway_dns.answer import Elsewhere, Owned, chained, follow
from fairway_dns.authority import Authorities
from fairway_dns.names import MAX_NAME, ROOT, to_key, to_text
from fairway_dns.wire import AAAA, CNAME, IN, NXDOMAIN, A, Query, Tail
from fairway_dns.zone import Names

ADDRESSES = (A, AAAA)


class Completion:
    """Promise: what a name is completed to does not depend on the type asked for (RFC 4074: both types must exist or neither); it
    is the first name of the path that has an address, as the asker sees the zone.
    """

    def __init__(self, domain: str, authorities: Authorities) -> None:
        self._domain = to_key(domain)
        self._services = to_key(f"svc.{domain}")
        self._authorities = authorities

    def concerns(self, query: Query) -> bool:
        """Whether the reply may depend on the search path of who asks."""
        return query.qtype in ADDRESSES and query.qclass == IN and len(_split(query.name, self._services)) >= 3

    def complete(self, zone: Names, query: Query, namespace: bytes, denial: Tail, turn: int) -> Tail | Elsewhere:
        """The reply for a name that does not exist, to somebody in `namespace`: `denial` if nothing is found."""
        labels = _split(query.name, self._services)
        prefix = b"".join(labels[:-1])
        if not self.concerns(query) or not namespace or labels[-1][1:] != namespace or "\\" in to_text(prefix + ROOT):
            return denial
        for target in (prefix + self._services, prefix + self._domain):
            found = self._found(zone, query, target, turn) if len(target) <= MAX_NAME else None
            if found is not None:
                return _or_denial(found, denial)
        return self._as_it_is(zone, query, prefix + ROOT, denial, turn)

    def _as_it_is(self, zone: Names, query: Query, target: bytes, denial: Tail, turn: int) -> Tail | Elsewhere:
        found = self._found(zone, query, target, turn)
        if found is not None:
            return _or_denial(found, denial)
        authority = self._authorities.of(target)
        if authority is None:
            # Somebody who asks us not to recurse is not told what others asked for either.
            return Elsewhere(target, (_alias(query.name, target),), denial) if query.recursion else denial
        if any(qtype in authority.everywhere for qtype in ADDRESSES):
            return chained(zone, self._authorities, query, [_alias(query.name, target)], target, turn)
        return denial

    def _found(self, zone: Names, query: Query, target: bytes, turn: int) -> Tail | Elsewhere | None:
        """The reply by way of a name of the table; None if it has no address of any family."""
        node = zone.find(target)
        if node is None or not node.sets.keys() & {*ADDRESSES, CNAME}:
            return None
        chain, name = follow(zone, target)
        found = chained(zone, self._authorities, query, [_alias(query.name, target), *chain], name, turn)
        return None if isinstance(found, Tail) and found.rcode == NXDOMAIN else found


def _or_denial(found: Tail | Elsewhere, denial: Tail) -> Tail | Elsewhere:
    return found._replace(denial=denial) if isinstance(found, Elsewhere) else found


def _alias(name: bytes, target: bytes) -> Owned:
    return name, CNAME, to_text(target)


def _split(name: bytes, apex: bytes) -> list[bytes]:
    """The labels (with their length octets) in front of `apex`, leftmost first; none if the name is not below it."""
    labels: list[bytes] = []
    pos = 0
    while len(name) - pos > len(apex):
        end = pos + 1 + name[pos]
        labels.append(name[pos:end])
        pos = end
    return labels if name[pos:] == apex else []
