"""The CNI protocol: what runtimes really send, and what must be refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from fairway_cni import faults
from fairway_cni.faults import CniError, as_cni_error, body_of
from fairway_cni.netconf import Dns
from fairway_cni.protocol import VERSIONS, Request, parse, version_of
from fairway_cni.result import AttachResult, render_result
from fairway_core.errors import ExhaustedError, KernelError, StoreUnavailable
from fairway_core.model import Bandwidth, HostPort

ENV = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/x",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
}
CONF = {"cniVersion": "1.0.0", "name": "fairway", "type": "fairway"}


def body(conf: dict[str, Any] | bytes | None = None, **env: str | None) -> bytes:
    merged = {**ENV, **env}
    head = b"".join(f"{key}={value}".encode() + b"\0" for key, value in merged.items() if value is not None)
    tail = conf if isinstance(conf, bytes) else json.dumps({**CONF, **(conf or {})}).encode()
    return head + b"\0" + tail


def refused(call: bytes) -> CniError:
    with pytest.raises(CniError) as caught:
        parse(call)
    return caught.value


def added(conf: dict[str, Any] | None = None, **env: str) -> Request:
    request = parse(body(conf, **env))
    assert request.config.wanted is not None
    return request


def test_a_plain_add_has_the_documented_defaults() -> None:
    request = added()
    assert (request.container_id, request.ifname, request.netns) == ("c1", "eth0", "/run/netns/x")
    wanted = request.config.wanted
    assert wanted is not None
    assert (wanted.mode, wanted.namespace, wanted.mtu, wanted.ips, wanted.mac) == ("bridge", "default", 0, (), "")


def test_keys_match_in_any_case_as_containerd_writes_them() -> None:
    runtime = {
        "portMappings": [{"HostPort": 0, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""}],
        "bandwidth": {"IngressRate": 0, "IngressBurst": 4294967295, "EgressRate": 0, "EgressBurst": 4294967295},
        "dns": {"Servers": ["10.0.0.10"], "Searches": ["a.b"], "Options": ["ndots:5"]},
        "io.kubernetes.cri.pod-annotations": {"Team": "Red"},
    }
    wanted = added({"RuntimeConfig": runtime, "CapabIlities": {"portMappings": True}}).config.wanted
    assert wanted is not None
    assert wanted.dns == Dns(("10.0.0.10",), ("a.b",), ("ndots:5",))
    assert wanted.annotations == {"Team": "Red"}


def test_ports_limits_ranges_and_settings_are_read_in_any_case() -> None:
    ports = [
        {"HostPort": 8080, "ContainerPort": 80, "Protocol": "TCP", "HostIP": "0.0.0.0"},
        {"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "192.0.2.1"},
        {"hostPort": -1, "containerPort": 1},
    ]
    runtime = {"portMappings": ports, "bandwidth": {"IngressRate": 1 << 20, "IngressBurst": 4294967295, "EgressBurst": 5}}
    more = {"sysctl": {"net.core.somaxconn": "500", "net/ipv4/conf/IFNAME/arp_notify": "1"}, "ipMasq": False}
    wanted = added({"runtimeConfig": runtime, "routes": [{"dst": "0.0.0.0/0"}, {"dst": "192.0.2.0/24"}], **more}).config.wanted
    assert wanted is not None
    assert wanted.host_ports == (HostPort("tcp", 8080, 80), HostPort("udp", 53, 5353, "192.0.2.1"))
    assert wanted.bandwidth == Bandwidth(1 << 20, 4294967295, 0, 0)
    assert wanted.sysctls == (("net/core/somaxconn", "500"), ("net/ipv4/conf/eth0/arp_notify", "1"))
    assert (wanted.routes, wanted.masquerade) == (("192.0.2.0/24",), False)


@pytest.mark.parametrize(
    ("conf", "code", "words"),
    [
        ({"runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 0}]}}, faults.CONFIG, "containerPort"),
        ({"runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "icmp"}]}}, 2, "protocol"),
        ({"runtimeConfig": {"portMappings": [{"hostPort": 70000, "containerPort": 80}]}}, faults.CONFIG, "hostPort"),
        ({"runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80, "hostIP": "x"}]}}, faults.CONFIG, "hostIP"),
        ({"runtimeConfig": {"bandwidth": {"ingressRate": 100}}}, faults.CONFIG, "ingressRate"),
        ({"runtimeConfig": {"bandwidth": {"egressRate": -1}}}, faults.CONFIG, "egressRate"),
        ({"runtimeConfig": {"ipRanges": [[{"subnet": "10.0.0.0/8", "rangeStart": "11.0.0.1"}]]}}, faults.CONFIG, "ipRanges"),
        ({"ipam": {"ranges": [[{"subnet": "10.0.0.0/30", "exclude": ["10.0.0.0/30"]}]]}}, faults.CONFIG, "no address is left"),
        ({"ipam": {"type": "../sh"}}, faults.CONFIG, "ipam.type"),
        ({"sysctl": {"kernel.shmmax": "1"}}, faults.UNSUPPORTED_FIELD, "kernel.shmmax"),
        ({"sysctl": {"net.ipv4.ip_forward": "1"}}, faults.UNSUPPORTED_FIELD, "ip_forward"),
        ({"sysctl": {"net.ipv4.conf.IFNAME.../../rp_filter": "1"}}, faults.UNSUPPORTED_FIELD, "sysctl"),
        ({"sysctl": {"net.core.somaxconn": 5}}, faults.CONFIG, "somaxconn"),
        ({"routes": [{"dst": "10.0.0.0/8", "gw": "10.0.0.1"}]}, faults.UNSUPPORTED_FIELD, "gw"),
        ({"routes": [{"dst": "nowhere"}]}, faults.CONFIG, "dst"),
        ({"ipMasq": "yes"}, faults.CONFIG, "ipMasq"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_by_name(conf: dict[str, Any], code: int, words: str) -> None:
    error = refused(body(conf))
    assert (error.code, words in str(error)) == (code, True), error


def test_podman_sends_aliases_per_network_and_others_a_list() -> None:
    per_network = added({"runtimeConfig": {"aliases": {"fairway": ["DB", "0123abc"], "other": ["x"]}}}).config.wanted
    listed = added({"runtimeConfig": {"aliases": ["DB", "0123abc"]}}).config.wanted
    assert per_network is not None
    assert listed is not None
    assert per_network.aliases == listed.aliases == ("db", "0123abc")
    assert refused(body({"runtimeConfig": {"aliases": ["no/name"]}})).code == faults.CONFIG


def test_cni_args_say_who_the_container_is() -> None:
    args = added(
        CNI_ARGS="K8S_POD_UID=u-1;IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web_1;K8S_POD_INFRA_CONTAINER_ID=x;"
        "FOO=bar;IP=10.1.2.3,FD00::1;MAC=02-11-22-33-44-5F;FAIRWAY_LABELS=app=web,example.com/tier=front"
    ).args
    assert (args.namespace, args.name, args.uid) == ("shop", "web-1", "u-1")
    assert args.ips == ("10.1.2.3", "fd00::1")
    assert args.mac == "02:11:22:33:44:5f"
    assert args.labels == {"app": "web", "example.com/tier": "front"}


@pytest.mark.parametrize(
    "args",
    [
        "FOO=bar",
        "FOO=bar;IgnoreUnknown=0",
        "IgnoreUnknown=maybe",
        "K8S_POD_NAME",
        "IP=10.0.0.300",
        "MAC=01:00:5e:00:00:01",
        "FAIRWAY_LABELS=app",
        "FAIRWAY_LABELS=app=-x-",
        "K8S_POD_NAMESPACE=a b",
    ],
)
def test_bad_cni_args_are_code_4(args: str) -> None:
    assert refused(body(CNI_ARGS=args)).code == faults.ENVIRONMENT


def test_runtime_config_beats_args() -> None:
    conf = {
        "args": {"cni": {"ips": ["10.0.0.5/24"], "mac": "02:00:00:00:00:01", "labels": [{"key": "app", "value": "web"}]}},
        "runtimeConfig": {"ips": ["10.0.0.6"]},
    }
    wanted = added(conf).config.wanted
    assert wanted is not None
    assert (wanted.ips, wanted.mac, wanted.labels) == (("10.0.0.6",), "02:00:00:00:00:01", {"app": "web"})


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"CNI_CONTAINERID": ""}, "CNI_CONTAINERID"),
        ({"CNI_IFNAME": None, "CNI_NETNS": ""}, "CNI_IFNAME, CNI_NETNS"),
        ({"CNI_CONTAINERID": "-x"}, "CNI_CONTAINERID"),
        ({"CNI_IFNAME": "a/b"}, "CNI_IFNAME"),
        ({"CNI_IFNAME": "a b"}, "CNI_IFNAME"),
        ({"CNI_IFNAME": "a:b"}, "CNI_IFNAME"),
        ({"CNI_IFNAME": ".."}, "CNI_IFNAME"),
        ({"CNI_IFNAME": "sixteen-letters-"}, "CNI_IFNAME"),
        ({"CNI_COMMAND": "PATCH"}, "CNI_COMMAND"),
    ],
)
def test_a_bad_environment_is_code_4_and_names_the_variables(env: dict[str, str | None], words: str) -> None:
    error = refused(body(**env))
    assert error.code == faults.ENVIRONMENT
    assert words in error.message


def test_a_deletion_needs_only_its_names() -> None:
    conf = {"mode": "wrong", "mtu": "x", "runtimeConfig": {"portMappings": [{"hostPort": 1}]}, "ipam": {"type": "dhcp"}}
    request = parse(body(conf, CNI_COMMAND="DEL", CNI_NETNS=None, CNI_ARGS="what is this"))
    assert (request.netns, request.config.wanted) == ("", None)


@pytest.mark.parametrize(
    "conf",
    [
        {"mode": "host"},
        {"mtu": 100},
        {"mtu": True},
        {"args": []},
        {"runtimeConfig": {"mac": 5}},
        {"prevResult": 5},
        {"name": "a b"},
    ],
)
def test_a_bad_configuration_is_code_7(conf: dict[str, Any]) -> None:
    assert refused(body(conf)).code == faults.CONFIG


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b'{"a": NaN}', b"\xff", b'{"a": "\\ud800"}', b"[" * 100_000])
def test_what_is_no_json_object_is_code_6(raw: bytes) -> None:
    assert refused(body(raw)).code == faults.DECODE


def test_versions_are_checked_before_anything_else() -> None:
    assert refused(body({"cniVersion": "2.0.0"}, CNI_IFNAME="")).code == faults.VERSION
    assert refused(body({"cniVersion": "0.3.1"}, CNI_COMMAND="CHECK")).code == faults.VERSION
    assert refused(body({"cniVersion": "1.0.0"}, CNI_COMMAND="GC")).code == faults.VERSION
    assert parse(body(b'{"name": "n"}', CNI_COMMAND="ADD")).config.cni_version == "0.1.0"
    assert version_of(body({"cniVersion": "0.4.0"})) == "0.4.0"
    assert version_of(b"\0junk") == "1.0.0"


def test_an_absent_gc_list_is_not_an_empty_one() -> None:
    def collected(conf: dict[str, Any]) -> object:
        return parse(body({"cniVersion": "1.1.0", **conf}, CNI_COMMAND="GC", CNI_CONTAINERID=None)).config.attachments

    item = {"containerID": "c1", "ifname": "eth0"}
    assert collected({}) is None
    assert collected({"cni.dev/valid-attachments": []}) == frozenset()
    assert collected({"cni.dev/attachments": [item]}) == frozenset({("c1", "eth0")})
    assert collected({"cni.dev/valid-attachments": [], "cni.dev/attachments": [item]}) == frozenset()


RESULT = AttachResult(
    "eth0",
    "0a:58:0a:01:00:02",
    "/run/netns/x",
    "fwb1",
    ("10.1.0.2", "fd00::2"),
    1450,
    "fw-n",
    "0a:58:a9:fe:01:01",
    Dns(("9.9.9.9",)),
)


@pytest.mark.parametrize("version", VERSIONS)
def test_results_have_the_shape_of_their_version(version: str) -> None:
    document = json.loads(render_result(RESULT, version))
    assert document["cniVersion"] == version
    assert document["dns"] == {"nameservers": ["9.9.9.9"]}
    if version < "0.3":
        assert document["ip4"]["ip"] == "10.1.0.2/32"
        assert document["ip6"]["routes"] == [{"dst": "::/0", "gw": "fe80::1"}]
        assert "interfaces" not in document
        return
    inside = document["interfaces"][document["ips"][0]["interface"]]
    assert (inside["name"], inside["sandbox"]) == ("eth0", "/run/netns/x")
    assert [ip["address"] for ip in document["ips"]] == ["10.1.0.2/32", "fd00::2/128"]
    assert [ip.get("version") for ip in document["ips"]] == (["4", "6"] if version < "1" else [None, None])
    assert ("mtu" in inside) == (version == "1.1.0")
    assert len(document["routes"]) == 2


@pytest.mark.parametrize("version", VERSIONS)
def test_static_routes_are_in_the_result_of_every_version(version: str) -> None:
    document = json.loads(render_result(replace(RESULT, routes=("198.51.100.0/24", "2001:db8::/32")), version))
    routes = document.get("routes") or [route for name in ("ip4", "ip6") for route in document[name]["routes"]]
    assert sorted(route["dst"] for route in routes) == ["0.0.0.0/0", "198.51.100.0/24", "2001:db8::/32", "::/0"]
    assert all((":" in route["dst"]) == (":" in route["gw"]) for route in routes)


def test_the_interface_index_is_right_without_a_bridge() -> None:
    routed = AttachResult("eth0", "0a:58:0a:01:00:02", "/n", "fwr1", ("10.1.0.2",), 1500)
    document = json.loads(render_result(routed, "1.0.0"))
    assert document["interfaces"][document["ips"][0]["interface"]]["name"] == "eth0"


def test_errors_are_sorted_by_fault() -> None:
    assert as_cni_error(StoreUnavailable("down")).code == faults.TRY_LATER
    assert as_cni_error(KernelError(2, "attach")).code == faults.WIRING
    assert as_cni_error(ExhaustedError("pool")).code == faults.ADDRESS
    assert as_cni_error(RuntimeError("x")).code == faults.INTERNAL
    document = json.loads(body_of(CniError(7, "msg \udcff", "why"), "0.4.0"))
    assert document == {"cniVersion": "0.4.0", "code": 7, "msg": "msg \udcff", "details": "why"}
