"""`brics plot`: pictures that need no run."""

from pathlib import Path
from typing import get_args

import torch

from bricscli import files
from bricscli.build import build_schedule
from bricscli.errors import DataError
from bricscli.recipe.diffusion_specs import DenoisingSpec, ScheduleSpec
from bricscli.report.schedules import draw_schedules

POINTS = 1001


def plot_schedules(out: Path) -> None:
    """Writes log SNR over t of every kind of schedule, with its defaults, as PNG to `out`.

    Raises DataError where that cannot be written.
    """
    if out.is_dir():
        raise DataError(f"{out}: is a folder. Name a file in it, such as {out / 'schedules.png'}.")
    files.check_writable(out.parent)
    t = torch.linspace(0, 1, POINTS, dtype=torch.float64)
    specs = [member() for member in get_args(ScheduleSpec)]
    files.write_bytes(out, draw_schedules(t.tolist(), {
        describe(spec): build_schedule(spec).log_snr(t).tolist() for spec in specs}, DenoisingSpec().gamma))


def describe(spec: ScheduleSpec) -> str:
    """As a recipe writes it: `chen_cosine: start 0.2, end 1, tau 1.5`."""
    values = ", ".join(f"{name} {value:g}" for name, value in spec.model_dump(exclude={"kind"}).items())
    return f"{spec.kind}: {values}" if values else spec.kind
