"""World -> who asks and what is hidden from them. Pure; the facts mean what the World and the rules in force say, no more.

Four books, each brought up to date by what a change touches: whose a namespace is, what each service leads to, which view each
attachment has, what policy hides. Services that lead to the same are one group, pods that policy cannot tell apart one view.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from fairway_core.delta import DeltaTracker
from fairway_core.keys import Key
from fairway_core.model import Attachment, EndpointSlice, Pod, Service, Tenant
from fairway_core.world import ATTACHMENT_POD, SERVICE_NS, World
from fairway_dns.askers import AskerBook, View
from fairway_dns.exceptions import ExceptionBook
from fairway_dns.groups import GroupBook, scope_of
from fairway_dns.tenants import TenantBook
from fairway_dns.views import ADDRESS, EVERYTHING, OWN, PATTERN, SCOPE, VIEW, WATCH, Fact, ViewDelta
from fairway_dns.visibility import ALL, NOBODY, POLICY, NoChanges, Reach, Unjudged, source_of
from fairway_dns.watch import EgressRules, NoEgressRules

NODE_VIEW = "node"
LOOPBACK = ("127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class ViewRules:
    """What the views follow. `visibility` is all, tenant or policy; `completion`: whether names of pods are completed. `node` is
    this node's name and `own` its addresses besides those that its Node object and the loopback device have.
    """

    visibility: str = ALL
    completion: bool = True
    node: str = ""
    own: tuple[str, ...] = ()


class ViewCompiler:
    """Keeps the facts, and tells what changed.

    Promise: after any sequence of updates the facts mean what one update from an empty world would make them mean. An update
    costs time in what it touches (see `ExceptionBook`); a change of a tenant time in the namespaces.
    """

    def __init__(self, rules: ViewRules, reach: Reach | None = None, egress: EgressRules | None = None) -> None:
        """`reach` is needed for visibility policy, and for nothing else. Raises ValueError if it is missing there. `egress` tells
        which names are watched for whom.
        """
        if rules.visibility == POLICY and reach is None:
            raise ValueError("visibility policy without anybody who knows the policy")
        self._rules = rules
        self._reach: Reach = reach or Unjudged()
        self._egress: EgressRules = egress or NoEgressRules()
        self._patterns: Mapping[int, frozenset[str]] = {}
        self._tenants = TenantBook()
        self._groups = GroupBook(self._reach)
        self._askers = AskerBook()
        self._near: frozenset[str] = frozenset()
        self._tracker: DeltaTracker[Fact, bool] = DeltaTracker()
        self._exceptions = ExceptionBook(self._reach, self._groups, self._askers, self._tracker)

    @property
    def scoped(self) -> bool:
        """Whether anything is ever hidden."""
        return self._rules.visibility != ALL

    @property
    def _judging(self) -> bool:
        return self._rules.visibility == POLICY

    def update(self, before: World, after: World, touched: frozenset[Key]) -> ViewDelta:
        """The facts that appear and go between two worlds. The first call has an empty `before` and every key in `touched`."""
        worlds = before, after
        attachments = set(_attachments(worlds, touched))
        attachments.update(*(after.keys_at(ATTACHMENT_POD, pod.namespace, pod.name) for pod in self._egress.take_changes()))
        self._update_patterns()
        if self.scoped:
            self._update_scoped(worlds, touched, attachments)
        else:
            self._update_views(after, attachments)
        pending = self._tracker.pending()
        self._tracker.committed(pending)
        return ViewDelta(frozenset(pending.add), frozenset(pending.delete))

    def _update_patterns(self) -> None:
        before, self._patterns = self._patterns, self._egress.patterns()
        if before is self._patterns:
            return
        for scope in before.keys() | self._patterns.keys():
            facts = (Fact(PATTERN, str(scope), (pattern,)) for pattern in self._patterns.get(scope, ()))
            self._tracker.declare(("pattern", str(scope)), dict.fromkeys(facts, True))

    def _update_scoped(self, worlds: tuple[World, World], touched: frozenset[Key], attachments: set[Key]) -> None:
        after = worlds[1]
        namespaces = self._tenants.update(after, touched, _namespaces(worlds, touched))
        services = set(_services(worlds, touched)) | {key for name in namespaces for key in after.keys_at(SERVICE_NS, name)}
        attachments |= self._askers.in_namespaces(namespaces)
        if self._update_node(after, touched):
            services |= {key for group in self._groups.of_identity(NOBODY) for key in self._groups.members(group)}
            services |= self._groups.at(self._near)
        # Without a judge nothing ever changes, and there are no groups.
        changes = self._reach.take_changes() if self._judging else NoChanges()
        fresh: set[str] = set()
        if self._judging:
            ips = {ip for key in {*_pods(touched), *changes.pods} for world in worlds for ip in _ips(world, key)}
            services |= self._groups.at(ips)
            attachments |= self._askers.at(ips)
            moved, fresh = self._update_groups(after, services)
            attachments |= self._askers.at(moved)
        else:
            self._update_groups(after, services)
        for namespace in namespaces:
            self._declare(("scope", namespace), SCOPE, f"{namespace}/", (self._tenants.of(namespace), ""))
        born = self._update_views(after, attachments)
        if self._judging:
            self._exceptions.update(born, fresh, changes)

    def _update_node(self, world: World, touched: frozenset[Key]) -> bool:
        """Facts about this node's own addresses; whether they are others than before."""
        if Key("Node", "", self._rules.node) not in touched and self._near:
            return False
        nodes = [node for node in world.nodes() if node.meta.name == self._rules.node]
        near = frozenset({*LOOPBACK, *self._rules.own, *(ip for node in nodes for ip in node.addresses)})
        facts = [Fact(VIEW, NODE_VIEW, ("", EVERYTHING)), *(Fact(ADDRESS, ip, (NODE_VIEW,)) for ip in near)]
        self._tracker.declare(("node",), dict.fromkeys(facts, True))
        changed, self._near = near != self._near, near
        return changed

    def _update_groups(self, world: World, services: Iterable[Key]) -> tuple[set[str], set[str]]:
        """Returns the addresses that lead to other services than before, and the groups that are new."""
        moved: set[str] = set()
        for key in sorted(services):
            found = world.get(key)
            service = found if isinstance(found, Service) else None
            tenant = self._tenant_of(world, service)
            if self._judging:
                moved |= self._groups.put(world, key, service, tenant, self._near)
            values = (tenant, self._groups.group(key)) if service is not None else ("", "")
            self._declare(("scope", key.namespace, key.name), SCOPE, scope_of(key), values)
        born, gone = self._groups.take_changes()
        for group in gone:
            self._exceptions.drop_group(group)
        return moved, born

    def _tenant_of(self, world: World, service: Service | None) -> str:
        """Whose pods alone may see a service; empty for everybody's."""
        if service is None:
            return ""
        namespace = service.meta.namespace
        name = self._tenants.of(namespace)
        tenant = world.get(Key("Tenant", "", name)) if name else None
        exported = isinstance(tenant, Tenant) and tenant.exports_service(namespace, service.meta.name, service.meta.labels)
        return "" if exported else name

    def _declare(self, owner: tuple[str, ...], kind: str, of: str, values: tuple[str, ...]) -> None:
        """One fact, or none if all its values are empty."""
        self._tracker.declare(owner, {Fact(kind, of, values): True} if any(values) else {})

    def _update_views(self, world: World, attachments: Iterable[Key]) -> set[str]:
        """Returns the views that are new."""
        born: set[str] = set()
        for key in sorted(attachments):
            found = world.get(key)
            attachment = found if isinstance(found, Attachment) else None
            view = self._view_of(attachment) if attachment is not None else None
            made, gone = self._askers.put(key, attachment, view)
            ips = attachment.ips if attachment is not None and view is not None else ()
            self._tracker.declare(("address", key.name), {Fact(ADDRESS, ip, (view.name,)): True for ip in ips if view})
            if made is not None:
                self._tracker.declare(("view", made.name), dict.fromkeys(_facts(made), True))
                born.add(made.name)
            if gone:
                self._tracker.declare(("view", gone), {})
                self._exceptions.drop_view(gone)
        return born & set(self._askers.names())

    def _view_of(self, attachment: Attachment) -> View | None:
        """None if there is nothing to know."""
        namespace = attachment.pod_namespace if self._rules.completion and attachment.search_completion else ""
        pod = Key("Pod", attachment.pod_namespace, attachment.pod_name)
        watched = self._egress.scopes(pod)
        if not self.scoped:
            return View(namespace, watched=watched) if namespace or watched else None
        tenant = self._tenants.of(attachment.pod_namespace)
        if not self._judging:
            return View(namespace, tenant, watched=watched)
        numbers = self._reach.numbers(pod)
        own = frozenset(map(scope_of, self._groups.at(numbers)))
        return View(namespace, tenant, source_of(numbers), own, watched)


def _facts(view: View) -> Iterator[Fact]:
    yield Fact(VIEW, view.name, (view.namespace, view.tenant))
    for scope in view.own:
        yield Fact(OWN, view.name, (scope,))
    for number in view.watched:
        yield Fact(WATCH, view.name, (str(number),))


def _pods(touched: Iterable[Key]) -> Iterator[Key]:
    return (key for key in touched if key.kind == "Pod")


def _ips(world: World, key: Key) -> tuple[str, ...]:
    pod = world.get(key)
    return pod.ips if isinstance(pod, Pod) else ()


def _attachments(worlds: Iterable[World], touched: Iterable[Key]) -> Iterator[Key]:
    for key in touched:
        if key.kind == "Attachment":
            yield key
        elif key.kind == "Pod":
            yield from (found for world in worlds for found in world.keys_at(ATTACHMENT_POD, key.namespace, key.name))


def _services(worlds: Iterable[World], touched: Iterable[Key]) -> Iterator[Key]:
    for key in touched:
        if key.kind == "Service":
            yield key
        elif key.kind == "EndpointSlice":
            for world in worlds:
                item = world.get(key)
                if isinstance(item, EndpointSlice):
                    yield Key("Service", item.meta.namespace, item.service)


def _namespaces(worlds: Iterable[World], touched: Iterable[Key]) -> set[str]:
    """The namespaces that objects with names of their own are in."""
    found = {key.namespace for key in touched if key.kind in ("Service", "Pod")}
    items = (world.get(key) for world in worlds for key in touched if key.kind == "Attachment")
    return found | {item.pod_namespace for item in items if isinstance(item, Attachment)}
