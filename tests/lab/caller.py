"""The plugin's executable called as bare as a runtime calls it: any environment, any bytes, exit code and both streams back."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fairway_netlab.attach import shim_path
from fairway_netlab.lab import Lab
from fairway_netlab.plan import cni_config

PEERS = "/usr/lib/cni"


@dataclass(frozen=True)
class Reply:
    """What the executable said. `document` is None if it printed nothing."""

    exit: int
    stdout: str
    stderr: str

    @property
    def document(self) -> dict[str, Any] | None:
        return dict(json.loads(self.stdout)) if self.stdout else None

    @property
    def result(self) -> dict[str, Any]:
        """The result of an ADD that succeeded."""
        assert self.exit == 0, self
        assert self.document is not None, self
        return self.document

    @property
    def code(self) -> int:
        """0 for a success, else the code of the error, whose form is looked at on the way."""
        if self.exit == 0:
            assert "code" not in (self.document or {}), self
            return 0
        error = self.document or {}
        assert set(error) in ({"cniVersion", "code", "msg"}, {"cniVersion", "code", "msg", "details"}), self
        assert isinstance(error["code"], int), self
        assert error["msg"], self
        return int(error["code"])

    @property
    def words(self) -> str:
        """Message and details of an error."""
        error = self.document or {}
        return f"{error.get('msg', '')} {error.get('details', '')}"


@dataclass
class Container:
    """A network namespace with a container id, and the plugin called about it."""

    lab: Lab
    netns: str
    id: str = field(default_factory=lambda: f"spec-{next(_serial)}")
    ifname: str = "eth0"
    path: str = PEERS

    def call(self, command: str, conf: Mapping[str, Any] | None = None, /, **env: str | None) -> Reply:
        """One call; `conf` is laid over the usual configuration, None takes a variable or a key away."""
        given = {**cni_config(self.lab.node()), "cniVersion": "1.1.0", **(conf or {})}
        given = {key: value for key, value in given.items() if value is not None}
        return self.send(command, json.dumps(given).encode(), **env)

    def send(self, command: str, stdin: bytes, **env: str | None) -> Reply:
        """One call with any bytes on standard input."""
        variables: dict[str, str | None] = {
            "CNI_COMMAND": command, "CNI_CONTAINERID": self.id, "CNI_NETNS": self.netns, "CNI_IFNAME": self.ifname,
            "CNI_PATH": self.path, "PATH": os.environ["PATH"], **env,
        }  # fmt: skip
        done = subprocess.run(
            self.lab.command(self.lab.node().name, [str(shim_path())]),
            input=stdin, env={key: value for key, value in variables.items() if value is not None},
            capture_output=True, timeout=30, check=False,
        )  # fmt: skip
        return Reply(done.returncode, done.stdout.decode(), done.stderr.decode())


NewContainer = Callable[[], Container]
_serial = itertools.count(1)
