"""Plain runc: no daemon, no images; whoever starts the container calls the plugin, here this class."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fairway_kernel import netns
from fairway_netlab.runtimes.image import write_rootfs
from fairway_netlab.runtimes.node import COMMAND_SECONDS, RuntimeFailed, RuntimeNode, missing_programs

IFNAME = "eth0"


class Runc:
    """Containers of our own, each in a named network namespace. Use as a context manager; removes them at the end."""

    def __init__(self, node: RuntimeNode) -> None:
        self._node = node
        self._started: list[str] = []

    @staticmethod
    def missing() -> list[str]:
        """Programs that have to be installed first."""
        return missing_programs("runc", "nsenter")

    def __enter__(self) -> Runc:
        self._node.work.mkdir(parents=True, exist_ok=True)
        write_rootfs(self._node.work / "rootfs")
        return self

    def start(self, name: str, command: Sequence[str]) -> None:
        """ADD, then `runc run -d` in the namespace, with the resolv.conf that the plugin's answer describes."""
        self._started.append(name)
        path = netns.create(_namespace(name))
        result = self.plugin("ADD", name, path)
        bundle = self._node.work / name
        bundle.mkdir()
        (bundle / "resolv.conf").write_text(_resolv_conf(result.get("dns") or {}))
        subprocess.run(["runc", "spec", "--bundle", str(bundle)], check=True, capture_output=True, timeout=COMMAND_SECONDS)
        config = bundle / "config.json"
        config.write_text(json.dumps(self._configured(json.loads(config.read_text()), path, bundle, command)))
        # Detached, the container keeps the standard streams it was given; pipes would never reach their end.
        with (bundle / "output").open("wb") as output:
            subprocess.run(
                self._node.enter(self._command("run", "-d", "--bundle", str(bundle), name)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=COMMAND_SECONDS,
                check=True,
            )

    def _configured(self, spec: dict[str, Any], path: str, bundle: Path, command: Sequence[str]) -> dict[str, Any]:
        """runc's own default, with our files and namespace. Resource limits need rights that containers of containers lack."""
        spec["process"] |= {"terminal": False, "args": list(command), "env": ["PATH=/bin:/usr/bin"]}
        spec["process"].pop("rlimits", None)
        spec["root"] = {"path": str(self._node.work / "rootfs"), "readonly": True}
        resolv = {"destination": "/etc/resolv.conf", "type": "bind", "source": str(bundle / "resolv.conf"), "options": ["bind"]}
        spec["mounts"].append(resolv)
        spaces = [space for space in spec["linux"]["namespaces"] if space["type"] != "network"]
        spec["linux"]["namespaces"] = [*spaces, {"type": "network", "path": path}]
        return spec

    def exec(self, name: str, command: Sequence[str]) -> str:
        """Run a command in a running container; what it printed."""
        return self._node.run(self._command("exec", name, *command))

    def remove(self, name: str) -> None:
        """Kill the container, DEL, and remove the namespace."""
        self._node.run(self._command("delete", "-f", name))
        self.plugin("DEL", name, self.netns(name))
        netns.delete(_namespace(name))
        self._started.remove(name)

    def netns(self, name: str) -> str:
        """The path of a container's network namespace."""
        return str(netns.NAMED / _namespace(name))

    def plugin(self, verb: str, name: str, path: str) -> dict[str, Any]:
        """One call of the installed plugin, with the installed network list. Raises RuntimeFailed with its answer."""
        listed = json.loads(next(self._node.cni_conf.glob("*.conflist")).read_text())
        config = {"cniVersion": "1.0.0", "name": listed["name"], **listed["plugins"][0]}
        environment = {
            **os.environ,
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": name,
            "CNI_NETNS": path,
            "CNI_IFNAME": IFNAME,
            "CNI_PATH": str(self._node.cni_bin),
        }
        done = subprocess.run(
            self._node.enter([str(self._node.cni_bin / config["type"])]),
            input=json.dumps(config),
            env=environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )
        if done.returncode:
            raise RuntimeFailed(f"CNI {verb} of {name}: {done.stdout or done.stderr}")
        result: dict[str, Any] = json.loads(done.stdout or "{}")
        return result

    def _command(self, *arguments: str) -> list[str]:
        return ["runc", "--root", str(self._node.work / "runc"), *arguments]

    def __exit__(self, *exc: object) -> None:
        steps: list[Callable[[str], object]] = [
            lambda name: self._node.run(self._command("delete", "-f", name)),
            lambda name: self.plugin("DEL", name, ""),
            lambda name: netns.delete(_namespace(name)),
        ]
        faults: list[Exception] = []
        for name in self._started:
            for step in steps:
                try:
                    step(name)
                except Exception as fault:
                    faults.append(fault)
        if faults:
            raise ExceptionGroup("runc containers were not wholly removed", faults)


def _namespace(name: str) -> str:
    return f"fwrunc-{os.getpid()}-{name}"


def _resolv_conf(dns: dict[str, Any]) -> str:
    lines = [f"nameserver {server}" for server in dns.get("nameservers") or ()]
    lines += [f"search {' '.join(dns['search'])}"] if dns.get("search") else []
    lines += [f"options {' '.join(dns['options'])}"] if dns.get("options") else []
    return "".join(f"{line}\n" for line in lines)
