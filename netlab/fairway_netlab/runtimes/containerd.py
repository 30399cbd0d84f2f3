"""containerd and its client ctr, as on a node: `ctr run --cni` executes the plugin."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from fairway_netlab.runtimes.image import IMAGE_NAME
from fairway_netlab.runtimes.node import COMMAND_SECONDS, RuntimeFailed, RuntimeNode, missing_programs

START_SECONDS = 20.0

# ctr knows only these two directories; both are put in place inside a mount namespace of its own.
_CTR = """
mount --make-rprivate /
mkdir -p /opt/cni /etc/cni
mount -t tmpfs none /opt/cni && mkdir /opt/cni/bin && mount --bind "$1" /opt/cni/bin
mount -t tmpfs none /etc/cni && mkdir /etc/cni/net.d && mount --bind "$2" /etc/cni/net.d
shift 2
exec ctr "$@"
"""


class Containerd:
    """One containerd of our own: own root, state and socket. Use as a context manager; leaves no process behind."""

    def __init__(self, node: RuntimeNode) -> None:
        self._node = node
        self._socket = node.work / "containerd.sock"
        self._daemon: subprocess.Popen[bytes] | None = None

    @staticmethod
    def missing() -> list[str]:
        """Programs that have to be installed first."""
        return missing_programs("containerd", "ctr", "runc", "nsenter", "unshare")

    @property
    def socket(self) -> Path:
        """Where it serves gRPC, the Container Runtime Interface too."""
        return self._socket

    def __enter__(self) -> Containerd:
        self._node.work.mkdir(parents=True, exist_ok=True)
        (self._node.work / "config.toml").write_text(self._config())
        self._start_daemon()
        return self

    def _start_daemon(self) -> None:
        work = self._node.work
        command = self._node.enter(["containerd", "-c", str(work / "config.toml"), "-l", "info"])
        with (work / "containerd.log").open("ab") as log:
            self._daemon = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self._await_ready()

    def _config(self) -> str:
        work = self._node.work
        return (
            f'version = 2\nroot = "{work}/root"\nstate = "{work}/state"\n'
            f'[grpc]\n  address = "{self._socket}"\n'
            '[plugins."io.containerd.grpc.v1.cri"]\n'
            f'  sandbox_image = "{IMAGE_NAME}"\n  restrict_oom_score_adj = true\n'
            '[plugins."io.containerd.grpc.v1.cri".cni]\n'
            f'  bin_dir = "{self._node.cni_bin}"\n  conf_dir = "{self._node.cni_conf}"\n'
        )

    def _await_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self._daemon is not None
            if self._daemon.poll() is not None:
                raise RuntimeFailed(f"containerd ended at once: {self._log_tail()}")
            try:
                self._ctr("version", timeout=5)
                return
            except (RuntimeFailed, subprocess.TimeoutExpired):
                time.sleep(0.2)
        self._stop_daemon()
        raise RuntimeFailed(f"containerd does not answer after {START_SECONDS:g} s: {self._log_tail()}")

    def _log_tail(self) -> str:
        return (self._node.work / "containerd.log").read_text(errors="replace")[-600:]

    def _command(self, arguments: Sequence[str]) -> list[str]:
        directories = [str(self._node.cni_bin), str(self._node.cni_conf)]
        return ["unshare", "-m", "sh", "-ec", _CTR, "sh", *directories, "--address", str(self._socket), *arguments]

    def _ctr(self, *arguments: str, timeout: float = COMMAND_SECONDS) -> str:
        return self._node.run(self._command(arguments), timeout=timeout)

    def load(self, archive: Path, space: str = "default") -> None:
        """Import an OCI archive. `space` is containerd's own namespace; the one of the CRI is "k8s.io"."""
        self._ctr("-n", space, "images", "import", str(archive))

    def run(self, name: str, command: Sequence[str], resolv: Path | None = None) -> str:
        """`ctr run --rm --cni`: run to the end and return what it printed. The container id the plugin sees is default-NAME."""
        return self._ctr("run", "--rm", "--cni", *_mounts(resolv), IMAGE_NAME, name, *command)

    def attend(self, name: str, command: Sequence[str], resolv: Path | None = None) -> subprocess.Popen[bytes]:
        """`ctr run --rm --cni` in the background: it sends the DEL when the container ends. Reap the process."""
        arguments = ["run", "--rm", "--cni", *_mounts(resolv), IMAGE_NAME, name, *command]
        return subprocess.Popen(
            self._node.enter(self._command(arguments)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def start(self, name: str, command: Sequence[str], resolv: Path | None = None) -> None:
        """`ctr run -d --cni`: start and return. ctr never sends a DEL for such a container."""
        self._ctr("run", "-d", "--cni", *_mounts(resolv), IMAGE_NAME, name, *command)

    def exec(self, name: str, command: Sequence[str], space: str = "default") -> str:
        """Run a command in a running container or sandbox; what it printed."""
        return self._ctr("-n", space, "tasks", "exec", "--exec-id", f"x{uuid4().hex[:8]}", name, *command)

    def kill(self, name: str) -> None:
        """SIGKILL to a container's process."""
        self._ctr("tasks", "kill", "-s", "SIGKILL", name)

    def remove(self, name: str) -> None:
        """Kill a started container and remove it; missing ones are no error."""
        for arguments in (("tasks", "rm", "-f", name), ("containers", "rm", name)):
            subprocess.run(self._node.enter(self._command(arguments)), capture_output=True, timeout=COMMAND_SECONDS, check=False)

    def restart(self) -> None:
        """Stop the daemon and start it again; containers live on."""
        self._stop_daemon()
        self._start_daemon()

    def __exit__(self, *exc: object) -> None:
        if self._daemon is None:
            return
        names = subprocess.run(
            self._node.enter(self._command(["containers", "ls", "-q"])), capture_output=True, text=True, timeout=30, check=False
        )
        for name in names.stdout.split():
            self.remove(name)
        self._stop_daemon()

    def _stop_daemon(self) -> None:
        if self._daemon is None:
            return
        self._daemon.terminate()
        try:
            self._daemon.wait(10)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            self._daemon.wait()
        self._daemon = None


def _mounts(resolv: Path | None) -> list[str]:
    # ctr ignores the DNS part of a CNI result, so a container started by it needs the file from outside.
    return ["--mount", f"type=bind,src={resolv},dst=/etc/resolv.conf,options=rbind:ro"] if resolv else []
