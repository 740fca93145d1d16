# SPDX-License-Identifier: Apache-2.0
"""`./build.sh serving`: the series in a TensorFlow Serving checkout."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tf_model_pool_build import project as own
from tf_model_pool_build.checkouts import serving
from tf_model_pool_build.workspace import signals_as_errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "--serving",
        type=Path,
        required=True,
        metavar="DIR",
        help="a checkout of TensorFlow Serving",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--revert", action="store_true", help="take the series away: every byte as it was"
    )
    what.add_argument(
        "--check",
        action="store_true",
        help="change nothing; exit status 1 unless the checkout carries the series",
    )
    parser.add_argument(
        "--tensorflow-version",
        metavar="V",
        help="take the series of this version, e.g. 2.20, whatever commit WORKSPACE pins",
    )


def run(args: argparse.Namespace) -> int:
    """Runs, and returns the exit status. Raises `BuildError`."""
    root: Path = args.serving
    with signals_as_errors():
        if args.revert:
            report = serving.revert(root)
        elif args.check:
            report = serving.check(
                root, own.project_root(), tensorflow_version=args.tensorflow_version
            )
        else:
            report = serving.apply(
                root, own.project_root(), tensorflow_version=args.tensorflow_version
            )
    for line in report.lines:
        print(line, file=sys.stderr)
    for path in report.changed:
        print(path)
    return 1 if args.check and not report.carries else 0
