"""Names, reverse zones and addresses of servers."""

from __future__ import annotations

from pathlib import Path

import dns.name
import pytest

from fairway_agent.config import load_config
from fairway_core.errors import UserError
from fairway_dns.config import Address, WorkerConfig, parse_address, parse_resolv_conf
from fairway_dns.names import address_label, is_host_name, reverse_zones, suffixes, to_key, to_text
from fairway_dns.worker import parse_arguments


@pytest.mark.parametrize("text", ["", "a", "web.shop.svc.cluster.local", "_http._tcp.x", "x" * 63 + ".y"])
def test_keys_are_the_wire_form_that_dnspython_makes(text: str) -> None:
    assert to_key(text.upper()) == dns.name.from_text(text + "." if text else ".").to_wire()
    assert to_text(to_key(text)) == text


@pytest.mark.parametrize("text", ["a..b", "x" * 64, ".".join(["x" * 50] * 6), "ä.de", ".a"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        to_key(text)


def test_suffixes_run_to_the_top() -> None:
    assert list(suffixes(to_key("a.bc.d"))) == [(0, to_key("a.bc.d")), (2, to_key("bc.d")), (5, to_key("d"))]


def test_odd_octets_in_a_name_are_escaped() -> None:
    assert to_text(b"\x03a.\x00\x01b\x00") == "a\\046\\000.b"


@pytest.mark.parametrize(
    ("cidr", "count", "one"),
    [
        ("10.96.0.0/16", 1, "96.10.in-addr.arpa"),
        ("10.96.0.0/12", 16, "111.10.in-addr.arpa"),
        ("10.244.3.0/24", 1, "3.244.10.in-addr.arpa"),
        ("10.244.3.64/26", 64, "127.3.244.10.in-addr.arpa"),
        ("192.0.2.1/32", 1, "1.2.0.192.in-addr.arpa"),
        ("fd00:10:244::/64", 1, "0.0.0.0.4.4.2.0.0.1.0.0.0.0.d.f.ip6.arpa"),
        ("fe80::/10", 4, "b.e.f.ip6.arpa"),
        ("fd00::/127", 2, "1" + ".0" * 27 + ".0.0.d.f.ip6.arpa"),
    ],
)
def test_reverse_zones_cover_the_range_exactly(cidr: str, count: int, one: str) -> None:
    zones = reverse_zones(cidr)
    assert len(zones) == count
    assert one in zones


@pytest.mark.parametrize(
    ("address", "label"), [("10.0.0.1", "10-0-0-1"), ("fd00::5", "fd00--5"), ("::5", "0--5"), ("fd00::", "fd00--0")]
)
def test_address_labels_are_host_labels(address: str, label: str) -> None:
    assert address_label(address) == label
    assert is_host_name(label)


def test_addresses_of_servers() -> None:
    assert parse_address("1.1.1.1") == Address("1.1.1.1", 53)
    assert parse_address("1.1.1.1:5353") == Address("1.1.1.1", 5353)
    assert parse_address("fd00::1") == Address("fd00::1", 53)
    assert parse_address("[fd00::1]:54") == Address("fd00::1", 54)
    assert str(parse_address("[fd00::1]:54")) == "[fd00::1]:54"
    assert parse_address("[fe80::1%eth0]:54") == Address("fe80::1%eth0", 54)
    for bad in ("dns.example", "1.1.1.1:x", "1.1.1.1:70000", "", "[fd00::1", "[fd00::1]54", "1.1.1.1#name"):
        with pytest.raises(UserError):
            parse_address(bad)


def test_addresses_of_servers_over_tls() -> None:
    assert parse_address("tls://192.0.2.1#dns.example") == Address("192.0.2.1", 853, "dns.example")
    assert parse_address("tls://[2001:db8::1]:8853#DNS.example.") == Address("2001:db8::1", 8853, "dns.example")
    assert parse_address("tls://fe80::1%eth0#dns.example") == Address("fe80::1%eth0", 853, "dns.example")
    for text in ("tls://192.0.2.1:853#dns.example", "tls://[2001:db8::1]:853#dns.example"):
        assert str(parse_address(text)) == text
    for bad in (
        "tls://192.0.2.1",
        "tls://192.0.2.1#",
        "tls://#dns.example",
        "tls://dns.example#dns.example",
        "tls://192.0.2.1#a b",
    ):
        with pytest.raises(UserError, match="DNS"):
            parse_address(bad)


def test_resolv_conf_gives_its_servers_in_order() -> None:
    text = "# nameserver 9.9.9.9\nsearch a b\nnameserver 10.0.0.2\nnameserver fe80::1%eth0\nnameserver\nnameserver junk\n"
    assert parse_resolv_conf(text) == (Address("10.0.0.2"), Address("fe80::1%eth0"))


def test_a_command_line_means_its_settings() -> None:
    config = WorkerConfig(
        "/run/f.sock", ("169.254.20.10", "fd00::a"), 53, (Address("1.1.1.1"),), "/s", "c.local", ("10.96.0.0/16",)
    )
    assert parse_arguments(config.argv("/usr/bin/python3")[3:]) == config


def test_hosts_and_stub_zones_survive_the_command_line() -> None:
    config = WorkerConfig(
        "/feed",
        ("169.254.20.10",),
        state="/state",
        hosts=(("box.example", ("10.7.0.1", "fd00::7")),),
        stubs=(("corp.example", (Address("10.1.1.1"), Address("fd00::1", 5353), Address("fd00::1", 853, "dns.corp.example"))),),
        tls_ca="/etc/ca.pem",
    )
    assert config.uses_tls
    assert parse_arguments(config.argv("python")[3:]) == config
    for words in (
        ("--host", "box"),
        ("--host", "box=ten"),
        ("--host", "=10.0.0.1"),
        ("--stub", "corp="),
        ("--stub", "a..b=10.0.0.1"),
    ):
        with pytest.raises(UserError):
            parse_arguments(["--feed", "/x", "--listen", "10.0.0.1", *words])


def test_the_configuration_file_names_hosts_and_stub_zones(tmp_path: Path) -> None:
    file = tmp_path / "fairway.yaml"
    file.write_text("dns:\n  hosts: {Box.example: [10.7.0.1]}\n  stubZones:\n    corp.example: [10.1.1.1]\n")
    dns_section = load_config(file).dns
    assert dns_section.hosts == {"box.example": ["10.7.0.1"]}
    assert list(dns_section.stubZones) == ["corp.example"]
    file.write_text("dns:\n  stubZones:\n    corp: [x]\n")
    with pytest.raises(UserError, match=r"fairway.yaml:3:"):
        load_config(file)
    file.write_text("dns:\n  hosts:\n    a..b: [10.0.0.1]\n")
    with pytest.raises(UserError, match=r"fairway.yaml:3:"):
        load_config(file)
