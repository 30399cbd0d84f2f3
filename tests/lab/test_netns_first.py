"""The first namespace on a fresh machine: /run/netns must be a shared mount of its own, as ip-netns(8) makes it."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.needs_root

FRESH = 'mount --make-rprivate / && mount -t tmpfs none /run && exec "$0" -c "$1"'
CREATE = """
import subprocess
from pathlib import Path
from fairway_kernel import netns
netns.create("first")
"""
# What container runtimes do after us.
SHARE = """
subprocess.run(["mount", "--rbind", "/run/netns", "/run/netns"], check=True)
subprocess.run(["mount", "--make-rshared", "/run/netns"], check=True)
"""
DELETE = """
lines = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if line.split()[4] == "/run/netns"]
assert "shared:" in lines[-1], lines
netns.delete("first")
assert list(Path("/run/netns").iterdir()) == []
print("ok")
"""


@pytest.mark.parametrize("between", ["", SHARE], ids=["alone", "shared-again-by-a-runtime"])
def test_the_first_namespace_of_a_machine_is_shared_and_can_be_removed(between: str) -> None:
    command = ["unshare", "-m", "sh", "-ec", FRESH, sys.executable, CREATE + between + DELETE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.strip() == "ok", done.stderr
