"""Somebody who asks a DNS server the same thing a thousand times a second and counts what is not answered."""

from __future__ import annotations

import socket
import struct
import threading
import time
from types import TracebackType

import dns.message

from fairway_kernel import netns

PAUSE = 0.0007
"""Seconds between two questions: 1,000 to 1,400 a second."""
LATE = 2.0
_ID = struct.Struct(">H")


class Asking:
    """Asks from within the namespace at `path` for as long as the block lasts."""

    def __init__(self, path: str, server: str, name: str) -> None:
        self._path = path
        self._server = server
        self._question = dns.message.make_query(name, "A").to_wire()[2:]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._socket: socket.socket | None = None
        self.sent = 0
        self.answered = 0
        self.wrong = 0
        self.seconds = 0.0

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        netns.enter(self._path)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            asking.connect((self._server, 53))
            asking.setblocking(False)
            started = time.monotonic()
            while not self._stop.wait(PAUSE):
                asking.send(_ID.pack(self.sent & 0xFFFF) + self._question)
                self.sent += 1
                self._take(asking)
            self.seconds = time.monotonic() - started
            deadline = time.monotonic() + LATE
            while self.answered < self.sent and time.monotonic() < deadline:
                self._take(asking)
                time.sleep(0.001)

    def _take(self, asking: socket.socket) -> None:
        while True:
            try:
                reply = asking.recv(4096)
            except BlockingIOError:
                return
            self.answered += 1
            # NOERROR with at least one answer.
            self.wrong += reply[3] & 15 != 0 or reply[6:8] == b"\0\0"

    def check(self, rate: int = 400) -> None:
        """After the block: everything was answered, rightly, at so many questions a second (fewer than it means to ask)."""
        assert (self.sent - self.answered, self.wrong) == (0, 0), f"of {self.sent}"
        assert self.sent / self.seconds >= rate, f"{self.sent / self.seconds:.0f} a second are too few to show anything"
