"""Why a name does not exist for a pod, in words: the tenant or the policy."""

from __future__ import annotations

from typing import Any

from fairway_core.errors import UserError
from fairway_core.keys import Key
from fairway_core.model import Service
from fairway_core.world import World
from fairway_dns.explain import Hidden
from fairway_policy.explain import explain


def hiding(world: World, pod: str, hidden: Hidden) -> str:
    """One line. `pod` is NAMESPACE/NAME, empty for a client that is none."""
    namespace, _, name = hidden.scope.partition("/")
    what = f"service {hidden.scope}" if name else f"namespace {namespace}"
    if hidden.tenant:
        return f"{what} is tenant {hidden.tenant}'s and not exported to {_whose(world, pod)}"
    found = world.get(Key("Service", namespace, name))
    verdict = _verdict(world, pod, found) if isinstance(found, Service) and pod else ""
    return f"no policy lets {pod or 'this client'} connect to {what}" + (f": {verdict}" if verdict else "")


def _whose(world: World, pod: str) -> str:
    owners = world.tenants_of(pod.partition("/")[0]) if pod else ()
    return f"tenant {owners[0].meta.name}" if owners else f"{pod or 'this client'}, which has no tenant"


def _verdict(world: World, pod: str, service: Service) -> str:
    """The reason for the first denied connection to any of its ports."""
    for port in service.ports:
        try:
            answer = explain(world, pod, f"{service.meta.namespace}/{service.meta.name}", port.port, port.protocol)
        except UserError:
            continue
        for check in answer["checks"]:
            if not check["allowed"]:
                return _denial(check["lines"])
    return ""


def _denial(lines: Any) -> str:
    return next((str(line).strip() for line in lines if "denied" in line), "")
