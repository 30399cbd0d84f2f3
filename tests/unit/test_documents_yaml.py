"""Reading YAML and JSON: values, places, and what is refused while reading."""

from __future__ import annotations

from typing import Any

import pytest

from fairway_core.documents import InvalidDocuments
from fairway_core.documents.scalars import resolve
from fairway_core.documents.yamlload import MAX_DEPTH, parse


def values(text: str | bytes) -> list[Any]:
    return [item.value for item in parse("file.yaml", text)]


def refusal(text: str | bytes) -> str:
    with pytest.raises(InvalidDocuments) as caught:
        parse("f", text)
    return "\n".join(map(str, caught.value.errors))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None), ("~", None), ("null", None), ("Null", None), ("true", True), ("NO", False), ("On", True), ("off", False),
        ("nO", "nO"), ("y", "y"), ("0", 0), ("-12", -12), ("+7", 7), ("0644", 420), ("0o17", 15), ("0x1F", 31), ("0b101", 5),
        ("089", "089"), ("1.5", 1.5), ("1e3", 1000.0), (".5", 0.5), ("1.", 1.0), ("-1.5E-2", -0.015), ("1.2.3", "1.2.3"),
        ("10.0.0.0/8", "10.0.0.0/8"), ("12:30", "12:30"), ("2026-01-02", "2026-01-02"), ("1_000", "1_000"), ("-", "-"),
        (".", "."), (".inf", ".inf"), ("::1", "::1"), ("fd00::/8", "fd00::/8"), ("1e", "1e"), ("٣", "٣"),
    ],
)  # fmt: skip
def test_plain_scalars(text: str, value: Any) -> None:
    result = resolve(text)
    assert (result, type(result)) == (value, type(value))


@pytest.mark.parametrize("text", ["9" * 401, "1e999", "-" + "1" * 500])
def test_numbers_too_large_to_carry_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="too large"):
        resolve(text)
    assert refusal(f"a: {text}").startswith("f:1:4: number too large")


def test_many_documents_and_empty_ones() -> None:
    assert values("---\n---\na: 1\n---\n# nothing\n---\n- x\n...\n---\nb\n") == [{"a": 1}, ["x"], "b"]
    assert values("") == values("# only a comment\n") == []


def test_quoted_scalars_are_text() -> None:
    assert values("{a: '1', b: \"yes\", c: |\n  5\n, d: ''}".replace("c: |\n  5\n, ", "")) == [{"a": "1", "b": "yes", "d": ""}]
    assert values("c: |\n  5\nd: >-\n  true\n") == [{"c": "5\n", "d": "true"}]


def test_aliases_are_copies() -> None:
    (value,) = values("a: &x {labels: {k: v}}\nb: *x\nc: [*x]\n")
    value["a"]["labels"]["k"] = "changed"
    assert value["b"] == {"labels": {"k": "v"}} and value["c"] == [{"labels": {"k": "v"}}]


def test_bytes_with_and_without_byte_order_mark() -> None:
    assert values("\ufeffa: ü".encode()) == values("\ufeffa: ü") == values("a: ü".encode()) == [{"a": "ü"}]


def test_json_is_accepted_also_where_yaml_differs() -> None:
    assert values('{"a": [1, true, null, "x"]}') == [{"a": [1, True, None, "x"]}]
    assert values('{\n\t"a":\t"\\ud83d\\ude00\\/"}') == [{"a": "\U0001f600/"}]
    (item,) = parse("f.json", '{"a": "\\ud83d\\ude00"}')
    assert str(item.place(("a",))) == "f.json: a"


def test_places() -> None:
    (first, second) = parse("f.yaml", "a: 1\n---\nspec:\n  ports:\n  - name: x\n    port: 5\n  - {port: 6}\n")
    assert str(first.place(())) == "f.yaml:1:1"
    assert str(second.place(("spec", "ports", 0, "port"))) == "f.yaml:6:11: spec.ports[0].port"
    assert str(second.place(("spec", "ports", 0, "port"), at_key=True)) == "f.yaml:6:5: spec.ports[0].port"
    assert str(second.place(("spec", "ports", 1, "name"))) == "f.yaml:7:5: spec.ports[1].name"
    assert str(second.place(("spec", "ports", 9))) == "f.yaml:5:3: spec.ports[9]"
    assert str(second.part("spec").part("ports").part(1).place(("port",))) == "f.yaml:7:12: port"


def test_the_place_of_an_alias_is_its_own_and_inside_it_the_anchors() -> None:
    (item,) = parse("f", "a: &x {k: v}\nb: *x\n")
    assert str(item.place(("b",))) == "f:2:4: b"
    assert str(item.place(("b", "k"))) == "f:1:11: b.k"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "f:3:1: duplicate field 'a', first on line 1"),
        ("{x: {a: 1, a: 2}}", "f:1:12: duplicate field 'a', first on line 1"),
        ("a: !!str 5", "f:1:4: tags are not supported: 'tag:yaml.org,2002:str'"),
        ("!!python/object/apply:os.system [id]", "f:1:1: tags are not supported"),
        ("a: !custom {b: 1}", "f:1:4: tags are not supported: '!custom'"),
        ("a: *missing", "f:1:4: alias of an anchor that is not there"),
        ("&a [*a]", "f:1:5: alias of an anchor that is not there or not complete: 'a'"),
        ("x: &a 1\n---\ny: *a", "f:3:4: alias of an anchor that is not there"),
        ("base: &b {a: 1}\n<<: *b", "f:2:1: merge keys (<<) are not supported: write the fields out"),
        ("80: x", "f:1:1: a field name must be text, not 80: write it in quotes"),
        ("yes: x", "f:1:1: a field name must be text, not true: write it in quotes"),
        ("? [a]\n: b", "f:1:3: a field name must be text, not a list"),
        ("a: [1,\nb: 2", "f:3:1: cannot be read: did not find expected"),
        ("a: b: c", "f:1:5: cannot be read: mapping values are not allowed in this context"),
        ("\ta: 1", "f:1:1: cannot be read: found character that cannot start any token"),
        ("a: \x00", "f: cannot be read: unacceptable character"),
        (b"\xff\xfea", "f: is not UTF-8 text: invalid start byte"),
        ("\ud800", "f: is not UTF-8 text: surrogates not allowed"),
        ("[" * 100_000, "f:1:102: nested deeper than 100 levels"),
        ("- " * 5000, "nested deeper than 100 levels"),
        ('{"a": 1, "a": "\\ud83d\\ude00"}', "cannot be read: found invalid Unicode character escape code"),
        ('{"a": NaN, "b": "\\ud83d\\ude00"}', "f:1:20: cannot be read"),
        ('{"b": "\\ud83d\\ude00", "a":' + '{"a":' * 2000, "cannot be read"),
    ],
)
def test_refusals(text: str | bytes, message: str) -> None:
    assert message in refusal(text)


def test_alias_bombs_are_defused() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
    )
    assert "aliases expand to more than the text itself" in refusal(bomb)
    chain = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, MAX_DEPTH + 5)) + "#" * 10_000
    assert "nested deeper" in refusal(chain)


def test_faults_of_syntax_are_collected_and_bounded() -> None:
    assert len(refusal("a: 1\na: 2\nb: !x 3\n").splitlines()) == 2
    assert len(refusal("a: 1\n" * 5000).splitlines()) == 101
