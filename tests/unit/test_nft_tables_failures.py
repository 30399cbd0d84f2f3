"""Refusals in the middle of things, with the fake: what is remembered, what is put right, what is raised."""

from __future__ import annotations

import errno
import logging

import pytest

from fairway_core.errors import KernelError
from fairway_kernel.nft.fake import FakeRunner
from fairway_kernel.nft.objects import INET, Chain, Elements, Layout, Range, SetDecl, Slot
from fairway_kernel.nft.tables import NftTables
from fairway_kernel.nft.transaction import AddElements, DeleteChain, FlushChain, Transaction

NUMBERS = SetDecl("numbers", ("mark",), ("mark",))
PORTS = SetDecl("ports", ("mark", "inet_service"), flags=("interval",))
BASE = Chain("base", ("jump side",), "type filter hook forward priority 0; policy accept;")
SIDE = Chain("side", ("ct mark 1 accept",))
LAYOUT = Layout((NUMBERS, PORTS), (BASE, SIDE))
ONE: Elements = {Slot("numbers", (1,)): (1,)}
TWO: Elements = {Slot("numbers", (2,)): (2,)}


@pytest.fixture
def fake() -> FakeRunner:
    return FakeRunner()


@pytest.fixture
def tables(fake: FakeRunner) -> NftTables:
    made = NftTables(fake, LAYOUT, logging.getLogger("test"))
    made.adopt()
    made.declare(("one",), ONE)
    made.commit()
    return made


def refusal(number: int) -> KernelError:
    return KernelError(number, "test")


def test_after_a_failed_repair_the_next_commit_repairs_even_if_nothing_is_pending(fake: FakeRunner, tables: NftTables) -> None:
    fake.run(Transaction([FlushChain(BASE), DeleteChain(BASE)]))
    tables.declare(("two",), TWO)
    fake.fail_next(refusal(errno.EINVAL))
    fake.fail_next(refusal(errno.ENOMEM))
    with pytest.raises(KernelError):
        tables.commit()
    tables.declare(("two",), {})
    tables.commit()
    assert "add rule inet fairway base jump side" in fake.dump()


def test_rules_that_were_refused_are_not_what_is_repaired_to(fake: FakeRunner, tables: NftTables) -> None:
    fake.fail_next(refusal(errno.ENOMEM))
    with pytest.raises(KernelError):
        tables.replace_chains((Chain("side", ("ct mark 2 accept",)),))
    fake.flush_ruleset()
    tables.verify()
    assert "ct mark 1 accept" in fake.dump() and "ct mark 2 accept" not in fake.dump()


def test_replacing_rules_recovers_from_a_flushed_table_in_one_transaction(fake: FakeRunner, tables: NftTables) -> None:
    fake.flush_ruleset()
    before = len(fake.transactions)
    tables.replace_chains((Chain("side", ("ct mark 2 accept",)),), ("generation",), TWO)
    assert "ct mark 2 accept" in fake.dump() and fake.dump().count("add rule") == 2
    # The rebuilt table with everything in it, and the marker (once for the repair, once for the replacement at most).
    assert len(fake.transactions) - before <= 3
    assert set(fake.read(INET, LAYOUT).elements) == {*ONE, *TWO}  # type: ignore[union-attr]


def test_verify_reports_damage_and_not_what_was_merely_pending(fake: FakeRunner, tables: NftTables) -> None:
    tables.declare(("two",), TWO)
    assert not tables.verify()
    assert tables.element_count == 2


def test_a_marker_that_cannot_be_written_is_no_failure(fake: FakeRunner, tables: NftTables) -> None:
    original = fake.run

    def run(transaction: Transaction) -> None:
        if "rules_" in str(transaction):
            raise refusal(errno.ENOMEM)
        original(transaction)

    fake.run = run  # type: ignore[method-assign]
    tables.replace_chains((Chain("side", ("ct mark 2 accept",)),))
    fake.run = original  # type: ignore[method-assign]
    assert tables.verify().chains == ("base", "side")
    assert not tables.verify()


def test_an_unknown_chain_cannot_be_replaced(tables: NftTables) -> None:
    with pytest.raises(KeyError):
        tables.replace_chains((Chain("unknown", ("accept",)),))


def test_the_fake_refuses_keys_that_would_not_read_back(fake: FakeRunner, tables: NftTables) -> None:
    with pytest.raises(KernelError) as caught:
        fake.run(Transaction([AddElements(PORTS, (((1, 443), ()),))]))
    assert caught.value.errno == errno.EINVAL
    fake.run(Transaction([AddElements(PORTS, (((1, Range(443, 443)), ()),))]))


def test_the_fake_refuses_enclosing_intervals(fake: FakeRunner, tables: NftTables) -> None:
    fake.run(Transaction([AddElements(PORTS, (((1, Range(443, 443)), ()),))]))
    with pytest.raises(KernelError) as caught:
        fake.run(Transaction([AddElements(PORTS, (((1, Range(1, 1000)), ()),))]))
    assert caught.value.errno == errno.EEXIST
    fake.run(Transaction([AddElements(PORTS, (((2, Range(1, 1000)), ()),))]))


def test_the_fake_dumps_a_script_in_a_fixed_order(fake: FakeRunner, tables: NftTables) -> None:
    lines = [line for line in fake.dump().splitlines() if "layout_" not in line and "rules_" not in line]
    assert lines == [
        "add table inet fairway",
        "add map inet fairway numbers { type mark : mark; }",
        "add set inet fairway ports { type mark . inet_service; flags interval; }",
        "add chain inet fairway base { type filter hook forward priority 0; policy accept; }",
        "flush chain inet fairway base",
        "add chain inet fairway side",
        "flush chain inet fairway side",
        "add rule inet fairway base jump side",
        "add rule inet fairway side ct mark 1 accept",
        "add element inet fairway numbers { 1 : 1 }",
    ]
