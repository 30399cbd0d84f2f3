"""Commands that read files: what is read, how faults are told, what is sent to the agent."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from fairway_cli.client import Client
from fairway_cli.commands.diff import diff_lines
from fairway_cli.main import main
from fairway_core.keys import Key

SERVICE = """apiVersion: v1
kind: Service
metadata: {name: NAME, namespace: shop}
spec:
  ports: [{port: PORT}]
"""

Run = Callable[..., tuple[int, str, str]]


def service(name: str = "web", port: object = 80) -> str:
    return SERVICE.replace("NAME", name).replace("PORT", str(port))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        code = main(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return call


class RecordingClient:
    """In the place of the client's calls: remembers them, answers as the agent does."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.action = "created"

    def apply(self, documents: Sequence[Mapping[str, Any]], dry_run: bool = False) -> dict[str, Any]:
        self.calls.append(("apply", [item["metadata"]["name"] for item in documents], dry_run))
        results = [
            {
                "key": {"kind": item["kind"], "namespace": "shop", "name": item["metadata"]["name"]},
                "action": self.action,
                "before": item if self.action == "unchanged" else None,
                "after": item,
            }
            for item in documents
        ]
        return {"revision": 7, "results": results}

    def wait(self, revision: int, timeout: float) -> dict[str, Any]:
        self.calls.append(("wait", revision, timeout))
        return {"live": {}}

    def delete(self, keys: Sequence[Key]) -> dict[str, Any]:
        self.calls.append(("delete", [str(key) for key in keys]))
        item = [{"key": {"kind": key.kind, "namespace": key.namespace, "name": key.name}, "action": "deleted"} for key in keys]
        return {"revision": 8, "results": item}


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> RecordingClient:
    recording = RecordingClient()
    for name in ("apply", "wait", "delete"):
        monkeypatch.setattr(Client, name, lambda _, *args, _name=name, **more: getattr(recording, _name)(*args, **more))
    return recording


def test_apply_sends_everything_at_once(client: RecordingClient, run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(service("web") + "---\n" + service("api"))
    code, out, err = run("apply", "-f", str(tmp_path / "a.yaml"), "-f", "-", stdin=service("db"))
    assert (code, err) == (0, "")
    assert out == "service/web created\nservice/api created\nservice/db created\n"
    assert client.calls == [("apply", ["web", "api", "db"], False)]


def test_a_directory_gives_its_documents_in_order_and_recursively_only_if_asked(
    client: RecordingClient, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "b.yml").write_text(service("b"))
    (tmp_path / "a.yaml").write_text(service("a"))
    (tmp_path / "inner" / "c.json").write_text('{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "c"}}')
    (tmp_path / "README.md").write_text("{")
    assert run("apply", "-f", str(tmp_path))[0] == 0
    assert run("apply", "-R", "-f", str(tmp_path))[0] == 0
    assert [call[1] for call in client.calls] == [["a", "b"], ["a", "b", "c"]]


def test_apply_waits_until_it_is_live(client: RecordingClient, run: Run) -> None:
    assert run("apply", "-f", "-", "--wait", "--timeout", "5", stdin=service())[0] == 0
    assert client.calls[1] == ("wait", 7, 5.0)


def test_a_dry_run_changes_and_waits_for_nothing(client: RecordingClient, run: Run) -> None:
    assert run("apply", "-f", "-", "--dry-run", "--wait", stdin=service()) == (0, "service/web created (dry run)\n", "")
    assert client.calls == [("apply", ["web"], True)]


def test_delete_takes_the_keys_of_files(client: RecordingClient, run: Run) -> None:
    assert run("delete", "-f", "-", stdin=service()) == (0, "service/web deleted\n", "")
    assert client.calls == [("delete", ["Service/shop/web"])]


def test_validate_needs_no_agent(run: Run) -> None:
    assert run("validate", "-f", "-", stdin=service()) == (0, "1 document is valid\n", "")


def test_every_fault_of_every_file_is_one_line_with_its_place(client: RecordingClient, run: Run, tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(service(port=70000) + "---\n" + service("api", "x").replace("ports", "portz"))
    two.write_text(service(port=0))
    for command in ("validate", "apply", "diff"):
        code, out, err = run(command, "-f", str(one), "-f", str(two))
        assert (code, out) == (2, "")
        lines = err.splitlines()
        assert len(lines) == 3
        assert lines[0].startswith(f"error: {one}:5:18: spec.ports[0].port: ")
        assert lines[1].startswith(f"error: {one}:11:3: spec.portz: unknown field")
        assert lines[2].startswith(f"error: {two}:5:18: spec.ports[0].port: ")
    assert client.calls == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.yaml", "none.yaml: No such file or directory"),
        ("latin.yaml", "latin.yaml: is not UTF-8 text"),
        ("empty", "no documents in "),
    ],
)
def test_what_cannot_be_read_is_told(run: Run, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9")
    (tmp_path / "empty").mkdir()
    code, _, err = run("validate", "-f", str(tmp_path / name))
    assert code == 2
    assert message in err and err.count("\n") == 1


def test_diff_is_quiet_without_a_difference(client: RecordingClient, run: Run) -> None:
    client.action = "unchanged"
    assert run("diff", "-f", "-", stdin=service()) == (0, "", "")
    assert client.calls == [("apply", ["web"], True)]


def test_diff_of_a_new_object_shows_all_of_it(client: RecordingClient, run: Run) -> None:
    code, out, _ = run("diff", "-f", "-", stdin=service())
    assert code == 1
    assert out.splitlines()[:4] == [
        "--- live/Service/shop/web",
        "+++ applied/Service/shop/web",
        "@@ -0,0 +1,8 @@",
        "+apiVersion: v1",
    ]


def test_diff_is_of_canonical_text() -> None:
    before = {"kind": "Service", "spec": {"a": 1, "b": [1, 2]}}
    after = {"spec": {"b": [1, 3], "a": 1}, "kind": "Service"}
    key = {"kind": "Service", "namespace": "", "name": "web"}
    lines = list(diff_lines({"key": key, "before": before, "after": after}))
    assert [line for line in lines[3:] if line[0] in "+-"] == ["-  - 2", "+  - 3"]
    assert list(diff_lines({"key": key, "before": before, "after": dict(reversed(before.items()))})) == []
