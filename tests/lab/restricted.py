"""An agent as a container that is not privileged runs it: these capabilities and no others, /proc/sys and its image read-only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fairway_netlab.processes import in_namespace

# $1 is where /proc/sys/net is mounted writable, as a hostPath volume does it; laboratories live below /run.
_MOUNTS = (
    'mkdir -p "$1/net" && mount --bind /proc/sys/net "$1/net" && mount --bind /proc/sys /proc/sys '
    "&& mount -o remount,bind,ro /proc/sys && mount --rbind /run /run && mount --rbind /tmp /tmp && mount -o remount,bind,ro / "
    '&& export FAIRWAY_PROC_SYS="$1" && shift && exec "$@"'
)


class Restricted:
    """Stands in for `in_namespace` where agents are started."""

    def __init__(self, capabilities: Sequence[str], directory: Path) -> None:
        """`capabilities` as Kubernetes writes them: NET_ADMIN."""
        self._kept = ",".join(["-all", *(f"+{name.lower()}" for name in capabilities)])
        self._directory = directory

    def __call__(self, netns: str, command: Sequence[str]) -> list[str]:
        if "agent" not in command:
            return in_namespace(netns, command)
        mounts = ["unshare", "--mount", "--propagation", "slave", "--", "/bin/sh", "-c", _MOUNTS, "sh", str(self._directory)]
        less = ["setpriv", "--bounding-set", self._kept, "--inh-caps", "-all", "--no-new-privs", "--"]
        return in_namespace(netns, [*mounts, *less, *command])
