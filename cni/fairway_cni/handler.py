"""From the bytes of a call to the bytes of its answer: what POST /v1/cni serves."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial

from fairway_cni import faults
from fairway_cni.attach import Attacher
from fairway_cni.faults import CniError, as_cni_error, body_of
from fairway_cni.ipam import Use
from fairway_cni.protocol import Request, parse, version_of
from fairway_cni.result import render_result


@dataclass(frozen=True, slots=True)
class Answer:
    """`exit_code` goes to the header X-Fairway-Exit; `body` is a CNI result, a CNI error or empty. `command` is for metrics:
    one of CNI's, or "unknown"."""

    exit_code: int
    body: bytes
    command: str = "unknown"


class CniHandler:
    """Serves CNI calls. Promise: every call is answered, never by an exception."""

    def __init__(self, attacher: Attacher, log: logging.Logger) -> None:
        self._attacher = attacher
        self._log = log

    async def handle(self, body: bytes) -> Answer:
        """Carry out the call in `body` (layout: `fairway_cni.protocol.split_body`)."""
        try:
            request = parse(body)
        except CniError as fault:
            self._log.warning("CNI call refused: %s", fault)
            return Answer(1, body_of(fault, version_of(body)))
        try:
            return Answer(0, await self._carry_out(request), request.command)
        except Exception as fault:
            error = as_cni_error(fault)
            unexpected = error.code == faults.INTERNAL
            self._log.warning("CNI %s failed: %s", _words(request), error, exc_info=fault if unexpected else None)
            return Answer(1, body_of(error, request.config.cni_version), request.command)

    def address_use(self) -> list[Use]:
        """Every address range and who holds what of it."""
        return self._attacher.address_use()

    async def _carry_out(self, request: Request) -> bytes:
        if request.command == "ADD":
            result = await self._attacher.add(request)
            self._tell("CNI %s: %s on %s", _words(request), ", ".join(result.ips), result.host_ifname)
            return render_result(result, request.config.cni_version)
        if request.command == "DEL":
            await self._attacher.delete(request)
            self._tell("CNI %s: done", _words(request))
        elif request.command == "CHECK":
            await self._attacher.check(request)
        elif request.command == "GC":
            self._log.info("CNI %s: %d removed", _words(request), await self._attacher.collect(request))
        else:
            await self._attacher.status(request)
        return b""

    def _tell(self, text: str, *values: str) -> None:
        """Log it behind the answer: a line takes as long as a fortieth of an ADD."""
        asyncio.get_running_loop().call_soon(partial(self._log.info, text, *values))


def _words(request: Request) -> str:
    parts = (f"{request.command} network={request.config.name}", request.container_id and f"container={request.container_id}")
    more = (request.ifname and f"ifname={request.ifname}", request.netns and f"netns={request.netns}")
    return " ".join(filter(None, (*parts, *more, request.trace and f"trace={request.trace}")))
