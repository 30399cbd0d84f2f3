"""CNI specification 1.1.0, sections 1, 2 and 5: versions, results, errors, environment. Each test is named for its clause.

The calls go through the executable to a real agent, from namespace to namespace.
"""

from __future__ import annotations

import ipaddress
import json
import re
import subprocess
from typing import Any

import pytest
from tests.lab.caller import Container, NewContainer

from fairway_cni.protocol import VERSIONS
from fairway_netlab.lab import Lab

pytestmark = pytest.mark.needs_root

MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


# Section 5, "Success": the shape of each version


@pytest.mark.parametrize("version", VERSIONS)
def test_5_success_has_the_shape_of_the_version_asked_for(container: NewContainer, version: str) -> None:
    one = container()
    result = one.call("ADD", {"cniVersion": version}).result
    assert result["cniVersion"] == version
    if version < "0.3":
        assert set(result) == {"cniVersion", "ip4", "ip6", "dns"}
        for family in (4, 6):
            check_old_ip(result[f"ip{family}"], family)
    else:
        assert set(result) == {"cniVersion", "interfaces", "ips", "routes", "dns"}
        check_interfaces(result["interfaces"], one, version)
        check_ips(result["ips"], result["interfaces"], version)
        assert sorted(route["dst"] for route in result["routes"]) == ["0.0.0.0/0", "::/0"]
    check_dns(result["dns"])


def check_old_ip(entry: dict[str, Any], family: int) -> None:
    """0.1.0 and 0.2.0: `ip` in CIDR form, `gateway`, `routes` with `dst` and optionally `gw`."""
    assert set(entry) == {"ip", "gateway", "routes"}
    assert ipaddress.ip_interface(entry["ip"]).version == ipaddress.ip_address(entry["gateway"]).version == family
    for route in entry["routes"]:
        assert set(route) <= {"dst", "gw"}
        assert ipaddress.ip_network(route["dst"]).version == family


def check_interfaces(interfaces: list[dict[str, Any]], one: Container, version: str) -> None:
    """`name` always, `mac` if there is one, `sandbox` empty or absent on the node; `mtu` only from 1.1.0 on."""
    for item in interfaces:
        assert set(item) <= {"name", "mac", "sandbox"} | ({"mtu"} if version == "1.1.0" else set())
        assert item["name"]
        assert "mac" not in item or MAC.fullmatch(item["mac"])
    (inside,) = [item for item in interfaces if item.get("sandbox")]
    assert (inside["name"], inside["sandbox"]) == (one.ifname, one.netns), "CNI_NETNS letter for letter"
    assert inside["mac"] in link(one)
    if version == "1.1.0":
        assert f"mtu {inside['mtu']} " in link(one)


def check_ips(ips: list[dict[str, Any]], interfaces: list[dict[str, Any]], version: str) -> None:
    """`address` in CIDR form, `gateway`, `interface` an index to the container's; `version` only before 1.0.0."""
    for item in ips:
        address = ipaddress.ip_interface(item["address"])
        assert ipaddress.ip_address(item["gateway"]).version == address.version
        assert interfaces[item["interface"]].get("sandbox")
        assert item.get("version") == (str(address.version) if version.startswith("0.") else None)
        assert set(item) <= {"address", "gateway", "interface", "version"}


def check_dns(dns: dict[str, Any]) -> None:
    assert set(dns) <= {"nameservers", "domain", "search", "options"}
    assert dns["nameservers"] == ["169.254.20.10"]


def link(one: Container) -> str:
    return inside(one, "ip", "-o", "link", "show", one.ifname)


def inside(one: Container, *command: str) -> str:
    """Output of a command in the container's namespace, empty if it fails."""
    return subprocess.run(
        ["nsenter", f"--net={one.netns}", *command], capture_output=True, text=True, timeout=10, check=False
    ).stdout


# Section 2, VERSION


@pytest.mark.parametrize("stdin", [b"", b"{", b"\xff\0", b'{"cniVersion":"9.9.9"}', b'{"cniVersion": 7}', b"[]"])
def test_2_version_needs_neither_agent_nor_sense(container: NewContainer, stdin: bytes) -> None:
    """podman asks with an empty id and dummies before every other call."""
    one = container()
    reply = one.send("VERSION", stdin, CNI_CONTAINERID="", CNI_NETNS="dummy", CNI_IFNAME="dummy", CNI_PATH="dummy")
    assert reply.result["supportedVersions"] == list(VERSIONS)
    assert reply.result["cniVersion"] in VERSIONS


@pytest.mark.parametrize("version", VERSIONS)
def test_2_version_answers_in_the_version_of_the_input(container: NewContainer, version: str) -> None:
    reply = container().send("VERSION", json.dumps({"cniVersion": version, "agentSocket": "/nowhere"}).encode())
    assert set(reply.result) == {"cniVersion", "supportedVersions"}
    assert reply.result["cniVersion"] == version


# Section 2, "Parameters"


@pytest.mark.parametrize("name", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"])
@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_2_parameters_that_are_missing_are_code_4_and_named(container: NewContainer, command: str, name: str) -> None:
    for value in (None, ""):
        reply = container().call(command, {"prevResult": {}}, **{name: value})
        assert (reply.code, name in reply.words) == (4, True), reply


def test_2_parameters_of_del_are_id_and_interface(container: NewContainer) -> None:
    for name in ("CNI_CONTAINERID", "CNI_IFNAME"):
        assert container().call("DEL", **{name: None}).code == 4
    assert container().call("DEL", CNI_NETNS=None, CNI_PATH=None, CNI_ARGS=None).code == 0


@pytest.mark.parametrize("command", ["GC", "STATUS"])
def test_2_parameters_of_gc_and_status_are_none(container: NewContainer, command: str) -> None:
    conf = {"name": "empty", "cni.dev/valid-attachments": []}
    assert container().call(command, conf, CNI_CONTAINERID=None, CNI_NETNS=None, CNI_IFNAME=None).code == 0


@pytest.mark.parametrize("command", [None, "", "add", "DELETE", "ADD "])
def test_2_cni_command_unknown_or_absent_is_code_4(container: NewContainer, command: str | None) -> None:
    reply = container().call("ADD", CNI_COMMAND=command)
    assert (reply.code, "CNI_COMMAND" in reply.words) == (4, True)


@pytest.mark.parametrize("container_id", ["-a", ".a", "a/b", "a b", "ä", "a\n"])
def test_2_cni_containerid_must_start_alphanumeric(container: NewContainer, container_id: str) -> None:
    reply = container().call("ADD", CNI_CONTAINERID=container_id)
    assert (reply.code, "CNI_CONTAINERID" in reply.words) == (4, True)


@pytest.mark.parametrize("ifname", [".", "..", "a/b", "a:b", "a b", "sixteen-letters!", "ä"])
def test_2_cni_ifname_must_be_a_name_of_an_interface(container: NewContainer, ifname: str) -> None:
    reply = container().call("ADD", CNI_IFNAME=ifname)
    assert (reply.code, "CNI_IFNAME" in reply.words) == (4, True)


def test_2_cni_args_unknown_key_is_refused_unless_ignored(container: NewContainer) -> None:
    one = container()
    assert (one.call("ADD", CNI_ARGS="WHO=me").code, one.call("ADD", CNI_ARGS="bare").code) == (4, 4)
    assert one.call("ADD", CNI_ARGS="WHO=me;IgnoreUnknown=1;K8S_POD_INFRA_CONTAINER_ID=x").code == 0


def test_2_parallel_interfaces_of_one_container_are_attachments_of_their_own(container: NewContainer) -> None:
    """Key: network, container id, interface."""
    one = container()
    first, second = one.call("ADD").result, one.call("ADD", CNI_IFNAME="eth1").result
    assert first["ips"][0]["address"] != second["ips"][0]["address"]
    assert one.call("DEL", CNI_IFNAME="eth1").code == 0
    assert one.call("CHECK", {"prevResult": first}).code == 0


# Section 5, "Error"


def test_5_error_is_json_on_stdout_with_a_failing_exit(container: NewContainer) -> None:
    reply = container().call("ADD", {"cniVersion": "0.4.0", "mode": "sideways"})
    assert (reply.exit, reply.code, (reply.document or {})["cniVersion"]) == (1, 7, "0.4.0")
    assert "mode" in reply.words


@pytest.mark.parametrize(
    ("code", "conf", "env", "words"),
    [
        (1, {"cniVersion": "2.0.0"}, {}, "2.0.0"),
        (1, {"cniVersion": "1.1"}, {}, "1.1.0"),
        (2, {"runtimeConfig": {"portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": "dccp"}]}}, {}, "dccp"),
        (2, {"routes": [{"dst": "192.0.2.0/24", "gw": "192.0.2.1"}]}, {}, "routes.gw"),
        (2, {"sysctl": {"kernel.core_pattern": "|/bin/sh"}}, {}, "kernel.core_pattern"),
        (2, {"vlan": 5, "promiscMode": False}, {}, "vlan"),
        (2, {"Bridge": "br0"}, {}, "bridge"),
        (4, {}, {"CNI_NETNS": "/run/netns/there-is-none"}, "CNI_NETNS"),
        (4, {}, {"CNI_NETNS": "/etc/hostname"}, "CNI_NETNS"),
        (4, {}, {"CNI_ARGS": "IP=10.244.0.999"}, "IP"),
        (7, {"name": None}, {}, "name"),
        (7, {"name": ""}, {}, "name"),
        (7, {"name": "../x"}, {}, "name"),
        (7, {"mtu": "1500"}, {}, "mtu"),
        (7, {"mtu": 68}, {}, "mtu"),
        (7, {"prevResult": []}, {}, "prevResult"),
        (7, {"runtimeConfig": {"mac": "ff:ff:ff:ff:ff:ff"}}, {}, "runtimeConfig.mac"),
        (7, {"ipam": {"ranges": [[{"subnet": "10.0.0.0/8", "rangeStart": "192.0.2.1"}]]}}, {}, "ipam.ranges"),
        (7, {"runtimeConfig": {"bandwidth": {"ingressRate": -1}}}, {}, "ingressRate"),
        (104, {"runtimeConfig": {"ips": ["192.0.2.9"]}}, {}, "192.0.2.9"),
    ],
)
def test_5_error_codes_name_what_was_wrong(
    container: NewContainer, code: int, conf: dict[str, Any], env: dict[str, str], words: str
) -> None:
    one = container()
    reply = one.call("ADD", conf, **env)
    assert (reply.code, words in reply.words) == (code, True), reply
    assert not link(one), "and nothing was made"


def test_5_error_3_is_never_used_as_it_would_skip_the_clean_up(container: NewContainer) -> None:
    """Code 3 tells the runtime that nothing needs cleaning up; a CHECK of the unknown has a code of ours."""
    assert container().call("CHECK", {"prevResult": {}}).code == 103


def test_5_error_version_is_that_of_the_configuration_or_one_we_speak(container: NewContainer) -> None:
    for given, said in (("0.3.1", "0.3.1"), ("9.9.9", "1.0.0"), (None, "0.1.0")):
        reply = container().call("ADD", {"cniVersion": given, "mtu": 1})
        assert (reply.document or {})["cniVersion"] == said, given


@pytest.mark.parametrize(("command", "since"), [("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")])
def test_5_error_1_for_a_verb_that_the_version_does_not_know(container: NewContainer, command: str, since: str) -> None:
    for version in VERSIONS[: VERSIONS.index(since)]:
        reply = container().call(command, {"cniVersion": version, "prevResult": {}})
        assert (reply.code, since in reply.words) == (1, True), reply


def test_5_error_11_and_50_without_an_agent(container: NewContainer) -> None:
    one = container()
    for command, code in (("ADD", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)):
        assert one.call(command, {"agentSocket": "/run/fairway-spec-none.sock"}).code == code


# Section 1: the configuration


@pytest.mark.parametrize(
    "stdin", [b"", b"{", b"[]", b'"x"', b"nul", b'{"a":1}{', b'{"name":"\xff"}', b'{"name":"\\ud800"}', b'{"a":01}', b'{"a":NaN}']
)
def test_1_what_is_no_json_object_is_code_6(container: NewContainer, stdin: bytes) -> None:
    assert container().send("ADD", stdin).code == 6


def test_1_input_is_bounded_in_size_and_depth(container: NewContainer) -> None:
    one = container()
    assert one.send("ADD", b'{"name":"' + b"x" * (1 << 20) + b'"}').code == 5
    assert one.send("ADD", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}").code == 6
    assert one.call("ADD", {"x": json.loads("[" * 50 + "]" * 50)}).code == 0


def test_1_a_repeated_key_is_code_7_for_add_and_no_matter_for_del(container: NewContainer, spec_lab: Lab) -> None:
    one = container()
    socket = json.dumps(str(spec_lab.node().socket))
    for repeated in ('"mtu":1400,"mtu":1500', '"dns":{"domain":"a","domain":"b"}'):
        conf = f'{{"cniVersion":"1.1.0","name":"fairway","agentSocket":{socket},{repeated}}}'.encode()
        reply = one.send("ADD", conf)
        assert (reply.code, "stands twice" in reply.words) == (7, True)
        assert one.send("DEL", conf).code == 0


def test_1_unknown_and_reserved_keys_are_accepted(container: NewContainer) -> None:
    """Keys of the list, of newer libraries and of others; `capabilities` comes through from old runtimes."""
    more = {
        "cniVersions": ["0.4.0", "1.1.0"], "disableCheck": "true", "disableGC": False, "loadOnlyInlinedPlugins": True,
        "capabilities": {"portMappings": True}, "cni.dev/anything": {"x": 1}, "somebodys.example/key": [None],
        "args": {"other.example": {"labels": 5}, "cni": {"unknown": 1}}, "runtimeConfig": {"deviceID": "0000:00:1f.6"},
    }  # fmt: skip
    assert container().call("ADD", more).code == 0


def test_1_keys_match_in_any_case(container: NewContainer) -> None:
    """Decoders in Go do, and containerd relies on it."""
    one = container()
    result = one.call("ADD", {"MTU": 1400, "RuntimeConfig": {"MAC": "02:00:00:00:00:07", "Ips": ["10.244.0.77/24"]}}).result
    (made,) = [item for item in result["interfaces"] if item.get("sandbox")]
    assert (made["mac"], made["mtu"], result["ips"][0]["address"]) == ("02:00:00:00:00:07", 1400, "10.244.0.77/32")


def test_1_an_absent_version_means_the_oldest(container: NewContainer) -> None:
    assert "ip4" in container().call("ADD", {"cniVersion": None}).result
