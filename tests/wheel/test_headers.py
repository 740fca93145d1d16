# SPDX-License-Identifier: Apache-2.0
"""Header patches: exact or not at all. The rules for patches are tested in tests/series."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import fake_release
from support.checkouts import diff, mail
from tf_model_pool_build.errors import PatchError
from tf_model_pool_build.series import patch
from tf_model_pool_build.wheel import headers


@pytest.fixture
def include(tmp_path: Path) -> Path:
    for name, text in (
        ("xla/tsl/framework/allocator.h", fake_release.ALLOCATOR_HEADER),
        ("tensorflow/core/common_runtime/process_state.h", fake_release.PROCESS_STATE_HEADER),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return tmp_path


def changes(text: str = fake_release.PATCH) -> tuple[patch.FileChange, ...]:
    return patch.parse(Path("0001-pools.patch"), text).changes


def test_headers_change_and_sources_do_not(include: Path) -> None:
    changed = headers.patch_headers(include, changes())
    assert changed == (
        "tensorflow/core/common_runtime/process_state.h",
        "xla/tsl/framework/allocator.h",
    )
    text = (include / "xla/tsl/framework/allocator.h").read_text()
    assert text.count("model_pool()") == 1
    first, *rest = text.splitlines()
    assert first.startswith("// This file was changed by the tf-model-pool project")
    assert len(rest) == len(fake_release.ALLOCATOR_HEADER.splitlines()) + 1


@pytest.mark.parametrize(
    "change", [("on_host", "on_guest"), ("#pragma once\n", ""), ("};\n", "}")], ids=repr
)
def test_other_context_is_an_error_that_names_header_and_hunk(
    include: Path, change: tuple[str, str]
) -> None:
    header = include / "xla/tsl/framework/allocator.h"
    header.write_text(header.read_text().replace(*change))
    with pytest.raises(PatchError, match=r"hunk 1 of 0001-pools\.patch .*allocator\.h"):
        headers.patch_headers(include, changes())


def test_shifted_context_is_an_error(include: Path) -> None:
    header = include / "xla/tsl/framework/allocator.h"
    header.write_text("\n" + header.read_text())
    with pytest.raises(PatchError, match="does not fit"):
        headers.patch_headers(include, changes())


def test_a_missing_header_is_an_error(include: Path) -> None:
    (include / "xla/tsl/framework/allocator.h").unlink()
    with pytest.raises(PatchError, match="which is not there"):
        headers.patch_headers(include, changes())


def test_a_header_of_an_unknown_place_is_an_error(include: Path) -> None:
    elsewhere = changes(fake_release.PATCH.replace("third_party/xla/", "elsewhere/"))
    with pytest.raises(PatchError, match="no rule says"):
        headers.patch_headers(include, elsewhere)


def test_a_header_of_tsl_is_patched_where_older_wheels_have_it() -> None:
    assert headers.wheel_paths("third_party/xla/third_party/tsl/tsl/framework/allocator.h") == (
        "tsl/framework/allocator.h",
        "tensorflow/tsl/framework/allocator.h",
    )


def test_headers_that_the_series_adds_are_left_to_the_builder(include: Path) -> None:
    added = changes(mail("Add a header", diff("tf_allocator/pool/a.h", None, "int a;\n")))
    assert headers.patch_headers(include, added) == ()
    assert not (include / "tf_allocator").exists()
