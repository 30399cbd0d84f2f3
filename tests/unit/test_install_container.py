"""The container image's recipe: what it names exists here. (Building it takes a registry.)"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECIPE = (ROOT / "deploy/container/Containerfile").read_text()


def test_it_copies_what_there_is_and_starts_what_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert re.findall(r"^COPY (?!--from)(\S+) /src$", RECIPE, re.MULTILINE) == ["."]
    assert all((ROOT / name).is_file() for name in re.findall(r"/src/(\S+)", RECIPE))
    entry = re.search(r'^ENTRYPOINT \["(\S+)"\]$', RECIPE, re.MULTILINE)
    assert entry is not None
    assert entry[1] in project["scripts"]


def test_its_packages_are_those_that_dev_installs() -> None:
    listed = re.search(r"^PACKAGES=\((.*?)\)", (ROOT / "dev").read_text(), re.MULTILINE | re.DOTALL)
    assert listed is not None
    installed = {name for line in re.findall(r"--no-install-recommends ([^\\\n]+)", RECIPE) for name in line.split()}
    assert installed <= set(listed[1].split())
    assert {"libnftables1", "gcc", "python3"} <= installed


def test_the_documented_paths_are_the_defaults() -> None:
    text = (ROOT / "docs/runtimes.md").read_text()
    for path in ("/opt/cni/bin", "/etc/cni/net.d", "10-fairway.conflist", "169.254.20.10", "--keep-others"):
        assert path in text
