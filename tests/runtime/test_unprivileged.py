"""The agent's container as the manifest describes it, under a real runtime: what it must reach of the kernel, it reaches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.runtime.scene import require

pytestmark = [pytest.mark.needs_root, pytest.mark.runtime]
REPOSITORY = Path(__file__).resolve().parents[2]
MANIFEST = REPOSITORY / "deploy/kubernetes/fairway.yaml"
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


def agent() -> tuple[dict[str, Any], dict[str, Any]]:
    """The agent's container, and its pod's volumes by name."""
    (daemons,) = [item for item in yaml.safe_load_all(MANIFEST.read_text()) if item["kind"] == "DaemonSet"]
    pod = daemons["spec"]["template"]["spec"]
    return pod["containers"][0], {volume["name"]: volume for volume in pod["volumes"]}


def mounts() -> list[dict[str, Any]]:
    """The kernel's file systems as the manifest mounts them; directories of the node's own are not touched."""
    container, volumes = agent()
    found = [("/proc", "proc", "proc", []), ("/dev", "tmpfs", "tmpfs", ["mode=755"]), ("/tmp", "tmpfs", "tmpfs", [])]
    # The program may itself lie below one of these.
    found += [(str(path), "none", str(path), ["rbind", "ro"]) for path in dict.fromkeys((REPOSITORY, Path(sys.prefix)))]
    for mount in container["volumeMounts"]:
        source = volumes[mount["name"]].get("hostPath", {}).get("path", "")
        if source.startswith(("/proc", "/run/netns")):
            slave = ["rslave"] if mount.get("mountPropagation") == "HostToContainer" else []
            found.append((mount["mountPath"], "none", source, ["rbind", "rw", *slave]))
    names = ("destination", "type", "source", "options")
    return [dict(zip(names, item, strict=True)) for item in found]


def bundle(root: Path, own: str, arguments: list[str]) -> dict[str, Any]:
    """An OCI configuration with what a CRI runtime makes of the security context."""
    container, _ = agent()
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
        "mounts": mounts(),
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
    (tmp_path / "config.json").write_text(json.dumps(bundle(tmp_path / "root", namespaces("own"), arguments)))
    command = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", OVERLAY, "sh", str(tmp_path), f"fairway-{os.getpid()}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL)
    assert done.stdout == "all is well\n", done.stderr
