"""What every runtime meets: a node with services and isolation, what a guest must see there, and the traces it may not leave."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.lab.system import container, eventually, nft_json, objects, on_node, policy, service, topology

from fairway_netlab.helper import OPEN
from fairway_netlab.lab import Lab
from fairway_netlab.probe import Target
from fairway_netlab.runtimes.image import BUSYBOX
from fairway_netlab.runtimes.node import RuntimeNode, installed_node

SKIP = "FAIRWAY_SKIP_RUNTIMES"
PORT = 7000
RELEASE_SECONDS = 10.0
GUEST = ["sh", "-c", f"httpd -p {PORT} -h /www; exec sleep 1000"]
WEB, VAULT = "web.shop.svc.cluster.local", "vault.payments.svc.cluster.local"

# Resolve with busybox's own resolver and with libc's, connect over both families, and try what policy forbids.
LOOK = f"""
echo "slow4 $(nslookup -type=a {WEB} | awk '/^Address: /{{print $2}}' | tail -n 1)"
echo "slow6 $(nslookup -type=aaaa {WEB} | awk '/^Address: /{{print $2}}' | tail -n 1)"
echo "libc4 $(getent ahostsv4 {WEB} | awk '{{print $1; exit}}')"
echo "libc6 $(getent ahostsv6 {WEB} | awk '{{print $1; exit}}')"
for family in 4 6; do
  echo "web$family $(nc -w 2 $(getent ahostsv$family {WEB} | awk '{{print $1; exit}}') 80 </dev/null | head -n 1)"
  echo "vault$family $(nc -w 1 $(getent ahostsv$family {VAULT} | awk '{{print $1; exit}}') 80 </dev/null 2>&1 | head -n 1)"
done
"""


def require(missing: list[str]) -> None:
    """A runtime that is not installed is a failure, unless the person at the keyboard says otherwise."""
    absent = [*missing, *([] if BUSYBOX.exists() else ["busybox-static"])]
    if not absent:
        return
    if os.environ.get(SKIP) == "1":
        pytest.skip(f"not installed: {', '.join(absent)}")
    pytest.fail(f"not installed: {', '.join(absent)}; `sudo ./dev setup` installs them, {SKIP}=1 leaves these tests out")


def scene() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Topology and documents: `web` is for all, `vault` for its own namespace, guests are reached from `shop` only."""
    people = [
        container("web", port=8080, app="web"),
        container("front"),
        container("vault", "payments", port=8080, app="vault"),
        container("stranger", "payments"),
    ]
    shop = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}}
    documents = [
        service("web"),
        service("vault", "payments"),
        policy("own", "payments", policyTypes=["Ingress"], ingress=[{"from": [{"podSelector": {}}]}]),
        policy("shop-only", "default", policyTypes=["Ingress"], ingress=[{"from": [shop]}]),
    ]
    return topology(containers=people), documents


def runtime_node(lab: Lab, work: Path) -> RuntimeNode:
    """The laboratory's node as a runtime on it sees it, with directories of its own below `work`."""
    node = lab.node()
    return installed_node(lab.netns(node.name), node.config_file, work)


def virtual_ips(lab: Lab, name: str) -> list[str]:
    """IPv4 first."""
    found = next(item for item in objects(lab, "services") if item["metadata"]["name"] == name)
    return sorted(found["spec"]["clusterIPs"], key=lambda ip: ":" in ip)


def check_from_inside(lab: Lab, execute: Callable[[list[str]], str]) -> None:
    """Names, services over both families, and isolation as the guest sees them."""
    output = execute(["sh", "-c", LOOK])
    seen = {line.split(" ", 1)[0]: line.split(" ", 1)[-1].strip() for line in output.splitlines()}
    four, six = virtual_ips(lab, "web")
    assert (seen["slow4"], seen["slow6"], seen["libc4"], seen["libc6"]) == (four, six, four, six), output
    assert seen["web4"].startswith("web 10.244."), output
    assert seen["web6"].startswith("web fd00:10:244:"), output
    assert "vault 10." not in output and "vault fd00" not in output, output


def check_from_outside(lab: Lab, name: str, number: int = 1) -> dict[str, Any]:
    """The guest is one Pod of its namespace with an address in each family; `front` reaches it and `stranger` does not."""
    found = [item for item in objects(lab, "attachments") if item["spec"]["podNamespace"] == "default"]
    assert len(found) == number, found
    spec: dict[str, Any] = next(item["spec"] for item in found if item["spec"]["podName"] == name)
    assert sorted(":" in ip for ip in spec["ips"]) == [False, True]
    targets = [Target(ip, PORT) for ip in spec["ips"]]
    # The guest's server may still be starting.
    eventually(lambda: [o.state for o in lab.probe("front", targets)] == [OPEN, OPEN], "front reaches the guest", 10)
    assert OPEN not in [outcome.state for outcome in lab.probe("stranger", targets, 0.5)]
    return spec


def traces(lab: Lab) -> dict[str, Any]:
    """Everything a container may leave on a node, comparable: objects, links, routes, neighbours, elements of sets and maps."""
    kinds = ("attachments", "pods", "endpointslices")
    stored = {
        kind: sorted(f"{i['metadata'].get('namespace')}/{i['metadata']['name']}" for i in objects(lab, kind)) for kind in kinds
    }
    sets = [item.get("set") or item.get("map") for item in nft_json(lab)]
    return {
        **stored,
        "links": sorted(line.split("@")[0] for line in on_node(lab, "ip", "-br", "link").splitlines()),
        "routes": sorted(f"{on_node(lab, 'ip', '-4', 'route')}{on_node(lab, 'ip', '-6', 'route')}".splitlines()),
        "neighbours": sorted(line for line in on_node(lab, "ip", "neigh", "show", "nud", "permanent").splitlines()),
        "elements": {
            item["name"]: Counter(json.dumps(element) for element in item.get("elem", []))
            for item in sets
            if item and "generation" not in item["name"] and "dynamic" not in item.get("flags", [])
        },
    }


@contextmanager
def without_a_trace(lab: Lab) -> Iterator[None]:
    """What is done inside leaves the node as it was."""
    before = settled(lab)
    yield
    deadline = time.monotonic() + RELEASE_SECONDS
    while (after := traces(lab)) != before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert after == before


def settled(lab: Lab) -> dict[str, Any]:
    """The traces once they do not change any more: what was applied last may still have consequences."""
    found = traces(lab)
    for _ in range(20):
        time.sleep(0.25)
        last, found = found, traces(lab)
        if last == found:
            return found
    raise AssertionError("the node does not come to rest")
