"""The settings of the DNS workers, from the agent's configuration."""

from __future__ import annotations

from pathlib import Path

from fairway_agent.config import Config
from fairway_dns.config import WorkerConfig, parse_address, parse_resolv_conf
from fairway_dns.limits import ClientLimits
from fairway_dns.querylog import LogSettings

RESOLV_CONF = Path("/etc/resolv.conf")


def worker_config(config: Config, resolv_conf: Path, release: str, scoped: bool) -> WorkerConfig:
    """What all workers of the node share. `scoped`: names are hidden from some. Reads `resolv_conf` if no upstreams
    are configured. Raises OSError.
    """
    dns = config.dns
    given = tuple(map(parse_address, dns.upstreams)) or parse_resolv_conf(resolv_conf.read_text(errors="replace"))
    return WorkerConfig(
        feed=str(config.paths.feed),
        listen=tuple(dns.listen),
        port=dns.port,
        upstreams=given,
        tls_ca=dns.tlsCAFile,
        domain=config.cluster.domain,
        private=(*config.cluster.serviceCIDRs, *config.node.podCIDRs),
        hosts=tuple((name, tuple(ips)) for name, ips in sorted(dns.hosts.items())),
        stubs=tuple((zone, tuple(map(parse_address, servers))) for zone, servers in sorted(dns.stubZones.items())),
        views=scoped,
        identity=config.node.name,
        limits=ClientLimits(dns.limits.perClientQps, dns.limits.perClientConnections),
        release=release,
        query_log=LogSettings(dns.queryLog.sample, dns.queryLog.slowMs / 1000, dns.queryLog.failures),
    )
