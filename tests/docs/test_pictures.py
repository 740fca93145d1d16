# SPDX-License-Identifier: Apache-2.0
"""Pictures that were drawn by hand: legible on a phone and on a dark page, and shown somewhere."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DRAWN = sorted(ROOT.glob("docs/*-*.svg"))
SVG = "{http://www.w3.org/2000/svg}"
PHONE_WIDTH = 358  # of a page on a screen of 390 CSS pixels, less its margins
SMALLEST_TEXT = 10  # CSS pixels


def complaints(source: str) -> list[str]:
    """What is wrong with a picture, one sentence each."""
    root = ElementTree.fromstring(source)
    _, _, width, height = map(float, root.get("viewBox", "").split())
    found = []
    title = root.find(f"{SVG}title")
    if title is None or not title.text:
        found.append("no title, which a screen reader reads")
    covers = (rect.attrib for rect in root.findall(f"{SVG}rect"))
    if not any(
        float(rect["width"]) >= width and float(rect["height"]) >= height and "fill" in rect
        for rect in covers
    ):
        found.append("no background: dark text on a dark page")
    sizes = [float(size) for size in re.findall(r'font-size="([\d.]+)"', source)]
    if not sizes or min(sizes) * PHONE_WIDTH / width < SMALLEST_TEXT:
        found.append(f"text smaller than {SMALLEST_TEXT} pixels at a width of {PHONE_WIDTH}")
    return found


@pytest.mark.parametrize("picture", DRAWN, ids=lambda path: path.name)
def test_a_picture_is_legible(picture: Path) -> None:
    assert complaints(picture.read_text()) == []


@pytest.mark.parametrize("picture", DRAWN, ids=lambda path: path.name)
def test_a_command_in_a_picture_exists(picture: Path) -> None:
    source = picture.read_text()
    named = re.findall(r">(?:\./)?(build\.sh|ci/[a-z]+\.sh)", source)
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("picture", DRAWN, ids=lambda path: path.name)
def test_a_page_shows_the_picture(picture: Path) -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    assert [page.name for page in pages if picture.name in page.read_text()] != []


def test_the_checker_sees_what_is_wrong() -> None:
    text = '<text font-size="9"/>'
    bare = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 100">{text}</svg>'
    assert len(complaints(bare)) == 3
