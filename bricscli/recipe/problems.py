"""What pydantic finds wrong with a recipe, in words: one line each, `where: key: what. What to do.`"""

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from bricscli.recipe.specs import METRIC_NAME
from bricscli.recipe.strict_yaml import Key

#: Patterns that have a name in plain words.
_PATTERNS = {r"^[A-Za-z0-9][A-Za-z0-9._-]*$": "a plain name of letters, digits, `.`, `_` and `-`",
             METRIC_NAME: "a metric's name in small letters, such as `psnr`"}
_EXPECTED = {"int_type": "a whole number", "float_type": "a number", "bool_type": "true or false",
             "string_type": "text", "tuple_type": "a list", "model_type": "a mapping", "dict_type": "a mapping",
             "model_attributes_type": "a mapping"}
_BOUNDS = {"greater_than": ("above", "gt"), "greater_than_equal": ("at least", "ge"),
           "less_than": ("below", "lt"), "less_than_equal": ("at most", "le")}


def describe(
    error: ValidationError, model: type[BaseModel], values: Mapping[str, Any], where: Callable[[Key], str]
) -> list[str]:
    """Every error of `values` as a `model`; `where` tells where the value of a key comes from."""
    lines = []
    for details in error.errors():
        key = _key(details["loc"], model)
        if details["type"] == "value_error":  # of a check across fields: a line `key: text` for each problem
            for line in str(details["ctx"]["error"]).split("\n"):
                path, separator, text = line.partition(": ")
                inner = (*key, *path.split(".")) if separator else key
                lines.append(f"{where(inner)}: {_named(inner)}{text if separator else line}")
        elif details["type"] == "missing":
            lines.append(f"{where(key[:-1])}: {_named(key)}is required")
        elif details["type"].startswith("union_tag"):
            inner = (*key, details["ctx"]["discriminator"].strip("'"))
            lines.append(f"{where(inner)}: {_named(inner)}{_wrong_kind(inner, model, values)}")
        elif details["type"] == "extra_forbidden":
            lines.append(f"{where(key)}: {_named(key)}{_unknown(key, model, values)}")
        else:
            lines.append(f"{where(key)}: {_named(key)}{_wrong(details)}")
    return [sentence(line) for line in lines]


def sentence(text: str) -> str:
    """`text` in one printable line that ends as a sentence does."""
    text = text if text.isprintable() else "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if text.endswith((".", "?")) else f"{text}."


def dotted(key: Key) -> str:
    """("encoder", "multipliers", 1) -> `encoder.multipliers[1]`."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def show(value: Any) -> str:
    """A value of a recipe in an error message."""
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case str():
            return f"the text {value!r}" if len(value) <= 40 else f"the text {value[:37]!r}..."
        case list() | tuple():
            return f"a list of {len(value)}"
        case dict():
            return "a mapping"
        case _:
            return str(value)


def did_you_mean(word: str, words: list[str]) -> str:
    """` Did you mean ...?` where one of the words is close, else nothing."""
    close = [other for other in words if _distance(word, other) == 1] or difflib.get_close_matches(word, words, n=1)
    return f" Did you mean {' or '.join(f'`{other}`' for other in close)}?" if close else ""


def _distance(a: str, b: str) -> int:
    """Levenshtein's: difflib's ratio would find nothing for `k2`, and `r_max` as close to `r_mxn` as `r_min`."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]


def _wrong(details: Mapping[str, Any]) -> str:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if kind in _EXPECTED:
        text = f"expected {_EXPECTED[kind]}, got {show(value)}"
        whole = kind == "int_type" and isinstance(value, float) and value.is_integer() and abs(value) < 1e15
        return f"{text}. Write {int(value)}" if whole else text
    if kind in _BOUNDS:
        words, limit = _BOUNDS[kind]
        return f"must be {words} {context[limit]:g}, got {show(value)}"
    if kind == "literal_error":
        return f"must be {str(context['expected']).replace(chr(39), '`')}, got {show(value)}"
    if kind == "string_pattern_mismatch":
        pattern = context["pattern"]
        return f"must be {_PATTERNS.get(pattern, f'text that matches {pattern}')}, got {show(value)}"
    if kind == "string_too_short":
        return "must say something, got an empty text"
    if kind in ("too_short", "too_long"):
        limit = context.get("min_length", context.get("max_length"))
        entries = "entry" if limit == 1 else "entries"
        return f"needs at {'least' if kind == 'too_short' else 'most'} {limit} {entries}, got {len(value)}"
    return f"{details['msg']}, got {show(value)}"


def _wrong_kind(key: Key, model: type[BaseModel], values: Mapping[str, Any]) -> str:
    """Of a mapping whose `kind` is none of a union's."""
    found = model.model_fields[str(key[0])]
    kinds = [kind for member in _models(found.annotation) for kind in _kinds(member)]
    value = values[key[0]]["kind"]  # type: ignore[index]
    hint = did_you_mean(value, kinds) if isinstance(value, str) else ""
    return f"must be one of {', '.join(f'`{kind}`' for kind in kinds)}, got {show(value)}.{hint}"


def _unknown(key: Key, model: type[BaseModel], values: Mapping[str, Any]) -> str:
    name, inside = str(key[-1]), _model_at(key[:-1], model, values)
    if inside is None:
        return "unknown key"
    suffix = f" for kind `{_kinds(inside)[0]}`" if _kinds(inside) else ""
    elsewhere = [dotted(path) for path in _all_keys(model, values) if path[-1] == name]
    names = [*inside.model_fields, "extends"] if len(key) == 1 else list(inside.model_fields)
    if len(elsewhere) == 1:
        hint = f" Did you mean `{elsewhere[0]}`?"
    else:
        hint = did_you_mean(name, names) or f" There are: {', '.join(names)}."
    return f"unknown key{suffix}.{hint}"


def _kinds(model: type[BaseModel]) -> tuple[str, ...]:
    found = model.model_fields.get("kind")
    return get_args(found.annotation) if found else ()


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in a type: itself, or the members of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    else:
        for inner in get_args(annotation):
            yield from _models(inner)


def _member(annotation: Any, value: Any) -> type[BaseModel] | None:
    """The model in a type; of a union the one that has the value's `kind`, or the first."""
    candidates = list(_models(annotation))
    kind = value.get("kind") if isinstance(value, Mapping) else None
    matching = [candidate for candidate in candidates if kind in _kinds(candidate)]
    return next(iter(matching or candidates), None)


def _model_at(key: Key, model: type[BaseModel], values: Mapping[str, Any]) -> type[BaseModel] | None:
    """The model that checks the mapping at `key`."""
    current: type[BaseModel] | None = model
    for part in key:
        values = values[part]  # type: ignore[index]
        found = current.model_fields.get(str(part)) if current else None
        current = _member(found.annotation, values) if found else None
    return current


def _all_keys(model: type[BaseModel], values: Any, above: Key = ()) -> Iterator[Key]:
    for name, found in model.model_fields.items():
        yield (*above, name)
        inner_values = values.get(name) if isinstance(values, Mapping) else None
        inner = _member(found.annotation, inner_values)
        if inner is not None:
            yield from _all_keys(inner, inner_values, (*above, name))


def _key(location: Key, model: type[BaseModel]) -> Key:
    """pydantic's location without the kind, which it puts after the name of a part of which there are several kinds.

    And without the mark that it is a mapping's key, not its value, that is wrong.
    """
    location = location[:-1] if location[-1:] == ("[key]",) else location
    found = model.model_fields.get(str(location[0])) if location else None
    return location[:1] + location[2:] if found and found.discriminator else location


def _named(key: Key) -> str:
    return f"{dotted(key)}: " if key else ""
