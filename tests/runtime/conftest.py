"""One laboratory, one image and one containerd for all runtime tests; each test leaves them as it found them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from tests.runtime.scene import require, runtime_node, scene

from fairway_netlab.lab import Lab
from fairway_netlab.runtimes.containerd import Containerd
from fairway_netlab.runtimes.image import write_image
from fairway_netlab.runtimes.podman import Podman
from fairway_netlab.runtimes.runc import Runc
from fairway_netlab.session import LabSession

LOOPBACK = Path("/usr/lib/cni/loopback")


@pytest.fixture(scope="package")
def node_lab() -> Iterator[Lab]:
    topology, documents = scene()
    with LabSession() as session:
        # A name of its own: other sessions of this process count from one too.
        lab = session.up({"name": f"runtimes{os.getpid()}", **topology})
        lab.apply(documents)
        yield lab


@pytest.fixture(scope="package")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image(tmp_path_factory.mktemp("image") / "image.tar")


@pytest.fixture(scope="package")
def resolv(node_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For runtimes that ignore the DNS part of a CNI result."""
    path = tmp_path_factory.mktemp("resolv") / "resolv.conf"
    path.write_text(node_lab.station("front").resolv_conf.replace("shop.svc", "default.svc"))
    return path


@pytest.fixture(scope="package")
def containerd(node_lab: Lab, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Containerd]:
    require([*Containerd.missing(), *([] if LOOPBACK.exists() else ["containernetworking-plugins"])])
    image: Path = request.getfixturevalue("image")
    node = runtime_node(node_lab, tmp_path_factory.mktemp("containerd"))
    # containerd before 2.0 runs this plugin too, from the same directory.
    (node.cni_bin / "loopback").symlink_to(LOOPBACK)
    with Containerd(node) as daemon:
        daemon.load(image)
        daemon.load(image, "k8s.io")
        yield daemon


@pytest.fixture(scope="package")
def podman(node_lab: Lab, request: pytest.FixtureRequest) -> Iterator[Podman]:
    require(Podman.missing())
    image: Path = request.getfixturevalue("image")
    # podman takes no run directory of more than 50 characters.
    with TemporaryDirectory(prefix="fw-", dir="/tmp") as work, Podman(runtime_node(node_lab, Path(work)), "fairway") as store:
        store.load(image)
        yield store


@pytest.fixture
def runc(node_lab: Lab, tmp_path: Path) -> Iterator[Runc]:
    require(Runc.missing())
    with Runc(runtime_node(node_lab, tmp_path)) as runtime:
        yield runtime
