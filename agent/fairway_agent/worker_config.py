"""The DNS workers at the start of an agent: their settings, from its configuration, and their first start."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from fairway_agent.config import Config
from fairway_agent.problems import Problems
from fairway_agent.starting import WAITING
from fairway_dns.config import WorkerConfig, parse_address, parse_resolv_conf
from fairway_dns.launch import HostLauncher, Launcher, OwnLauncher
from fairway_dns.limits import ClientLimits
from fairway_dns.process import read_pid_file, terminate
from fairway_dns.querylog import LogSettings
from fairway_dns.supervise import GRACE, WorkerSupervisor

RESOLV_CONF = Path("/etc/resolv.conf")
HOST_SECONDS = 1.0
"""How often a worker host that is away is looked for."""


def launcher_of(config: Config) -> Launcher:
    """Who starts workers on this node."""
    return HostLauncher(config.paths.worker_host) if config.hosted_workers else OwnLauncher()


async def started_workers(
    made: Sequence[WorkerSupervisor], config: Config, problems: Problems
) -> AsyncIterator[WorkerSupervisor]:
    """Start or adopt a worker for each, and give it when it is ready. Where another process starts workers, and is not there yet,
    that is what the start waits for; else raises OSError.
    """
    for supervisor in made:
        await _start(supervisor, config, problems)
        yield supervisor
    await end_surplus(config)


async def _start(supervisor: WorkerSupervisor, config: Config, problems: Problems) -> None:
    while True:
        try:
            await supervisor.start()
            problems.clear(WAITING)
            return
        except OSError as error:
            if not config.hosted_workers:
                raise
            problems.report(WAITING, f"no DNS worker: {error}")
            await asyncio.sleep(HOST_SECONDS)


async def end_surplus(config: Config) -> None:
    """End workers of an earlier configuration that had more of them: nobody watches them, and they hold a share of queries."""
    wanted = {f"dns-{number}.pid" for number in range(config.dns.workers)}
    for record in sorted(config.paths.run.glob("dns-*.pid")):
        worker = None if record.name in wanted else read_pid_file(record)
        if worker is not None:
            await terminate(worker, GRACE)
            record.unlink(missing_ok=True)


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
