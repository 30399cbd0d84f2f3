"""The monitor against the kernel: foreign changes of our tables are noticed, ours are not."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fairway_kernel.netns import run_in
from fairway_kernel.nft.libnft import LibnftablesRunner
from fairway_kernel.nft.monitor import NftMonitor, own_ports
from fairway_kernel.nft.objects import INET, Chain, Layout, SetDecl
from fairway_kernel.nft.transaction import AddElements, AddTable, DeleteTable, Transaction, add_layout

pytestmark = pytest.mark.needs_root

NUMBERS = SetDecl("numbers", ("mark",))
LAYOUT = Layout((NUMBERS,), (Chain("side", ("accept",)),))
FOREIGN = "import sys, nftables; n = nftables.Nftables(); r = n.cmd(sys.argv[1]); sys.exit(r[2] or 0)"

Foreign = Callable[[str], None]


@pytest.fixture
def runner(namespace: str) -> Iterator[LibnftablesRunner]:
    real = LibnftablesRunner(namespace)
    real.run(add_layout(LAYOUT, (INET,)))
    yield real
    real.close()


@pytest.fixture
def monitor(namespace: str, runner: LibnftablesRunner) -> Iterator[NftMonitor]:
    made = NftMonitor(namespace)
    yield made
    made.close()


@pytest.fixture
def foreign(namespace: str) -> Foreign:
    """Runs nft commands in a process of its own."""

    def run(script: str) -> None:
        command = [sys.executable, "-c", FOREIGN, script]
        outcome = run_in(namespace, lambda: subprocess.run(command, capture_output=True, text=True, check=False))
        assert outcome.returncode == 0, outcome.stderr

    return run


def test_our_own_transactions_are_ignored_and_never_delivered(monitor: NftMonitor, runner: LibnftablesRunner) -> None:
    runner.run(Transaction([AddElements(NUMBERS, tuple(((number,), ()) for number in range(20_000)))]))
    runner.run(Transaction([DeleteTable(INET), AddTable(INET)]))
    assert monitor.drain() is False


def test_our_own_runner_opened_later_is_ignored(monitor: NftMonitor, namespace: str) -> None:
    later = LibnftablesRunner(namespace)
    later.run(Transaction([AddElements(NUMBERS, (((1,), ()),))]))
    assert monitor.drain() is False
    later.run(Transaction([AddElements(NUMBERS, (((2,), ()),))]))
    assert monitor.drain() is False
    later.close()


@pytest.mark.parametrize(
    "script",
    [
        "flush ruleset",
        "delete table inet fairway",
        "add element inet fairway numbers { 7 }",
        "flush chain inet fairway side",
        "add rule inet fairway side drop",
        "add set inet fairway stranger { type mark; }",
        "add table inet fairway { flags dormant; }",
    ],
)
def test_a_foreign_change_is_noticed_once(monitor: NftMonitor, foreign: Foreign, script: str) -> None:
    foreign(script)
    assert monitor.drain() is True
    assert monitor.drain() is False


@pytest.mark.parametrize("script", ["add table inet docker", "add table ip fairway", "add table inet fairway2"])
def test_foreign_tables_are_none_of_our_business(monitor: NftMonitor, foreign: Foreign, script: str) -> None:
    foreign(script)
    assert monitor.drain() is False


def test_other_namespaces_are_not_seen(monitor: NftMonitor, namespaces: Callable[[str], str]) -> None:
    elsewhere = namespaces("other")
    command = [sys.executable, "-c", FOREIGN, "add table inet fairway"]
    run_in(elsewhere, lambda: subprocess.run(command, check=True))
    assert monitor.drain() is False


def test_lost_notifications_ask_for_a_look(monitor: NftMonitor, foreign: Foreign) -> None:
    with socket.socket(fileno=os.dup(monitor.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    numbers = ", ".join(map(str, range(5000)))
    foreign("add table inet x; add set inet x s { type mark; }; add element inet x s { " + numbers + " }")
    assert monitor.drain() is True
    assert monitor.drain() is False


def test_looking_for_own_sockets_gives_up_no_file_lock(tmp_path: Path) -> None:
    path = tmp_path / "locked"
    with path.open("w") as stream:
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert isinstance(own_ports(), frozenset)
        probe = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        assert subprocess.run([sys.executable, "-c", probe, str(path)], capture_output=True, check=False).returncode != 0


async def test_it_wakes_the_event_loop(monitor: NftMonitor, foreign: Foreign) -> None:
    woken = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(monitor.fileno(), woken.set)
    try:
        await asyncio.to_thread(foreign, "flush ruleset")
        await asyncio.wait_for(woken.wait(), 5)
        assert monitor.drain() is True
    finally:
        loop.remove_reader(monitor.fileno())
