# SPDX-License-Identifier: Apache-2.0
"""WORKSPACE declares the release that it says, with exactly the patches of its series."""

from __future__ import annotations

from pathlib import Path

import pytest

from tf_model_pool_build.checkouts import starlark
from tf_model_pool_build.errors import WorkspaceError
from tf_model_pool_build.releases import releases

ROOT = Path(__file__).resolve().parents[2]


def wrong(contents: bytes) -> list[str]:
    """What does not agree with the series and with the table of releases."""
    arguments = starlark.find_rule(contents, "org_tensorflow", "WORKSPACE").arguments
    version = str(arguments["strip_prefix"]).removeprefix("tensorflow-")
    release = releases.tensorflow_source(version)
    expected = {
        "sha256": release.sha256,
        "urls": [release.url],
        "patch_args": ["-p1"],
        "patches": ["//build/patches:tensorflow.patch"],
    }
    found = [
        f"{name} is {arguments.get(name)}, expected {value}"
        for name, value in expected.items()
        if arguments.get(name) != value
    ]
    command = (
        f"./build.sh patches write --release {releases.minor_of(version)} --output build/patches"
    )
    if f"#     {command}\n" not in contents.decode():
        found.append(f"comment lacks {command}")
    return found


def test_workspace_patches_the_release_that_it_pins_with_its_series() -> None:
    assert wrong((ROOT / "WORKSPACE").read_bytes()) == []


def test_the_check_sees_another_series_and_another_archive() -> None:
    contents = (ROOT / "WORKSPACE").read_text()
    for old, new, name in (
        ("--release 2.21", "--release 2.20", "comment"),
        ("//build/patches:", "//patches:", "patches"),
        ('sha256 = "ef', 'sha256 = "00', "sha256"),
    ):
        assert old in contents
        found = wrong(contents.replace(old, new).encode())
        assert [line.split()[0] for line in found] == [name]


def test_workspace_calls_what_it_loads() -> None:
    contents = (ROOT / "WORKSPACE").read_text()
    for line in contents.splitlines():
        if line.startswith("load("):
            function = line.split('"')[3]
            assert f"\n{function}(" in contents, f"{function} is loaded and not called"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "0 times"),
        ('a(name = "r")\nb(name = "r")\n', "2 times"),
        ('a(name = "r"\n', "not readable as Starlark"),
        ('a(name = "r")\0', "not readable as Starlark"),
    ],
)
def test_a_file_without_exactly_one_such_repository_is_refused(text: str, says: str) -> None:
    with pytest.raises(WorkspaceError, match=says):
        starlark.find_rule(text.encode(), "r", "W")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('# Ü\na(name = "r", b = "ü", p = "x")#', '# Ü\na(name = "r", b = "ü", p = "y")#'),
        ('# Ü\na(name = "r", b = "ü")', '# Ü\na(name = "r", b = "ü",\n    p = "y")'),
        ('a(\r\n  name = "r",\r\n  b = "",\r\n  p = "x",\r\n)', None),
    ],
)
def test_setting_an_argument_leaves_every_other_byte(before: str, after: str | None) -> None:
    contents = before.encode()
    rule = starlark.find_rule(contents, "r", "W")
    changed = starlark.with_argument(contents, rule, "p", "y", after="b")
    assert changed == (after or before.replace('"x"', '"y"')).encode()
