"""Errors, split by who is at fault (design rule 10).

Promise: every error a user can see is one of these; each prints as one clear line.
"""

from __future__ import annotations

import errno as _errno
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the user's input a fault lies. `line` and `column` count from 1; 0 means unknown."""

    file: str = ""
    line: int = 0
    column: int = 0
    field: str = ""

    def __str__(self) -> str:
        where = self.file or "<input>"
        if self.line:
            where += f":{self.line}"
            if self.column:
                where += f":{self.column}"
        return f"{where}: {self.field}" if self.field else where


class FairwayError(Exception):
    """Base of all errors that Fairway raises on purpose."""


class UserError(FairwayError):
    """The input is wrong. The message names what and where; exit code 2."""

    def __init__(self, message: str, place: Place | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.place = place

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


class ConflictError(FairwayError):
    """The object changed since it was read, or a name is taken. The caller may read again and retry."""


class NotFoundError(FairwayError):
    """The object asked for does not exist."""


class KernelError(FairwayError):
    """The kernel refused an operation. `errno` is the kernel's, `operation` says what was tried."""

    def __init__(self, errno: int, operation: str, detail: str = "") -> None:
        name = _errno.errorcode.get(errno, str(errno))
        super().__init__(f"{operation}: {name}{': ' + detail if detail else ''}")
        self.errno = errno
        self.operation = operation
        self.detail = detail


class StoreUnavailable(FairwayError):
    """The store cannot be reached or written. Nothing was changed, unless the message says that it cannot be made durable.

    Retrying later may work.
    """


class ExhaustedError(FairwayError):
    """A pool (addresses, ports, ids) has nothing left; the message names the pool and its use."""
