"""Plain runc in a namespace that the plugin has wired before."""

from __future__ import annotations

import pytest
from tests.runtime.scene import GUEST, check_from_inside, check_from_outside, without_a_trace

from fairway_netlab.lab import Lab
from fairway_netlab.runtimes.node import RuntimeFailed
from fairway_netlab.runtimes.runc import Runc

pytestmark = [pytest.mark.needs_root, pytest.mark.runtime]


def test_runc(node_lab: Lab, runc: Runc) -> None:
    with without_a_trace(node_lab):
        runc.start("plain", GUEST)
        check_from_outside(node_lab, "plain")
        check_from_inside(node_lab, lambda command: runc.exec("plain", command))
        with pytest.raises(RuntimeFailed, match='"code": 102'):
            runc.plugin("ADD", "plain", runc.netns("plain"))
        runc.remove("plain")
        assert runc.plugin("DEL", "plain", "") == {}
