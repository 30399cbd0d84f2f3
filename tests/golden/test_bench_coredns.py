"""CoreDNS as a peer of the DNS benchmark: what it is told, and how it is started and waited for. No CoreDNS is needed: a stand-in
takes its place.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from fairway_dns.zone import Record

ROOT = Path(__file__).parents[2]
COREFILE = """\
cluster.local:5355 {
    bind 10.9.0.1
    hosts /bench/hosts {
        ttl 5
        reload 0
    }
}
.:5355 {
    bind 10.9.0.1
    forward . 127.0.0.1:5300
    cache 3600 {
        success 65536
        denial 65536
    }
}
"""
STAND_IN = """\
#!{python}
import os, re, socket, sys, time
from pathlib import Path

config = Path(sys.argv[sys.argv.index("-conf") + 1])
text = config.read_text()
(config.parent / "told").write_text("\\n".join([*sys.argv[1:], os.environ["GOMAXPROCS"], *map(str, os.sched_getaffinity(0))]))
hosts = dict(reversed(line.split()) for line in Path(re.search(r"hosts (\\S+)", text)[1]).read_text().splitlines())
time.sleep(0.3)
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
made.bind((re.search(r"bind (\\S+)", text)[1], int(re.search(r":(\\d+)", text)[1])))
while True:
    data, sender = made.recvfrom(512)
    name, pos = [], 12
    while data[pos]:
        name.append(data[pos + 1 : pos + 1 + data[pos]].decode())
        pos += 1 + data[pos]
    address = socket.inet_aton(hosts[".".join(name)])
    record = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\5\\0\\4" + address
    made.sendto(data[:2] + b"\\x84\\0\\0\\1\\0\\1\\0\\0\\0\\0" + data[12 : pos + 5] + record, sender)
"""


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The bench's namespaces and processes, as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import _dns_bench

    assert isinstance(_dns_bench, ModuleType)
    return _dns_bench


def test_what_coredns_is_told(bench: ModuleType) -> None:
    assert bench.corefile("10.9.0.1", 5355, Path("/bench/hosts"), "127.0.0.1:5300") == COREFILE
    records = [Record("s1.bench", "A", "10.96.0.1"), Record("s1.bench", "AAAA", "fd00::1"), Record("x.bench", "TXT", "no")]
    assert bench.hosts_file(records) == "10.96.0.1 s1.bench\nfd00::1 s1.bench\n"
    assert bench.coredns_argv("/opt/coredns", Path("/bench/Corefile")) == [
        "env", "GOMAXPROCS=1", "/opt/coredns", "-quiet", "-conf", "/bench/Corefile",
    ]  # fmt: skip


@pytest.mark.needs_root
def test_it_is_started_on_the_core_of_the_servers_and_waited_for(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FAIRWAY_BENCH_COREDNS", raising=False)
    made = bench.Bench(tmp_path, 5, False)
    try:
        assert made.servers == ("fairway", "unbound")
        binary = tmp_path / "coredns"
        binary.write_text(STAND_IN.format(python=sys.executable))
        binary.chmod(0o755)
        monkeypatch.setenv("FAIRWAY_BENCH_COREDNS", str(binary))
        assert made.servers == ("fairway", "unbound", "coredns")
        with made.serving("coredns") as process:
            assert made.ask("coredns", f"s3.{bench.ZONE}") == ["10.96.0.3"]
            assert process.poll() is None
        assert process.returncode is not None
        told = (tmp_path / "told").read_text().split("\n")
        assert told == ["-quiet", "-conf", str(tmp_path / "Corefile"), "1", "0"]
    finally:
        made.close()
