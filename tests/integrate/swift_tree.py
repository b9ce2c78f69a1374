"""Generated Swift as a syntax tree: a parser and a few rules replace the compiler.

There is no Swift compiler where these tests run. Beyond the grammar, three mistakes that one would
refuse are looked for in calls of what the files declare themselves: another set of labels, a `try`
that is missing, and a function that there is not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("tree_sitter", reason="Swift's grammar is not installed: extra `dev`")
pytest.importorskip("tree_sitter_swift", reason="Swift's grammar is not installed: extra `dev`")

import tree_sitter
import tree_sitter_swift

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tree_sitter import Node

PARSER = tree_sitter.Parser(tree_sitter.Language(tree_sitter_swift.language()))
APPLE = """
Array Bool Character Data Double Float Int NSData Set String UInt32 UInt8 URL
UnsafeRawBufferPointer
abs defer exit max min print stride sysctlbyname withExtendedLifetime zip
MLDictionaryFeatureProvider MLFeatureValue MLModel MLModelConfiguration MLMultiArray Package
CGBitmapInfo CGColorSpace CGColorSpaceCreateDeviceGray CGContext CGDataProvider CGImage CGRect
CGImagePropertyOrientation CGImageSourceCopyPropertiesAtIndex CGImageSourceCreateImageAtIndex
CGImageSourceCreateWithData CGImageSourceCreateWithURL
CVPixelBufferCreate CVPixelBufferGetBaseAddress CVPixelBufferGetBytesPerRow
CVPixelBufferGetHeight CVPixelBufferGetPixelFormatType CVPixelBufferGetWidth
CVPixelBufferLockBaseAddress CVPixelBufferUnlockBaseAddress VTCreateCGImageFromCVPixelBuffer
"""
"""What the files call without declaring it, but for methods."""
CLOSURES = frozenset({"log", "scalar"})
"""Parameters and variables that are called."""
CALLABLE = ("function_declaration", "init_declaration", "protocol_function_declaration")


def parse(text: str) -> Node:
    return PARSER.parse(text.encode()).root_node


def walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from walk(child)


def faults(root: Node) -> list[str]:
    """Where the text is no Swift, by line."""
    return [
        f"line {n.start_point[0] + 1}: {n.type}" for n in walk(root) if n.is_error or n.is_missing
    ]


def text_of(node: Node | None) -> str:
    assert node is not None
    assert node.text is not None
    return node.text.decode()


def _children(node: Node, kind: str) -> list[Node]:
    return [c for c in node.children if c.type == kind]


def constants(root: Node) -> dict[str, Node]:
    """The values of static constants, by their names."""
    return {
        text_of(n.child_by_field_name("name")): value
        for n in walk(root)
        if n.type == "property_declaration"
        and "static" in text_of(n).split("let")[0].split()
        and (value := n.child_by_field_name("value")) is not None
    }


def literal(node: Node) -> Any:  # noqa: ANN401
    """The value of a literal; a name is itself."""
    match node.type:
        case "integer_literal":
            return int(text_of(node))
        case "real_literal":
            return float(text_of(node))
        case "boolean_literal":
            return text_of(node) == "true"
        case "nil_literal":
            return None
        case "line_string_literal":
            return "".join(map(text_of, _children(node, "line_str_text")))
        case "prefix_expression" if text_of(node).startswith("-"):
            return -literal(node.children[1])
        case "array_literal":
            return [literal(n) for n in node.children_by_field_name("element")]
        case "tuple_expression":
            return tuple(literal(n) for n in node.children_by_field_name("value"))
        case _:
            return text_of(node)


def members(root: Node, owner: str) -> set[str]:
    """What is read of a type, as `owner.member`."""
    return {
        text_of(n.child_by_field_name("suffix")).removeprefix(".")
        for n in walk(root)
        if n.type == "navigation_expression" and text_of(n.child_by_field_name("target")) == owner
    }


@dataclass(frozen=True, kw_only=True)
class Signature:
    """Labels in order, `_` for none; how many from the end may be left out; whether it throws."""

    labels: tuple[str, ...]
    optional: frozenset[int]
    throws: bool

    def takes(self, given: tuple[str, ...], *, closure: bool) -> bool:
        """Whether a call with these labels, and perhaps a closure behind it, is one of it."""
        left = list(given)
        for i, label in enumerate(self.labels):
            if left and left[0] == label:
                left.pop(0)
            elif i not in self.optional and not (closure and i == len(self.labels) - 1):
                return False
        return not left


@dataclass(frozen=True, kw_only=True)
class Declared:
    """Everything that a set of files declares, functions and types by their names."""

    functions: dict[str, list[Signature]] = field(default_factory=dict)
    types: dict[str, list[Signature]] = field(default_factory=dict)


def declared(roots: Mapping[str, Node]) -> Declared:
    found = Declared()
    for node in (n for root in roots.values() for n in walk(root)):
        if node.type in CALLABLE and node.type != "init_declaration":
            name = text_of(node.child_by_field_name("name"))
            found.functions.setdefault(name, []).append(_signature(node))
        elif node.type == "enum_entry" and (values := _children(node, "enum_type_parameters")):
            name = text_of(node.child_by_field_name("name"))
            count = len(values[0].named_children)
            case = Signature(labels=("_",) * count, optional=frozenset(), throws=False)
            found.functions.setdefault(name, []).append(case)
        elif node.type == "class_declaration":
            body = node.child_by_field_name("body")
            assert body is not None
            made = [_signature(n) for n in _children(body, "init_declaration")]
            if not made and text_of(node.children[0]) != "extension":
                made = [_memberwise(body)]
            name = text_of(node.child_by_field_name("name"))
            found.types.setdefault(name, []).extend(made)
    return found


def _signature(node: Node) -> Signature:
    labels, optional = [], set()
    for child in node.children:
        if child.type == "parameter":
            outer = child.child_by_field_name("external_name")
            labels.append(text_of(outer or child.child_by_field_name("name")))
        elif child.type == "=":
            optional.add(len(labels) - 1)
    return Signature(
        labels=tuple(labels),
        optional=frozenset(optional),
        throws=bool(_children(node, "throws")),
    )


def _memberwise(body: Node) -> Signature:
    stored = [
        p
        for p in _children(body, "property_declaration")
        if p.child_by_field_name("computed_value") is None and "static" not in text_of(p).split()
    ]
    given = [i for i, p in enumerate(stored) if p.child_by_field_name("value") is not None]
    names = tuple(text_of(p.child_by_field_name("name")) for p in stored)
    return Signature(labels=names, optional=frozenset(given), throws=False)


def mistakes(roots: Mapping[str, Node]) -> list[str]:
    """Calls that no compiler would take, with file and line."""
    own = declared(roots)
    found = []
    for file, root in roots.items():
        for call in (n for n in walk(root) if n.type == "call_expression"):
            said = _mistake(call, own)
            if said:
                found.append(f"{file}, line {call.start_point[0] + 1}: {said}")
    return found


def _mistake(call: Node, own: Declared) -> str | None:
    called, suffix = call.children[0], call.children[-1]
    arguments = next(iter(_children(suffix, "value_arguments")), None)
    if arguments is not None and text_of(arguments).startswith("["):
        return None  # a subscript
    while called.type == "try_expression":
        called = called.children[-1]
    method = called.type == "navigation_expression"
    end = called.child_by_field_name("suffix") if method else called
    if end is None or (not method and called.type != "simple_identifier"):
        return None
    name = text_of(end).removeprefix(".")
    candidates = own.functions.get(name) or ([] if method else own.types.get(name))
    if not candidates:
        unknown = not method and name not in APPLE.split() and name not in CLOSURES
        return f"there is no `{name}`" if unknown else None
    labels = []
    for argument in [] if arguments is None else _children(arguments, "value_argument"):
        label = argument.child_by_field_name("name")
        labels.append("_" if label is None else text_of(label))
    closure = bool(_children(suffix, "lambda_literal"))
    fitting = [s for s in candidates if s.takes(tuple(labels), closure=closure)]
    if not fitting:
        return f"`{name}` does not take {labels}"
    if all(s.throws for s in fitting) and not _tried(call):
        return f"`{name}` throws, and there is no `try`"
    return None


def _tried(node: Node) -> bool:
    """Whether a `try` covers a call: it reaches to the end of its expression, not into closures."""
    place: Node | None = node
    while place is not None and place.type not in ("lambda_literal", "function_body"):
        first = place
        # The parser puts `try` on the first part of a chain of calls.
        while first.type in ("call_expression", "navigation_expression") and first.children:
            first = first.children[0]
        if "try_expression" in (place.type, first.type):
            return True
        place = place.parent
    return False
