"""The log of queries: who is in it, and that it never costs more than lines."""

from __future__ import annotations

import json
import logging
import stat
from pathlib import Path

import dns.message
import dns.rcode
import pytest

from fairway_agent.queryfile import LARGEST, QueryFile
from fairway_core.clock import FakeClock
from fairway_dns.querylog import MOST, LogSettings, QueryLog
from fairway_dns.reports import Line, Lines

CLIENT = bytes([10, 244, 0, 5])


def reply(name: str = "www.example.com", rcode: dns.rcode.Rcode = dns.rcode.NOERROR) -> bytes:
    made = dns.message.make_response(dns.message.make_query(name, "AAAA"))
    made.set_rcode(rcode)
    return made.to_wire()


def pieces(*replies: bytes) -> list[bytes]:
    return [part for octets in replies for part in (octets[:2], octets[2:])]


def logged(log: QueryLog) -> list[Line]:
    found = log.take()
    return list(found.lines) if found is not None else []


def test_a_sample_is_the_share_that_was_asked_for_on_both_paths() -> None:
    log = QueryLog(LogSettings(sample=0.25), FakeClock())
    for _ in range(8):
        log.batch(pieces(*[reply()] * 15), lambda _place: CLIENT, 0.0001)
    assert len(logged(log)) == 30
    for _ in range(100):
        log.answered(reply(), CLIENT, 0.001, "local", "tcp")
    assert len(logged(log)) == 25


def test_failures_and_slow_queries_are_all_logged() -> None:
    log = QueryLog(LogSettings(failures=True), FakeClock())
    broken = reply(rcode=dns.rcode.SERVFAIL)
    log.batch(pieces(reply(), broken, reply(rcode=dns.rcode.NXDOMAIN)), lambda place: bytes([10, 0, 0, place]), 0.5)
    log.answered(broken, CLIENT, 0.0042, "forwarded", "udp")
    log.answered(reply(), CLIENT, 9, "local", "udp")
    first, second = logged(log)
    assert (first.source, first.rcode, first.path) == ("10.0.0.1", "SERVFAIL", "fast")
    assert second == Line(1_000_000.0, "10.244.0.5", "www.example.com", "AAAA", "SERVFAIL", 4.2, "forwarded", "udp")
    slow = QueryLog(LogSettings(slow=0.1), FakeClock())
    slow.batch(pieces(reply(), reply()), lambda _place: CLIENT, 0.1)
    slow.batch(pieces(reply(), reply()), lambda _place: CLIENT, 0.09)
    slow.answered(reply(), CLIENT, 0.2, "local", "udp")
    assert len(logged(slow)) == 3


def test_a_question_that_cannot_be_read_is_an_empty_name() -> None:
    log = QueryLog(LogSettings(failures=True), FakeClock())
    for octets in (reply(rcode=dns.rcode.FORMERR)[:12], b"\0\1\x80\1" + bytes(8), reply(rcode=dns.rcode.FORMERR)[:20]):
        log.answered(octets, b"", 0.1, "local", "udp")
    assert {(line.name, line.type, line.source) for line in logged(log)} == {("", "", "?")}


@pytest.mark.parametrize("count", [1, 7, 64])
def test_a_sample_of_one_is_everything(count: int) -> None:
    log = QueryLog(LogSettings(sample=1), FakeClock())
    log.batch(pieces(*[reply()] * count), lambda place: bytes([10, 0, 0, place]), 0.0001)
    assert {line.source for line in logged(log)} == {f"10.0.0.{place}" for place in range(count)}


def test_what_is_too_much_is_counted() -> None:
    log = QueryLog(LogSettings(sample=1), FakeClock())
    for _ in range(MOST + 7):
        log.answered(reply(), CLIENT, 0.1, "local", "udp")
    found = log.take()
    assert found is not None
    assert (len(found.lines), found.dropped) == (MOST, 7)
    assert log.take() is None


@pytest.mark.parametrize("text", ["", "1", "2,0,0", "-1,0,0", "0,-1,0", "a,b,c"])
def test_settings_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        LogSettings.from_word(text)


def test_settings_survive_the_command_line() -> None:
    for settings in (LogSettings(), LogSettings(0.01, 0.1, True), LogSettings(1, 0, False)):
        assert LogSettings.from_word(settings.word()) == settings


def line(source: str = "10.244.0.5") -> Line:
    return Line(1.5, source, "a.x", "A", "NOERROR", 0.25, "fast", "udp")


def test_the_file_names_pods_and_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "queries.log"
    file = QueryFile(path, {"10.244.0.5": "shop/front"}.get, logging.getLogger("test"))  # type: ignore[arg-type]
    file.take(Lines(3, (line(), line("10.244.0.6"))))
    file.close()
    dropped, first, second = map(json.loads, path.read_text().splitlines())
    assert dropped == {"dropped": 3}
    assert (first["pod"], first["name"], first["ms"]) == ("shop/front", "a.x", 0.25)
    assert "pod" not in second
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with path.open("ab") as more:
        more.truncate(LARGEST)
    file = QueryFile(path, lambda _ip: "", logging.getLogger("test"))
    file.take(Lines(0, (line(),)))
    file.close()
    assert path.stat().st_size < 1000
    assert path.with_name("queries.log.1").stat().st_size == LARGEST


def test_a_disk_that_fails_costs_lines_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = QueryFile(tmp_path / "missing" / "queries.log", lambda _ip: "", logging.getLogger("test"))
    for _ in range(3):
        file.take(Lines(0, (line(),)))
    file.close()
    assert len(caplog.records) == 1
