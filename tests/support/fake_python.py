# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the Pythons of build.sh and ci/release.sh: it makes and installs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

#: What both scripts ask; an environment's interpreter is the same stand-in.
_ANSWERS: Mapping[str, str] = {
    '"-VV"': 'cat "{state}/version"',
    '"-m venv "*': 'mkdir -p "$3/bin"; ln -s "{state}/python" "$3/bin/python"',
    '"-m tf_model_pool_build build "*': 'cat "{state}/wheel"',
}


class FakePython:
    """The program, what it answers, and what it was asked.

    Attributes:
        program: its path.
    """

    def __init__(self, state: Path, answers: Mapping[str, str] | None = None) -> None:
        state.mkdir()
        self._state = state
        self._answers = {**(answers or {}), **_ANSWERS}
        self.program = state / "python"
        self._write()
        self.set("version", "Python 3.11.2")

    def answer(self, pattern: str, command: str) -> None:
        """What a shell's `case` does for arguments that match; goes before those of the start."""
        self._answers.pop(pattern, None)
        self._answers = {pattern: command, **self._answers}
        self._write()

    def _write(self) -> None:
        cases = "".join(
            f"  {pattern}) {command} ;;\n".replace("{state}", str(self._state))
            for pattern, command in self._answers.items()
        )
        self.program.write_text(
            "#!/bin/sh\n"
            f"case \"$1 $2\" in '-m '*) echo \"$0 $*\" >>'{self._state}/log' ;; esac\n"
            f'case "$*" in\n{cases}esac\n'
        )
        self.program.chmod(0o755)

    def set(self, name: str, text: str) -> None:
        """What it answers: `version`, or the path of the `wheel` that it makes."""
        (self._state / name).write_text(f"{text}\n")

    def asked(self) -> list[str]:
        """Each `python -m ...` since the last call, as `PROGRAM -m ...`."""
        log = self._state / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines
