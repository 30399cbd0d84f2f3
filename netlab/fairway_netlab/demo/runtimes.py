"""The second half: the same with real containers, started by podman and by containerd through our plugin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fairway_netlab.demo.story import Story
from fairway_netlab.lab import Lab
from fairway_netlab.runtimes.containerd import Containerd
from fairway_netlab.runtimes.image import BUSYBOX, write_image
from fairway_netlab.runtimes.node import RuntimeNode, installed_node
from fairway_netlab.runtimes.podman import Podman

NETWORK = "fairway"

# Resolve with busybox's own resolver and with libc's, then connect to what libc found.
SCRIPT = """
name=web.shop.svc.cluster.local
echo "address: $(ip -4 -o addr show eth0 | awk '{print $4}')"
echo "nslookup: $(nslookup -type=a $name | awk '/^Address: /{print $2}' | tail -n 1)"
vip=$(getent hosts $name | awk '{print $1; exit}')
echo "getent: $vip"
echo "answered: $(echo hello | nc -w 2 $vip 80 | head -n 1)"
closed=$(getent hosts api.payments.svc.cluster.local | awk '{print $1; exit}')
echo "payments: $(echo hello | nc -w 2 $closed 443 2>&1 | head -n 1)"
"""


def show_runtimes(lab: Lab, story: Story, work: Path) -> None:
    """Each runtime that can run here; one that cannot is named with the reason."""
    image = write_image(work / "image.tar") if BUSYBOX.exists() else None
    for title, missing, run in (
        ("podman run --network fairway", Podman.missing(), _podman),
        ("ctr run --cni (containerd)", Containerd.missing(), _containerd),
    ):
        with story.step(f"A real container: {title}"):
            absent = [*missing, *([] if image else ["busybox-static"])]
            if absent or image is None:
                story.tell(f"left out: not installed here: {', '.join(absent)}")
                continue
            _show(story, lambda run=run, image=image: run(lab, work, image))  # type: ignore[misc]


def _show(story: Story, run: Callable[[], str]) -> None:
    try:
        output = run()
    except Exception as fault:
        # A runtime may not work on a machine (no cgroups, no overlay): that is the machine's news, told and passed over.
        story.tell(f"left out: it does not run here: {fault}")
        return
    story.tell(output.strip())
    words = dict(line.split(":", 1) for line in output.strip().splitlines() if ":" in line)
    words = {name: value.strip() for name, value in words.items()}
    vip = words.get("nslookup", "")
    story.expect(vip.startswith("10.96.") and words.get("getent", "") != "", "the container resolves the service")
    story.expect(words.get("answered", "").startswith("web-"), "the container reaches an endpoint of it")
    story.expect("api-1" not in words.get("payments", "api-1"), "the container is kept out of payments")


def _node(lab: Lab, work: Path, name: str) -> RuntimeNode:
    node = lab.node()
    return installed_node(lab.netns(node.name), node.config_file, work / name)


def _podman(lab: Lab, work: Path, image: Path) -> str:
    with Podman(_node(lab, work, "podman"), NETWORK) as podman:
        podman.load(image)
        return podman.run("guest", ["sh", "-c", SCRIPT])


def _containerd(lab: Lab, work: Path, image: Path) -> str:
    resolv = work / "resolv.conf"
    resolv.write_text(lab.station("shop/front").resolv_conf)
    with Containerd(_node(lab, work, "containerd")) as containerd:
        containerd.load(image)
        return containerd.run("guest", ["sh", "-c", SCRIPT], resolv)
