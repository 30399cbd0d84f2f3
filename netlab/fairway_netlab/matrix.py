"""Connectivity matrices: say who shall reach whom, then check all of it at once.

Promise: `check` tries again until every expectation holds in one and the same round, or says what does not. After Calico's
connectivity checker (felix/fv/connectivity): expectations are stated first, then settled together.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from fairway_core.errors import UserError
from fairway_netlab.plan import StationPlan
from fairway_netlab.probe import Outcome, Target, probe_all

PROBE_SECONDS = 0.7
PAUSE_SECONDS = 0.1

Transport = Literal["TCP", "UDP"]
Family = Literal[0, 4, 6]


class Stations(Protocol):
    """The part of a laboratory that a matrix needs."""

    def station(self, name: str) -> StationPlan:
        """A container or host."""

    def addresses(self, name: str) -> tuple[str, ...]:
        """Its addresses."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """From `source` to `target`, open or not; `label` names the destination in the table."""

    source: str
    label: str
    target: Target
    open: bool
    answered_by: frozenset[str] = frozenset()

    def holds(self, outcome: Outcome) -> bool:
        """Anything but open counts as none; who answers matters only if somebody was named."""
        if outcome.open != self.open:
            return False
        return not (self.open and self.answered_by) or outcome.name in self.answered_by


Found = Sequence[tuple[Expectation, Outcome]]


class Matrix:
    """Expectations about one laboratory."""

    def __init__(self, lab: Stations) -> None:
        self._lab = lab
        self._expectations: list[Expectation] = []

    def expect_some(
        self,
        source: str,
        destination: str,
        port: int,
        protocol: Transport = "TCP",
        *,
        family: Family = 0,
        answered_by: Iterable[str] = (),
    ) -> Matrix:
        """`source` reaches `destination`: a container or host (all its addresses, or those of `family`), an address, or a name.

        `answered_by` restricts who may answer, which matters behind a virtual IP.
        """
        return self._expect(source, destination, Target("", port, protocol, family), True, frozenset(answered_by))

    def expect_none(self, source: str, destination: str, port: int, protocol: Transport = "TCP", *, family: Family = 0) -> Matrix:
        """`source` does not reach `destination`."""
        return self._expect(source, destination, Target("", port, protocol, family), False, frozenset())

    def _expect(self, source: str, destination: str, shape: Target, wanted: bool, answered_by: frozenset[str]) -> Matrix:
        self._lab.station(source)
        for host, family in self._hosts(destination, shape.family):
            target = Target(host, shape.port, shape.protocol, family)
            label = f"{destination}:{shape.port}{'' if shape.protocol == 'TCP' else '/UDP'}{f' v{family}' if family else ''}"
            self._expectations.append(Expectation(source, label, target, wanted, answered_by))
        return self

    def _hosts(self, destination: str, family: Family) -> Iterator[tuple[str, Family]]:
        try:
            addresses = self._lab.addresses(destination)
        except UserError:
            # Not one of ours: an address, or a name for the container's resolver.
            yield destination, family
            return
        chosen = [address for address in addresses if family in (0, _family(address))]
        if not chosen:
            raise UserError(f"{destination} has no address of the family asked for")
        for address in chosen:
            yield address, _family(address)

    def probe(self, timeout: float = PROBE_SECONDS) -> Found:
        """One round: every expectation with what came of it."""
        asked: dict[Path, list[Expectation]] = {}
        for expectation in self._expectations:
            asked.setdefault(self._lab.station(expectation.source).control, []).append(expectation)
        answers = probe_all({path: [item.target for item in items] for path, items in asked.items()}, timeout)
        return [pair for path, items in asked.items() for pair in zip(items, answers[path], strict=True)]

    def check(self, timeout: float = 10.0, probe_timeout: float = PROBE_SECONDS) -> Found:
        """Return when all expectations hold in one round. Raises AssertionError with the table after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            found = self.probe(probe_timeout)
            if all(expectation.holds(outcome) for expectation, outcome in found):
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"connectivity is not as expected after {timeout:g} s\n{render(found)}")
            time.sleep(PAUSE_SECONDS)


def _family(address: str) -> Literal[4, 6]:
    return 6 if ":" in address else 4


def render(found: Found, *, judge: bool = True) -> str:
    """A table, sources down and destinations across; `judge` marks what is not as expected with `!` and says what was."""
    sources = list(dict.fromkeys(expectation.source for expectation, _ in found))
    labels = list(dict.fromkeys(expectation.label for expectation, _ in found))
    cells = {(expectation.source, expectation.label): _cell(expectation, outcome, judge) for expectation, outcome in found}
    rows = [["from \\ to", *labels], *([source, *(cells.get((source, label), "") for label in labels)] for source in sources)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def _cell(expectation: Expectation, outcome: Outcome, judge: bool) -> str:
    # Who answers is worth a word only where it could be somebody else.
    text = f"{outcome.state} {outcome.name}".strip() if outcome.open and expectation.answered_by else outcome.state
    if not judge or expectation.holds(outcome):
        return text
    wanted = "|".join(sorted(expectation.answered_by)) or "some" if expectation.open else "none"
    return f"! {text}, expected {wanted}"
