"""Tenants: what a document may say, and whose a namespace is."""

from __future__ import annotations

from typing import Any

import pytest

from fairway_core.codec import decode
from fairway_core.documents import validate
from fairway_core.documents.errors import InvalidDocuments
from fairway_core.errors import UserError
from fairway_core.model import Export, Meta, Namespace, Tenant
from fairway_core.selectors import selector_from_labels
from fairway_core.world import Change, World


def tenant(name: str, *namespaces: str, **labels: str) -> Change:
    selector = selector_from_labels(labels) if labels else None
    return Change(Meta(name).key("Tenant"), Tenant(Meta(name), namespaces, selector))


def namespace(name: str, **labels: str) -> Change:
    return Change(Meta(name).key("Namespace"), Namespace(Meta(name, "", {**labels, "kubernetes.io/metadata.name": name})))


def owners(world: World, name: str) -> list[str]:
    return [found.meta.name for found in world.tenants_of(name)]


def test_a_namespace_belongs_to_who_names_it_or_selects_it() -> None:
    world, _ = World().apply([tenant("acme", "shop", "shop-test"), tenant("beta", team="beta"), namespace("pay", team="beta")], 1)
    assert [owners(world, name) for name in ("shop", "shop-test", "pay", "other")] == [["acme"], ["acme"], ["beta"], []]
    world, _ = world.apply([namespace("pay", team="acme"), tenant("acme", "shop")], 2)
    assert [owners(world, name) for name in ("shop", "shop-test", "pay")] == [["acme"], [], []]
    by_name, _ = world.apply([tenant("gamma", **{"kubernetes.io/metadata.name": "undeclared"})], 3)
    assert owners(by_name, "undeclared") == ["gamma"]


def test_a_namespace_claimed_twice_has_a_first_owner_whatever_came_first() -> None:
    claims = [tenant("beta", "shop"), tenant("acme", team="a"), namespace("shop", team="a")]
    for order in (claims, claims[::-1]):
        world = World()
        for revision, change in enumerate(order, 1):
            world, _ = world.apply([change], revision)
        assert owners(world, "shop") == ["acme", "beta"]


DOCUMENT: dict[str, Any] = {
    "apiVersion": "fairway.dev/v1",
    "kind": "Tenant",
    "metadata": {"name": "acme"},
    "spec": {
        "namespaces": ["shop"],
        "namespaceSelector": {"matchLabels": {"team": "acme"}},
        "dns": {"exports": [{"services": ["web"], "namespaces": ["shop"]}, {"selector": {"matchLabels": {"public": "yes"}}}]},
    },
}


def test_a_document_says_which_services_are_exported() -> None:
    found = decode(DOCUMENT)
    assert isinstance(found, Tenant)
    assert found.exports[0] == Export(("web",), None, ("shop",))
    assert found.exports_service("shop", "web", {})
    assert not found.exports_service("shop", "api", {})
    assert not found.exports_service("pay", "web", {})
    assert found.exports_service("pay", "api", {"public": "yes"})


def test_a_stored_export_without_any_condition_is_not_taken_for_everything() -> None:
    with pytest.raises(UserError, match="Tenant/acme: cannot be understood"):
        decode({**DOCUMENT, "spec": {"namespaces": ["shop"], "dns": {"exports": [{}]}}})


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("{}", "spec: a tenant needs namespaces or namespaceSelector"),
        ("{namespaces: [a, b, a]}", "spec.namespaces[2]: appears twice"),
        ("{namespaces: [A]}", "spec.namespaces[0]: 'A' is not a DNS label"),
        ("{namespaces: [a], dns: {exports: [{}]}}", "spec.dns.exports[0]: an export needs services or selector"),
        ("{namespaces: [a], dns: {exports: [{services: []}]}}", "spec.dns.exports[0].services: must name something"),
        ("{namespaces: [a], dns: {export: []}}", "spec.dns.export: unknown field 'export'; did you mean 'exports'?"),
        ("{namespaceSelector: {matchLabel: {}}}", "spec.namespaceSelector.matchLabel: unknown field"),
    ],
)
def test_what_is_wrong_with_a_tenant_is_named(spec: str, fault: str) -> None:
    with pytest.raises(InvalidDocuments) as caught:
        validate("f", f"apiVersion: fairway.dev/v1\nkind: Tenant\nmetadata: {{name: acme}}\nspec: {spec}")
    assert fault in str(caught.value)
    assert str(caught.value).startswith("f:4:")
