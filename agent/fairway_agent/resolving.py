"""`fairway resolve`: what a pod gets for a name, and why; on request also what a worker really says."""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from typing import Any

from dnslib import DNSRecord

from fairway_agent.hiding import hiding
from fairway_core.errors import NotFoundError, UserError
from fairway_core.keys import Key
from fairway_core.model import Pod, Service
from fairway_core.world import World
from fairway_dns.config import WorkerConfig
from fairway_dns.explain import Explainer, Explanation, Hidden, Step
from fairway_dns.feed import ZoneFeed
from fairway_dns.names import to_key
from fairway_dns.question import client_query
from fairway_dns.views import Fact, ViewDelta, Views
from fairway_dns.wire import RCODES, TYPES
from fairway_kernel import netns

NDOTS = 5
ASK_SECONDS = 6.0
"""A worker gives up after 4.5 s."""


@dataclass(frozen=True, slots=True)
class _Client:
    """Who asks: the node itself, or a pod with its address and network namespace."""

    title: str = "the node"
    pod: str = ""
    namespace: str = ""
    address: bytes = b""
    netns: str = ""


class Resolving:
    """Answers questions about names. Event-loop only; what takes time happens in threads."""

    def __init__(self, config: WorkerConfig, feed: ZoneFeed, world: Callable[[], World]) -> None:
        self._config = config
        self._feed = feed
        self._world = world

    async def resolve(self, name: str, rtype: str, source: str = "", ask: bool = False) -> dict[str, Any]:
        """The answer and its reasons as JSON values. `source` is NAMESPACE/POD. Raises UserError, NotFoundError."""
        qtype = TYPES.get(rtype.upper())
        if qtype is None:
            raise UserError(f"type: {rtype!r} is none of {', '.join(TYPES)}")
        world, client = self._world(), self._client(source)
        try:
            candidates = [name, *self._candidates(name, client)]
            tried, path = await asyncio.to_thread(self._explain, self._feed.frames(), candidates, qtype, client.address)
        except ValueError as error:
            raise UserError(f"name: {error}") from error
        found = tried[-1]
        told = asdict(found) | {"client": client.title, "revision": world.revision, "tried": [item.name for item in tried]}
        told["steps"] = [_step(world, client, step) for step in path]
        told["objects"] = list(dict.fromkeys(text for owner in found.owners if (text := self._object(owner, world))))
        if ask:
            told["asked"] = await self._ask(found.name, qtype, client)
        return told

    def title_of(self, address: str) -> str:
        """NAMESPACE/POD of an address, or the address."""
        pod = self._world().pod_of_ip(address)
        return f"{pod.meta.namespace}/{pod.meta.name}" if pod is not None else address

    def zone_of(self, name: str) -> str:
        """What to count a name under: NAMESPACE.svc.DOMAIN, reverse names together, other names by their last two labels."""
        domain = self._config.domain
        labels = name.split(".")
        if labels[-1:] == ["arpa"]:
            return "arpa"
        kept = domain.count(".") + 3 if name.endswith(f".{domain}") else 2
        return ".".join(labels[-kept:])

    async def hidden(self, source: str, service: str) -> str:
        """Why the name of a service does not exist for a pod (both as NAMESPACE/NAME), in words; empty if it does, and for pods
        on other nodes.
        """
        if not self._feed.scoped:
            return ""
        world, client = self._world(), self._client(source)
        by = await asyncio.to_thread(_hidden_by, self._feed.facts, client.address, service)
        return "" if by is None else hiding(world, client.pod, Hidden(service, by))

    def _explain(
        self, frames: Iterable[Any], names: Sequence[str], qtype: int, address: bytes
    ) -> tuple[list[Explanation], list[Step]]:
        """One explanation per name tried, up to the first that is no denial, as a resolver goes through its search path; and what
        each name of the path is that leads there, whoever goes through it.
        """
        explainer = Explainer(self._config, frames)
        tried: list[Explanation] = []
        path = names[1:] or names
        for name in path:
            tried.append(explainer.explain(name, qtype, address))
            if tried[-1].rcode != "NXDOMAIN":
                break
        last = tried[-1]
        end = last.forwarded or last.name
        if last.rule == "completed" and last.owners[1:]:
            end = last.owners[1]
        steps = [explainer.look(name, address) for name in path]
        reached = next((number for number, step in enumerate(steps) if step.name == end), len(steps) - 1)
        return tried, steps[: reached + 1]

    def _candidates(self, name: str, client: _Client) -> list[str]:
        """What the resolver of a pod asks for one after another (resolv.conf(5)); empty for a name that is asked as it is."""
        if not client.namespace or name.endswith("."):
            return []
        domain = self._config.domain
        search = [f"{name}.{suffix}" for suffix in (f"{client.namespace}.svc.{domain}", f"svc.{domain}", domain)]
        return [name, *search] if name.count(".") >= NDOTS else [*search, name]

    def _client(self, source: str) -> _Client:
        if not source:
            return _Client()
        namespace, slash, name = source.partition("/")
        world = self._world()
        pod = world.pod(namespace, name) if slash else None
        if not isinstance(pod, Pod):
            raise NotFoundError(f"pod {source!r} is not known here (expected NAMESPACE/NAME)")
        places = (item for item in world.attachments() if (item.pod_namespace, item.pod_name) == (namespace, name))
        place = next(places, None)
        address = ip_address(pod.ips[0]).packed if pod.ips else b""
        return _Client(f"pod {source}", source, namespace, address, place.netns if place else "")

    def _object(self, name: str, world: World) -> str:
        """The object that a name of the zone stands for, in words; empty if there is none."""
        below = name.removesuffix(f".{self._config.domain}")
        labels = below.split(".")
        if below == name or len(labels) < 3 or labels[-1] != "svc":
            return ""
        service = world.get(Key("Service", labels[-2], labels[-3]))
        return _described(service, world) if isinstance(service, Service) else ""

    async def _ask(self, name: str, qtype: int, client: _Client) -> dict[str, Any]:
        server = next((host for host in self._config.listen if ":" not in host), self._config.listen[0])
        query = client_query(secrets.token_bytes(2), to_key(name), qtype)

        def ask() -> dict[str, Any]:
            return _exchange(query, server, self._config.port)

        if client.address and not client.netns:
            raise UserError(f"{client.title} has no network namespace on this node to ask from")
        return await (netns.call_in(client.netns, ask) if client.netns else asyncio.to_thread(ask))


def _step(world: World, client: _Client, step: Step) -> dict[str, str]:
    reasons = [hiding(world, client.pod, hidden) for hidden in step.hidden]
    return {"name": step.name, "state": step.state, "reason": "; ".join(dict.fromkeys(reasons))}


def _hidden_by(facts: frozenset[Fact], client: bytes, scope: str) -> str | None:
    views = Views()
    views.apply(ViewDelta(add=facts))
    # Of pods on other nodes nothing is known here.
    asker = views.askers.get(client)
    return None if asker is None else views.hidden_by(asker.sight, scope)


def _described(service: Service, world: World) -> str:
    title = f"Service {service.meta.namespace}/{service.meta.name}"
    if service.type == "ExternalName":
        return f"{title}: ExternalName {service.external_name}"
    if not service.headless:
        return f"{title}: cluster IPs {', '.join(service.cluster_ips) or 'none'}"
    endpoints = [endpoint for item in world.slices_of(*_names(service)) for endpoint in item.endpoints]
    ready = sum(endpoint.ready or service.publish_not_ready for endpoint in endpoints)
    return f"{title}: headless, {ready} of {len(endpoints)} endpoints can be named"


def _names(service: Service) -> tuple[str, str]:
    return service.meta.namespace, service.meta.name


def _exchange(query: bytes, server: str, port: int) -> dict[str, Any]:
    """What a worker says over UDP, from where this is called; an empty rcode if nothing."""
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    started = time.monotonic()
    rcode, records = "", list[str]()
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(ASK_SECONDS)
        client.connect((server, port))
        client.send(query)
        reply = DNSRecord.parse(client.recv(4096))
        records = [" ".join(record.toZone().split()) for record in reply.rr]
        rcode = RCODES.get(reply.header.rcode, str(reply.header.rcode))
    return {"server": server, "rcode": rcode, "records": records, "ms": round((time.monotonic() - started) * 1000, 3)}
