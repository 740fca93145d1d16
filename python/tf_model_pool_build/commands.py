# SPDX-License-Identifier: Apache-2.0
"""The command line of the tooling: `./build.sh COMMAND`.

A command is a module with `add_arguments(parser)` and `run(args) -> int`, the exit status. Only
the chosen command's module is imported: `serving`, `source` and `has-pools` need the standard
library alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from tf_model_pool import cli

COMMANDS: cli.Commands = {
    "build": (
        "tf_model_pool_build.wheel.command",
        "make a TensorFlow wheel with model pools from a released wheel",
    ),
    "serving": (
        "tf_model_pool_build.checkouts.serving_command",
        "make a TensorFlow Serving checkout build with model pools",
    ),
    "source": (
        "tf_model_pool_build.checkouts.source_command",
        "build a TensorFlow wheel with model pools from sources, with Bazel",
    ),
    "has-pools": (
        "tf_model_pool_build.checkouts.has_pools",
        "say whether a binary has the model pools in it",
    ),
    "patches": (
        "tf_model_pool_build.series.command",
        "move, check and try the patch series for a TensorFlow of one's own",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; an expected error is one line on stderr."""
    return cli.run_command(
        COMMANDS,
        arguments,
        program="./build.sh",
        description="Makes TensorFlow with model pools.",
    )
