"""Installation on a node, in a directory of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from fairway_cni.install import NetworkSettings, conflist, install, uninstall
from fairway_cni.protocol import parse
from fairway_core.errors import UserError

README = Path(__file__).parents[2] / "cni" / "README.md"
BIN, CONF = "/opt/cni/bin", "/etc/cni/net.d"


def place(root: Path, settings: NetworkSettings | None = None) -> list[str]:
    return install(BIN, CONF, settings or NetworkSettings(), str(root))


def test_install_and_uninstall(tmp_path: Path) -> None:
    lines = place(tmp_path)
    binary, listed = tmp_path / "opt/cni/bin/fairway", tmp_path / "etc/cni/net.d/10-fairway.conflist"
    assert [str(binary) in lines[0], str(listed) in lines[1]] == [True, True]
    done = subprocess.run([binary], env={"CNI_COMMAND": "VERSION"}, input=b"", capture_output=True, check=True)
    assert b"1.1.0" in done.stdout
    assert json.loads(listed.read_text()) == conflist(NetworkSettings())
    assert all(line.endswith("unchanged") for line in place(tmp_path))
    uninstall(BIN, CONF, str(tmp_path))
    assert list((tmp_path / "opt/cni/bin").iterdir()) == list((tmp_path / "etc/cni/net.d").iterdir()) == []
    assert all(line.endswith("not there") for line in uninstall(BIN, CONF, str(tmp_path)))


def test_what_stood_there_comes_back(tmp_path: Path) -> None:
    binary, listed = tmp_path / "opt/cni/bin/fairway", tmp_path / "etc/cni/net.d/10-fairway.conflist"
    for path, text in ((binary, "#!/bin/sh\n"), (listed, '{"plugins": [{"type": "bridge"}]}')):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    place(tmp_path)
    place(tmp_path, NetworkSettings(mode="routed", mtu=1400))
    assert json.loads(listed.read_text())["plugins"][0]["mtu"] == 1400
    uninstall(BIN, CONF, str(tmp_path))
    assert (binary.read_text(), listed.read_text()) == ("#!/bin/sh\n", '{"plugins": [{"type": "bridge"}]}')
    assert all("left alone" in line for line in uninstall(BIN, CONF, str(tmp_path)))


def test_a_running_shim_can_be_replaced(tmp_path: Path) -> None:
    place(tmp_path)
    binary = tmp_path / "opt/cni/bin/fairway"
    reader, writer = os.pipe()
    with subprocess.Popen([binary], env={"CNI_COMMAND": "DEL"}, stdin=reader, stdout=subprocess.DEVNULL) as running:
        binary.chmod(0o700)
        assert "replaced" in place(tmp_path)[0]
        assert binary.stat().st_mode & 0o777 == 0o755
        os.close(writer)
        running.wait(5)
    os.close(reader)


def test_a_place_that_cannot_be_written_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "opt").write_text("a file")
    with pytest.raises(UserError, match="cannot install"):
        place(tmp_path)


def test_the_documented_configuration_is_the_installed_one_and_every_key_is_understood() -> None:
    blocks = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", README.read_text(), re.DOTALL)]
    assert blocks[0] == conflist(NetworkSettings())
    plugin = {"cniVersion": "1.1.0", "name": "fairway", **blocks[1]}
    body = b"CNI_COMMAND=ADD\0CNI_CONTAINERID=c\0CNI_IFNAME=eth0\0CNI_NETNS=/n\0\0" + json.dumps(plugin).encode()
    wanted = parse(body).config.wanted
    assert wanted is not None
    assert wanted.mode == "routed"
    assert wanted.mtu == 1450
    assert wanted.ips == ("10.244.0.77",)
    assert wanted.labels == {"app": "web"}
    assert wanted.aliases == ("db",)
    assert [(port.host_port, port.host_ip) for port in wanted.host_ports] == [(8080, ""), (53, "192.0.2.1")]
    assert (wanted.bandwidth.ingress_rate, wanted.ranges[0].high - wanted.ranges[0].low) == (50_000_000, 9)
    assert (wanted.routes, wanted.masquerade, len(wanted.sysctls)) == (("198.51.100.0/24",), True, 2)
    only = {key: value for key, value in plugin.items() if key != "runtimeConfig"}
    fallback = parse(body.partition(b"\0\0")[0] + b"\0\0" + json.dumps(only).encode()).config.wanted
    assert fallback is not None
    assert (fallback.bandwidth.egress_rate, [str(spec.holes[0][0] - spec.low) for spec in fallback.ranges]) == (10**8, ["36"])
    described = set(re.findall(r"^\| `([a-zA-Z.]+)`", README.read_text(), re.MULTILINE))
    used = {*blocks[0]["plugins"][0], *(key for key in blocks[1] if key not in ("args", "runtimeConfig"))}
    assert used <= described
