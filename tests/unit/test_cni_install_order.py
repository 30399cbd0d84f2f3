"""Installation as seen by who reads the directories all the while, and where host directories are mounts of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fairway_cni.install import CONFLIST, NetworkSettings, install, network_lists

BIN, CONF = "/opt/cni/bin", "/etc/cni/net.d"


def test_the_list_comes_last_and_nothing_is_ever_seen_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each rename, which alone makes a file visible: what is there, and is it whole."""
    binary, listed = tmp_path / "opt/cni/bin/fairway", tmp_path / "etc/cni/net.d" / CONFLIST
    seen: list[tuple[str, bool, bool]] = []
    replace = Path.replace

    def watched(self: Path, target: Path) -> Path:
        seen.append((target.name, binary.exists(), listed.exists()))
        assert self.parent == target.parent, "a rename within one file system"
        assert network_lists(listed.parent) == [], "a runtime takes no draft for a list"
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    install(BIN, CONF, NetworkSettings(), str(tmp_path))
    assert seen == [("fairway", False, False), (CONFLIST, True, False)]
    assert os.access(binary, os.X_OK)
    assert json.loads(listed.read_text())["name"] == "fairway"


@pytest.mark.needs_root
def test_host_directories_that_are_mounts_of_their_own(tmp_path: Path) -> None:
    """As in a pod with two hostPath volumes: each directory is another file system, and nothing else of the host is there."""
    host = tmp_path / "host"
    for directory in (BIN, CONF):
        (host / directory[1:]).mkdir(parents=True)
    config = tmp_path / "fairway.yaml"
    config.write_text("runDir: /run/elsewhere\n")
    program = [sys.executable, "-m", "fairway_cli.main"]
    script = """
    for place in opt/cni/bin etc/cni/net.d; do mount -t tmpfs -o size=8m test "$0/$place"; done
    echo '{"name": "kubenet"}' > "$0/etc/cni/net.d/05-other.conf"
    "$@" install --root "$0" --config "$CONFIG" >&2 || exit 1
    ls "$0/opt/cni/bin" "$0/etc/cni/net.d"; grep agentSocket "$0/etc/cni/net.d/10-fairway.conflist"
    "$@" uninstall --root "$0" >&2 || exit 1
    ls "$0/opt/cni/bin" "$0/etc/cni/net.d"
    """
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, str(host), *program],
        env={**os.environ, "CONFIG": str(config)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done
    lines = done.stdout.split()
    cut = lines.index('"agentSocket":')
    assert {"fairway", "10-fairway.conflist", "05-other.conf.fairway-saved"} <= set(lines[:cut])
    assert lines[cut + 1] == '"/run/elsewhere/agent.sock",'
    assert [name for name in lines[cut + 2 :] if not name.endswith(":")] == ["05-other.conf"]
