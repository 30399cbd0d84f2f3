"""A container image made on the spot, without a registry: static busybox and getent, as an OCI layout in a tar.

Source: OCI image specification 1.0 (image layout, manifest, config).
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
IMAGE_NAME = "localhost/busybox:1"
APPLETS = ("sh", "nslookup", "wget", "httpd", "sleep", "cat", "ip", "nc", "ping", "hostname", "ls", "awk", "head", "tail", "date")
# A dynamic program resolves as most containers do, through the C library's own resolver; a static one cannot.
GETENT = Path("/usr/bin/getent")


def write_image(target: Path) -> Path:
    """Write the image as an OCI archive to `target`; its own command sleeps. Raises FileNotFoundError without busybox-static."""
    layer = _layer(BUSYBOX.read_bytes())
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["/bin/sleep", "100000"], "Env": ["PATH=/bin:/usr/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
        }
    ).encode()
    names = {"io.containerd.image.name": IMAGE_NAME, "org.opencontainers.image.ref.name": IMAGE_NAME}
    entry = {**_descriptor("application/vnd.oci.image.manifest.v1+json", manifest), "annotations": names}
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    with tarfile.open(target, "w") as tar:
        _file(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        _file(tar, "index.json", index)
        for blob in (layer, config, manifest):
            _file(tar, f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}", blob)
    return target


def write_rootfs(target: Path) -> Path:
    """Unpack what the image holds into the new directory `target`, for a runtime without images."""
    with tarfile.open(fileobj=io.BytesIO(_layer(BUSYBOX.read_bytes()))) as tar:
        tar.extractall(target)
    return target


def _layer(busybox: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for directory in ("bin", "etc", "proc", "sys", "dev", "tmp", "run", "www"):
            info = tarfile.TarInfo(directory)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        _file(tar, "bin/busybox", busybox, 0o755)
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for path in (GETENT, *_libraries(GETENT)):
            _file(tar, str(path).lstrip("/"), path.read_bytes(), 0o755)
        _file(tar, "etc/nsswitch.conf", b"hosts: files dns\n")
        _file(tar, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\n")
        _file(tar, "etc/resolv.conf", b"")
        _file(tar, "etc/hosts", b"127.0.0.1 localhost\n")
    return buffer.getvalue()


def _libraries(program: Path) -> list[Path]:
    """The shared libraries a program is loaded with, loader included, under the names it asks for."""
    listing = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True).stdout
    return [Path(word) for line in listing.splitlines() for word in line.split() if word.startswith("/")]


def _file(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    tar.addfile(info, io.BytesIO(content))


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _descriptor(media_type: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}
