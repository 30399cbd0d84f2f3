"""Workers that a worker host starts: whose they are, and that neither the agent's death nor the host's loses what they answer."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.lab.asking import Asking
from tests.lab.system import container, eventually, kill_agent, on_node, service, topology
from tests.lab.test_dns_supervise import answers, inside, until

from fairway_dns.config import WorkerConfig
from fairway_dns.feed import ZoneFeed
from fairway_dns.health import Patience
from fairway_dns.launch import HostLauncher, ask_host
from fairway_dns.process import alive, read_pid_file
from fairway_dns.supervise import WorkerSupervisor
from fairway_netlab.lab import Lab
from fairway_netlab.processes import in_namespace, pids_in
from fairway_netlab.run import start_agent

pytestmark = pytest.mark.needs_root
LOG = logging.getLogger("test")
LISTEN = "169.254.20.10"


@contextmanager
def host(path: Path, run: Path, namespace: str) -> Iterator[subprocess.Popen[bytes]]:
    """`fairway dns` in a namespace, until it is told to stop."""
    config = path / "fairway.yaml"
    config.write_text(f"runDir: {run}\nstateDir: {path}\ndns: {{supervisor: host}}\n")
    command = [sys.executable, "-m", "fairway_cli.main", "dns", "--config", str(config)]
    process = subprocess.Popen(in_namespace(Path(namespace).name, command))
    try:
        eventually(lambda: (run / "dns-host.sock").exists(), "the host listens")
        yield process
    finally:
        process.terminate()
        process.wait(10)


def supervisor(path: Path, port: int = 53, feed: ZoneFeed | None = None) -> tuple[WorkerSupervisor, HostLauncher]:
    config = WorkerConfig(str(path / "feed.sock"), ("127.0.0.1",), port, state=str(path / "zone-0"))
    launcher = HostLauncher(path / "run/dns-host.sock")
    record = path / "run/dns-0.pid"
    patience = Patience(0.15, 8)
    return WorkerSupervisor(config.argv(sys.executable), record, LOG, feed, patience, launcher), launcher


def probe(path: Path) -> tuple[int, str]:
    """As kubelet asks; the run directory is in the host's configuration."""
    command = [sys.executable, "-m", "fairway_cli.main", "dns", "--probe", "--config", str(path / "fairway.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    return done.returncode, done.stdout.strip()


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def recorded(path: Path) -> int:
    """The live worker on record; 0 if there is none."""
    found = read_pid_file(path / "run/dns-0.pid")
    return found.pid if found is not None and alive(found) else 0


def test_a_worker_belongs_to_the_host_and_is_watched_by_whoever_is_there(namespace: str, tmp_path: Path) -> None:
    with host(tmp_path, tmp_path / "run", namespace) as process:

        async def body() -> None:
            first, launcher = supervisor(tmp_path)
            await first.start()
            assert first.pid is not None and parent(first.pid) == process.pid and answers()
            assert ask_host(tmp_path / "run/dns-host.sock", 1.0) == {"workers": {"dns-0.pid": True}, "held": True}
            assert probe(tmp_path) == (0, "1 workers, not alive: none")
            # While an agent is there, it replaces what dies.
            os.kill(before := first.pid, signal.SIGKILL)
            await until(lambda: recorded(tmp_path) not in (0, before))
            await until(lambda: first.restarts == 1)
            # Without one, the host does.
            await first.detach()
            await launcher.close()
            await until(lambda: not ask_host(tmp_path / "run/dns-host.sock", 1.0)["held"])
            os.kill(before := recorded(tmp_path), signal.SIGKILL)
            await until(lambda: recorded(tmp_path) not in (0, before))
            # The next agent adopts it; one with other settings replaces it.
            kept = recorded(tmp_path)
            second, launcher = supervisor(tmp_path)
            await second.start()
            assert second.pid == kept and second.restarts == 0
            await second.detach()
            await launcher.close()
            third, launcher = supervisor(tmp_path, port=5353)
            await third.start()
            assert recorded(tmp_path) == third.pid != kept
            assert answers(5353) and not answers(53)
            await third.detach()
            await launcher.close()

        inside(namespace, body)
        last = recorded(tmp_path)
    assert probe(tmp_path)[0] == 1
    assert last and not recorded(tmp_path), "what stops the host stops its workers"


def test_a_host_that_was_killed_comes_back_to_the_same_workers(namespace: str, tmp_path: Path) -> None:
    async def started(process: subprocess.Popen[bytes]) -> int:
        one, _ = supervisor(tmp_path)
        await one.start()
        process.kill()
        process.wait()
        assert one.pid is not None and answers()
        await one.detach()
        return one.pid

    kept: list[int] = []
    with host(tmp_path, tmp_path / "run", namespace) as process:

        async def body() -> None:
            kept.append(await started(process))

        inside(namespace, body)
    with host(tmp_path, tmp_path / "run", namespace):
        # Nobody else is there: adopted at once, and started anew after it died.
        assert recorded(tmp_path) == kept[0]
        os.kill(kept[0], signal.SIGKILL)
        eventually(lambda: recorded(tmp_path) not in (0, kept[0]), "the host starts another")


def test_a_hung_worker_of_a_host_is_replaced_by_the_agent(namespace: str, tmp_path: Path) -> None:
    with host(tmp_path, tmp_path / "run", namespace):

        async def body() -> None:
            feed = ZoneFeed(tmp_path / "feed.sock")
            await feed.start()
            feed.reset([], 1)
            one, _ = supervisor(tmp_path, feed=feed)
            await one.start()
            await feed.wait_acked(1, 5)
            os.kill(before := one.pid or 0, signal.SIGSTOP)
            await until(lambda: one.pid not in (None, before) and one.hung == 1)
            await until(answers)
            await one.stop()
            await feed.close()

        inside(namespace, body)


def test_nothing_but_workers_is_started_and_nothing_for_a_stranger(namespace: str, tmp_path: Path) -> None:
    with host(tmp_path, tmp_path / "run", namespace):

        async def body() -> None:
            launcher = HostLauncher(tmp_path / "run/dns-host.sock")
            for argv, record in (
                ((sys.executable, "-c", "print(1)"), "dns-0.pid"),
                (("/bin/sh", "-m", "fairway_dns.worker"), "dns-0.pid"),
                ((sys.executable, "-m", "fairway_dns.worker"), "agent.pid"),
            ):
                with pytest.raises(OSError, match=r"only DNS workers|not the name of a record"):
                    await launcher.launch(argv, tmp_path / "run" / record)
            await launcher.close()

        inside(namespace, body)


def test_a_cancelled_start_leaves_no_worker_behind(namespace: str, tmp_path: Path) -> None:
    with host(tmp_path, tmp_path / "run", namespace) as process:

        async def body() -> None:
            for moment in (0.0, 0.002, 0.005, 0.01, 0.05):
                one, launcher = supervisor(tmp_path)
                task = asyncio.create_task(one.start())
                await asyncio.sleep(moment)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await launcher.close()
                await until(lambda: not ask_host(tmp_path / "run/dns-host.sock", 1.0)["held"])
            await asyncio.sleep(0.5)

        inside(namespace, body)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        living = [pid for pid in children if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"]
        assert [int(pid) for pid in living] == [pid for pid in [recorded(tmp_path)] if pid]


# The whole agent


def hosted(one: Lab) -> list[str]:
    """The lab's agent is told that a host starts workers from now on; the command of that host."""
    node = one.node()
    node.config["dns"]["supervisor"] = "host"
    kill_agent(one)
    return [sys.executable, "-m", "fairway_cli.main", "dns", "--config", str(node.config_file)]


def test_an_agent_that_dies_under_load_loses_no_answer_and_is_followed_again(
    lab: Callable[[dict[str, Any]], Lab], tmp_path: Path
) -> None:
    one = lab(topology(containers=[container("a"), container("b", port=8080, app="web")]))
    one.apply([service("web")])
    command = hosted(one)
    node = one.node()
    # The host must know the new setting before it starts; the agent writes the file at its own start.
    node.config_file.write_text(json.dumps(node.config))
    process = subprocess.Popen(in_namespace(node.netns, command))
    try:
        one.start_agent()
        record = Path(node.config["runDir"]) / "dns-0.pid"
        worker = read_pid_file(record)
        assert worker is not None and alive(worker)
        with Asking(one.netns("a"), LISTEN, "web.shop.svc.cluster.local") as asking:
            for number in range(3):
                kill_agent(one)
                time.sleep(0.3)
                one.start_agent()
                one.apply([service(f"later-{number}")])
                found = f"later-{number}.shop.svc.cluster.local"
                eventually(lambda name=found: name in one.exec("a", ["getent", "hosts", name]).stdout, "the new name is answered")
        asking.check()
        assert read_pid_file(record) == worker and alive(worker), "it is the same worker all the time"
        assert "ready" in on_node(one, sys.executable, "-m", "fairway_cli.main", "status", "--agent", str(node.socket))
    finally:
        process.terminate()
        process.wait(10)


def test_an_agent_waits_for_its_host_and_says_so(lab: Callable[[dict[str, Any]], Lab]) -> None:
    one = lab(topology(containers=[container("a")]))
    command = hosted(one)
    node = one.node()
    agent = start_agent(node)
    try:
        # Without a cluster nobody listens before the start is over: the log says it.
        eventually(lambda: "no worker host (fairway dns) listens" in node.log_file.read_text(), "the reason is said")
        process = subprocess.Popen(in_namespace(node.netns, command))
        try:
            eventually(lambda: on_node(one, "pgrep", "-f", "fairway_dns.worker"), "a worker runs")
        finally:
            process.terminate()
            process.wait(10)
    finally:
        agent.terminate()
        agent.wait(20)


@pytest.mark.parametrize("supervisor_of", ["agent", "host"])
def test_fewer_workers_than_before_are_as_many_as_asked_for(lab: Callable[[dict[str, Any]], Lab], supervisor_of: str) -> None:
    one = lab(topology(config={"dns": {"workers": 2}}))
    node = one.node()
    node.config["dns"].update(workers=1, supervisor=supervisor_of)
    kill_agent(one)
    node.config_file.write_text(json.dumps(node.config))
    command = [sys.executable, "-m", "fairway_cli.main", "dns", "--config", str(node.config_file)]
    process = subprocess.Popen(in_namespace(node.netns, command)) if supervisor_of == "host" else None
    try:
        one.start_agent()
        run = Path(node.config["runDir"])
        eventually(lambda: [path.name for path in sorted(run.glob("dns-*.pid"))] == ["dns-0.pid"], "one record is left")
        workers = [pid for pid in pids_in([node.netns]) if b"fairway_dns.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(workers) == 1
    finally:
        if process is not None:
            process.terminate()
            process.wait(10)
