"""`brics eval fid` and `all`: samples against a reference, by a protocol that is written beside every number."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from bricscli.data.collection import ImageCollection
from bricscli.errors import DataError, MismatchError, RecipeError
from bricscli.metrics import METRICS
from bricscli.metrics.features import EXTRACTORS, FeatureExtractor, load_extractor
from bricscli.metrics.frechet import frechet_distance
from bricscli.metrics.inception_score import inception_score
from bricscli.metrics.kernel_distance import kernel_distance
from bricscli.metrics.neighbourhoods import Neighbourhoods, f1
from bricscli.metrics.protocols import MORE, PROTOCOLS, MetricSpec
from bricscli.parts import Part
from bricscli.run.log import warn
from bricscli.tasks.eval.collecting import CHUNK, Features, Place, Want, collect, collect_part
from bricscli.tasks.eval.comparable import check_comparable, different_preparation, open_questions, reasons_against
from bricscli.tasks.eval.kept import KEPT, folder_for, remove_kept
from bricscli.tasks.eval.references import ImageReference, Reference
from bricscli.tasks.eval.results import describe_versions
from bricscli.weights import MissingWeights

#: A distance of its own, outside of all protocols: it needs no file and few images, and is comparable only with itself.
RANDOM = {"fd_random": MetricSpec("random")}
#: Package -> the extractors whose numbers depend on its version.
_PACKAGES = {"torch-fidelity": ("inception",), "clean-fid": ("inception_clean",), "open_clip_torch": ("clip",),
             "timm": ("dinov2",)}
_FRECHET = ("fid", "fid_clean", "clip_fid", "fd_dinov2", "fd_random")
_NEIGHBOURHOODS = ("precision", "recall", "f1", "density", "coverage")


@dataclass(frozen=True)
class Plan:
    """Which metrics, by whose protocol; `left_out`: metric -> why it is not measured."""

    protocol: str | None
    metrics: dict[str, MetricSpec]
    left_out: dict[str, str]

    @property
    def extractors(self) -> list[str]:
        """By name; those of Fréchet distances first, FID's before all."""
        frechet = [self.metrics[name].extractor for name in _FRECHET if name in self.metrics]
        return list(dict.fromkeys([*frechet, *sorted(spec.extractor for spec in self.metrics.values())]))


def choose_plan(protocol: str, names: Iterable[str] | None = None) -> Plan:
    """The metrics `names` of a protocol, or of those that any may be asked for; None: all of the protocol's own.

    Raises RecipeError for a name that it does not have.
    """
    if protocol not in PROTOCOLS:
        raise RecipeError(f"--protocol: `{protocol}` is unknown. There are: {', '.join(PROTOCOLS)}.")
    own = PROTOCOLS[protocol].metrics
    if names is None:
        return Plan(protocol, dict(own), {})
    known = MORE | own
    chosen = [name.strip() for name in names]
    for name in chosen:
        if name not in known:
            elsewhere = [other for other, entry in PROTOCOLS.items() if name in entry.metrics]
            close = get_close_matches(name, known, n=1)
            hint = (f"--protocol {' or '.join(elsewhere)} has it." if elsewhere else f"Did you mean `{close[0]}`?"
                    if close else f"There are: {', '.join(known)}.")
            raise RecipeError(f"--metrics: protocol {protocol} has no `{name}`. {hint}")
    if not chosen:
        raise RecipeError(f"--metrics: names no metric. There are: {', '.join(known)}.")
    return Plan(protocol, {name: known[name] for name in chosen}, {})


def choose_fid(protocol: str) -> Plan:
    """The Fréchet distance that a protocol calls FID. Raises RecipeError for an unknown one."""
    names = choose_plan(protocol).metrics
    return choose_plan(protocol, ["fid" if "fid" in names else "fid_clean"])


def load_extractors(plan: Plan, device: torch.device, skip_missing: bool = False
                    ) -> tuple[Plan, dict[str, FeatureExtractor]]:
    """The networks of a plan, and the plan without what cannot be measured where `skip_missing` allows for that.

    Raises MissingWeights naming every file that is missing: call it before anything long.
    """
    loaded: dict[str, FeatureExtractor] = {}
    missing: dict[str, str] = {}
    for name in plan.extractors:
        try:
            loaded[name] = load_extractor(name, device)
        except MissingWeights as error:
            missing[name] = str(error)
    if missing and not (skip_missing and loaded):
        hint = "" if not loaded else "Or pass --skip-missing: what needs them is left out, which the result says."
        raise MissingWeights(*missing.values(), *[hint] * bool(hint))
    kept = {name: spec for name, spec in plan.metrics.items() if spec.extractor in loaded}
    left_out = {name: f"needs `{spec.extractor}`, whose file is not here (brics doctor)"
                for name, spec in plan.metrics.items() if spec.extractor in missing}
    return Plan(plan.protocol, kept, plan.left_out | left_out), loaded


class Comparison:
    """Samples and a reference that may be compared by a plan. `limit` holds for the samples only.

    `results`: where features of finished chunks are kept, in `features/`. Raises MismatchError where the two must not
    be compared, unless `force`; DataError where they cannot be.
    """

    def __init__(self, samples: ImageCollection, reference: Reference, plan: Plan,
                 extractors: Mapping[str, FeatureExtractor], *, force: bool = False, limit: int | None = None,
                 device: torch.device | str = "cpu", results: Path | None = None) -> None:
        self._samples, self._reference, self._extractors, self._limit = samples, reference, extractors, limit
        self._about = samples.describe(limit)
        _check_sizes(self._about, reference.about)
        self._plan = plan = _without_what_lacks(plan, reference)
        self._published = plan.protocol is not None
        reasons = reasons_against if self._published else different_preparation
        self._forced = check_comparable(reasons(self._about, reference.about), force)
        if not self._published:
            _warn(self._about, reference)
        self._versions = describe_versions(*(package for package, names in _PACKAGES.items()
                                             if set(names) & extractors.keys()))
        self._device = torch.device(device)
        self.kept = folder_for(results / KEPT, {
            "samples": self._about, "reference": reference.about, "device": self._device.type, "chunk": CHUNK,
            "metrics": {name: asdict(spec) for name, spec in plan.metrics.items()}, "versions": self._versions,
            "extractors": {name: extractor.digest for name, extractor in extractors.items()}}) if results else None
        self._wants = [_want(name, spec, spec.limit) for name, spec in plan.metrics.items()]

    def keep_part(self, part: Part) -> tuple[int, int]:
        """Computes and keeps a part of the features of either side: how many chunks it has, and how many were there.

        Raises DataError where an image cannot be read, BricsError where the disk is full or refuses.
        """
        ours = collect_part(self._samples, self._wants, self._extractors, part, self._place("samples"), self._limit)
        theirs = self._reference.keep_part(_reference_wants(self._plan).values(), self._extractors, part,
                                           self._place("reference"))
        return ours[0] + theirs[0], ours[1] + theirs[1]

    def measure(self, anchors: Mapping[str, ImageCollection] | None = None) -> dict[str, Any]:
        """Every metric of the plan, from one pass over each side, or over what is not kept of it.

        `anchors`: other collections whose Fréchet distance from the same reference is recorded beside the samples'.
        """
        plan, about, reference, extractors = self._plan, self._about, self._reference.about, self._extractors
        ours = collect(self._samples, self._wants, extractors, self._limit, place=self._place("samples"))
        theirs = self._reference.features(_reference_wants(plan).values(), extractors, self._place("reference"))
        wanted = PROTOCOLS[plan.protocol].samples if plan.protocol else None
        return {
            "kind": "generation",
            "protocol": plan.protocol,
            "metrics": _measure(plan, ours, theirs),
            "forced": self._forced,
            "left_out": plan.left_out,
            "open_questions": open_questions(about, reference, wanted) if self._published else [],
            "differs": list(PROTOCOLS[plan.protocol].differs) if plan.protocol else [],
            "anchors": _compare_anchors(anchors or {}, plan, theirs, extractors, Place(self._device)),
            "samples": about,
            "reference": reference,
            "extractors": {name: {"sha256": extractor.digest, "resize": EXTRACTORS[name].resize}
                           for name, extractor in extractors.items()},
            "versions": self._versions,
        }

    def forget(self) -> None:
        """Removes the features that were kept, once the result is written."""
        if self.kept is not None:
            remove_kept(self.kept)

    def _place(self, side: str) -> Place:
        return Place(self._device, self.kept / side if self.kept else None)


def evaluate_generation(
    samples: ImageCollection,
    reference: Reference,
    plan: Plan,
    extractors: Mapping[str, FeatureExtractor],
    *,
    anchors: Mapping[str, ImageCollection] | None = None,
    force: bool = False,
    limit: int | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """`Comparison.measure` in one process, which keeps nothing."""
    return Comparison(samples, reference, plan, extractors, force=force, limit=limit, device=device).measure(anchors)


def _check_sizes(samples: Mapping[str, Any], reference: Mapping[str, Any]) -> None:
    sizes = [(side["width"], side["height"]) for side in (samples, reference)]
    if reference["width"] is not None and sizes[0] != sizes[1]:
        ours, theirs = (f"{width}x{height}" for width, height in sizes)
        raise DataError(f"{samples['name']}: images are {ours}, those of {reference['name']} {theirs}. "
                        "Compare images of one resolution.")
    for side in (samples, reference):
        if side["images"] is not None and side["images"] < 2:
            raise DataError(f"{side['name']}: {side['images']} image is used; a distance needs at least 2. Use more.")


def _without_what_lacks(plan: Plan, reference: Reference) -> Plan:
    """Without what finished statistics cannot tell. Raises MismatchError where nothing is left."""
    lacking = {name: why for name, want in _reference_wants(plan).items() if (why := reference.lacks(want))}
    kept = {name: spec for name, spec in plan.metrics.items() if name not in lacking}
    if not kept:
        name, why = next(iter(lacking.items()))
        raise MismatchError(f"{reference.about['name']}: {name} cannot be measured against it: {why}. Name a data set, "
                            "or the statistics of the protocol's features.")
    return Plan(plan.protocol, kept, plan.left_out | lacking)


def _warn(samples: Mapping[str, Any], reference: Reference) -> None:
    """What a distance of its own has to say about its two sides."""
    if "statistics" in reference.about and not reference.about.get("preparation"):
        warn(f"{reference.about['name']}: does not say of which images and features it is.")
    for side in (samples, reference.about):
        if side.get("lossy"):
            warn(f"{side['name']}: holds JPEG files, whose compression changes the distance. Compare PNG files.")
        dimension = EXTRACTORS["random"].outputs["features"]
        if side["images"] is not None and side["images"] < dimension:
            warn(f"{side['name']}: {side['images']} images for {dimension} features; the distance comes out too large. "
                 "Compare it only with distances from as many images.")


def _want(name: str, spec: MetricSpec, limit: int | None) -> Want:
    if name in _FRECHET:
        return Want(spec.extractor, spec.output, spread=True)
    return Want(spec.extractor, spec.output, rows=limit)


def _reference_wants(plan: Plan) -> dict[str, Want]:
    """Metric -> what it wants of the reference, of those that need one."""
    return {name: _want(name, spec, _reference_limit(spec)) for name, spec in plan.metrics.items()
            if spec.needs_reference}


def _reference_limit(spec: MetricSpec) -> int | None:
    return spec.limit if spec.reference_limit is None else spec.reference_limit


def _measure(plan: Plan, ours: Features, theirs: Features) -> dict[str, Any]:
    """Metric -> entry of the result, in the plan's order."""
    neighbourhoods = _neighbourhoods(plan, ours, theirs)
    entries = {}
    for name, spec in plan.metrics.items():
        value, std = (neighbourhoods[name], None) if name in neighbourhoods else _value(name, spec, ours, theirs)
        entries[name] = {"label": METRICS[name].label, "value": value, "std": std, "unit": METRICS[name].unit,
                         "extractor": spec.extractor, "settings": dict(spec.settings)}
    return entries


def _value(name: str, spec: MetricSpec, ours: Features, theirs: Features) -> tuple[float, float | None]:
    """A metric's value, and its spread over splits or subsets."""
    if name in _FRECHET:
        return frechet_distance(*(side.spread(spec.extractor, spec.output) for side in (ours, theirs))), None
    rows = ours.rows(spec.extractor, spec.output, spec.limit).numpy()
    if name == "is":
        return inception_score(rows, **spec.settings)
    assert name == "kid", name
    others = theirs.rows(spec.extractor, spec.output, _reference_limit(spec)).numpy()
    return kernel_distance(rows, others, **spec.settings)


def _neighbourhoods(plan: Plan, ours: Features, theirs: Features) -> dict[str, float]:
    """Precision, recall, F1, density and coverage, as far as they are asked for: one pass for all of the same rows."""
    groups: dict[tuple[str, str, int | None, int | None], list[str]] = {}
    for name in _NEIGHBOURHOODS:
        if spec := plan.metrics.get(name):
            groups.setdefault((spec.extractor, spec.output, spec.limit, _reference_limit(spec)), []).append(name)
    values: dict[str, float] = {}
    for (extractor, output, limit, reference_limit), names in groups.items():
        k = {name: int(plan.metrics[name].settings["k"]) for name in names}
        found = Neighbourhoods(ours.rows(extractor, output, limit), theirs.rows(extractor, output, reference_limit),
                               sorted(set(k.values())))
        for name in names:
            values[name] = (f1(found.precision(k[name]), found.recall(k[name])) if name == "f1" else
                            getattr(found, name)(k[name]))
    return values


def _compare_anchors(anchors: Mapping[str, ImageCollection], plan: Plan, theirs: Features,
                     extractors: Mapping[str, FeatureExtractor], place: Place) -> dict[str, Any]:
    """By the first Fréchet distance of the plan."""
    name = next((name for name in plan.metrics if name in _FRECHET), None)
    if name is None:
        return {}
    want = _want(name, plan.metrics[name], None)
    target, compared = theirs.spread(want.extractor, want.output), {}
    for anchor, images in anchors.items():
        found = collect(images, [want], extractors, place=place).spread(want.extractor, want.output)
        compared[anchor] = {"value": frechet_distance(found, target), "images": images.count}
    return compared


def evaluate_random(samples: ImageCollection, reference: ImageCollection, *, device: torch.device | str = "cpu",
                    anchors: Mapping[str, ImageCollection] | None = None, limit: int | None = None) -> dict[str, Any]:
    """The Fréchet distance on random features, which needs no file. Raises DataError where the sides do not fit."""
    plan, extractors = load_extractors(Plan(None, RANDOM, {}), torch.device(device))
    return evaluate_generation(samples, ImageReference(reference), plan, extractors, anchors=anchors, limit=limit,
                               device=device)
