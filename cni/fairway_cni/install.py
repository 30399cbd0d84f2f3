"""Putting the plugin on a node: the executable, then the network list, each in one step.

Runtimes take the list as the sign that the plugin works, so it comes last, and a running runtime must never see half a file
nor a busy executable: both are written beside their place and renamed. What stood there before comes back at uninstall.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from fairway_cni.netconf import BRIDGE
from fairway_core.errors import UserError

BINARY = "fairway"
CONFLIST = "10-fairway.conflist"
BACKUP = ".fairway-saved"
"""Suffix of what stood in our place; no runtime reads a configuration with it."""


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """What the network list says. `mtu` 0: the node's choice."""

    socket: str = "/run/fairway/agent.sock"
    spool_dir: str = "/var/lib/fairway/spool"
    name: str = "fairway"
    mode: str = BRIDGE
    namespace: str = "default"
    mtu: int = 0


def conflist(settings: NetworkSettings) -> dict[str, Any]:
    """The network list. Old runtimes choke on 1.1.0 as cniVersion and ignore cniVersions; new ones choose the newest."""
    capabilities = ("portMappings", "bandwidth", "ips", "mac", "dns", "aliases", "io.kubernetes.cri.pod-annotations")
    plugin: dict[str, Any] = {
        "type": BINARY,
        "agentSocket": settings.socket,
        "spoolDir": settings.spool_dir,
        "mode": settings.mode,
        "namespace": settings.namespace,
        **({"mtu": settings.mtu} if settings.mtu else {}),
        "capabilities": dict.fromkeys(capabilities, True),
    }
    return {
        "cniVersion": "1.0.0",
        "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
        "name": settings.name,
        "plugins": [plugin],
    }


def shim_bytes() -> bytes:
    """The compiled executable out of the package. Raises UserError if the package was built without it."""
    source = resources.files("fairway_cni").joinpath("fairway-shim")
    if not source.is_file():
        raise UserError("this installation has no compiled fairway-shim; build the package with a C compiler present")
    return source.read_bytes()


def install(bin_dir: str, conf_dir: str, settings: NetworkSettings, root: str = "/") -> list[str]:
    """Put executable and list in place; what was done, one line each. Repeating it changes nothing. Raises UserError."""
    binary, listed = _under(root, bin_dir) / BINARY, _under(root, conf_dir) / CONFLIST
    text = json.dumps(conflist(settings), indent=2) + "\n"
    try:
        return [_place(binary, shim_bytes(), 0o755), _place(listed, text.encode(), 0o644)]
    except OSError as fault:
        raise UserError(f"cannot install: {fault}") from fault


def uninstall(bin_dir: str, conf_dir: str, root: str = "/") -> list[str]:
    """Take both away, the list first, and bring back what stood there. Repeating it changes nothing. Raises UserError.

    A file that is not ours any more is left alone.
    """
    binary, listed = _under(root, bin_dir) / BINARY, _under(root, conf_dir) / CONFLIST
    try:
        return [_take_away(listed, _is_our_list(listed)), _take_away(binary, _is_our_shim(binary))]
    except OSError as fault:
        raise UserError(f"cannot uninstall: {fault}") from fault


def _under(root: str, path: str) -> Path:
    return Path(root) / path.lstrip("/")


def _saved(path: Path) -> Path:
    return path.with_name(path.name + BACKUP)


def _place(path: Path, content: bytes, mode: int) -> str:
    if path.is_file() and path.read_bytes() == content and path.stat().st_mode & 0o777 == mode:
        return f"{path}: unchanged"
    path.parent.mkdir(parents=True, exist_ok=True)
    ours = _is_our_list(path) or _is_our_shim(path)
    note = "replaced" if ours else "written"
    if path.exists() and not ours and not _saved(path).exists():
        shutil.copy2(path, _saved(path))
        note = f"written, the file before is kept as {_saved(path).name}"
    _write_atomically(path, content, mode)
    return f"{path}: {note}"


def _write_atomically(path: Path, content: bytes, mode: int) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _take_away(path: Path, ours: bool) -> str:
    if not path.exists():
        return f"{path}: not there"
    if not ours:
        return f"{path}: left alone, it is not fairway's"
    if _saved(path).exists():
        _saved(path).replace(path)
        return f"{path}: the file before is back"
    path.unlink()
    return f"{path}: removed"


def _is_our_list(path: Path) -> bool:
    """Ours is a network list whose only plugin is fairway, also if somebody edited it."""
    try:
        plugins = json.loads(path.read_bytes())["plugins"]
        return [plugin["type"] for plugin in plugins] == [BINARY]
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _is_our_shim(path: Path) -> bool:
    """Ours, of any version, holds the request that only the shim makes."""
    try:
        return b"POST /v1/cni HTTP/1.1" in path.read_bytes()
    except OSError:
        return False
