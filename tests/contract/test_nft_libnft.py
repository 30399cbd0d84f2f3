"""What only the real runner has: namespaces, threads, the library's words, size."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator

import pytest

from fairway_core.errors import KernelError
from fairway_kernel.netns import run_in
from fairway_kernel.nft.libnft import LibnftablesRunner
from fairway_kernel.nft.objects import INET, Chain, Layout, Range, SetDecl, Slot
from fairway_kernel.nft.transaction import AddElements, AddRules, DeleteElements, Transaction, add_layout

pytestmark = pytest.mark.needs_root

NUMBERS = SetDecl("numbers", ("mark",), ("mark",))
BLOCKS = SetDecl("blocks", ("ipv4_addr",), flags=("interval",))
LAYOUT = Layout((NUMBERS, BLOCKS), (Chain("side"),))


@pytest.fixture
def runner(namespace: str) -> Iterator[LibnftablesRunner]:
    real = LibnftablesRunner(namespace)
    real.run(add_layout(LAYOUT, (INET,)))
    yield real
    real.close()


def numbers(runner: LibnftablesRunner) -> set[object]:
    state = runner.read(INET, LAYOUT)
    assert state is not None
    return {slot.key[0] for slot in state.elements}


def blocks(runner: LibnftablesRunner) -> set[object]:
    state = runner.read(INET, LAYOUT)
    assert state is not None
    return {slot.key for slot in state.elements if slot.set == BLOCKS.name}


def test_a_runner_stays_in_its_namespace_whatever_thread_calls_it(namespaces: Callable[[str], str]) -> None:
    one, other = namespaces("one"), namespaces("other")
    here, there = LibnftablesRunner(one), LibnftablesRunner(other)
    run_in(other, lambda: here.run(add_layout(LAYOUT, (INET,))))
    assert here.read(INET, LAYOUT) is not None
    assert run_in(one, lambda: there.read(INET, LAYOUT)) is None
    here.close()
    there.close()


def test_without_a_path_it_works_where_it_was_made(namespace: str, runner: LibnftablesRunner) -> None:
    def inside() -> None:
        local = LibnftablesRunner()
        local.run(Transaction([AddElements(NUMBERS, (((5,), (5,)),))]))
        local.close()

    run_in(namespace, inside)
    assert numbers(runner) == {5}


def test_threads_may_share_it(runner: LibnftablesRunner) -> None:
    def fill(start: int) -> None:
        for number in range(start, start + 25):
            runner.run(Transaction([AddElements(NUMBERS, (((number,), (1,)),))]))
            runner.read(INET, LAYOUT, elements=False)

    threads = [threading.Thread(target=fill, args=(start,)) for start in range(0, 100, 25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers(runner) == set(range(100))


def test_reads_while_another_writes_are_whole(namespace: str, runner: LibnftablesRunner) -> None:
    """The writer moves a block of elements in each transaction; a torn read would show two blocks, none, or a part."""
    writer = LibnftablesRunner(namespace)
    stop = threading.Event()
    size = 3000

    def block(number: int) -> tuple[tuple[tuple[int], tuple[int]], ...]:
        return tuple(((number * size + index,), (1,)) for index in range(size))

    def move() -> None:
        number = 0
        while not stop.wait(0.02):
            keys = tuple(key for key, _value in block(number))
            number = 1 - number
            writer.run(Transaction([DeleteElements(NUMBERS, keys), AddElements(NUMBERS, block(number))]))

    writer.run(Transaction([AddElements(NUMBERS, block(0))]))
    thread = threading.Thread(target=move)
    thread.start()
    try:
        for _attempt in range(10):
            found = numbers(runner)
            assert len(found) == size and len({int(str(number)) // size for number in found}) == 1
    finally:
        stop.set()
        thread.join()
        writer.close()


def test_a_refusal_quotes_the_line_and_the_place_in_it(runner: LibnftablesRunner) -> None:
    items = tuple(((number,), (number,)) for number in range(500))
    runner.run(Transaction([AddElements(NUMBERS, items[300:301])]))
    wrong = (*items[:300], ((300,), (7,)), *items[301:])
    with pytest.raises(KernelError) as caught:
        runner.run(Transaction([AddRules(Chain("side", ("accept",))), AddElements(NUMBERS, wrong)]))
    assert caught.value.errno == errno.EEXIST
    assert "add element inet fairway numbers" in caught.value.detail and "300 : 7" in caught.value.detail


def test_elements_alone_pass_by_the_library(runner: LibnftablesRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts: list[str] = []
    monkeypatch.setattr(runner, "_commit", scripts.append)
    runner.run(Transaction([AddElements(NUMBERS, (((1,), (1,)),))]))
    assert numbers(runner) == {1} and scripts == []
    # A refusal is told by the library, in words.
    runner.run(Transaction([AddElements(NUMBERS, (((1,), (2,)),))]))
    assert scripts == ["add element inet fairway numbers { 1 : 2 }\n"]


@pytest.mark.parametrize("netlink_first", [True, False])
def test_intervals_of_one_field_are_the_same_by_either_way(
    namespace: str, runner: LibnftablesRunner, monkeypatch: pytest.MonkeyPatch, netlink_first: bool
) -> None:
    monkeypatch.setattr(runner, "_commit", lambda script: pytest.fail(f"text was needed: {script}"))
    texts = LibnftablesRunner(namespace, elements_over_netlink=False)
    writer, other = (runner, texts) if netlink_first else (texts, runner)
    # The first two touch; the last one has no end.
    keys = tuple(
        (Range(low, high),)
        for low, high in [
            ("10.0.1.0", "10.0.1.255"),
            ("10.0.0.0", "10.0.0.255"),
            ("192.0.2.7", "192.0.2.7"),
            ("224.0.0.0", "255.255.255.255"),
        ]
    )
    writer.run(Transaction([AddElements(BLOCKS, tuple((key, ()) for key in keys))]))
    assert blocks(runner) == set(keys)
    other.run(Transaction([DeleteElements(BLOCKS, keys[1:3])]))
    assert blocks(runner) == {keys[0], keys[3]}
    writer.run(Transaction([DeleteElements(BLOCKS, keys[:1]), AddElements(BLOCKS, tuple((key, ()) for key in keys[:3]))]))
    assert blocks(runner) == set(keys)
    texts.close()


def test_what_the_library_does_not_understand_is_einval(runner: LibnftablesRunner) -> None:
    with pytest.raises(KernelError) as caught:
        runner.run(Transaction([AddRules(Chain("side", ("ct state very odd",)))]))
    assert caught.value.errno == errno.EINVAL


def test_a_large_transaction_is_one_transaction(runner: LibnftablesRunner) -> None:
    runner.run(Transaction([AddElements(NUMBERS, tuple(((number,), (1,)) for number in range(40_000)))]))
    state = runner.read(INET, LAYOUT)
    assert state is not None and len(state.elements) == 40_000
    assert state.elements[Slot("numbers", (39_999,))] == (1,)


def test_an_empty_transaction_is_none(runner: LibnftablesRunner) -> None:
    runner.run(Transaction())
    runner.run(Transaction([AddRules(Chain("not there"))]))


def test_a_missing_namespace_is_enoent() -> None:
    with pytest.raises(KernelError) as caught:
        LibnftablesRunner("/run/netns/fwt-there-is-none")
    assert caught.value.errno == errno.ENOENT


def test_closing_twice_is_fine(namespace: str) -> None:
    real = LibnftablesRunner(namespace)
    real.close()
    real.close()
