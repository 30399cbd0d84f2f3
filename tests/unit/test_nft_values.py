"""The pure parts: field kinds, canonical keys, error texts, the wire, markers."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairway_kernel.nft import wire
from fairway_kernel.nft.faults import errno_in, excerpt, kernel_error
from fairway_kernel.nft.fields import CLASSID, IPV4, MARK, NUMBER, PORT, canonical_key, kind_of, milliseconds, shape_of
from fairway_kernel.nft.markers import digest_in, is_marker, layout_digest, rules_digest
from fairway_kernel.nft.objects import Chain, ChainState, Layout, Range, SetDecl

PROFILE = SetDecl("profile", ("mark", "inet_proto", "inet_service"), flags=("interval",))


def test_keys_of_interval_sets_have_ranges_for_addresses_and_ports_only() -> None:
    assert canonical_key(PROFILE, (1, "tcp", 443)) == (1, "tcp", Range(443, 443))
    assert canonical_key(PROFILE, (1, "tcp", Range(1, 2))) == (1, "tcp", Range(1, 2))
    plain = SetDecl("plain", ("ipv4_addr", "inet_service"))
    assert canonical_key(plain, ("10.0.0.1", 443)) == ("10.0.0.1", 443)


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        ("ip saddr", IPV4), ("ct original ip daddr", IPV4), ("th dport", PORT), ("tcp sport", PORT), ("ct mark", MARK),
        ("meta priority", CLASSID), ("numgen random mod 65536", NUMBER), ("jhash ip saddr mod 251", NUMBER),
    ],
)  # fmt: skip
def test_expressions_have_the_kind_of_their_type(field: str, kind: object) -> None:
    assert kind_of(field) == kind


def test_raw_payload_is_as_wide_as_it_says() -> None:
    assert kind_of("@th,64,128").width == 16


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(ValueError, match="ip dscp"):
        kind_of("ip dscp")


def test_shapes_tell_declarations_apart() -> None:
    shapes = [
        shape_of(decl)
        for decl in (
            SetDecl("a", ("mark",)),
            SetDecl("a", ("classid",)),
            SetDecl("a", ("mark",), ("mark",)),
            SetDecl("a", ("mark",), ("verdict",)),
            SetDecl("a", ("mark",), size=5),
            SetDecl("a", ("mark",), flags=("interval",)),
            SetDecl("a", ("mark",), flags=("timeout",), timeout="1m"),
            SetDecl("a", ("mark",), counter=True),
        )
    ]
    assert len(set(shapes)) == len(shapes)
    assert shape_of(SetDecl("a", ("mark",))) == shape_of(SetDecl("b", ("meta mark",), typeof=True))


def test_times() -> None:
    assert [milliseconds(text) for text in ("", "3h", "1m30s", "1d", "250ms")] == [0, 10_800_000, 90_000, 86_400_000, 250]
    with pytest.raises(ValueError, match="soon"):
        milliseconds("soon")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Could not process rule: File exists", errno.EEXIST),
        ("Could not process rule: Device or resource busy", errno.EBUSY),
        ("Could not process rule: Operation not supported", errno.EOPNOTSUPP),
        ("Could not process rule: Too many open files in system", errno.ENFILE),
        ("cache initialization failed: Operation not permitted", errno.EPERM),
        ("No such file or directory; did you mean set ‘a’ in table inet ‘fairway’?", errno.ENOENT),
        ("element does not exist", errno.ENOENT),
        ("interval overlaps with an existing one", errno.EEXIST),
        ("syntax error, unexpected newline", errno.EINVAL),
    ],
)
def test_words_to_errno(text: str, number: int) -> None:
    assert errno_in(text) == number


def test_the_first_error_counts_and_shows_its_line() -> None:
    script = "add table inet fairway\nadd element inet fairway m { 1 : 2 }\n"
    report = (
        "In file included from <cmdline>:1:1-26:\n/proc/self/fd/4:2:30-30: Error: Could not process rule: File exists\n"
        "add element inet fairway m { 1 : 2 }\n                             ^\n/proc/self/fd/4:9:1-2: Error: syntax error\n"
    )
    error = kernel_error(script, report)
    assert error.errno == errno.EEXIST
    assert "add element inet fairway m { 1 : 2 }" in str(error)


def test_reports_without_a_place_and_without_words() -> None:
    assert kernel_error("", "netlink: Error: cache initialization failed: Operation not permitted\n").errno == errno.EPERM
    assert kernel_error("", "").errno == errno.EIO


def test_long_lines_are_cut_round_the_place() -> None:
    line = "add element inet fairway svc { " + ", ".join(f"10.0.0.{n} : {n}" for n in range(1000)) + " }"
    shown = excerpt(line, 1, line.index("10.0.0.500 ") + 1)
    assert "10.0.0.500 : 500" in shown and shown.startswith("add element inet fairway svc") and len(shown) < 200


@given(st.binary(max_size=200))
def test_the_wire_takes_any_bytes(data: bytes) -> None:
    for message in wire.messages(data):
        assert len(message.body) <= len(data)
    assert sum(len(payload) for _kind, payload in wire.attributes(data)) <= len(data)


@given(st.lists(st.tuples(st.integers(1, 0x3FFF), st.binary(max_size=40)), max_size=8))
def test_attributes_round_trip(wanted: list[tuple[int, bytes]]) -> None:
    assert list(wire.attributes(b"".join(wire.attribute(kind, payload) for kind, payload in wanted))) == wanted


def test_markers() -> None:
    digest = layout_digest(Layout((PROFILE,), (Chain("a", ("accept",)),)))
    assert digest != layout_digest(Layout((PROFILE,), (Chain("a", ("drop",)),)))
    assert is_marker("layout_" + digest) and not is_marker("layout_x") and not is_marker("rules_of_mine")
    assert digest_in(frozenset({"a", "layout_" + digest}), "layout_") == digest
    assert digest_in(frozenset({"layout_" + digest, "layout_" + "0" * 16}), "layout_") == ""


def test_the_rules_digest_sees_every_handle() -> None:
    one = rules_digest({"a": ChainState(1, "", (2, 3)), "b": ChainState(4)})
    assert one == rules_digest({"b": ChainState(4), "a": ChainState(1, "", (2, 3))})
    assert one != rules_digest({"a": ChainState(1, "", (2, 5)), "b": ChainState(4)})
    assert one != rules_digest({"a": ChainState(1, "filter 2 0 0", (2, 3)), "b": ChainState(4)})
