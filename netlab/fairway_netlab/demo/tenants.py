"""The first half: a laboratory with two tenants. Names, balancing, isolation, and why."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from importlib.resources import as_file, files
from itertools import permutations
from pathlib import Path

from fairway_netlab.demo.story import Story
from fairway_netlab.lab import Lab
from fairway_netlab.matrix import Found, Matrix
from fairway_netlab.probe import Target

CONNECTIONS = 300
NAMES = (
    ("shop/front", "web"),
    ("shop/front", "web.shop.svc.cluster.local"),
    ("shop/front", "api.payments"),
    ("payments/api-1", "ledger"),
)
PORTS = {"web-1": 8080, "web-2": 8080, "web-3": 8080, "api-1": 9090, "ledger": 5432}
WATCHED = ("shop/front", "shop/web-1", "payments/api-1", "payments/ledger")


def resource(name: str) -> str:
    """The text of a file of this package."""
    return (files("fairway_netlab.demo") / name).read_text()


def command(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`fairway ARGUMENTS` as a user types it, against the lab's only node."""
    base = [sys.executable, "-m", "fairway_cli.main", "--agent", str(lab.node().socket)]
    return subprocess.run([*base, *arguments], capture_output=True, text=True, timeout=60, check=False)


def apply_file(lab: Lab, story: Story, name: str) -> None:
    """`fairway apply -f NAME --wait`, shown."""
    with as_file(files("fairway_netlab.demo") / name) as path:
        done = command(lab, "apply", "-f", str(path), "--wait")
    story.tell(f"$ fairway apply -f {Path(name).name} --wait\n{(done.stdout + done.stderr).strip()}")
    story.expect(done.returncode == 0, f"{name} is applied and live")


def show_names(lab: Lab, story: Story) -> None:
    """Resolve from inside the containers, as libc there does it."""
    for container, name in NAMES:
        done = lab.exec(container, ["getent", "ahosts", name])
        addresses = sorted({line.split()[0] for line in done.stdout.splitlines()}, key=lambda ip: (":" in ip, ip))
        story.tell(f"{container:16} {name:28} -> {', '.join(addresses) or 'no answer'}")
        story.expect(len(addresses) == 2, f"{name} has an IPv4 and an IPv6 address in {container}")
    missing = lab.exec("shop/front", ["getent", "ahosts", "nothing.shop"])
    story.expect(missing.returncode == 2, "a name that does not exist is answered at once, with no")


def show_spread(lab: Lab, story: Story) -> None:
    """Many connections to one virtual IP, in both families."""
    for family in (4, 6):
        target = Target("web.shop.svc.cluster.local", 80, "TCP", 4 if family == 4 else 6)
        outcomes = [outcome for _ in range(CONNECTIONS // 50) for outcome in lab.probe("shop/front", [target] * 50, 3.0)]
        spread = Counter(outcome.name if outcome.open else outcome.state for outcome in outcomes)
        story.tell(f"IPv{family}: " + ", ".join(f"{name} {count}" for name, count in sorted(spread.items())))
        even = set(spread) == {"web-1", "web-2", "web-3"} and min(spread.values()) > CONNECTIONS / 6
        story.expect(even, f"{CONNECTIONS} connections over IPv{family} reach all three endpoints and nothing else")


def show_isolation(lab: Lab, story: Story, isolated: bool) -> None:
    """Who reaches whom, as the declaration says."""
    matrix = Matrix(lab)
    for source, destination in permutations(WATCHED, 2):
        name = destination.partition("/")[2]
        if name not in PORTS:
            continue
        allowed = not isolated or not destination.startswith("payments") or (source, name) in ALLOWED
        expect = matrix.expect_some if allowed else matrix.expect_none
        expect(source, destination, PORTS[name])
    promise = "every connection in the table is as declared, over IPv4 and IPv6"
    try:
        story.tell(table(matrix.check()))
        story.expect(True, promise)
    except AssertionError as fault:
        story.tell(str(fault))
        story.expect(False, promise)


def table(found: Found) -> str:
    """Sources down, destinations across; one word where both families agree, else one for each."""
    cells: dict[tuple[str, str], list[str]] = {}
    for expectation, outcome in found:
        destination = expectation.label.rpartition(" v")[0]
        cells.setdefault((expectation.source, destination), []).append(outcome.state)
    destinations = list(dict.fromkeys(destination for _, destination in cells))
    rows = [["", *destinations]]
    for source in WATCHED:
        words = ("/".join(dict.fromkeys(cells.get((source, destination), ["-"]))) for destination in destinations)
        rows.append([source, *words])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows)


ALLOWED = frozenset({("shop/web-1", "api-1"), ("payments/api-1", "ledger")})


def show_why(lab: Lab, story: Story) -> None:
    """Ask about a denied and an allowed connection."""
    for source, expected in (("shop/front", 1), ("shop/web-1", 0)):
        done = command(lab, "why", source, "payments/api:443")
        story.tell(f"$ fairway why {source} payments/api:443\n{(done.stdout + done.stderr).strip()}\n")
        story.expect(done.returncode == expected, f"`why` exits with {expected}")
