"""What `fairway get` and its like may import, and how long they may take."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from threading import Thread

import click
import pytest

from fairway_cli.main import COMMANDS, cli

HEAVY = {
    "aiohttp",
    "asyncio",
    "nftables",
    "pydantic",
    "pyroute2",
    "rich",
    "yaml",
    "rpds",
    "prometheus_client",
    "importlib.metadata",
}
BUDGET_SECONDS = 0.2
POD = {"kind": "Pod", "metadata": {"name": "a", "namespace": "default"}}
ANSWER = {"revision": 1, "items": [POD], "item": POD, "ready": True, "allowed": True, "results": []}

# Runs one command and tells on stderr what it has imported.
_PROGRAM = """
import sys
from fairway_cli.main import main
code = main(sys.argv[1:])
print(" ".join(sys.modules), file=sys.stderr)
sys.exit(code)
"""


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        return

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.dumps(ANSWER).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    path = tmp_path / "agent.sock"
    with _Server(str(path), _Handler) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield {**os.environ, "FAIRWAY_AGENT": str(path)}
        server.shutdown()


LIGHT = [
    ["get", "pods"],
    ["get", "pods", "-o", "json"],
    ["status"],
    ["why", "a", "b:80"],
    ["delete", "pod", "a"],
    ["describe", "pod", "a"],
    ["--help"],
    ["get", "--help"],
]


@pytest.mark.parametrize("arguments", LIGHT, ids=" ".join)
def test_commands_that_only_ask_import_little(environment: dict[str, str], arguments: list[str]) -> None:
    command = [sys.executable, "-c", _PROGRAM, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stderr.splitlines()[-1].split())
    assert not loaded & HEAVY
    others = {f"fairway_{name}" for name in ("agent", "cni", "dns", "kernel", "netlab", "policy", "proxy", "store")}
    assert not loaded & others
    assert "fairway_core.documents" not in loaded


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_get_answers_within_its_budget(environment: dict[str, str]) -> None:
    times = []
    command = [sys.executable, "-m", "fairway_cli.main", "get", "pods"]
    for _ in range(5):
        began = _cpu_seconds()
        subprocess.run(command, env=environment, capture_output=True, check=True)
        times.append(_cpu_seconds() - began)
    # Processor time: what a busy machine does meanwhile is not the command's fault.
    assert min(times) < BUDGET_SECONDS


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_exists_with_the_summary_of_the_table(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name
    assert command.help


def _commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            inner = command.get_command(click.Context(command), name)
            assert inner is not None
            yield from _commands(inner, f"{path} {name}")


def test_every_flag_has_an_environment_variable() -> None:
    options = [
        (path, option)
        for path, command in _commands(cli, "fairway")
        for option in command.params
        if isinstance(option, click.Option) and option.name != "help"
    ]
    assert len(options) > 30
    without = [f"{path} {option.opts[0]}" for path, option in options if not str(option.envvar).startswith("FAIRWAY_")]
    assert without == []


def test_the_readme_names_every_command_and_flag() -> None:
    text = (Path(__file__).parents[2] / "cli" / "README.md").read_text()
    assert [name for name in COMMANDS if f"\n    fairway {name}" not in text] == []
    for name in sorted(set(COMMANDS) - {"lab"}):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        line = next(
            line for line in text.splitlines() if line.startswith(f"    fairway {name} ") or line == f"    fairway {name}"
        )
        shortest = [min(option.opts, key=len) for option in command.params if isinstance(option, click.Option)]
        assert [flag for flag in shortest if flag not in line and flag not in ("--agent", "--help")] == []
