"""Requests that last as long as their client likes: watches and waits. They end when the agent stops."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aiohttp import web

TASKS: Final = web.AppKey("lingering", set[asyncio.Task[object]])


def prepare(app: web.Application) -> None:
    """Have `app` end its lingering requests first when it shuts down."""
    app[TASKS] = set()
    app.on_shutdown.append(_end)


@contextmanager
def lingering(request: web.Request) -> Iterator[None]:
    """While inside, the request is cancelled at shutdown instead of waited for. Whoever changes something must not be."""
    task = asyncio.current_task()
    assert task is not None, "a handler runs in a task"
    tasks = request.app[TASKS]
    tasks.add(task)
    try:
        yield
    finally:
        tasks.discard(task)


async def _end(app: web.Application) -> None:
    tasks = app[TASKS]
    for task in list(tasks):
        task.cancel()
