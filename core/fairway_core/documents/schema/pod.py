"""Pod (v1): what the network needs of it. A Pod may be declared with metadata alone, to give a container its labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from fairway_core.documents.errors import Fault
from fairway_core.documents.schema.base import ApiObject, ObjectMeta, duplicates, names
from fairway_core.documents.schema.network import Address, AddressOrEmpty, PortNumber, PortOrZero, Protocol
from fairway_core.documents.schema.text import DnsLabel, DnsLabelOrEmpty, DnsSubdomain, PortNameOrEmpty


class PodMeta(ObjectMeta):
    """A pod's name is a DNS name."""

    name: DnsSubdomain


class ContainerPort(ApiObject):
    """A port a container listens on; its name can be used by services and policies."""

    containerPort: PortNumber
    name: PortNameOrEmpty | None = None
    protocol: Protocol | None = None
    hostPort: PortOrZero | None = None
    hostIP: AddressOrEmpty | None = None


class Container(ApiObject):
    """A container's name and ports. Source of the other names: v1 Container, EphemeralContainer."""

    accepted = names(
        "args command env envFrom image imagePullPolicy lifecycle livenessProbe readinessProbe resizePolicy resources "
        "restartPolicy restartPolicyRules securityContext startupProbe stdin stdinOnce targetContainerName "
        "terminationMessagePath terminationMessagePolicy tty volumeDevices volumeMounts workingDir"
    )
    name: DnsLabel
    ports: list[ContainerPort] | None = None

    def rules(self) -> Iterator[Fault]:
        ports = self.ports or []
        named = [(index, port.name) for index, port in enumerate(ports) if port.name]
        for position in duplicates([name for _, name in named]):
            index, name = named[position]
            yield Fault(("ports", index, "name"), f"duplicate port name {name!r}")


class PodSpec(ApiObject):
    """Containers with their ports, and where and as whom the pod is on the network."""

    accepted = names(
        "activeDeadlineSeconds affinity automountServiceAccountToken dnsConfig dnsPolicy enableServiceLinks hostAliases "
        "hostIPC hostPID hostUsers hostnameOverride imagePullSecrets nodeSelector os overhead preemptionPolicy priority "
        "priorityClassName readinessGates resourceClaims resources restartPolicy runtimeClassName schedulerName "
        "schedulingGates schedulingGroup securityContext serviceAccount serviceAccountName setHostnameAsFQDN "
        "shareProcessNamespace terminationGracePeriodSeconds tolerations topologySpreadConstraints volumes"
    )
    containers: list[Container] | None = None
    initContainers: list[Container] | None = None
    ephemeralContainers: list[Container] | None = None
    nodeName: str | None = None
    hostNetwork: bool | None = None
    hostname: DnsLabelOrEmpty | None = None
    subdomain: DnsLabelOrEmpty | None = None

    def rules(self) -> Iterator[Fault]:
        containers = self.containers or []
        for index in duplicates([container.name for container in containers]):
            yield Fault(("containers", index, "name"), f"duplicate container name {containers[index].name!r}")


class PodIP(ApiObject):
    """One address of a pod."""

    ip: Address


class PodCondition(ApiObject):
    """Only the condition Ready matters."""

    accepted = names("lastProbeTime lastTransitionTime message observedGeneration reason")
    type: str
    status: Literal["True", "False", "Unknown"]


class PodStatus(ApiObject):
    """Addresses and readiness, as somebody observed them."""

    accepted = names(
        "allocatedResources containerStatuses ephemeralContainerStatuses extendedResourceClaimStatus hostIP hostIPs "
        "initContainerStatuses message nodeAllocatableResourceClaimStatuses nominatedNodeName observedGeneration qosClass "
        "reason resize resourceClaimStatuses resources startTime"
    )
    phase: Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"] | None = None
    podIP: AddressOrEmpty | None = None
    podIPs: list[PodIP] | None = None
    conditions: list[PodCondition] | None = None


class Pod(ApiObject):
    """v1 Pod."""

    apiVersion: str
    kind: str
    metadata: PodMeta
    spec: PodSpec | None = None
    status: PodStatus | None = None
