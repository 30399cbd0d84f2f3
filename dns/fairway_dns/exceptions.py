"""What is hidden from whom by policy, said in as few words as the policy itself needs. Pure.

Most pairs of a view and a group follow from the two alone: a group that strangers may not connect to is closed, a view that may
not send what it likes is confined, and what is neither is visible. Only pairs that may differ are looked at: those between whose
identities the kernel's tables have an element, and those of confined views with rights towards everybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fairway_core.delta import DeltaTracker
from fairway_dns.askers import AskerBook
from fairway_dns.groups import GroupBook
from fairway_dns.views import CLOSED, CONFINED, EXCEPT, Fact
from fairway_dns.visibility import ANY_SOURCE, NOBODY, Changes, Reach

Pair = tuple[str, str]
"""(view, group)"""


class ExceptionBook:
    """Promise: after `update` every pair is as if all had been looked at. Takes time in what changed: a view or group in its
    exceptions, old and new, or, for a confined view with rights towards everybody, in all groups.
    """

    def __init__(self, reach: Reach, groups: GroupBook, askers: AskerBook, tracker: DeltaTracker[Fact, bool]) -> None:
        self._reach = reach
        self._groups = groups
        self._askers = askers
        self._tracker = tracker
        self._confined: set[str] = set()
        self._thorough: set[str] = set()
        self._closed: set[str] = set()
        self._by_view: dict[str, set[str]] = {}
        self._by_group: dict[str, set[str]] = {}

    def update(self, views: Iterable[str], groups: Iterable[str], changes: Changes) -> None:
        """`views` and `groups` are new; `changes` is what else is allowed now than before."""
        again = set(views) | {view for number in changes.egress for view in self._askers.of_identity(number)}
        anew = set(groups) | {group for number in changes.ingress for group in self._groups.of_identity(number)}
        for view in again:
            self._describe_view(view)
        for group in anew:
            self._describe_group(group)
        pairs = {(view, group) for view in again for group in (*self._by_view.get(view, ()), *self._groups_for(view))}
        pairs |= {(view, group) for group in anew for view in (*self._by_group.get(group, ()), *self._views_for(group))}
        for source, destination in changes.pairs:
            found = self._groups.of_identity(destination)
            pairs.update((view, group) for view in self._askers.of_identity(source) for group in found)
        for view, group in pairs:
            self._judge(view, group)

    def drop_view(self, name: str) -> None:
        """Nobody has the view any more."""
        for group in list(self._by_view.get(name, ())):
            self._put(name, group, False)
        self._confined.discard(name)
        self._thorough.discard(name)
        self._tracker.declare(("confined", name), {})

    def drop_group(self, name: str) -> None:
        """No service is in the group any more."""
        for view in list(self._by_group.get(name, ())):
            self._put(view, name, False)
        self._closed.discard(name)
        self._tracker.declare(("closed", name), {})

    def _describe_view(self, name: str) -> None:
        view = self._askers.get(name)
        if view is None:
            return
        freedoms = [self._reach.freedom(identity) for _family, identity in view.source.identities]
        confined = not all(freedom.everything for freedom in freedoms)
        _set(self._confined, name, confined)
        _set(self._thorough, name, confined and any(freedom.something for freedom in freedoms))
        self._tracker.declare(("confined", name), {Fact(CONFINED, name, ()): True} if confined else {})

    def _describe_group(self, name: str) -> None:
        group = self._groups.get(name)
        if group is not None:
            closed = not ANY_SOURCE.reaches(group.targets, self._reach)
            _set(self._closed, name, closed)
            self._tracker.declare(("closed", name), {Fact(CLOSED, name, ()): True} if closed else {})

    def _groups_for(self, name: str) -> Iterator[str]:
        """The groups that may be an exception for a view."""
        view = self._askers.get(name)
        if view is None:
            return
        if name in self._thorough:
            yield from self._groups.names()
            return
        if name in self._confined:
            yield from self._groups.of_identity(NOBODY)
        for _family, identity in view.source.identities:
            for destination in self._reach.destinations(identity):
                yield from self._groups.of_identity(destination)

    def _views_for(self, name: str) -> Iterator[str]:
        """The views that a group may be an exception for."""
        yield from self._thorough
        group = self._groups.get(name)
        for identity in {target.identity for target in group.targets} if group is not None else ():
            if identity == NOBODY:
                yield from self._confined
            else:
                for source in self._reach.sources(identity):
                    yield from self._askers.of_identity(source)

    def _judge(self, view_name: str, group_name: str) -> None:
        view, group = self._askers.get(view_name), self._groups.get(group_name)
        if view is None or group is None:
            return
        usual = view_name not in self._confined and group_name not in self._closed
        # What the tenant hides need not be judged.
        ours = group.tenant in ("", view.tenant)
        self._put(view_name, group_name, ours and view.source.reaches(group.targets, self._reach) != usual)

    def _put(self, view: str, group: str, exception: bool) -> None:
        if exception == (group in self._by_view.get(view, ())):
            return
        for book, key, value in ((self._by_view, view, group), (self._by_group, group, view)):
            values = book.setdefault(key, set())
            values.symmetric_difference_update({value})
            if not values:
                del book[key]
        self._tracker.declare(("except", view, group), {Fact(EXCEPT, view, (group,)): True} if exception else {})


def _set(names: set[str], name: str, member: bool) -> None:
    (names.add if member else names.discard)(name)
