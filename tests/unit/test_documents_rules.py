"""What the strict edge refuses, with the very lines a user reads."""

from __future__ import annotations

from textwrap import dedent

import pytest

from fairway_core.documents import InvalidDocuments, check_document, validate, with_namespace
from fairway_core.errors import UserError
from fairway_core.keys import Key

SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: "
POLICY = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: "
POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: "
SLICE = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s}\n"
NODE = "apiVersion: v1\nkind: Node\nmetadata: {name: n}\n"
NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: "


def errors(text: str) -> list[str]:
    """The errors `text` gives; none if it is valid."""
    try:
        validate("f", text)
    except InvalidDocuments as invalid:
        assert isinstance(invalid, UserError)
        return [str(error) for error in invalid.errors]
    return []


REFUSED = [
    # kinds
    ("[1]", "f:1:1: must be an object with apiVersion, kind and metadata, not a list"),
    ("a: 1", "f:1:1: kind: is required"),
    ("kind: [1]", "f:1:7: kind: must be text, not a list"),
    ("kind: Deployment", "f:1:7: kind: unknown kind 'Deployment'; known kinds: EndpointSlice, Gateway,"),
    ("kind: service", "f:1:7: kind: unknown kind 'service'; did you mean 'Service'?"),
    (
        "kind: ClusterNetworkPolicy",
        "f:1:7: kind: ClusterNetworkPolicy (policy.networking.k8s.io) is not supported by this version",
    ),
    ("kind: Attachment\napiVersion: fairway.dev/v1", "kind: Attachments are made by Fairway itself and cannot be declared"),
    ("kind: Pod", "f:1:1: apiVersion: is required: Pod is of v1"),
    ("kind: NetworkPolicy\napiVersion: v1", "f:2:13: apiVersion: 'v1' is wrong: NetworkPolicy is of networking.k8s.io/v1"),
    ("kind: List\napiVersion: v1\nitem: []\nitems: []", "f:3:1: item: unknown field 'item'"),
    ("kind: List\napiVersion: v1\nitems: 5", "f:3:8: items: must be a list, not 5"),
    ("kind: List\napiVersion: v1\nitems:\n- kind: Pod\n  apiVersion: v1", "f:4:3: metadata: is required"),
    # metadata
    ("kind: Pod\napiVersion: v1\nmetadata: {generateName: a-}", "f:3:11: metadata.name: is required"),
    ("kind: Pod\napiVersion: v1\nmetadata: {name: A}", "f:3:18: metadata.name: 'A' is not a DNS name"),
    ("kind: Pod\napiVersion: v1\nmetadata: {name: 5}", "metadata.name: must be text, not 5: write it in quotes"),
    ("kind: Pod\napiVersion: v1\nmetadata: {name: a, namespace: b.c}", "metadata.namespace: 'b.c' is not a DNS label"),
    (
        "kind: Pod\napiVersion: v1\nmetadata: {name: a, label: {}}",
        "f:3:21: metadata.label: unknown field 'label'; did you mean 'labels'?",
    ),
    ("kind: Pod\napiVersion: v1\nmetadata: {name: a, labels: {a/b/c: x}}", "is not a label key: what stands before '/'"),
    ("kind: Pod\napiVersion: v1\nmetadata: {name: a, labels: {-a: x}}", "f:3:30: metadata.labels[-a]: '-a' is not a label key"),
    (
        "kind: Pod\napiVersion: v1\nmetadata: {name: a, labels: {x.y/a: b c}}",
        "f:3:37: metadata.labels[x.y/a]: 'b c' is not a label value",
    ),
    ("kind: Pod\napiVersion: v1\nmetadata: {name: a, labels: {a: 1.10}}", "must be text, not 1.1: write it in quotes"),
    ("kind: Pod\napiVersion: v1\nmetadata: {name: a, annotations: {a: 1}}", "metadata.annotations.a: must be text, not 1"),
    (NAMESPACE + "{name: a.b}", "f:3:18: metadata.name: 'a.b' is not a DNS label"),
    (NAMESPACE + "{name: a, namespace: b}", "f:3:21: metadata.namespace: this kind has no namespace"),
    # nodes
    (NODE + "spec: {podCIDRs: [10.0.0.0/24, 10.1.0.0/24]}", "spec.podCIDRs[1]: a second IPv4 CIDR"),
    (NODE + "spec: {podCIDR: 10.0.0.0/24, podCIDRs: [10.1.0.0/24]}", "spec.podCIDR: must be the first of podCIDRs"),
    (NODE + "status: {addresses: [{type: InternalIP, address: n1}]}", "status.addresses[0].address: 'n1' is not an IP address"),
    # pods
    (POD + "{containers: [{name: a}, {name: a}]}", "spec.containers[1].name: duplicate container name 'a'"),
    (POD + "{containers: [{name: a, ports: [{containerPort: 70000}]}]}", "must be a port between 1 and 65535, not 70000"),
    (POD + "{containers: [{name: a, ports: [{name: '80', containerPort: 80}]}]}", "'80' is not a port name"),
    (
        POD + "{containers: [{name: a, ports: [{name: p, containerPort: 1}, {name: p, containerPort: 2}]}]}",
        "duplicate port name 'p'",
    ),
    (POD + "{containers: [{name: a, ports: [{containerPort: 1, protocol: tcp}]}]}", "must be 'TCP', 'UDP' or 'SCTP', not 'tcp'"),
    (POD + "{container: []}", "spec.container: unknown field 'container'; did you mean 'containers'?"),
    (POD + "{hostNetwork: 'true'}", "spec.hostNetwork: must be true or false, not 'true'"),
    (POD + "{hostname: a.b}", "spec.hostname: 'a.b' is not a DNS label"),
    (POD + "{}\nstatus: {podIP: 10.0.0.256}", "status.podIP: '10.0.0.256' is not an IP address"),
    (POD + "{}\nstatus: {podIPs: [{ip: 'fe80::1%eth0'}]}", "is not a plain IP address (no zone"),
    (POD + "{}\nstatus: {podIPs: [{ip: '::ffff:10.0.0.1'}]}", "is not a plain IP address"),
    # services
    ("apiVersion: v1\nkind: Service\nmetadata: {name: 1a}\nspec: {clusterIP: None}", "metadata.name: '1a' is not a service name"),
    ("apiVersion: v1\nkind: Service\nmetadata: {name: a}", "f:1:1: spec: is required"),
    (SERVICE + "{selector: {a: b}}", "f:4:7: spec.ports: is required unless the service is headless"),
    (SERVICE + "{ports: [{port: 1}, {port: 2, name: b}]}", "spec.ports[0].name: is required when there are several ports"),
    (SERVICE + "{ports: [{port: 1, name: a}, {port: 2, name: a}]}", "f:4:52: spec.ports[1].name: duplicate port name 'a'"),
    (SERVICE + "{ports: [{port: 1, name: a}, {port: 1, name: b}]}", "spec.ports[1].port: duplicate port 1/TCP"),
    (SERVICE + "{ports: [{port: '80'}]}", "spec.ports[0].port: must be a whole number, not '80': write it without quotes"),
    (SERVICE + "{ports: [{port: true}]}", "spec.ports[0].port: must be a whole number, not true"),
    (
        SERVICE + "{ports: [{port: 80, targetPort: '80'}]}",
        "targetPort: must be a port number or a port name, not '80': write a number",
    ),
    (SERVICE + "{ports: [{port: 80, targetPort: 1.5}]}", "targetPort: must be a port number or a port name, not 1.5"),
    (SERVICE + "{ports: [{port: 80, targetPort: a_b}]}", "'a_b' is not a port name"),
    (SERVICE + "{ports: [{port: 80, nodePort: 30000}]}", "spec.ports[0].nodePort: needs type NodePort or LoadBalancer"),
    (
        SERVICE + "{type: NodePort, ports: [{port: 1, name: a, nodePort: 3}, {port: 2, name: b, nodePort: 3}]}",
        "duplicate nodePort 3",
    ),
    (SERVICE + "{clusterIP: none, ports: [{port: 80}]}", "spec.clusterIP: 'none' is not an IP address, nor 'None'"),
    (SERVICE + "{clusterIPs: [None, 10.0.0.1], ports: [{port: 80}]}", "spec.clusterIPs: 'None' must stand alone"),
    (SERVICE + "{clusterIPs: [10.0.0.2, 10.0.0.1], ports: [{port: 80}]}", "spec.clusterIPs: at most one address per family"),
    (SERVICE + "{clusterIP: 10.0.0.9, clusterIPs: [10.0.0.1], ports: [{port: 80}]}", "must be the same as clusterIP, 10.0.0.9"),
    (SERVICE + "{type: NodePort, clusterIP: None}", "type NodePort needs a virtual IP, not 'None'"),
    (SERVICE + "{type: ExternalName}", "spec.externalName: is required for type ExternalName"),
    (SERVICE + "{type: ExternalName, externalName: A.b}", "'A.b' is not a DNS name"),
    (SERVICE + "{type: ExternalName, externalName: a.b, clusterIP: 10.0.0.1}", "type ExternalName has no virtual IP"),
    (
        SERVICE + "{externalIPs: [127.0.0.1], ports: [{port: 80}]}",
        "'127.0.0.1' is unspecified, loopback, link-local or multicast",
    ),
    (SERVICE + "{externalTrafficPolicy: Local, ports: [{port: 80}]}", "needs type NodePort or LoadBalancer, or externalIPs"),
    (
        SERVICE + "{sessionAffinityConfig: {clientIP: {timeoutSeconds: 5}}, ports: [{port: 80}]}",
        "needs sessionAffinity: ClientIP",
    ),
    (
        SERVICE + "{sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}, ports: [{port: 80}]}",
        "timeoutSeconds: must be between 1 and 86400 seconds, not 0",
    ),
    (
        SERVICE + "{loadBalancerSourceRanges: [10.0.0.0/8], ports: [{port: 80}]}",
        "loadBalancerSourceRanges: needs type LoadBalancer",
    ),
    (
        SERVICE + "{type: LoadBalancer, loadBalancerSourceRanges: [10.0.0.0/33], ports: [{port: 80}]}",
        "loadBalancerSourceRanges[0]",
    ),
    (
        SERVICE + "{type: LoadBalancer, healthCheckNodePort: 30999, ports: [{port: 80}]}",
        "healthCheckNodePort: needs type LoadBalancer and externalTrafficPolicy: Local",
    ),
    (SERVICE + "{trafficDistribution: PreferFar, ports: [{port: 80}]}", "trafficDistribution"),
    # endpoint slices
    (SLICE + "endpoints: []", "f:1:1: addressType: is required"),
    (
        SLICE + "addressType: IPv4\nendpoints: [{addresses: []}]",
        "endpoints[0].addresses: must have between 1 and 100 addresses, not 0",
    ),
    (
        SLICE + "addressType: IPv4\nendpoints: [{addresses: ['fd00::1']}]",
        "endpoints[0].addresses[0]: fd00::1 is not of addressType",
    ),
    (SLICE + "addressType: IPv4\nendpoints: [{addresses: [169.254.1.1]}]", "is unspecified, loopback, link-local or multicast"),
    (SLICE + "addressType: FQDN\nendpoints: [{addresses: [_x]}]", "'_x' is not a DNS name"),
    (SLICE + "addressType: IPv4\nports: [{port: 1}, {port: 2}]", "ports[1].name: duplicate port name ''"),
    # policies
    ("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}", "f:1:1: spec: is required"),
    (POLICY + "{policyTypes: [ingress]}", "spec.policyTypes[0]: must be 'Ingress' or 'Egress', not 'ingress'"),
    (POLICY + "{policyTypes: [Egress, Egress]}", "spec.policyTypes[1]: appears twice"),
    (POLICY + "{ingress: [{to: []}]}", "f:4:19: spec.ingress[0].to: unknown field 'to'"),
    (POLICY + "{ingress: {}}", "spec.ingress: must be a list, not a mapping"),
    (POLICY + "{ingress: [{from: [{}]}]}", "spec.ingress[0].from[0]: a peer needs podSelector, namespaceSelector or ipBlock"),
    (POLICY + "{ingress: [{from: [{podSelector: null}]}]}", "a peer needs podSelector, namespaceSelector or ipBlock"),
    (POLICY + "{ingress: [{from: [null]}]}", "spec.ingress[0].from[0]: must be a mapping, not nothing"),
    (
        POLICY + "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]}",
        "ipBlock: cannot stand beside podSelector",
    ),
    (POLICY + "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0}}]}]}", "'10.0.0.0' is not a CIDR (address/length"),
    (POLICY + "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/255.0.0.0}}]}]}", "is not a CIDR"),
    (POLICY + "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}", "is not a CIDR"),
    (POLICY + "{egress: [{to: [{ipBlock: {}}]}]}", "spec.egress[0].to[0].ipBlock.cidr: is required"),
    (POLICY + "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/9]}}]}]}", "11.0.0.0/9 must lie inside 10.0.0.0/8"),
    (POLICY + "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}", "and be smaller"),
    (POLICY + "{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: ['fd00::/9']}}]}]}", "except[0]: fd00::/9 must lie inside"),
    (POLICY + "{egress: [{ports: [{endPort: 5}]}]}", "spec.egress[0].ports[0].endPort: needs port"),
    (POLICY + "{egress: [{ports: [{port: web, endPort: 5}]}]}", "endPort: needs a numeric port, not a name"),
    (POLICY + "{egress: [{ports: [{port: 6, endPort: 5}]}]}", "endPort: must not be below port 6"),
    (POLICY + "{podSelector: {matchLabels: {a: [b]}}}", "spec.podSelector.matchLabels.a: must be text, not a list"),
    (
        POLICY + "{podSelector: {matchExpressions: [{key: a, operator: in}]}}",
        "must be 'In', 'NotIn', 'Exists' or 'DoesNotExist', not 'in'",
    ),
    (POLICY + "{podSelector: {matchExpressions: [{key: a, operator: In}]}}", "operator In needs at least one value"),
    (POLICY + "{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}", "operator Exists takes no values"),
    (POLICY + "{podSelector: {app: web}}", "f:4:22: spec.podSelector.app: unknown field 'app'"),
]


@pytest.mark.parametrize(("text", "wanted"), REFUSED)
def test_refused_with_one_clear_line(text: str, wanted: str) -> None:
    (found,) = errors(text)
    assert wanted in found


ACCEPTED = [
    NAMESPACE + "{name: shop, labels: {team: a, x.y/z: ''}, annotations: {A.B/c: any text}}\nstatus: {phase: Active}",
    NODE + "spec: {podCIDR: 10.0.0.0/24, podCIDRs: [10.0.0.0/24, 'fd00::/64'], unschedulable: true, taints: [{anything: 1}]}",
    NODE + "status: {addresses: [{type: InternalIP, address: 10.0.0.1}, {type: Hostname, address: n1}]}",
    "apiVersion: v1\nkind: Pod\nmetadata: {name: web-1, namespace: shop, labels: {app: web}}",
    POD + "{containers: [{name: a, image: nginx, command: [sh], env: [{name: X, value: y}], resources: {limits: {cpu: 1}}}]}",
    POD + "{containers: [{name: a, ports: [{containerPort: 80, name: '', protocol: null, hostPort: 0}]}], volumes: null}",
    POD + "{containers: []}\nstatus: {podIP: '', podIPs: [], conditions: [{type: Ready, status: 'True', reason: x}]}",
    SERVICE + "{selector: {app: web}, ports: [{port: 80}]}",
    SERVICE + "{clusterIP: None}",
    SERVICE + "{clusterIPs: [None]}",
    SERVICE + "{clusterIP: '', ports: [{port: 80, targetPort: 0}, {port: 80, protocol: UDP, name: u, targetPort: ''}]}".replace(
        "{port: 80, targetPort: 0}", "{port: 80, name: t, targetPort: 0}"
    ),
    SERVICE + "{clusterIPs: [10.0.0.1, 'fd00::1'], clusterIP: 10.0.0.1, ipFamilyPolicy: RequireDualStack, ports: [{port: 80}]}",
    SERVICE + "{type: ExternalName, externalName: db.example.com.}",
    SERVICE + "{type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 5, ports: [{port: 80, nodePort: 30080}]}",
    SERVICE + "{type: LoadBalancer, loadBalancerSourceRanges: [10.0.0.0/8, 'fd00::/8'], ports: [{port: 80}]}",
    SERVICE + "{trafficDistribution: PreferSameNode, ports: [{port: 80}]}",
    SERVICE + "{ports: [{port: 53, name: a}, {port: 53, name: b, protocol: UDP}]}",
    SERVICE + "{ports: [{port: 80}]}\nstatus: {loadBalancer: {ingress: [{ip: 192.0.2.1, ipMode: VIP}]}}",
    SLICE + "addressType: IPv4\nendpoints: [{addresses: [10.0.0.1], conditions: {ready: null}}]\nports: [{port: 80, name: ''}]",
    SLICE + "addressType: FQDN\nendpoints: [{addresses: [a.example.com]}]",
    SLICE + "addressType: IPv6\nendpoints: null\nports: null",
    POLICY + "{podSelector: {}}",
    POLICY + "{podSelector: null, policyTypes: [Ingress, Egress], ingress: [], egress: [{}]}",
    POLICY + "{ingress: [{from: [{namespaceSelector: {}, podSelector: {}}]}]}",
    POLICY + "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.7/8, except: [10.1.0.0/16]}}]}]}",
    POLICY + "{egress: [{ports: [{port: 80, endPort: 80}, {port: web-ui}, {protocol: SCTP}]}]}",
    POLICY + "{podSelector: {matchExpressions: [{key: a, operator: In, values: ['', b]}, {key: b, operator: Exists}]}}",
]  # fmt: skip


@pytest.mark.parametrize("text", ACCEPTED)
def test_accepted(text: str) -> None:
    assert errors(text) == []


def test_all_faults_of_all_documents_are_told_in_order() -> None:
    text = dedent("""\
        apiVersion: v1
        kind: Service
        metadata: {name: web}
        spec:
          selectr: {app: web}
          ports:
          - port: 0
            protcol: TCP
        ---
        kind: ClusterNetworkPolicy
        ---
        apiVersion: v1
        kind: Namespace
        metadata: {name: Shop}
        """)
    with pytest.raises(InvalidDocuments) as caught:
        validate("shop.yaml", text)
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [
        "shop.yaml:5:3", "shop.yaml:7:11", "shop.yaml:8:5", "shop.yaml:10:7", "shop.yaml:14:18",
    ]  # fmt: skip


def test_one_fault_is_an_ordinary_user_error() -> None:
    with pytest.raises(InvalidDocuments) as caught:
        validate("f", "kind: ClusterNetworkPolicy")
    assert caught.value.place is not None and caught.value.place.line == 1
    assert str(caught.value) == "f:1:7: kind: ClusterNetworkPolicy (policy.networking.k8s.io) is not supported by this version"
    assert caught.value.message == "ClusterNetworkPolicy (policy.networking.k8s.io) is not supported by this version"


def test_very_many_faults_are_summed_up() -> None:
    with pytest.raises(InvalidDocuments) as caught:
        validate("f", "kind: ClusterNetworkPolicy\n---\n" * 250)
    assert len(caught.value.errors) == 250
    assert str(caught.value).splitlines()[-1] == "and 150 more"


def test_lists_are_expanded_with_their_places() -> None:
    text = "kind: List\napiVersion: v1\nmetadata: {}\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a}}\n- kind: List\n"
    text += "  apiVersion: v1\n  items:\n  - apiVersion: v1\n    kind: Namespace\n    metadata: {name: b}\n"
    pod, namespace = validate("f", text)
    assert (pod.key, namespace.key) == (Key("Pod", "default", "a"), Key("Namespace", "", "b"))
    assert str(namespace.place("metadata", "name")) == "f:11:22: metadata.name"


def test_only_the_namespace_is_filled_in() -> None:
    (pod,) = validate("f", "apiVersion: v1\nkind: Pod\nmetadata: {name: a, labels: null}\nspec: {nodeName: n}")
    assert pod.document == {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": None, "namespace": "default"},
        "spec": {"nodeName": "n"},
    }  # fmt: skip
    (namespace,) = validate("f", NAMESPACE + "{name: a}")
    assert namespace.document["metadata"] == {"name": "a"}
    assert with_namespace(pod.document) is pod.document


def test_an_object_declared_twice_is_refused() -> None:
    text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\n"
    text += "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: default}\n"
    assert errors(text) == ["f:5:1: Pod/default/a is declared twice, first at f:1:1"]


def test_check_document_tells_the_field() -> None:
    document = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 0}]}}
    with pytest.raises(InvalidDocuments) as caught:
        check_document(document)
    (error,) = caught.value.errors
    assert error.place is not None and error.place.field == "spec.ports[0].port"
    document["spec"] = {"ports": [{"port": 80}]}
    check_document(document)
    for junk in (None, [], "x", {}, {"kind": "Pod", "apiVersion": "v1", "metadata": None}):
        with pytest.raises(InvalidDocuments):
            check_document(junk)
