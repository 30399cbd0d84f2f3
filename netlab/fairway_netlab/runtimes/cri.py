"""The Container Runtime Interface as kubelet speaks it: pod sandboxes over gRPC, without kubelet.

Only the fields a sandbox needs are written, so the messages are encoded here instead of generated from api.proto.
Source: kubernetes/cri-api, package runtime.v1, service RuntimeService; wire format: Protocol Buffers encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fairway_netlab.runtimes.node import RuntimeFailed

CALL_SECONDS = 30.0
SERVICE = "/runtime.v1.RuntimeService/"

_VARINT, _BYTES = 0, 2
# Field numbers of runtime.v1: PodSandboxConfig, PodSandboxMetadata, DNSConfig, PortMapping.
_METADATA, _HOSTNAME, _DNS, _PORTS, _LABELS, _ANNOTATIONS = 1, 2, 4, 5, 6, 7
_NAME, _UID, _NAMESPACE = 1, 2, 3
_SERVERS, _SEARCHES, _OPTIONS = 1, 2, 3
_CONTAINER_PORT, _HOST_PORT = 2, 3
# RunPodSandboxRequest.config; RunPodSandboxResponse, StopPodSandboxRequest, RemovePodSandboxRequest: pod_sandbox_id.
_CONFIG, _SANDBOX_ID = 1, 1


class Sandboxes:
    """Pod sandboxes of one containerd at the socket `address`. Use as a context manager. Raises RuntimeFailed."""

    def __init__(self, address: Path) -> None:
        self._address = address
        self._channel: Any = None

    def __enter__(self) -> Sandboxes:
        import grpc

        self._channel = grpc.insecure_channel(f"unix://{self._address}")
        return self

    def __exit__(self, *exc: object) -> None:
        self._channel.close()

    def run(
        self,
        namespace: str,
        name: str,
        resolv: Mapping[str, list[str]],
        annotations: Mapping[str, str],
        ports: Mapping[int, int] | None = None,
    ) -> str:
        """RunPodSandbox; the sandbox id. `resolv` has servers, searches and options, as kubelet gives them; `ports` are host
        ports (TCP) with the ports of the pod.
        """
        pod = _pod(namespace, name, resolv, annotations) + b"".join(_port(*item) for item in (ports or {}).items())
        answer = self._call("RunPodSandbox", _message(_CONFIG, pod))
        return next(value.decode() for field, value in fields(answer) if field == _SANDBOX_ID and isinstance(value, bytes))

    def stop(self, sandbox: str) -> None:
        """StopPodSandbox: the first DEL."""
        self._call("StopPodSandbox", _text(_SANDBOX_ID, sandbox))

    def remove(self, sandbox: str) -> None:
        """RemovePodSandbox: DEL again, without a namespace."""
        self._call("RemovePodSandbox", _text(_SANDBOX_ID, sandbox))

    def _call(self, method: str, request: bytes) -> bytes:
        import grpc

        try:
            answer: bytes = self._channel.unary_unary(SERVICE + method)(request, timeout=CALL_SECONDS, wait_for_ready=True)
        except grpc.RpcError as error:
            raise RuntimeFailed(f"{method}: {error.code().name}: {error.details()}") from error
        return answer


def _pod(namespace: str, name: str, resolv: Mapping[str, list[str]], annotations: Mapping[str, str]) -> bytes:
    metadata = _text(_NAME, name) + _text(_UID, f"uid-{namespace}-{name}") + _text(_NAMESPACE, namespace)
    numbers = {"servers": _SERVERS, "searches": _SEARCHES, "options": _OPTIONS}
    dns = b"".join(_text(numbers[key], value) for key, values in resolv.items() for value in values)
    labels = {"name": name, "namespace": namespace, "uid": f"uid-{namespace}-{name}"}
    marks = _pairs(_LABELS, {f"io.kubernetes.pod.{key}": value for key, value in labels.items()})
    notes = _pairs(_ANNOTATIONS, {"kubernetes.io/config.source": "api", **annotations})
    return _message(_METADATA, metadata) + _text(_HOSTNAME, name) + _message(_DNS, dns) + marks + notes


def _pairs(field: int, pairs: Mapping[str, str]) -> bytes:
    return b"".join(_message(field, _text(1, key) + _text(2, value)) for key, value in pairs.items())


def _port(host: int, container: int) -> bytes:
    return _message(_PORTS, _number(_CONTAINER_PORT, container) + _number(_HOST_PORT, host))


def _number(field: int, value: int) -> bytes:
    return varint(field << 3 | _VARINT) + varint(value)


def varint(value: int) -> bytes:
    """An unsigned integer in base 128, least significant group first."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def _message(field: int, content: bytes) -> bytes:
    return varint(field << 3 | _BYTES) + varint(len(content)) + content


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode())


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message in order: integers, strings and embedded messages. Raises ValueError for other wire types."""
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        value, at = _read_varint(message, at)
        if key & 7 == _VARINT:
            yield key >> 3, value
        elif key & 7 == _BYTES:
            yield key >> 3, message[at : at + value]
            at += value
        else:
            raise ValueError(f"wire type {key & 7} of field {key >> 3}")


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if byte < 0x80:
            return value, at
