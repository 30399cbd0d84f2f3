"""The applied state: adoption, upgrade, commit, repair. The same promises with the fake and with the kernel."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator

import pytest

from fairway_core.errors import KernelError
from fairway_kernel.nft.fake import FakeRunner
from fairway_kernel.nft.fields import shape_of
from fairway_kernel.nft.libnft import LibnftablesRunner
from fairway_kernel.nft.objects import BRIDGE, INET, Chain, Elements, Layout, Range, SetDecl, Slot, Table, TableState
from fairway_kernel.nft.runner import NftRunner
from fairway_kernel.nft.tables import NftTables
from fairway_kernel.nft.transaction import (
    AddChain,
    AddElements,
    AddRules,
    AddSet,
    DeleteChain,
    DeleteElements,
    DeleteTable,
    FlushChain,
    Operation,
    Transaction,
)

pytestmark = pytest.mark.needs_root

SVC = SetDecl("svc", ("ipv4_addr", "inet_proto", "inet_service"), ("mark",))
PORTS = SetDecl("ports", ("mark", "inet_service"), flags=("interval",))
ACTIONS = SetDecl("actions", ("mark",), ("verdict",))
PINS = SetDecl("pins", ("ifname", "ether_addr"), table=BRIDGE)
BASE = Chain("base", ("jump fast", "meta mark vmap @actions"), "type filter hook forward priority 0; policy accept;")
NAT = Chain("nat_pre", ("meta mark set ip daddr . meta l4proto . th dport map @svc",), "type nat hook prerouting priority -100;")
FAST = Chain("fast", ("ct mark 1 accept",))
DENY = Chain("deny", ("counter drop",))
GUARD = Chain("guard", ("iifname . ether saddr @pins accept",), "type filter hook prerouting priority -300;", BRIDGE)
LAYOUT = Layout((SVC, PORTS, ACTIONS, PINS), (BASE, NAT, FAST, DENY, GUARD))

WEB: Elements = {Slot("svc", ("10.96.0.1", "tcp", 80)): (4097,)}
DNS: Elements = {Slot("svc", ("10.96.0.2", "udp", 53)): (8193,), Slot("actions", (7,)): "goto deny"}
PIN: Elements = {Slot("pins", ("fw0", "02:00:00:00:00:01")): ()}


class Recorder:
    """A runner that counts what passes through."""

    def __init__(self, inner: NftRunner) -> None:
        self.inner = inner
        self.runs = 0

    def run(self, transaction: Transaction) -> None:
        self.runs += 1
        self.inner.run(transaction)

    def read(self, table: Table, layout: Layout, elements: bool = True) -> TableState | None:
        return self.inner.read(table, layout, elements)

    def close(self) -> None:
        self.inner.close()


@pytest.fixture(params=["fake", "kernel"])
def runner(request: pytest.FixtureRequest) -> Iterator[Recorder]:
    if request.param == "fake":
        yield Recorder(FakeRunner())
        return
    make: Callable[[str], str] = request.getfixturevalue("namespaces")
    real = LibnftablesRunner(make("nft"))
    yield Recorder(real)
    real.close()


def tables(runner: NftRunner, layout: Layout = LAYOUT) -> NftTables:
    return NftTables(runner, layout, logging.getLogger("test"))


@pytest.fixture
def running(runner: Recorder) -> NftTables:
    """Tables with three owners' elements committed."""
    owner = tables(runner)
    assert owner.adopt() == {}
    owner.declare(("service", "web"), WEB)
    owner.declare(("service", "dns"), DNS)
    owner.declare(("pins",), PIN)
    assert len(owner.commit()) == 4
    return owner


def contents(runner: NftRunner, layout: Layout = LAYOUT) -> dict[Slot, object]:
    found: dict[Slot, object] = {}
    for table in (INET, BRIDGE):
        state = runner.read(table, layout)
        found.update(state.elements if state else {})
    return found


def foreign(runner: Recorder, *operations: Operation) -> None:
    runner.inner.run(Transaction([*operations]))


def test_commit_writes_the_difference_only(runner: Recorder, running: NftTables) -> None:
    runner.runs = 0
    running.declare(("service", "web"), {Slot("svc", ("10.96.0.1", "tcp", 80)): (4098,)})
    running.declare(("service", "dns"), {})
    delta = running.commit()
    assert (len(delta.add), len(delta.change), len(delta.delete)) == (0, 1, 2)
    assert runner.runs == 1
    assert contents(runner) == {Slot("svc", ("10.96.0.1", "tcp", 80)): (4098,), **PIN}
    assert not running.commit() and runner.runs == 1
    assert running.element_count == 2


def test_a_restarted_agent_adopts_without_writing(runner: Recorder, running: NftTables) -> None:
    runner.runs = 0
    again = tables(runner)
    found = again.adopt()
    assert found == {**WEB, **DNS, **PIN}
    assert again.adopted_intact
    again.declare(("service", "web"), WEB)
    again.declare(("service", "dns"), DNS)
    again.declare(("pins",), PIN)
    assert not again.commit() and not again.verify()
    assert runner.runs == 0


def test_what_nobody_declares_after_a_restart_goes_with_the_first_commit_and_not_before(
    runner: Recorder, running: NftTables
) -> None:
    again = tables(runner)
    again.adopt()
    assert not again.verify()
    assert contents(runner) == {**WEB, **DNS, **PIN}
    again.declare(("service", "web"), WEB)
    again.commit()
    assert contents(runner) == dict(WEB)


DAMAGES: dict[str, list[Operation]] = {
    "table deleted": [DeleteTable(INET)],
    "both tables deleted": [DeleteTable(INET), DeleteTable(BRIDGE)],
    "rule added": [AddRules(Chain("deny", ("accept",)))],
    "rule removed": [FlushChain(DENY)],
    "rule replaced": [FlushChain(DENY), AddRules(Chain("deny", ("counter accept",)))],
    "foreign chain": [AddChain(Chain("stranger")), AddRules(Chain("stranger", ("accept",)))],
    "foreign marker": [AddChain(Chain("layout_0123456789abcdef"))],
    "foreign set": [AddSet(SetDecl("stranger", ("mark",)))],
    "foreign verdict map": [
        AddChain(Chain("stranger")),
        AddSet(SetDecl("odd", ("mark",), ("verdict",))),
        AddElements(SetDecl("odd", ("mark",), ("verdict",)), (((1,), "goto stranger"),)),
    ],
    "base chain deleted": [FlushChain(GUARD), DeleteChain(GUARD)],
    "base chain moved": [
        FlushChain(BASE),
        DeleteChain(BASE),
        AddChain(Chain("base", (), "type filter hook input priority 5; policy accept;")),
    ],
    "element removed": [DeleteElements(SVC, (("10.96.0.1", "tcp", 80),))],
    "element changed": [
        DeleteElements(SVC, (("10.96.0.1", "tcp", 80),)),
        AddElements(SVC, ((("10.96.0.1", "tcp", 80), (1,)),)),
    ],
    "element added": [AddElements(PORTS, (((1, Range(1, 9)), ()),))],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_repaired_and_reported(runner: Recorder, running: NftTables, damage: str) -> None:
    before = {table: runner.read(table, LAYOUT) for table in (INET, BRIDGE)}
    foreign(runner, *DAMAGES[damage])
    repair = running.verify()
    assert len(repair) > 0
    assert contents(runner) == {**WEB, **DNS, **PIN}
    for table, old in before.items():
        now = runner.read(table, LAYOUT)
        assert old and now and (now.shapes, now.chains, now.layout_hash) == (old.shapes, old.chains, old.layout_hash)
        assert len(now.markers) == 2
        assert {name: (c.base, len(c.rules)) for name, c in now.chain_states.items()} == {
            name: (c.base, len(c.rules)) for name, c in old.chain_states.items()
        }
    runner.runs = 0
    assert not running.verify() and runner.runs == 0


def test_damage_by_elements_leaves_the_rules_alone(runner: Recorder, running: NftTables) -> None:
    foreign(runner, *DAMAGES["element changed"])
    repair = running.verify()
    assert (len(repair), repair.chains, list(repair.change)) == (1, (), list(WEB))


def test_damage_while_the_agent_was_away_is_noticed(runner: Recorder, running: NftTables) -> None:
    foreign(runner, *DAMAGES["rule replaced"])
    again = tables(runner)
    assert again.adopt() == {**WEB, **DNS, **PIN}
    assert not again.adopted_intact


@pytest.mark.parametrize("damage", ["table deleted", "both tables deleted", "element removed", "base chain deleted"])
def test_commit_survives_a_kernel_that_is_not_as_thought(runner: Recorder, running: NftTables, damage: str) -> None:
    foreign(runner, *DAMAGES[damage])
    running.declare(("service", "web"), {})
    running.declare(("service", "dns"), {})
    running.commit()
    running.verify()
    assert contents(runner) == dict(PIN)


def test_rules_can_be_replaced_with_the_element_that_records_it(runner: Recorder, running: NftTables) -> None:
    record: Elements = {Slot("ports", (5, Range(0, 0))): ()}
    runner.runs = 0
    running.declare(("service", "dns"), {})
    running.replace_chains((Chain("fast", ("ct mark 2 accept", "ct mark 3 accept")),), ("generation",), record)
    state = runner.read(INET, LAYOUT)
    assert state and len(state.chain_states["fast"].rules) == 2
    assert contents(runner) == {**WEB, **PIN, **record}
    # What was pending, the replacement, the marker.
    assert runner.runs == 3
    assert not running.verify()
    again = tables(runner)
    again.adopt()
    assert again.adopted_intact


def test_replaced_rules_are_what_is_repaired_to(runner: Recorder, running: NftTables) -> None:
    running.replace_chains((Chain("fast", ("ct mark 2 accept", "ct mark 3 accept")),))
    foreign(runner, DeleteTable(INET))
    running.verify()
    state = runner.read(INET, LAYOUT)
    assert state and len(state.chain_states["fast"].rules) == 2


def test_chains_can_be_emptied(runner: Recorder, running: NftTables) -> None:
    running.replace_chains((Chain("fast"),))
    state = runner.read(INET, LAYOUT)
    assert state and state.chain_states["fast"].rules == ()
    assert not running.verify()


def test_an_upgrade_keeps_the_elements(runner: Recorder, running: NftTables) -> None:
    wider = SetDecl("svc", SVC.key, SVC.value, size=1000)
    base = Chain("base", ("accept",), "type filter hook forward priority 10; policy drop;")
    extra = SetDecl("extra", ("mark",))
    newer = Layout((wider, ACTIONS, PINS, extra), (base, NAT, DENY, Chain("more", ("accept",)), GUARD))
    runner.runs = 0
    upgraded = tables(runner, newer)
    assert upgraded.adopt() == {**WEB, **DNS, **PIN}
    # One transaction, and one for the marker.
    assert runner.runs == 2
    state = runner.read(INET, newer)
    assert state and state.chains == {"base", "nat_pre", "deny", "more"} and state.sets == {"svc", "actions", "extra"}
    assert state.shapes["svc"] == shape_of(wider)
    assert contents(runner, newer) == {**WEB, **DNS, **PIN}
    assert tables(runner, newer).adopt() == {**WEB, **DNS, **PIN}
    assert runner.runs == 2


def test_an_upgrade_drops_what_cannot_exist_any_more(runner: Recorder, running: NftTables) -> None:
    other_key = SetDecl("svc", ("ipv6_addr",), ("mark",))
    newer = Layout((other_key, ACTIONS), (Chain("base", ("meta mark vmap @actions",), BASE.hook),))
    assert tables(runner, newer).adopt() == {}
    state = runner.read(INET, newer)
    assert state and state.chains == {"base"} and state.sets == {"svc", "actions"}


def test_exhaustion_is_raised_and_stays_pending(runner: Recorder, running: NftTables) -> None:
    small = SetDecl("small", ("mark",), size=2)
    layout = Layout((*LAYOUT.sets, small), LAYOUT.chains)
    owner = tables(runner, layout)
    owner.adopt()
    for name, elements in (("web", WEB), ("dns", DNS), ("pins", PIN)):
        owner.declare((name,), elements)
    owner.commit()
    owner.declare(("many",), {Slot("small", (number,)): () for number in range(3)})
    with pytest.raises(KernelError) as caught:
        owner.commit()
    assert caught.value.errno == errno.ENFILE
    assert contents(runner, layout) == {**WEB, **DNS, **PIN}
    owner.declare(("many",), {Slot("small", (1,)): ()})
    assert len(owner.commit()) == 1


def test_an_element_the_kernel_never_takes_is_raised_and_others_follow_once_it_is_gone(
    runner: Recorder, running: NftTables
) -> None:
    running.declare(("bad",), {Slot("actions", (9,)): "goto nowhere"})
    running.declare(("good",), {Slot("actions", (8,)): "goto deny"})
    with pytest.raises(KernelError) as caught:
        running.commit()
    assert caught.value.errno == errno.ENOENT
    running.declare(("bad",), {})
    running.commit()
    assert contents(runner) == {**WEB, **DNS, **PIN, Slot("actions", (8,)): "goto deny"}
    assert not running.verify()


def test_two_layouts_must_not_share_a_name(runner: Recorder) -> None:
    with pytest.raises(ValueError, match="twice"):
        tables(runner, LAYOUT + Layout((SVC,)))


def test_a_set_nobody_declared_is_refused(running: NftTables) -> None:
    with pytest.raises(KeyError):
        running.declare(("x",), {Slot("unknown", (1,)): ()})
