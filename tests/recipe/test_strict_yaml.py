from typing import Any

import pytest
import yaml

from bricscli.recipe.strict_yaml import MAX_BYTES, read_yaml, write_yaml

TRAPS: dict[str, Any] = {
    "1e-4": 1e-4, "1E5": 1e5, "-.5": -0.5, "1.": 1.0, "+3": 3, "-0": 0, "0": 0, "0.5": 0.5, "1e6": 1e6,
    "true": True, "False": False, "TRUE": True, "null": None, "~": None, "": None,
    "on": "on", "no": "no", "yes": "yes", "off": "off", "y": "y", "tRue": "tRue", "=": "=",
    "0x10": "0x10", "0o17": "0o17", "1_000": "1_000", "12:30:45": "12:30:45", "2024-01-01": "2024-01-01",
    ".inf": ".inf", ".nan": ".nan", "nan": "nan", "1e": "1e", "'1'": "1", '"no"': "no", "'null'": "null",
    "[1, on, 2.5]": [1, "on", 2.5], "{}": {}, "|\n  text": "text\n",
}


@pytest.mark.parametrize("text", TRAPS)
def test_scalars_are_yaml_1_2(text: str) -> None:
    document = read_yaml(f"a: {text}\n")
    value = document.value["a"]
    assert (value, type(value)) == (TRAPS[text], type(TRAPS[text]))
    assert not document.problems and not document.broken


REFUSED = {
    "a: 012": (1, "a: 012 begins with 0"),
    "a:\n- -00.5": (2, "a.0: -00.5 begins with 0"),
    "a: 1e999": (1, "a: 1e999 is too large"),
    "a: " + "9" * 5000: (1, "a: the number is too long"),
    "a: 1\nb: {c: 1}\nb: 3": (3, "b: is given twice, first in line 2"),
    "a: {b: {c: 1,\n c: 2}}": (2, "a.b.c: is given twice, first in line 1"),
    "a: &x 1": (1, "&x: anchors are not read"),
    "a: 1\nb: *x": (2, "*x: aliases are not read"),
    "a: !!python/object/apply:os.system [ls]": (1, "!!python/object/apply:os.system: tags are not read"),
    "a: !!int '3'": (1, "!!int: tags are not read"),
    "a: ! b": (1, "!: tags are not read"),
    "? [a, b]\n: 1": (1, "a key must be a plain word"),
}


@pytest.mark.parametrize("text", REFUSED)
def test_refused_with_its_line(text: str) -> None:
    (line, problem), *more = read_yaml(text).problems
    assert not more
    assert (line, problem[: len(REFUSED[text][1])]) == REFUSED[text]


BROKEN = {
    "a: [1": 1, "a: 1\nb: c: d": 2, "a: 1\n---\nb: 2": 2, "a: @x": 1, "\ta: 1": 1, "a: \x00": 1,
    "[" * 3000: 1, "{a: " * 60 + "1" + "}" * 60: 1, "#" * (MAX_BYTES + 1): 1,
}


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_broken_with_its_line(text: str) -> None:
    document = read_yaml(text)
    assert document.broken
    assert [line for line, _ in document.problems] == [BROKEN[text]]


@pytest.mark.parametrize("data", [b"a: \xff", b"\xff\xfe\x00", bytes(range(256))])
def test_bytes_that_are_no_text(data: bytes) -> None:
    assert read_yaml(data).broken


def test_merge_keys_are_plain_keys() -> None:
    assert read_yaml("<<: {a: 1}\nb: 2").value == {"<<": {"a": 1}, "b": 2}


def test_an_alias_bomb_stays_small() -> None:
    pairs = zip("abcdefg", "bcdefgh", strict=True)
    bomb = "a: &a [x, x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in pairs)
    document = read_yaml(bomb)
    assert len(str(document.value)) < 1000
    assert len(document.problems) == 8 + 7, "three of a kind on a line are said once"


def test_what_is_too_much_for_a_recipe() -> None:
    few = read_yaml("a: [" + "1," * 1900 + "]")
    assert len(few.value["a"]) == 1900 and not few.problems
    for text in ("a: [" + "1," * 2001 + "]", "".join(f"k{i}: 1\n" for i in range(1001)), "[" + "*a," * 100_000):
        document = read_yaml(text)
        assert document.broken and document.problems[-1][1] == "is not YAML: too much for a recipe"
    document = read_yaml("".join(f"- *a{i}\n" for i in range(500)))
    assert document.broken and len(document.problems) == 52


def test_all_problems_and_lines_at_once() -> None:
    document = read_yaml("a: 1\nb:\n  c: [1,\n    02]\n  c: !x 2\na: &y 3\n")
    assert sorted(line for line, _ in document.problems) == [4, 5, 5, 6, 6]
    assert document.lines[("b", "c", 1)] == 4 and document.lines[("b",)] == 2


def test_written_data_reads_back_here_and_in_pyyaml() -> None:
    texts = ["1e4", "1e-4", "on", "no", "012", "null", "~", "", "0x10", "2024-01-01", "12:30:45", "0.1.2", "1_0", "+1",
             "=", "<<", "&a", "*a", "!x", "- b", "a: b", "#x", " a ", "x\ny", "é \x1b", "\u2028", "word " * 60, "1e999",
             "'", '"']
    shared = [1, 2]
    value = {"texts": {text: text for text in texts}, "list": texts, "twice": [shared, shared], "float": 1e-15,
             "big": 1e16, "int": 2**70, "none": None, "yes": True, "empty": {"list": [], "mapping": {}}, "minus": -0.0}
    text = write_yaml(value)
    document = read_yaml(text)
    assert not document.problems
    assert document.value == value
    assert yaml.safe_load(text) == value
    assert list(document.value["texts"]) == texts, "the order stays"


def test_lists_are_written_on_one_line() -> None:
    assert write_yaml({"b": {"widths": (1, 2)}, "a": [0.5]}) == "b:\n  widths: [1, 2]\na: [0.5]\n"
