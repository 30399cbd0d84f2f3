"""Leaving a node: everything that outlives the agent on purpose goes, and nothing of anybody else.

Rules, links, routes, addresses and DNS workers serve on while the agent is away, so removing them is a step of its own. Files are
removed by the names that the agent gives them, for a state directory may be shared. Settings of the kernel stay as they are: who
else relies on forwarding by now cannot be known.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

from fairway_agent.config import Config
from fairway_cni.alias import read_alias
from fairway_cni.install import inside
from fairway_cni.plan import GATEWAY_MAC
from fairway_core.errors import FairwayError, UserError
from fairway_dns.process import alive, read_pid_file, terminate
from fairway_kernel.link.manager import KernelLinks
from fairway_kernel.link.objects import LinkManager, NodeLinks
from fairway_kernel.nft.libnft import LibnftablesRunner
from fairway_kernel.nft.objects import BRIDGE, INET
from fairway_kernel.nft.runner import NftRunner
from fairway_kernel.nft.transaction import AddTable, DeleteTable, Transaction

GRACE = 3.0
"""Seconds a DNS worker has to end by itself."""
NO_LINK = "fwb-none"
STATE = ("fairway.db", "fairway.db-wal", "fairway.db-shm", "zone*.json", "spool/*.del", "spool/*.bad", "spool")
RUN = ("agent.sock", "dns.sock", "dns-*.pid", "dns-*.log", "dns-host.sock", "dns-queries.log*")
SHOWN = 3


def refuse_in_use(config: Config, root: str, force: bool) -> None:
    """Raises UserError while an agent runs, which would put everything back, or containers are attached, unless `force`."""
    path = inside(root, str(config.paths.socket))
    if _answers(path):
        raise UserError(f"an agent answers at {path}; stop it first")
    if force:
        return
    with closing(KernelLinks()) as links:
        attached = links.read().veths
    if attached:
        said = [read_alias(veth.alias) for veth in attached]
        names = [f"{item.pod_namespace}/{item.pod_name}" if item else "a nameless one" for item in said]
        more = ", …" if len(names) > SHOWN else ""
        text = f"{len(names)} container interfaces are attached ({', '.join(names[:SHOWN])}{more})"
        raise UserError(f"{text}; stop the containers, or cut them off with --force")


async def purge(config: Config, root: str) -> list[str]:
    """Remove all that is ours in this network namespace and the agent's files; one line for each thing done.

    Repeating it changes nothing. Raises an ExceptionGroup of what could not be removed, after everything else was.
    """
    run, state = inside(root, str(config.paths.run)), inside(root, str(config.paths.state))
    lines = await _end_workers(run)
    faults: list[Exception] = []
    with closing(LibnftablesRunner()) as runner, closing(KernelLinks()) as links:
        steps = (
            partial(remove_tables, runner),
            partial(remove_links, links),
            partial(_remove_files, state, STATE),
            partial(_remove_files, run, RUN),
        )
        for step in steps:
            try:
                lines += step()
            except FairwayError as fault:
                faults.append(fault)
    if faults:
        raise ExceptionGroup("not everything could be removed", faults)
    return lines


def remove_tables(runner: NftRunner) -> Iterator[str]:
    """Delete our tables, with all rules; missing ones are no error. Raises KernelError."""
    # Adding what is to be deleted makes deleting succeed in any case.
    runner.run(Transaction().add(*(operation for table in (INET, BRIDGE) for operation in (AddTable(table), DeleteTable(table)))))
    yield f"nftables: {INET} and {BRIDGE} are gone"


def remove_links(links: LinkManager) -> Iterator[str]:
    """Delete our links, routes and addresses. A bridge that only has a name like ours stays. Raises KernelError."""
    node = links.read()
    for veth in node.veths:
        links.detach(veth.host_ifname, ())
    for name in node.redirectors:
        links.detach(f"fwb{name[3:]}", ())
    for name in sorted(node.bridges):
        links.delete_bridge(name, GATEWAY_MAC)
    links.detach(NO_LINK, [ip for ip, _ in links.read().routes])
    links.ensure_peer_routes({})
    links.ensure_service_routes(())
    links.ensure_loopback(())
    yield f"links: {_count(node) - _count(links.read())} removed; routes of protocol 157 and addresses on lo are gone"


def _count(node: NodeLinks) -> int:
    return len(node.veths) + len(node.redirectors) + len(node.bridges)


async def _end_workers(run: Path) -> list[str]:
    lines = []
    for path in sorted(run.glob("dns-*.pid")):
        worker = read_pid_file(path)
        if worker is not None and alive(worker):
            await terminate(worker, GRACE)
            lines.append(f"process {worker.pid}: DNS worker ended")
    return lines


def _remove_files(directory: Path, names: tuple[str, ...]) -> Iterator[str]:
    """Those of the agent, and the directory if nothing else is in it. Raises UserError."""
    if not directory.is_dir():
        return
    try:
        for path in [path for name in names for path in sorted(directory.glob(name))]:
            _remove(path)
        empty = not any(directory.iterdir())
        if empty:
            directory.rmdir()
    except OSError as fault:
        raise UserError(f"{directory}: {fault}") from fault
    yield f"{directory}: removed" if empty else f"{directory}: left in place, for it holds files of others"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        # One that is not empty holds what is not ours.
        with suppress(OSError):
            path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(1.0)
        try:
            asking.connect(str(path))
        except OSError:
            return False
        return True
