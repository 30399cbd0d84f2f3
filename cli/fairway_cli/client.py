"""The agent's control API over its unix socket (agent/README.md), with the standard library only.

Promise: every failure is a FairwayError: AgentUnreachable if nobody answers, else the class that the answer's `kind` names.
Knows paths and JSON shapes; knows nothing about terminals.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from fairway_core.errors import ConflictError, FairwayError, NotFoundError, Place, StoreUnavailable, UserError
from fairway_core.keys import Key

Document = Mapping[str, Any]


class AgentUnreachable(FairwayError):
    """No agent answers at the socket; exit code 3."""


class AgentFault(FairwayError):
    """The agent answered with an error that is neither the user's nor a conflict."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float | None) -> None:
        super().__init__("fairway", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@dataclass(frozen=True, slots=True)
class Client:
    """One agent. `timeout` in seconds bounds each request; a watch has none."""

    path: str
    timeout: float = 30.0

    def list(self, plural: str, namespace: str = "", selector: str = "") -> list[dict[str, Any]]:
        """The documents of one kind; no namespace means all of them."""
        items: list[dict[str, Any]] = self._call("GET", _objects(plural, namespace, selector))["items"]
        return items

    def get(self, plural: str, namespace: str, name: str) -> dict[str, Any]:
        """One document. Raises NotFoundError."""
        query = urlencode({"namespace": namespace}) if namespace else ""
        item: dict[str, Any] = self._call("GET", f"/v1/objects/{plural}/{name}?{query}")["item"]
        return item

    def watch(self, plural: str, namespace: str = "", selector: str = "") -> Iterator[dict[str, Any]]:
        """Events as they come: PUT and DELETE, and SYNC when everything known has been sent. Ends when the agent ends."""
        path = _objects(plural, namespace, selector, watch="1")
        connection, response = self._send("GET", path, None, timeout=None)
        try:
            while line := response.readline():
                if line.strip():
                    yield json.loads(line)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise AgentUnreachable(f"agent at {self.path} broke off: {error}") from error
        finally:
            connection.close()

    def apply(self, documents: Sequence[Document], dry_run: bool = False) -> dict[str, Any]:
        """Create or change all documents or none: `{"revision", "results": [{"key", "action", "before", "after"}]}`."""
        return self._call("POST", "/v1/apply", {"documents": list(documents), "dryRun": dry_run})

    def delete(self, keys: Sequence[Key]) -> dict[str, Any]:
        """Remove: `{"revision", "results": [{"key", "action": "deleted"|"absent"}]}`."""
        return self._call("POST", "/v1/delete", {"keys": [_key(key) for key in keys]})

    def status(self) -> dict[str, Any]:
        """Readiness, problems, and which revision is live where."""
        return self._call("GET", "/v1/status")

    def ipam(self) -> dict[str, Any]:
        """The address ranges: `{"ranges": [{"range", "size", "used", "holders": [{"ip", "owner"}]}]}`."""
        return self._call("GET", "/v1/ipam")

    def wait(self, revision: int, timeout: float) -> dict[str, Any]:
        """Return once `revision` is live everywhere. Raises StoreUnavailable when `timeout` seconds are over."""
        query = urlencode({"revision": revision, "timeout": timeout})
        return self._call("GET", f"/v1/wait?{query}", timeout=timeout + 5)

    def why(self, source: str, destination: str, port: int | None, protocol: str) -> dict[str, Any]:
        """The evaluator's verdict, as described in policy/README.md."""
        question = {"source": source, "destination": destination, "port": port, "protocol": protocol}
        return self._call("POST", "/v1/why", question)

    def resolve(self, name: str, rtype: str, source: str, ask: bool) -> dict[str, Any]:
        """What a name is answered with, as described in agent/README.md; `source` is NAMESPACE/POD or empty."""
        query = {"name": name, "type": rtype, "from": source, "ask": "1" if ask else ""}
        return self._call("GET", f"/v1/dns/resolve?{urlencode({key: value for key, value in query.items() if value})}")

    def dns_top(self, by: str, count: int) -> dict[str, Any]:
        """Who asks what how often, as described in agent/README.md."""
        return self._call("GET", f"/v1/dns/top?{urlencode({'by': by, 'count': count})}")

    def _call(self, method: str, path: str, body: Any = None, timeout: float | None = None) -> dict[str, Any]:
        connection, response = self._send(method, path, body, timeout or self.timeout)
        try:
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise AgentUnreachable(f"agent at {self.path} gave no proper answer: {error}") from error
        finally:
            connection.close()
        if not isinstance(answer, dict):
            raise AgentUnreachable(f"agent at {self.path} gave no proper answer: not an object")
        return answer

    def _send(self, method: str, path: str, body: Any, timeout: float | None) -> tuple[_UnixConnection, http.client.HTTPResponse]:
        connection = _UnixConnection(self.path, timeout)
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            if response.status >= 400:
                raise _fault(response.status, response.read())
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise AgentUnreachable(f"no agent at {self.path}: {_reason(error)}") from error
        except FairwayError:
            connection.close()
            raise
        return connection, response


def _objects(plural: str, namespace: str, selector: str, **more: str) -> str:
    query = {"namespace": namespace, "selector": selector, **more}
    return f"/v1/objects/{plural}?{urlencode({name: value for name, value in query.items() if value})}"


def _key(key: Key) -> dict[str, str]:
    return {"kind": key.kind, "namespace": key.namespace, "name": key.name}


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _fault(status: int, body: bytes) -> FairwayError:
    """The error an answer describes; tolerant of a body that is not the documented one."""
    try:
        described = json.loads(body)["error"]
        kind, message, place = described["kind"], str(described["message"]), described.get("place")
    except (ValueError, KeyError, TypeError, AttributeError):
        text = body.decode(errors="replace").strip().split("\n")[0]
        return AgentFault(f"the agent answered {status}: {text or 'without a reason'}")
    if kind == "user":
        return UserError(message, _place(place))
    simple = {"notfound": NotFoundError, "conflict": ConflictError, "unavailable": StoreUnavailable}
    return simple.get(kind, AgentFault)(message)


def _place(place: Any) -> Place | None:
    if not isinstance(place, dict):
        return None
    line, column = int(place.get("line") or 0), int(place.get("column") or 0)
    return Place(place.get("file") or "", line, column, place.get("field") or "")
