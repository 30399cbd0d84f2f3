"""Deleting links together: whoever waits while a delete runs is taken along by the next one.

A veth takes 10-25 ms to die, whatever its number, because the kernel waits for every CPU to let go of it (RCU). Links are moved
to a group of the doomed and the group is deleted by one request (32 links: 52-108 ms instead of 1.5 s).
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from threading import Lock

from fairway_core.errors import KernelError
from fairway_kernel.link.rtnl import IFLA_GROUP, IFLA_IFNAME, RTM_DELLINK, RTM_SETLINK, delete_link, link
from fairway_kernel.netlink import Request, SocketPool, attr_text, attr_u32

DOOMED_GROUP = 0x6677DEAD


class _Ticket:
    __slots__ = ("done", "failure", "names")

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self.done = False
        self.failure: KernelError | None = None


class Reaper:
    """Promise: `delete` returns when the link and its peer are gone; concurrent calls share one request to the kernel."""

    def __init__(self, pool: SocketPool, exists: Callable[[str], int | None]) -> None:
        self._pool = pool
        self._exists = exists
        self._queue: list[_Ticket] = []
        self._queue_lock = Lock()
        self._working = Lock()

    def delete(self, *names: str) -> None:
        """Remove links; missing ones are no error. Raises KernelError."""
        there = [name for name in names if self._exists(name) is not None]
        if not there:
            return
        ticket = _Ticket(there)
        with self._queue_lock:
            self._queue.append(ticket)
        with self._working:
            # The holder before us may have taken our ticket along.
            if not ticket.done:
                self._work()
        if ticket.failure is not None:
            raise ticket.failure

    def _work(self) -> None:
        with self._queue_lock:
            batch, self._queue = self._queue, []
        try:
            self._delete(sorted({name for ticket in batch for name in ticket.names}))
        except KernelError as error:
            for ticket in batch:
                ticket.failure = error
        finally:
            for ticket in batch:
                ticket.done = True

    def _delete(self, names: Sequence[str]) -> None:
        with self._pool.lend() as channel:
            if len(names) == 1:
                channel.transact([delete_link(names[0])])
                return
            channel.transact([_doom(name) for name in names])
            body = link() + attr_u32(IFLA_GROUP, DOOMED_GROUP)
            channel.transact([Request(RTM_DELLINK, body, f"delete {len(names)} links", tolerate=(errno.ENODEV,))])


def _doom(name: str) -> Request:
    body = link() + attr_text(IFLA_IFNAME, name) + attr_u32(IFLA_GROUP, DOOMED_GROUP)
    return Request(RTM_SETLINK, body, f"mark {name} for deletion", tolerate=(errno.ENODEV,))
