"""How the demonstration speaks: numbered steps with their time, indented results, broken promises at the end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


class Story:
    """Prints as it goes. `failures` is what `expect` found untrue."""

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out
        self._bold = out.isatty() and not os.environ.get("NO_COLOR")
        self._number = 0
        self.failures: list[str] = []

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """A numbered step; its time is printed at its end, however it ends."""
        self._number += 1
        self._print(f"\n{self._number}. {title}", strong=True)
        started = time.monotonic()
        try:
            yield
        finally:
            self._print(f"   ({time.monotonic() - started:.2f} s)")

    def tell(self, text: str = "") -> None:
        """Results, indented; several lines are kept apart."""
        for line in text.splitlines() or [""]:
            self._print(f"   {line}")

    def expect(self, holds: bool, promise: str) -> None:
        """Say whether a promise was kept, and remember it if not."""
        self._print(f"   {'ok  ' if holds else 'FAIL'} {promise}")
        if not holds:
            self.failures.append(promise)

    def end(self) -> int:
        """The last word, and the exit code."""
        if self.failures:
            self._print(f"\n{len(self.failures)} of the promises above did not hold:", strong=True)
            for failure in self.failures:
                self._print(f"   - {failure}")
            return 1
        self._print("\nReal namespaces, real packets, real runtimes; all of it is gone again.", strong=True)
        return 0

    def _print(self, text: str, strong: bool = False) -> None:
        print(f"\033[1m{text}\033[0m" if strong and self._bold else text, file=self._out, flush=True)
