"""Listening on a unix socket that only its owner may use, as unix(7) describes it."""

from __future__ import annotations

import socket
from pathlib import Path

from fairway_core.errors import ConflictError

BACKLOG = 128
PROBE_SECONDS = 1.0


def listen_unix(path: Path) -> socket.socket:
    """A listening stream socket at `path`, mode 0600, its folder created. What a dead process left there is replaced.

    Blocks for a second at most. Raises ConflictError if a living process serves the path, OSError if it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        _clear(path)
        listener.bind(str(path))
        # Nobody can connect before `listen`, so the mode is in force for the first client.
        path.chmod(0o600)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _clear(path: Path) -> None:
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise ConflictError(f"{path} is in use: {error.strerror or error}") from error
    raise ConflictError(f"another process listens at {path}; give each agent a runDir of its own")
