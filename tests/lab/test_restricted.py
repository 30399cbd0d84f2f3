"""The agent with the capabilities of the DaemonSet and no others: attach, name, balance, deny, limit, detach, repair."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.lab.caller import Container
from tests.lab.restricted import Restricted
from tests.lab.system import agent_pid, container, eventually, on_node, policy, service, topology

from fairway_kernel.sysctl import Sysctls
from fairway_netlab.lab import Lab
from fairway_netlab.matrix import Matrix
from fairway_netlab.processes import in_namespace

pytestmark = pytest.mark.needs_root
MANIFEST = Path(__file__).parents[2] / "deploy/kubernetes/fairway.yaml"
FRONT = [{"from": [{"podSelector": {"matchLabels": {"app": "front"}}}]}]


def granted() -> list[str]:
    """The capabilities of both containers: here the agent starts its DNS workers itself."""
    (daemons,) = [item for item in yaml.safe_load_all(MANIFEST.read_text()) if item["kind"] == "DaemonSet"]
    both = [item["securityContext"]["capabilities"]["add"] for item in daemons["spec"]["template"]["spec"]["containers"]]
    return sorted({name for names in both for name in names})


@pytest.fixture
def restricted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Agents of laboratories of this test run as in the DaemonSet."""
    monkeypatch.setattr("fairway_netlab.run.in_namespace", Restricted(granted(), tmp_path))


@pytest.fixture
def foreign_process(namespaces: Callable[[str], str]) -> Iterator[int]:
    """A process of another user, with capabilities that the agent lacks, in a network namespace of its own."""
    netns = Path(namespaces("c")).name
    command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "sleep", "60"]
    process = subprocess.Popen(in_namespace(netns, command))
    yield process.pid
    process.kill()
    process.wait()


def capabilities_of(pid: int) -> set[str]:
    """Permitted and effective, as Kubernetes writes them."""
    shown = subprocess.run(["getpcaps", str(pid)], capture_output=True, text=True, check=True)
    names, _, flags = (shown.stdout + shown.stderr).partition(":")[2].strip().partition("=")
    assert flags == "ep", shown
    return {name.removeprefix("cap_").upper() for name in names.split(",")}


@pytest.mark.parametrize("mode", ["bridge", "routed"])
def test_the_capabilities_of_the_manifest_are_enough(
    restricted: None,
    lab: Callable[[dict[str, Any]], Lab],
    matrix: Callable[[Lab], Matrix],
    foreign_process: int,
    mode: str,
) -> None:
    guests = [container("web-1", port=8080, app="web"), container("front", app="front"), container("other")]
    one = lab(topology(mode, guests))
    assert capabilities_of(agent_pid(one)) == set(granted())

    one.apply([service("web"), policy("web", "shop", podSelector={"matchLabels": {"app": "web"}}, ingress=FRONT)])
    seen = matrix(one)
    seen.expect_some("front", "web", 80, answered_by=["web-1"])
    seen.expect_none("other", "web", 80)
    seen.check()
    assert "web.shop.svc.cluster.local" in one.exec("front", ["getent", "hosts", "web"], check=True).stdout

    # Some runtimes name a container's namespace by a process in it.
    conf = {
        "capabilities": {"bandwidth": True, "portMappings": True},
        "runtimeConfig": {
            "bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 800_000, "egressRate": 8_000_000, "egressBurst": 800_000},
            "portMappings": [{"hostPort": 18080, "containerPort": 8080, "protocol": "tcp"}],
        },
    }
    late = Container(one, f"/proc/{foreign_process}/ns/net")
    assert late.call("ADD", conf).result["ips"]
    assert late.call("CHECK", {**conf, "prevResult": late_result(late, conf)}).exit == 0
    assert late.call("DEL", conf).exit == 0

    settings = Sysctls(one.netns("n1"))
    settings.write("net.ipv4.ip_forward", "0")
    eventually(lambda: settings.read("net.ipv4.ip_forward") == "1", "a kernel setting is put back")
    on_node(one, "nft", "delete", "table", "inet", "fairway")
    eventually(lambda: "policy" in on_node(one, "nft", "list", "ruleset"), "rules are put back")
    again = matrix(one)
    again.expect_none("other", "web", 80)
    again.check()
    assert "not permitted" not in one.node().log_file.read_text().lower()


def late_result(late: Container, conf: dict[str, Any]) -> dict[str, Any]:
    """CHECK needs the result of the ADD, so that one is undone and made once more."""
    assert late.call("DEL", conf).exit == 0
    return late.call("ADD", conf).result


CODE = """
import sys
from pathlib import Path
from fairway_kernel.sysctl import Sysctls
here, there, name = Sysctls(), Sysctls(sys.argv[1]), "net.ipv4.ip_forward"
before = there.read(name)
there.write(name, "1")
print(before, there.read(name), here.read(name) == Path("/proc/sys/net/ipv4/ip_forward").read_text().strip())
"""


def test_kernel_settings_can_be_reached_elsewhere(namespace: str, tmp_path: Path) -> None:
    """The directory shows whoever reads it their own namespace's settings, as /proc/sys/net does."""
    mounts = 'mkdir "$1/net" && mount --bind /proc/sys/net "$1/net" && shift && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mounts, "sh", str(tmp_path), sys.executable, "-c", CODE, namespace]
    env = {**os.environ, "FAIRWAY_PROC_SYS": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, env=env)
    assert done.stdout.split() == ["0", "1", "True"], done.stderr
