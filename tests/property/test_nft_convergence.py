"""Whatever owners declare, others break and the kernel refuses: afterwards the tables hold what is declared."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairway_core.errors import KernelError
from fairway_kernel.nft.fake import FakeRunner
from fairway_kernel.nft.libnft import LibnftablesRunner
from fairway_kernel.nft.objects import INET, Chain, Elements, Layout, Range, SetDecl, Slot
from fairway_kernel.nft.tables import NftTables
from fairway_kernel.nft.transaction import AddElements, AddRules, DeleteTable, Transaction, add_layout

NUMBERS = SetDecl("numbers", ("mark",), ("mark",))
PORTS = SetDecl("ports", ("mark", "inet_service"), flags=("interval",))
LAYOUT = Layout(
    (NUMBERS, PORTS), (Chain("base", ("jump side",), "type filter hook forward priority 0;"), Chain("side", ("accept",)))
)

OWNERS = st.sampled_from([("a",), ("b",), ("c",)])
NUMBER_SLOTS = st.integers(0, 5).map(lambda number: Slot("numbers", (number,)))
PORT_SLOTS = st.integers(0, 5).map(lambda number: Slot("ports", (number, Range(10 * number, 10 * number + 9))))
ELEMENTS = st.builds(
    lambda numbers, ports: {**numbers, **dict.fromkeys(ports, ())},
    st.dictionaries(NUMBER_SLOTS, st.tuples(st.integers(0, 2)), max_size=4),
    st.lists(PORT_SLOTS, max_size=3),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("declare"), OWNERS, ELEMENTS),
        st.tuples(st.just("commit")),
        st.tuples(st.just("verify")),
        st.tuples(st.just("flush")),
        st.tuples(st.just("break"), st.integers(0, 5)),
        st.tuples(st.just("edit")),
        st.tuples(st.just("refuse"), st.sampled_from([errno.ENOENT, errno.ENOMEM])),
        st.tuples(st.just("replace"), st.integers(1, 3)),
        st.tuples(st.just("restart")),
    ),
    max_size=12,
)


class Machine:
    """The tables over a fake, and the oracle: what each owner wants."""

    def __init__(self) -> None:
        self.runner = FakeRunner()
        self.wanted: dict[tuple[str, ...], Elements] = {}
        self.tables = self._start()

    def _start(self) -> NftTables:
        tables = NftTables(self.runner, LAYOUT, logging.getLogger("quiet"))
        tables.adopt()
        return tables

    def step(self, name: str, *arguments: object) -> None:
        with suppress(KernelError):
            getattr(self, name)(*arguments)

    def declare(self, owner: tuple[str, ...], elements: Elements) -> None:
        self.wanted[owner] = elements
        self.tables.declare(owner, elements)

    def commit(self) -> None:
        self.tables.commit()

    def verify(self) -> None:
        self.tables.verify()

    def flush(self) -> None:
        self.runner.flush_ruleset()

    def break_(self, number: int) -> None:
        self.runner.run(Transaction([AddElements(NUMBERS, (((number,), (77,)),))]))

    def edit(self) -> None:
        self.runner.run(Transaction([AddRules(Chain("side", ("drop",)))]))

    def refuse(self, number: int) -> None:
        self.runner.fail_next(KernelError(number, "test"))

    def replace(self, number: int) -> None:
        self.tables.replace_chains((Chain("side", (f"ct mark {number} accept",)),))

    def restart(self) -> None:
        self.tables = self._start()
        for owner, elements in self.wanted.items():
            self.tables.declare(owner, elements)

    def desired(self) -> Elements:
        result: dict[Slot, object] = {}
        for owner in sorted(self.wanted, reverse=True):
            result.update(self.wanted[owner])
        return result  # type: ignore[return-value]


@given(STEPS)
@settings(max_examples=150, deadline=None)
def test_the_tables_always_come_to_hold_what_is_declared(steps: list[tuple[object, ...]]) -> None:
    logging.getLogger("quiet").setLevel(logging.CRITICAL)
    machine = Machine()
    for name, *arguments in steps:
        machine.step("break_" if name == "break" else str(name), *arguments)
    machine.runner._failures.clear()
    machine.commit()
    machine.verify()
    state = machine.runner.read(INET, LAYOUT)
    assert state is not None and dict(state.elements) == machine.desired()
    assert len(state.chain_states["side"].rules) == 1
    count = len(machine.runner.transactions)
    assert not machine.tables.verify() and len(machine.runner.transactions) == count


CUTS = st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=12, unique=True).map(sorted)


def _dotted(number: int) -> str:
    return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))


@pytest.mark.needs_root
@given(cuts=CUTS, adjacent=st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_disjoint_intervals_read_back_equal(runner: LibnftablesRunner, cuts: list[int], adjacent: bool) -> None:
    single = SetDecl("single", ("ipv4_addr",), flags=("interval",))
    concatenated = SetDecl("concatenated", ("mark", "ipv4_addr"), flags=("interval",))
    layout = Layout((single, concatenated))
    if adjacent:
        ranges = [Range(_dotted(low), _dotted(high - 1)) for low, high in pairwise(cuts)]
    else:
        ranges = [Range(_dotted(low), _dotted(high)) for low, high in zip(cuts[::2], cuts[1::2], strict=False)]
    tx = add_layout(layout, (INET,))
    tx.add(AddElements(single, tuple(((item,), ()) for item in ranges)))
    tx.add(AddElements(concatenated, tuple(((7, item), ()) for item in ranges)))
    runner.run(Transaction([*add_layout(Layout(), (INET,)).operations, DeleteTable(INET)]))
    runner.run(tx)
    state = runner.read(INET, layout)
    assert state is not None
    assert state.elements.keys() == {Slot("single", (item,)) for item in ranges} | {
        Slot("concatenated", (7, item)) for item in ranges
    }


@pytest.fixture
def runner(namespace: str) -> Iterator[LibnftablesRunner]:
    real = LibnftablesRunner(namespace)
    yield real
    real.close()
