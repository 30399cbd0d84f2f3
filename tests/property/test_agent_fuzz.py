"""Whatever is sent to a real agent, it answers with a right answer or a 4xx, and lives on."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.lab.system import agent_pid, container, topology

from fairway_agent.config import load_config
from fairway_core.errors import UserError
from fairway_core.keys import KINDS
from fairway_netlab.control import _UnixConnection
from fairway_netlab.lab import Lab
from fairway_netlab.session import LabSession

SLOW = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])

# Lone surrogates and NUL are text to JSON, and trouble to everything behind it.
ODD = ["\ud800", "\0", "a\0b", "..", "%00", "ä", "x" * 300, "10.0.0.1", "shop/a"]
text = st.one_of(st.text(max_size=12), st.sampled_from(ODD))
scalar = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), text)


def _deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.lists(inner, max_size=4), st.dictionaries(text, inner, max_size=4))


anything = st.recursive(scalar, _deeper, max_leaves=12)
kind = st.one_of(st.sampled_from([item.name for item in KINDS]), st.sampled_from([item.plural for item in KINDS]), text)
namespace = st.one_of(st.sampled_from(["shop", "default"]), anything)
metadata = st.fixed_dictionaries(
    {"name": st.one_of(text, anything)}, optional={"namespace": namespace, "labels": anything, "x": anything}
)
document = st.fixed_dictionaries(
    {"kind": kind, "metadata": metadata},
    optional={"apiVersion": st.sampled_from([item.api_version for item in KINDS]), "spec": anything, "status": anything},
)
key = st.fixed_dictionaries({}, optional={"kind": kind, "name": text, "namespace": namespace})
body = st.one_of(
    anything,
    st.fixed_dictionaries({"documents": st.one_of(anything, st.lists(document, max_size=3))}, optional={"dryRun": anything}),
    st.fixed_dictionaries({"keys": st.one_of(anything, st.lists(key, max_size=3))}),
    st.fixed_dictionaries({"source": text, "destination": text}, optional={"port": anything, "protocol": anything}),
)
FIXED = ["/v1/apply", "/v1/delete", "/v1/why", "/v1/cni", "/v1/status", "/v1/wait", "/v1/objects/pods", "/metrics"]
word = st.one_of(st.sampled_from([item.plural for item in KINDS]), st.text(max_size=8), st.sampled_from(ODD[1:]))
path = st.one_of(
    st.sampled_from(FIXED),
    st.lists(word.filter(lambda part: part.isascii()), min_size=1, max_size=3).map(
        lambda parts: "/v1/objects/" + "/".join(quote(part, safe="") for part in parts)
    ),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30).map(lambda tail: "/" + tail),
)
PARAMETERS = ["0", "0.01", "-1", "nan", "1e400", "a=b", "a in (", "!x", "shop"]
query = st.dictionaries(
    st.sampled_from(["namespace", "selector", "revision", "timeout", "x"]),
    st.one_of(st.sampled_from(PARAMETERS), st.text(st.characters(max_codepoint=126), max_size=8)),
    max_size=3,
)


@pytest.fixture(scope="module")
def target() -> Iterator[Lab]:
    with LabSession() as session:
        yield session.up(topology(containers=[container("a"), container("b", port=8080, app="web")]))


def ask(lab: Lab, method: str, where: str, data: bytes | None) -> tuple[int, bytes]:
    connection = _UnixConnection(lab.node().socket, 10)
    try:
        connection.request(method, where, data)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def check(lab: Lab, method: str, where: str, data: bytes | None) -> None:
    try:
        status, answer = ask(lab, method, where, data)
    except (http.client.InvalidURL, ValueError):
        # Not a request that a client can send.
        return
    assert status < 500 or (status == 503 and where.startswith("/v1/wait")), (status, method, where, data, answer)
    if status >= 400 and method != "HEAD" and where.startswith("/v1/") and answer.startswith(b"{"):
        error = json.loads(answer)["error"]
        assert error["kind"] in ("user", "notfound", "conflict", "unavailable")
        assert error["message"]


@pytest.mark.needs_root
@given(method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD"]), where=path, parameters=query, value=body)
@example(
    method="POST",
    where="/v1/apply",
    parameters={},
    value={"documents": [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "\ud800"}}]},
)
@example(method="POST", where="/v1/delete", parameters={}, value={"keys": [{"kind": "Pod", "name": "\ud800", "namespace": "\0"}]})
@example(method="POST", where="/v1/why", parameters={}, value={"source": "\ud800", "destination": "::1%x"})
@example(method="GET", where="/v1/objects/pods/%ff%00", parameters={"namespace": "\0"}, value=None)
@SLOW
def test_any_request_is_answered(target: Lab, method: str, where: str, parameters: dict[str, str], value: Any) -> None:
    suffix = "?" + "&".join(f"{name}={quote(text)}" for name, text in parameters.items()) if parameters else ""
    if where.startswith("/v1/wait") and "timeout" not in parameters:
        suffix += "&timeout=0.01" if suffix else "?timeout=0.01"
    before = agent_pid(target)
    check(target, method, where + suffix, None if method in ("GET", "HEAD") else json.dumps(value).encode())
    assert ask(target, "GET", "/healthz", None) == (200, b"ok\n")
    assert agent_pid(target) == before


@pytest.mark.needs_root
@given(where=st.sampled_from(["/v1/apply", "/v1/delete", "/v1/why", "/v1/cni"]), data=st.binary(max_size=200))
@example(where="/v1/apply", data=b"[" * 100_000)
@example(where="/v1/apply", data=b'{"documents": [' + b"9" * 5000 + b"]}")
@example(where="/v1/why", data=b'{"source": NaN}')
@SLOW
def test_any_bytes_are_answered(target: Lab, where: str, data: bytes) -> None:
    check(target, "POST", where, data)
    assert ask(target, "GET", "/healthz", None) == (200, b"ok\n")


section = st.sampled_from(["node", "cluster", "dns", "store", "metrics", "log", "stateDir", "runDir", "x"])
field = st.sampled_from(
    ["name", "podCIDRs", "domain", "serviceCIDRs", "listen", "port", "upstreams", "workers", "kind", "level", "y"]
)
config = st.dictionaries(section, st.one_of(anything, st.dictionaries(field, anything, max_size=3)), max_size=4)


raw = st.one_of(config.map(lambda value: json.dumps(value).encode()), st.binary(max_size=200))


@given(raw)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_configuration_is_accepted_or_a_user_error(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "fairway.yaml"
    file.write_bytes(data)
    try:
        load_config(file)
    except UserError as error:
        assert str(error).startswith(str(file))
