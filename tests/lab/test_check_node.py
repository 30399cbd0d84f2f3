"""`fairway check` on a node that is right, and on nodes where something is missing: each fault is found and has a remedy."""

from __future__ import annotations

import json
import resource
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lab.system import kill_agent, on_node, topology

from fairway_cli.nodecheck import FAIL, OK, Place, ask, plugin, settings, tracking
from fairway_cni.install import NetworkSettings, install
from fairway_core.errors import KernelError
from fairway_kernel import netns, probe
from fairway_kernel.nft.objects import Chain, Layout
from fairway_netlab.lab import Lab

pytestmark = pytest.mark.needs_root

FAIRWAY = [sys.executable, "-m", "fairway_cli.main"]
BUDGET_SECONDS = 2.0


def check(lab: Lab, root: Path, *prefix: str) -> tuple[int, dict[str, dict[str, str]]]:
    """Exit code and the last finding of each subject."""
    command = [*prefix, *FAIRWAY, "check", "-o", "json", "--config", str(lab.node().config_file), "--root", str(root)]
    done = lab.exec(lab.node().name, command)
    findings = json.loads(done.stdout)["checks"]
    assert all(bool(finding["remedy"]) == (finding["state"] != OK) for finding in findings)
    return done.returncode, {finding["subject"]: finding for finding in findings}


def test_a_right_node_then_one_fault_after_the_other(lab: Callable[[dict[str, Any]], Lab], tmp_path: Path) -> None:
    one = lab(topology())
    on_node(one, *FAIRWAY, "install", "--config", str(one.node().config_file), "--root", str(tmp_path))
    links = on_node(one, "ip", "-br", "link")
    began = _cpu_seconds()
    code, found = check(one, tmp_path)
    # Processor time: what a busy machine does meanwhile is not the command's fault. It waits for nothing but answers.
    took = _cpu_seconds() - began
    assert (code, [item for item in found.values() if item["state"] == FAIL]) == (0, [])
    assert took < BUDGET_SECONDS
    assert on_node(one, "ip", "-br", "link") == links
    text = one.exec("n1", [*FAIRWAY, "check", "--config", str(one.node().config_file), "--root", str(tmp_path)])
    assert text.returncode == 0
    assert "none failed" in text.stdout

    before = tmp_path / "etc/cni/net.d/00-other.conf"
    before.write_text("{}")
    code, found = check(one, tmp_path)
    assert code == 1
    assert "00-other.conf comes before" in found["network list"]["found"]
    before.unlink()

    code, found = check(one, tmp_path, "setpriv", "--bounding-set=-all", "--inh-caps=-all")
    assert code == 1
    assert found["privileges"]["state"] == found["kernel features"]["state"] == FAIL
    assert "CAP_NET_ADMIN" in found["privileges"]["found"]

    kill_agent(one)
    code, found = check(one, tmp_path)
    assert (code, found["agent"]["state"], found["dns"]["state"]) == (1, FAIL, OK)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_every_feature_works_here_and_a_missing_one_is_told() -> None:
    assert [trial for trial in probe.try_nft() if trial.error] == []
    assert [trial for trial in (*probe.try_links(), probe.try_conntrack(), probe.try_library()) if trial.error] == []
    odd = Layout((), (Chain("probe", ("xyzzy",), "type filter hook forward priority 0; policy accept;"),))
    assert [bool(trial.error) for trial in probe.try_nft({"odd": odd, **probe.FEATURES})][:2] == [True, False]


def test_a_scratch_namespace_leaves_nothing() -> None:
    named = set(netns.NAMED.iterdir()) if netns.NAMED.exists() else set()
    with netns.scratch() as path:
        assert netns.identity(path) != netns.identity(netns.OWN)
        assert netns.run_in(path, lambda: socket.if_nameindex()) == [(1, "lo")]
    assert (set(netns.NAMED.iterdir()) if netns.NAMED.exists() else set()) <= named | set(netns.NAMED.glob("fw*"))
    with pytest.raises(KernelError):
        netns.identity(path)


def test_settings_are_those_of_the_namespace(namespace: str) -> None:
    from fairway_agent.config import Config

    found = {item.found: item.state for item in netns.run_in(namespace, lambda: list(settings(Config())))}
    assert "net.ipv4.ip_forward = 0" in found or "net.ipv4.ip_forward = 1" in found
    assert FAIL not in found.values()
    assert [item.state for item in netns.run_in(namespace, lambda: list(tracking()))] == [OK]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    from fairway_agent.config import Config
    from fairway_cli.client import Client

    config = Config(runDir=str(tmp_path / "run"))
    install("/bin", "/net.d", NetworkSettings(socket=str(config.paths.socket)), str(tmp_path))
    (tmp_path / "bin/loopback").touch()
    return Place(config, str(tmp_path), "/bin", "/net.d", Client("/nowhere"))


def states(place: Place) -> dict[str, str]:
    return {item.subject: item.state for item in plugin(place)}


def test_the_installed_plugin(place: Place, tmp_path: Path) -> None:
    assert set(states(place).values()) == {OK}
    listed, binary = tmp_path / "net.d/10-fairway.conflist", tmp_path / "bin/fairway"
    listed.write_text(listed.read_text().replace("agent.sock", "other.sock"))
    assert states(place)["network list"] == FAIL
    for text in ("{", "[]", '{"plugins": []}', '{"plugins": [1]}'):
        listed.write_text(text)
        assert states(place)["network list"] == FAIL
    listed.unlink()
    assert states(place) == {"plugin": OK, "loopback plugin": OK, "network list": FAIL}
    for text in ("", "#!/bin/sh\nexit 1\n", "#!/bin/sh\necho '{\"supportedVersions\": []}'\n"):
        binary.write_text(text)
        assert states(place)["plugin"] == FAIL
    binary.unlink()
    (tmp_path / "bin/loopback").unlink()
    assert states(place) == {"plugin": FAIL, "loopback plugin": "warn", "network list": FAIL}


@pytest.fixture
def server() -> Iterator[tuple[socket.socket, int]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(5)
        yield sock, sock.getsockname()[1]


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [(0x8403, ""), (0x8400, ""), (0x8180, "without authority"), (0x8405, "error 5"), (None, "something else")],
)
def test_what_a_dns_server_answers(server: tuple[socket.socket, int], flags: int | None, wanted: str) -> None:
    sock, port = server

    def answer() -> None:
        query, peer = sock.recvfrom(512)
        sock.sendto(b"?" if flags is None else query[:2] + struct.pack(">H", flags) + query[4:], peer)

    thread = threading.Thread(target=answer)
    thread.start()
    fault = ask("127.0.0.1", port, "a.cluster.local")
    thread.join()
    assert (wanted in fault) if wanted else fault == ""


def test_a_dns_address_where_nobody_listens(server: tuple[socket.socket, int]) -> None:
    sock, port = server
    assert "no answer" in ask("127.0.0.1", port, "a.cluster.local")
    sock.close()
    assert ask("127.0.0.1", port, "a.cluster.local") == "Connection refused"


def test_an_address_of_another_machine_is_not_asked() -> None:
    assert ask("192.0.2.1", 53, "a.cluster.local") == "this node has no such address"


def test_the_command_needs_no_agent_and_says_so() -> None:
    done = subprocess.run([*FAIRWAY, "check", "--agent", "/nowhere", "-o", "yaml"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "no agent at /nowhere" in done.stdout
