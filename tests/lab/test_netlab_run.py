"""Laboratories are built, used and removed; whatever happens in between, nothing is left. No agents here: hosts on a link."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from fairway_core.errors import ConflictError, NotFoundError
from fairway_kernel import netns
from fairway_netlab.lab import Lab, attached_lab, up
from fairway_netlab.matrix import Matrix
from fairway_netlab.plan import NETNS_DIR
from fairway_netlab.probe import Target
from fairway_netlab.processes import LabError, pids_in
from fairway_netlab.run import down
from fairway_netlab.topology import topology_from

pytestmark = pytest.mark.needs_root

NAME = f"t{os.getpid()}"
SERVE = [{"port": 8080}, {"protocol": "UDP", "port": 5353}]


def hosts(count: int, **parts: Any) -> dict[str, Any]:
    names = [f"h{i}" for i in range(count)]
    return {"name": NAME, "hosts": [{"name": name, "serve": SERVE} for name in names], "links": [{"hosts": names}], **parts}


def namespaces() -> list[str]:
    return [path.name for path in NETNS_DIR.glob(f"fwlab-{NAME}.*")]


def wait_for(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def assert_nothing_left(root: Path) -> None:
    assert namespaces() == []
    assert not (root / NAME).exists()


@pytest.fixture
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    # Unix socket paths are short; pytest's per-test directories are not.
    path = tmp_path_factory.mktemp("l")
    yield path
    down(NAME, path)
    assert_nothing_left(path)


@pytest.fixture
def built(root: Path) -> Iterator[Lab]:
    lab = up(topology_from(hosts(2)), root)
    yield lab
    lab.down()


def fairway(*arguments: str, root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fairway_cli.main", "lab", *arguments]
    environment = {**os.environ, "FAIRWAY_LAB_DIR": str(root)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)


def test_probes_tell_open_refused_unreachable_timeout_and_no_name(built: Lab) -> None:
    address = built.address("h1")
    targets = [
        Target(address, 8080),
        Target(built.address("h1", 6), 8080),
        Target(address, 5353, "UDP"),
        Target(address, 81),
        Target(address, 81, "UDP"),
        Target("198.51.100.1", 80),
        Target("no-such-name.invalid", 80),
    ]
    outcomes = built.probe("h0", targets, timeout=2)
    assert [item.state for item in outcomes] == ["open"] * 3 + ["refused"] * 2 + ["unreachable", "no-name"]
    assert [item.name for item in outcomes[:3]] == ["h1"] * 3
    assert outcomes[0].seen == built.address("h0") and outcomes[1].seen == built.address("h0", 6)
    built.exec("h1", ["ip", "link", "set", "net0", "down"], check=True)
    began = time.monotonic()
    assert built.probe("h0", [Target(address, 8080)], timeout=0.2)[0].state == "timeout"
    assert time.monotonic() - began < 2


def test_a_server_echoes_after_its_greeting(built: Lab) -> None:
    script = f"exec 3<>/dev/tcp/{built.address('h1')}/8080; read -u 3 a; echo hi >&3; read -u 3 b; echo $a/$b"
    done = built.exec("h0", ["bash", "-c", script], check=True)
    assert done.stdout == f"h1 {built.address('h0')}/hi\n"


def test_a_matrix_of_six_by_six_takes_less_than_two_seconds(root: Path) -> None:
    lab = up(topology_from(hosts(6)), root)
    try:
        matrix = Matrix(lab)
        names = [station.name for station in lab.plan.stations]
        for source in names:
            for destination in names:
                matrix.expect_some(source, destination, 8080).expect_none(source, destination, 81)
        began = time.monotonic()
        found = matrix.check()
        assert time.monotonic() - began < 2
        assert len(found) == 6 * 6 * 2 * 2
    finally:
        lab.down()


def test_a_matrix_settles_when_the_network_does(built: Lab) -> None:
    built.exec("h1", ["ip", "link", "set", "net0", "down"], check=True)
    matrix = Matrix(built).expect_some("h0", "h1", 8080, family=4)
    with pytest.raises(AssertionError, match="! timeout, expected some"):
        matrix.check(timeout=0, probe_timeout=0.1)
    later = subprocess.Popen(built.command("h1", ["sh", "-c", "sleep 0.3; ip link set net0 up"]))
    matrix.check(timeout=10, probe_timeout=0.2)
    assert later.wait() == 0


def test_another_process_can_use_and_remove_it(root: Path, built: Lab) -> None:
    listed = fairway("list", root=root)
    assert f"{NAME}: nodes none\n  h0 outside: 192.168.100.1, fd00:1ab::1\n" in listed.stdout
    done = fairway("exec", NAME, "h0", "--", "sh", "-c", "ip -br addr show net0; exit 7", root=root)
    assert done.returncode == 7
    assert "192.168.100.1/24" in done.stdout
    probed = fairway("probe", NAME, "--port", "8080", root=root)
    rows = [line.split() for line in probed.stdout.splitlines()]
    assert rows[1:] == [["h0", "open", "open"], ["h1", "open", "open"]]
    assert fairway("down", NAME, root=root).returncode == 0
    assert_nothing_left(root)
    assert fairway("down", NAME, root=root).stdout == f"there was no laboratory {NAME}\n"
    gone = fairway("exec", NAME, "h0", "--", "true", root=root)
    assert (gone.returncode, gone.stderr) == (1, f"error: there is no laboratory {NAME} in {root}\n")


def test_removing_ends_every_process_inside(root: Path, built: Lab) -> None:
    stubborn = "trap '' TERM HUP INT; while :; do sleep 1; done"
    inside = subprocess.Popen(built.command("h0", ["sh", "-c", stubborn]), start_new_session=True)
    wait_for(lambda: inside.pid in pids_in(namespaces()))
    beside = subprocess.Popen(["sleep", "60"])
    built.down()
    assert inside.wait(5) == -signal.SIGKILL
    assert beside.poll() is None
    beside.kill()
    beside.wait()
    assert_nothing_left(root)
    built.down()


def test_a_process_whose_namespace_lost_its_name_is_ended_too(root: Path) -> None:
    one = up(topology_from(hosts(1)), root)
    try:
        (pid,) = pids_in([one.plan.stations[0].netns])
        netns.delete(one.plan.stations[0].netns)
    finally:
        one.down()
    assert not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()


def test_up_twice_is_refused_and_harms_nothing(root: Path, built: Lab) -> None:
    with pytest.raises(ConflictError, match=f"fairway lab down {NAME}"):
        up(topology_from(hosts(2)), root)
    Matrix(built).expect_some("h0", "h1", 8080).check()
    assert attached_lab(NAME, root).addresses("h0") == ("192.168.100.1", "fd00:1ab::1")
    with pytest.raises(NotFoundError):
        attached_lab("other", root)


def test_a_taken_namespace_is_refused_and_left_alone(root: Path) -> None:
    name = f"fwlab-{NAME}.h1"
    netns.create(name)
    try:
        with pytest.raises(ConflictError, match=name):
            up(topology_from(hosts(2)), root)
        assert namespaces() == [name]
        assert not (root / NAME).exists()
    finally:
        netns.delete(name)


def test_an_agent_that_does_not_start_fails_with_its_words_and_leaves_nothing(root: Path) -> None:
    topology = topology_from(hosts(1, nodes=[{"name": "n1", "config": {"node": {"podCIDRs": "nonsense"}}}]))
    with pytest.raises(LabError, match="the agent of n1 ended with"):
        up(topology, root)
    assert_nothing_left(root)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["Ctrl-C", "SIGTERM", "SIGKILL"])
def test_an_interrupted_up_leaves_nothing(root: Path, tmp_path: Path, number: signal.Signals) -> None:
    # A process in the place of the agent that never gets ready keeps `up` waiting until it is interrupted.
    stand_in = tmp_path / "fairway_cli"
    stand_in.mkdir()
    (stand_in / "__init__.py").touch()
    (stand_in / "main.py").write_text("import time\ntime.sleep(60)\n")
    program = (
        "import signal, sys; from pathlib import Path; from fairway_netlab.lab import up;"
        "from fairway_netlab.topology import topology_from; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143));"
        f"up(topology_from({hosts(2, nodes=[{'name': 'n1'}])!r}), Path(sys.argv[1]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    child = subprocess.Popen([sys.executable, "-c", program, str(root)], env=environment, stderr=subprocess.DEVNULL)
    agent = f"fwlab-{NAME}.n1"
    wait_for(lambda: (NETNS_DIR / agent).exists() and pids_in([agent]))
    child.send_signal(number)
    assert child.wait(20) != 0
    wait_for(lambda: not (root / NAME).exists())
    assert_nothing_left(root)


def test_a_killed_owner_takes_its_laboratory_with_it(root: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from fairway_netlab.lab import up;"
        "from fairway_netlab.topology import topology_from;"
        f"lab = up(topology_from({hosts(2)!r}), Path(sys.argv[1])); print('up', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(root)], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline() == b"up\n"
        assert len(namespaces()) == 3
        child.kill()
    wait_for(lambda: not (root / NAME).exists())
    assert_nothing_left(root)


def test_the_command_keeps_what_it_has_built(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(f"name: {NAME}\nhosts: [{{name: a}}, {{name: b, serve: [{{port: 80}}]}}]\nlinks: [{{hosts: [a, b]}}]\n")
    done = fairway("up", str(file), root=root)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(f"laboratory {NAME} is up\n")
    lab = attached_lab(NAME, root)
    Matrix(lab).expect_some("a", "b", 80).check()
    lab.down()
    assert_nothing_left(root)


def test_an_empty_directory_of_an_interrupted_claim_is_removed_and_a_strange_one_is_not(root: Path) -> None:
    (root / NAME).mkdir()
    assert down(NAME, root) is False
    assert not (root / NAME).exists()
    (root / NAME).mkdir()
    keepsake = root / NAME / "keepsake"
    keepsake.touch()
    assert down(NAME, root) is False
    assert keepsake.exists()
    with suppress(FileNotFoundError):
        keepsake.unlink()
    (root / NAME).rmdir()
