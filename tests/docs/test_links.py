# SPDX-License-Identifier: Apache-2.0
"""Links in the documents lead to a heading or a picture that exists; lines fit a screen."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")], key=lambda path: path.as_posix())
FOLDER = re.compile(r"^\| `(\w+)/` \|", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of the headings of `text`."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        repeated = sum(1 for known in found if re.fullmatch(re.escape(slug) + r"(-\d+)?", known))
        found.add(f"{slug}-{repeated}" if slug in found else slug)
    return found


def lost(text: str, page: Path) -> list[str]:
    """Links of `text`, on `page`, to headings that do not exist, and pictures that do not."""
    found = []
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", text):
        if "://" in target:
            continue
        other = (page.parent / target).resolve()
        if not target:
            headings = anchors(text)
        elif other.suffix == ".md" and other.exists():
            headings = anchors(other.read_text())
        else:  # another test looks for the file
            continue
        if anchor not in headings:
            found.append(f"{target}#{anchor}")
    for picture in re.findall(r'<img [^>]*?src="([^"]+)"', text):
        if not (page.parent / picture).exists():
            found.append(picture)
    return found


def long_lines(text: str) -> list[int]:
    """Lines over 120 characters, but for rows of tables."""
    lines = enumerate(text.splitlines(), start=1)
    return [number for number, line in lines if len(line) > 120 and not line.startswith("|")]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_link_leads_to_a_heading_that_exists(page: Path) -> None:
    assert lost(page.read_text(), page) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_lines_fit_a_screen(page: Path) -> None:
    assert long_lines(page.read_text()) == []


def test_the_benchmark_page_is_how_and_not_a_notebook() -> None:
    assert len((ROOT / "docs/benchmark.md").read_text().splitlines()) <= 120


def test_the_design_has_a_row_for_each_folder_in_their_order() -> None:
    folders = FOLDER.findall((ROOT / "tf_allocator/README.md").read_text())
    assert "pool" in folders
    assert FOLDER.findall((ROOT / "docs/design.md").read_text()) == folders


def test_the_checkers_see_what_is_wrong() -> None:
    # GIVEN a page with a link to a heading that is not there, a lost picture, and a long line
    page = ROOT / "docs/design.md"
    text = '# Here\n[a](#nowhere) [b](#here) <img width="9" src="lost.svg">\n' + "x" * 121
    # THEN each is reported
    assert lost(text, page) == ["#nowhere", "lost.svg"]
    assert long_lines(text) == [3]
    assert anchors("# At 40 % and at 70 %\n# `TF_X`: one\n# Twice\n# Twice") == {
        "at-40--and-at-70-",
        "tf_x-one",
        "twice",
        "twice-1",
    }
