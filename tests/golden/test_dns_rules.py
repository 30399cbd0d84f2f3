"""The NOTRACK rules as text, and in a real kernel."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fairway_core.delta import Delta
from fairway_core.world import World
from fairway_dns.rules import DnsRulesCompiler
from fairway_kernel.netns import run_in
from fairway_kernel.nft.objects import INET
from fairway_kernel.nft.transaction import add_layout, element_delta

GOLDEN = """\
add table inet fairway
add set inet fairway dns4 { type ipv4_addr; }
add set inet fairway dns6 { type ipv6_addr; }
add chain inet fairway dns_prerouting { type filter hook prerouting priority raw; policy accept; }
flush chain inet fairway dns_prerouting
add chain inet fairway dns_output { type filter hook output priority raw; policy accept; }
flush chain inet fairway dns_output
add rule inet fairway dns_prerouting ip daddr @dns4 meta l4proto { tcp, udp } th dport 53 notrack
add rule inet fairway dns_prerouting ip saddr @dns4 meta l4proto { tcp, udp } th sport 53 notrack
add rule inet fairway dns_prerouting ip6 daddr @dns6 meta l4proto { tcp, udp } th dport 53 notrack
add rule inet fairway dns_prerouting ip6 saddr @dns6 meta l4proto { tcp, udp } th sport 53 notrack
add rule inet fairway dns_output ip daddr @dns4 meta l4proto { tcp, udp } th dport 53 notrack
add rule inet fairway dns_output ip saddr @dns4 meta l4proto { tcp, udp } th sport 53 notrack
add rule inet fairway dns_output ip6 daddr @dns6 meta l4proto { tcp, udp } th dport 53 notrack
add rule inet fairway dns_output ip6 saddr @dns6 meta l4proto { tcp, udp } th sport 53 notrack
add element inet fairway dns4 { 169.254.20.10 }
add element inet fairway dns6 { fd00:53::a }
"""


def script() -> str:
    compiler = DnsRulesCompiler(("169.254.20.10", "FD00:53:0::A"), 53)
    (elements,) = compiler.update(World(), World(), frozenset()).values()
    decls = {decl.name: decl for decl in compiler.layout.sets}
    return str(add_layout(compiler.layout, [INET])) + str(element_delta(Delta(add=elements), decls))


def test_the_rules() -> None:
    assert script() == GOLDEN


@pytest.mark.needs_root
def test_the_kernel_takes_the_rules_and_tracks_no_dns(namespace: str) -> None:
    subprocess.run(["ip", "-n", Path(namespace).name, "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "-n", Path(namespace).name, "addr", "add", "169.254.20.10/32", "dev", "lo"], check=True)
    rules = script() + "add chain inet fairway seen { type filter hook output priority 0; }\n"
    rules += "add rule inet fairway seen udp dport 53 ct state untracked counter\n"
    rules += "add rule inet fairway seen udp dport 54 ct state new counter\n"
    run_in(namespace, lambda: subprocess.run(["nft", "-f", "-"], input=rules.encode(), check=True))
    send = (
        "import socket; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); [s.sendto(b'x',('169.254.20.10',p)) for p in (53,54)]"
    )
    run_in(namespace, lambda: subprocess.run(["python3", "-c", send], check=True))
    listed = run_in(namespace, lambda: subprocess.run(["nft", "list", "chain", "inet", "fairway", "seen"], capture_output=True))
    assert listed.stdout.count(b"packets 1 ") == 2
