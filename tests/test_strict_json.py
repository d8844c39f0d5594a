"""JSON of somebody else's: read as JSON, or one kind of error."""

from pathlib import Path

import pytest

from bricscli.strict_json import parse_json, read_json


def test_what_json_is() -> None:
    assert parse_json('{"a": [1, -2.5e3, true, null, "\\u00e9"]}') == {"a": [1, -2500.0, True, None, "é"]}
    assert parse_json(b"12345678901234567890123456789") == 12345678901234567890123456789


@pytest.mark.parametrize("text", [
    "", "{", "[" * 100_000, '{"a":' * 100_000, "NaN", "-Infinity", '{"a": Infinity}', "1e999", "-1e999", "9" * 31,
    "9" * 100_000, b"\xff\xfe\xfd", "{} {}", "'a'",
])
def test_what_is_none(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_no_more_is_read_than_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"[" + b" " * 98 + b"]")
    assert read_json(tmp_path / "a.json", 100) == []
    with pytest.raises(ValueError, match="it has more than 99 bytes"):
        read_json(tmp_path / "a.json", 99)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")
