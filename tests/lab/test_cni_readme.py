"""The configurations in cni/README.md are attached with, as a runtime goes through a list (specification, section 3)."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lab.caller import PEERS, Container

from fairway_cni.install import NetworkSettings, conflist
from fairway_netlab.lab import Lab
from fairway_netlab.session import LabSession

README = Path(__file__).parents[2] / "cni" / "README.md"
TEXT = README.read_text()
BLOCKS: list[dict[str, Any]] = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)]
ROWS = set(re.findall(r"^\| `([a-zA-Z]+)` \|", TEXT, re.MULTILINE))


@pytest.fixture(scope="module")
def node() -> Iterator[Lab]:
    with LabSession() as session:
        yield session.up({"nodes": [{"name": "n1", "podCIDRs": ["10.244.0.0/24"]}]})


def plugins(block: dict[str, Any]) -> list[dict[str, Any]]:
    """The single configurations of a block: of a list, or the plugin that it shows."""
    listed = block.get("plugins", [block])
    common = {"cniVersion": block.get("cniVersion", "1.0.0"), "name": block.get("name", "fairway")}
    return [{**plugin, **common} for plugin in listed]


def run(one: Container, command: str, conf: dict[str, Any], directory: Path) -> dict[str, Any]:
    """One plugin of a list, ours or Debian's; paths of the machine are replaced by the laboratory's."""
    if conf["type"] == "fairway":
        config = one.lab.node().config
        conf = {**conf, "agentSocket": str(one.lab.node().socket), "spoolDir": str(Path(config["stateDir"]) / "spool")}
        reply = one.send(command, json.dumps(conf).encode())
        assert reply.code == 0, reply
        return reply.document or {}
    conf = {**conf, "ipam": {**conf["ipam"], "dataDir": str(directory)}}
    env = {"CNI_COMMAND": command, "CNI_CONTAINERID": one.id, "CNI_NETNS": one.netns, "CNI_IFNAME": one.ifname, "CNI_PATH": PEERS}
    done = subprocess.run(
        one.lab.command("n1", [f"{PEERS}/{conf['type']}"]), input=json.dumps(conf).encode(), env={**os.environ, **env},
        capture_output=True, timeout=20, check=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout)) if done.stdout else {}


@pytest.mark.needs_root
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: "-".join(plugin["type"] for plugin in plugins(block)))
def test_each_example_attaches_checks_and_detaches(
    node: Lab, namespaces: Callable[[str], str], tmp_path: Path, block: dict[str, Any]
) -> None:
    one = Container(node, namespaces("c"))
    result: dict[str, Any] | None = None
    for conf in plugins(block):
        result = run(one, "ADD", {**conf, **({"prevResult": result} if result else {})}, tmp_path)
    assert result
    assert result["ips"]
    for command, order in (("CHECK", 1), ("DEL", -1)):
        for conf in plugins(block)[::order]:
            run(one, command, {**conf, "prevResult": result}, tmp_path)


def test_every_key_of_the_table_is_in_an_example_and_the_other_way_round() -> None:
    shown = {key for block in BLOCKS for plugin in plugins(block) if plugin["type"] == "fairway" for key in plugin}
    # What the list says for all of its plugins, and what is explained in sentences.
    assert shown - {"cniVersion", "name", "args", "runtimeConfig"} == ROWS - {"prevResult"}


def test_every_capability_of_the_installed_list_is_in_an_example_and_explained() -> None:
    (complete,) = [block for block in BLOCKS if "runtimeConfig" in block]
    declared = set(conflist(NetworkSettings())["plugins"][0]["capabilities"])
    assert declared == set(complete["runtimeConfig"])
    assert all(f"`{name}`" in TEXT or f"**{name}" in TEXT or f'"{name}"' in TEXT for name in declared)
