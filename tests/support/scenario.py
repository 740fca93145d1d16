# SPDX-License-Identifier: Apache-2.0
"""Runs the checks of one scenario class in a process of its own.

TensorFlow cannot be configured twice in a process, and starting it takes seconds. So checks that
need the same settings are the methods of one class, and one child process runs them all:

    python -m support.scenario FILE CLASS CONTEXT.json RESULT.jsonl

Class constants, all literals, say how: `SETTINGS` ("NAME=value" for the child's environment),
`MODES` (the allocators to run it with), `PYTHONS` ("patched", "stock"; with both, every value that
a check records must be the same in both). A check is a method whose name has no leading underscore.
Its line in RESULT.jsonl says whether it passed, and what it recorded.
"""

from __future__ import annotations

import ast
import dataclasses
import gc
import hashlib
import json
import operator
import os
import reprlib
import shutil
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from support.modes import MODES


@dataclasses.dataclass(frozen=True)
class Group:
    """One scenario class, as read from its source without running it."""

    file: Path
    name: str
    checks: tuple[str, ...]
    environment: Mapping[str, str]
    modes: tuple[str, ...]
    pythons: tuple[str, ...]


def read_groups(file: Path) -> list[Group]:
    """The scenario classes in `file`, in order. Raises ValueError for an unknown constant."""
    classes = {
        node.name: node
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }
    groups = []
    for name, node in classes.items():
        if name.startswith("_"):
            continue
        constants: dict[str, Any] = {
            "SETTINGS": (),
            "MODES": tuple(MODES),
            "PYTHONS": ("patched",),
        }
        checks: dict[str, None] = {}
        for item in _members(node, classes):
            if isinstance(item, ast.Assign):
                constant = ast.unparse(item.targets[0])
                if constant not in constants:
                    raise ValueError(f"{file}: {name}.{constant}: expected {sorted(constants)}")
                constants[constant] = ast.literal_eval(item.value)
            elif isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
                checks[item.name] = None
        groups.append(
            Group(
                file=file,
                name=name,
                checks=tuple(checks),
                environment=dict(setting.split("=", 1) for setting in constants["SETTINGS"]),
                modes=tuple(constants["MODES"]),
                pythons=tuple(constants["PYTHONS"]),
            )
        )
    return groups


def _members(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> Iterator[ast.stmt]:
    """The statements of the class, those of its bases in the same file first."""
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in classes:
            yield from _members(classes[base.id], classes)
    yield from node.body


class Context:
    """What a check may use: models, a directory of its own, records to compare."""

    def __init__(self, models: str, checkpoints: str, scratch: str, stderr: str) -> None:
        self._models = Path(models)
        self.checkpoints = Path(checkpoints)
        self._scratch = Path(scratch)
        self._stderr = Path(stderr)
        self.check = ""
        self.records: dict[str, Any] = {}

    def begin(self, check: str) -> None:
        """Starts the check `check` with a fresh directory and no records."""
        self.check = check
        self.records = {}

    @property
    def directory(self) -> Path:
        """A directory of this check alone."""
        path = self._scratch / self.check
        path.mkdir(parents=True, exist_ok=True)
        return path

    def model(self, name: str, *, copy_to: str | None = None) -> Path:
        """A copy of model `name` for this check alone: pools know a model by its directory."""
        target = self.directory / (copy_to or name)
        if not target.exists():
            shutil.copytree(self._models / name, target, copy_function=os.link)
        return target

    def shared_model(self, name: str) -> Path:
        """Model `name` at a place that is the same for every process."""
        return self._models / name

    def stderr(self) -> str:
        """What this process has written to its standard error so far."""
        return self._stderr.read_text(encoding="utf-8", errors="replace")

    def record(self, name: str, value: object) -> None:
        """Keeps `value` for the comparison with the released TensorFlow."""
        if name in self.records:
            raise ValueError(f"recorded twice: {name}")
        self.records[name] = value

    def record_array(self, name: str, array: Any) -> None:
        """Keeps type, shape and the digest of the bytes of a numpy array."""
        data = repr(array.tolist()).encode() if array.dtype == object else array.tobytes()
        self.record(name, [str(array.dtype), list(array.shape), hashlib.sha256(data).hexdigest()])


class _ExplainedAsserts(ast.NodeTransformer):
    """Makes `assert a == b` say what a and b were, as pytest does; children need no pytest."""

    def visit_Assert(self, node: ast.Assert) -> ast.stmt:
        test = node.test
        if node.msg is not None or not isinstance(test, ast.Compare) or len(test.ops) != 1:
            return node
        operands = [ast.Lambda(_NO_ARGUMENTS, side) for side in (test.left, *test.comparators)]
        # Evaluated in the call, so that nothing in the check's frame keeps a model alive.
        call = ast.Call(
            ast.Name("_compare", ast.Load()),
            [ast.Constant(type(test.ops[0]).__name__), *operands],
            [],
        )
        return ast.fix_missing_locations(ast.copy_location(ast.Expr(call), node))


_NO_ARGUMENTS = ast.arguments(
    posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[], vararg=None, kwarg=None
)
_COMPARISONS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "Eq": ("==", operator.eq),
    "NotEq": ("!=", operator.ne),
    "Lt": ("<", operator.lt),
    "LtE": ("<=", operator.le),
    "Gt": (">", operator.gt),
    "GtE": (">=", operator.ge),
    "Is": ("is", operator.is_),
    "IsNot": ("is not", operator.is_not),
    "In": ("in", lambda left, right: left in right),
    "NotIn": ("not in", lambda left, right: left not in right),
}


def _compare(name: str, left: Callable[[], object], right: Callable[[], object]) -> None:
    symbol, holds = _COMPARISONS[name]
    found, expected = left(), right()
    if not holds(found, expected):
        texts = [_REPR.repr(value) for value in (found, expected)]
        raise AssertionError(f"{texts[0]}\n  {symbol}\n{texts[1]}")


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 400
_REPR.maxlist = _REPR.maxset = _REPR.maxdict = _REPR.maxtuple = 40


def _load_class(file: Path, name: str) -> Callable[[Context], object]:
    tree = _ExplainedAsserts().visit(ast.parse(file.read_text(encoding="utf-8")))
    module = types.ModuleType(file.stem)
    module.__file__ = str(file)
    vars(module)["_compare"] = _compare
    sys.modules[file.stem] = module
    exec(compile(tree, str(file), "exec"), vars(module))
    scenario: Callable[[Context], object] = getattr(module, name)
    return scenario


def main(arguments: list[str]) -> int:
    """Runs every check of one class; a check that fails does not stop the ones after it."""
    file, name, context_file, result_file = arguments
    group = next(g for g in read_groups(Path(file)) if g.name == name)
    context = Context(**json.loads(Path(context_file).read_text(encoding="utf-8")))
    selected = os.environ.get("SCENARIO_CHECKS", "").split()
    with Path(result_file).open("w", encoding="utf-8") as results:

        def write(**line: object) -> None:
            results.write(json.dumps(line) + "\n")
            results.flush()

        scenario = _load_class(Path(file), name)(context)
        after_check: Callable[[], None] | None = getattr(scenario, "_after_check", None)
        for check in group.checks:
            if selected and check not in selected:
                continue
            write(check=check, status="started")
            context.begin(check)
            print(f"--- {name}.{check}", file=sys.stderr, flush=True)
            message = ""
            try:
                getattr(scenario, check)()
                gc.collect()
                if after_check is not None:
                    after_check()
            except Exception as error:
                message = traceback.format_exc()
                # The frames hold the models that the check had loaded.
                traceback.clear_frames(error.__traceback__)
                del error
            gc.collect()
            write(
                check=check,
                status="failed" if message else "passed",
                message=message,
                records=context.records,
            )
    # Pools must survive an exit with models alive: leave as any program does.
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
