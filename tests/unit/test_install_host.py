"""Installation on hosts as they are: read-only paths, links, other people's network lists, a container with the host mounted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fairway_cni.install import NetworkSettings, inside, install, network_lists, uninstall
from fairway_core.errors import UserError

BIN, CONF = "/opt/cni/bin", "/etc/cni/net.d"


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def put(root: Path, name: str, content: str = "{}") -> Path:
    path = root / "etc/cni/net.d" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def test_ours_is_the_first_list_and_the_others_come_back(tmp_path: Path) -> None:
    early, late = put(tmp_path, "05-other.conflist", '{"name": "other"}'), put(tmp_path, "100-crio-bridge.conflist")
    put(tmp_path, "README", "no list")
    before = files(tmp_path)
    lines = install(BIN, CONF, NetworkSettings(), str(tmp_path))
    assert f"{early}: set aside as 05-other.conflist.fairway-saved, it would come before ours" in lines
    assert [path.name for path in network_lists(late.parent)] == ["10-fairway.conflist", late.name]
    assert all("unchanged" in line for line in install(BIN, CONF, NetworkSettings(), str(tmp_path)))
    assert f"{early}: back in place" in uninstall(BIN, CONF, str(tmp_path))
    assert files(tmp_path) == before
    assert json.loads(early.read_text()) == {"name": "other"}


def test_others_can_be_kept(tmp_path: Path) -> None:
    early = put(tmp_path, "05-other.conf")
    lines = install(BIN, CONF, NetworkSettings(), str(tmp_path), keep_others=True)
    assert [line for line in lines if line.startswith(f"{early}: left in place")]
    assert early.exists()


def test_one_that_was_written_anew_is_left_alone(tmp_path: Path) -> None:
    put(tmp_path, "05-other.conf", "old")
    install(BIN, CONF, NetworkSettings(), str(tmp_path))
    put(tmp_path, "05-other.conf", "new")
    assert any(
        "left alone, the one set aside stays 05-other.conf.fairway-saved" in i for i in uninstall(BIN, CONF, str(tmp_path))
    )
    assert put(tmp_path, "x").with_name("05-other.conf").read_text() == "new"


def test_absolute_links_stay_on_the_host(tmp_path: Path) -> None:
    """With the host mounted below /host, its links lead to places on the host, not in the container."""
    host = tmp_path / "host"
    (host / "opt").mkdir(parents=True)
    (host / "opt/cni").symlink_to("/var/lib/cni")
    (host / "var/lib/cni").mkdir(parents=True)
    (host / "etc/cni").mkdir(parents=True)
    (host / "etc/cni/net.d").symlink_to("../../var/net.d")
    install(BIN, CONF, NetworkSettings(), str(host))
    assert files(host) == {"var/lib/cni/bin/fairway", "var/net.d/10-fairway.conflist"}
    uninstall(BIN, CONF, str(host))
    assert files(host) == set()


def test_links_cannot_leave_the_root_nor_go_round_for_ever(tmp_path: Path) -> None:
    (tmp_path / "up").symlink_to("../../../../etc")
    assert inside(str(tmp_path), "/up/cni") == tmp_path / "etc/cni"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="too many symbolic links"):
        inside(str(tmp_path), "/loop/x")


def test_a_relative_directory_is_relative_to_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    install("bin", "net.d", NetworkSettings())
    assert files(tmp_path) == {"bin/fairway", "net.d/10-fairway.conflist"}


@pytest.mark.needs_root
@pytest.mark.parametrize("closed", ["opt", "etc"])
def test_a_read_only_path_changes_nothing_and_is_named(tmp_path: Path, closed: str) -> None:
    put(tmp_path, "05-other.conf")
    (tmp_path / "opt/cni/bin").mkdir(parents=True)
    before = files(tmp_path)
    script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    config = tmp_path / "fairway.yaml"
    config.write_text("")
    command = [sys.executable, "-m", "fairway_cli.main", "install", "--root", str(tmp_path), "--config", str(config)]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, str(tmp_path / closed), *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Read-only file system" in done.stderr
    assert "--bin-dir and --conf-dir" in done.stderr
    assert str(tmp_path / closed) in done.stderr
    assert files(tmp_path) - {"fairway.yaml"} == before
