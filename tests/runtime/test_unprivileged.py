"""The containers as the manifest describes them, under a real runtime: what they must reach they reach, and neither takes the
names away when it ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import dns.exception
import dns.message
import dns.query
import pytest
import yaml
from tests.lab.asking import Asking
from tests.lab.system import eventually
from tests.runtime.scene import require

from fairway_kernel import netns
from fairway_netlab.control import call, request
from fairway_netlab.processes import LabError

pytestmark = [pytest.mark.needs_root, pytest.mark.runtime]
REPOSITORY = Path(__file__).resolve().parents[2]
MANIFEST = REPOSITORY / "deploy/kubernetes/fairway.yaml"
LISTEN = "169.254.20.10"
QUIET: dict[str, Any] = {"stdin": subprocess.DEVNULL}
CODE = """
import sys
from contextlib import suppress
from pathlib import Path
from fairway_kernel.link.manager import KernelLinks
from fairway_kernel.nft.libnft import LibnftablesRunner
from fairway_kernel.sysctl import Sysctls
wanted = {"net.ipv4.ip_forward": "1"}
here, there = Sysctls(), Sysctls(sys.argv[1])
assert here.ensure(wanted) == there.ensure(wanted) == {"net.ipv4.ip_forward": "0"}
assert here.ensure(wanted) == there.ensure(wanted) == {}
for path in ("/proc/sys/net/ipv4/ip_forward", "/written"):
    with suppress(OSError):
        Path(path).write_text("1")
        raise SystemExit(f"{path} can be written")
links = KernelLinks()
links.ensure_loopback(["169.254.20.10"])
links.close()
LibnftablesRunner().close()
print("all is well")
"""
# The machine's own files stand in for the image: below an overlay, in a mount namespace that goes with the command.
OVERLAY = (
    'mount -t tmpfs tmpfs "$1/over" && mkdir "$1/over/up" "$1/over/work" && mount -t overlay overlay '
    '-o "lowerdir=/,upperdir=$1/over/up,workdir=$1/over/work" "$1/root" && exec runc --root "$1/state" run -b "$1" "$2"'
)


def part(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A container, and its pod's volumes by name."""
    (daemons,) = [item for item in yaml.safe_load_all(MANIFEST.read_text()) if item["kind"] == "DaemonSet"]
    pod = daemons["spec"]["template"]["spec"]
    (found,) = [item for item in pod["containers"] if item["name"] == name]
    return found, {volume["name"]: volume for volume in pod["volumes"]}


def mounts(name: str, directories: Mapping[str, Path]) -> list[dict[str, Any]]:
    """The kernel's file systems as the manifest mounts them; `directories` stand in for volumes of the node's own."""
    container, volumes = part(name)
    found = [("/proc", "proc", "proc", []), ("/dev", "tmpfs", "tmpfs", ["mode=755"]), ("/tmp", "tmpfs", "tmpfs", [])]
    # The program may itself lie below one of these.
    found += [(str(path), "none", str(path), ["rbind", "ro"]) for path in dict.fromkeys((REPOSITORY, Path(sys.prefix)))]
    for mount in container["volumeMounts"]:
        source = volumes[mount["name"]].get("hostPath", {}).get("path", "")
        if source.startswith(("/proc", "/run/netns")):
            slave = ["rslave"] if mount.get("mountPropagation") == "HostToContainer" else []
            found.append((mount["mountPath"], "none", source, ["rbind", "rw", *slave]))
        elif mount["name"] in directories:
            access = "ro" if mount.get("readOnly") else "rw"
            found.append((mount["mountPath"], "none", str(directories[mount["name"]]), ["rbind", access]))
    names = ("destination", "type", "source", "options")
    return [dict(zip(names, item, strict=True)) for item in found]


def bundle(
    name: str, root: Path, own: str, arguments: list[str], directories: Mapping[str, Path] | None = None
) -> dict[str, Any]:
    """An OCI configuration with what a CRI runtime makes of the security context."""
    container, _ = part(name)
    security = container["securityContext"]
    capabilities = [f"CAP_{name}" for name in security["capabilities"]["add"]]
    env = [f"{item['name']}={item['value']}" for item in container["env"] if "value" in item]
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": arguments,
            "env": ["PATH=/usr/bin:/bin:/usr/sbin:/sbin", "PYTHONDONTWRITEBYTECODE=1", *env],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            "noNewPrivileges": not security["allowPrivilegeEscalation"],
        },
        "root": {"path": str(root), "readonly": security["readOnlyRootFilesystem"]},
        "mounts": mounts(name, directories or {}),
        "linux": {
            "namespaces": [{"type": "mount"}, {"type": "network", "path": own}],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


def test_the_container_of_the_manifest_reaches_what_it_needs(namespaces: Callable[[str], str], tmp_path: Path) -> None:
    require([] if Path("/usr/sbin/runc").exists() else ["runc"])
    for name in ("root", "over"):
        (tmp_path / name).mkdir()
    arguments = [sys.executable, "-c", CODE, namespaces("other")]
    (tmp_path / "config.json").write_text(json.dumps(bundle("agent", tmp_path / "root", namespaces("own"), arguments)))
    done = subprocess.run(run_command(tmp_path, "agent"), capture_output=True, text=True, check=False, timeout=60, **QUIET)
    assert done.stdout == "all is well\n", done.stderr


def run_command(directory: Path, name: str) -> list[str]:
    wanted = f"fairway-{name}-{os.getpid()}"
    return ["unshare", "--mount", "--propagation", "slave", "sh", "-c", OVERLAY, "sh", str(directory), wanted]


class Containers:
    """The containers of one pod in the namespace at `own`, each to be started and killed by itself."""

    def __init__(self, directory: Path, own: str) -> None:
        self._directory = directory
        self.own = own
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.shared = {name: directory / name for name in ("config", "state", "run")}
        for path in self.shared.values():
            path.mkdir()
        (self.shared["config"] / "fairway.yaml").write_text("node: {name: n1}\nhealth: {listen: ''}\n")

    def start(self, name: str) -> None:
        """As kubelet does: a container of the same description, anew."""
        place = self._directory / f"{name}-{time.monotonic_ns()}"
        for part_of in ("root", "over"):
            (place / part_of).mkdir(parents=True)
        arguments = [sys.executable, "-m", "fairway_cli.main", *part(name)[0]["args"]]
        (place / "config.json").write_text(json.dumps(bundle(name, place / "root", self.own, arguments, self.shared)))
        with (self._directory / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(run_command(place, place.name), stdout=log, stderr=log, **QUIET)

    def kill(self, name: str) -> None:
        """SIGKILL to every process of the container at once, as a runtime ends one whose process ids are the host's."""
        for pid in self.processes(name):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._running.pop(name).wait(20)

    def processes(self, name: str) -> list[int]:
        """All in the container's mount namespace."""
        words = part(name)[0]["args"][0]
        inits = [
            pid for pid in pids() if command_of(pid)[1:4] == ["-m", "fairway_cli.main", words] and net_of(pid) == self._net()
        ]
        spaces = {str(Path(f"/proc/{pid}/ns/mnt").readlink()) for pid in inits}
        return [pid for pid in pids() if mount_of(pid) in spaces]

    def _net(self) -> str:
        return f"net:[{Path(self.own).stat().st_ino}]"

    def close(self) -> None:
        for name in list(self._running):
            self.kill(name)


def pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def command_of(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return []


def mount_of(pid: int) -> str:
    with suppress(OSError):
        return str(Path(f"/proc/{pid}/ns/mnt").readlink())
    return ""


def net_of(pid: int) -> str:
    with suppress(OSError):
        return str(Path(f"/proc/{pid}/ns/net").readlink())
    return ""


@pytest.fixture
def pod(namespaces: Callable[[str], str], tmp_path: Path) -> Iterator[Containers]:
    require([] if Path("/usr/sbin/runc").exists() else ["runc"])
    found = Containers(tmp_path, namespaces("own"))
    yield found
    found.close()


def ready(pod: Containers) -> bool:
    with suppress(OSError, LabError, HTTPException):
        return request(pod.shared["run"] / "agent.sock", "GET", "/readyz", timeout=2)[0] == 200
    return False


def with_address(name: str, address: str) -> list[dict[str, Any]]:
    """A headless service with an endpoint of its own."""
    meta = {"name": name, "namespace": "shop"}
    spec = {"clusterIP": "None", "ports": [{"port": 80}]}
    labels = {"kubernetes.io/service-name": name}
    piece = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-1", "namespace": "shop", "labels": labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address]}],
        "ports": [{"port": 80}],
    }
    return [{"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}, piece]


def answer(own: str, name: str) -> list[str]:
    def ask() -> list[str]:
        reply = dns.query.udp(dns.message.make_query(f"{name}.shop.svc.cluster.local", "A"), LISTEN, timeout=1)
        return [item.address for rrset in reply.answer for item in rrset]

    with suppress(dns.exception.Timeout, OSError):
        return netns.run_in(own, ask)
    return []


@pytest.mark.timeout(180)
def test_names_outlive_the_agents_container_and_follow_the_next_one(
    pod: Containers,
) -> None:
    own = pod.own
    pod.start("dns")
    pod.start("agent")
    eventually(lambda: ready(pod), "the agent is ready", 60)
    socket = pod.shared["run"] / "agent.sock"
    call(socket, "POST", "/v1/apply", {"documents": with_address("web", "192.0.2.1"), "dryRun": False})
    eventually(lambda: answer(own, "web") == ["192.0.2.1"], "the name is answered")
    for pid in pod.processes("dns"):
        assert granted_to(pid) == set(part("dns")[0]["securityContext"]["capabilities"]["add"])
    assert len(pod.processes("dns")) == 2, "the host and one worker"
    with Asking(own, LISTEN, "web.shop.svc.cluster.local") as asking:
        for number in range(2):
            pod.kill("agent")
            time.sleep(0.5)
            pod.start("agent")
            eventually(lambda: ready(pod), "the agent is ready again", 60)
            call(socket, "POST", "/v1/apply", {"documents": with_address(f"new-{number}", "192.0.2.2"), "dryRun": False})
            eventually(lambda name=f"new-{number}": answer(own, name) == ["192.0.2.2"], "a new revision is answered")
    asking.check()
    # One that hangs is ended by the agent, which has no more rights than being the same user.
    record = pod.shared["run"] / "dns-0.pid"
    hung = json.loads(record.read_text())["pid"]
    os.kill(hung, signal.SIGSTOP)
    eventually(lambda: not Path(f"/proc/{hung}").exists(), "it is replaced and ended", 30)
    eventually(lambda: answer(own, "web") == ["192.0.2.1"], "its successor answers")
    # The other way round: the table is on disk, and the host starts its workers from their records.
    pod.kill("dns")
    assert answer(own, "web") == []
    pod.start("dns")
    eventually(lambda: answer(own, "web") == ["192.0.2.1"], "names are answered again")
    call(socket, "POST", "/v1/apply", {"documents": with_address("last", "192.0.2.3"), "dryRun": False})
    eventually(lambda: answer(own, "last") == ["192.0.2.3"], "and follow the agent", 30)


def granted_to(pid: int) -> set[str]:
    shown = subprocess.run(["getpcaps", str(pid)], capture_output=True, text=True, check=True)
    names = (shown.stdout + shown.stderr).partition(":")[2].strip().partition("=")[0]
    return {name.removeprefix("cap_").upper() for name in names.split(",")}
