"""Only the certificate authority in the kubeconfig is trusted; a client certificate is presented."""

from __future__ import annotations

import logging
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from aiohttp import web

from fairway_store.kubernetes.access import Access
from fairway_store.kubernetes.client import ApiClient
from fairway_store.kubernetes.faults import ApiFault
from fairway_store.kubernetes.protocol import list_query, page_of
from fairway_store.kubernetes.resources import cluster_resources
from fairway_store.kubernetes.timing import Timing

PODS = next(resource for resource in cluster_resources() if resource.kind == "Pod")


def certificate(path: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    crt, key = path / f"{name}.crt", path / f"{name}.key"
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subprocess.run(
        ["openssl", "req", "-x509", *kind, "-days", "2", *subject, "-keyout", str(key), "-out", str(crt)],
        check=True,
        capture_output=True,
    )
    return crt, key


async def test_certificates_are_checked_on_both_sides(tmp_path: Path) -> None:
    assert shutil.which("openssl"), "openssl makes the certificates"
    (server_crt, server_key), (client_crt, client_key), (other_crt, _) = [
        certificate(tmp_path, name) for name in ("server", "client", "other")
    ]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(client_crt))
    context.load_cert_chain(str(server_crt), str(server_key))
    context.verify_mode = ssl.CERT_REQUIRED

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"kind": "PodList", "metadata": {"resourceVersion": "7"}, "items": []})

    app = web.Application()
    app.router.add_get("/{tail:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    port = runner.addresses[0][1]
    try:
        url, pair = f"https://127.0.0.1:{port}", (client_crt.read_bytes(), client_key.read_bytes())
        good = Access((url,), "test", ca=server_crt, certificate=pair[0], key=pair[1])
        assert (await version(good)) == "7"
        for bad in (Access(good.servers, "test", ca=server_crt), Access(good.servers, "test", ca=other_crt)):
            with pytest.raises(ApiFault):
                await version(bad)
    finally:
        await runner.cleanup()


async def version(access: Access) -> str:
    api = ApiClient(access, Timing(), logging.getLogger("test"))
    try:
        return page_of(await api.get(PODS, list_query(10, "")), PODS).version
    finally:
        await api.close()
