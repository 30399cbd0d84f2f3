"""`fairway resolve` and `fairway top dns` on a node with containers that really ask."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dns.message
import pytest
from tests.lab.system import container, eventually, kill_agent, policy, service, topology

from fairway_kernel import netns
from fairway_netlab.lab import Lab
from fairway_netlab.plan import merged
from fairway_netlab.run import await_agent, start_agent

pytestmark = pytest.mark.needs_root
LabFactory = Callable[[dict[str, Any]], Lab]
SERVER = ("169.254.20.10", 53)
LOGGED = {"dns": {"queryLog": {"sample": 1.0, "slowMs": 5000, "failures": True}}}


def fairway(one: Lab, *words: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "fairway_cli.main", "--agent", str(one.node().socket), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def test_where_answers_come_from_and_who_asks(lab: LabFactory) -> None:
    one = lab(topology(containers=[container("a"), container("b", port=8080, app="web")]))
    one.apply([service("web"), service("db", clusterIP="None"), service("gone", selector={"app": "nothing"}, clusterIP="None")])
    eventually(lambda: fairway(one, "resolve", "web.shop.svc.cluster.local")[0] == 0, "the service is in the table")

    code, text = fairway(one, "resolve", "web", "--from", "shop/a", "--ask", "-o", "json")
    told = json.loads(text)
    assert (code, told["rule"], told["rcode"], told["client"]) == (0, "record", "NOERROR", "pod shop/a")
    assert told["asked"]["rcode"] == "NOERROR"
    assert told["asked"]["records"] == told["records"] != []
    assert told["objects"][0].startswith("Service shop/web: cluster IPs 10.96.")
    code, text = fairway(one, "resolve", "nothing.shop.svc.cluster.local", "--from", "a", "-n", "shop")
    assert code == 1
    code, text = fairway(one, "resolve", "gone.shop.svc.cluster.local")
    assert (code, "NXDOMAIN" in text) == (1, True)
    code, text = fairway(one, "resolve", "x.onion", "--ask")
    assert (code, "RFC 7686" in text, text.count("NXDOMAIN")) == (1, True, 2)
    assert fairway(one, "resolve", "web", "--from", "shop/nobody")[0] == 1
    assert fairway(one, "resolve", "a..b")[0] == 2
    assert fairway(one, "resolve", "a", "--type", "WHAT")[0] == 2

    stop = threading.Event()
    askers = [threading.Thread(target=_ask, args=(one, name, asked, stop)) for name, asked in (("a", "web"), ("b", "db"))]
    for asker in askers:
        asker.start()
    try:
        time.sleep(0.2)
        code, text = fairway(one, "top", "dns", "-o", "json")
        told = json.loads(text)
        assert code == 0
        found = {(row["pod"], row["name"], row["type"]): row for row in told["rows"]}
        loud, calm = found["shop/a", "web.shop.svc.cluster.local", "A"], found["shop/b", "db.shop.svc.cluster.local", "A"]
        # Three to one, whatever the machine's speed.
        assert 1.5 < loud["rate"] / calm["rate"] < 6
        assert loud["share"] > 0.5
        assert fairway(one, "top", "dns", "--by", "pod")[1].splitlines()[2].startswith("shop/a")
        zones = json.loads(fairway(one, "top", "dns", "--by", "zone", "-o", "json")[1])["rows"]
        assert zones[0] == {"pod": "", "name": "shop.svc.cluster.local", "type": "", "rate": zones[0]["rate"], "share": 1.0}
    finally:
        stop.set()
        for asker in askers:
            asker.join()


def test_queries_are_logged_with_the_pods_that_ask(lab: LabFactory) -> None:
    one = lab(topology(containers=[container("a"), container("b", port=8080, app="web")]))
    one.apply([service("web")])
    kill_agent(one)
    changed = replace(one.node(), config=merged(one.node().config, LOGGED))
    await_agent(changed, start_agent(changed))
    file = Path(changed.config["runDir"]) / "dns-queries.log"
    assert one.exec("a", ["getent", "ahostsv4", "web"]).returncode == 0
    wanted = {"pod": "shop/a", "name": "web.shop.svc.cluster.local", "type": "A", "rcode": "NOERROR"}

    def found() -> bool:
        lines = map(json.loads, file.read_text().splitlines()) if file.exists() else ()
        return any(wanted.items() <= line.items() for line in lines)

    eventually(found, "the query is in the log")


def _ask(one: Lab, pod: str, name: str, stop: threading.Event) -> None:
    """Ask from inside a container, three times as often for `web`."""
    wire = dns.message.make_query(f"{name}.shop.svc.cluster.local", "A").to_wire()
    with netns.run_in(one.netns(pod), lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as client:
        client.settimeout(1)
        client.connect(SERVER)
        while not stop.wait(0.02 if name == "web" else 0.06):
            client.send(wire)
            client.recv(4096)


def test_what_is_hidden_is_told_with_its_reason(lab: LabFactory) -> None:
    guests = [container("a"), container("api-1", "payments", 8080, app="api"), container("db-1", "data", 8080, app="db")]
    one = lab(topology(containers=guests, config={"dns": {"visibility": "policy"}}))
    meta = {"apiVersion": "fairway.dev/v1", "kind": "Tenant"}
    one.apply(
        [
            service("api", "payments"),
            service("db", "data"),
            policy("closed", "payments"),
            {**meta, "metadata": {"name": "red"}, "spec": {"namespaces": ["shop", "payments"]}},
            {**meta, "metadata": {"name": "blue"}, "spec": {"namespaces": ["data"]}},
        ]
    )
    code, text = fairway(one, "resolve", "api.payments", "--from", "shop/a", "-o", "json")
    told = json.loads(text)
    states = {step["name"]: step["state"] for step in told["steps"]}
    assert states == {
        "api.payments.shop.svc.cluster.local": "absent", "api.payments.svc.cluster.local": "hidden",
        "api.payments.cluster.local": "absent", "api.payments": "foreign",
    }  # fmt: skip
    code, text = fairway(one, "resolve", "api.payments", "--from", "shop/a")
    assert "no policy lets shop/a connect to service payments/api: ingress of payments/api-1: denied by default" in text
    assert "selected by payments/closed" in text
    code, text = fairway(one, "resolve", "db.data.svc.cluster.local.", "--from", "shop/a")
    assert (code, "service data/db is tenant blue's and not exported to tenant red" in text) == (1, True)
    assert "does not exist for shop/a: service data/db is tenant blue's" in fairway(one, "why", "shop/a", "data/db:80")[1]
    code, text = fairway(one, "why", "shop/a", "payments/api:80", "-o", "json")
    assert json.loads(text)["hidden"].startswith("no policy lets shop/a connect")
    assert json.loads(fairway(one, "why", "data/db-1", "data/db:80", "-o", "json")[1])["hidden"] == ""
