"""What is drawn: every kind of schedule, each under its own name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import pytest

from bricscli.errors import DataError
from bricscli.recipe.diffusion_specs import ChenCosineSpec, LinearSpec, ScaledLinearSpec, ScheduleSpec
from bricscli.tasks import plot
from bricscli.tasks.plot import describe, plot_schedules


def test_every_schedule_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def record(t: Sequence[float], curves: Mapping[str, Sequence[float]], gamma: float) -> bytes:
        assert gamma == 5 and (t[0], t[-1]) == (0, 1)
        assert [name.split(":")[0] for name in curves] == [member().kind for member in get_args(ScheduleSpec)]
        middle = {name.split(":")[0]: curve[len(t) // 2] for name, curve in curves.items()}
        assert middle["chen_cosine"] == pytest.approx(-1.17, abs=0.005) and middle["linear"] == pytest.approx(0)
        assert len({curve[250] for curve in curves.values()}) == len(curves)
        return b"picture"

    monkeypatch.setattr(plot, "draw_schedules", record)
    plot_schedules(tmp_path / "new" / "picture.png")
    assert (tmp_path / "new" / "picture.png").read_bytes() == b"picture"


def test_names() -> None:
    assert describe(ChenCosineSpec()) == "chen_cosine: start 0.2, end 1, tau 1.5"
    assert describe(ScaledLinearSpec(end=0.0155)) == "scaled_linear: start 0.0015, end 0.0155, steps 1000"
    assert describe(LinearSpec()) == "linear"


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is a folder. Name a file in it, such as .*schedules\.png\.$"):
        plot_schedules(tmp_path)
    assert list(tmp_path.iterdir()) == []
