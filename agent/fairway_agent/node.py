"""What the node itself needs before containers can talk: kernel settings, the DNS address, a way to virtual IPs."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fairway_agent.problems import Problems
from fairway_core.errors import KernelError
from fairway_kernel.link.objects import LinkManager
from fairway_kernel.sysctl import Sysctls

FORWARDING = {"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"}
BRIDGE_CALLS = {
    "net.bridge.bridge-nf-call-iptables": "0",
    "net.bridge.bridge-nf-call-ip6tables": "0",
    "net.bridge.bridge-nf-call-arptables": "0",
}


class Node:
    """Brings the node's own settings to what they must be and keeps them there. Blocking; for worker threads.

    The bridge-nf-call settings are ours while a bridged network exists: with 1 a connection to a virtual IP whose endpoint is
    behind the same bridge hangs (the frame is rewritten inside the bridge and dropped at the isolated port). Docker and others
    turn them on; that is noticed here, undone, and told.
    """

    def __init__(
        self,
        links: LinkManager,
        sysctls: Sysctls,
        dns: Sequence[str],
        service_cidrs: Sequence[str],
        problems: Problems,
        log: logging.Logger,
    ) -> None:
        self._links = links
        self._sysctls = sysctls
        self._dns = tuple(dns)
        self._service_cidrs = tuple(service_cidrs)
        self._problems = problems
        self._log = log

    def ensure(self) -> int:
        """Put everything right; the number of settings that had to be changed."""
        changed = self._sysctls.ensure({**FORWARDING, **BRIDGE_CALLS})
        for name, old in changed.items():
            self._log.info("kernel setting changed", extra={"sysctl": name, "old": old})
        try:
            self._links.ensure_loopback(self._dns)
            self._links.ensure_service_routes(self._service_cidrs)
        except KernelError as error:
            self._problems.report("node", f"the node's addresses or routes are not in place: {error}")
            return len(changed)
        self._problems.clear("node")
        return len(changed)
