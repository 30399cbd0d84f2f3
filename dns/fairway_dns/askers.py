"""Which attachments have which view. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

from fairway_core.keys import Key
from fairway_core.model import Attachment
from fairway_dns.visibility import ANY_SOURCE, Source


@dataclass(frozen=True, slots=True)
class View:
    """What pods have in common that get the same answers: `namespace` for completion (empty: none), tenant, identities, the
    services they themselves answer for, and the egress scopes whose names are `watched` for them.
    """

    namespace: str = ""
    tenant: str = ""
    source: Source = ANY_SOURCE
    own: frozenset[str] = frozenset()
    watched: frozenset[int] = frozenset()

    @property
    def name(self) -> str:
        """Equal views have equal names, in whatever order they came about."""
        content = repr((self.namespace, self.tenant, self.source, sorted(self.own), sorted(self.watched)))
        return blake2b(content.encode(), digest_size=9).hexdigest()


class AskerBook:
    """The view of every attachment, and views by who could change them."""

    def __init__(self) -> None:
        self._attachments: dict[Key, tuple[Attachment, str]] = {}
        self._users: dict[str, set[Key]] = {}
        self._views: dict[str, View] = {}
        self._by_identity: dict[int, set[str]] = {}
        self._by_address: dict[str, Key] = {}
        self._by_namespace: dict[str, set[Key]] = {}

    def names(self) -> Iterable[str]:
        """All views."""
        return self._views.keys()

    def get(self, name: str) -> View | None:
        return self._views.get(name)

    def of_identity(self, identity: int) -> Iterable[str]:
        """The views of pods with an identity."""
        return self._by_identity.get(identity, ())

    def at(self, addresses: Iterable[str]) -> set[Key]:
        """The attachments with any of the addresses."""
        return {self._by_address[address] for address in addresses if address in self._by_address}

    def in_namespaces(self, namespaces: Iterable[str]) -> set[Key]:
        """The attachments of pods in any of the namespaces."""
        return {key for namespace in namespaces for key in self._by_namespace.get(namespace, ())}

    def put(self, key: Key, attachment: Attachment | None, view: View | None) -> tuple[View | None, str]:
        """Look at an attachment again; None forgets it. Returns the view if it is new, and the name of the one that is gone."""
        old = self._attachments.pop(key, None)
        if old is not None:
            self._unindex(key, old[0])
        name = ""
        born = None
        if attachment is not None and view is not None:
            name = view.name
            self._attachments[key] = attachment, name
            self._index(key, attachment)
            born = view if self._use(key, name, view) else None
        gone = old[1] if old is not None and old[1] != name and self._release(key, old[1]) else ""
        return born, gone

    def _index(self, key: Key, attachment: Attachment) -> None:
        self._by_namespace.setdefault(attachment.pod_namespace, set()).add(key)
        for ip in attachment.ips:
            self._by_address[ip] = key

    def _unindex(self, key: Key, attachment: Attachment) -> None:
        there = self._by_namespace[attachment.pod_namespace]
        there.discard(key)
        if not there:
            del self._by_namespace[attachment.pod_namespace]
        for ip in attachment.ips:
            if self._by_address.get(ip) == key:
                del self._by_address[ip]

    def _use(self, key: Key, name: str, view: View) -> bool:
        users = self._users.setdefault(name, set())
        users.add(key)
        if name in self._views:
            return False
        self._views[name] = view
        for _family, identity in view.source.identities:
            self._by_identity.setdefault(identity, set()).add(name)
        return True

    def _release(self, key: Key, name: str) -> bool:
        users = self._users[name]
        users.discard(key)
        if users:
            return False
        del self._users[name]
        for _family, identity in self._views.pop(name).source.identities:
            self._by_identity.get(identity, set()).discard(name)
        return True
