"""Names are answered while the agent works as hard as it can, is killed, and comes back: not one query is lost."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dns.message
import pytest
from tests.lab.system import agent_pid, container, eventually, kill_agent, on_node, service, topology

from fairway_kernel import netns
from fairway_netlab.lab import Lab
from fairway_netlab.plan import merged
from fairway_netlab.run import await_agent, start_agent

pytestmark = pytest.mark.needs_root
LabFactory = Callable[[dict[str, Any]], Lab]
RATE = 5000
CLIENT = """
import json, selectors, socket, sys, time
rate, seconds, queries = int(sys.argv[1]), float(sys.argv[2]), [bytes.fromhex(text) for text in sys.argv[3:]]
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)
server.connect(("169.254.20.10", 53))
server.setblocking(False)
print("up", flush=True)
sent, waiting, failed, begin = 0, {}, 0, time.monotonic()
longest, seen = 0.0, {}
def read():
    global failed, longest
    while True:
        try:
            data = server.recv(4096)
        except BlockingIOError:
            return
        since = waiting.pop(int.from_bytes(data[:2], "big"), None)
        if since is not None:
            longest = max(longest, time.monotonic() - since)
            if data[3] & 15 or data[6:8] == b"\\0\\0":
                failed += 1
                seen.setdefault((data[3] & 15, data[12:16]), []).append(round(time.monotonic() - begin, 3))
lost = 0
while (now := time.monotonic() - begin) < seconds:
    while sent < now * rate:
        ident = sent & 0xFFFF
        lost += ident in waiting
        waiting[ident] = time.monotonic()
        server.send(ident.to_bytes(2, "big") + queries[sent % len(queries)][2:])
        sent += 1
        if sent % 64 == 0:
            read()
    read()
    time.sleep(0.002)
end = time.monotonic() + 3
while waiting and time.monotonic() < end:
    read()
    time.sleep(0.01)
how = {str(key): times for key, times in seen.items()}
print(json.dumps({"sent": sent, "lost": lost + len(waiting), "failed": failed, "longest": longest, "how": how}))
"""


def counted(one: Lab, seconds: float, meanwhile: Callable[[float], None]) -> dict[str, Any]:
    """Ask 5,000 times a second from a container; what the client counted. `meanwhile` is told when to be done (monotonic)."""
    names = ["web.shop.svc.cluster.local", "db.shop.svc.cluster.local", "dns-version.cluster.local"]
    types = ["A", "AAAA", "TXT"]
    wires = [dns.message.make_query(name, rtype).to_wire().hex() for name, rtype in zip(names, types, strict=True)]
    command = [sys.executable, "-c", CLIENT, str(RATE), str(seconds), *wires]
    client = netns.run_in(one.netns("a"), lambda: subprocess.Popen(command, stdout=subprocess.PIPE))
    try:
        assert client.stdout is not None
        assert client.stdout.readline() == b"up\n"
        meanwhile(time.monotonic() + seconds - 1)
        found: dict[str, Any] = json.loads(client.communicate(timeout=60)[0])
        return found
    finally:
        client.kill()
        client.wait()


def storm(one: Lab, services: int) -> Callable[[float], None]:
    """Many services change, again and again, and each time the agent is killed over it."""

    def run(until: float) -> None:
        pick = random.Random(1)
        while time.monotonic() < until:
            one.apply([service(f"s{number}", port=pick.randint(1, 60_000)) for number in range(services)])
            kill_agent(one)
            time.sleep(pick.uniform(0, 0.3))
            one.start_agent()

    return run


def prepared(lab: LabFactory) -> Lab:
    one = lab(topology(containers=[container("a"), container("b", port=8080, app="db")]))
    one.apply([service("web"), service("db", clusterIP="None")])
    eventually(lambda: one.exec("a", ["getent", "hosts", "db"]).returncode == 0, "the names are there")
    return one


def test_no_query_is_lost_while_the_agent_works_dies_and_returns(lab: LabFactory) -> None:
    one = prepared(lab)
    before = agent_pid(one)
    found = counted(one, 4, storm(one, 150))
    assert agent_pid(one) != before
    assert found["sent"] > RATE * 2
    assert (found["lost"], found["failed"]) == (0, 0), str(found)


def test_no_query_is_lost_when_new_settings_replace_the_worker(lab: LabFactory) -> None:
    one = prepared(lab)
    workers = worker_pids(one)

    def upgrade(_until: float) -> None:
        kill_agent(one)
        over = {"dns": {"hosts": {"new.corp.example": ["192.0.2.99"]}, "workers": 2}}
        changed = replace(one.node(), config=merged(one.node().config, over))
        await_agent(changed, start_agent(changed))

    found = counted(one, 4, upgrade)
    assert (found["lost"], found["failed"]) == (0, 0), str(found)
    assert len(worker_pids(one)) == 2
    assert not workers & worker_pids(one)
    assert "192.0.2.99" in one.exec("a", ["getent", "ahostsv4", "new.corp.example"]).stdout


def worker_pids(one: Lab) -> set[str]:
    socket_path = one.node().config["runDir"]
    found = on_node(one, "pgrep", "-f", f"fairway_dns.worker --feed {socket_path}")
    return {pid for pid in found.split() if "nsenter" not in _command(pid)}


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    except OSError:
        return "nsenter"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_query_is_lost_in_half_a_minute_of_it(lab: LabFactory) -> None:
    one = prepared(lab)
    found = counted(one, 30, storm(one, 1000))
    assert found["sent"] > RATE * 20
    assert (found["lost"], found["failed"]) == (0, 0), str(found)
