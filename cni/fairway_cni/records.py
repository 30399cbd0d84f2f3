"""Attachments and their pods in the store: declare, confirm, forget."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from fairway_cni import documents, plan
from fairway_cni.control import Control
from fairway_cni.documents import Said
from fairway_cni.plan import Identity
from fairway_cni.work import Background
from fairway_core.errors import ConflictError, FairwayError, StoreUnavailable
from fairway_core.model import Attachment
from fairway_core.world import ATTACHMENT_POD
from fairway_store.api import Delete, Entry, Put, Write

COMMIT_TRIES = 4
"""How often a commit is tried because somebody else wrote the Pod in between."""
CONFIRM_AFTER = 0.5
"""Seconds at most until an attachment is confirmed in the store; this process knows it at once. Confirming later, and all in one
commit, keeps it out of the way of a burst and away from containers that live for a moment."""


class Records:
    """The stored side of attachments. The caller holds the lock of the attachment."""

    def __init__(self, control: Control, node: str, log: logging.Logger, confirm_after: float = CONFIRM_AFTER) -> None:
        self._control = control
        self._node = node
        self._log = log
        self._confirm_after = confirm_after
        self._wired: set[str] = set()
        self._unconfirmed: dict[str, Put] = {}
        self._background = Background()

    def find(self, who: Identity) -> Attachment | None:
        """The attachment as the newest world has it."""
        found = self._control.world().get(who.key)
        return found if isinstance(found, Attachment) else None

    def same(self, attachment: Attachment) -> bool:
        """Whether it is still there, and not another one with the same key."""
        now = self.find(plan.identity_of(attachment))
        return now is not None and replace(now, confirmed=attachment.confirmed) == attachment

    async def declare(self, attachment: Attachment, said: Said, known: Attachment | None = None) -> tuple[Attachment, int]:
        """Store the attachment and its Pod, and wait until rules and names are live. `known`: the record that it replaces.

        Returns the attachment as stored, with `pod_declared` as it turned out, and the revision. Raises as `Control.commit` does.
        """
        stored = attachment

        def writes(entry: Entry | None) -> list[Write]:
            nonlocal stored
            if not self._control.owns_pods:
                stored = replace(attachment, pod_declared=True)
                return [Put(attachment.meta.key("Attachment"), documents.attachment_document(stored))]
            others = self._others(attachment)
            # A Pod that is there without any attachment was declared by somebody.
            mates = [known] if known else others
            declared = mates[0].pod_declared if mates else entry is not None
            stored = replace(attachment, pod_declared=declared)
            mine = Put(attachment.meta.key("Attachment"), documents.attachment_document(stored))
            return [mine, documents.claim_pod(entry, stored, self._node, said, others)]

        revision = await self._commit(attachment, writes)
        return stored, revision

    def confirmed(self, attachment: Attachment) -> bool:
        """Whether its ADD has succeeded; the store learns that a little later."""
        return attachment.confirmed or attachment.meta.name in self._wired

    def made_here(self, attachment: Attachment) -> bool:
        """Whether this process attached it or took it over, so that no older record can be meant."""
        return attachment.meta.name in self._wired

    def taken_over(self, attachment: Attachment) -> None:
        """The store has it, confirmed, as the kernel has it."""
        self._wired.add(attachment.meta.name)

    def succeeded(self, attachment: Attachment, revision: int) -> None:
        """The ADD that declared it at `revision` is done: known here at once, in the store after a while."""
        self._wired.add(attachment.meta.name)
        document = documents.attachment_document(replace(attachment, confirmed=True))
        self._unconfirmed[attachment.meta.name] = Put(attachment.meta.key("Attachment"), document, revision)
        if len(self._unconfirmed) == 1:
            self._background.start(self._confirm())

    async def drain(self) -> None:
        """Wait until the store knows."""
        await self._background.drain()

    async def _confirm(self) -> None:
        await asyncio.sleep(self._confirm_after)
        due, self._unconfirmed = list(self._unconfirmed.values()), {}
        try:
            await self._put_quietly(due)
        except ConflictError:
            await asyncio.gather(*(self._confirm_one(write) for write in due))

    async def _confirm_one(self, write: Put) -> None:
        """A DEL that was faster has changed the revision and wins."""
        try:
            await self._put_quietly([write])
        except ConflictError:
            self._log.debug("attachment %s changed before it was confirmed", write.key.name)

    async def _put_quietly(self, writes: Sequence[Put]) -> None:
        if not writes:
            return
        try:
            await self._control.commit_quietly(writes)
        except StoreUnavailable as fault:
            names = ", ".join(write.key.name for write in writes)
            self._log.warning("attachments stay unconfirmed: %s: %s", names, fault)

    async def forget(self, attachment: Attachment) -> list[Exception]:
        """Delete the objects; the errors met.

        Being late in the kernel is none of them: every ADD waits for a later revision, and so for this one too.
        """

        def writes(entry: Entry | None) -> list[Write]:
            key = attachment.meta.key("Attachment")
            pods = documents.release_pod(entry, attachment, self._others(attachment)) if self._control.owns_pods else ()
            return [Delete(key), *pods]

        self._wired.discard(attachment.meta.name)
        self._unconfirmed.pop(attachment.meta.name, None)
        try:
            await self._control.named(await self._commit(attachment, writes))
        except TimeoutError as fault:
            self._log.warning("attachment %s is deleted, but rules and names are late: %s", attachment.meta.name, fault)
        except FairwayError as fault:
            return [fault]
        return []

    async def is_stored(self, attachment: Attachment) -> bool:
        """Whether the object is in the store; taken to be if the store cannot be asked."""
        try:
            return await self._control.entry(attachment.meta.key("Attachment")) is not None
        except FairwayError:
            return True

    def _others(self, attachment: Attachment) -> list[Attachment]:
        index = (ATTACHMENT_POD, attachment.pod_namespace, attachment.pod_name)
        return [item for item in self._control.world().at(Attachment, *index) if item.meta.name != attachment.meta.name]

    async def _commit(self, attachment: Attachment, writes: Callable[[Entry | None], list[Write]]) -> int:
        """Commit what `writes` makes of the Pod as it is now; again if the Pod changes meanwhile."""
        key = documents.pod_key(attachment)
        if self._control.world().get(key) is None:
            # The usual case of an ADD: nothing to read. If the world is behind the store, the commit says so.
            with suppress(ConflictError):
                return await self._control.commit(writes(None))
        for _ in range(COMMIT_TRIES - 1):
            with suppress(ConflictError):
                return await self._control.commit(writes(await self._control.entry(key)))
        return await self._control.commit(writes(await self._control.entry(key)))
