"""How long a formulation is: lines and tokens of code, by Python's own `ast` and `tokenize`.

length_of({"dynamic": dynamic, "static": static}, "static")

Counted are the function and what it uses of its own file, without what all the formulations use: that is the model
itself, in however many ways it is written. Comments, docstrings and blank lines count nothing. How a batch is made is
not counted either.
"""

from __future__ import annotations

import ast
import inspect
import io
import tokenize
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

Function = ast.FunctionDef
LAYOUT = frozenset(
    {
        *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
        *(tokenize.ENCODING, tokenize.ENDMARKER),
    }
)
"""Tokens that say nothing."""


class Length(NamedTuple):
    """How much there is to read."""

    lines: int
    tokens: int


def length_of(formulations: Mapping[str, Callable[..., Any]], name: str) -> Length:
    """Lines and tokens of one of several formulations, which are functions at the top of one file."""
    source = inspect.getsource(inspect.getmodule(formulations[name]) or formulations[name])
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    used = {key: _reached(functions, function.__name__) for key, function in formulations.items()}
    shared = set.intersection(*used.values()) if len(used) > 1 else set()
    own = used[name] - shared | {formulations[name].__name__}
    return count(source, [functions[key] for key in own])


def count(source: str, functions: Iterable[Function]) -> Length:
    """Lines and tokens of some functions of a file."""
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type not in LAYOUT]
    counted = []
    for function in functions:
        said = _docstring(function)
        counted += [
            token
            for token in tokens
            if function.lineno <= token.start[0] <= (function.end_lineno or 0) and token.start[0] not in said
        ]
    lines = {line for token in counted for line in range(token.start[0], token.end[0] + 1)}
    return Length(len(lines), len(counted))


def _docstring(function: Function) -> range:
    """The lines of a function's docstring."""
    first = function.body[0]
    if ast.get_docstring(function, clean=False) is None:
        return range(0)
    return range(first.lineno, (first.end_lineno or first.lineno) + 1)


def _reached(functions: Mapping[str, Function], start: str) -> set[str]:
    """The functions of a file that one of them uses, itself among them, directly or through others."""
    found: set[str] = set()
    left = [start]
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        names = {node.id for node in ast.walk(functions[name]) if isinstance(node, ast.Name)}
        left.extend(names & functions.keys())
    return found
