"""The repository keeps its own rules: where things are, what they may be called, how long they may get."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPONENTS = ("agent", "cli", "cni", "core", "dns", "kernel", "netlab", "policy", "proxy", "store")
SOFT_CAP = 400

# Longer than the soft cap for a reason: each is one table of cases or one protocol in one place.
LONG = {
    "bench/dns.py",
    "cni/fairway_cni/attach.py",
    "cni/shim/shim.c",
    "tests/lab/test_policy_packets.py",
    "tests/lab/test_proxy_packets.py",
    "tests/unit/test_cni_attach.py",
    "tests/unit/test_dns_answer.py",
}

# Home directories and package registries differ from place to place.
_ELSEWHERE = re.compile(r"/home/\w+/|/root/\w|--(extra-)?index-url|pypi\.org/simple|://(?:nexus|artifactory|registry)[.\w-]*/")


def tracked(*patterns: str) -> list[Path]:
    """Files under version control, or about to be."""
    listed = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *patterns]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def modules() -> list[Path]:
    return [file for name in COMPONENTS for file in tracked(f"{name}/fairway_{name}/*.py")]


def test_no_file_depends_on_one_machine() -> None:
    own = Path(__file__).name
    found = []
    for file in tracked():
        text = file.read_bytes().decode(errors="replace")
        if file.name != own:
            found += [f"{file.relative_to(ROOT)}: {match[0]}" for match in _ELSEWHERE.finditer(text)]
    assert found == []


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_component_has_its_manual_and_one_package(name: str) -> None:
    folder = ROOT / name
    manual = (folder / "README.md").read_text()
    assert manual.startswith("# ")
    assert (folder / f"fairway_{name}" / "__init__.py").is_file()
    assert (folder / f"fairway_{name}" / "py.typed").is_file()
    assert [item.name for item in folder.glob("fairway_*")] == [f"fairway_{name}"]


def test_the_import_contracts_are_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    rules = project["tool"]["importlinter"]
    assert set(rules["root_packages"]) == {f"fairway_{name}" for name in COMPONENTS}
    layers, kernel, core = rules["contracts"][:3]
    assert layers["layers"] == [
        "fairway_cli | fairway_netlab",
        "fairway_agent",
        "fairway_cni | fairway_dns | fairway_proxy | fairway_policy",
        "fairway_kernel | fairway_store",
        "fairway_core",
    ]
    assert kernel["forbidden_modules"] == ["pyroute2", "nftables"]
    assert core["source_modules"] == ["fairway_core"]
    assert project["tool"]["mypy"]["strict"] is True
    assert project["tool"]["ruff"]["lint"]["mccabe"]["max-complexity"] <= 10


def test_files_stay_short() -> None:
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in tracked("*.py", "*.c")}
    assert {name: length for name, length in lengths.items() if length > SOFT_CAP and name not in LONG} == {}
    assert sorted(LONG - lengths.keys()) == [], "not there any more: take them off the list"


def test_every_module_says_what_it_is_for() -> None:
    assert len(modules()) > 100
    assert [str(file.relative_to(ROOT)) for file in modules() if not ast.get_docstring(ast.parse(file.read_text()))] == []


def test_every_public_class_that_does_something_says_what_it_promises() -> None:
    """Plain records whose fields say all may go without."""
    found = []
    for file in modules():
        for node in ast.parse(file.read_text()).body:
            acts = isinstance(node, ast.ClassDef) and any(
                isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and not item.name.startswith("_") for item in node.body
            )
            if acts and isinstance(node, ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node):
                found.append(f"{file.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert found == []


def test_nothing_is_left_for_later() -> None:
    words = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b|raise NotImplementedError")
    own = Path(__file__).name
    found = [file for file in tracked("*.py", "*.c", "*.md") if file.name != own and words.search(file.read_text())]
    assert found == []


def test_versions_are_pinned_and_no_host_is_named() -> None:
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = {line.split("==")[0].lower().replace("_", "-") for line in lines if line}
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line) for line in lines if line)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[<>=!~\[; ]", item, maxsplit=1)[0].lower().replace("_", "-") for item in wanted}
    assert names - pins == set()


def unit_file() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((ROOT / "deploy/systemd/fairway-agent.service").read_text())
    return parser


def test_the_unit_lets_what_must_live_on_live_on() -> None:
    service = unit_file()["Service"]
    assert (service["Type"], service["Restart"], service["KillMode"]) == ("notify", "always", "process")
    assert (service["RuntimeDirectory"], service["RuntimeDirectoryPreserve"]) == ("fairway", "yes")
    assert service["StateDirectory"] == "fairway"
    # Namespaces of containers must be seen, and /proc/sys/net written.
    assert not {"PrivateNetwork", "PrivateMounts", "ProtectKernelTunables", "ProtectSystem", "PrivateTmp"} & set(service)
    assert unit_file()["Install"]["WantedBy"] == "multi-user.target"


def test_the_unit_calls_commands_that_exist() -> None:
    from fairway_cli.main import cli

    service = unit_file()["Service"]
    for key in ("ExecStartPre", "ExecStart"):
        env, program, command = service[key].split()
        assert (env, program) == ("/usr/bin/env", "fairway")
        assert cli.get_command(cli.make_context("fairway", ["version"]), command) is not None
