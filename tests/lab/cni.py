"""Calls of the plugin as a runtime makes them, in laboratories, with whatever configuration a test wants."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from typing import Any

from fairway_netlab.attach import shim_path
from fairway_netlab.lab import Lab
from fairway_netlab.plan import cni_config, cni_environment


def call(lab: Lab, name: str, command: str, runtime: Mapping[str, Any], /, ifname: str = "eth0", **more: Any) -> dict[str, Any]:
    """One call of the plugin with `runtime` as runtimeConfig; the document it prints. `more`: configuration, or
    `netns`, `args_text`, `container_id`."""
    station, node = lab.station(name), lab.node()
    place = more.pop("netns", lab.netns(name))
    environment = cni_environment(station, command, place, "/usr/lib/cni") | {"CNI_IFNAME": ifname}
    for variable, key in (("CNI_ARGS", "args_text"), ("CNI_CONTAINERID", "container_id")):
        environment |= {variable: more.pop(key)} if key in more else {}
    known = {"prevResult": {}} if command == "CHECK" else {}
    config = {**cni_config(node), **known, "runtimeConfig": runtime, **more}
    done = subprocess.run(
        lab.command(node.name, [str(shim_path())]),
        input=json.dumps(config), env={**os.environ, **environment}, capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    document: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    assert (done.returncode != 0) == ("code" in document), done
    return document
