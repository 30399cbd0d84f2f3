"""The `fairway` command against an agent that answers from a dictionary, over a real unix socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

import pytest

from fairway_cli.main import main

WEB = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"}},
    "spec": {"clusterIP": "10.96.0.7", "selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
}
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web-1", "namespace": "shop", "labels": {"app": "web"}},
    "spec": {"nodeName": "n1"},
    "status": {"phase": "Running", "podIPs": [{"ip": "10.244.0.5"}], "conditions": [{"type": "Ready", "status": "True"}]},
}
POLICY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "web-only", "namespace": "shop"},
    "spec": {"podSelector": {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "old", "operator": "DoesNotExist"}]}},
}
NOT_FOUND = (404, {"error": {"kind": "notfound", "message": "Service/shop/nope does not exist", "place": None}})


class FakeAgent(ThreadingMixIn, UnixStreamServer):
    """Answers `answers[method path]`, a body or (status, body); remembers the bodies it got."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.answers: dict[str, Any] = {}
        self.requests: list[tuple[str, Any]] = []
        super().__init__(str(path), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: FakeAgent

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        return

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.server.requests.append((self.path, json.loads(self.rfile.read(length)) if length else None))
        found = self.server.answers.get(f"{self.command} {self.path}", NOT_FOUND)
        status, body = found if isinstance(found, tuple) else (200, found)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = _answer


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAgent]:
    path = tmp_path / "agent.sock"
    monkeypatch.setenv("FAIRWAY_AGENT", str(path))
    with FakeAgent(path) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return call


Run = Callable[..., tuple[int, str, str]]


def test_get_prints_a_table(agent: FakeAgent, run: Run) -> None:
    agent.answers["GET /v1/objects/services?namespace=shop"] = {"revision": 3, "items": [WEB]}
    code, out, err = run("get", "svc", "-n", "shop")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "NAME   TYPE        CLUSTER-IP   EXTERNAL-IP   PORT(S)",
        "web    ClusterIP   10.96.0.7    <none>        80/TCP",
    ]


def test_get_of_all_namespaces_names_them_and_wide_shows_more(agent: FakeAgent, run: Run) -> None:
    agent.answers["GET /v1/objects/pods?selector=app%3Dweb"] = {"revision": 3, "items": [POD]}
    code, out, _ = run("get", "pods", "-A", "-l", "app=web", "-o", "wide")
    assert code == 0
    assert out.splitlines()[0].split() == ["NAMESPACE", "NAME", "READY", "STATUS", "IP", "NODE", "LABELS"]
    assert out.splitlines()[1].split() == ["shop", "web-1", "True", "Running", "10.244.0.5", "n1", "app=web"]


def test_get_formats(agent: FakeAgent, run: Run) -> None:
    agent.answers["GET /v1/objects/services?namespace=shop"] = {"revision": 3, "items": [WEB]}
    agent.answers["GET /v1/objects/services/web?namespace=shop"] = {"revision": 3, "item": WEB}
    assert json.loads(run("get", "svc", "-n", "shop", "-o", "json")[1]) == {"apiVersion": "v1", "kind": "List", "items": [WEB]}
    assert json.loads(run("get", "svc", "web", "-n", "shop", "-o", "json")[1]) == WEB
    assert run("get", "svc", "-n", "shop", "-o", "name")[1] == "service/web\n"
    assert "  clusterIP: 10.96.0.7\n" in run("get", "svc", "web", "-n", "shop", "-o", "yaml")[1]


def test_get_shows_what_exists_and_fails_for_what_does_not(agent: FakeAgent, run: Run) -> None:
    agent.answers["GET /v1/objects/services/web?namespace=shop"] = {"revision": 3, "item": WEB}
    code, out, err = run("get", "svc", "web", "nope", "-n", "shop")
    assert code == 1
    assert "10.96.0.7" in out
    assert err == "error: Service/shop/nope does not exist\n"


def test_get_of_nothing_says_so_on_stderr(agent: FakeAgent, run: Run) -> None:
    agent.answers["GET /v1/objects/services?namespace=default"] = {"revision": 3, "items": []}
    assert run("get", "svc") == (0, "", "No objects found in namespace default.\n")


def test_policy_selectors_read_as_in_kubectl(agent: FakeAgent, run: Run) -> None:
    agent.answers["GET /v1/objects/networkpolicies?namespace=shop"] = {"revision": 3, "items": [POLICY]}
    assert run("get", "netpol", "-n", "shop")[1].splitlines()[1].split() == ["web-only", "app=web,!old"]


def test_watch_prints_the_list_then_changes_then_deletions(agent: FakeAgent, run: Run) -> None:
    changed = {**WEB, "spec": {**WEB["spec"], "type": "NodePort"}}
    key = {"kind": "Service", "namespace": "shop", "name": "web"}
    events = [
        {"type": "PUT", "document": WEB, "revision": 1},
        {"type": "SYNC", "revision": 1},
        {"type": "PUT", "document": changed, "revision": 2},
        {"type": "DELETE", "key": key, "revision": 3},
    ]
    body = b"".join(json.dumps(event).encode() + b"\n" for event in events)
    agent.answers["GET /v1/objects/services?namespace=shop&watch=1"] = (200, body)
    types = [line.split()[1] for line in run("get", "svc", "-n", "shop", "-w")[1].splitlines()]
    assert types == ["TYPE", "ClusterIP", "NodePort", "NodePort"]
    lines = run("get", "svc", "-n", "shop", "-w", "-o", "json")[1].splitlines()
    assert [json.loads(line)["type"] for line in lines] == ["PUT", "PUT", "DELETE"]


def test_an_agent_that_is_not_there_is_exit_code_3(tmp_path: Path, run: Run) -> None:
    code, out, err = run("--agent", str(tmp_path / "none.sock"), "status")
    assert (code, out) == (3, "")
    assert err == f"error: no agent at {tmp_path}/none.sock: No such file or directory\n"


def test_the_command_s_own_agent_flag_wins(agent: FakeAgent, run: Run, tmp_path: Path) -> None:
    agent.answers["GET /v1/status"] = {"ready": True}
    assert run("--agent", str(tmp_path / "none.sock"), "status", "--agent", str(tmp_path / "agent.sock"))[0] == 0


@pytest.mark.parametrize("body", [b"junk", b"[]", b"", b'{"items": '])
def test_an_answer_that_is_no_answer_is_exit_code_3(agent: FakeAgent, run: Run, body: bytes) -> None:
    agent.answers["GET /v1/objects/services?namespace=default"] = (200, body)
    code, _, err = run("get", "svc")
    assert code == 3
    assert err.startswith("error: agent at ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("kind", "code"),
    [("user", 2), ("notfound", 1), ("conflict", 1), ("kernel", 1), ("unavailable", 1), ("news", 1)],
)
def test_errors_of_the_agent_give_the_documented_exit_code(agent: FakeAgent, run: Run, kind: str, code: int) -> None:
    place = {"file": "shop.yaml", "line": 12, "column": 5, "field": "spec.ports[0].port"} if kind == "user" else None
    agent.answers["GET /v1/status"] = (400, {"error": {"kind": kind, "message": "no good", "place": place}})
    where = "shop.yaml:12:5: spec.ports[0].port: " if place else ""
    assert run("status") == (code, "", f"error: {where}no good\n")


def test_an_error_without_the_documented_body_is_still_one_line(agent: FakeAgent, run: Run) -> None:
    agent.answers["GET /v1/status"] = (502, b"<html>\nbad gateway")
    assert run("status") == (1, "", "error: the agent answered 502: <html>\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["get"],
        ["get", "doors"],
        ["get", "svc", "web", "-A"],
        ["get", "svc", "-o", "xml"],
        ["delete"],
        ["delete", "svc"],
        ["delete", "svc", "web", "-f", "x.yaml"],
        ["apply"],
        ["why", "a"],
        ["why", "a", "b:http"],
        ["why", "a", "b:70000"],
        ["why", "a", "b:80/"],
        ["completion", "tcsh"],
    ],
)
def test_wrong_usage_is_exit_code_2_and_one_line(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and err.count("\n") == 1


def test_status_shows_problems_and_fails_when_not_ready(agent: FakeAgent, run: Run) -> None:
    status = {
        "node": "n1",
        "version": "0.1.0",
        "revision": 9,
        "live": {"nft": 9, "dns": 7},
        "ready": False,
        "problems": ["bridge-nf-call-iptables was on"],
        "counts": {"Pod": 2, "Node": 0},
    }
    agent.answers["GET /v1/status"] = status
    code, out, _ = run("status")
    assert code == 1
    assert out.splitlines() == [
        "node n1: not ready (fairway 0.1.0)",
        "revision 9: nft live, dns at 7",
        "objects: 2 Pod",
        "problem: bridge-nf-call-iptables was on",
    ]
    assert json.loads(run("status", "-o", "json")[1]) == status
    agent.answers["GET /v1/status"] = {**status, "ready": True, "problems": []}
    assert run("status")[0] == 0


@pytest.mark.parametrize(
    ("destination", "question"),
    [
        ("api:443", ("shop/api", 443, "TCP")),
        ("payments/api:53/udp", ("payments/api", 53, "UDP")),
        ("payments/api", ("payments/api", None, "TCP")),
        ("10.0.0.1:80", ("10.0.0.1", 80, "TCP")),
        ("fd00::1", ("fd00::1", None, "TCP")),
        ("[fd00::1]:80", ("fd00::1", 80, "TCP")),
    ],
)
def test_why_asks_and_answers(agent: FakeAgent, run: Run, destination: str, question: tuple[str, int | None, str]) -> None:
    agent.answers["POST /v1/why"] = {"allowed": False, "lines": ["a to b: denied", "default deny"], "revision": 3}
    code, out, _ = run("why", "web-1", destination, "-n", "shop")
    assert code == 1
    assert out.splitlines() == ["a to b: denied", "  default deny"]
    host, port, protocol = question
    asked = {"source": "shop/web-1", "destination": host, "port": port, "protocol": protocol}
    assert agent.requests == [("/v1/why", asked)]
    agent.answers["POST /v1/why"] = {"allowed": True}
    assert run("why", "shop/web-1", destination) == (0, f"shop/web-1 to {destination}: allowed\n", "")


def test_delete_by_name(agent: FakeAgent, run: Run) -> None:
    gone = [
        {"key": {"kind": "Service", "namespace": "shop", "name": "web"}, "action": "deleted"},
        {"key": {"kind": "Service", "namespace": "shop", "name": "old"}, "action": "absent"},
    ]
    agent.answers["POST /v1/delete"] = {"revision": 4, "results": gone}
    assert run("delete", "svc", "web", "old", "-n", "shop") == (
        1,
        "service/web deleted\n",
        "error: service/old does not exist\n",
    )
    assert agent.requests[0][1] == {"keys": [item["key"] for item in gone]}
    assert run("delete", "svc", "web", "old", "-n", "shop", "--ignore-not-found")[0] == 0


def test_describe_shows_relations(agent: FakeAgent, run: Run) -> None:
    agent.answers["GET /v1/objects/pods/web-1?namespace=shop"] = {"revision": 3, "item": POD}
    agent.answers["GET /v1/objects/services?namespace=shop"] = {"revision": 3, "items": [WEB]}
    agent.answers["GET /v1/objects/networkpolicies?namespace=shop"] = {"revision": 3, "items": [POLICY]}
    code, out, _ = run("describe", "pod", "web-1", "-n", "shop")
    lines = out.splitlines()
    assert code == 0
    assert lines[:4] == ["Name: web-1", "Namespace: shop", "Kind: Pod (v1)", "Labels: app=web"]
    assert "  podIPs:" in lines and "  - ip: 10.244.0.5" in lines
    assert lines[-2:] == ["Services: web", "Policies: web-only"]


def test_describe_a_service_with_its_endpoints(agent: FakeAgent, run: Run) -> None:
    label = "selector=kubernetes.io%2Fservice-name%3Dweb"
    endpoints = [
        {"addresses": ["10.244.0.5"], "targetRef": {"kind": "Pod", "name": "web-1"}},
        {"addresses": ["10.244.0.6"], "conditions": {"ready": False}},
    ]
    agent.answers["GET /v1/objects/services/web?namespace=shop"] = {"revision": 3, "item": WEB}
    agent.answers[f"GET /v1/objects/endpointslices?namespace=shop&{label}"] = {"revision": 3, "items": [{"endpoints": endpoints}]}
    out = run("describe", "svc", "web", "-n", "shop")[1]
    assert out.splitlines()[-1] == "Endpoints: 10.244.0.5 (web-1), 10.244.0.6 not ready"


def test_what_is_not_enforced_is_marked_wherever_the_object_is_shown(agent: FakeAgent, run: Run) -> None:
    odd = {**WEB, "spec": {**WEB["spec"], "sessionAffinity": "Cookie", "weights": [1, 2]}}
    agent.answers["GET /v1/objects/services?namespace=shop"] = {"revision": 3, "items": [odd, WEB]}
    rows = [line.split() for line in run("get", "svc", "-n", "shop", "-o", "wide")[1].splitlines()]
    assert [row[-1] for row in rows] == ["NOT-ENFORCED", "spec.weights,spec.sessionAffinity", "<none>"]
    agent.answers["GET /v1/objects/services/web?namespace=shop"] = {"revision": 3, "item": odd}
    agent.answers["GET /v1/objects/endpointslices?namespace=shop&selector=kubernetes.io%2Fservice-name%3Dweb"] = {"items": []}
    described = run("describe", "svc", "web", "-n", "shop")[1]
    assert "Not enforced: spec.sessionAffinity ('Cookie' is not known and taken for None)\n" in described
    agent.answers["GET /v1/status"] = {"ready": True, "unenforced": {"counts": {"NetworkPolicy": 1, "Service": 2}}}
    code, told, _ = run("status")
    assert code == 0
    assert "note: 3 objects use features that are not enforced: 1 NetworkPolicy, 2 Service (fairway get KIND -A -o wide)" in told


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_call_back_into_the_command(run: Run, shell: str) -> None:
    code, out, _ = run("completion", shell)
    assert code == 0
    assert "_FAIRWAY_COMPLETE" in out


def test_version(run: Run) -> None:
    code, out, _ = run("version")
    assert code == 0
    assert out.startswith("fairway 0.")
