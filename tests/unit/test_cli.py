# SPDX-License-Identifier: Apache-2.0
"""What all commands have in common: errors as one line, exit status, the name of the program."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

import tf_model_pool
from tf_model_pool import cli
from tf_model_pool.errors import ModelPoolError


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """The one command `it`; its `raises` is what it does."""
    module: Any = types.SimpleNamespace(raises=None)

    def run(args: object) -> int:
        if module.raises is not None:
            raise module.raises
        return 7

    module.add_arguments = lambda parser: None
    module.run = run
    monkeypatch.setitem(sys.modules, "the_command", module)
    monkeypatch.setattr(cli, "COMMANDS", {"it": ("the_command", "does it")})
    return module  # type: ignore[no-any-return]


def test_the_status_of_a_command_is_the_programs(command: types.SimpleNamespace) -> None:
    assert cli.main(["it"]) == 7


def test_an_expected_error_is_one_line(
    command: types.SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    command.raises = ModelPoolError("no such thing")
    assert cli.main(["it"]) == 1
    assert capsys.readouterr().err == "error: no such thing\n"


def test_ctrl_c_is_one_line_and_the_status_that_shells_expect(
    command: types.SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    command.raises = KeyboardInterrupt()
    assert cli.main(["it"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    ("program", "shown"),
    [
        ("/venv/bin/tf-model-pool", "tf-model-pool"),
        ("/venv/lib/tf_model_pool/__main__.py", "python -m tf_model_pool"),
    ],
)
def test_help_names_the_program_as_it_was_called(
    command: types.SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    program: str,
    shown: str,
) -> None:
    monkeypatch.setattr(sys, "argv", [program])
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    assert capsys.readouterr().out.startswith(f"usage: {shown} ")


def test_the_console_command_does_not_warn_about_missing_parts(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(tf_model_pool, "missing_parts", lambda: "all of it")
    monkeypatch.setattr(sys, "argv", ["/venv/bin/tf-model-pool", "doctor"])
    tf_model_pool._warn_if_parts_are_missing()
    assert not recwarn.list
