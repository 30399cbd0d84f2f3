"""A process that takes a laboratory down when its owner is gone, however it went.

It reads from a pipe whose other end only the owner holds. End of file: the owner has ended, take everything down (nothing is
left to do if the owner did). One byte: the laboratory shall stay, leave.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fairway_netlab.run import down

KEEP = b"k"


class Guard:
    """The owner's end."""

    def __init__(self, name: str, root: Path) -> None:
        command = [sys.executable, "-m", "fairway_netlab.guard", name, str(root)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, cwd="/")

    def dismiss(self) -> None:
        """Let the laboratory outlive this process."""
        self._close(KEEP)

    def close(self) -> None:
        """The owner has taken the laboratory down, or wants the guard to."""
        self._close(b"")

    def _close(self, last: bytes) -> None:
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.write(last)
            self._process.stdin.close()
        self._process.wait()


def main(name: str, root: str) -> int:
    """Wait for the owner's end, then act."""
    if sys.stdin.buffer.read(1) != KEEP:
        down(name, Path(root))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
