# SPDX-License-Identifier: Apache-2.0
"""The patch that brings tf_allocator/ into TensorFlow's tree: made when a series is applied.

tf_allocator/BUILD says which files a source build needs; what it names goes into the patch.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tf_model_pool_build.errors import PatchError
from tf_model_pool_build.series.patch import (
    AUTHOR_LINE,
    DATE_LINE,
    FROM_LINE,
    NO_FILE,
    Patch,
    blob_hash,
    parse,
)

NAME = "generated-tf_allocator.patch"
DIRECTORY = "tf_allocator"
#: Folders of which a build of TensorFlow has nothing: what only a released binary needs, and the
#: benchmark's program.
_NOT_IN_SOURCE_BUILDS = ("binary", "bench")
#: What no library ships.
_TESTS = ("_test.cc", "/testing/")

_MESSAGE = """\
Bring the sources of the model pools into the tree

The other patches of the series declare and call functions that live in
tf_allocator/. Without its sources TensorFlow does not compile any more.

Generated from tf_allocator/, the directory that released wheels are patched
with: change it there.

Why-Patch: Bazel builds what lies in the tree.
Upstream: not submitted.
Drop-When: the other patches are dropped.
Tested-By: tests/series/test_generated.py
"""
_INCLUDE = re.compile(r'^\s*#include "tf_allocator/([^"]+)"', re.MULTILINE)


def build_files(build: str) -> tuple[str, ...]:
    """The sources and headers that a BUILD file names, sorted. Raises `PatchError`."""
    try:
        tree = ast.parse(build)
    except SyntaxError as error:
        raise PatchError(f"{DIRECTORY}/BUILD, line {error.lineno}: {error.msg}") from None
    names = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"\w+/[\w/]+\.(h|cc)", node.value)
    }
    return tuple(sorted(names))


def source_problems(project: Path) -> list[str]:
    """What tf_allocator/BUILD names that is not there, lacks, or does not need."""
    root = project / DIRECTORY
    named = set(build_files((root / "BUILD").read_text(encoding="utf-8")))
    there = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.suffix in (".h", ".cc")
    }
    elsewhere = {name for name in there if name.split("/")[0] in _NOT_IN_SOURCE_BUILDS}
    needed = {name for name in there - elsewhere if not any(part in f"/{name}" for part in _TESTS)}
    problems = [f"{DIRECTORY}/BUILD names {name}, which is not there" for name in named - there]
    problems += [f"no target of {DIRECTORY}/BUILD has {DIRECTORY}/{n}" for n in needed - named]
    problems += [
        f"{DIRECTORY}/BUILD names {name}, which no build of TensorFlow needs"
        for name in named & elsewhere
    ]
    for name in sorted(named & there):
        text = (root / name).read_text(encoding="utf-8")
        problems += [
            f"{DIRECTORY}/{name} includes {DIRECTORY}/{included}, which no target has"
            for included in _INCLUDE.findall(text)
            if included not in named
        ]
    return sorted(problems)


def _new_file(path: str, contents: bytes) -> str:
    text = contents.decode("ascii")
    if not text.endswith("\n") or "\r" in text:
        raise PatchError(f"{path} does not end in a line feed, or has CRLF line ends")
    lines = text.splitlines()
    count = "+1" if len(lines) == 1 else f"+1,{len(lines)}"
    return (
        f"diff --git a/{path} b/{path}\n"
        "new file mode 100644\n"
        f"index {NO_FILE}..{blob_hash(contents)}\n"
        "--- /dev/null\n"
        f"+++ b/{path}\n"
        f"@@ -0,0 {count} @@\n"
    ) + "".join(f"+{line}\n" for line in lines)


def generate(project: Path) -> str:
    """The text of the patch, the same bytes that git would export.

    Args:
        project: root of the checkout.

    Raises:
        PatchError: tf_allocator/BUILD and the files do not agree.
    """
    problems = source_problems(project)
    if problems:
        raise PatchError("; ".join(problems))
    subject, _, rest = _MESSAGE.partition("\n")
    build = (project / DIRECTORY / "BUILD").read_text(encoding="utf-8")
    files = sorted(f"{DIRECTORY}/{name}" for name in ("BUILD", *build_files(build)))
    head = f"{FROM_LINE}\n{AUTHOR_LINE}\n{DATE_LINE}\nSubject: [PATCH] {subject}\n{rest}\n"
    return head + "".join(_new_file(name, (project / name).read_bytes()) for name in files)


def patch_of(project: Path) -> Patch:
    """The patch, read. Raises `PatchError` as `generate` does."""
    return parse(Path(NAME), generate(project))
