"""What a worker measures besides its counts: how long answers take by the way they go, and how long upstreams take. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from fairway_dns.config import Address
from fairway_dns.histogram import Durations, Histogram
from fairway_dns.names import to_key

SERVERS: Final = 64
"""Upstreams measured by address; more than anybody configures."""


class Timings:
    """Histograms of one worker.

    `fast`: from the return of recvmmsg to that of sendmmsg, for each reply of the batch. `local`: from the return of recvmmsg
    (over TCP: from the last octet) to the reply, for answers made here that were not prepared; `forwarded`: the same, when an
    upstream was asked. The time a datagram waited in the kernel is in none of them.
    """

    def __init__(self) -> None:
        self.fast, self.local, self.forwarded = Histogram(), Histogram(), Histogram()
        self._upstreams: dict[Address, Histogram] = {}

    def upstream(self, server: Address, seconds: float) -> None:
        """An upstream gave a usable answer after so many seconds."""
        found = self._upstreams.get(server)
        if found is None:
            if len(self._upstreams) >= SERVERS:
                return
            found = self._upstreams[server] = Histogram()
        found.observe(seconds)

    @property
    def values(self) -> Mapping[str, Durations]:
        """All of them by "path:NAME" and "upstream:ADDRESS"."""
        paths = (("fast", self.fast), ("local", self.local), ("forwarded", self.forwarded))
        upstreams = ((f"upstream:{server}", found.value) for server, found in self._upstreams.items())
        return {**{f"path:{name}": found.value for name, found in paths}, **dict(upstreams)}


class NameKinds:
    """Which part of the server a name belongs to, as a label: service, reverse, hosts, stub, special or foreign."""

    def __init__(self, domain: str, hosts: Iterable[str] = (), stubs: Iterable[bytes] = ()) -> None:
        self._hosts = frozenset(map(to_key, hosts))
        self._stubs = tuple(stubs)
        self._domain = to_key(domain)
        self._reverse = to_key("arpa")
        self._special = tuple(map(to_key, ("localhost", "invalid", "onion", "alt", "test", "resolver.arpa")))

    def of(self, name: bytes) -> str:
        """The label for a key."""
        if name.endswith(self._domain):
            return "service"
        if name in self._hosts:
            return "hosts"
        if name.endswith(self._stubs):
            return "stub"
        if name.endswith(self._special):
            return "special"
        return "reverse" if name.endswith(self._reverse) else "foreign"
