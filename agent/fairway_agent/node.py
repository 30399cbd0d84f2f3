"""What the node itself needs before containers can talk: kernel settings, the DNS address, a way to virtual IPs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence

from fairway_agent.problems import Problems
from fairway_core.errors import KernelError
from fairway_core.keys import Key
from fairway_core.model import Attachment, ServiceCIDR
from fairway_core.world import World
from fairway_kernel.link.objects import LinkManager
from fairway_kernel.sysctl import Sysctls

FORWARDING = {"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"}
CLOSE_WAIT, CLOSE_WAIT_SECONDS = "net.netfilter.nf_conntrack_tcp_timeout_close_wait", 3600
"""How long a connection that one side has closed is tracked at least. The kernel's minute is too short where the other side goes
on sending through a virtual IP; kube-proxy raises it to the same hour."""
BRIDGE_CALLS = {
    "net.bridge.bridge-nf-call-iptables": "0",
    "net.bridge.bridge-nf-call-ip6tables": "0",
    "net.bridge.bridge-nf-call-arptables": "0",
}


def in_thread(function: Callable[[], object]) -> object:
    """Of the running event loop."""
    return asyncio.get_running_loop().run_in_executor(None, function)


class Node:
    """Brings the node's own settings to what they must be and keeps them there.

    The bridge-nf-call settings are ours from the first bridged attachment on: with 1 a connection to a virtual IP whose endpoint
    is behind the same bridge hangs (the frame is rewritten inside the bridge and then meets the isolated port). Docker and
    others turn them on; that is noticed, undone, counted and logged.
    """

    def __init__(
        self,
        links: LinkManager,
        sysctls: Sysctls,
        dns: Sequence[str],
        service_cidrs: Sequence[str],
        problems: Problems,
        log: logging.Logger,
        later: Callable[[Callable[[], object]], object] = in_thread,
    ) -> None:
        """`later` has something blocking called elsewhere, soon."""
        self._later = later
        self._links = links
        self._sysctls = sysctls
        self._dns = tuple(dns)
        self._configured_cidrs = self._service_cidrs = tuple(service_cidrs)
        self._problems = problems
        self._log = log
        self._bridged = False
        self._ensuring = threading.Lock()

    def follow(self, before: World, after: World, touched: frozenset[Key]) -> None:
        """Own the bridge settings as soon as the world has a bridged attachment; its link is made after this. Ranges of virtual
        IPs that the cluster gets later are routed to like those of the configuration.
        """
        if any(key.kind == "ServiceCIDR" for key in touched):
            found = (cidr for item in after.all(ServiceCIDR) for cidr in item.cidrs)
            self._service_cidrs = tuple(dict.fromkeys((*self._configured_cidrs, *found)))
            self._later(self.ensure)
        if self._bridged:
            return
        attachments = (after.get(key) for key in touched if key.kind == "Attachment")
        if any(isinstance(item, Attachment) and item.mode == "bridge" for item in attachments):
            self._bridged = True
            self.ensure_settings()

    def ensure_settings(self) -> int:
        """Put kernel settings right; how many were wrong. Cheap: a handful of small files."""
        try:
            wanted = {**FORWARDING, **(BRIDGE_CALLS if self._bridged else {}), **self._half_closed()}
            changed = self._sysctls.ensure(wanted)
        except KernelError as error:
            self._problems.report("sysctl", f"kernel settings are not in place: {error}")
            return 0
        self._problems.clear("sysctl")
        for name, old in changed.items():
            self._log.warning("kernel setting changed", extra={"sysctl": name, "was": old, "now": wanted[name]})
        return len(changed)

    def _half_closed(self) -> dict[str, str]:
        """Raised, never lowered: an operator may want more."""
        now = self._sysctls.read(CLOSE_WAIT) or ""
        return {CLOSE_WAIT: str(CLOSE_WAIT_SECONDS)} if now.isdigit() and int(now) < CLOSE_WAIT_SECONDS else {}

    def answer_on(self, dns: Sequence[str]) -> None:
        """Other DNS addresses from the next `ensure` on."""
        self._dns = tuple(dns)

    def ensure(self) -> int:
        """Settings, the DNS addresses and the way to virtual IPs; how many settings were wrong. Blocking; for worker threads, one
        after the other: whoever comes last knows best what is wanted.
        """
        with self._ensuring:
            changed = self.ensure_settings()
            try:
                self._links.ensure_loopback(self._dns)
                self._links.ensure_service_routes(self._service_cidrs)
            except KernelError as error:
                self._problems.report("node", f"the node's addresses or routes are not in place: {error}")
            else:
                self._problems.clear("node")
        return changed
