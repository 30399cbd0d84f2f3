"""Single questions from anywhere in a laboratory, nodes included, with a source port of one's choice; servers on a node."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.system import eventually

from fairway_netlab import helper
from fairway_netlab.lab import Lab

_ASK = """
import socket, sys
host, port, kind, source = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
one = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, getattr(socket, kind))
one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
one.settimeout(0.5)
try:
    if source:
        one.bind(("", source))
    one.connect((host, port))
    if kind == "SOCK_DGRAM":
        one.send(b"?")
    print(one.recv(200).decode().strip())
except TimeoutError:
    print("timeout")
except (ConnectionRefusedError, ConnectionResetError, PermissionError):
    print("refused")
except OSError as error:
    print(error.strerror)
"""


def say(lab: Lab, source: str, host: str, port: int = 80, protocol: str = "TCP", source_port: int = 0) -> str:
    """What comes back to a node, container or host: `NAME ADDRESS-SEEN` of a helper, or refused, timeout, …

    A datagram that is rejected where it is sent ends with EPERM: it counts as refused.
    """
    kind = "SOCK_STREAM" if protocol == "TCP" else "SOCK_DGRAM"
    return lab.exec(source, [sys.executable, "-c", _ASK, host, str(port), kind, str(source_port)]).stdout.strip()


@contextmanager
def serving(lab: Lab, node: str, name: str, port: int, directory: Path) -> Iterator[None]:
    """A program on a node itself, as a pod on the host network is: it answers over TCP and UDP."""
    control = directory / f"{name}.sock"
    command = [sys.executable, helper.__file__, name, str(control), f"TCP/{port}", f"UDP/{port}"]
    process = subprocess.Popen(lab.command(node, command))
    try:
        eventually(control.exists, f"{name} serves")
        yield
    finally:
        process.kill()
        process.wait()
