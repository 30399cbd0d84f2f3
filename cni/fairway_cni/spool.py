"""Deletions that the shim left on disk while the agent was away."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fairway_cni.plan import Identity

SUFFIX = ".del"
LIMIT = 2 << 20
"""Bytes of a record; the shim bounds the configuration to 1 MiB and the kernel bounds the environment."""


@dataclass(frozen=True, slots=True)
class SpooledCall:
    """One record: the same bytes that POST /v1/cni takes."""

    path: Path
    body: bytes


def record_name(who: Identity) -> str:
    """The file name the shim gives a record: FNV-1a, 64 bits, over the three parts, each ended by 0xff (`attachment_hash`)."""
    value = 14695981039346656037
    for part in (who.network, who.container_id, who.ifname):
        for byte in (*os.fsencode(part), 0xFF):
            value = (value ^ byte) * 1099511628211 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}{SUFFIX}"


class Spool:
    """The spool directory. Promise: a record is removed only after it was carried out, or superseded by an ADD of its key."""

    def __init__(self, directory: Path, log: logging.Logger) -> None:
        self._directory = directory
        self._log = log

    def pending(self) -> Iterator[SpooledCall]:
        """The records now, oldest first; what cannot be read is logged and left for a human."""
        for path in sorted(self._directory.glob(f"*{SUFFIX}"), key=_age):
            try:
                if path.stat().st_size > LIMIT:
                    raise OSError(f"larger than {LIMIT} bytes")
                yield SpooledCall(path, path.read_bytes())
            except OSError as fault:
                self._log.warning("spooled call %s cannot be read: %s", path, fault)

    def done(self, call: SpooledCall) -> None:
        """Remove a record that was carried out."""
        call.path.unlink(missing_ok=True)

    def set_aside(self, call: SpooledCall) -> None:
        """Keep a record that means nothing out of the way, for a human to look at."""
        call.path.rename(call.path.with_suffix(".bad"))

    def holds(self, who: Identity) -> bool:
        """Whether a deletion of this attachment waits here."""
        return (self._directory / record_name(who)).exists()

    def forget(self, who: Identity) -> None:
        """Drop the record of an attachment that is being added anew: its deletion is history."""
        (self._directory / record_name(who)).unlink(missing_ok=True)


def _age(path: Path) -> tuple[int, str]:
    try:
        return path.stat().st_mtime_ns, path.name
    except FileNotFoundError:
        return 0, path.name
