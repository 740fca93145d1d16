# SPDX-License-Identifier: Apache-2.0
"""The table of releases: complete, consistent, and with a patch series for each."""

from __future__ import annotations

import json
import re
from itertools import chain
from pathlib import Path

import pytest
from packaging.utils import parse_wheel_filename

from tf_model_pool import api
from tf_model_pool_build import architecture
from tf_model_pool_build.architecture import Binding
from tf_model_pool_build.errors import CheckoutError
from tf_model_pool_build.releases import releases
from tf_model_pool_build.series import listing
from tf_model_pool_build.wheel import headers

ROOT = Path(__file__).resolve().parents[2]
RELEASES = [pytest.param(release, id=release.version) for release in releases.RELEASES]


def test_versions_are_known_once_and_the_newest_final_one_is_the_default() -> None:
    versions = [r.version for r in releases.RELEASES]
    assert versions == sorted(set(versions), key=releases.version_key, reverse=True)
    finals = [r for r in releases.RELEASES if r.is_final]
    assert finals[0] == releases.DEFAULT


def test_a_candidate_is_older_than_its_release_and_newer_than_the_one_before() -> None:
    ordered = ["2.9.1", "2.22.0rc0", "2.22.0rc1", "2.22.0rc10", "2.22.0", "2.22.1"]
    newest_first = ordered[::-1]
    assert sorted(newest_first, key=releases.version_key) == ordered


def test_a_candidate_is_named_as_tensorflow_and_as_the_index_write_it() -> None:
    said = {r.version: (r.own_version, r.is_final) for r in releases.RELEASES}
    assert said["2.22.0rc0"] == ("2.22.0-rc0", False)
    assert said["2.21.0"] == ("2.21.0", True)


@pytest.mark.parametrize("release", RELEASES)
def test_the_library_of_a_release_is_refused_in_every_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, release: releases.Release
) -> None:
    (tmp_path / "build_info.json").write_text(json.dumps({"tensorflow_version": release.version}))
    monkeypatch.setattr(api, "_PACKAGE_DIR", tmp_path)
    accepted = [
        there.version
        for there in releases.RELEASES
        if api.refusal(api.TensorFlowLocation(tmp_path, "tensorflow-cpu", there.version)) is None
    ]
    assert accepted == [release.version]


@pytest.mark.parametrize("release", RELEASES)
def test_all_packages_have_the_same_pythons_and_every_file_a_sum(
    release: releases.Release,
) -> None:
    tags: dict[tuple[str, str], list[str]] = {}
    for wheel in release.wheels:
        key = (wheel.package, architecture.of_platform(wheel.platform).name)
        tags.setdefault(key, []).append(wheel.python_tag)
    assert {name for _, name in tags} == set(architecture.ARCHITECTURES)
    assert len(set(map(tuple, tags.values()))) == 1
    assert "cp311" in tags["tensorflow", "x86_64"]
    assert all(re.fullmatch("[0-9a-f]{64}", wheel.sha256) for wheel in release.wheels)


def test_no_two_files_have_one_sum() -> None:
    sums = [wheel.sha256 for release in releases.RELEASES for wheel in release.wheels]
    assert len(sums) == len(set(sums))


@pytest.mark.parametrize("release", RELEASES)
def test_file_names_are_names_of_wheels_for_their_machine(release: releases.Release) -> None:
    for wheel in release.wheels:
        name, version, _, tags = parse_wheel_filename(wheel.filename)
        assert (name, str(version)) == (wheel.package, release.version)
        assert {tag.interpreter for tag in tags} == {wheel.python_tag}
        assert {tag.platform for tag in tags} == set(wheel.platform.split("."))
        machine = architecture.of_platform(wheel.platform).name
        found = releases.find_wheel(release, wheel.package, wheel.python_tag, machine)
        assert found == wheel


@pytest.mark.parametrize(
    ("version", "machine", "package"),
    [
        ("2.21.0", "x86_64", "tensorflow-cpu"),
        ("2.21.0", "aarch64", "tensorflow"),
        ("2.15.1", "aarch64", "tensorflow-cpu-aws"),
    ],
)
def test_the_package_without_gpu_support_is_the_default(
    version: str, machine: str, package: str
) -> None:
    release = releases.find_release(version)
    assert releases.find_wheel(release, None, "cp311", machine).package == package


@pytest.mark.parametrize("release", RELEASES)
def test_a_release_has_a_series_that_changes_the_two_headers(release: releases.Release) -> None:
    changes = listing.read(ROOT / "patches", release.patches).changes
    changed = [header.change.path for header in headers.header_changes(changes)]
    assert [Path(path).name for path in changed] == ["allocator.h", "process_state.h"]


@pytest.mark.parametrize("release", RELEASES)
def test_symbols_tell_which_library_has_them(release: releases.Release) -> None:
    for function in {*release.functions, *chain(*release.functions_on.values())}:
        assert function.library.startswith("tensorflow/")
        assert function.prefix.startswith("_ZN10tensorflow")


def test_every_known_serving_tag_and_release_has_a_series(repository: Path) -> None:
    wanted = {releases.minor_of(pin.tensorflow) for pin in releases.SERVING_PINS}
    wanted |= {releases.minor_of(release.version) for release in releases.RELEASES}
    assert {f"v{minor}" for minor in wanted} == {
        path.parent.name for path in repository.glob("patches/*/series")
    }


@pytest.mark.parametrize("version", ["2.20.0", "v2.20.0", "2.20", "v2.20", "2.20.0rc1"])
def test_versions_are_read_as_people_write_them(version: str) -> None:
    assert releases.minor_of(version) == "2.20"


@pytest.mark.parametrize("version", ["", "2", "master", "2.20.0-rc1", "2.20rc1", "../v2.20"])
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(CheckoutError, match="is not a version of TensorFlow"):
        releases.minor_of(version)


def test_the_rows_of_hooks_def_are_functions_of_the_releases() -> None:
    used = {function for release in releases.RELEASES for function in release.functions}
    assert used == set(releases.HOOKS.values())


@pytest.mark.parametrize(
    ("row", "function"),
    [
        (
            'MEMBER_HOOK(GET, Device::Get,\n            "_ZN6Device3GetE")\n',
            releases.ReplacedFunction(
                "GET",
                "tensorflow::Device::Get",
                releases.FRAMEWORK,
                "_ZN6Device3GetE",
                Binding.VTABLE,
            ),
        ),
        (
            'FUNCTION_HOOK(LOAD, CC, "Load (Lite)",\n              "_ZN4Load"\n  "E")\n',
            releases.ReplacedFunction(
                "LOAD",
                "tensorflow::Load (Lite)",
                releases.CC,
                "_ZN4LoadE",
                Binding.CALL,
            ),
        ),
    ],
    ids=["member", "function"],
)
def test_a_row_of_hooks_def_is_read(row: str, function: releases.ReplacedFunction) -> None:
    assert releases.read_hooks(f"// a comment\n\n{row}") == {function.hook: function}


@pytest.mark.parametrize(
    "rows",
    [
        'FUNCTION_HOOK(LOAD, "Load", "_ZN4LoadE")\n',
        'FUNCTION_HOOK(LOAD, CC, "Load", _ZN4LoadE)\n',
        'MEMBER_HOOK(GET, Device::Get, "_Z1E")\nMEMBER_HOOK(GET, Device::Get, "_Z2E")\n',
    ],
    ids=["no library", "no quotes", "twice"],
)
def test_a_row_that_cannot_be_read_is_an_error(rows: str) -> None:
    with pytest.raises(ValueError, match=r"hooks\.def: the rows .* were read as"):
        releases.read_hooks(rows)
