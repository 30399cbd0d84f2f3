"""The rule set, word for word: a change of it must be meant."""

from __future__ import annotations

import os
from pathlib import Path

from fairway_kernel.nft.objects import INET
from fairway_kernel.nft.transaction import add_layout
from fairway_policy.layout import policy_layout

GOLDEN = Path(__file__).with_name("policy_layout.nft")


def test_layout_is_as_written() -> None:
    """FAIRWAY_UPDATE_GOLDEN=1 writes the file anew."""
    text = str(add_layout(policy_layout(), [INET]))
    if os.environ.get("FAIRWAY_UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()
