"""The strict edge is paid for by those who use it only."""

from __future__ import annotations

import subprocess
import sys


def test_core_without_documents_loads_neither_pydantic_nor_yaml() -> None:
    script = (
        "import sys, fairway_core.codec, fairway_core.world, fairway_core.delta, fairway_store.open\n"
        "print([name for name in ('pydantic', 'yaml', 'fairway_core.documents') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"
