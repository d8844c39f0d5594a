import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import bricscli
from bricscli.run import provenance


def test_describe_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/brics", "sample", f"--out={Path.home()}/x", "-n", "5"])
    described = provenance.describe_process()
    assert described["brics"] == bricscli.__version__
    assert described["torch"] == version("torch") and described["pillow"] == version("pillow")
    assert described["argv"] == ["brics", "sample", "--out=~/x", "-n", "5"]
    assert str(Path.home()) not in json.dumps(described)
    assert described == provenance.describe_process(), "no times"


def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGES", ("no-such-package",))
    assert provenance.describe_process()["no-such-package"] is None


def test_commit_and_whether_files_differ(tmp_path: Path) -> None:
    assert provenance._describe_checkout(tmp_path) == {"commit": None, "modified": None}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "x").write_text("1")
    assert provenance._describe_checkout(tmp_path) == {"commit": None, "modified": None}
    git("add", "x")
    git("commit", "-qm", "x")
    (tmp_path / "untracked").write_text("1")
    assert provenance._describe_checkout(tmp_path) == {"commit": git("rev-parse", "HEAD"), "modified": False}
    (tmp_path / "x").write_text("2")
    assert provenance._describe_checkout(tmp_path)["modified"] is True
    (tmp_path / "x").write_text("1")


def test_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance._describe_checkout(tmp_path) == {"commit": None, "modified": None}


def test_no_secrets_of_addresses() -> None:
    assert provenance.describe_arguments(["brics", "--data", "https://user:pw@host/x?X-Amz-Signature=5ec7e7"]) == [
        "brics", "--data", "https://host/x?***"]


def test_home_at_the_root_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/")
    assert provenance.describe_arguments(["brics", "/data/x"]) == ["brics", "/data/x"]


@pytest.mark.parametrize(("argument", "shown"), [
    ("/home/ann", "~"), ("/home/ann/x", "~/x"), ("--out=/home/ann/x", "--out=~/x"), ("-r/home/ann/x", "-r~/x"),
    ("/home/ann/a:/home/ann/b", "~/a:~/b"), ("file:///home/ann/x", "file://~/x"), ("/home/anna/x", "/home/anna/x"),
    ("/home/ann.old/x", "/home/ann.old/x"), ("/mnt/home/ann/x", "/mnt/home/ann/x"),
])
def test_home_is_a_whole_path(monkeypatch: pytest.MonkeyPatch, argument: str, shown: str) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert provenance.describe_arguments(["brics", argument]) == ["brics", shown]
