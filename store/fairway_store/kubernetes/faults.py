"""What an API server answers instead of what was asked for, sorted by what there is to do about it. Pure.

Source: Kubernetes API conventions, "HTTP Status codes" and "Response Status Kind"; API concepts, "410 Gone responses".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fairway_core.errors import FairwayError
from fairway_store.kubernetes.resources import Resource

GONE_REASONS = frozenset({"Expired", "Gone"})
WRITES = frozenset({"create", "patch"})


class ApiFault(FairwayError):
    """A request failed; the same one may succeed later, not before `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Gone(ApiFault):
    """The version or the continue token is too old: only a fresh list helps."""


class NotInstalled(ApiFault):
    """The server does not know the resource (yet)."""


class Denied(ApiFault):
    """Credentials are refused (401) or lack a permission (403)."""


class NotOffered(ApiFault):
    """The server understands the request but not this option of it (a streaming list)."""


class Exists(ApiFault):
    """There is an object of that name already."""


class Unwelcome(ApiFault):
    """The object will not be taken, however often it is offered: it is invalid, or its namespace is going away."""


class Silent(ApiFault):
    """Nothing came for too long; the connection is taken for dead."""


class Ahead(ApiFault):
    """The version asked for is newer than the server's own: it lags behind another one, or was restored from a backup."""


def fault_of(status: int, headers: Mapping[str, str], body: bytes, verb: str, resource: Resource) -> ApiFault:
    """The fault an HTTP answer other than 2xx stands for. `body` is a Status document, or any text."""
    document = _status_document(body)
    return status_fault(
        {"code": status, "message": _plain(body), **document}, verb, resource, _seconds(headers.get("Retry-After"))
    )


def status_fault(status: Mapping[str, Any], verb: str, resource: Resource, retry_after: float = 0.0) -> ApiFault:
    """The fault a Status document stands for: the body of an answer, or the object of an ERROR event in a watch."""
    code, reason = status.get("code"), status.get("reason")
    what = f"{verb} {resource.plural}"
    message = f"{what}: {status.get('message') or reason or 'no explanation'} ({code})"
    details = _mapping(status.get("details"))
    causes = {_mapping(cause).get("reason") for cause in details.get("causes") or ()}
    wait = retry_after or _seconds(details.get("retryAfterSeconds"))
    if verb in WRITES and (code in (400, 413, 422) or "NamespaceTerminating" in causes):
        return Unwelcome(message, wait)
    if reason == "AlreadyExists":
        return Exists(message, wait)
    if code == 410 or reason in GONE_REASONS:
        return Gone(message, wait)
    if code == 401:
        return Denied(f"{what}: the API server does not accept the credentials (401 {status.get('message') or reason})", wait)
    if code == 403:
        return Denied(f"missing permission: {resource.permission(verb)}: {status.get('message')}", wait)
    if code == 404:
        return NotInstalled(message, wait)
    if code in (400, 422):
        return NotOffered(message, wait)
    if "ResourceVersionTooLarge" in causes:
        return Ahead(message, wait)
    return ApiFault(message, wait)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _status_document(body: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(body)
    except ValueError:
        return {}
    # Anything may answer in place of an API server; only a Status is taken at its word.
    return document if isinstance(document, dict) and document.get("kind") == "Status" else {}


def _plain(body: bytes) -> str:
    return body[:200].decode(errors="replace").strip()


def _seconds(value: Any) -> float:
    """Retry-After in its form of seconds (RFC 9110, section 10.2.3); the date form, which API servers do not send, is no wait."""
    try:
        return min(max(float(value), 0.0), 300.0)
    except (TypeError, ValueError):
        return 0.0
