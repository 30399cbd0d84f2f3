"""What the shim hands over, understood: environment, CNI_ARGS and network configuration. Pure.

Promise: any bytes give a `Request` or raise CniError, nothing else. Sources: CNI spec 1.1.0 sections 1, 2 and 4; CONVENTIONS.md
there. DEL and GC read only what names the attachment and the network, so that a changed or broken configuration never keeps a
container from going; STATUS reads the network's ranges too.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from fairway_cni import faults
from fairway_cni.faults import CniError
from fairway_cni.netconf import NetConf, ipam_type, is_chained, own_ranges, parse_wanted, read_attachments
from fairway_cni.podargs import PodArgs, parse_args
from fairway_cni.values import fold

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
"""The first version that knows a command."""
DEFAULT_VERSION = "0.1.0"
"""What a configuration without cniVersion means."""

_COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS")
_NAMED = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*\Z", re.ASCII)
_IFNAME = re.compile(r"[!-.0-9;-~]{1,15}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Request:
    """One call of the plugin.

    `args` is empty and `config.wanted` None for all but ADD; `netns` may be empty for DEL; `raw` is the configuration as sent.
    """

    command: str
    container_id: str
    netns: str
    ifname: str
    args: PodArgs
    path: str
    config: NetConf
    raw: bytes
    args_text: str = ""
    """CNI_ARGS as sent, for an address plugin."""
    trace: str = ""


def parse(body: bytes) -> Request:
    """Understand the body of POST /v1/cni or of a spooled call. Raises CniError."""
    env, raw = split_body(body)
    command = env.get("CNI_COMMAND", "")
    if command not in _COMMANDS:
        raise CniError(faults.ENVIRONMENT, f"CNI_COMMAND {command!r} is not known")
    document = read_document(raw, strict=command == "ADD")
    version = _version(document, command)
    _check_environment(env, command)
    adding = command == "ADD"
    args = parse_args(env.get("CNI_ARGS", "")) if adding else PodArgs()
    config = NetConf(
        cni_version=version,
        name=_network_name(document),
        wanted=parse_wanted(document, env["CNI_IFNAME"]) if adding else None,
        attachments=read_attachments(document) if command == "GC" else None,
        prev_result=_prev_result(document, command),
        ipam=_ipam(document, command),
        ranges=own_ranges(document) if command == "STATUS" else (),
        chained=command == "STATUS" and is_chained(document),
    )
    return Request(
        command=command,
        container_id=env.get("CNI_CONTAINERID", ""),
        netns=env.get("CNI_NETNS", ""),
        ifname=env.get("CNI_IFNAME", ""),
        args=args,
        path=env.get("CNI_PATH", ""),
        config=config,
        raw=raw,
        args_text=env.get("CNI_ARGS", ""),
        trace=env.get("TRACEPARENT", ""),
    )


def version_of(body: bytes) -> str:
    """The version to answer an unreadable call in: the caller's if it can be made out, else 1.0.0. Never raises."""
    try:
        version = read_document(split_body(body)[1]).get("cniversion") or DEFAULT_VERSION
    except CniError:
        return "1.0.0"
    return version if version in VERSIONS else "1.0.0"


def split_body(body: bytes) -> tuple[dict[str, str], bytes]:
    """Environment and configuration: KEY=VALUE strings, each ended by NUL, an empty one, then the rest. Raises CniError."""
    env: dict[str, str] = {}
    at = 0
    while (end := body.find(b"\0", at)) != at:
        if end < 0:
            raise CniError(faults.IO, "the call is cut short: its environment does not end")
        key, equals, value = body[at:end].partition(b"=")
        try:
            env[key.decode()] = value.decode()
        except UnicodeDecodeError as fault:
            raise CniError(faults.ENVIRONMENT, "the environment is not UTF-8", str(fault)) from fault
        if not equals:
            raise CniError(faults.ENVIRONMENT, f"{key.decode()} has no value")
        at = end + 1
    return env, body[at + 1 :]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _no_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise CniError(faults.CONFIG, f"{twice}: stands twice in one object of the network configuration")
    return found


def read_document(raw: bytes, strict: bool = False) -> dict[str, Any]:
    """The configuration with its top-level keys in lower case. Raises CniError with code 6.

    RFC 8259, section 4 leaves open what a repeated key means: the last counts, `strict` makes it an error with code 7.
    """
    try:
        hook = _no_repetition if strict else None
        document = json.loads(raw.decode(), parse_constant=_no_constant, object_pairs_hook=hook)
        if b"\\u" in raw:
            json.dumps(document, ensure_ascii=False).encode()  # finds lone surrogates, which no later writer could encode
    except (ValueError, RecursionError) as fault:
        raise CniError(faults.DECODE, "the network configuration cannot be decoded", str(fault)) from fault
    if not isinstance(document, dict):
        raise CniError(faults.DECODE, "the network configuration is not a JSON object")
    return fold(document)


def _version(document: dict[str, Any], command: str) -> str:
    version = document.get("cniversion") or DEFAULT_VERSION
    if version not in VERSIONS:
        raise CniError(faults.VERSION, "incompatible CNI versions", f"config is {version!r}, plugin supports {list(VERSIONS)}")
    since = SINCE.get(command, VERSIONS[0])
    if VERSIONS.index(version) < VERSIONS.index(since):
        raise CniError(faults.VERSION, f"config version does not allow {command}", f"config is {version}, needed is {since}")
    return str(version)


def _network_name(document: dict[str, Any]) -> str:
    name = document.get("name")
    if not isinstance(name, str) or not name:
        raise CniError(faults.CONFIG, "name: the network has no name")
    if not _NAMED.match(name) or len(name) > 253:
        raise CniError(faults.CONFIG, f"name: {name!r} is not a network name", "letters, digits, and _ . - after the first")
    return name


def _check_environment(env: dict[str, str], command: str) -> None:
    needed = {"ADD": 3, "CHECK": 3, "DEL": 2}.get(command, 0)
    names = ("CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS")[:needed]
    missing = [name for name in names if not env.get(name)]
    if missing:
        raise CniError(faults.ENVIRONMENT, f"required environment variables missing: {', '.join(missing)}")
    container_id, ifname = env.get("CNI_CONTAINERID", ""), env.get("CNI_IFNAME", "")
    if needed and not _NAMED.match(container_id):
        raise CniError(faults.ENVIRONMENT, f"CNI_CONTAINERID: {container_id!r} is not a container id")
    if needed and (not _IFNAME.match(ifname) or ifname in (".", "..")):
        raise CniError(
            faults.ENVIRONMENT, f"CNI_IFNAME: {ifname!r} is not an interface name", "1-15 characters without / : space"
        )
    if command == "ADD" and (ifname in ("all", "default") or "%" in ifname):
        # Directories of kernel settings, and a pattern that the kernel fills in.
        raise CniError(faults.ENVIRONMENT, f"CNI_IFNAME: {ifname!r} means something else to the kernel")


def _prev_result(document: dict[str, Any], command: str) -> dict[str, Any] | None:
    previous = document.get("prevresult")
    if command in ("ADD", "CHECK") and previous is not None and not isinstance(previous, dict):
        raise CniError(faults.CONFIG, "prevResult: an object expected")
    if command == "CHECK" and previous is None:
        raise CniError(faults.CONFIG, "prevResult: CHECK needs the result of the ADD")
    return previous if isinstance(previous, dict) else None


def _ipam(document: dict[str, Any], command: str) -> str:
    """A broken name must not keep a container from going."""
    try:
        return ipam_type(document)
    except CniError:
        if command == "ADD":
            raise
        return ""
