"""The real plugin path in namespaces: attach, talk, spoof, leave, come back. Kernel links, kernel rules, a memory store."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest

from fairway_cni import faults
from fairway_cni.attach import Attacher
from fairway_cni.compile import PinCompiler
from fairway_cni.fake import FakeControl
from fairway_cni.faults import CniError
from fairway_cni.ipam import AddressPool
from fairway_cni.netconf import NetConf, Wanted
from fairway_cni.plan import NodeFacts
from fairway_cni.podargs import PodArgs
from fairway_cni.protocol import Request
from fairway_cni.recover import Recoverer
from fairway_cni.result import AttachResult
from fairway_cni.spool import Spool
from fairway_cni.wires import Kernel
from fairway_core.errors import KernelError
from fairway_core.world import World
from fairway_kernel import netns
from fairway_kernel.link.manager import KernelLinks
from fairway_kernel.nft.libnft import LibnftablesRunner
from fairway_kernel.nft.tables import NftTables
from fairway_store.api import Write

pytestmark = pytest.mark.needs_root

LOG = logging.getLogger("lab")
CIDRS = ["10.244.0.0/24", "fd00:10:244::/64"]


def identify(path: str) -> str:
    device, inode = netns.identity(path)
    return f"{device}:{inode}"


class LiveControl(FakeControl):
    """Commits that are live in nftables when they return."""

    def __init__(self, tables: NftTables) -> None:
        super().__init__()
        self._tables = tables
        self._compiler = PinCompiler(CIDRS)
        self._turn = asyncio.Lock()
        self._apply(World(), World(), [])

    async def commit(self, writes: Sequence[Write]) -> int:
        before = self.world()
        revision = await super().commit(writes)
        async with self._turn:
            await asyncio.to_thread(self._apply, before, self.world(), writes)
        return revision

    def _apply(self, before: World, after: World, writes: Sequence[Write]) -> None:
        for owner, elements in self._compiler.update(before, after, frozenset(item.key for item in writes)).items():
            self._tables.declare(owner, elements)
        self._tables.commit()


@dataclass
class Lab:
    path: str
    attacher: Attacher
    recoverer: Recoverer
    control: LiveControl
    links: KernelLinks
    make: Callable[[str], str]

    async def add(self, container: str, mode: str, netns_path: str = "") -> tuple[str, AttachResult]:
        target = netns_path or self.make(container)
        wanted = Wanted(mode=mode)
        config = NetConf("1.1.0", "lab", wanted)
        return target, await self.attacher.add(Request("ADD", container, target, "eth0", PodArgs(), "", config, b""))

    async def delete(self, container: str, target: str = "") -> None:
        await self.attacher.delete(self.request("DEL", container, target))

    def request(self, command: str, container: str, target: str) -> Request:
        return Request(command, container, target, "eth0", PodArgs(), "", NetConf("1.1.0", "lab"), b"")


@pytest.fixture
async def lab(namespaces: Callable[[str], str], tmp_path: Path) -> AsyncIterator[Lab]:
    path = namespaces("node")
    for name in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
        netns.run_in(path, lambda name=name: Path("/proc/sys", name).write_text("1"))  # type: ignore[misc]
    for suffix in ("iptables", "ip6tables", "arptables"):
        netns.run_in(path, lambda suffix=suffix: Path(f"/proc/sys/net/bridge/bridge-nf-call-{suffix}").write_text("0"))  # type: ignore[misc]
    links, tables = KernelLinks(path), NftTables(LibnftablesRunner(path), PinCompiler(CIDRS).layout, LOG)
    tables.adopt()
    control = LiveControl(tables)
    kernel = Kernel(links, identify, lambda _ips: None, lambda _ports: None)
    facts = NodeFacts("node", "boot", identify(path))
    spool = Spool(tmp_path, LOG)
    attacher = Attacher(control, kernel, AddressPool(CIDRS), facts, spool, LOG, confirm_after=0)
    yield Lab(path, attacher, Recoverer(control, kernel, attacher, spool, LOG), control, links, namespaces)
    await attacher.drain()
    links.close()
    tables.close()


def receive(ip: str, port: int, path: str) -> socket.socket:
    def make() -> socket.socket:
        listener = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind((ip, port))
        listener.settimeout(2)
        return listener

    return netns.run_in(path, make)


def send(path: str, ip: str, port: int, text: bytes = b"hello") -> None:
    def body() -> None:
        with closing(socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            sender.sendto(text, (ip, port))

    netns.run_in(path, body)


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp_frame(source_mac: str, gateway_mac: str, source: str, target: str, port: int, payload: bytes) -> bytes:
    """An Ethernet frame with a UDP datagram, from whomever it pretends to be."""
    six = ":" in target
    a, b = ip_address(source).packed, ip_address(target).packed
    length = 8 + len(payload) + len(payload) % 2
    udp = struct.pack(">HHHH", 4000, port, length, 0) + payload.ljust(length - 8, b"\0")
    pseudo = a + b + (struct.pack(">IxxxB", length, 17) if six else struct.pack(">xBH", 17, length))
    udp = udp[:6] + struct.pack(">H", checksum(pseudo + udp) or 0xFFFF) + udp[8:]
    if six:
        header = struct.pack(">IHBB", 6 << 28, length, 17, 64) + a + b
    else:
        header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 1, 0, 64, 17, 0) + a + b
        header = header[:10] + struct.pack(">H", checksum(header)) + header[12:]
    macs = bytes.fromhex(gateway_mac.replace(":", "") + source_mac.replace(":", ""))
    return macs + (b"\x86\xdd" if six else b"\x08\x00") + header + udp


def inject(path: str, frame: bytes) -> None:
    def body() -> None:
        with closing(socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as raw:
            raw.bind(("eth0", 0))
            raw.send(frame)

    netns.run_in(path, body)


def heard(listener: socket.socket, wait: float) -> bytes:
    listener.settimeout(wait)
    try:
        return listener.recv(100).rstrip(b"\0")
    except TimeoutError:
        return b""


@pytest.mark.parametrize("mode", ["bridge", "routed"])
async def test_containers_talk_at_once_and_cannot_pretend(lab: Lab, mode: str) -> None:
    a_path, a = await lab.add("a", mode)
    b_path, b = await lab.add("b", mode)
    gateway = "0a:58:a9:fe:01:01"
    for family in (0, 1):
        source, target = a.ips[family], b.ips[family]
        with closing(receive(target, 5000, b_path)) as listener:
            send(a_path, target, 5000)
            assert heard(listener, 2) == b"hello", "right after ADD"
            stranger = "10.244.0.99" if family == 0 else "fd00:10:244::99"
            inject(a_path, udp_frame(a.mac, gateway, stranger, target, 5000, b"foreign ip"))
            inject(a_path, udp_frame("02:00:00:00:00:99", gateway, source, target, 5000, b"foreign mac"))
            inject(a_path, udp_frame(a.mac, gateway, b.ips[family], target, 5000, b"the other's ip"))
            inject(a_path, udp_frame(a.mac, gateway, source, target, 5000, b"honest"))
            assert heard(listener, 2) == b"honest", "what was forged before must be gone"


@pytest.mark.parametrize("mode", ["bridge", "routed"])
async def test_an_interface_without_pins_is_closed(lab: Lab, mode: str) -> None:
    a_path, a = await lab.add("a", mode)
    b_path, b = await lab.add("b", mode)
    with closing(receive(b.ips[0], 5000, b_path)) as listener:
        # The link stays, its pins go: as if the wire had come first.
        lab.control._tables.declare(("pin", lab.attacher._control.world().attachments()[0].meta.name), {})
        lab.control._tables.commit()
        send(a_path, b.ips[0], 5000)
        assert heard(listener, 0.2) == b""
    assert a.ips


@pytest.mark.parametrize("mode", ["bridge", "routed"])
async def test_del_frees_the_namespace_for_an_immediate_add(lab: Lab, mode: str) -> None:
    path, first = await lab.add("a", mode)
    with pytest.raises(CniError) as caught:
        await lab.add("a", mode, path)
    assert caught.value.code == faults.EXISTS
    await lab.attacher.check(lab.request("CHECK", "a", path))
    await lab.delete("a", path)
    assert not lab.links.inside(path, "eth0").exists
    _, second = await lab.add("a", mode, path)
    assert second.ips != first.ips
    await lab.attacher.check(lab.request("CHECK", "a", path))
    await lab.delete("a")
    await lab.attacher.settle()
    state = lab.links.read()
    assert not (state.veths or state.routes or state.neighbours)


async def test_the_nodes_own_namespace_is_refused(lab: Lab) -> None:
    with pytest.raises(CniError) as caught:
        await lab.add("a", "bridge", lab.path)
    assert caught.value.code == faults.HOST_NAMESPACE


@pytest.mark.parametrize("mode", ["bridge", "routed"])
async def test_a_deleted_link_is_put_back_and_carries_traffic(lab: Lab, mode: str) -> None:
    a_path, a = await lab.add("a", mode)
    b_path, b = await lab.add("b", mode)
    await lab.attacher.drain()
    lab.links.detach(a.host_ifname, a.ips)
    found = await lab.recoverer.run()
    assert [item.container_id for item in found.rewire] == ["a"]
    with closing(receive(b.ips[0], 5000, b_path)) as listener:
        send(a_path, b.ips[0], 5000)
        assert heard(listener, 2) == b"hello"
    assert not await lab.recoverer.run()


async def test_a_deleted_bridge_is_put_back(lab: Lab) -> None:
    a_path, _ = await lab.add("a", "bridge")
    b_path, b = await lab.add("b", "bridge")
    await lab.attacher.drain()
    lab.links.delete_bridge("fw-lab")
    assert len((await lab.recoverer.run()).repair) == 2
    for family in (0, 1):
        with closing(receive(b.ips[family], 5000, b_path)) as listener:
            send(a_path, b.ips[family], 5000)
            assert heard(listener, 2) == b"hello"


async def test_a_container_that_died_without_a_del_is_collected(lab: Lab) -> None:
    path, _ = await lab.add("a", "bridge")
    await lab.attacher.drain()
    netns.delete(Path(path).name)
    for _ in range(100):
        if not lab.links.read().veths:
            break
        await asyncio.sleep(0.05)
    await lab.recoverer.run()
    assert not lab.control.world().attachments()
    assert not lab.links.read().routes


async def test_many_at_once(lab: Lab) -> None:
    made = await asyncio.gather(*(lab.add(f"c{number}", "bridge") for number in range(16)))
    assert len({result.ips for _, result in made}) == 16
    (path, _), (other, last) = made[0], made[-1]
    with closing(receive(last.ips[1], 5000, other)) as listener:
        send(path, last.ips[1], 5000)
        assert heard(listener, 2) == b"hello"
    await asyncio.gather(*(lab.delete(f"c{number}") for number in range(16)))
    await lab.attacher.settle()
    assert not lab.links.read().veths


async def test_an_interface_of_somebody_else_stays(lab: Lab) -> None:
    path, _ = await lab.add("a", "bridge")
    with pytest.raises(CniError) as caught:
        await lab.add("b", "bridge", path)
    assert caught.value.code == faults.EXISTS
    assert isinstance(caught.value.__cause__, KernelError)
    assert lab.links.inside(path, "eth0").exists
    assert len(lab.control.world().attachments()) == 1


def ip(path: str, command: str) -> None:
    subprocess.run(["nsenter", f"--net={path}", "ip", *command.split()], check=True, capture_output=True)


@pytest.mark.parametrize("mode", ["bridge", "routed"])
async def test_what_leaves_the_node_bears_its_address(lab: Lab, namespaces: Callable[[str], str], mode: str) -> None:
    outside = namespaces("outside")
    ip(lab.path, f"link add up0 type veth peer name up1 netns {Path(outside).name}")
    for path, device, number in ((lab.path, "up0", 1), (outside, "up1", 2)):
        ip(path, f"addr add 192.0.2.{number}/24 dev {device}")
        ip(path, f"addr add 2001:db8::{number}/64 dev {device} nodad")
        ip(path, f"link set {device} up")
    pod_path, pod = await lab.add("a", mode)
    assert pod.mtu == 1500
    for target, expected in (("192.0.2.2", "192.0.2.1"), ("2001:db8::2", "2001:db8::1")):
        with closing(receive(target, 5000, outside)) as listener:
            send(pod_path, target, 5000)
            assert listener.recvfrom(100)[1][0] == expected


async def test_arp_is_pinned_too(lab: Lab) -> None:
    path, pod = await lab.add("a", "bridge")
    mac, gateway = (bytes.fromhex(text.replace(":", "")) for text in (pod.mac, "0a:58:a9:fe:01:01"))

    def claims(sender_mac: bytes, sender_ip: str) -> bytes:
        head = gateway + mac + b"\x08\x06" + struct.pack(">HHBBH", 1, 0x800, 6, 4, 2)
        return head + sender_mac + ip_address(sender_ip).packed + gateway + ip_address("169.254.1.1").packed

    def dropped() -> int:
        command = ["nsenter", f"--net={lab.path}", "nft", "-j", "list", "chain", "bridge", "fairway", "pin_bridged"]
        rules = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["nftables"]
        exprs = [expr for item in rules for expr in item.get("rule", {}).get("expr", [])]
        return sum(expr["counter"]["packets"] for expr in exprs if "counter" in expr)

    before = dropped()
    inject(path, claims(mac, pod.ips[0]))
    assert dropped() == before
    inject(path, claims(mac, "10.244.0.77"))
    inject(path, claims(b"\x02" + mac[1:], pod.ips[0]))
    assert dropped() == before + 2
