# SPDX-License-Identifier: Apache-2.0
"""Includes of tf_allocator/ run one way, from a folder to those above it in its README's table."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import include_order

README = """\
| folder | what belongs there | includes TensorFlow |
|---|---|---|
| `low/` | memory | no |
| `high/` | sessions | yes |
"""
IN_ORDER = {
    "README.md": README,
    "low/a.h": "#include <vector>\n",
    "low/a.cc": '#include "tf_allocator/low/a.h"\n',
    "high/b.cc": '#include "tensorflow/core/session.h"\n#include "tf_allocator/low/a.h"\n',
}


def make(root: Path, **changed: str) -> Path:
    for name, text in (IN_ORDER | changed).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_the_includes_of_the_library_run_one_way(repository: Path) -> None:
    assert include_order.problems(repository / "tf_allocator") == []


def test_the_table_of_the_library_is_read_whole(repository: Path) -> None:
    order = include_order.folders((repository / "tf_allocator/README.md").read_text())
    assert [*order][:2] == ["pool", "device"]
    assert [*order][-1] == "bench"
    assert [name for name, tensorflow in order.items() if not tensorflow] == ["pool", "sched"]


def test_includes_in_order_are_no_problem(tmp_path: Path) -> None:
    assert include_order.problems(make(tmp_path)) == []


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        (
            "low/a.cc",
            '#include "tf_allocator/high/b.h"\n',
            "low/a.cc includes tf_allocator/high/b.h; low/ stands below high/",
        ),
        (
            "low/a.h",
            '# include "tensorflow/core/tensor.h"\n',
            "low/a.h includes tensorflow/core/tensor.h; low/ includes no TensorFlow header",
        ),
        (
            "high/b.cc",
            '#include "tf_allocator/gone/c.h"\n',
            "high/b.cc includes tf_allocator/gone/c.h, whose folder is not in the table",
        ),
        ("other/c.cc", "int c;\n", "other/ is not in the table"),
        ("README.md", README + "| `more/` | x | no |\n", "more/ of the table has no source"),
    ],
    ids=["upwards", "tensorflow", "unknown folder", "folder without row", "row without folder"],
)
def test_what_breaks_the_order_is_named(tmp_path: Path, name: str, text: str, problem: str) -> None:
    assert include_order.problems(make(tmp_path, **{name: text})) == [problem]
