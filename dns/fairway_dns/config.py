"""What a DNS worker is told at its start, and the upstreams of a host. Pure."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import pairwise

from fairway_core.errors import UserError
from fairway_dns.limits import ClientLimits
from fairway_dns.names import is_host_name, to_key
from fairway_dns.querylog import LogSettings

PORT = 53
TLS_PORT = 853
TLS = "tls://"

Resolved = tuple[
    socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
]
"""What getaddrinfo(3) gives for one address."""


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where a server listens. `host` is a literal address, an IPv6 one possibly with %scope. With `tls_name` it is asked over TLS
    only (RFC 7858), and must show a certificate for that name.
    """

    host: str
    port: int = PORT
    tls_name: str = ""

    def __str__(self) -> str:
        plain = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        return f"{TLS}{plain}#{self.tls_name}" if self.tls_name else plain

    def resolve(self, kind: socket.SocketKind) -> Resolved:
        """For socket and connect; nobody is asked. Raises OSError if the scope is no interface (any more)."""
        return socket.getaddrinfo(self.host, self.port, type=kind, flags=socket.AI_NUMERICHOST)[0]


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """The settings of one worker process. `private` are the CIDRs of services and pods, whose reverse names are never
    forwarded; `hosts` fixed names with their addresses; `stubs` zones with servers of their own. `views`: no table is served that
    does not say who may see what. `identity` is what clients are told that ask for it (RFC 5001). `release` has no effect but
    that a worker of another release is another worker. `tls_ca`: a file with the authorities of TLS upstreams; empty: those the
    system trusts.
    """

    feed: str
    listen: tuple[str, ...]
    port: int = PORT
    upstreams: tuple[Address, ...] = ()
    state: str = ""
    domain: str = "cluster.local"
    private: tuple[str, ...] = ()
    hosts: tuple[tuple[str, tuple[str, ...]], ...] = ()
    stubs: tuple[tuple[str, tuple[Address, ...]], ...] = ()
    identity: str = ""
    limits: ClientLimits = ClientLimits()
    release: str = ""
    views: bool = False
    tls_ca: str = ""
    query_log: LogSettings = LogSettings()

    @property
    def uses_tls(self) -> bool:
        """Whether any server is asked over TLS."""
        return any(server.tls_name for servers in (self.upstreams, *(stub for _, stub in self.stubs)) for server in servers)

    def argv(self, python: str) -> tuple[str, ...]:
        """The command line of such a worker: equal settings give equal lines, so that a running worker can be recognised by
        it.
        """
        listen = (word for address in self.listen for word in ("--listen", address))
        upstream = (word for address in self.upstreams for word in ("--upstream", str(address)))
        ranges = (word for cidr in self.private for word in ("--private", cidr))
        hosts = (word for name, ips in self.hosts for word in ("--host", f"{name}={','.join(ips)}"))
        stubs = (word for zone, servers in self.stubs for word in ("--stub", f"{zone}={','.join(map(str, servers))}"))
        head = (python, "-m", "fairway_dns.worker", "--feed", self.feed, *listen, "--port", str(self.port))
        views = ("--views",) if self.views else ()
        tls = ("--tls-ca", self.tls_ca) if self.tls_ca else ()
        plain = ("--state", self.state, "--domain", self.domain, "--identity", self.identity, "--release", self.release)
        log = ("--query-log", self.query_log.word()) if self.query_log.on else ()
        limits = ("--client-qps", str(self.limits.qps), "--client-connections", str(self.limits.connections))
        return (*head, *upstream, *ranges, *hosts, *stubs, *plain, *limits, *log, *tls, *views)


def listening(argv: Sequence[str]) -> tuple[tuple[Address, ...], str]:
    """Of a command line made by `WorkerConfig.argv`: the addresses it listens on, and its domain."""
    options = list(pairwise(argv))
    port = next((int(value) for word, value in options if word == "--port"), PORT)
    domain = next((value for word, value in options if word == "--domain"), "cluster.local")
    return tuple(Address(value, port) for word, value in options if word == "--listen"), domain


def parse_address(text: str) -> Address:
    """ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT; with tls:// in front and #NAME behind for DNS over TLS. Raises UserError."""
    plain, tls_name, port = text.strip(), "", PORT
    if plain.startswith(TLS):
        plain, _, tls_name = plain.removeprefix(TLS).partition("#")
        port = TLS_PORT
        if not is_host_name(tls_name):
            raise UserError(f"not a server of DNS over TLS: {text!r} (expected tls://ADDRESS#NAME, the certificate's name)")
    try:
        host, port = _endpoint(plain, port)
    except ValueError as error:
        raise UserError(f"not an address of a DNS server: {text!r} ({error})") from error
    return Address(host, port, tls_name.rstrip(".").lower())


def _endpoint(text: str, port: int) -> tuple[str, int]:
    host, rest = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError("expected [ADDRESS]:PORT")
        rest = rest.removeprefix(":")
    elif text.count(":") == 1:
        host, _, rest = text.partition(":")
    ip_address(host)
    number = int(rest) if rest else port
    if not 0 < number < 65536:
        raise ValueError("port out of range")
    return host, number


def parse_host(text: str) -> tuple[str, tuple[str, ...]]:
    """NAME=ADDRESS[,ADDRESS …]. Raises UserError."""
    name, values = _assignment(text)
    try:
        return name, tuple(str(ip_address(value)) for value in values)
    except ValueError as error:
        raise UserError(f"not a name with addresses: {text!r} ({error})") from error


def parse_stub(text: str) -> tuple[str, tuple[Address, ...]]:
    """ZONE=ADDRESS[:PORT][,…]. Raises UserError."""
    zone, values = _assignment(text)
    return zone, tuple(map(parse_address, values))


def _assignment(text: str) -> tuple[str, list[str]]:
    name, equals, values = text.partition("=")
    name = name.rstrip(".").lower()
    try:
        to_key(name)
    except ValueError as error:
        raise UserError(f"not a DNS name: {name!r} ({error})") from error
    if not equals or not name or not values:
        raise UserError(f"expected NAME=ADDRESS[,ADDRESS …], not {text!r}")
    return name, values.split(",")


def parse_resolv_conf(text: str) -> tuple[Address, ...]:
    """The name servers of a resolv.conf (resolv.conf(5)), in order; lines that hold no address are passed over, as libc does."""
    return tuple(_nameservers(text.splitlines()))


def _nameservers(lines: Iterable[str]) -> Iterable[Address]:
    for line in lines:
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                ip_address(words[1])
            except ValueError:
                continue
            yield Address(words[1])
