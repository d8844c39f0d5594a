"""A strict reader for the part of YAML that recipes need, and the writer that fits it.

Differs from PyYAML's own SafeLoader, which reads `1e-4` as text, `on` as true, `012` as ten and keeps the last of two
equal keys: scalars are YAML 1.2's (decimal numbers only); equal keys, anchors, aliases and tags are refused.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_BYTES = 2**20
MAX_DEPTH = 50
#: Keys and values; a recipe with every default written has 250.
MAX_NODES = 2000
#: Wrong in one document, before nobody reads on.
MAX_PROBLEMS = 50
#: Where in a document: ("encoder", "multipliers", 1).
Key = tuple[str | int, ...]

_CONSTANTS = {"": None, "~": None, "null": None, "Null": None, "NULL": None, "true": True, "True": True, "TRUE": True,
              "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9][0-9.eE+-]*")


@dataclass
class Document:
    """What was read: the value, the line of each of its parts (from 1), and what is wrong, by line."""

    value: Any = None
    lines: dict[Key, int] = field(default_factory=dict)
    problems: list[tuple[int, str]] = field(default_factory=list)
    broken: bool = False  #: the value is not all there, so that it makes no sense to look for more problems


def read_yaml(text: bytes | str) -> Document:
    """Reads one document of at most 1 MiB; never raises, everything wrong is in `problems`."""
    document = Document()
    if len(text) > MAX_BYTES:
        return Document(problems=[(1, f"has {len(text)} bytes; at most {MAX_BYTES} are read")], broken=True)
    try:
        node = yaml.compose(text, Loader=_loader(document))
        document.value = _construct(node, (), document) if node else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = " ".join(part for part in (error.context, error.problem) if part)
        document.problems.append((mark.line + 1 if mark else 1, f"is not YAML: {reason}"))
        document.broken = True
    except yaml.reader.ReaderError as error:
        document.problems.append((1, f"is not YAML: {error.reason} at position {error.position}"))
        document.broken = True
    return document


def write_yaml(value: Mapping[str, Any]) -> str:
    """Writes plain data so that `read_yaml` gives it back: keys in their order, lists on one line."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=120)


class _Composer(yaml.composer.Composer):
    """Refuses anchors, aliases, tags and deep nesting while composing."""

    document: Document
    depth = 0
    nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[attr-defined]
        line = event.start_mark.line + 1
        self.nodes += 1
        if self.nodes > MAX_NODES or len(self.document.problems) > MAX_PROBLEMS:
            raise yaml.composer.ComposerError(None, None, "too much for a recipe", event.start_mark)
        if isinstance(event, yaml.AliasEvent):
            self.get_event()  # type: ignore[attr-defined]
            self._refuse(line, f"*{event.anchor}: aliases are not read. Write the value out")
            return yaml.ScalarNode("", "", event.start_mark, event.end_mark, style=None)  # type: ignore[arg-type]
        if event.anchor is not None:
            self._refuse(line, f"&{event.anchor}: anchors are not read. Take it out")
            event.anchor = None
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._refuse(line, f"{tag}: tags are not read. Take it out")
        if self.depth == MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, "nested too deeply", event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _refuse(self, line: int, problem: str) -> None:
        if (line, problem) not in self.document.problems[-1:]:
            self.document.problems.append((line, problem))


def _loader(document: Document) -> Any:
    class Loader(yaml.reader.Reader, yaml.scanner.Scanner, yaml.parser.Parser, _Composer, yaml.resolver.BaseResolver):
        def __init__(self, stream: Any) -> None:
            yaml.reader.Reader.__init__(self, stream)
            yaml.scanner.Scanner.__init__(self)
            yaml.parser.Parser.__init__(self)
            _Composer.__init__(self)
            yaml.resolver.BaseResolver.__init__(self)
            self.document = document

        def dispose(self) -> None:
            yaml.parser.Parser.dispose(self)

    return Loader


def _construct(node: yaml.Node, key: Key, document: Document) -> Any:
    document.lines.setdefault(key, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item, (*key, index), document) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _construct_mapping(node, key, document)
    quoted = isinstance(node, yaml.ScalarNode) and node.style is not None
    value = node.value if quoted else _resolve(node.value)
    if isinstance(value, ValueError):
        document.problems.append((node.start_mark.line + 1, f"{_dotted(key)}{value}"))
        return node.value
    return value


def _construct_mapping(node: yaml.MappingNode, key: Key, document: Document) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name_node, value_node in node.value:
        line = name_node.start_mark.line + 1
        if not isinstance(name_node, yaml.ScalarNode):
            document.problems.append((line, f"{_dotted(key)}a key must be a plain word"))
            continue
        name = name_node.value
        if name in result:
            first = document.lines[(*key, name)]
            document.problems.append((line, f"{_dotted((*key, name))}is given twice, first in line {first}. "
                                            "Keep one of them"))
        document.lines.setdefault((*key, name), line)
        result[name] = _construct(value_node, (*key, name), document)
    return result


def _resolve(text: str) -> Any:
    """The value of an unquoted scalar; a ValueError is returned, not raised, for one that is refused."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.fullmatch(text):
        return int(text) if len(text) < 30 else ValueError("the number is too long")
    if _FLOAT.fullmatch(text):
        number = float(text)
        return number if math.isfinite(number) else ValueError(f"{text} is too large")
    if _LEADING_ZERO.fullmatch(text):
        return ValueError(f"{text} begins with 0, which programs read differently. Leave out the 0, or quote the text")
    return text


def _dotted(key: Key) -> str:
    return ".".join(map(str, key)) + ": " if key else ""


class _Dumper(yaml.SafeDumper):
    """Quotes text that PyYAML or `read_yaml` would take for something else; lists on one line; no aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_list(self, data: Any) -> yaml.SequenceNode:
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)


_Dumper.add_implicit_resolver("!number", re.compile(f"^(?:{_FLOAT.pattern}|{_LEADING_ZERO.pattern})$"),
                              list("-+.0123456789"))
_Dumper.add_representer(list, _Dumper.represent_list)
_Dumper.add_representer(tuple, _Dumper.represent_list)
