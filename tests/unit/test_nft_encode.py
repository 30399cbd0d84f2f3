"""Elements to netlink and back, without a kernel: the encoder against the decoder."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairway_cni.compile import PinCompiler
from fairway_core.errors import KernelError
from fairway_dns.egress import EgressCompiler
from fairway_dns.rules import DnsRulesCompiler
from fairway_dns.watch import NoEgressRules
from fairway_kernel.nft import listing, wire
from fairway_kernel.nft.encode import messages
from fairway_kernel.nft.objects import INET, Chain, ElementKey, ElementValue, Range, SetDecl
from fairway_kernel.nft.transaction import AddElements, AddRules, AddSet, AddTable, DeleteElements
from fairway_policy.layout import policy_layout
from fairway_proxy.layout import service_layout

ADDRESSES4 = st.integers(0, 2**32 - 1).map(lambda number: str(IPv4Address(number)))
ADDRESSES6 = st.integers(0, 2**128 - 1).map(lambda number: str(IPv6Address(number)))
PROTOCOLS = st.sampled_from(["tcp", "udp", "sctp", 1, 58])
PORTS = st.integers(0, 65535)
MARKS = st.integers(0, 2**32 - 1)
MACS = st.binary(min_size=6, max_size=6).map(lambda data: data.hex(":"))
IFNAMES = st.from_regex(r"\Afw[a-z0-9]{1,13}\Z")
VERDICTS = st.sampled_from(["accept", "drop", "return", "continue", "goto deny", "jump pick"])


def ranges(low: st.SearchStrategy[str] | st.SearchStrategy[int], order: object = int) -> st.SearchStrategy[Range]:
    return st.tuples(low, low).map(lambda pair: Range(*sorted(pair, key=order)))  # type: ignore[call-overload,no-any-return]


SETS = [
    (
        SetDecl("a", ("ipv4_addr", "inet_proto", "inet_service"), ("mark",)),
        st.tuples(ADDRESSES4, PROTOCOLS, PORTS),
        st.tuples(MARKS),
    ),
    (
        SetDecl("b", ("mark", "numgen random mod 9"), ("ip6 daddr", "th dport")),
        st.tuples(MARKS, MARKS),
        st.tuples(ADDRESSES6, PORTS),
    ),
    (SetDecl("c", ("ifname", "ether_addr", "ipv6_addr")), st.tuples(IFNAMES, MACS, ADDRESSES6), st.just(())),
    (SetDecl("d", ("nf_proto",), ("classid",)), st.tuples(st.sampled_from(["ipv4", "ipv6"])), st.tuples(MARKS)),
    (SetDecl("e", ("inet_service",), ("verdict",)), st.tuples(PORTS), VERDICTS),
    (SetDecl("f", ("iifname", "@th,64,128")), st.tuples(IFNAMES, st.integers(0, 2**128 - 1)), st.just(())),
    (
        SetDecl("g", ("mark", "ipv4_addr", "inet_proto", "inet_service"), ("verdict",), flags=("interval",)),
        st.tuples(MARKS, ranges(ADDRESSES4, IPv4Address), PROTOCOLS, ranges(PORTS)),
        VERDICTS,
    ),
    (
        SetDecl("h", ("classid", "ipv6_addr"), ("mark",), flags=("interval",)),
        st.tuples(MARKS, ranges(ADDRESSES6, IPv6Address)),
        st.tuples(MARKS),
    ),
]


@pytest.mark.parametrize(("decl", "keys", "values"), SETS, ids=[decl.name for decl, _keys, _values in SETS])
@given(data=st.data())
def test_what_is_encoded_decodes_equal(
    decl: SetDecl, keys: st.SearchStrategy[ElementKey], values: st.SearchStrategy[ElementValue], data: st.DataObject
) -> None:
    items = data.draw(st.dictionaries(keys, values, max_size=5))
    batch = messages([AddElements(decl, tuple(items.items()))])
    assert batch is not None
    assert listing.elements(decl, [body for _command, _family, body in batch]) == items


@given(bounds=st.lists(st.integers(0, 2**32 - 1), unique=True, max_size=12).map(sorted), data=st.data())
def test_intervals_of_one_field_decode_equal_also_next_to_each_other(bounds: list[int], data: st.DataObject) -> None:
    decl = SetDecl("i", ("ipv4_addr",), ("mark",), flags=("interval",))
    near = data.draw(st.booleans())
    # Every second gap between the bounds, or every gap: then each ends where the next begins.
    pairs = [(low, high - 1) for low, high in pairwise(bounds)][:: 1 if near else 2]
    pairs += [(bounds[-1], 2**32 - 1)] if bounds and data.draw(st.booleans()) else []
    keys: list[ElementKey] = [(Range(str(IPv4Address(low)), str(IPv4Address(high))),) for low, high in pairs]
    items: dict[ElementKey, ElementValue] = {key: (number,) for number, key in enumerate(keys)}
    batch = messages([AddElements(decl, tuple(items.items()))])
    assert batch is not None
    assert listing.elements(decl, [body for _command, _family, body in batch]) == items


@pytest.mark.parametrize(
    "decl",
    [
        *service_layout(("10.1.0.0/24", "fd00::/64")).sets,
        *policy_layout().sets,
        *PinCompiler(["10.1.0.0/24"]).layout.sets,
        *DnsRulesCompiler((), 53).layout.sets,
        *EgressCompiler(NoEgressRules()).layout.sets,
    ],
    ids=lambda decl: decl.name,
)
def test_no_set_of_ours_needs_text(decl: SetDecl) -> None:
    """A first load of a large cluster written as text once took 200 MiB and twice the time."""
    assert messages([AddElements(decl, ())]) == []


def test_long_lists_are_cut_into_messages_whose_attributes_fit() -> None:
    decl = SetDecl("a", ("mark",))
    keys = tuple((number,) for number in range(10_000))
    batch = messages([DeleteElements(decl, keys)])
    assert batch is not None and len(batch) > 1
    assert all(command == wire.DELSETELEM and len(body) < 65_000 for command, _family, body in batch)
    assert listing.elements(decl, [body for _command, _family, body in batch]).keys() == set(keys)


@pytest.mark.parametrize(
    "operation",
    [AddRules(Chain("a", ("accept",))), AddTable(INET), AddSet(SetDecl("a", ("ipv4_addr",)))],
)
def test_what_needs_text_is_left_to_text(operation: object) -> None:
    assert messages([AddElements(SetDecl("b", ("mark",)), (((1,), ()),)), operation]) is None  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("decl", "key", "value"),
    [
        (SetDecl("a", ("ipv4_addr",)), ("10.0.0",), ()),
        (SetDecl("a", ("ipv4_addr",)), ("10.0.0.256",), ()),
        (SetDecl("a", ("ipv6_addr",)), ("nonsense",), ()),
        (SetDecl("a", ("ether_addr",)), ("02:00",), ()),
        (SetDecl("a", ("ifname",)), ("a-name-that-is-too-long",), ()),
        (SetDecl("a", ("inet_service",)), (65536,), ()),
        (SetDecl("a", ("inet_proto",)), ("carrier-pigeon",), ()),
        (SetDecl("a", ("mark",)), (Range(1, 2),), ()),
        (SetDecl("a", ("mark",), flags=("interval",)), (Range(2, 1),), ()),
        (SetDecl("a", ("mark",)), (1, 2), ()),
        (SetDecl("a", ("mark",), ("verdict",)), (1,), "goto"),
        (SetDecl("a", ("mark",), ("verdict",)), (1,), "accept deny"),
        (SetDecl("a", ("mark",), ("mark",)), (1,), "accept"),
    ],
)
def test_malformed_elements_are_refused(decl: SetDecl, key: ElementKey, value: ElementValue) -> None:
    with pytest.raises(ValueError):
        messages([AddElements(decl, ((key, value),))])


def test_a_dump_that_repeats_an_element_is_torn() -> None:
    decl = SetDecl("a", ("mark",))
    batch = messages([AddElements(decl, (((1,), ()), ((2,), ()), ((1,), ())))])
    assert batch is not None
    with pytest.raises(KernelError):
        listing.elements(decl, [body for _command, _family, body in batch])
