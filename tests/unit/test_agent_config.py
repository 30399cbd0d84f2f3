"""The configuration file: defaults, and every mistake named with file, line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairway_agent import config as module
from fairway_agent.config import Config, load_config
from fairway_core.errors import UserError

FULL = """\
node:
  name: n1
  podCIDRs: [10.1.0.0/24, "fd00:1::/64"]
stateDir: /tmp/state
runDir: /tmp/run
cluster:
  domain: example.test
  serviceCIDRs: [10.2.0.0/16]
dns:
  listen: [169.254.1.2]
  port: 5353
  upstreams: [192.0.2.53]
  workers: 2
store:
  kind: memory
metrics:
  listen: "[::1]:9000"
log:
  level: debug
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fairway.yaml"
    path.write_text(text)
    return path


def test_every_field_is_read(tmp_path: Path) -> None:
    found = load_config(written(tmp_path, FULL))
    assert (found.node.name, found.node.podCIDRs) == ("n1", ["10.1.0.0/24", "fd00:1::/64"])
    assert (found.cluster.domain, found.cluster.serviceCIDRs) == ("example.test", ["10.2.0.0/16"])
    assert (found.dns.listen, found.dns.port, found.dns.upstreams, found.dns.workers) == (
        ["169.254.1.2"],
        5353,
        ["192.0.2.53"],
        2,
    )
    assert (found.store.kind, found.metrics.listen, found.log.level) == ("memory", "[::1]:9000", "debug")
    assert found.paths.socket == Path("/tmp/run/agent.sock")
    assert found.paths.database == Path("/tmp/state/fairway.db")


@pytest.mark.parametrize("text", ["", "---\n", "# nothing\n", "{}"])
def test_an_empty_file_means_all_defaults(tmp_path: Path, text: str) -> None:
    assert load_config(written(tmp_path, text)) == Config()


def test_only_the_default_file_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"missing\.yaml: there is no such configuration file"):
        load_config(tmp_path / "missing.yaml")
    monkeypatch.setattr(module, "DEFAULT_PATH", tmp_path / "missing.yaml")
    assert load_config(tmp_path / "missing.yaml") == Config()


@pytest.mark.parametrize(
    ("old", "new", "line", "field"),
    [
        ("  name: n1", "  name: 7", 2, "node.name"),
        ("  name: n1", "  name: ''", 2, "node.name"),
        ("  podCIDRs: [10.1.0.0/24,", "  podCIDRs: [10.1.0.1/24,", 3, "node.podCIDRs[0]"),
        ('"fd00:1::/64"', "fd00", 3, "node.podCIDRs[1]"),
        ('[10.1.0.0/24, "fd00:1::/64"]', "[]", 3, "node.podCIDRs"),
        ('"fd00:1::/64"', "10.1.0.128/25", 3, "node.podCIDRs[1]"),
        ("stateDir: /tmp/state", "stateDir: [a]", 4, "stateDir"),
        ("stateDir: /tmp/state", "stateDir: ''", 4, "stateDir"),
        ("runDir: /tmp/run", "runDir: run", 5, "runDir"),
        ("domain: example.test", "domain: Example.Test", 7, "cluster.domain"),
        ("domain: example.test", "domain: a..b", 7, "cluster.domain"),
        ("serviceCIDRs: [10.2.0.0/16]", "serviceCIDRs: 10.2.0.0/16", 8, "cluster.serviceCIDRs"),
        ("serviceCIDRs: [10.2.0.0/16]", "serviceCIDRs: [10.0.0.0/8]", 8, "cluster.serviceCIDRs[0]"),
        ("listen: [169.254.1.2]", "listen: [localhost]", 10, "dns.listen[0]"),
        ("port: 5353", "port: 70000", 11, "dns.port"),
        ("port: 5353", "port: '53'", 11, "dns.port"),
        ("upstreams: [192.0.2.53]", "upstreams: [192.0.2.53, one.one]", 12, "dns.upstreams[1]"),
        ("upstreams: [192.0.2.53]", "upstreams: ['192.0.2.53:port']", 12, "dns.upstreams[0]"),
        ("upstreams: [192.0.2.53]", "upstreams: ['tls://192.0.2.53']", 12, "dns.upstreams[0]"),
        ("upstreams: [192.0.2.53]", "stubZones: {a.example: ['tls://192.0.2.53#']}", 12, "dns.stubZones[a.example][0]"),
        ("upstreams: [192.0.2.53]", "tlsCAFile: ca.pem", 12, "dns.tlsCAFile"),
        ("upstreams: [192.0.2.53]", "tlsCAFile: /nonexistent/ca.pem", 12, "dns.tlsCAFile"),
        ("workers: 2", "workers: 0", 13, "dns.workers"),
        ("kind: memory", "kind: floppy", 15, "store.kind"),
        ('"[::1]:9000"', "9000", 17, "metrics.listen"),
        ('"[::1]:9000"', "'host:9000'", 17, "metrics.listen"),
        ('"[::1]:9000"', "'127.0.0.1:99999'", 17, "metrics.listen"),
        ("level: debug", "level: loud", 19, "log.level"),
        ("level: debug", "volume: 3", 19, "log.volume"),
        ("log:\n", "logs:\n", 18, "logs"),
    ],
)
def test_every_mistake_is_named(tmp_path: Path, old: str, new: str, line: int, field: str) -> None:
    assert FULL.count(old) == 1
    path = written(tmp_path, FULL.replace(old, new))
    with pytest.raises(UserError) as caught:
        load_config(path)
    place = caught.value.place
    assert place is not None
    assert (place.file, place.line) == (str(path), line)
    assert place.field.startswith(field)
    assert caught.value.message


@pytest.mark.parametrize("text", ["[1, 2]", "just text", "node: {}\n---\nnode: {}\n", "node: {name: a, name: b}", "\tx: 1"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"fairway\.yaml"):
        load_config(written(tmp_path, text))


def test_who_starts_dns_workers_may_come_by_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "fairway.yaml"
    file.write_text("log: {level: info}\n")
    assert not load_config(file).hosted_workers
    monkeypatch.setenv("FAIRWAY_DNS_SUPERVISOR", "host")
    assert load_config(file).hosted_workers
    file.write_text("dns: {supervisor: agent}\n")
    assert not load_config(file).hosted_workers
    monkeypatch.setenv("FAIRWAY_DNS_SUPERVISOR", "kubelet")
    file.write_text("log: {level: info}\n")
    with pytest.raises(UserError, match=r"'agent' or 'host'"):
        load_config(file)
