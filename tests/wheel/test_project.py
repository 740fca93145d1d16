# SPDX-License-Identifier: Apache-2.0
"""The tooling works in a checkout, says what it needs, and is not a part of what ships."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tf_model_pool import cli
from tf_model_pool_build import commands


def test_a_checkout_without_the_build_requirements_gets_the_command_that_installs_them(
    repository: Path,
) -> None:
    code = (
        f"import sys; sys.path[:0] = [{str(repository / 'python')!r}]\n"
        "sys.modules['elftools'] = None\n"
        "from tf_model_pool_build.commands import main; sys.exit(main(['build']))\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert child.returncode == 1
    assert "the package elftools is missing" in child.stderr
    assert "pip install '.[build]'" in child.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["build"],
        ["source", "--tensorflow", "v2.20.0", "--dry-run"],
        ["patches", "write", "--release", "2.20"],
    ],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize("below", ["", "/below"])
def test_a_file_in_place_of_the_output_directory_is_an_error_at_once(
    command: list[str], below: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.whl"
    file.write_text("")
    assert commands.main([*command, "--output", f"{file}{below}"]) == 1
    out, err = capsys.readouterr()
    assert err == f"error: --output {file}{below}: {file} is a file; expected a directory\n"
    assert out == ""


@pytest.mark.parametrize("command", list(commands.COMMANDS))
def test_the_shipped_command_line_has_no_command_of_the_tooling(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main([command])
    assert f"invalid choice: '{command}'" in capsys.readouterr().err


def test_the_shipped_package_does_not_import_the_tooling(repository: Path) -> None:
    sources = sorted((repository / "python/tf_model_pool").rglob("*.py"))
    assert sources
    importing = re.compile(r"^\s*(?:from|import) tf_model_pool_build", re.MULTILINE)
    assert [path for path in sources if importing.search(path.read_text())] == []
