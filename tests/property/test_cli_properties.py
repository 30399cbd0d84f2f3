"""Whatever a user writes is either understood or refused as the user's fault."""

from __future__ import annotations

import click
from hypothesis import given
from hypothesis import strategies as st

from fairway_cli.columns import columns
from fairway_cli.commands.why import parse_destination
from fairway_cli.table import Table
from fairway_core.keys import KINDS

NAMES = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?(/[a-z0-9]{1,5})?", fullmatch=True)
HOSTS = NAMES | st.ip_addresses(v=4).map(str)


@given(HOSTS, st.integers(1, 65535), st.sampled_from(["TCP", "UDP", "SCTP"]))
def test_a_destination_is_read_back(host: str, port: int, protocol: str) -> None:
    assert parse_destination(f"{host}:{port}/{protocol.lower()}") == (host, port, protocol)
    assert parse_destination(f"{host}:{port}") == (host, port, "TCP")
    assert parse_destination(host) == (host, None, "TCP")


@given(st.ip_addresses(v=6).map(str), st.integers(1, 65535))
def test_an_ipv6_destination_is_read_back(host: str, port: int) -> None:
    assert parse_destination(f"[{host}]:{port}") == (host, port, "TCP")
    assert parse_destination(host) == (host, None, "TCP")


@given(st.text() | st.text(alphabet="ab[]:/0123456789."))
def test_no_destination_breaks_the_parser(text: str) -> None:
    try:
        host, port, protocol = parse_destination(text)
    except click.UsageError:
        return
    assert host and protocol.isupper()
    assert port is None or 0 < port < 65536


@given(st.lists(st.lists(st.text(alphabet="ab ", max_size=9), min_size=2, max_size=2), min_size=1))
def test_columns_of_a_table_begin_at_the_same_place(rows: list[list[str]]) -> None:
    lines: list[str] = []
    table = Table(["FIRST", "SECOND"], lines.append)
    table.rows(rows)
    start = lines[0].index("SECOND")
    for row, line in zip(rows, lines[1:], strict=True):
        assert line[start:].rstrip() == (row[1] or "<none>").rstrip()


@given(
    st.sampled_from([kind.name for kind in KINDS]), st.dictionaries(st.sampled_from(["metadata", "spec", "status"]), st.none())
)
def test_every_kind_has_cells_for_an_empty_document(kind: str, document: dict[str, None]) -> None:
    for column in columns(kind, wide=True, namespaced=True):
        assert isinstance(column.cell(document), str)
