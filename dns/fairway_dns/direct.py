"""An asyncio loop that handles datagrams as soon as epoll tells of them, before it turns to anything else.

asyncio makes each event a handle, puts it in a queue, and comes to it in a second pass with a context of its own. For a datagram
that is answered or passed on within microseconds this costs as much as the work itself. So descriptors that are watched here have
their callbacks called from within `select`; all the loop's other work follows when the datagrams have left.

Who is put to sleep wakes late and with cold caches: on a virtual machine this was measured to take longer than all the work for a
forwarded question. So who knows that an event is near can have the loop look out for it instead of sleeping (`Lookout`).
"""

from __future__ import annotations

import asyncio
import math
import select
from collections.abc import Callable, Mapping
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector, SelectorKey
from time import monotonic
from typing import Any, Final, Protocol

AT_ONCE: Final = 64
"""Events taken from one call of epoll_wait(2), at most; the rest is there at the next."""
SEQUEL: Final = 0.00006
"""Seconds for which it may pay not to sleep when an answer has left: for a client that asks for one name after another."""
TRUST: Final = 16
"""How far the memory of a `Lookout` goes."""
RETRY: Final = 64
"""Events after which one that did not pay is tried again."""


class Watched(Protocol):
    """A socket, or whatever has a descriptor."""

    def fileno(self) -> int: ...


class Lookout:
    """Events of one kind that may be worth looking out for, `seconds` at most for each.

    Promise: what is spent in vain is bounded: it is done only while two of three looks find something, and one time in RETRY to
    find out whether that has become so.
    """

    def __init__(self, selector: DirectSelector, seconds: float) -> None:
        self._selector, self.seconds = selector, seconds
        self._score, self._skipped = TRUST, 0

    def expect(self) -> None:
        """An event of this kind is likely to be the next: if there is nothing to do, the loop's next wait looks out for it."""
        if self._score > 0 or self._skipped >= RETRY:
            self._selector.lookout = self
        else:
            self._skipped += 1

    def learn(self, found: bool) -> None:
        """Something came in time, or not."""
        self._score = min(self._score + 1, TRUST) if found else max(self._score - 2, 0)
        self._skipped = 0


class DirectSelector(BaseSelector):
    """epoll(7), level-triggered, for an asyncio loop. What a watched descriptor's callback raises goes to `failed`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._keys: dict[int, SelectorKey] = {}
        self._calls: dict[int, Callable[[], None]] = {}
        self.failed: Callable[[Exception], None] = lambda _error: None
        self.lookout: Lookout | None = None
        """What the next wait begins with."""

    def watch(self, fd: int, call: Callable[[], None]) -> None:
        """Have `call` called whenever the descriptor can be read. Raises OSError."""
        self._epoll.register(fd, select.EPOLLIN)
        self._calls[fd] = call

    def unwatch(self, fd: int) -> None:
        """No more calls; nothing if there are none. To be called before the descriptor is closed."""
        if self._calls.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def register(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        """See `BaseSelector`."""
        fd = _number(fileobj)
        if fd in self._keys:
            raise KeyError(f"{fd} is registered")
        self._epoll.register(fd, _mask(events))
        made = self._keys[fd] = SelectorKey(fileobj, fd, events, data)
        return made

    def unregister(self, fileobj: Any) -> SelectorKey:
        """See `BaseSelector`."""
        key = self._keys.pop(_number(fileobj))
        try:
            self._epoll.unregister(key.fd)
        except OSError:
            # Closed before it was unregistered: the kernel has forgotten it by itself.
            pass
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        """See `BaseSelector`."""
        fd = _number(fileobj)
        key = self._keys[fd]
        if key.events != events:
            self._epoll.modify(fd, _mask(events))
        made = self._keys[fd] = key._replace(events=events, data=data)
        return made

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        """See `BaseSelector`: the events of registered descriptors; watched ones have been attended to."""
        # The kernel counts milliseconds; to round down would spin.
        seconds = -1 if timeout is None else math.ceil(timeout * 1e3) * 1e-3 if timeout > 0 else 0
        calls = self._calls
        ready: list[tuple[SelectorKey, int]] = []
        early = self._look_out(seconds) if seconds and self.lookout is not None else None
        for fd, event in early or self._epoll.poll(seconds, AT_ONCE):
            call = calls.get(fd)
            if call is None:
                self._note(ready, fd, event)
                continue
            try:
                call()
            except Exception as error:
                self.failed(error)
        return ready

    def _look_out(self, seconds: float) -> list[tuple[int, int]]:
        """Wait awake, for as long as the lookout says and not beyond `seconds` (below zero: no bound); the events found."""
        lookout, self.lookout = self.lookout, None
        if lookout is None:
            return []
        poll, now = self._epoll.poll, monotonic()
        until = now + (min(seconds, lookout.seconds) if seconds > 0 else lookout.seconds)
        events: list[tuple[int, int]] = []
        while not events and now < until:
            events, now = poll(0, AT_ONCE), monotonic()
        lookout.learn(bool(events))
        return events

    def _note(self, ready: list[tuple[SelectorKey, int]], fd: int, event: int) -> None:
        key = self._keys.get(fd)
        if key is None:
            return  # A callback before this one has closed it.
        events = (EVENT_WRITE if event & ~select.EPOLLIN else 0) | (EVENT_READ if event & ~select.EPOLLOUT else 0)
        ready.append((key, events & key.events))

    def get_map(self) -> Mapping[Any, SelectorKey]:
        """See `BaseSelector`; by descriptor."""
        return self._keys

    def get_key(self, fileobj: Any) -> SelectorKey:
        """See `BaseSelector`."""
        return self._keys[_number(fileobj)]

    def close(self) -> None:
        """See `BaseSelector`."""
        self._epoll.close()
        self._keys, self._calls = {}, {}


class DirectLoop(asyncio.SelectorEventLoop):
    """The loop of a worker: for `asyncio.Runner(loop_factory=DirectLoop)`."""

    def __init__(self) -> None:
        self.direct = DirectSelector()
        super().__init__(self.direct)
        self.direct.failed = self._failed

    def _failed(self, error: Exception) -> None:
        self.call_exception_handler({"message": "a datagram could not be handled", "exception": error})


def watch(loop: asyncio.AbstractEventLoop, made: Watched, call: Callable[[], None]) -> None:
    """Have `call` called whenever a socket can be read: at once on a `DirectLoop`, in the usual way on any other."""
    if isinstance(loop, DirectLoop):
        loop.direct.watch(made.fileno(), call)
    else:
        loop.add_reader(made.fileno(), call)


def lookout(loop: asyncio.AbstractEventLoop, seconds: float) -> Lookout | None:
    """To look out for events on a `DirectLoop`; None for any other loop."""
    return Lookout(loop.direct, seconds) if isinstance(loop, DirectLoop) else None


def unwatch(loop: asyncio.AbstractEventLoop, made: Watched) -> None:
    """The end of `watch`, before the socket is closed."""
    if isinstance(loop, DirectLoop):
        loop.direct.unwatch(made.fileno())
    else:
        loop.remove_reader(made.fileno())


def _number(fileobj: Any) -> int:
    fd = fileobj if isinstance(fileobj, int) else int(fileobj.fileno())
    if fd < 0:
        raise ValueError(f"no descriptor: {fileobj!r}")
    return fd


def _mask(events: int) -> int:
    if not events or events & ~(EVENT_READ | EVENT_WRITE):
        raise ValueError(f"no events: {events!r}")
    return (select.EPOLLIN if events & EVENT_READ else 0) | (select.EPOLLOUT if events & EVENT_WRITE else 0)
