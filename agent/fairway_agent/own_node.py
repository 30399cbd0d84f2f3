"""This node's own Node object, while the agent runs: what it says that we do not do is told, and served on as before."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fairway_agent.problems import Problems
from fairway_core.keys import Key
from fairway_core.model import Node
from fairway_core.world import World

RANGES, MISSING = "node-ranges", "node-missing"


class OwnNode:
    """Follows the world. Promise: nothing here changes what the node does.

    Addresses of containers, rules and routes of other nodes hang on the pod ranges, so a change of them is taken over at a start
    of the agent only: containers keep the addresses they have, new ones get theirs from the new ranges.
    """

    def __init__(self, name: str, pod_cidrs: Sequence[str], problems: Problems) -> None:
        """`pod_cidrs` are those in use."""
        self._name = name
        self._in_use = tuple(pod_cidrs)
        self._problems = problems

    def follow(self, before: World, after: World, touched: frozenset[Key]) -> None:
        """See `Subscriber`."""
        key = Key("Node", "", self._name)
        if key not in touched and before.objects:
            return
        node = after.get(key)
        if not isinstance(node, Node):
            text = f"{key} is not there: removed or renamed? Containers are served as before, but other nodes lose the way here"
            self._problems.report(MISSING, text, blocking=False)
            return
        self._problems.clear(MISSING)
        if set(node.pod_cidrs) == set(self._in_use):
            self._problems.clear(RANGES)
            return
        said, used = ", ".join(node.pod_cidrs) or "nothing", ", ".join(self._in_use)
        text = f"{key}: spec.podCIDRs says {said}, but {used} is in use until the agent is started again with the node drained"
        self._problems.report(RANGES, text, blocking=False)

    @property
    def deviations(self) -> dict[str, bool]:
        """What the Node object says otherwise."""
        return {"podCIDRs": bool(self._problems.text(RANGES)), "missing": bool(self._problems.text(MISSING))}


class OwnNodeCollector(Collector):
    """What this node's own object says otherwise, at scrape time."""

    def __init__(self, node: OwnNode) -> None:
        self._node = node

    def collect(self) -> list[Metric]:
        family = GaugeMetricFamily(
            "fairway_node_deviation", "1 if this node's Node object is not what is in use", labels=["what"]
        )
        for what, deviates in self._node.deviations.items():
            family.add_metric([what], int(deviates))
        return [family]
