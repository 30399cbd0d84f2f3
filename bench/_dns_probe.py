"""An open-loop client: queries leave at fixed times whether or not answers come, so that a stall of the server shows in full.

No benchmark of its own: `bench/dns.py` uses it.
"""

from __future__ import annotations

import socket
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass

DRAIN = 0.3
"""Seconds to wait for late answers."""
SO_RCVBUFFORCE = 33


@dataclass(frozen=True, slots=True)
class Latency:
    """What a probe saw: counts, queries per second, microseconds."""

    sent: int
    lost: int
    offered: float
    p50: float
    p99: float


def probe(host: str, port: int, queries: list[bytes], rate: int, seconds: float) -> Latency:
    """Send `rate` queries per second for `seconds`, in turn from `queries`; their first two octets become the id.

    One busy loop on one socket, so that no wake-up of the client is in the figures. A query that left late, since the client
    was off its core, counts from when it left.
    """
    bodies = [query[2:] for query in queries]
    count, gap, clock = int(rate * seconds), 1 / rate, time.perf_counter
    left = [0.0] * count
    times: list[float] = []
    with connected(host, port) as one:
        sent = 0
        start = clock()
        end = start + seconds + DRAIN
        while len(times) < count and (now := clock()) < end:
            if sent < count and now >= start + sent * gap:
                left[sent] = now
                one.send((sent & 0xFFFF).to_bytes(2, "big") + bodies[sent % len(bodies)])
                sent += 1
            try:
                reply = one.recv(512)
            except BlockingIOError:
                continue
            # Ids repeat every 65,536 queries, which is longer than any answer takes.
            index = sent - 1 - ((sent - 1 - (reply[0] << 8 | reply[1])) & 0xFFFF)
            times.append(clock() - left[index])
        took = clock() - start
    times.sort()
    middle, high = (times[len(times) * part // 100] * 1e6 if times else float("inf") for part in (50, 99))
    return Latency(sent, sent - len(times), sent / min(took, seconds), middle, high)


def connected(host: str, port: int) -> socket.socket:
    """A socket of a client that does not wait, with room for what comes meanwhile."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
    made.connect((host, port))
    made.setblocking(False)
    return made


def ask_in_turn(host: str, port: int, queries: list[bytes]) -> float:
    """Median microseconds from a query to its answer, each sent when the one before is answered. Silence counts as a second."""
    times = []
    with connected(host, port) as one:
        one.settimeout(1)
        for query in queries:
            start = time.perf_counter()
            one.send(query)
            with suppress(TimeoutError):
                one.recv(2048)
            times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6
