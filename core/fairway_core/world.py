"""World: an immutable snapshot of every object, with indexes, at one revision.

Promise: applying changes costs time proportional to the changes (persistent hash tries), never to the number of objects;
two worlds with the same objects answer every question the same way, however they came about. Endpoints of services with a
selector are derived here, in the same revision as the pod or service they come from, so that a name, a virtual IP and a
policy never disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

from rpds import HashTrieMap, HashTrieSet

from fairway_core.addressing import addressed
from fairway_core.endpoints import DERIVED, derive_slices
from fairway_core.keys import Key
from fairway_core.model import Attachment, EndpointSlice, Namespace, NetworkPolicy, Node, Object, Pod, Service, Tenant
from fairway_core.selectors import IN, Labels, Selector

T = TypeVar("T")
IndexKey = tuple[str, ...]

POD_NS = "pod-ns"
POD_IP = "pod-ip"
POD_LABEL = "pod-label"
SERVICE_NS = "service-ns"
SERVICE_SELECTOR = "service-selector"
SERVICE_IP = "service-ip"
SERVICE_NODE_PORT = "service-node-port"
SLICE_SERVICE = "slice-service"
POLICY_NS = "policy-ns"
ATTACHMENT_POD = "attachment-pod"
TENANT_NS = "tenant-ns"
TENANT_LABEL = "tenant-label"
KIND = "kind"


@dataclass(frozen=True, slots=True)
class Change:
    """One object put (`value` set) or deleted (`value` None)."""

    key: Key
    value: Object | None


def _pod_index(pod: Pod) -> Iterator[IndexKey]:
    namespace = pod.meta.namespace
    yield (POD_NS, namespace)
    for ip in pod.ips:
        yield (POD_IP, ip)
    for key, value in pod.meta.labels.items():
        yield (POD_LABEL, namespace, key, value)


def _service_index(service: Service) -> Iterator[IndexKey]:
    namespace = service.meta.namespace
    yield (SERVICE_NS, namespace)
    for ip in (*service.cluster_ips, *service.external_ips, *service.load_balancer_ips):
        yield (SERVICE_IP, ip)
    for port in service.ports:
        if port.node_port:
            yield (SERVICE_NODE_PORT, str(port.node_port), port.protocol)
    if service.health_check_port:
        yield (SERVICE_NODE_PORT, str(service.health_check_port), "TCP")
    if service.selector and service.selector.requirements:
        # One pair is enough to find the service from a pod that carries it; the whole selector is checked afterwards.
        first = service.selector.requirements[0]
        yield (SERVICE_SELECTOR, namespace, first.key, first.values[0])


def _slice_index(item: EndpointSlice) -> Iterator[IndexKey]:
    yield (SLICE_SERVICE, item.meta.namespace, item.service)


def _policy_index(policy: NetworkPolicy) -> Iterator[IndexKey]:
    yield (POLICY_NS, policy.meta.namespace)


def _attachment_index(attachment: Attachment) -> Iterator[IndexKey]:
    yield (ATTACHMENT_POD, attachment.pod_namespace, attachment.pod_name)


def _tenant_index(tenant: Tenant) -> Iterator[IndexKey]:
    for namespace in tenant.namespaces:
        yield (TENANT_NS, namespace)
    if tenant.selector is not None:
        # One pair that a namespace must carry is enough to find the tenant from it; without one it is looked at for every one.
        pair = next(((r.key, r.values[0]) for r in tenant.selector.requirements if r.operator == IN and len(r.values) == 1), ())
        yield (TENANT_LABEL, *pair)


_INDEXERS: dict[type, Callable[[Any], Iterator[IndexKey]]] = {
    Pod: _pod_index,
    Service: _service_index,
    EndpointSlice: _slice_index,
    NetworkPolicy: _policy_index,
    Attachment: _attachment_index,
    Tenant: _tenant_index,
}


def _index_keys(key: Key, value: Object) -> Iterator[IndexKey]:
    yield (KIND, key.kind)
    indexer = _INDEXERS.get(type(value))
    if indexer is not None:
        yield from indexer(value)


@dataclass(frozen=True)
class World:
    """All objects at `revision`. `derive_endpoints` is off where another controller writes EndpointSlices (Kubernetes).

    `address_pods` is on where another one writes Pods: then their addresses come from attachments (see `addressing`), and
    `declared` has, for each pod with an attachment, the Pod as it was declared, or None.
    """

    revision: int = 0
    derive_endpoints: bool = True
    address_pods: bool = False
    objects: HashTrieMap[Key, Object] = HashTrieMap()
    index: HashTrieMap[IndexKey, HashTrieSet[Key]] = HashTrieMap()
    declared: HashTrieMap[Key, Pod | None] = HashTrieMap()

    def apply(self, changes: Sequence[Change], revision: int) -> tuple[World, frozenset[Key]]:
        """The world after `changes`, and the keys whose objects differ from before, derived ones included.

        A change to a derived slice is ignored: it belongs to nobody but its service.
        """
        editor = _Editor(self)
        for change in changes:
            if not (self.derive_endpoints and change.key.kind == "EndpointSlice" and DERIVED in change.key.name):
                editor.change(change)
        if self.address_pods:
            _readdress(editor, self)
        if self.derive_endpoints:
            _rederive(editor, self)
        differing = (key for key in editor.touched if self.objects.get(key) != editor.objects.get(key))
        return editor.finish(revision), frozenset(differing)

    def get(self, key: Key) -> Object | None:
        """The object at `key`, or None."""
        return self.objects.get(key)

    def _typed(self, kind: str, namespace: str, name: str) -> Any:
        return self.objects.get(Key(kind, namespace, name))

    def pod(self, namespace: str, name: str) -> Pod | None:
        return cast("Pod | None", self._typed("Pod", namespace, name))

    def declared_pod(self, key: Key) -> Pod | None:
        """The Pod as somebody declared it, before the node added addresses; None if nobody did."""
        return self.declared[key] if key in self.declared else cast("Pod | None", self.objects.get(key))

    def service(self, namespace: str, name: str) -> Service | None:
        return cast("Service | None", self._typed("Service", namespace, name))

    def namespace(self, name: str) -> Namespace | None:
        return cast("Namespace | None", self._typed("Namespace", "", name))

    def namespace_labels(self, name: str) -> Labels:
        """Labels of a namespace; one that nobody declared has only the name label every namespace has."""
        namespace = self.namespace(name)
        return namespace.meta.labels if namespace else {"kubernetes.io/metadata.name": name}

    def tenants_of(self, namespace: str) -> list[Tenant]:
        """Every tenant that claims a namespace, sorted by name: one, unless somebody made a mistake. The first has it."""
        labels = self.namespace_labels(namespace)
        keys = set(self.keys_at(TENANT_NS, namespace)) | set(self.keys_at(TENANT_LABEL))
        for label in labels.items():
            keys.update(self.keys_at(TENANT_LABEL, *label))
        found = (self.objects[key] for key in sorted(keys))
        return [item for item in found if isinstance(item, Tenant) and item.claims(namespace, labels)]

    def disputed_namespaces(self) -> dict[str, tuple[str, ...]]:
        """Namespaces that several tenants claim, with those by name. Looks at all that are declared or that a tenant names."""
        tenants = self.all(Tenant)
        names = {item.meta.name for item in self.all(Namespace)} | {name for item in tenants for name in item.namespaces}
        claims = ((name, self.tenants_of(name)) for name in sorted(names if len(tenants) > 1 else ()))
        return {name: tuple(item.meta.name for item in found) for name, found in claims if len(found) > 1}

    def keys_at(self, *index: str) -> HashTrieSet[Key]:
        """The keys in one index bucket, in no particular order."""
        return self.index.get(index, HashTrieSet())

    def at(self, kind: type[T], *index: str) -> list[T]:
        """The objects of one index bucket, sorted by key."""
        found = (self.objects[key] for key in sorted(self.keys_at(*index)))
        return [item for item in found if isinstance(item, kind)]

    def all(self, kind: type[T]) -> list[T]:
        """Every object of one kind, sorted by key. Costs time in the number of objects of the kind."""
        return self.at(kind, KIND, kind.__name__)

    def pods(self) -> list[Pod]:
        return self.all(Pod)

    def zone_of(self, node: str) -> str:
        """The zone of a node; empty if nobody said so."""
        found = self.objects.get(Key("Node", "", node))
        return found.zone if isinstance(found, Node) else ""

    def services(self) -> list[Service]:
        return self.all(Service)

    def policies(self) -> list[NetworkPolicy]:
        return self.all(NetworkPolicy)

    def nodes(self) -> list[Node]:
        return self.all(Node)

    def attachments(self) -> list[Attachment]:
        return self.all(Attachment)

    def slices_of(self, namespace: str, service: str) -> list[EndpointSlice]:
        """The endpoint slices of one service, derived or declared, sorted by key."""
        return self.at(EndpointSlice, SLICE_SERVICE, namespace, service)

    def is_derived_key(self, key: Key) -> bool:
        """Whether the object at `key` was computed here and is in no store."""
        item = self.objects.get(key)
        return isinstance(item, EndpointSlice) and is_derived(item)

    def pod_of_ip(self, ip: str) -> Pod | None:
        """The pod an address belongs to now: never a finished or host-network one.

        Of several that claim it one that is attached here has it, then one that is not on its way out, then the first by key.
        """

        def rank(pod: Pod) -> tuple[bool, bool]:
            return not self.keys_at(ATTACHMENT_POD, pod.meta.namespace, pod.meta.name), pod.terminating

        return min((pod for pod in self.at(Pod, POD_IP, ip) if pod.on_pod_network), key=rank, default=None)

    def pods_matching(self, namespace: str, selector: Selector) -> list[Pod]:
        """Pods of a namespace that match, sorted by key; found through the rarest label pair where the selector has one."""
        buckets = [
            self.keys_at(POD_LABEL, namespace, r.key, r.values[0])
            for r in selector.requirements
            if r.operator == "In" and len(r.values) == 1
        ]
        keys = min(buckets, key=len) if buckets else self.keys_at(POD_NS, namespace)
        pods = (cast("Pod", self.objects[key]) for key in sorted(keys))
        return [pod for pod in pods if selector.matches(pod.meta.labels)]


class _Editor:
    """Mutable scratch over persistent maps; lives within one `World.apply`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.objects = world.objects
        self.index = world.index
        self.declared = world.declared
        self.declarations: dict[Key, Pod | None] = {}
        self.touched: set[Key] = set()

    def change(self, change: Change) -> None:
        """Take over a change; what becomes of a Pod where pods are addressed is decided after all changes are known."""
        if self._world.address_pods and change.key.kind == "Pod":
            self.declarations[change.key] = cast("Pod | None", change.value)
        else:
            self.put(change.key, change.value)

    def put(self, key: Key, value: Object | None) -> None:
        old = self.objects.get(key)
        if old == value:
            return
        self.touched.add(key)
        self._reindex(key, old, value)
        self.objects = self.objects.discard(key) if value is None else self.objects.insert(key, value)

    def _reindex(self, key: Key, old: Object | None, new: Object | None) -> None:
        before = set(_index_keys(key, old)) if old is not None else set()
        after = set(_index_keys(key, new)) if new is not None else set()
        for entry in before - after:
            rest = self.index[entry].discard(key)
            self.index = self.index.insert(entry, rest) if rest else self.index.discard(entry)
        for entry in after - before:
            self.index = self.index.insert(entry, self.index.get(entry, HashTrieSet()).insert(key))

    def finish(self, revision: int) -> World:
        return replace(self._world, revision=revision, objects=self.objects, index=self.index, declared=self.declared)

    def view(self) -> World:
        return self.finish(self._world.revision)


def _readdress(editor: _Editor, before: World) -> None:
    """Give every pod that changed, or whose attachments did, its addresses."""
    now = editor.view()
    concerned = set(editor.declarations)
    for key in editor.touched:
        for world in (before, now):
            item = world.objects.get(key)
            if isinstance(item, Attachment):
                concerned.add(Key("Pod", item.pod_namespace, item.pod_name))
    for key in concerned:
        declared = editor.declarations[key] if key in editor.declarations else before.declared_pod(key)
        attachments = now.at(Attachment, ATTACHMENT_POD, key.namespace, key.name)
        editor.put(key, addressed(key, declared, attachments))
        editor.declared = editor.declared.insert(key, declared) if attachments else editor.declared.discard(key)


def _rederive(editor: _Editor, before: World) -> None:
    """Bring the derived slices of every service that the touched keys can concern up to date."""
    now = editor.view()
    for service_key in _services_concerned(editor.touched, before, now):
        service = now.objects.get(service_key)
        wanted: dict[Key, Object] = {}
        # An empty selector selects nothing here: Kubernetes leaves the endpoints of such a service to whoever writes them.
        if isinstance(service, Service) and service.selector and service.selector.requirements:
            pods = now.pods_matching(service.meta.namespace, service.selector)
            wanted = {item.meta.key("EndpointSlice"): item for item in derive_slices(service, pods, now.zone_of)}
        for old in before.slices_of(service_key.namespace, service_key.name):
            key = old.meta.key("EndpointSlice")
            if key not in wanted and is_derived(old):
                editor.put(key, None)
        for key, value in wanted.items():
            editor.put(key, value)


def is_derived(item: EndpointSlice) -> bool:
    """Whether the slice was computed by the World, not stored by anybody."""
    return DERIVED in item.meta.name


def _services_concerned(touched: Iterable[Key], before: World, now: World) -> set[Key]:
    concerned: set[Key] = set()
    for key in touched:
        if key.kind == "Service":
            concerned.add(key)
        elif key.kind == "Node" and before.zone_of(key.name) != now.zone_of(key.name):
            # Zones hardly ever change, and any service may have an endpoint there.
            concerned.update(now.keys_at(KIND, "Service"))
        elif key.kind == "Pod":
            for world in (before, now):
                pod = world.objects.get(key)
                if isinstance(pod, Pod):
                    # A service that is new or different now is among the touched keys itself.
                    concerned.update(_services_selecting(world, pod))
    return concerned


def _services_selecting(world: World, pod: Pod) -> Iterator[Key]:
    for label, value in pod.meta.labels.items():
        for key in world.keys_at(SERVICE_SELECTOR, pod.meta.namespace, label, value):
            service = world.objects[key]
            if isinstance(service, Service) and service.selector and service.selector.matches(pod.meta.labels):
                yield key
