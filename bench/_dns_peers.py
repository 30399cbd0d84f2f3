"""What the peers of `bench/dns.py` are told to do: configurations and command lines. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from fairway_dns.zone import Record

COREDNS_VARIABLE = "FAIRWAY_BENCH_COREDNS"
"""Environment: a CoreDNS binary to be a further peer; without it there is none."""
UNBOUND = """
server:
  directory: "{path}"
  pidfile: ""
  chroot: ""
  username: ""
  use-syslog: no
  verbosity: 0
  interface: {address}
  port: {port}
  access-control: 0.0.0.0/0 allow
  num-threads: 1
  do-ip6: no
  so-rcvbuf: 8m
  module-config: "iterator"
  msg-cache-size: 64m
  rrset-cache-size: 128m
  num-queries-per-thread: 4096
  outgoing-range: 8192
  do-not-query-localhost: no
  local-zone: "cluster.local." static
  local-zone: "{extra}." {kind}
"""
COREFILE = """\
cluster.local:{port} {{
    bind {address}
    hosts {hosts} {{
        ttl 5
        reload 0
    }}
}}
.:{port} {{
    bind {address}
    forward . {upstream}
    cache 3600 {{
        success 65536
        denial 65536
    }}
}}
"""


def unbound_conf(path: Path, address: str, port: int, records: Iterable[Record], upstream: str) -> str:
    """unbound with the service zone as local data; other names come from `upstream` ("address@port")."""
    text = UNBOUND.format(path=path, address=address, port=port, extra="junk.test", kind="transparent")
    data = "".join(f'  local-data: "{record.name}. 5 IN {record.type} {record.data}"\n' for record in records)
    return f'{text}{data}forward-zone:\n  name: "."\n  forward-addr: {upstream}\n'


def upstream_conf(path: Path, address: str, port: int) -> str:
    """unbound as the upstream of all: it knows every name below `example`."""
    text = UNBOUND.format(path=path, address=address, port=port, extra="example", kind="redirect")
    return f'{text}  local-data: "example. 3600 IN A 192.0.2.1"\n'


def corefile(address: str, port: int, hosts: Path, upstream: str) -> str:
    """CoreDNS with the service zone in a hosts file; other names come from `upstream` ("address:port") and are cached."""
    return COREFILE.format(address=address, port=port, hosts=hosts, upstream=upstream)


def hosts_file(records: Iterable[Record]) -> str:
    """The addresses among the records, in the form of hosts(5)."""
    return "".join(f"{record.data} {record.name}\n" for record in records if record.type in ("A", "AAAA"))


def coredns_argv(binary: str, config: Path) -> list[str]:
    """How CoreDNS is started: on one core, as all are."""
    return ["env", "GOMAXPROCS=1", binary, "-quiet", "-conf", str(config)]
