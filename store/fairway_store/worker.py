"""The one thread that talks to SQLite, and group commit.

Whatever has queued up while the last sync was running is written with the next one: under load the cost of a sync is
shared, without load nobody waits for company. What is written is shown at once and called durable after the sync.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from fairway_core.errors import ConflictError, StoreUnavailable
from fairway_store.database import Database, Outcome
from fairway_store.plan import PreparedWrite, events

GROUP = 128
"""Requests served at a time at most."""

Result = tuple["Commit | Read", Any, BaseException | None]
"""A request, its value, and its error if it failed."""


@dataclass(frozen=True, slots=True, eq=False)
class Commit:
    """Writes that belong together. The value is (revision, watch events); no events if nothing changed."""

    writes: Sequence[PreparedWrite]


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """A question to the database. The value is what `ask` returns."""

    ask: Callable[[Database], Any]


class Worker:
    """Serves requests on its own thread and hands the results back in groups, commits before reads, in order of revision.

    A read may see a commit that was queued after it: it is then already durable, and its result comes in the same group.
    """

    def __init__(
        self,
        open_database: Callable[[], Database],
        show: Callable[[Sequence[Result]], None],
        deliver: Callable[[Sequence[Result]], None],
        name: str,
    ) -> None:
        """Both are called on the worker's thread and must not raise: `show` with commits that are written, `deliver` with every
        result, which for a commit is when it is durable.
        """
        self._open_database = open_database
        self._show = show
        self._deliver = deliver
        self._queue: SimpleQueue[Commit | Read | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Open the database on the thread; its first result answers a `Read` submitted before."""
        self._thread.start()

    def submit(self, request: Commit | Read) -> None:
        """Queue a request. Never blocks."""
        self._queue.put(request)

    def stop(self) -> None:
        """Serve what is queued, close the file, end. Never blocks; `join` waits."""
        self._queue.put(None)

    def join(self) -> None:
        """Wait for the end."""
        self._thread.join()

    def _run(self) -> None:
        try:
            database = self._open_database()
        except BaseException as fault:
            self._refuse(fault)
            return
        going = True
        while going:
            requests, going = self._take()
            results: Sequence[Result] = serve(database, requests)
            if shown := [result for result in results if changes_something(result)]:
                self._show(shown)
                results = secure(database, results)
            self._deliver(results)
            if self._queue.empty():
                database.fold()
        database.close()

    def _refuse(self, fault: BaseException) -> None:
        going = True
        while going:
            requests, going = self._take()
            self._deliver([(request, None, fault) for request in requests])

    def _take(self) -> tuple[list[Commit | Read], bool]:
        """At least one request, more if they wait; and whether to go on afterwards."""
        requests: list[Commit | Read] = []
        try:
            request = self._queue.get()
            while request is not None:
                requests.append(request)
                if len(requests) == GROUP:
                    return requests, True
                request = self._queue.get_nowait()
        except Empty:
            return requests, True
        return requests, False


def serve(database: Database, requests: Sequence[Commit | Read]) -> list[Result]:
    """Answer every request; no error of one becomes an error of another."""
    commits = [request for request in requests if isinstance(request, Commit)]
    reads = [request for request in requests if isinstance(request, Read)]
    return [*_commit(database, commits), *(_read(database, request) for request in reads)]


def changes_something(result: Result) -> bool:
    """Whether it is that of a commit which has a revision of its own."""
    request, value, _ = result
    return isinstance(request, Commit) and value is not None and bool(value[1])


def secure(database: Database, results: Sequence[Result]) -> Sequence[Result]:
    """The results when they are on the disk; if that fails, commits carry the fault, although they may turn out to be there."""
    try:
        database.sync()
    except StoreUnavailable as fault:
        return [(request, None, fault) if isinstance(request, Commit) else (request, value, e) for request, value, e in results]
    return results


def _commit(database: Database, commits: Sequence[Commit]) -> list[Result]:
    if not commits:
        return []
    try:
        outcomes = database.apply([request.writes for request in commits])
    except StoreUnavailable as fault:
        if len(commits) == 1:
            return [(commits[0], None, fault)]
        # One oversized member must not fail its neighbours: the disk may have room for the others.
        return [result for request in commits for result in _commit(database, [request])]
    except BaseException as fault:
        return [(request, None, fault) for request in commits]
    return [_result(request, outcome) for request, outcome in zip(commits, outcomes, strict=True)]


def _result(request: Commit, outcome: Outcome | ConflictError) -> Result:
    if isinstance(outcome, ConflictError):
        return request, None, outcome
    revision, changes = outcome
    return request, (revision, events(changes, revision)), None


def _read(database: Database, request: Read) -> Result:
    try:
        return request, request.ask(database), None
    except BaseException as fault:
        return request, None, fault
