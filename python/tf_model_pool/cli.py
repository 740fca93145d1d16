# SPDX-License-Identifier: Apache-2.0
"""The command line: `python -m tf_model_pool COMMAND`, or `tf-model-pool COMMAND`.

A command is a module with `add_arguments(parser)` and `run(args) -> int`, the exit status. Only
the chosen command's module is imported: `bench` must run where TensorFlow is not installed, and
`doctor` where the benchmark's requirements are not.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tf_model_pool._version import __version__
from tf_model_pool.errors import ModelPoolError

#: Name -> module and purpose.
Commands = Mapping[str, tuple[str, str]]

COMMANDS: Commands = {
    "run": ("tf_model_pool.run", "start a program on an untouched TensorFlow, with model pools"),
    "doctor": (
        "tf_model_pool.doctor",
        "say whether pools are active here, why not, and what else matters",
    ),
    "stats": ("tf_model_pool.stats", "show the pools of a process, as text or JSON"),
    "bench": ("tf_model_pool.bench.command", "measure requests while a model is updated"),
    "demo": ("tf_model_pool.demo", "load two versions of a model and show where their memory lies"),
}

EXIT_INTERRUPTED = 128 + signal.SIGINT

#: The console command of the wheel.
CONSOLE_COMMAND = "tf-model-pool"


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """SIGTERM, which ends what runs unattended, does as Ctrl-C does: nothing is left behind."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _command_in(arguments: Sequence[str]) -> str | None:
    return next((argument for argument in arguments if not argument.startswith("-")), None)


def _program() -> str:
    called = Path(sys.argv[0]).name if sys.argv else ""
    return called if called == CONSOLE_COMMAND else "python -m tf_model_pool"


def make_parser(
    commands: Commands, command: str | None, *, program: str, description: str
) -> argparse.ArgumentParser:
    """The parser, with the arguments of `command` alone filled in."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, purpose) in commands.items():
        sub = subparsers.add_parser(
            name, help=purpose, description=purpose[0].upper() + purpose[1:]
        )
        if name == command:
            importlib.import_module(module).add_arguments(sub)
    return parser


def run_command(
    commands: Commands, arguments: Sequence[str] | None, *, program: str, description: str
) -> int:
    """Runs one of `commands` and returns its exit status; an expected error is a line on stderr."""

    def run() -> int:
        given = list(sys.argv[1:] if arguments is None else arguments)
        parser = make_parser(commands, _command_in(given), program=program, description=description)
        args = parser.parse_args(given)
        return int(importlib.import_module(commands[args.command][0]).run(args))

    return exit_status_of(run)


def exit_status_of(run: Callable[[], int]) -> int:
    """What `run` returns, or the status of the expected error that it raises, a line on stderr."""
    try:
        return run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except ModelPoolError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line of the shipped package."""
    return run_command(
        COMMANDS,
        arguments,
        program=_program(),
        description="Memory pools per model version for TensorFlow on CPU.",
    )
