"""Documents do not lie: their YAML is valid, their commands parse, their links lead somewhere, their walk-through is run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import pytest
from pydantic import BaseModel
from tests.lab.system import agent_pid, container, eventually, on_node, topology

from fairway_agent.config import Config, load_config
from fairway_cli.main import cli
from fairway_core.documents import validate
from fairway_netlab.session import LabSession
from fairway_netlab.topology import parse_topology

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
READMES = sorted(ROOT.glob("*/README.md"))
_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```", re.M | re.S)
_LINK = re.compile(r"\]\(([^)#\s]+)\)")


@dataclass(frozen=True)
class Block:
    """One fenced block: what its first line says, and where it stands."""

    info: str
    text: str
    place: str


def blocks(*kinds: str, files: list[Path] = DOCS) -> list[Block]:
    found = []
    for file in files:
        text = file.read_text()
        for match in _FENCE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(match[1].strip(), match[2], f"{file.relative_to(ROOT)}:{line}"))
    return [block for block in found if block.info.split(" ")[0] in kinds]


def named(items: list[Block]) -> Any:
    return pytest.mark.parametrize("block", items, ids=[item.place for item in items])


def test_there_are_documents_to_check() -> None:
    assert {file.name for file in DOCS} >= {
        "getting-started.md", "concepts.md", "operations.md", "configuration.md", "isolation.md", "names.md", "services.md",
        "metrics.md",
    }  # fmt: skip
    assert len(blocks("yaml")) > 10


@named(blocks("yaml"))
def test_yaml_is_valid(block: Block, tmp_path: Path) -> None:
    if block.info == "yaml config":
        file = tmp_path / "fairway.yaml"
        file.write_text(block.text)
        load_config(file)
    elif block.info == "yaml lab":
        parse_topology(block.place, block.text)
    else:
        assert validate(block.place, block.text)


@pytest.mark.parametrize("file", sorted((ROOT / "docs" / "examples").glob("*.yaml")), ids=lambda file: file.name)
def test_example_files_are_valid(file: Path) -> None:
    text = file.read_text()
    if file.name.endswith("lab.yaml"):
        parse_topology(file.name, text)
    elif file.name == "fairway.yaml":
        load_config(file)
    else:
        assert validate(file.name, text)


@named(blocks("sh", "console"))
def test_shell_blocks_are_shell(block: Block) -> None:
    script = "\n".join(commands(block))
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def commands(block: Block) -> list[str]:
    if block.info.startswith("console"):
        return [line[2:] for line in block.text.splitlines() if line.startswith("$ ")]
    return [line for line in block.text.splitlines() if line.strip()]


def fairway_lines() -> list[Any]:
    found = []
    for block in blocks("sh", "console", files=[*DOCS, ROOT / "README.md"]):
        for line in commands(block):
            words = shlex.split(line, comments=True)
            if words[0] == "fairway" or (words[0] == "sudo" and "fairway" in words):
                words = words[words.index("fairway") + 1 :]
                found.append(pytest.param(words, id=f"{block.place} {' '.join(words)[:40]}"))
    return found


@pytest.mark.parametrize("words", fairway_lines())
def test_commands_of_ours_parse(words: list[str]) -> None:
    """Every word is a command, an option that exists, or an argument that is wanted."""
    command: click.Command = cli
    context = click.Context(command, info_name="fairway")
    while isinstance(command, click.Group):
        assert words, "a command is missing"
        name, words = words[0], words[1:]
        found = command.get_command(context, name)
        assert found is not None, f"there is no command {name}"
        command, context = found, click.Context(found, info_name=name, parent=context)
    command.make_parser(context).parse_args(list(words))


@pytest.mark.parametrize("file", [*DOCS, *READMES, ROOT / "README.md"], ids=lambda file: str(file.relative_to(ROOT)))
def test_links_lead_somewhere(file: Path) -> None:
    links = [link for link in _LINK.findall(file.read_text()) if "://" not in link]
    assert [link for link in links if not (file.parent / link).exists()] == []


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, field.get_default(call_default_factory=True)


def test_every_configuration_key_is_explained_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([\w.]+)` \|.*\| (.*?) \|$", (ROOT / "docs" / "configuration.md").read_text(), re.M))
    wanted = dict(fields(Config))
    assert rows.keys() - {"FAIRWAY_AGENT", "FAIRWAY_CONFIG", "FAIRWAY_NAMESPACE", "FAIRWAY_OUTPUT", "NO_COLOR"} == wanted.keys()
    for key, default in wanted.items():
        if key != "node.name":
            said = f"[{', '.join(map(str, default))}]" if isinstance(default, list) else str(default)
            said = said.lower() if isinstance(default, bool) else said
            assert rows[key] == f"`{said}`", key


@pytest.mark.needs_root
@pytest.mark.parametrize("file", ["README.md", "docs/getting-started.md"])
def test_first_steps_are_run_as_written(file: str) -> None:
    """Every command of the console blocks, in order; the output shown must be part of the real one."""
    # pytest's own directories are too deep for the path of a unix socket.
    with TemporaryDirectory(prefix="fwdoc") as directory:
        _walk(file, Path(directory))


def _walk(file: str, tmp_path: Path) -> None:
    name = f"doc{os.getpid()}"
    own = tmp_path / "lab.yaml"
    own.write_text((ROOT / "docs/examples/shop-lab.yaml").read_text().replace("name: shop\n", f"name: {name}\n", 1))
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("FAIRWAY_")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "FAIRWAY_LAB_DIR": str(tmp_path),
    }
    try:
        for block in blocks("console", files=[ROOT / file]):
            assert block.info == "console run"
            for line, output in steps(block.text):
                _run(_moved(line, name, own, tmp_path), output, environment, name)
    finally:
        subprocess.run(["fairway", "lab", "down", name], env=environment, capture_output=True, check=False)


def steps(text: str) -> Iterator[tuple[str, list[str]]]:
    for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
        line, *output = part.splitlines()
        yield line, output


def _moved(line: str, name: str, own: Path, directory: Path) -> str:
    line = line.replace("docs/examples/shop-lab.yaml", str(own)).replace("/run/fairway-lab/shop/", f"{directory}/{name}/")
    return re.sub(r"fairway lab (exec|down|probe) shop\b", rf"fairway lab \1 {name}", line)


def _run(line: str, output: list[str], environment: dict[str, str], name: str) -> None:
    command, _, wanted = line.partition("   # exit ")
    if command.startswith("export "):
        key, _, value = command.removeprefix("export ").partition("=")
        environment[key] = value
        return
    done = subprocess.run(
        ["bash", "-c", command], env=environment, cwd=ROOT, text=True, capture_output=True, timeout=60, check=False
    )
    shown = done.stdout + done.stderr
    assert done.returncode == int(wanted or 0), (command, shown)
    real = " ".join(shown.replace(name, "shop").split())
    for expected in output:
        assert " ".join(expected.split()) in real, (command, expected, shown)


@pytest.mark.needs_root
def test_the_clean_up_of_the_operations_manual_leaves_nothing() -> None:
    (block,) = [item for item in blocks("sh") if item.info == "sh cleanup"]
    with LabSession() as session:
        one = session.up(topology(containers=[container("a", port=8080)]))
        run = one.node().config["runDir"]
        os.kill(agent_pid(one), 15)
        eventually(lambda: not Path(run, "agent.sock").exists() or not _answers(one), "the agent is gone")
        workers = on_node(one, "pgrep", "-f", "fairway_dns.worker --feed " + run)
        assert workers
        script = block.text.replace("/run/fairway", run)
        on_node(one, "bash", "-ec", script)
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers.split()), "the workers are gone")
        assert "fairway" not in on_node(one, "nft", "list", "tables")
        assert "fw" not in on_node(one, "ip", "-br", "link")
        assert on_node(one, "ip", "route", "show", "proto", "157") == ""
        assert "169.254.20.10" not in on_node(one, "ip", "addr", "show", "lo")


def _answers(one: Any) -> bool:
    try:
        return bool(agent_pid(one))
    except (AssertionError, subprocess.CalledProcessError):
        return False
