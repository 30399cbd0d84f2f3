"""Batches of datagrams between real sockets: every reply goes where its query came from."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fairway_dns.batch import SIZE, SLOT, Batch, host_of
from fairway_kernel.netns import run_in

pytestmark = pytest.mark.needs_root


@contextmanager
def sockets(namespace: str, host: str, count: int) -> Iterator[tuple[Batch, list[socket.socket]]]:
    """A batch on a bound socket, and clients connected to it."""
    subprocess.run(["ip", "-n", Path(namespace).name, "link", "set", "lo", "up"], check=True)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with ExitStack() as stack:
        made = [
            stack.enter_context(run_in(namespace, lambda: socket.socket(family, socket.SOCK_DGRAM))) for _ in range(count + 1)
        ]
        server, *clients = made
        server.bind((host, 0))
        server.setblocking(False)
        for client in clients:
            client.connect(server.getsockname())
            client.settimeout(2)
        yield Batch(server), clients


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_replies_go_to_their_senders_in_any_order(namespace: str, host: str) -> None:
    with sockets(namespace, host, 8) as (batch, clients):
        orders = ([0, 1, 2, 3, 4, 5, 6, 7], [1, 0, 2, 3, 4, 5, 6, 7], [7, 2], [0, 1, 2], [6, 5, 4, 3, 2, 1, 0, 7], list(range(8)))
        for order in orders:
            for number, client in enumerate(clients):
                client.send(bytes([number]) * (number + 1))
            got = batch.receive()
            assert got == [bytes([number]) * (number + 1) for number in range(8)]
            pieces = [part for slot in order for part in (b"to ", bytes([slot]))]
            assert batch.send(pieces, [4] * len(order), order) == len(order)
            assert [clients[slot].recv(100) for slot in order] == [b"to " + bytes([slot]) for slot in order]
        assert batch.receive() == []


def test_full_batches_odd_sizes_and_single_replies(namespace: str) -> None:
    with sockets(namespace, "127.0.0.1", 1) as (batch, (client,)):
        sizes = [0, 1, 4096, 4097, 9000, *([17] * SIZE)]
        for size in sizes:
            client.send(b"q" * size)
        assert [len(data) for data in batch.receive()] == [min(size, SLOT) for size in sizes[:SIZE]]
        assert batch.send([b"r" * 1232] * SIZE, [1232] * SIZE, list(range(SIZE))) == SIZE
        assert [len(client.recv(2000)) for _ in range(SIZE)] == [1232] * SIZE
        assert len(batch.receive()) == len(sizes) - SIZE
        sender = batch.sender(0)
        assert host_of(sender) == "127.0.0.1"
        assert batch.send_to(b"one", sender)
        assert client.recv(100) == b"one"
        assert not batch.send_to(b"x", b"\xff\xff" + bytes(14))


def test_what_cannot_be_sent_does_not_stop_the_rest(namespace: str) -> None:
    with sockets(namespace, "127.0.0.1", 3) as (batch, clients):
        for client in clients:
            client.send(b"q")
        assert len(batch.receive()) == 3
        # A datagram longer than UDP can carry is refused by the kernel in the middle of the call.
        assert batch.send([b"a", b"b" * 66_000, b"c"], [1, 66_000, 1], [0, 1, 2]) == 2
        assert (clients[0].recv(9), clients[2].recv(9)) == (b"a", b"c")
