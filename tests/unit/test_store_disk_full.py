"""A full disk and a read-only one, on a file system of our own in a mount namespace of our own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.needs_root

SCRIPT = """
import asyncio, os, subprocess, sys
from pathlib import Path
from fairway_core.errors import StoreUnavailable
from fairway_core.keys import Key
from fairway_store.api import InSync, Put
from fairway_store.sqlite import SqliteStore

async def main(folder):
    store = await SqliteStore.open(folder / "store.db")
    key = Key("Pod", "a", "first")
    assert await store.commit([Put(key, {"n": 1})]) == 1
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    failed = 0
    for attempt in range(3):
        try:
            await store.commit([Put(Key("Pod", "a", f"p{n}"), {"pad": "x" * 2000}) for n in range(200)])
        except StoreUnavailable as fault:
            assert str(folder / "store.db") in str(fault) and "full" in str(fault), fault
            failed += 1
    assert failed == 3
    listing = await store.list()
    assert (listing.revision, [entry.key for entry in listing.entries]) == (1, [key]), listing
    filler.unlink()
    assert await store.commit([Put(Key("Pod", "a", f"p{n}"), {"pad": "x" * 2000}) for n in range(200)]) == 2
    events = store.watch(1)
    assert len(await anext(events)) == 200 and await anext(events) == InSync(2)
    await store.close()
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    try:
        await SqliteStore.open(folder / "store.db")
    except StoreUnavailable as fault:
        assert str(folder / "store.db") in str(fault), fault
    else:
        raise AssertionError("opened on a read-only file system")
    subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
    store = await SqliteStore.open(folder / "store.db")
    assert (await store.list()).revision == 2
    await store.close()
    print("passed")

asyncio.run(main(Path(sys.argv[1])))
"""


def test_full_and_read_only_disks_are_reported_and_survived(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=2m none "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", mount, "sh", str(tmp_path), sys.executable, SCRIPT],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("passed\n", 0), done.stderr
