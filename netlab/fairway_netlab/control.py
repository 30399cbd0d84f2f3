"""One request to an agent's control API (agent/README.md) over its unix socket."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from fairway_netlab.processes import LabError


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("fairway", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def request(path: Path, method: str, target: str, body: Any = None, timeout: float = 30.0) -> tuple[int, bytes]:
    """Status and body of the answer. Raises OSError or HTTPException if there is no answer."""
    connection = _UnixConnection(path, timeout)
    try:
        connection.request(method, target, None if body is None else json.dumps(body))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def call(path: Path, method: str, target: str, body: Any = None, timeout: float = 30.0) -> dict[str, Any]:
    """The JSON answer. Raises LabError for an error answer or none."""
    try:
        status, answer = request(path, method, target, body, timeout)
        decoded: dict[str, Any] = json.loads(answer)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise LabError(f"{method} {target} at {path}: {error}") from error
    if status >= 400:
        raise LabError(f"{method} {target}: {(decoded.get('error') or {}).get('message', decoded)}")
    return decoded
