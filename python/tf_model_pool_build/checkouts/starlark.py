# SPDX-License-Identifier: Apache-2.0
"""Finds and edits one rule in a WORKSPACE file, and leaves every other byte alone.

Starlark's syntax is a part of Python's, so Python's own parser reads it.
"""

from __future__ import annotations

import ast
import dataclasses

from tf_model_pool_build.errors import WorkspaceError


@dataclasses.dataclass(frozen=True)
class Rule:
    """A call such as `tensorflow_http_archive(name = "org_tensorflow", ...)`.

    Attributes:
        function: what is called.
        arguments: the keyword arguments whose values are strings or lists of strings.
        start, end: where it stands in the file, in bytes.
    """

    function: str
    arguments: dict[str, str | list[str]]
    keywords: dict[str, tuple[int, int]]
    start: int
    end: int


def _offsets(contents: bytes) -> list[int]:
    starts = [0]
    for line in contents.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    return starts


def _value(node: ast.expr) -> str | list[str] | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.List):
        items = [_value(item) for item in node.elts]
        if all(isinstance(item, str) for item in items):
            return [item for item in items if isinstance(item, str)]
    return None


def _span(node: ast.expr, starts: list[int], called: str) -> tuple[int, int]:
    if node.end_lineno is None or node.end_col_offset is None:
        raise WorkspaceError(f"{called}: no position of an expression")
    return (
        starts[node.lineno - 1] + node.col_offset,
        starts[node.end_lineno - 1] + node.end_col_offset,
    )


def find_rule(contents: bytes, repository: str, called: str) -> Rule:
    """The one rule that declares the external repository `repository`.

    Args:
        contents: of the file.
        repository: value of `name`.
        called: what errors call the file.

    Raises:
        WorkspaceError: the file cannot be read, or has no such rule or several.
    """
    try:
        tree = ast.parse(contents)
    except (SyntaxError, ValueError) as error:
        raise WorkspaceError(f"{called} is not readable as Starlark: {error}") from error
    starts = _offsets(contents)
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        named = {word.arg: word.value for word in node.keywords if word.arg is not None}
        if "name" not in named or _value(named["name"]) != repository:
            continue
        start, end = _span(node, starts, called)
        values = {name: _value(value) for name, value in named.items()}
        found.append(
            Rule(
                node.func.id,
                {name: value for name, value in values.items() if value is not None},
                {name: _span(value, starts, called) for name, value in named.items()},
                start,
                end,
            )
        )
    if len(found) != 1:
        raise WorkspaceError(
            f"{called} declares the repository {repository!r} {len(found)} times; expected once"
        )
    return found[0]


def with_argument(contents: bytes, rule: Rule, name: str, value: str, after: str) -> bytes:
    """`contents` with the rule's string argument `name` set to `value`.

    Args:
        contents: of the file that `rule` was found in.
        rule: what to change.
        name: the argument; replaced if it is there, else added.
        value: written between quotes, so it may hold none.
        after: an argument that the rule has; a new one follows it on a line of its own.
    """
    literal = b'"' + value.encode() + b'"'
    if name in rule.keywords:
        start, end = rule.keywords[name]
        return contents[:start] + literal + contents[end:]
    end = rule.keywords[after][1]
    return contents[:end] + b",\n    " + name.encode() + b" = " + literal + contents[end:]
