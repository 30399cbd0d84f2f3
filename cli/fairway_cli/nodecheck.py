"""What `fairway check` looks at: each look gives findings, and every finding that is not ok names its remedy.

Changes nothing on the node: kernel features are tried in throw-away network namespaces.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fairway_agent.config import Config
from fairway_cli.client import Client
from fairway_cni.install import BINARY, CONFLIST, inside, network_lists
from fairway_core.errors import FairwayError
from fairway_kernel import probe
from fairway_kernel.sysctl import read_here

State = Literal["ok", "warn", "fail"]
OK: State = "ok"
WARN: State = "warn"
FAIL: State = "fail"

OLDEST_KERNEL = (5, 10)
DNS_SECONDS = 0.5
AUTHORITATIVE = 0x04
"""The bit AA in the third byte of an answer: ours for names of the cluster."""
PLUGIN_SECONDS = 1.0
FREE_BYTES = 64 << 20
CROWDED = 0.8
"""Share of the connection tracking table from which it is told."""
TOOLS = {"nft": "nftables", "ip": "iproute2", "nsenter": "util-linux", "unshare": "util-linux"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. `remedy` is empty for what is ok; warn: works, or will once the agent runs, but look at it."""

    subject: str
    state: State
    found: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the parts of a node are: directories as given to `fairway install`."""

    config: Config
    root: str
    bin_dir: str
    conf_dir: str
    client: Client


def examine(place: Place) -> Iterator[Finding]:
    """All findings in a fixed order. A look that fails unexpectedly is a finding, not an exception."""
    looks: Sequence[tuple[str, Callable[[], Iterator[Finding]]]] = (
        ("system", system),
        ("kernel features", features),
        ("kernel settings", lambda: settings(place.config)),
        ("connection tracking", tracking),
        ("tools", tools),
        ("state", lambda: storage(place.config)),
        ("plugin", lambda: plugin(place)),
        ("agent", lambda: agent(place.client)),
        ("dns", lambda: names(place.config)),
    )
    for subject, look in looks:
        try:
            yield from look()
        except (FairwayError, OSError) as error:
            yield Finding(subject, FAIL, str(error), "run the check as root on the node itself")


def system() -> Iterator[Finding]:
    """Kernel version, capabilities, library."""
    version, text = probe.kernel_release()
    oldest = ".".join(map(str, OLDEST_KERNEL))
    yield _judge("kernel", version >= OLDEST_KERNEL, text, f"upgrade to Linux {oldest} or newer")
    held = probe.capabilities()
    wanted = {"CAP_NET_ADMIN": probe.CAP_NET_ADMIN, "CAP_SYS_ADMIN": probe.CAP_SYS_ADMIN}
    missing = [name for name, bit in wanted.items() if not held >> bit & 1]
    found = f"without {', '.join(missing)}" if missing else ", ".join(wanted)
    yield _judge("privileges", not missing, found, "run as root, in a container with --privileged or these capabilities")
    library = probe.try_library()
    yield _judge("libnftables", not library.error, library.error or "can be loaded", "apt-get install libnftables1")


def features() -> Iterator[Finding]:
    """nftables, links and connection tracking, tried for real."""
    if not probe.capabilities() >> probe.CAP_SYS_ADMIN & 1:
        yield Finding("kernel features", FAIL, "cannot be tried without CAP_SYS_ADMIN", "run the check as root")
        return
    if not probe.try_library().error:
        for trial in probe.try_nft():
            yield _judge(trial.name, not trial.error, trial.error or "works", _module_remedy(trial.name))
    for trial in (*probe.try_links(), probe.try_conntrack()):
        otherwise = WARN if trial.name == probe.LIMITS else FAIL
        yield _judge(trial.name, not trial.error, trial.error or "works", _module_remedy(trial.name), otherwise)


def _module_remedy(name: str) -> str:
    modules = {
        "nft bridge tables": "nf_tables with CONFIG_NF_TABLES_BRIDGE",
        "nft balancing maps": "nft_nat and nft_numgen",
        "nft address translation of the node's own traffic": "nft_nat with CONFIG_IPV6",
        "nft source address translation": "nft_masq and nft_nat",
        "nft routing look-ups": "nft_fib_inet",
        "nft reject": "nft_reject_inet",
        "nft log": "nft_log and nfnetlink_log",
        "veth pair": "veth",
        "bridge": "bridge",
        "isolated bridge port": "bridge, from Linux 4.18",
        probe.LIMITS: "sch_tbf, ifb, sch_ingress, cls_u32 and act_mirred, or use no bandwidth",
        "connection tracking": "nf_conntrack_netlink",
    }
    return (
        f"install a kernel with {modules.get(name, 'nf_tables')} (Debian: linux-image, not its cloud variant), or load the module"
    )


def settings(config: Config) -> Iterator[Finding]:
    """Those the agent owns, and IPv6 where the configuration wants it."""
    for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        value = read_here(name)
        if value is None:
            yield from _without_ipv6(config)
        else:
            found = f"{name} = {value}"
            yield _judge("forwarding", value == "1", found, "none needed: the agent sets it to 1 while it runs", WARN)
    value = read_here("net.bridge.bridge-nf-call-iptables")
    found = "absent" if value is None else value
    remedy = "the agent sets it to 0 for networks of mode bridge; if Docker or another tool needs 1, use mode routed"
    yield _judge("bridge netfilter", value in (None, "0"), f"bridge-nf-call-iptables {found}", remedy, WARN)


def _without_ipv6(config: Config) -> Iterator[Finding]:
    wanted = [cidr for cidr in (*config.node.podCIDRs, *config.cluster.serviceCIDRs) if ":" in cidr]
    remedy = f"enable IPv6 in the kernel, or take {', '.join(wanted)} out of the configuration"
    yield _judge("ipv6", not wanted, "this kernel has none", remedy)


def tracking() -> Iterator[Finding]:
    """How full the table of connections is: a full one drops packets of new connections."""
    texts = [read_here(f"net.netfilter.nf_conntrack_{name}") for name in ("count", "max")]
    if texts[0] is None or texts[1] is None:
        yield Finding("tracked connections", WARN, "not loaded yet", "none needed: the agent's rules load nf_conntrack")
        return
    count, limit = int(texts[0]), int(texts[1])
    remedy = f"sysctl net.netfilter.nf_conntrack_max={max(limit * 2, 262144)}"
    yield _judge("tracked connections", count < CROWDED * limit, f"{count} of {limit}", remedy, WARN)


def tools() -> Iterator[Finding]:
    """Not needed by the agent, but by whoever looks at the node, and by laboratories."""
    for name, package in TOOLS.items():
        path = shutil.which(name)
        yield _judge(name, path is not None, path or "not found", f"apt-get install {package}", WARN)


def storage(config: Config) -> Iterator[Finding]:
    """The state directory, or the nearest parent that exists."""
    wanted = config.paths.state
    there = next(path for path in (wanted, *wanted.parents) if path.exists())
    free = shutil.disk_usage(there).free
    writable = os.access(there, os.W_OK) and not os.statvfs(there).f_flag & os.ST_RDONLY
    yield _judge(
        "state directory", writable, f"{wanted}{'' if writable else ' cannot be written'}", "set stateDir to another place"
    )
    yield _judge("disk space", free >= FREE_BYTES, f"{free >> 20} MiB free", f"make room below {there}", WARN)


def plugin(place: Place) -> Iterator[Finding]:
    """The executable answers, and runtimes that read the directory take our list."""
    install = "fairway install" + "".join(
        f" {flag} {value}"
        for flag, value, default in (
            ("--root", place.root, "/"),
            ("--bin-dir", place.bin_dir, "/opt/cni/bin"),
            ("--conf-dir", place.conf_dir, "/etc/cni/net.d"),
        )
        if value != default
    )
    bin_dir, conf_dir = inside(place.root, place.bin_dir), inside(place.root, place.conf_dir)
    answer = _plugin_version(bin_dir / BINARY)
    yield _judge("plugin", not answer, answer or f"{bin_dir / BINARY} answers", install)
    loopback = bin_dir / "loopback"
    remedy = f"containerd before 2.0 needs it: apt-get install containernetworking-plugins; ln -s /usr/lib/cni/loopback {bin_dir}"
    yield _judge("loopback plugin", loopback.exists(), str(loopback) + ("" if loopback.exists() else " is missing"), remedy, WARN)
    yield _network_list(conf_dir / CONFLIST, str(place.config.paths.socket), install)


def _plugin_version(binary: Path) -> str:
    """What is wrong with it; empty if it answers VERSION."""
    try:
        done = subprocess.run(
            [binary], env={"CNI_COMMAND": "VERSION"}, input=b"{}", capture_output=True, timeout=PLUGIN_SECONDS, check=False
        )
        versions = json.loads(done.stdout)["supportedVersions"]
        return "" if "1.0.0" in versions else f"{binary} does not speak CNI 1.0.0"
    except FileNotFoundError:
        return f"{binary} is missing"
    except (OSError, ValueError, LookupError, TypeError, subprocess.TimeoutExpired) as error:
        return f"{binary} gives no proper answer: {error}"


def _network_list(listed: Path, socket_path: str, install: str) -> Finding:
    subject = "network list"
    present = network_lists(listed.parent)
    if listed not in present:
        return Finding(subject, FAIL, f"{listed} is missing", install)
    try:
        configured = json.loads(listed.read_text())["plugins"][0].get("agentSocket")
    except (ValueError, LookupError, AttributeError, TypeError):
        return Finding(subject, FAIL, f"{listed} is not a network list", install)
    if configured != socket_path:
        remedy = f"{install} with the --config of this node"
        return Finding(subject, FAIL, f"{listed} asks {configured}, the agent is at {socket_path}", remedy)
    if present[0] != listed:
        return Finding(subject, FAIL, f"{present[0].name} comes before {listed.name}: runtimes use it instead", install)
    return Finding(subject, OK, f"{listed} is first")


def agent(client: Client) -> Iterator[Finding]:
    """Reachable, and content with what it finds."""
    try:
        status: dict[str, Any] = client.status()
    except FairwayError as error:
        yield Finding("agent", FAIL, str(error), "start it: fairway agent --config FILE (or its systemd unit), and read its log")
        return
    yield Finding("agent", OK, f"node {status.get('node')}, fairway {status.get('version')}")
    problems = status.get("problems") or []
    yield _judge("agent state", bool(status.get("ready")), "; ".join(problems) or "ready", "fairway status; the agent's log")


def names(config: Config) -> Iterator[Finding]:
    """Every DNS address answers the way containers ask it."""
    for address in config.dns.listen:
        fault = ask(address, config.dns.port, f"kubernetes.default.svc.{config.cluster.domain}")
        where = f"{address} port {config.dns.port}"
        remedy = "is the agent running? its log tells why a DNS worker ends; another server may hold the address"
        yield _judge("dns", not fault, f"{where}: {fault or 'answers'}", remedy)


def ask(address: str, port: int, name: str) -> str:
    """Ask for an A record over UDP; what is wrong, empty for an authoritative answer of any content (RFC 1035 section 4.1)."""
    labels = b"".join(struct.pack("B", len(label)) + label.encode() for label in name.split("."))
    query = struct.pack(">HHHHHH", os.getpid() & 0xFFFF, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(DNS_SECONDS)
            # Asked from the address itself: that fails unless it is this node's, so the question never leaves the node.
            sock.bind((address, 0))
            sock.connect((address, port))
            sock.send(query)
            answer = sock.recv(4096)
    except TimeoutError:
        return f"no answer within {DNS_SECONDS:g} s"
    except OSError as error:
        absent = error.errno == errno.EADDRNOTAVAIL
        return "this node has no such address" if absent else error.strerror or str(error)
    if answer[:2] != query[:2] or len(answer) < 12:
        return "an answer to something else"
    code = answer[3] & 0x0F
    if code not in (0, 3):
        return f"answers with error {code}"
    return "" if answer[2] & AUTHORITATIVE else "answers without authority: another server holds the address"


def _judge(subject: str, good: bool, found: str, remedy: str, otherwise: State = FAIL) -> Finding:
    return Finding(subject, OK, found) if good else Finding(subject, otherwise, found, remedy)
