"""The node's own addresses and routes, when several want them put right at once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import cast

from fairway_agent.node import Node
from fairway_agent.problems import Problems
from fairway_core.model import Meta, ServiceCIDR
from fairway_core.world import Change, World
from fairway_kernel.link.objects import LinkManager
from fairway_kernel.sysctl import Sysctls

LOG = logging.getLogger("test")


class Slow:
    """Links and settings of a node; each look takes a while."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.routes: list[tuple[str, ...]] = []
        self._lock = threading.Lock()

    def ensure_loopback(self, addresses: Sequence[str]) -> None:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        time.sleep(0.05)

    def ensure_service_routes(self, cidrs: Sequence[str]) -> None:
        self.routes.append(tuple(cidrs))
        with self._lock:
            self.inside -= 1

    def read(self, name: str) -> str:
        return "0"

    def ensure(self, wanted: dict[str, str]) -> dict[str, str]:
        return {}


def test_one_after_the_other_and_the_last_knows_the_newest_ranges() -> None:
    slow, threads = Slow(), []

    def later(function: object) -> None:
        thread = threading.Thread(target=function)  # type: ignore[arg-type]
        threads.append(thread)
        thread.start()

    node = Node(cast("LinkManager", slow), cast("Sysctls", slow), (), ("10.96.0.0/16",), Problems(LOG), LOG, later)
    later(node.ensure)
    time.sleep(0.01)
    cidr = ServiceCIDR(Meta("more"), ("10.112.0.0/16",))
    after, touched = World().apply([Change(cidr.meta.key("ServiceCIDR"), cidr)], 1)
    node.follow(World(), after, touched)
    for thread in threads:
        thread.join()
    assert slow.most == 1
    assert slow.routes[-1] == ("10.96.0.0/16", "10.112.0.0/16")
