"""CNI specification 1.1.0, section 2: what ADD, DEL, CHECK, GC and STATUS must do. Each test is named for its clause."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.lab.caller import Container, NewContainer
from tests.lab.system import eventually, objects, on_node

from fairway_kernel import netns
from fairway_netlab.lab import Lab

pytestmark = pytest.mark.needs_root

VALID = "cni.dev/valid-attachments"
LEGACY = "cni.dev/attachments"


def inside(one: Container, *command: str) -> str:
    """Output of a command in the container's namespace; a failure is the test's."""
    where = ["nsenter", f"--net={one.netns}", *command]
    return subprocess.run(where, capture_output=True, text=True, timeout=10, check=True).stdout


def interfaces(one: Container) -> set[str]:
    names = (line.split(":")[1].split("@")[0].strip() for line in inside(one, "ip", "-o", "link").splitlines())
    return set(names) - {"lo"}


def host_end(result: dict[str, Any]) -> str:
    """The interface on the node that is no bridge."""
    (name,) = [item["name"] for item in result["interfaces"] if not item.get("sandbox") and not item["name"].startswith("fw-")]
    return str(name)


def address(result: dict[str, Any]) -> str:
    return str(result["ips"][0]["address"].split("/")[0])


def used(lab: Lab) -> int:
    return sum(int(item["used"]) for item in lab.request("n1", "GET", "/v1/ipam")["ranges"])


def traces(lab: Lab) -> tuple[int, int, int]:
    """Attachments, links of containers and addresses in use."""
    links = [line for line in on_node(lab, "ip", "-o", "link").splitlines() if ": fwb" in line or ": fwr" in line]
    return len(objects(lab, "attachments")), len(links), used(lab)


@pytest.fixture
def gone(spec_lab: Lab) -> Callable[[], None]:
    """Waits until nothing of any container is left: links die a little after the answer."""

    def wait() -> None:
        eventually(lambda: traces(spec_lab) == (0, 0, 0), "no attachment, no link, no address is left")

    wait()
    return wait


# ADD


def test_add_makes_the_interface_of_that_name_up_and_addressed(container: NewContainer) -> None:
    one = container()
    result = one.call("ADD", CNI_IFNAME="net7").result
    assert interfaces(one) == {"net7"}
    shown = inside(one, "ip", "-o", "addr", "show", "up")
    assert all(item["address"] in shown for item in result["ips"])
    assert "127.0.0.1/8" in shown, "and the loopback device is up, for runtimes that leave it down"


def test_add_must_fail_if_the_interface_exists(container: NewContainer, gone: Callable[[], None]) -> None:
    one = container()
    inside(one, "ip", "link", "add", "eth0", "type", "bridge")
    reply = one.call("ADD")
    assert (reply.code, "eth0 exists already" in reply.words) == (102, True)
    gone()
    assert interfaces(one) == {"eth0"}, "theirs stays, nothing of ours does"
    inside(one, "ip", "link", "del", "eth0")
    assert one.call("ADD").code == 0, "a failed ADD leaves the way free"


def test_add_twice_is_an_error_that_harms_nothing(container: NewContainer) -> None:
    one = container()
    result = one.call("ADD").result
    reply = one.call("ADD")
    assert (reply.code, address(result) in reply.words) == (102, True)
    assert one.call("CHECK", {"prevResult": result}).code == 0


def test_add_in_the_nodes_own_namespace_is_code_8(container: NewContainer, spec_lab: Lab) -> None:
    for path in (spec_lab.netns("n1"), "/proc/self/ns/net"):
        reply = container().call("ADD", CNI_NETNS=path)
        assert (reply.code, "own network namespace" in reply.words) == (8, True), path


def test_add_where_the_host_link_exists_takes_its_place(container: NewContainer, spec_lab: Lab) -> None:
    """A host end of that name is one that an earlier ADD of this attachment left: nobody else has names like it."""
    one = container()
    name = host_end(one.call("ADD").result)
    assert one.call("DEL").code == 0
    eventually(lambda: name not in on_node(spec_lab, "ip", "-o", "link"), "the link is gone")
    on_node(spec_lab, "ip", "link", "add", name, "type", "veth", "peer", "name", "stranger")
    assert host_end(one.call("ADD").result) == name
    assert "stranger" not in on_node(spec_lab, "ip", "-o", "link")


def test_add_failing_leaves_nothing_behind(container: NewContainer, gone: Callable[[], None]) -> None:
    one = container()
    assert one.call("ADD", {"sysctl": {"net.ipv4.tcp_there_is_none": "1"}}).code == 101
    gone()
    assert interfaces(one) == set()


def test_add_of_many_containers_at_once_each_its_own_address(container: NewContainer) -> None:
    many = [container() for _ in range(12)]
    with ThreadPoolExecutor(len(many)) as pool:
        results = list(pool.map(lambda one: one.call("ADD").result, many))
    assert len({address(result) for result in results}) == len(many)


# DEL


def test_del_removes_what_add_made_any_number_of_times(container: NewContainer, gone: Callable[[], None]) -> None:
    one = container()
    result = one.call("ADD").result
    for _ in range(3):
        reply = one.call("DEL", {"prevResult": result})
        assert (reply.exit, reply.stdout) == (0, ""), "success has no output"
    assert interfaces(one) == set()
    gone()


@pytest.mark.parametrize("path", ["", None, "/run/netns/vanished", "/etc/hostname"])
def test_del_without_a_namespace_cleans_up_as_much_as_possible(
    container: NewContainer, gone: Callable[[], None], path: str | None
) -> None:
    one = container()
    one.call("ADD")
    assert one.call("DEL", CNI_NETNS=path).code == 0
    gone()
    assert one.call("ADD").code == 0, "and so is the name inside"


def test_del_of_a_removed_namespace(container: NewContainer, gone: Callable[[], None]) -> None:
    one = container()
    one.call("ADD")
    netns.delete(one.netns.rpartition("/")[2])
    assert one.call("DEL").code == 0
    gone()


def test_del_of_what_was_never_added(container: NewContainer) -> None:
    assert container().call("DEL").code == 0


@pytest.mark.parametrize(
    "conf",
    [
        {"mode": "routed"}, {"mode": 5}, {"mtu": "x"}, {"runtimeConfig": {"portMappings": "x"}}, {"ipam": 1}, {"args": []},
        {"prevResult": "x"}, {"cniVersion": "0.1.0"}, {"dns": 1, "routes": [{}], "sysctl": {"kernel.x": 1}},
    ],
    ids=str,
)  # fmt: skip
def test_del_goes_through_with_a_changed_or_broken_configuration(
    container: NewContainer, gone: Callable[[], None], conf: dict[str, Any]
) -> None:
    one = container()
    one.call("ADD")
    assert one.call("DEL", conf, CNI_ARGS="junk").code == 0
    gone()


def test_del_of_one_interface_leaves_the_other(container: NewContainer) -> None:
    one = container()
    one.call("ADD")
    second = one.call("ADD", CNI_IFNAME="eth1").result
    assert one.call("DEL").code == 0
    assert interfaces(one) == {"eth1"}
    assert one.call("CHECK", {"prevResult": second}, CNI_IFNAME="eth1").code == 0
    one.call("DEL", CNI_IFNAME="eth1")


# CHECK


def test_check_needs_prevresult(container: NewContainer) -> None:
    one = container()
    one.call("ADD")
    for value in (None, "x", []):
        reply = one.call("CHECK", {"prevResult": value})
        assert (reply.code, "prevResult" in reply.words) == (7, True)


def test_check_right_after_add_succeeds_and_says_nothing(container: NewContainer) -> None:
    one = container()
    reply = one.call("CHECK", {"prevResult": one.call("ADD").result})
    assert (reply.exit, reply.stdout) == (0, "")


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        ("ip link set eth0 down", "eth0 in the container is down"),
        ("ip addr del {ip} dev eth0", "lacks address {plain}"),
        ("ip route del default", "lacks the default route through 169.254.1.1"),
        ("ip link set eth0 address 02:00:00:00:00:99", "has MAC 02:00:00:00:00:99"),
        ("ip link set eth0 name eth9", "eth0 in the container is missing"),
    ],
)
def test_check_names_what_is_missing_inside(container: NewContainer, break_it: str, words: str) -> None:
    one = container()
    result = one.call("ADD").result
    names = {"ip": result["ips"][0]["address"], "plain": address(result)}
    # A name can be changed only while the interface is down.
    if "name" in break_it:
        inside(one, "ip", "link", "set", "eth0", "down")
    inside(one, *break_it.format(**names).split())
    reply = one.call("CHECK", {"prevResult": result})
    assert (reply.code, words.format(**names) in reply.words) == (103, True), reply


def test_check_names_what_differs_from_prevresult(container: NewContainer) -> None:
    one = container()
    result = one.call("ADD").result
    for previous, words in (
        ({"ips": [{"address": "192.0.2.1/24"}]}, "192.0.2.1"),
        ({"ips": result["ips"][:1]}, "attached is"),
        ({"interfaces": [{"name": "eth5", "sandbox": one.netns}]}, "no interface eth0"),
    ):
        reply = one.call("CHECK", {"prevResult": previous})
        assert (reply.code, words in reply.words) == (103, True), reply


def test_check_allows_what_later_plugins_of_the_chain_add(container: NewContainer) -> None:
    one = container()
    result = one.call("ADD").result
    inside(one, "ip", "addr", "add", "192.0.2.7/32", "dev", "eth0")
    inside(one, "ip", "route", "add", "198.51.100.0/24", "dev", "eth0")
    more = {**result, "ips": [*result["ips"], {"address": "192.0.2.7/32"}], "interfaces": [*result["interfaces"], {"name": "x"}]}
    assert one.call("CHECK", {"prevResult": more, "unknown": 1}).code == 0


def test_check_of_another_namespace_and_of_the_detached(container: NewContainer) -> None:
    one, other = container(), container()
    result = one.call("ADD").result
    assert one.call("CHECK", {"prevResult": result}, CNI_NETNS=other.netns).code == 103
    one.call("DEL")
    assert one.call("CHECK", {"prevResult": result}).code == 103


# GC


@pytest.mark.parametrize("key", [VALID, LEGACY])
def test_gc_removes_what_is_not_listed_under_either_spelling(container: NewContainer, gone: Callable[[], None], key: str) -> None:
    kept, stale, elsewhere = container(), container(), container()
    result = kept.call("ADD").result
    stale.call("ADD")
    stale.call("ADD", CNI_IFNAME="eth1")
    other = elsewhere.call("ADD", {"name": "elsewhere"}).result
    reply = kept.call("GC", {key: [{"containerID": kept.id, "ifname": "eth0"}]})
    assert (reply.exit, reply.stdout) == (0, "")
    assert (interfaces(kept), interfaces(stale)) == ({"eth0"}, set())
    assert kept.call("CHECK", {"prevResult": result}).code == 0
    assert elsewhere.call("CHECK", {"name": "elsewhere", "prevResult": other}).code == 0, "GC is per network"
    assert elsewhere.call("DEL", {"name": "elsewhere"}).code == 0
    assert kept.call("GC", {key: []}).code == 0, "an empty list: everything is stale"
    gone()


def test_gc_without_a_list_removes_nothing(container: NewContainer) -> None:
    one = container()
    result = one.call("ADD").result
    for value in (None, "all", [5]):
        reply = one.call("GC", {VALID: value})
        assert (reply.code, VALID in reply.words) == (7, True), reply
    assert one.call("CHECK", {"prevResult": result}).code == 0


def test_gc_takes_the_name_of_the_specification_if_both_are_there(container: NewContainer) -> None:
    one = container()
    result = one.call("ADD").result
    assert one.call("GC", {VALID: [{"containerID": one.id, "ifname": "eth0"}], LEGACY: []}).code == 0
    assert one.call("CHECK", {"prevResult": result}).code == 0


def test_gc_any_number_of_times_and_of_an_unknown_network(container: NewContainer) -> None:
    for _ in range(2):
        assert container().call("GC", {"name": "nobody-knows", VALID: []}).code == 0


# STATUS


def test_status_ready_is_success_without_output(container: NewContainer) -> None:
    reply = container().call("STATUS")
    assert (reply.exit, reply.stdout) == (0, "")


def test_status_needs_no_sense_in_what_only_add_reads(container: NewContainer) -> None:
    assert container().call("STATUS", {"mode": 7, "runtimeConfig": 3}, CNI_ARGS="junk").code == 0
