"""What a DNS worker is told at its start, and the upstreams of a host. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from fairway_core.errors import UserError
from fairway_dns.names import to_key

PORT = 53


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where a server listens. `host` is a literal address, an IPv6 one possibly with %scope."""

    host: str
    port: int = PORT

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """The settings of one worker process. `private` are the CIDRs of services and pods, whose reverse names are never
    forwarded; `hosts` fixed names with their addresses; `stubs` zones with servers of their own.
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
        return (*head, *upstream, *ranges, *hosts, *stubs, "--state", self.state, "--domain", self.domain)


def parse_address(text: str) -> Address:
    """ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT. Raises UserError."""
    host, port = text.strip(), str(PORT)
    if host.startswith("["):
        host, _, rest = host[1:].partition("]")
        port = rest.removeprefix(":") or port
    elif host.count(":") == 1:
        host, _, port = host.partition(":")
    try:
        ip_address(host)
        if not 0 < int(port) < 65536:
            raise ValueError("port out of range")
    except ValueError as error:
        raise UserError(f"not an address of a DNS server: {text!r} ({error})") from error
    return Address(host, int(port))


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
