"""The executable with any input and any answer, under the sanitizers and valgrind: it ends in time and says JSON or nothing."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SOURCE = Path(__file__).parents[2] / "cni" / "shim" / "shim.c"
COMMON = ["-std=c11", "-g", "-O1", "-Wall", "-Wextra", "-Werror"]
BOUNDED = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SECONDS = 60

COMMANDS = st.sampled_from(["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION", "", "NONE"])
WORDS = st.sampled_from(
    [b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b"\\u0041", b"\\ud83d\\ude00", b"\\ud800", b"1e9", b"-0.5", b"null", b"tru",
     b'"agentSocket"', b'"spoolDir"', b'"cniVersion"', b'"name"', b"\xc3\xa4", b"\xf0\x9f\x98", b"\xff", b"\0", b" ", b'"x"']
)  # fmt: skip
JUNK = st.lists(WORDS, max_size=40).map(b"".join)
STDIN = st.binary(max_size=200) | JUNK | JUNK.map(lambda junk: b'{"a":' + junk + b"}")
PIECES = st.sampled_from(
    [b"HTTP/1.1 200 OK", b"HTTP/1.", b"\r\n", b"\r\n\r\n", b"X-Fairway-Exit: 0", b"X-Fairway-Exit: 1", b"X-Fairway-Exit:", b"{}",
     b"Content-Length: 2", b"Content-Length: 99999999999999999999", b"Content-Length: -1", b"Transfer-Encoding: chunked", b"\0"]
)  # fmt: skip
ANSWERS = st.binary(max_size=100) | st.lists(PIECES, max_size=12).map(b"".join)


@dataclass(frozen=True)
class Program:
    """How to run the executable so that a fault in memory is an exit code of 99."""

    command: list[str]
    place: Path

    def run(self, verb: str, stdin: bytes) -> subprocess.CompletedProcess[bytes]:
        env = {
            "CNI_COMMAND": verb, "CNI_CONTAINERID": "c", "CNI_IFNAME": "eth0", "CNI_NETNS": "/n", "PATH": os.environ["PATH"],
            "ASAN_OPTIONS": "exitcode=99", "UBSAN_OPTIONS": "exitcode=99:halt_on_error=1",
        }  # fmt: skip
        return subprocess.run(self.command, input=stdin, env=env, capture_output=True, timeout=SECONDS, check=False)

    def conf(self, extra: bytes = b"") -> bytes:
        """A configuration that leads to a socket and a spool of this test's own."""
        own = {"cniVersion": "1.0.0", "name": "n", "agentSocket": str(self.place / "s"), "spoolDir": str(self.place / "spool")}
        return json.dumps(own).encode()[:-1] + b"," + extra + b"}" if extra else json.dumps(own).encode()


def compiled(directory: Path, *flags: str) -> str:
    path = str(directory / "shim")
    subprocess.run([shutil.which("cc") or "cc", *COMMON, *flags, "-o", path, str(SOURCE)], check=True)
    return path


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Program:
    place = tmp_path_factory.mktemp("asan")
    return Program([compiled(place, "-fsanitize=address,undefined", "-fno-sanitize-recover")], place)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Program:
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        pytest.skip("valgrind is not installed (Debian package valgrind)")
    place = tmp_path_factory.mktemp("valgrind")
    return Program([valgrind, "-q", "--error-exitcode=99", "--leak-check=full", compiled(place)], place)


def sound(done: subprocess.CompletedProcess[bytes]) -> None:
    """A result with exit 0, an error with exit 1, and no complaint about memory."""
    assert done.returncode in (0, 1), done
    document = json.loads(done.stdout) if done.stdout else None
    assert (document is not None and "code" in document) == (done.returncode == 1), done
    assert b"==" not in done.stderr, done


@BOUNDED
@given(COMMANDS, STDIN)
def test_any_input_under_the_sanitizers(sanitized: Program, verb: str, stdin: bytes) -> None:
    # Junk without paths of its own would lead to the machine's agent and spool.
    if verb in ("", "NONE", "VERSION") or not _reads(stdin):
        sound(sanitized.run(verb, stdin))
    sound(sanitized.run(verb, sanitized.conf(b'"more":' + json.dumps(stdin.decode("latin-1")).encode())))


def _reads(stdin: bytes) -> bool:
    try:
        return isinstance(json.loads(stdin), dict)
    except (ValueError, RecursionError):
        return False


@BOUNDED
@given(COMMANDS, ANSWERS)
def test_any_answer_under_the_sanitizers(sanitized: Program, verb: str, answer: bytes) -> None:
    with answering(sanitized.place / "s", answer):
        done = sanitized.run(verb, sanitized.conf())
    assert done.returncode in (0, 1), done
    assert b"==" not in done.stderr, done


class answering:
    """An agent at `path` that says `answer` to one call, whatever it is."""

    def __init__(self, path: Path, answer: bytes) -> None:
        path.unlink(missing_ok=True)
        self._path, self._answer = path, answer
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()
        self._path.unlink()

    def _serve(self) -> None:
        with suppress(OSError):
            peer, _ = self._listener.accept()
            with peer:
                peer.settimeout(5)
                request = b""
                while b"\r\n\r\n" not in request or not request.rstrip().endswith(b"}"):
                    request += peer.recv(65536)
                peer.sendall(self._answer)


INPUTS = (
    b"", b'{"a":"\\ud83d\\ude00\xc3\xa4"', b'{"a":' + b"[" * 70, b'{"name":"' + b"x" * 5000 + b'",' + b"\xff" * 9,
)  # fmt: skip


def test_bad_input_under_valgrind(watched: Program) -> None:
    for number, stdin in enumerate(INPUTS):
        sound(watched.run("VERSION" if number % 2 else "ADD", stdin))


@pytest.mark.parametrize("verb", ["ADD", "DEL", "STATUS"])
def test_calls_under_valgrind(watched: Program, verb: str) -> None:
    sound(watched.run(verb, watched.conf(b'"text":"\\u00e4"')))
    body = b'{"code":7}' if verb == "STATUS" else b""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nX-Fairway-Exit: {1 if body else 0}\r\n\r\n".encode()
    with answering(watched.place / "s", head + body):
        done = watched.run(verb, watched.conf())
    assert (done.returncode, done.stdout, done.stderr) == (1 if body else 0, body, b"")
