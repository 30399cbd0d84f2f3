"""Real resolvers in containers, those of musl and glibc, with the resolv.conf that containers get."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.lab.foreign import PORT, name_server
from tests.lab.system import container, service, topology

from fairway_netlab.lab import Lab

pytestmark = pytest.mark.needs_root
LabFactory = Callable[[dict[str, Any]], Lab]

V4, V6 = "169.254.20.10", "fd00:53::a"
LOOK_UP = r"""
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <time.h>
int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = 0;
        struct timespec before, after;
        clock_gettime(CLOCK_MONOTONIC, &before);
        int error = getaddrinfo(argv[i], "80", &hints, &found);
        clock_gettime(CLOCK_MONOTONIC, &after);
        printf("%s %ld", argv[i], (after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000);
        for (; !error && found; found = found->ai_next) {
            char text[64];
            void *at = found->ai_family == AF_INET ? (void *)&((struct sockaddr_in *)found->ai_addr)->sin_addr
                                                   : (void *)&((struct sockaddr_in6 *)found->ai_addr)->sin6_addr;
            printf(" %s", inet_ntop(found->ai_family, at, text, sizeof text));
        }
        puts("");
    }
}
"""
LATE = 2000
"""Milliseconds; musl asks again after 2.5 s, glibc after 5 s."""
WORLD = {
    "www.out.example": ["192.0.2.7", "2001:db8::7"],
    "four.out.example": ["192.0.2.8"],
    "six.out.example": ["2001:db8::9"],
    "one-label": ["192.0.2.10"],
}  # fmt: skip

ABSENT = ("no.out.example", "no", "no.payments")


def answers(name: str, rtype: str) -> list[tuple[str, str, str]] | None:
    if name not in WORLD:
        return None
    return [(name, rtype, address) for address in WORLD[name] if (":" in address) == (rtype == "AAAA")]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What looks up the names it is given, once with each library."""
    directory = tmp_path_factory.mktemp("look-up")
    source = directory / "look_up.c"
    source.write_text(LOOK_UP)
    for library, compiler in (("musl", ["musl-gcc", "-static"]), ("glibc", ["gcc"])):
        subprocess.run([*compiler, "-O1", "-Wall", "-Werror", "-o", directory / library, source], check=True)
    return {library: directory / library for library in ("musl", "glibc")}


def look_up(lab: Lab, program: Path, *names: str) -> dict[str, list[str]]:
    """The addresses of each name, none of which came late."""
    lines = lab.exec("front", [str(program), *names], check=True).stdout.splitlines()
    found = {name: (int(took), sorted(addresses)) for name, took, *addresses in map(str.split, lines)}
    late = {name: took for name, (took, _) in found.items() if took > LATE}
    assert not late, late
    return {name: addresses for name, (_, addresses) in found.items()}


@pytest.mark.parametrize("completion", [True, False])
def test_names_of_all_kinds_come_quickly_in_both_families(lab: LabFactory, program: dict[str, Path], completion: bool) -> None:
    config = {"dns": {"listen": [V4, V6], "upstreams": [f"127.0.0.1:{PORT}"], "completion": completion}}
    guests = [container("front"), container("web-1", "shop", 8080, app="web"), container("api-1", "payments", 8080, app="api")]
    one = lab(topology("bridge", guests, config=config))
    one.apply([service("web"), service("api", "payments"), service("four", ipFamilyPolicy="SingleStack", ipFamilies=["IPv4"])])
    assert f"nameserver {V4}\nnameserver {V6}\n" in one.station("front").resolv_file.read_text()
    with name_server(one.netns("n1"), answers) as asked:
        for library in ("musl", "glibc"):
            found = look_up(one, program[library], "web", "web.shop", "web.shop.svc", "web.shop.svc.cluster.local", "four")
            web = found["web"]
            assert sorted(":" in address for address in web) == [False, True], library
            assert all(found[name] == web for name in found if name != "four"), library
            assert [":" in address for address in found["four"]] == [False]
            for name in ("api.payments", "api.payments.svc.cluster.local."):
                assert len(look_up(one, program[library], name)[name]) == 2, library
            assert not asked, "names of ours stay here"
            found = look_up(one, program[library], *WORLD, *ABSENT, "www.out.example.")
            assert found == {**WORLD, **{name: [] for name in ABSENT}, "www.out.example.": WORLD["www.out.example"]}
            foreign = {name for name, rtype in asked if rtype in ("A", "AAAA")}
            assert foreign <= {*WORLD, *ABSENT}, "no name of a search path leaves"
            asked.clear()
        shown = one.exec("front", ["getent", "ahosts", "web"], check=True).stdout
        assert all(address in shown for address in web)
        for database, address in (("ahostsv4", "192.0.2.7"), ("ahostsv6", "2001:db8::7")):
            assert address in one.exec("front", ["getent", database, "www.out.example"], check=True, timeout=4).stdout


def test_an_answer_too_long_for_a_datagram(lab: LabFactory, program: dict[str, Path]) -> None:
    """musl 1.2.3 knows no TCP: it lives on the 512 octets that fit, and must not wait for more."""
    many = {f"10.99.{number >> 8}.{number & 255}" for number in range(60)}
    one = lab(topology("bridge", [container("front")], config={"dns": {"hosts": {"many.example.com": sorted(many)}}}))
    assert 10 < len(look_up(one, program["musl"], "many.example.com")["many.example.com"]) < 60
    assert set(look_up(one, program["glibc"], "many.example.com")["many.example.com"]) == many
