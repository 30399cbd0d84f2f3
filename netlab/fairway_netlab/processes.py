"""Processes of a laboratory: start them in a namespace, find them again by it, end them.

Promise: only processes inside the namespaces given, and ours that were started for the laboratory, are ended. A process is held
by a pidfd between the check and the signal, so a reused process id cannot be hit (pidfd_open(2)).
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from fairway_core.errors import FairwayError
from fairway_netlab.plan import NETNS_DIR

KILL_SECONDS = 10.0
OUR_MODULES = frozenset({"fairway_cli.main", "fairway_dns.worker"})

# $0 is the resolv.conf to show at /etc/resolv.conf. A machine without that file has nothing to hide.
_WITH_RESOLV_CONF = 'if [ -e /etc/resolv.conf ]; then mount --bind "$0" /etc/resolv.conf || exit 125; fi; exec "$@"'


class LabError(FairwayError):
    """A laboratory cannot be built or used; the message says which part failed and what it printed."""


def in_namespace(netns: str, command: Sequence[str]) -> list[str]:
    """`command` inside a named network namespace and nothing else: later bind mounts stay visible to it."""
    return ["nsenter", f"--net={NETNS_DIR / netns}", "--", *command]


def in_container(netns: str, resolv_file: Path | None, command: Sequence[str]) -> list[str]:
    """`command` as in a container: its network namespace, and a mount namespace with its own /etc/resolv.conf."""
    if resolv_file is None:
        return in_namespace(netns, command)
    mounts = ["unshare", "--mount", "--propagation", "slave", "--", "/bin/sh", "-c", _WITH_RESOLV_CONF, str(resolv_file)]
    return in_namespace(netns, [*mounts, *command])


def start(command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """A daemon: own session, output appended to `log`."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, start_new_session=True, cwd="/"
        )


def run(command: Sequence[str], text: str | None = None, env: Mapping[str, str] | None = None, timeout: float = 60.0) -> str:
    """Run to the end; the standard output. Raises LabError with what was printed."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, env=env, timeout=timeout, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(command)}: exit {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def pids_in(namespaces: Iterable[str], directory: Path | None = None) -> list[int]:
    """The processes whose network namespace is one of those named, and those of ours that were started for `directory`: a name
    may be gone while a process keeps the namespace. This process is never among them.
    """
    wanted = _identities(namespaces)
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if pid != os.getpid() and _belongs(pid, wanted, directory)]


def kill_in(namespaces: Sequence[str], directory: Path | None = None) -> None:
    """End every process that `pids_in` tells, those started meanwhile too. Raises LabError if some will not end."""
    wanted = _identities(namespaces)
    deadline = time.monotonic() + KILL_SECONDS
    while pids := pids_in(namespaces, directory):
        for pid in pids:
            _kill(pid, wanted, directory)
        if time.monotonic() > deadline:
            raise LabError(f"processes do not end: {pids}")
        time.sleep(0.005)


def _identities(namespaces: Iterable[str]) -> set[tuple[int, int]]:
    found = set()
    for name in namespaces:
        with suppress(OSError):
            stat = (NETNS_DIR / name).stat()
            found.add((stat.st_dev, stat.st_ino))
    # A name whose mount was never made is a plain file; comparing it matches no process.
    return found


def _namespace_of(pid: int) -> tuple[int, int] | None:
    try:
        stat = Path(f"/proc/{pid}/ns/net").stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _belongs(pid: int, wanted: set[tuple[int, int]], directory: Path | None) -> bool:
    return (bool(wanted) and _namespace_of(pid) in wanted) or (directory is not None and _started_for(pid, directory))


def _started_for(pid: int, directory: Path) -> bool:
    """Whether it is a helper, an agent or a DNS worker with a path below `directory` on its command line."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    ours = any(word.endswith("/fairway_netlab/helper.py") or word in OUR_MODULES for word in words)
    return ours and any(word.startswith(f"{directory}/") for word in words)


def _kill(pid: int, wanted: set[tuple[int, int]], directory: Path | None) -> None:
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            if _belongs(pid, wanted, directory):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)
