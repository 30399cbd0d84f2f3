"""The shim executable against an agent that is up, down, slow or mad."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fairway_cni.install import shim_bytes
from fairway_cni.plan import Identity
from fairway_cni.protocol import VERSIONS, parse, split_body
from fairway_cni.spool import record_name

SOURCE = Path(__file__).parents[2] / "cni" / "shim" / "shim.c"
Reply = Callable[[socket.socket, bytes], None]


@pytest.fixture(scope="session", params=["release", "sanitized"])
def shim(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The shim as shipped, and compiled with the address and undefined behaviour sanitizers."""
    path = tmp_path_factory.mktemp("shim") / "fairway"
    if request.param == "release":
        path.write_bytes(shim_bytes())
        path.chmod(0o755)
    else:
        flags = ["-std=c11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined", "-fno-sanitize-recover"]
        subprocess.run([shutil.which("cc") or "cc", *flags, "-o", str(path), str(SOURCE)], check=True)
    return str(path)


class Agent:
    """Accepts one connection at a time and lets `reply` answer the request it read."""

    def __init__(self, path: Path, reply: Reply) -> None:
        self.bodies: list[bytes] = []
        self._reply = reply
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            with peer:
                self._one(peer)

    def _one(self, peer: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += peer.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        assert head.startswith(b"POST /v1/cni HTTP/1.1\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
        while len(body) < length:
            body += peer.recv(65536)
        self.bodies.append(body)
        self._reply(peer, body)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Callable[[Reply], Agent]]:
    made: list[Agent] = []

    def make(reply: Reply) -> Agent:
        made.append(Agent(tmp_path / "agent.sock", reply))
        return made[-1]

    yield make
    for item in made:
        item.close()


def answer(body: bytes, code: int = 0, extra: str = "") -> Reply:
    head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n{extra}x-fairway-exit: {code}\r\n\r\n".encode()
    return lambda peer, _request: peer.sendall(head + body)


def conf(tmp_path: Path, **more: object) -> bytes:
    base = {
        "cniVersion": "0.4.0",
        "name": "net",
        "agentSocket": str(tmp_path / "agent.sock"),
        "spoolDir": str(tmp_path / "a" / "spool"),
    }
    return json.dumps({**base, **more}).encode()


def run(shim: str, command: str | None, stdin: bytes, **env: str) -> subprocess.CompletedProcess[bytes]:
    variables = {"CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "SECRET": "x", **env}
    if command is not None:
        variables["CNI_COMMAND"] = command
    return subprocess.run([shim], input=stdin, capture_output=True, env=variables, timeout=20, check=False)


@pytest.mark.parametrize("stdin", [b"", b"junk", b'{"cniVersion":"0.3.1"}', b'{"cniVersion":"9.9.9"}', b'\xff{"'])
def test_version_needs_nobody(shim: str, stdin: bytes) -> None:
    done = run(shim, "VERSION", stdin, CNI_NETNS="dummy", CNI_IFNAME="dummy", CNI_CONTAINERID="")
    document = json.loads(done.stdout)
    assert done.returncode == 0
    assert tuple(document["supportedVersions"]) == VERSIONS
    assert document["cniVersion"] == ("0.3.1" if b"0.3.1" in stdin else "1.1.0")


def test_version_does_not_wait_for_an_open_stdin(shim: str) -> None:
    reader, writer = os.pipe()
    try:
        done = subprocess.run([shim], stdin=reader, capture_output=True, env={"CNI_COMMAND": "VERSION"}, timeout=5, check=False)
    finally:
        os.close(reader)
        os.close(writer)
    assert b"supportedVersions" in done.stdout


def test_the_agent_gets_environment_and_configuration_and_decides(
    shim: str, agent: Callable[[Reply], Agent], tmp_path: Path
) -> None:
    served = agent(answer(b'{"code": 7}', 1))
    stdin = conf(tmp_path, deep=[[{"a": "\ud83d\ude00"}]], number=-1.5e3)
    done = run(shim, "ADD", stdin, CNI_ARGS="A=b", CNI_NETNS="/n", TRACEPARENT="00-1")
    assert (done.returncode, done.stdout) == (1, b'{"code": 7}')
    env, raw = split_body(served.bodies[0])
    assert raw == stdin
    assert (env.pop("TRACEPARENT"), env.pop("CNI_NETNS"), env.pop("CNI_ARGS")) == ("00-1", "/n", "A=b")
    assert env == {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0"}


def test_a_slow_agent_is_waited_for(shim: str, agent: Callable[[Reply], Agent], tmp_path: Path) -> None:
    def slowly(peer: socket.socket, body: bytes) -> None:
        time.sleep(1.05)
        answer(b"{}")(peer, body)

    agent(slowly)
    done = run(shim, "ADD", conf(tmp_path))
    assert (done.returncode, done.stdout) == (0, b"{}")


@pytest.mark.parametrize(("command", "code"), [("ADD", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)])
def test_without_an_agent_the_runtime_is_told_to_come_back(shim: str, tmp_path: Path, command: str, code: int) -> None:
    start = time.monotonic()
    done = run(shim, command, conf(tmp_path))
    assert time.monotonic() - start < 1
    document = json.loads(done.stdout)
    assert (done.returncode, document["code"], document["cniVersion"]) == (1, code, "0.4.0")
    assert str(tmp_path) in document["msg"]


def test_without_an_agent_a_deletion_is_kept(shim: str, tmp_path: Path) -> None:
    for _ in range(2):
        done = run(shim, "DEL", conf(tmp_path))
        assert (done.returncode, done.stdout) == (0, b"")
    run(shim, "DEL", conf(tmp_path), CNI_IFNAME="eth1")
    directory = tmp_path / "a" / "spool"
    expected = {record_name(Identity("net", "c1", ifname)) for ifname in ("eth0", "eth1")}
    assert {path.name for path in directory.iterdir()} == expected
    request = parse((directory / record_name(Identity("net", "c1", "eth0"))).read_bytes())
    assert (request.command, request.container_id, request.config.name) == ("DEL", "c1", "net")


def test_a_record_is_synced_before_it_gets_its_name(shim: str, tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    trace = tmp_path / "trace"
    command = [strace, "-o", str(trace), "-e", "trace=fsync,rename,renameat,renameat2", shim]
    # The leak check of the sanitized build does not work under a tracer.
    env = {"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "ASAN_OPTIONS": "detect_leaks=0"}
    subprocess.run(command, input=conf(tmp_path), env=env, check=True, timeout=20)
    calls = [line.split("(")[0] for line in trace.read_text().splitlines() if "(" in line]
    assert [name[:6] for name in calls] == ["fsync", "rename", "fsync"]


def test_a_deletion_that_cannot_be_kept_fails(shim: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run(shim, "DEL", conf(tmp_path, spoolDir=str(tmp_path / "file" / "spool")))
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 11)


MAD = {
    "silence": b"",
    "noise": b"\x00\xff" * 50,
    "no verdict": b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 2\r\n\r\nno",
    "bad verdict": b"HTTP/1.1 200 OK\r\nx-fairway-exit: 7\r\n\r\n{}",
    "half a body": b"HTTP/1.1 200 OK\r\nx-fairway-exit: 0\r\ncontent-length: 99\r\n\r\n{}",
    "half a head": b"HTTP/1.1 200 OK\r\nx-fairway-exit: 0\r\n",
    "chunks": b"HTTP/1.1 200 OK\r\nx-fairway-exit: 0\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("words", MAD)
def test_an_answer_that_is_none_counts_as_no_agent(
    shim: str, agent: Callable[[Reply], Agent], tmp_path: Path, words: str
) -> None:
    agent(lambda peer, _body: peer.sendall(MAD[words]))
    done = run(shim, "ADD", conf(tmp_path))
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 11)
    assert run(shim, "DEL", conf(tmp_path)).returncode == 0
    assert len(list((tmp_path / "a" / "spool").iterdir())) == 1


def test_a_stuck_agent_does_not_block_status(shim: str, agent: Callable[[Reply], Agent], tmp_path: Path) -> None:
    release = threading.Event()
    agent(lambda _peer, _body: (release.wait(10), None)[1])
    start = time.monotonic()
    done = run(shim, "STATUS", conf(tmp_path))
    assert time.monotonic() - start < 2
    assert json.loads(done.stdout)["code"] == 50
    release.set()


BROKEN = (
    *(b"", b"{", b"[]", b'{"a":}', b'{"a":1,}', b'{"a":01}', b'{"a":"\x01"}', b'{"a":"\\x"}', b'{"a":"\\ud800"}'),
    *(b'{"a":tru}', b'{"a":1} x', b'{"a":-}', b'{"a":1.}', b'{"a":1e}', b'{"agentSocket":""}'),
    *(b'{"a":' * 200, b'{"a":' + b"[" * 100_000),
    *(b'{"a":"' + raw + b'"}' for raw in (b"\x80", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\xf0\x9f")),
)


@pytest.mark.parametrize("stdin", BROKEN, ids=range(len(BROKEN)))
def test_broken_json_is_code_6(shim: str, stdin: bytes) -> None:
    done = run(shim, "ADD", stdin)
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 6)


def test_keys_and_escapes_are_read_as_json_has_them(shim: str, agent: Callable[[Reply], Agent], tmp_path: Path) -> None:
    agent(answer(b"{}"))
    path = "".join(f"\\u{ord(c):04x}" for c in str(tmp_path / "agent.sock"))
    text = b'"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80"'
    nested = b'{"text":' + text + b',"inner":{"agentSocket":"/nowhere"},"list":["agentSocket",{"agentSocket":"/no"}],'
    assert run(shim, "ADD", nested + f'"AGENTSOCKET" : "{path}"}}'.encode()).returncode == 0


@pytest.mark.parametrize(("command", "code"), [(None, 4), ("", 4), ("PATCH", 4)])
def test_a_missing_or_unknown_command_is_code_4(shim: str, command: str | None, code: int) -> None:
    done = run(shim, command, b"{}")
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, code)


def test_input_is_bounded(shim: str, tmp_path: Path) -> None:
    done = run(shim, "ADD", conf(tmp_path, pad="x" * (1 << 20)))
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 5)
    long = run(shim, "ADD", conf(tmp_path, agentSocket="/" + "x" * 200))
    assert json.loads(long.stdout)["code"] == 7
