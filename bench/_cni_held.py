"""What an ADD costs when the node holds many attachments already: the part of cni.py behind `--held`.

Held are records with an address and a pod each, in the store, the world, the address pool and the DNS zone; they share one
namespace and have no link, since a bridge of Linux has no more than 1,023 ports. The peer's are host-local's reservation files.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import ip_address
from itertools import islice
from pathlib import Path

from fairway_cni import documents
from fairway_cni.ipam import mac_of
from fairway_cni.netconf import CHAINED
from fairway_cni.plan import Identity
from fairway_core.errors import StoreUnavailable
from fairway_core.model import Attachment, Meta
from fairway_kernel import netns
from fairway_netlab.lab import Lab
from fairway_store.api import Put, Write
from fairway_store.sqlite import SqliteStore

FIRST = int(ip_address("10.250.0.2"))
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
AT_ONCE = 2_000
STOP_SECONDS = 10.0


def hold(lab: Lab, count: int, namespace: str) -> None:
    """Restart the agent of the lab's node with `count` attachments in its store, all in the namespace at this path."""
    if not count:
        return
    plan = lab.node()
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(plan.socket))
        pid, _, _ = struct.unpack("3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    os.kill(pid, signal.SIGTERM)
    asyncio.run(_fill(Path(plan.config["stateDir"]) / "fairway.db", count, namespace, plan.name))
    lab.start_agent()


async def _fill(database: Path, count: int, namespace: str, node: str) -> None:
    store = await _open(database)
    writes = _writes(count, namespace, node)
    while chunk := list(islice(writes, AT_ONCE)):
        await store.commit(chunk)
    await store.close()


async def _open(database: Path) -> SqliteStore:
    """The agent holds it for as long as it lives."""
    deadline = time.monotonic() + STOP_SECONDS
    while True:
        try:
            return await SqliteStore.open(database)
        except StoreUnavailable:
            if time.monotonic() > deadline:
                raise


def _writes(count: int, namespace: str, node: str) -> Iterator[Write]:
    device, inode = netns.identity(namespace)
    boot_id = BOOT_ID.read_text().strip()
    for number in range(count):
        who = Identity("bench", f"held{number:06d}", "eth0")
        ip = str(ip_address(FIRST + number))
        attachment = Attachment(
            meta=Meta(who.object_name),
            network=who.network,
            container_id=who.container_id,
            ifname=who.ifname,
            netns=namespace,
            pod_namespace="held",
            pod_name=who.container_id,
            host_ifname=who.host_ifname(CHAINED),
            mac=mac_of(ip),
            ips=(ip,),
            mode=CHAINED,
            mtu=1500,
            boot_id=boot_id,
            netns_id=f"{device}:{inode}",
            confirmed=True,
        )
        yield Put(attachment.meta.key("Attachment"), documents.attachment_document(attachment))
        yield documents.claim_pod(None, attachment, node, documents.Said())


def reserve(directory: Path, first: str, count: int) -> None:
    """`count` reservations as host-local writes them, from the address `first` on."""
    directory.mkdir(parents=True, exist_ok=True)
    start = int(ip_address(first))
    for number in range(count):
        (directory / str(ip_address(start + number))).write_text(f"held{number:06d}\r\neth0")
    if count:
        (directory / "last_reserved_ip.0").write_text(str(ip_address(start + count - 1)))
