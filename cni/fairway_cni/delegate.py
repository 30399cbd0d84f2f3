"""Address plugins of others (host-local, static, dhcp), executed as a runtime executes plugins: spec 1.1.0, section 4."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fairway_cni import faults
from fairway_cni.faults import CniError
from fairway_cni.protocol import Request
from fairway_cni.values import fold
from fairway_cni.wishes import previous_addresses

SECONDS = 30.0
STATUS_SECONDS = 5.0
"""After that the process is ended; the runtime has its answer long before (`fairway_cni.health`)."""
NO_SUCH_VERB = (faults.VERSION, faults.ENVIRONMENT)
"""What a plugin answers that is too old for GC; to STATUS only the latter, for ADD comes in the same version."""


@dataclass(frozen=True, slots=True)
class Delegation:
    """What an address plugin was told, to be told the same again when the container goes. `config` is the JSON as sent."""

    plugin: str
    path: str
    args: str
    config: str

    @classmethod
    def of(cls, request: Request) -> Delegation:
        """The delegation that a request's configuration asks for."""
        # Plugins in Go refuse a pair with a second "=", wherever it comes from.
        args = ";".join(pair for pair in request.args_text.split(";") if pair.count("=") == 1)
        return cls(request.config.ipam, request.path, args, request.raw.decode(errors="replace"))

    @classmethod
    def from_text(cls, text: str) -> Delegation:
        """From the stored form. Raises CniError for a text that is none."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as fault:
            raise CniError(faults.DELEGATE, "ipam: the stored delegation is damaged", str(fault)) from fault

    def text(self) -> str:
        """The stored form."""
        return json.dumps(asdict(self))


class AddressPlugins:
    """Runs address plugins. Raises CniError with the plugin's own code, or 106 if it cannot be run or answers nonsense."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds

    async def add(self, what: Delegation, container_id: str, netns: str, ifname: str) -> tuple[str, ...]:
        """Ask for addresses, IPv4 first. What fails is undone by the plugin's own DEL (spec 1.1.0, section 4)."""
        try:
            answer = await self._run(what, "ADD", container_id, netns, ifname)
            return previous_addresses(answer, ifname, netns)
        except BaseException:
            # The failure of the ADD is what the runtime must see.
            with suppress(CniError):
                await asyncio.shield(self.delete(what, container_id, netns, ifname))
            raise

    async def delete(self, what: Delegation, container_id: str, netns: str, ifname: str) -> None:
        """Give addresses back; the namespace may be gone."""
        await self._run(what, "DEL", container_id, netns, ifname)

    async def check(self, what: Delegation, container_id: str, netns: str, ifname: str) -> None:
        """Let the plugin look whether the addresses are still held."""
        await self._run(what, "CHECK", container_id, netns, ifname)

    async def collect(self, what: Delegation) -> None:
        """Pass GC on; a plugin that is too old for it has nothing to collect."""
        try:
            await self._run(what, "GC", "", "", "")
        except CniError as fault:
            if fault.code not in NO_SUCH_VERB:
                raise

    async def status(self, what: Delegation) -> None:
        """Whether the plugin can serve an ADD; one that is too old to be asked is taken to be able to."""
        try:
            await self._run(what, "STATUS", "", "", "", STATUS_SECONDS)
        except CniError as fault:
            if fault.code != faults.ENVIRONMENT:
                raise

    async def _run(
        self, what: Delegation, command: str, container_id: str, netns: str, ifname: str, seconds: float | None = None
    ) -> Mapping[str, Any]:
        binary = await asyncio.to_thread(_find, what.plugin, what.path)
        variables = {
            "CNI_COMMAND": command, "CNI_CONTAINERID": container_id, "CNI_NETNS": netns, "CNI_IFNAME": ifname,
            "CNI_ARGS": what.args, "CNI_PATH": what.path, "PATH": os.environ.get("PATH", os.defpath),
        }  # fmt: skip
        limit = min(self._seconds, seconds or self._seconds)
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                binary, stdin=pipe, stdout=pipe, stderr=pipe, env=variables, start_new_session=True
            )
        except OSError as fault:
            raise CniError(faults.DELEGATE, f"ipam: {what.plugin} cannot be run", str(fault)) from fault
        try:
            async with asyncio.timeout(limit):
                out, said = await process.communicate(what.config.encode())
        except TimeoutError as fault:
            late = faults.NOT_AVAILABLE if command == "STATUS" else faults.TRY_LATER
            raise CniError(late, f"ipam: {what.plugin} does not answer", f"in {limit:g} s") from fault
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    # What it has started holds its pipes, and must not outlive it.
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return _answer(what.plugin, process.returncode or 0, out, said)


def _find(plugin: str, path: str) -> Path:
    for directory in filter(None, path.split(":")):
        candidate = Path(directory) / plugin
        if os.access(candidate, os.X_OK) and candidate.is_file():
            return candidate
    raise CniError(faults.DELEGATE, f"ipam: plugin {plugin} is not found", f"looked in CNI_PATH={path}")


def _answer(plugin: str, code: int, out: bytes, said: bytes) -> Mapping[str, Any]:
    try:
        document = json.loads(out) if out.strip() else {}
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise CniError(faults.DELEGATE, f"ipam: the answer of {plugin} is no JSON object", said.decode(errors="replace").strip())
    if code == 0:
        return document
    error = fold(document)
    number = error.get("code")
    text = error.get("msg") or said.decode(errors="replace").strip() or f"exit code {code}"
    raise CniError(
        number if isinstance(number, int) else faults.DELEGATE, f"ipam: {plugin}: {text}", str(error.get("details") or "")
    )
