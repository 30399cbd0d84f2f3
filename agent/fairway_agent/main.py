"""Process entry of `fairway agent`: read the configuration, assemble, run until told to stop."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

from fairway_agent.assembly import Agent
from fairway_agent.config import DEFAULT_PATH, load_config
from fairway_agent.notify import sd_notify
from fairway_core.errors import FairwayError, UserError
from fairway_core.logs import configure

SELDOM = 1_000_000
"""Of the collector's thresholds: practically never."""


def main(config_path: str | None = None) -> int:
    """Run the agent; the process exit code. 2 for a bad configuration, 1 if something it cannot do without fails."""
    try:
        config = load_config(Path(config_path) if config_path else DEFAULT_PATH)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    log = configure(config.log.level)
    try:
        return asyncio.run(_run(Agent(config, log)))
    except (FairwayError, BaseExceptionGroup) as error:
        return _explain(error, log)


def _explain(error: BaseException, log: logging.Logger) -> int:
    faults = _leaves(error)
    for fault in faults:
        if isinstance(fault, UserError):
            print(f"error: {fault}", file=sys.stderr)
        else:
            log.critical("the agent cannot go on", extra={"error": str(fault)}, exc_info=fault)
    return 2 if all(isinstance(fault, UserError) for fault in faults) else 1


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in _leaves(inner)]


async def _run(agent: Agent) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    usual = gc.get_threshold()
    # Full collections walk all that lives while every thread waits, and at the start all of it lives on: 10,000 services were
    # measured to stop the loop for 0.2 s at a time.
    gc.set_threshold(*usual[:2], SELDOM)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    running = asyncio.create_task(agent.run(partial(_ready, usual)))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    sd_notify("STOPPING=1")
    stopping.cancel()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    return 0


def _ready(thresholds: tuple[int, int, int]) -> None:
    # What is alive now lives on: keep the collector from walking it again and again under load.
    gc.collect(1)
    gc.freeze()
    gc.set_threshold(*thresholds)
    sd_notify("READY=1")
    asyncio.get_running_loop().run_in_executor(None, _give_back)


def _give_back() -> None:
    """Return what the first lists and the first transaction needed to the kernel: in a large cluster a fifth of all."""
    with suppress(OSError, AttributeError):
        # Other C libraries than glibc have no such call, nor such a need.
        ctypes.CDLL(None).malloc_trim(0)
