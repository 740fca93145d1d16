# SPDX-License-Identifier: Apache-2.0
"""The report of a made-up result: it renders, is complete in itself, and says what the data say."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from tf_model_pool.bench import figures, picture, report, tables
from tf_model_pool.bench.errors import ResultError
from tf_model_pool.bench.result import Group, Result, Spread

CELL = "made-up/repeated/stock"


@pytest.fixture(scope="module")
def page(parsed: Result) -> str:
    """The page of the made-up result."""
    return report.page(parsed)


@pytest.fixture
def group(parsed: Result) -> Group:
    """Its only model and scenario."""
    return parsed.groups[0]


def without_library(page: str) -> str:
    return re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_the_page_needs_nothing_from_elsewhere(page: str) -> None:
    text = without_library(page)
    assert not re.findall(r"""(?:src|href)=["']?(?!#)[^"'\s>]+""", text)
    assert "Plotly" in page


def test_the_page_has_every_configuration_and_every_figure(
    page: str, result: dict[str, Any]
) -> None:
    text = without_library(page)
    for name in result["configurations"]:
        assert f">{name}<" in text
    for figure in ("around0", "time0", "why0", "rss0"):
        assert f'id="{figure}"' in text


def test_panels_share_their_axes(group: Group) -> None:
    figure = figures.time_figure(group)
    for letter in ("x", "y"):
        axes = {letter + n: figure.layout[f"{letter}axis{n}"].matches for n in ("", "2", "3")}
        # All follow the same one, which follows none.
        assert len({matches or name for name, matches in axes.items()}) == 1


def test_a_configuration_without_a_valid_run_has_a_row_of_dashes(result: dict[str, Any]) -> None:
    broken = copy.deepcopy(result)
    broken["summary"]["cells"][CELL] = {"rounds": 0}
    for run in broken["runs"]:
        if run["cell"] == CELL:
            run |= {"valid": False, "reasons": ["other <processes> used 9% of CPU time"]}
    found = Result.parse(broken)
    (name, *values, rounds) = tables.overview(found.groups[0])[1][0]
    assert (name, set(values), rounds) == ("stock", {"-"}, "0")
    assert "other <processes>" in tables.text(found)
    # Text from outside is escaped.
    assert "other &lt;processes&gt;" in report.page(found)


def test_a_run_that_was_interrupted_is_said_to_be(result: dict[str, Any]) -> None:
    assert "interrupted" in tables.text(Result.parse({**result, "finished": False}))


def test_a_busy_machine_is_said_to_be_busy(result: dict[str, Any]) -> None:
    busy = copy.deepcopy(result)
    for run in busy["runs"]:
        run["disturbance"]["foreign_share"] = 0.0
    assert "busy" not in " ".join(tables.warnings(Result.parse(busy)))
    busy["runs"][0]["disturbance"]["foreign_share"] = 0.031
    (warning,) = tables.warnings(Result.parse(busy))
    assert "up to 3.1%" in warning
    assert warning in report.page(Result.parse(busy))


def test_too_few_rounds_are_said_to_be_too_few(group: Group) -> None:
    assert any("Fewer than three valid rounds" in sentence for sentence in tables.verdict(group))


def test_the_files_are_written(tmp_path: Path, parsed: Result) -> None:
    written = report.write(parsed, tmp_path)
    assert {p.name for p in written} >= {
        "report.html",
        "summary.txt",
        "made-up-repeated-percentiles.png",
        "made-up-repeated-ratios.png",
        "made-up-repeated-rss.png",
    }
    assert all(p.stat().st_size > 0 for p in written)
    assert all(p.read_bytes()[:4] == b"\x89PNG" for p in written if p.suffix == ".png")


def test_the_text_names_the_best_of_both_sides(parsed: Result) -> None:
    text = tables.text(parsed)
    assert "with pools (patched)" in text
    assert re.search(r"best of the others \(stock(-threads)?\)", text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (float("nan"), "-"),
        (0, "0"),
        (0.01234, "0.0123"),
        (1.5, "1.50"),
        (12.34, "12.3"),
        (1234.5, "1,234"),
        (123456, "123,456"),
    ],
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert tables.number(value) == text


def test_a_spread_shows_the_range_of_several_rounds() -> None:
    assert tables.with_spread(Spread(2.0, 1.0, 3.0, rounds=3)) == "2.00 [1.00 - 3.00]"
    assert tables.with_spread(Spread(2.0, 1.0, 3.0, rounds=1)) == "2.00"


@pytest.mark.parametrize(
    ("factor", "text"),
    [(0.185, "5.41 times shorter"), (3.0, "3.00 times longer"), (1.02, "as long")],
)
def test_a_ratio_is_said_in_words(factor: float, text: str) -> None:
    assert tables.times(factor) == text


def test_lines_that_cannot_be_told_from_the_maximum_are_left_out() -> None:
    assert tables.shown_lines([20] * 5) == ["p50", "p80", "p90", "max"]
    assert tables.shown_lines([2000] * 5) == list(figures.LINES)


# ---- the picture of a first screen ----


def test_the_picture_calls_each_configuration_by_its_label(parsed: Result, tmp_path: Path) -> None:
    path = tmp_path / "update.svg"
    picture.write(parsed, ["stock", "made-up/repeated/patched"], ["as released", "pools"], path)
    text = path.read_text()
    assert "as released" in text
    assert "pools" in text
    assert list(tmp_path.iterdir()) == [path]
    # The same result gives the same bytes, so that a page changes only when its figures do.
    picture.write(parsed, ["stock", "patched"], ["as released", "pools"], tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == text


def test_a_cell_that_the_result_does_not_have_is_named(parsed: Result, tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="cell 'python-hot' is not one of made-up/repeated/stock"):
        picture.write(parsed, ["python-hot"], ["x"], tmp_path / "update.svg")
