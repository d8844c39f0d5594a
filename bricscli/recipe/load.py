"""Recipes on disk: find by name, read strictly, extend, merge, override, check; and write back.

`extends: base/autoencoder.yaml` names one parent, relative to the file or to the shipped recipes. Mappings merge,
lists and values replace, and a changed `kind` replaces its whole mapping. Only `expected`, which is true of one recipe,
is not inherited. `--set a.b=value` comes last. Everything that is wrong is told at once.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

import bricscli
from bricscli.errors import RecipeError
from bricscli.recipe.problems import describe, did_you_mean, dotted, sentence, show
from bricscli.recipe.recipes import AutoencoderRecipe, DiffusionRecipe, Recipe
from bricscli.recipe.strict_yaml import MAX_BYTES, MAX_PROBLEMS, Key, read_yaml, write_yaml

Kind = Literal["autoencoder", "diffusion"]
KINDS: dict[str, type[AutoencoderRecipe] | type[DiffusionRecipe]] = {
    "autoencoder": AutoencoderRecipe, "diffusion": DiffusionRecipe}
#: Keys of a recipe that only people, and `brics report`, read.
DECIDE_NOTHING = ("description", "expected")
_COMMANDS = {"autoencoder": "brics train-ae", "diffusion": "brics train-diffusion"}
_MODELS = {"autoencoder": "an autoencoder", "diffusion": "a diffusion model"}
_OVERRIDE = re.compile(r"([A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*)=(.*)", re.DOTALL)


def recipe_roots() -> tuple[Path, ...]:
    """Where recipes are looked for: the current folder, then those shipped with the program (wheel or checkout)."""
    package = Path(bricscli.__file__).parent
    shipped = (package / "recipes", package.parent / "recipes")
    return (Path(), *(folder for folder in shipped if folder.is_dir()))


def list_recipes() -> list[str]:
    """Names of all shipped recipes, such as `tiny/toy.yaml`."""
    return sorted({path.relative_to(root).as_posix() for root in recipe_roots()[1:] for path in root.rglob("*.yaml")})


def find_recipe(name: str) -> Path:
    """The file of a path, or of a shipped recipe's name; `.yaml` and a sub-folder may be left out.

    Raises RecipeError, with the closest names, where there is none or more than one.
    """
    roots = recipe_roots()
    found = _first_file(roots, name)
    if found:
        return found
    shipped = list_recipes()
    deeper = [other for other in shipped if other.split("/")[-1] in (name, f"{name}.yaml")]
    if len(deeper) > 1:
        raise RecipeError(f"{name}: there are {' and '.join(deeper)}. Write which one.")
    if deeper:
        return _first_file(roots[1:], deeper[0]) or Path(deeper[0])
    words = [other.split("/")[-1].removesuffix(".yaml") for other in shipped] + shipped
    hint = did_you_mean(name, words) or f" There are: {', '.join(shipped) or 'none'}."
    looked = " and ".join(["the current folder", *map(str, roots[1:])])
    raise RecipeError(sentence(f"{name}: no such recipe in {looked}.{hint}"))


def load_recipe(name: str, overrides: Sequence[str] = (), kind: Kind | None = None) -> Recipe:
    """The complete recipe of a file, found by `find_recipe`, with `--set` overrides such as `training.images=1000`.

    Raises RecipeError with one line for everything that is wrong, or where its kind is not `kind`.
    """
    path = find_recipe(name)
    problems: list[str] = []
    layer = _read_with_parents(path, (), problems)
    for override in overrides:
        layer = layer.under(_read_override(override, problems))
    return _build(layer, problems, kind)


def load_shipped_recipe(name: str) -> Recipe:
    """As `load_recipe`, of a full name such as `tiny/toy.yaml`, whatever the current folder holds."""
    path = _first_file(recipe_roots()[1:], name)
    if path is None:
        raise RecipeError(f"{name}: no such recipe among the shipped. There are: {', '.join(list_recipes())}.")
    return load_recipe(str(path))


def read_recipe(path: Path) -> Recipe:
    """A recipe that stands alone, such as a run's own. Raises RecipeError."""
    return parse_recipe(_read_bytes(path), _shown(path))


def parse_recipe(text: bytes | str, where: str) -> Recipe:
    """A recipe from the text of `dump_recipe`; `where` is for the errors. Raises RecipeError."""
    problems: list[str] = []
    return _build(_read_layer(text, where, problems), problems, None)


def recipe_from_dict(values: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """A recipe from plain data. Raises RecipeError."""
    return _build(_Layer(where, dict(values)), [], None)


def dump_recipe(recipe: Recipe) -> str:
    """YAML with every default written; `parse_recipe` makes an equal recipe of it."""
    return write_yaml(recipe.model_dump(mode="json"))


def differing_keys(a: Recipe, b: Recipe) -> list[str]:
    """`training.images: 1000 -> 2000` for every difference but of what decides no number."""
    left, right = (dict(_leaves(recipe.model_dump(mode="json"))) for recipe in (a, b))
    return [f"{dotted(key)}: {_flat(left, key)} -> {_flat(right, key)}" for key in left | right
            if key[0] not in DECIDE_NOTHING and _flat(left, key) != _flat(right, key)]


@dataclass
class _Layer:
    """One file's, or one override's, part of a recipe, and where each of its keys was written."""

    where: str
    values: dict[str, Any]
    origins: dict[Key, str] = field(default_factory=dict)

    def under(self, top: "_Layer") -> "_Layer":
        """This layer with `top` over it."""
        kind = self.values.get("kind", top.values.get("kind"))
        defaults = _default_kinds(KINDS[kind]) if isinstance(kind, str) and kind in KINDS else {}
        return _Layer(self.where, _merge(self.values, top.values, defaults), self.origins | top.origins)

    def origin(self, key: Key) -> str:
        """Where `key`, or else the nearest mapping around it, was written."""
        while key and key not in self.origins:
            key = key[:-1]
        return self.origins[key] if key else self.where


def _merge(base: dict[str, Any], top: dict[str, Any], default_kinds: Mapping[str, str]) -> dict[str, Any]:
    result = dict(base)
    for name, value in top.items():
        old = base.get(name)
        if isinstance(old, dict) and isinstance(value, dict):
            kind = old.get("kind", default_kinds.get(name))
            result[name] = value if value.get("kind", kind) != kind else _merge(old, value, {})
        else:
            result[name] = value
    return result


def _default_kinds(model: type[BaseModel]) -> dict[str, str]:
    """The `kind` of each part for which a recipe need not give one."""
    return {name: found.default.kind for name, found in model.model_fields.items() if hasattr(found.default, "kind")}


def _read_with_parents(path: Path, below: tuple[Path, ...], problems: list[str]) -> _Layer:
    where, chain = _shown(path), (*below, path.resolve())
    if chain[-1] in below:
        circle = " -> ".join(map(_shown, chain[below.index(chain[-1]):]))
        raise RecipeError(*problems, f"{where}: extends itself: {circle}. Take out one `extends`.")
    layer = _read_layer(_read_bytes(path), where, problems)
    if "extends" not in layer.values:
        return layer
    name, origin = layer.values.pop("extends"), layer.origin(("extends",))
    if not isinstance(name, str):
        raise RecipeError(*problems, f"{origin}: extends: expected the name of one recipe, got {show(name)}.")
    parent = _first_file((path.parent, *recipe_roots()[1:]), name)
    if parent is None:
        hint = did_you_mean(name, list_recipes())
        raise RecipeError(*problems, f"{origin}: extends: no recipe {name!r} beside it or among the shipped.{hint}")
    base = _read_with_parents(parent, chain, problems)
    kinds = base.values.get("kind"), layer.values.get("kind")
    if None not in kinds and kinds[0] != kinds[1]:
        raise RecipeError(*problems, f"{layer.origin(('kind',))}: kind: is {show(kinds[1])}, but {_shown(parent)}, "
                                     f"which it extends, has {show(kinds[0])}. Extend another recipe.")
    base.values.pop("expected", None)
    merged = base.under(layer)
    merged.where = where
    return merged


def _read_layer(text: bytes | str, where: str, problems: list[str]) -> _Layer:
    """Adds what is wrong to `problems`, and raises them where there is no mapping to go on with."""
    document = read_yaml(text)
    problems += [sentence(f"{where}:{line}: {problem}") for line, problem in document.problems]
    if document.broken:
        raise RecipeError(*problems)
    if not isinstance(document.value, dict):
        raise RecipeError(*problems, f"{where}: expected a mapping such as `kind: autoencoder`, "
                                     f"got {show(document.value)}.")
    return _Layer(where, document.value, {key: f"{where}:{line}" for key, line in document.lines.items() if key})


def _read_override(override: str, problems: list[str]) -> _Layer:
    match = _OVERRIDE.fullmatch(override)
    if match is None:
        problems.append(sentence(f"--set {override}: expected key=value, such as --set training.images=1000"))
        return _Layer("--set", {})
    key, document = tuple(match[1].split(".")), read_yaml(match[2])
    problems += [sentence(f"--set {match[1]}: {problem}") for _, problem in document.problems]
    if document.broken:
        return _Layer("--set", {})
    if key in (("kind",), ("extends",)):
        problems.append(f"--set {key[0]}: cannot be set. Choose another recipe.")
        return _Layer("--set", {})
    value = document.value
    for part in reversed(key):
        value = {part: value}
    origins: dict[Key, str] = {key[:length]: "--set" for length in range(1, len(key) + 1)}
    return _Layer("--set", value, origins | {(*key, *inner): "--set" for inner in document.lines})


def _build(layer: _Layer, problems: list[str], kind: Kind | None) -> Recipe:
    found = layer.values.get("kind")
    if not isinstance(found, str) or found not in KINDS:
        what = f"must be `autoencoder` or `diffusion`, got {show(found)}" if "kind" in layer.values else (
            "is required. Write `kind: autoencoder` or `kind: diffusion`, or extend a recipe that has one")
        known = ["extends", *(name for model in KINDS.values() for name in model.model_fields)]
        problems = problems + [sentence(f"{layer.origin((name,))}: {name}: unknown key.{did_you_mean(name, known)}")
                               for name in layer.values if name not in known]
        raise RecipeError(*problems, sentence(f"{layer.origin(('kind',))}: kind: {what}"))
    if kind is not None and found != kind:
        raise RecipeError(f"{layer.where}: is a recipe for {_MODELS[found]} (kind: {found}); "
                          f"`{_COMMANDS[kind]}` needs kind: {kind}.")
    defaults = _default_kinds(KINDS[found])
    values = {name: {"kind": defaults[name]} | part if name in defaults and isinstance(part, dict) else part
              for name, part in layer.values.items()}
    try:
        recipe = KINDS[found].model_validate(values)
    except ValidationError as error:
        problems = problems + describe(error, KINDS[found], values, layer.origin)
    if problems:
        more = len(problems) - MAX_PROBLEMS
        raise RecipeError(*problems[:MAX_PROBLEMS],
                          *([f"{layer.where}: and {more} more that is wrong. Begin with these."] if more > 0 else []))
    return recipe


def _first_file(folders: Sequence[Path], name: str) -> Path | None:
    candidates = (folder / file for folder in folders for file in (name, f"{name}.yaml"))
    return next((path for path in candidates if path.is_file()), None)


def _read_bytes(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"{_shown(path)}: cannot be read ({error.strerror}).") from None


def _shown(path: Path) -> str:
    """A path as people know it: from the current folder, or `recipes/...` for a shipped one."""
    path = path.absolute()
    for above in (Path.cwd(), *(root.absolute().parent for root in recipe_roots()[1:])):
        if path.is_relative_to(above):
            return path.relative_to(above).as_posix()
    return str(path)


def _leaves(values: Any, key: Key = ()) -> Iterator[tuple[Key, Any]]:
    if isinstance(values, dict):
        for name, value in values.items():
            yield from _leaves(value, (*key, name))
    else:
        yield key, values


def _flat(leaves: Mapping[Key, Any], key: Key) -> str:
    return repr(leaves[key]) if key in leaves else "(none)"
