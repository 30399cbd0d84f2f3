"""The connectivity matrix: what counts as expected, how it is shown. The helpers here are sockets that answer from a list."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fairway_core.errors import UserError
from fairway_netlab.matrix import Matrix, render
from fairway_netlab.plan import LabPlan, StationPlan, plan_lab
from fairway_netlab.probe import Outcome, Target, probe_all
from fairway_netlab.processes import LabError
from fairway_netlab.topology import topology_from


class FakeLab:
    """A laboratory of one container and one host; the container's helper answers `rounds`, one after the other."""

    def __init__(self, root: Path, rounds: list[list[Outcome]]) -> None:
        spec = {"name": "x", "nodes": [{"name": "n"}], "containers": [{"name": "a"}], "hosts": [{"name": "h"}]}
        self._plan: LabPlan = plan_lab(topology_from({**spec, "links": [{"nodes": ["n"], "hosts": ["h"]}]}), root)
        self.asked: list[dict[str, object]] = []
        control = self._plan.station("a").control
        control.parent.mkdir(parents=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(control))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, args=(rounds,), daemon=True)
        self._thread.start()

    def _serve(self, rounds: list[list[Outcome]]) -> None:
        for outcomes in rounds:
            connection, _ = self._listener.accept()
            with connection, connection.makefile("rb") as stream:
                self.asked.append(json.loads(stream.readline()))
                answer = [{"state": item.state, "name": item.name, "seen": "", "ms": 1.0} for item in outcomes]
                connection.sendall(json.dumps(answer).encode() + b"\n")
        self._listener.close()

    def station(self, name: str) -> StationPlan:
        return self._plan.station(name)

    def addresses(self, name: str) -> tuple[str, ...]:
        return self._plan.addresses.get(self.station(name).name, ("10.244.0.2",))


OPEN, REFUSED = Outcome("open", "h"), Outcome("refused")


@pytest.fixture
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("m")


def test_a_matrix_asks_for_every_address_of_a_destination(root: Path) -> None:
    lab = FakeLab(root, [[OPEN, OPEN, OPEN]])
    Matrix(lab).expect_some("a", "h", 80).expect_some("a", "web.shop", 53, "UDP").check()
    assert lab.asked[0]["targets"] == [
        {"host": "192.168.100.2", "port": 80, "protocol": "TCP", "family": 4},
        {"host": "fd00:1ab::2", "port": 80, "protocol": "TCP", "family": 6},
        {"host": "web.shop", "port": 53, "protocol": "UDP", "family": 0},
    ]


def test_check_goes_on_until_one_round_has_all(root: Path) -> None:
    lab = FakeLab(root, [[OPEN, OPEN], [REFUSED, REFUSED], [OPEN, REFUSED]])
    found = Matrix(lab).expect_some("a", "h", 80, family=4).expect_none("a", "h", 81, family=4).check()
    assert [outcome.state for _, outcome in found] == ["open", "refused"]
    assert len(lab.asked) == 3


def test_what_does_not_settle_is_shown(root: Path) -> None:
    lab = FakeLab(root, [[OPEN, REFUSED]] * 3)
    matrix = Matrix(lab).expect_none("a", "h", 80, family=4).expect_some("a", "192.0.2.1", 81)
    with pytest.raises(AssertionError) as caught:
        matrix.check(timeout=0)
    assert str(caught.value).splitlines() == [
        "connectivity is not as expected after 0 s",
        "from \\ to  h:80 v4                192.0.2.1:81",
        "a          ! open, expected none  ! refused, expected some",
    ]


def test_who_answers_matters_only_if_said(root: Path) -> None:
    lab = FakeLab(root, [[Outcome("open", "web-2")]] * 2)
    Matrix(lab).expect_some("a", "10.96.0.1", 80, answered_by=["web-1", "web-2"]).check(timeout=0)
    with pytest.raises(AssertionError, match=r"! open web-2, expected web-1"):
        Matrix(lab).expect_some("a", "10.96.0.1", 80, answered_by=["web-1"]).check(timeout=0)


def test_unknown_sources_and_families_are_refused(root: Path) -> None:
    lab = FakeLab(root, [])
    with pytest.raises(UserError, match="no container 'b'"):
        Matrix(lab).expect_some("b", "a", 80)
    with pytest.raises(UserError, match="no address of the family"):
        Matrix(lab).expect_some("a", "a", 80, family=6)


def test_a_table_without_judgement(root: Path) -> None:
    lab = FakeLab(root, [[REFUSED]])
    found = Matrix(lab).expect_some("a", "h", 80, family=4).probe()
    assert render(found, judge=False).splitlines()[1].split() == ["a", "refused"]


def test_a_helper_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="does not answer"):
        probe_all({tmp_path / "none.sock": [Target("127.0.0.1", 80)]}, 0.1)
