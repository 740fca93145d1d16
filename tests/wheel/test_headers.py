# SPDX-License-Identifier: Apache-2.0
"""Header patches: exact or not at all. The rules for patches are tested in tests/series."""

from __future__ import annotations

from pathlib import Path

import pytest

from support import fake_release
from tf_model_pool_build.errors import HeaderPatchError
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


def write_patch(directory: Path, text: str = fake_release.PATCH) -> Path:
    path = directory / "0001-pools.patch"
    path.write_text(text)
    return path


def test_headers_change_and_sources_do_not(include: Path) -> None:
    changed = headers.patch_headers(include, [write_patch(include)])
    assert changed == (
        "tensorflow/core/common_runtime/process_state.h",
        "xla/tsl/framework/allocator.h",
    )
    text = (include / "xla/tsl/framework/allocator.h").read_text()
    assert text.count("model_pool()") == 1
    assert len(text.splitlines()) == len(fake_release.ALLOCATOR_HEADER.splitlines()) + 1


@pytest.mark.parametrize(
    "change", [("on_host", "on_guest"), ("#pragma once\n", ""), ("};\n", "}")], ids=repr
)
def test_other_context_is_an_error_that_names_header_and_hunk(
    include: Path, change: tuple[str, str]
) -> None:
    header = include / "xla/tsl/framework/allocator.h"
    header.write_text(header.read_text().replace(*change))
    with pytest.raises(HeaderPatchError, match=r"hunk 1 of 0001-pools\.patch .*allocator\.h"):
        headers.patch_headers(include, [write_patch(include)])


def test_shifted_context_is_an_error(include: Path) -> None:
    header = include / "xla/tsl/framework/allocator.h"
    header.write_text("\n" + header.read_text())
    with pytest.raises(HeaderPatchError, match="does not fit"):
        headers.patch_headers(include, [write_patch(include)])


def test_a_missing_header_is_an_error(include: Path) -> None:
    (include / "xla/tsl/framework/allocator.h").unlink()
    with pytest.raises(HeaderPatchError, match="which is not there"):
        headers.patch_headers(include, [write_patch(include)])


def test_a_header_of_an_unknown_place_is_an_error(include: Path) -> None:
    patch = write_patch(include, fake_release.PATCH.replace("third_party/xla/", "elsewhere/"))
    with pytest.raises(HeaderPatchError, match="no rule says"):
        headers.patch_headers(include, [patch])


def write_series(root: Path, text: str) -> Path:
    directory = root / "patches" / "v9.9"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "series").write_text(text)
    return directory


def test_a_series_lists_existing_patches_in_order(tmp_path: Path) -> None:
    directory = write_series(tmp_path, "# first\nb.patch\n\na.patch\n")
    (directory / "a.patch").write_text("")
    with pytest.raises(HeaderPatchError, match=r"lists b\.patch"):
        headers.read_series(directory)
    (directory / "b.patch").write_text("")
    assert [path.name for path in headers.read_series(directory)] == ["b.patch", "a.patch"]


def test_a_series_may_list_a_patch_that_releases_share(tmp_path: Path) -> None:
    directory = write_series(tmp_path, "../shared/v1-v2-a.patch\n")
    shared = tmp_path / "patches" / "shared" / "v1-v2-a.patch"
    shared.parent.mkdir()
    shared.write_text("")
    assert headers.read_series(directory) == (shared,)


@pytest.mark.parametrize(
    "line",
    [
        "/etc/a.patch",
        "../a.patch",
        "../v8.8/a.patch",
        "../shared/../../a.patch",
        "../shared/sub/a.patch",
        "shared/a.patch",
        "../shared/.a.patch",
        "a.diff",
        "a.patch b.patch",
    ],
)
def test_a_series_lists_nothing_from_elsewhere(tmp_path: Path, line: str) -> None:
    with pytest.raises(HeaderPatchError, match=r"expected NAME\.patch or \.\./shared"):
        headers.read_series(write_series(tmp_path, line + "\n"))


def test_a_link_out_of_the_patches_is_refused(tmp_path: Path) -> None:
    directory = write_series(tmp_path, "a.patch\n")
    (tmp_path / "outside").write_text("")
    (directory / "a.patch").symlink_to(tmp_path / "outside")
    with pytest.raises(HeaderPatchError, match="leads out of"):
        headers.read_series(directory)


def test_a_header_of_tsl_is_patched_where_older_wheels_have_it() -> None:
    assert headers.wheel_paths("third_party/xla/third_party/tsl/tsl/framework/allocator.h") == (
        "tsl/framework/allocator.h",
        "tensorflow/tsl/framework/allocator.h",
    )


def test_headers_that_the_series_adds_are_left_to_the_builder(include: Path) -> None:
    added = "diff --git a/tf_allocator/pool/a.h b/tf_allocator/pool/a.h\n"
    added += (
        "new file mode 100644\n--- /dev/null\n+++ b/tf_allocator/pool/a.h\n@@ -0,0 +1 @@\n+int a;\n"
    )
    assert headers.patch_headers(include, [write_patch(include, added)]) == ()
    assert not (include / "tf_allocator").exists()
