# SPDX-License-Identifier: Apache-2.0
"""Columns of a table line up."""

from __future__ import annotations

from tf_model_pool.columns import columns


def test_columns_line_up_and_lines_end_without_spaces() -> None:
    rows = [["name", "size", "where"], ["a", "1,024", "/x"], ["longer", "8", ""]]
    assert columns(rows, left={0, 2}) == [
        "name     size  where",
        "a       1,024  /x",
        "longer      8",
    ]
