"""HTTP to the API server: the thin edge over aiohttp. One request, one answer or one stream, every failure an ApiFault."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from fairway_core.errors import UserError
from fairway_store.kubernetes.access import Access
from fairway_store.kubernetes.faults import ApiFault, Denied, Silent, fault_of
from fairway_store.kubernetes.resources import Resource
from fairway_store.kubernetes.timing import Timing

USER_AGENT = "fairway"


@dataclass(frozen=True, slots=True)
class Call:
    """One request: `verb` as RBAC names it, `path` if it is not the whole collection's, and what is sent, if anything is."""

    verb: str
    resource: Resource
    query: Mapping[str, str] = field(default_factory=dict)
    method: str = "GET"
    path: str = ""
    body: Mapping[str, Any] | None = None
    content_type: str = "application/json"

    def __str__(self) -> str:
        return f"{self.verb} {self.resource.plural}"


class ApiClient:
    """Talks to the first server that can be reached, and to the next when that one cannot. Belongs to one event loop."""

    def __init__(self, access: Access, timing: Timing, log: logging.Logger) -> None:
        """Raises UserError if certificates cannot be used."""
        self._access = access
        self._timing = timing
        self._log = log
        self._current = 0
        self._tls: ssl.SSLContext = access.tls()
        self._session: aiohttp.ClientSession | None = None

    async def get(self, resource: Resource, query: Mapping[str, str]) -> Any:
        """The decoded answer to a list. Raises ApiFault."""
        timeout = aiohttp.ClientTimeout(total=self._timing.request, sock_connect=self._timing.connect)
        return await self._decoded(Call("list", resource, query), timeout)

    async def send(self, call: Call) -> Any:
        """The decoded answer to a write. Raises ApiFault."""
        timeout = aiohttp.ClientTimeout(total=self._timing.request, sock_connect=self._timing.connect)
        return await self._decoded(call, timeout)

    async def _decoded(self, call: Call, timeout: aiohttp.ClientTimeout) -> Any:
        async with self._request(call, timeout) as response:
            body = await response.read()
        try:
            return json.loads(body)
        except ValueError as fault:
            raise ApiFault(f"{call}: the answer is not JSON") from fault

    async def stream(self, resource: Resource, query: Mapping[str, str], silence: float) -> AsyncGenerator[bytes, None]:
        """The bytes of a watch as they come. Raises ApiFault when it breaks or brings nothing for `silence` seconds."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timing.connect, sock_read=silence)
        async with self._request(Call("watch", resource, query), timeout) as response:
            async for data in response.content.iter_any():
                yield data

    @asynccontextmanager
    async def _request(self, call: Call, timeout: aiohttp.ClientTimeout) -> AsyncIterator[aiohttp.ClientResponse]:
        server = self._access.servers[self._current]
        try:
            async with self._open().request(
                call.method,
                server + (call.path or call.resource.path),
                params=call.query,
                data=None if call.body is None else json.dumps(call.body).encode(),
                headers=self._headers(call),
                timeout=timeout,
                ssl=self._tls,
                server_hostname=self._access.server_name or None,
                allow_redirects=False,
            ) as response:
                if response.status not in (200, 201):
                    body = await response.read()
                    raise self._refused(fault_of(response.status, response.headers, body, call.verb, call.resource))
                yield response
        except aiohttp.ClientConnectorError as fault:
            self._leave(server)
            raise ApiFault(f"{call}: {server} cannot be reached: {fault}") from fault
        except TimeoutError as fault:
            self._leave(server)
            raise Silent(f"{call}: {server} has gone silent") from fault
        except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError) as fault:
            raise ApiFault(f"{call}: {server}: {str(fault) or type(fault).__name__}") from fault

    def _headers(self, call: Call) -> dict[str, str]:
        token = self._access.bearer()
        headers = {"Accept": "application/json", "User-Agent": USER_AGENT}
        if call.body is not None:
            headers["Content-Type"] = call.content_type
        return {**headers, "Authorization": f"Bearer {token}"} if token else headers

    def _refused(self, fault: ApiFault) -> ApiFault:
        if isinstance(fault, Denied):
            # A client certificate may have been renewed since; a token is read anew anyway.
            self._renew()
            return Denied(f"{fault}; credentials from {self._access.source}", fault.retry_after)
        return fault

    def _renew(self) -> None:
        try:
            self._tls = self._access.tls()
        except UserError as fault:
            self._log.warning("certificates stay as they were: %s", fault)

    def _leave(self, server: str) -> None:
        """Go on to the next server, unless another request has done so already."""
        if self._access.servers[self._current] == server:
            self._current = (self._current + 1) % len(self._access.servers)
            self._renew()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), auto_decompress=True)
        return self._session

    async def close(self) -> None:
        """End all connections. Idempotent."""
        if self._session is not None:
            await self._session.close()
            self._session = None
