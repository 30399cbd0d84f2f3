"""An address plugin for tests: a shell script that notes each call and answers as told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NAME = "scripted"
_SCRIPT = """#!/bin/sh
cat > "{directory}/$CNI_COMMAND.conf"
echo "$CNI_COMMAND id=$CNI_CONTAINERID netns=$CNI_NETNS ifname=$CNI_IFNAME args=$CNI_ARGS" >> "{directory}/calls"
[ -f "{directory}/$CNI_COMMAND.answer" ] && . "{directory}/$CNI_COMMAND.answer"
exit 0
"""


class ScriptedPlugin:
    """The plugin `scripted` in `directory`, which serves as CNI_PATH. Without instructions every verb succeeds silently."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        file = directory / NAME
        file.write_text(_SCRIPT.format(directory=directory))
        file.chmod(0o755)

    def answers(self, command: str, document: Any, exit_code: int = 0, after: float = 0.0) -> None:
        """From now on `command` waits `after` seconds, prints `document` and exits."""
        body = f"sleep {after:g}\ncat <<'EOF'\n{json.dumps(document)}\nEOF\nexit {exit_code}\n"
        temporary = self.directory / f"{command}.new"
        temporary.write_text(body)
        temporary.rename(self.directory / f"{command}.answer")

    def fails(self, command: str, code: int, message: str, after: float = 0.0) -> None:
        """From now on `command` fails with that error."""
        self.answers(command, {"cniVersion": "1.1.0", "code": code, "msg": message}, 1, after)

    @property
    def calls(self) -> list[str]:
        """The calls so far, one line each."""
        file = self.directory / "calls"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def verbs(self) -> list[str]:
        return [line.split()[0] for line in self.calls]

    def conf(self, command: str) -> dict[str, Any]:
        """The configuration of the last call of `command`."""
        return dict(json.loads((self.directory / f"{command}.conf").read_text()))
