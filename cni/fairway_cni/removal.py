"""Taking attachments away: the wire, then the objects, then connection tracking, the address last.

If a step fails, what depends on it stays: an address is never given away while a link may still use it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fairway_cni.claims import Claims
from fairway_cni.faults import CniError
from fairway_cni.plan import Identity
from fairway_cni.protocol import Request
from fairway_cni.records import Records
from fairway_cni.wires import Kernel, Wires
from fairway_cni.work import Background, WorkThreads
from fairway_core.errors import FairwayError
from fairway_core.model import Attachment

T = TypeVar("T")


class Remover:
    """The caller holds the lock of the attachment."""

    def __init__(
        self, records: Records, wires: Wires, claims: Claims, kernel: Kernel, threads: WorkThreads, log: logging.Logger
    ) -> None:
        self._records = records
        self._wires = wires
        self._claims = claims
        self._kernel = kernel
        self._threads = threads
        self._log = log
        self._reaping = Background()

    @property
    def busy(self) -> bool:
        """Whether links are on their way out, whose addresses and ports are still taken."""
        return bool(self._reaping)

    async def settle(self) -> None:
        """Wait until they are gone."""
        await self._reaping.drain()

    async def hold(self, work: Coroutine[Any, Any, T]) -> T:
        """Carry out work that keeps an address taken for a moment, so that who needs it waits."""
        task = asyncio.ensure_future(work)
        self._reaping.start(_ended(task))
        return await task

    async def remove(self, attachment: Attachment) -> list[Exception]:
        """Take everything of an attachment away; the errors met.

        The address stays taken while the link or the object is still there, so that nobody else gets it.
        """
        try:
            await self._threads.run(self._wires.detach, attachment)
        except FairwayError as fault:
            return [fault]
        errors = await self._records.forget(attachment)
        if errors and await self._records.is_stored(attachment):
            return errors
        return [*errors, *await self._let_go(attachment)]

    async def remove_unplugged(
        self, attachment: Attachment, release: Callable[[], None]
    ) -> tuple[list[Exception], Callable[[], None]]:
        """Forget an attachment whose container is cut off; the errors met, and what is left to do at once.

        The kernel takes its time to let a device go. Nobody has to wait for that but the next attachment of the same key, hence
        the lock goes along, and who needs the address.
        """
        errors = await self._records.forget(attachment)
        if errors and await self._records.is_stored(attachment):
            return errors, release
        self._reaping.start(self._reap_link(attachment, release))
        return errors, _nothing

    async def _reap_link(self, attachment: Attachment, release: Callable[[], None]) -> None:
        try:
            await self._threads.run(self._wires.detach, attachment)
            for error in await self._let_go(attachment):
                self._log.warning("removing %s: %s", attachment.meta.name, error)
        except FairwayError as fault:
            # A restarted agent removes the orphan and finds the addresses free.
            text = "link %s is cut off, but not removed, and its addresses stay taken until the agent starts again: %s"
            self._log.warning(text, attachment.host_ifname, fault)
        finally:
            release()

    async def _let_go(self, attachment: Attachment) -> list[Exception]:
        """Forget connections, then give back what others may want."""
        try:
            await self._threads.run(self._kernel.flush, attachment.ips)
        except FairwayError as fault:
            self._log.warning("tracked connections of %s are not forgotten: %s", ", ".join(attachment.ips), fault)
        return await self._claims.release(attachment)

    async def sweep(self, who: Identity, request: Request) -> list[Exception]:
        """Remove a link of an attachment that the store does not know; its name follows from the key."""
        errors: list[Exception] = []
        for mode in ("bridge", "routed"):
            try:
                await self._threads.run(self._kernel.links.detach, who.host_ifname(mode), ())
            except FairwayError as fault:
                errors.append(fault)
        return [*errors, *await self.forget_unknown(request)]

    async def forget_unknown(self, request: Request) -> list[Exception]:
        """Tell the address plugin of the configuration, if it names one; nobody recorded what it was told before."""
        try:
            await self._claims.forget_unknown(request)
        except CniError as fault:
            return [fault]
        return []


async def _ended(task: asyncio.Future[T]) -> None:
    await asyncio.wait({task})


def _nothing() -> None:
    """Nothing is left to be done."""
