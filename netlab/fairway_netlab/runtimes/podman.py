"""podman with `network_backend = "cni"`, as CNI users of podman 4 run it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fairway_netlab.runtimes.image import IMAGE_NAME
from fairway_netlab.runtimes.node import COMMAND_SECONDS, RuntimeNode, missing_programs


class Podman:
    """One podman store of our own. Use as a context manager; removes its containers at the end."""

    def __init__(self, node: RuntimeNode, network: str) -> None:
        self._node = node
        self._network = network

    @staticmethod
    def missing() -> list[str]:
        """Programs that have to be installed first."""
        return missing_programs("podman", "conmon", "runc", "nsenter")

    def __enter__(self) -> Podman:
        work = self._node.work
        for part in ("root", "runroot", "tmp"):
            (work / part).mkdir(parents=True, exist_ok=True)
        (work / "containers.conf").write_text(
            f'[network]\nnetwork_backend = "cni"\ncni_plugin_dirs = ["{self._node.cni_bin}"]\n'
            f'network_config_dir = "{self._node.cni_conf}"\ndefault_network = "{self._network}"\n'
            '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\nruntime = "runc"\n'
            '[containers]\nlog_driver = "k8s-file"\ndefault_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]\n'
        )
        return self

    def _podman(self, *arguments: str, timeout: float = COMMAND_SECONDS) -> str:
        return self._node.run(self._command(arguments), env=self._env(), timeout=timeout)

    def _command(self, arguments: Sequence[str]) -> list[str]:
        work = self._node.work
        return ["podman", "--root", f"{work}/root", "--runroot", f"{work}/runroot", "--tmpdir", f"{work}/tmp", *arguments]

    def _env(self) -> dict[str, str]:
        return {"CONTAINERS_CONF": str(self._node.work / "containers.conf")}

    def load(self, archive: Path) -> None:
        """Load an OCI archive."""
        self._podman("load", "-q", "-i", str(archive))

    def run(self, name: str, command: Sequence[str], *options: str) -> str:
        """`podman run --rm`: run to the end and return what it printed."""
        return self._podman("run", "--rm", "--name", name, "--network", self._network, *options, IMAGE_NAME, *command)

    def start(self, name: str, command: Sequence[str], *options: str, network: str = "") -> None:
        """`podman run -d`; `network` may be several, with commas."""
        self._podman("run", "-d", "--name", name, "--network", network or self._network, *options, IMAGE_NAME, *command)

    def reload(self, name: str) -> None:
        """`podman network reload`: a DEL and an ADD for the same namespace and the same addresses."""
        self._podman("network", "reload", name)

    @contextmanager
    def another_network(self, name: str) -> Iterator[None]:
        """A second network list of the same plugin, routed: a bridge would stay for a while."""
        path = self._node.cni_conf / f"20-{name}.conflist"
        (first,) = self._node.cni_conf.glob("10-*.conflist")
        document = json.loads(first.read_text())
        plugins = [{**plugin, "mode": "routed"} for plugin in document["plugins"]]
        path.write_text(json.dumps({**document, "name": name, "plugins": plugins}))
        try:
            yield
        finally:
            path.unlink()

    def exec(self, name: str, command: Sequence[str]) -> str:
        """Run a command in a running container; what it printed."""
        return self._podman("exec", name, *command)

    def restart(self, name: str) -> None:
        """Stop the container and start it again; it gets a new attachment."""
        self._podman("restart", "-t", "0", name)

    def pid(self, name: str) -> int:
        """The container's first process, as the node sees it."""
        return int(self._podman("inspect", "--format", "{{.State.Pid}}", name))

    def remove(self, name: str) -> None:
        """Stop and remove a container; the plugin gets its DEL."""
        self._podman("rm", "-f", "-t", "0", name)

    def __exit__(self, *exc: object) -> None:
        for arguments in (("rm", "-f", "-a", "-t", "0"), ("rmi", "-f", "-a")):
            subprocess.run(
                self._node.enter(self._command(arguments)),
                capture_output=True,
                timeout=COMMAND_SECONDS,
                check=False,
                env={**os.environ, **self._env()},
            )
