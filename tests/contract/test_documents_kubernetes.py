"""The schema knows exactly the fields of the Kubernetes API.

The table is taken from the OpenAPI documents of a Kubernetes 1.36 API server: kind and path -> fields of the object there.
"""

from __future__ import annotations

import pytest

from fairway_core.documents.faults import fields_at
from fairway_core.documents.schema import SCHEMAS
from fairway_core.keys import KINDS

KUBERNETES = {
    ("Namespace", "metadata"): (
        "annotations creationTimestamp deletionGracePeriodSeconds deletionTimestamp finalizers generateName "
        "generation labels managedFields name namespace ownerReferences resourceVersion selfLink uid"
    ),
    ("Namespace", "spec"): "finalizers",
    ("Namespace", "status"): "conditions phase",
    ("Node", ""): "apiVersion kind metadata spec status",
    ("Node", "spec"): "configSource externalID podCIDR podCIDRs providerID taints unschedulable",
    ("Node", "status"): (
        "addresses allocatable capacity conditions config daemonEndpoints declaredFeatures features images "
        "nodeInfo phase runtimeHandlers volumesAttached volumesInUse"
    ),
    ("Node", "status.addresses"): "address type",
    ("Pod", ""): "apiVersion kind metadata spec status",
    ("Pod", "spec"): (
        "activeDeadlineSeconds affinity automountServiceAccountToken containers dnsConfig dnsPolicy "
        "enableServiceLinks ephemeralContainers hostAliases hostIPC hostNetwork hostPID hostUsers hostname "
        "hostnameOverride imagePullSecrets initContainers nodeName nodeSelector os overhead preemptionPolicy "
        "priority priorityClassName readinessGates resourceClaims resources restartPolicy runtimeClassName "
        "schedulerName schedulingGates schedulingGroup securityContext serviceAccount serviceAccountName "
        "setHostnameAsFQDN shareProcessNamespace subdomain terminationGracePeriodSeconds tolerations "
        "topologySpreadConstraints volumes"
    ),
    ("Pod", "spec.containers"): (
        "args command env envFrom image imagePullPolicy lifecycle livenessProbe name ports readinessProbe "
        "resizePolicy resources restartPolicy restartPolicyRules securityContext startupProbe stdin stdinOnce "
        "terminationMessagePath terminationMessagePolicy tty volumeDevices volumeMounts workingDir"
    ),
    ("Pod", "spec.ephemeralContainers"): (
        "args command env envFrom image imagePullPolicy lifecycle livenessProbe name ports readinessProbe "
        "resizePolicy resources restartPolicy restartPolicyRules securityContext startupProbe stdin stdinOnce "
        "targetContainerName terminationMessagePath terminationMessagePolicy tty volumeDevices volumeMounts "
        "workingDir"
    ),
    ("Pod", "spec.containers.ports"): "containerPort hostIP hostPort name protocol",
    ("Pod", "status"): (
        "allocatedResources conditions containerStatuses ephemeralContainerStatuses "
        "extendedResourceClaimStatus hostIP hostIPs initContainerStatuses message "
        "nodeAllocatableResourceClaimStatuses nominatedNodeName observedGeneration phase podIP podIPs "
        "qosClass reason resize resourceClaimStatuses resources startTime"
    ),
    ("Pod", "status.podIPs"): "ip",
    ("Pod", "status.conditions"): "lastProbeTime lastTransitionTime message observedGeneration reason status type",
    ("Service", ""): "apiVersion kind metadata spec status",
    ("Service", "spec"): (
        "allocateLoadBalancerNodePorts clusterIP clusterIPs externalIPs externalName externalTrafficPolicy "
        "healthCheckNodePort internalTrafficPolicy ipFamilies ipFamilyPolicy loadBalancerClass loadBalancerIP "
        "loadBalancerSourceRanges ports publishNotReadyAddresses selector sessionAffinity "
        "sessionAffinityConfig trafficDistribution type"
    ),
    ("Service", "spec.ports"): "appProtocol name nodePort port protocol targetPort",
    ("Service", "spec.sessionAffinityConfig"): "clientIP",
    ("Service", "spec.sessionAffinityConfig.clientIP"): "timeoutSeconds",
    ("Service", "status"): "conditions loadBalancer",
    ("Service", "status.loadBalancer"): "ingress",
    ("Service", "status.loadBalancer.ingress"): "hostname ip ipMode ports",
    ("EndpointSlice", ""): "addressType apiVersion endpoints kind metadata ports",
    ("EndpointSlice", "endpoints"): "addresses conditions deprecatedTopology hints hostname nodeName targetRef zone",
    ("EndpointSlice", "endpoints.conditions"): "ready serving terminating",
    ("EndpointSlice", "endpoints.targetRef"): "apiVersion fieldPath kind name namespace resourceVersion uid",
    ("EndpointSlice", "ports"): "appProtocol name port protocol",
    ("NetworkPolicy", ""): "apiVersion kind metadata spec",
    ("NetworkPolicy", "spec"): "egress ingress podSelector policyTypes",
    ("NetworkPolicy", "spec.podSelector"): "matchExpressions matchLabels",
    ("NetworkPolicy", "spec.podSelector.matchExpressions"): "key operator values",
    ("NetworkPolicy", "spec.ingress"): "from ports",
    ("NetworkPolicy", "spec.egress"): "ports to",
    ("NetworkPolicy", "spec.ingress.from"): "ipBlock namespaceSelector podSelector",
    ("NetworkPolicy", "spec.egress.to.ipBlock"): "cidr except",
    ("NetworkPolicy", "spec.egress.ports"): "endPort port protocol",
}
# One model serves all three lists of containers; the debugging field of ephemeral ones is harmless in the others.
TOLERATED = {("Pod", "spec.containers"): {"targetContainerName"}}


@pytest.mark.parametrize(("kind", "path"), sorted(KUBERNETES))
def test_every_field_of_the_api_is_known_and_no_other(kind: str, path: str) -> None:
    steps = tuple(path.split(".")) if path else ()
    known = set(fields_at(SCHEMAS[kind], steps)) - TOLERATED.get((kind, path), set())
    assert known == set(KUBERNETES[kind, path].split())


def test_every_kind_of_the_model_has_a_schema() -> None:
    assert set(SCHEMAS) == {kind.name for kind in KINDS} - {"Attachment", "ClusterNetworkPolicy", "ServiceCIDR"}
