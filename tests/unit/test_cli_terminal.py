"""How the command behaves on pipes and terminals: colour, broken pipes, interruption. Runs the real program."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

COMMAND = [sys.executable, "-m", "fairway_cli.main"]
POD = {"kind": "Pod", "metadata": {"name": "a-pod-with-a-long-name", "namespace": "default"}}


class OneAnswer:
    """A listener that gives every connection the same bytes; with `hold` it keeps the connection open afterwards."""

    def __init__(self, path: Path, body: bytes, hold: bool = False) -> None:
        length = b"" if hold else b"Content-Length: %d\r\n" % len(body)
        self._answer = b"HTTP/1.1 200 OK\r\n" + length + b"Connection: close\r\n\r\n" + body
        self._hold = hold
        self._held: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.recv(65536)
            connection.sendall(self._answer)
            if self._hold:
                self._held.append(connection)
            else:
                connection.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._held:
            connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent.sock"


@pytest.fixture
def ready(path: Path) -> Iterator[dict[str, str]]:
    server = OneAnswer(path, json.dumps({"ready": True, "node": "n1", "problems": []}).encode())
    yield {**os.environ, "FAIRWAY_AGENT": str(path), "TERM": "xterm"}
    server.close()


def on_terminal(environment: dict[str, str]) -> bytes:
    ours, theirs = pty.openpty()
    child = subprocess.Popen([*COMMAND, "status"], stdout=theirs, env=environment)
    os.close(theirs)
    assert child.wait(20) == 0
    text = os.read(ours, 65536)
    os.close(ours)
    return text


def test_colour_on_a_terminal_only_and_not_if_unwanted(ready: dict[str, str]) -> None:
    ready.pop("NO_COLOR", None)
    assert b"\x1b[32mready\x1b[0m" in on_terminal(ready)
    assert b"\x1b" not in on_terminal({**ready, "NO_COLOR": "1"})
    piped = subprocess.run([*COMMAND, "status"], env=ready, capture_output=True, check=True)
    assert b"ready" in piped.stdout and b"\x1b" not in piped.stdout


def test_a_reader_that_leaves_is_no_news(path: Path) -> None:
    server = OneAnswer(path, json.dumps({"items": [POD] * 20000}).encode())
    try:
        command = [*COMMAND, "get", "pods", "--agent", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            assert child.stdout is not None and child.stderr is not None
            assert child.stdout.readline().startswith(b"NAME")
            child.stdout.close()
            assert child.stderr.read() == b""
            assert child.wait(20) == 1
    finally:
        server.close()


def test_ctrl_c_ends_a_watch_quietly(path: Path) -> None:
    events = [{"type": "PUT", "document": POD, "revision": 1}, {"type": "SYNC", "revision": 1}]
    server = OneAnswer(path, b"".join(json.dumps(event).encode() + b"\n" for event in events), hold=True)
    try:
        command = [*COMMAND, "get", "pods", "-w", "--agent", str(path)]
        buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=buffered) as child:
            assert child.stdout is not None and child.stderr is not None
            # What is known is shown at once, although standard output is a pipe.
            assert child.stdout.readline().startswith(b"NAME")
            assert child.stdout.readline().startswith(b"a-pod-with-a-long-name")
            child.send_signal(signal.SIGINT)
            assert child.wait(20) == 130
            assert child.stderr.read() == b""
    finally:
        server.close()
