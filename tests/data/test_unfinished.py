"""What is kept of unfinished work, and what is not: tests/tasks/test_gather.py and test_prepare_killed.py have more."""

from pathlib import Path

import pytest

from bricscli.data.unfinished import is_begun, unfinished
from bricscli.errors import BricsError

PLAN = {"kind": "images", "chunks": ["a"]}


def test_half_written_files_do_not_pile_up(tmp_path: Path) -> None:
    """A process takes its own away; those of killed ones go where nobody else is at work."""
    out = tmp_path / "x"
    with unfinished(out, shared=True) as work:
        work.begin("0123", PLAN)
        work.write_files("a", {"a.png": b"1"}, {})
    here = tmp_path / ".brics-part-x" / "0123"
    assert sorted(path.name for path in here.iterdir()) == ["data", "plan.json", "records"]
    (here / "tmp-dead").mkdir()
    with unfinished(out, shared=True) as work:
        work.begin("0123", PLAN)
        assert work.find("a") and (here / "tmp-dead").exists(), "another machine's, perhaps"
    with unfinished(out) as work:
        work.begin("0123", PLAN)
        work.sweep()
        assert len(list(here.glob("tmp-*"))) == 1 and not (here / "tmp-dead").exists()
    assert not is_begun(out)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "images", "chunks": ["../a"]}', '{"chunks": ["a"]}',
                                  '{"kind": 3, "chunks": ["a"]}', '{"kind": "images", "chunks": [3]}'])
def test_a_plan_that_is_none_is_not_followed(tmp_path: Path, text: str) -> None:
    with unfinished(tmp_path / "x", shared=True) as work:
        work.begin("0123", PLAN)
        (work.folder / "0123" / "plan.json").write_text(text)
        assert not work.reopen("0123")


@pytest.mark.parametrize("files", ['{"../b.png": "0"}', '{"/etc/passwd": "0"}', "[3]", '{"a.png": 3}'])
def test_a_record_that_is_none_is_no_chunk(tmp_path: Path, files: str) -> None:
    with unfinished(tmp_path / "x", shared=True) as work:
        work.begin("0123", PLAN)
        work.write_files("a", {"a.png": b"1"}, {})
        (work.folder / "0123" / "records" / "a.json").write_text(f'{{"shard": null, "files": {files}, "notes": {{}}}}')
        assert work.find("a") is None


def test_one_alone_or_several_in_parts(tmp_path: Path) -> None:
    with (unfinished(tmp_path / "x", shared=True), unfinished(tmp_path / "x", shared=True),
          pytest.raises(BricsError, match="is being made by another process"), unfinished(tmp_path / "x")):
        pass
    with unfinished(tmp_path / "x"):
        for shared in (True, False):
            with pytest.raises(BricsError, match="is being made by"), unfinished(tmp_path / "x", shared=shared):
                pass
    assert not is_begun(tmp_path / "x")
