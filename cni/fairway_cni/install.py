"""Putting the plugin on a node: the executable, then the network list, each in one step.

Runtimes take the list as the sign that the plugin works, so it comes last, and a running runtime must never see half a file
nor a busy executable: both are written beside their place and renamed. What stood there before comes back at uninstall.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from contextlib import ExitStack
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
SUFFIXES = frozenset({".conf", ".conflist", ".json"})
"""Names that runtimes take for network configurations (libcni)."""
LINKS = 256
"""Steps of a path, links included."""


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
    capabilities = ("portMappings", "bandwidth", "ips", "ipRanges", "mac", "dns", "aliases", "io.kubernetes.cri.pod-annotations")
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


def install(bin_dir: str, conf_dir: str, settings: NetworkSettings, root: str = "/", keep_others: bool = False) -> list[str]:
    """Put executable and list in place; what was done, one line each. Repeating it changes nothing. Raises UserError.

    Runtimes use the list whose name sorts first, so those before ours are set aside afterwards, unless `keep_others`. Both files
    are on the disk before either gets its name: a place that cannot be written changes nothing.
    """
    binary, listed = inside(root, bin_dir) / BINARY, inside(root, conf_dir) / CONFLIST
    text = json.dumps(conflist(settings), indent=2) + "\n"
    try:
        with ExitStack() as drafts:
            placements = [_draft(drafts, binary, shim_bytes(), 0o755), _draft(drafts, listed, text.encode(), 0o644)]
            lines = [_place(placement) for placement in placements]
        return [*lines, *(_mention(path) if keep_others else _set_aside(path) for path in _before_ours(listed))]
    except OSError as fault:
        raise UserError(f"cannot install: {_explain(fault)}") from fault


def uninstall(bin_dir: str, conf_dir: str, root: str = "/") -> list[str]:
    """Take both away, the list first, and bring back what stood there. Repeating it changes nothing. Raises UserError.

    A file that is not ours any more is left alone.
    """
    binary, listed = inside(root, bin_dir) / BINARY, inside(root, conf_dir) / CONFLIST
    try:
        others = [_bring_back(path) for path in _set_aside_here(listed)]
        return [*others, _take_away(listed, _is_our_list(listed)), _take_away(binary, _is_our_shim(binary))]
    except OSError as fault:
        raise UserError(f"cannot uninstall: {_explain(fault)}") from fault


def network_lists(directory: Path) -> list[Path]:
    """The files runtimes read there, in the order in which they read them (libcni: by name). Raises OSError."""
    try:
        return sorted(path for path in directory.iterdir() if path.suffix in SUFFIXES and path.is_file())
    except FileNotFoundError:
        return []


def inside(root: str, path: str) -> Path:
    """`path` as a process whose root directory is `root` would find it: absolute links stay below `root`. Raises UserError."""
    base = found = Path(root).absolute()
    pending = list(reversed(Path(path).absolute().parts if base == Path("/") else Path(path).parts))
    for _ in range(LINKS):
        if not pending:
            return found
        part = pending.pop()
        if part == "/":
            found = base
        elif part == "..":
            found = base if found == base else found.parent
        elif (found / part).is_symlink():
            pending += reversed((found / part).readlink().parts)
        else:
            found = found / part
    raise UserError(f"{path}: too many symbolic links below {root}")


def _saved(path: Path) -> Path:
    return path.with_name(path.name + BACKUP)


@dataclass(frozen=True, slots=True)
class _Placement:
    """What is to stand at `path`, written out at `draft`; no draft: it stands there already."""

    path: Path
    draft: Path | None


def _draft(drafts: ExitStack, path: Path, content: bytes, mode: int) -> _Placement:
    if path.is_file() and path.read_bytes() == content and path.stat().st_mode & 0o777 == mode:
        return _Placement(path, None)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    drafts.callback(Path(name).unlink, missing_ok=True)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())
    return _Placement(path, Path(name))


def _place(placement: _Placement) -> str:
    path = placement.path
    if placement.draft is None:
        return f"{path}: unchanged"
    ours = _is_our_list(path) or _is_our_shim(path)
    note = "replaced" if ours else "written"
    if path.exists() and not ours and not _saved(path).exists():
        shutil.copy2(path, _saved(path))
        note = f"written, the file before is kept as {_saved(path).name}"
    placement.draft.replace(path)
    return f"{path}: {note}"


def _before_ours(listed: Path) -> list[Path]:
    return [path for path in network_lists(listed.parent) if path.name < listed.name]


def _set_aside(path: Path) -> str:
    path.replace(_saved(path))
    return f"{path}: set aside as {_saved(path).name}, it would come before ours"


def _mention(path: Path) -> str:
    return f"{path}: left in place; runtimes that use the first list use this one, not ours"


def _set_aside_here(listed: Path) -> list[Path]:
    """The proper names of those that were set aside; what stood in our own place has another way back."""
    try:
        names = [path.name.removesuffix(BACKUP) for path in listed.parent.iterdir() if path.name.endswith(BACKUP)]
    except FileNotFoundError:
        return []
    return [listed.with_name(name) for name in sorted(names) if name != listed.name and Path(name).suffix in SUFFIXES]


def _bring_back(path: Path) -> str:
    if path.exists():
        return f"{path}: left alone, the one set aside stays {_saved(path).name}"
    _saved(path).replace(path)
    return f"{path}: back in place"


def _explain(fault: OSError) -> str:
    if fault.errno == errno.EROFS:
        return f"{fault}; choose a directory that can be written with --bin-dir and --conf-dir, and tell the runtime"
    return str(fault)


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
