"""What address plugins of others answer to STATUS, without ever waiting for one of them.

A runtime asks often and takes a slow answer for a broken node, while the plugin is a process that may hang. So each network has
one question under way at most; who asks waits a moment for it and then takes the answer to the question before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fairway_cni import faults
from fairway_cni.delegate import Delegation
from fairway_cni.faults import CniError, as_cni_error

PATIENCE = 0.05
"""Seconds that one STATUS waits for the plugin; a runtime shall have its answer within a tenth of a second."""
FRESH = 30.0
"""Seconds for which an answer stands for one that is late."""
NETWORKS = 256
"""Networks remembered; more is somebody's mistake, and memory must end."""


@dataclass(slots=True)
class _Question:
    """`answered`: when the plugin answered last, in monotonic seconds; None: never. `answer` None: it can serve."""

    what: Delegation
    task: asyncio.Task[None] | None = None
    answer: CniError | None = None
    answered: float | None = None


class PluginHealth:
    """Promise: `look` returns or raises within `patience` seconds of its turn."""

    def __init__(self, ask: Callable[[Delegation], Awaitable[None]], patience: float = PATIENCE, fresh: float = FRESH) -> None:
        """`ask` puts the question to the plugin; it raises CniError for a refusal, and ends by itself some time."""
        self._ask = ask
        self._patience = patience
        self._fresh = fresh
        self._questions: dict[str, _Question] = {}

    async def look(self, network: str, what: Delegation) -> None:
        """Raises CniError as the plugin's STATUS did; code 50 if it does not answer and did not lately."""
        question = self._question(network, what)
        if question.task is None or question.task.done():
            question.task = asyncio.create_task(self._put(question))
        await asyncio.wait({question.task}, timeout=self._patience)
        late = question.answered is None or time.monotonic() > question.answered + self._fresh
        if late and not question.task.done():
            text = f"STATUS is not answered within {self._patience * 1000:g} ms"
            raise CniError(faults.NOT_AVAILABLE, f"ipam: {what.plugin} does not answer", text)
        if question.answer is not None:
            raise question.answer

    def _question(self, network: str, what: Delegation) -> _Question:
        """The network's, unless its configuration has changed."""
        found = self._questions.get(network)
        if found is not None and found.what == what:
            return found
        if len(self._questions) >= NETWORKS:
            self._questions.clear()
        self._questions[network] = _Question(what)
        return self._questions[network]

    async def _put(self, question: _Question) -> None:
        answer = None
        try:
            await self._ask(question.what)
        except Exception as fault:
            answer = as_cni_error(fault)
        question.answer, question.answered = answer, time.monotonic()
