# SPDX-License-Identifier: Apache-2.0
"""The command line: `python -m tf_model_pool COMMAND`, in a wheel also `tf-model-pool COMMAND`.

A command is a module with `add_arguments(parser)` and `run(args) -> int`, the exit status. Only
the chosen command's module is imported: the builder must run where TensorFlow is not
installed, and `doctor` where the builder's requirements are not.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tf_model_pool._version import __version__
from tf_model_pool.errors import BuildInterruptedError, ModelPoolError

COMMANDS: Mapping[str, tuple[str, str]] = {
    "build": (
        "tf_model_pool.wheel.command",
        "make a TensorFlow wheel with model pools from a released wheel",
    ),
    "run": ("tf_model_pool.run", "start a program on an untouched TensorFlow, with model pools"),
    "doctor": (
        "tf_model_pool.doctor",
        "say whether pools are active here, why not, and what else matters",
    ),
    "stats": ("tf_model_pool.stats", "show the pools of a process, as text or JSON"),
    "bench": ("tf_model_pool.bench.command", "measure requests while a model is updated"),
    "serving": (
        "tf_model_pool.own_build.serving_command",
        "make a TensorFlow Serving checkout build with model pools",
    ),
    "source": (
        "tf_model_pool.own_build.source_command",
        "build a TensorFlow wheel with model pools from sources, with Bazel",
    ),
    "patches": (
        "tf_model_pool.patches.command",
        "move, check and try the patch series for a TensorFlow of one's own",
    ),
    "demo": ("tf_model_pool.demo", "load two versions of a model and show where their memory lies"),
}

EXIT_ERROR = 1
EXIT_INTERRUPTED = 128 + signal.SIGINT

#: The console command of the wheel (wheel/metadata.py).
CONSOLE_COMMAND = "tf-model-pool"


def _command_in(arguments: Sequence[str]) -> str | None:
    return next((argument for argument in arguments if not argument.startswith("-")), None)


def _program() -> str:
    called = Path(sys.argv[0]).name if sys.argv else ""
    return called if called == CONSOLE_COMMAND else "python -m tf_model_pool"


def make_parser(command: str | None) -> argparse.ArgumentParser:
    """The parser, with the arguments of `command` alone filled in."""
    parser = argparse.ArgumentParser(
        prog=_program(),
        description="Memory pools per model version for TensorFlow on CPU.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, purpose) in COMMANDS.items():
        sub = commands.add_parser(name, help=purpose, description=purpose[0].upper() + purpose[1:])
        if name == command:
            importlib.import_module(module).add_arguments(sub)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; an expected error is one line on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = _command_in(given)
    try:
        args = make_parser(command).parse_args(given)
        return int(importlib.import_module(COMMANDS[args.command][0]).run(args))
    except BuildInterruptedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 128 + error.signal_number
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except ModelPoolError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR
