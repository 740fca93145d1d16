# SPDX-License-Identifier: Apache-2.0
"""`./build.sh build`: prints the path of the wheel on standard output."""

from __future__ import annotations

import argparse
from pathlib import Path

from tf_model_pool_build import project as own
from tf_model_pool_build.architecture import ARCHITECTURES
from tf_model_pool_build.releases.releases import DEFAULT, PACKAGES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--wheel", type=Path, metavar="FILE", help="a released wheel")
    which.add_argument(
        "--tensorflow-version",
        default=DEFAULT.version,
        metavar="V",
        help="download the wheel of this version (default: %(default)s)",
    )
    parser.add_argument(
        "--package",
        choices=list(PACKAGES),
        help="distribution to download (default: the first that there is of "
        f"{', '.join(PACKAGES)})",
    )
    parser.add_argument(
        "--arch",
        choices=sorted(ARCHITECTURES),
        help="architecture of the wheel to download (default: this machine's)",
    )
    parser.add_argument(
        "--python-tag", metavar="TAG", help="e.g. cp312 (default: that of the running Python)"
    )
    headers = parser.add_mutually_exclusive_group()
    headers.add_argument(
        "--python",
        metavar="PROGRAM",
        help="interpreter of the wheel's Python, whose headers the native module is compiled "
        "against (default: this one, else python3.x on PATH)",
    )
    headers.add_argument(
        "--python-include", type=Path, metavar="DIR", help="the same without it: where Python.h is"
    )
    headers.add_argument(
        "--no-native",
        action="store_true",
        help="no native module: the package then asks over the library's C interface",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("dist"),
        metavar="DIR",
        help="where the wheel goes (default: %(default)s)",
    )
    parser.add_argument(
        "--reuse", action="store_true", help="do nothing if the wheel of the same inputs is there"
    )
    parser.add_argument(
        "--allow-unknown-wheel",
        action="store_true",
        help="with --wheel: accept a file whose sha256 is not a known release",
    )
    parser.add_argument(
        "--library-only",
        action="store_true",
        help="also make the distribution tf-model-pool, which holds the library for an untouched "
        "TensorFlow (`run`), and print its path instead",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")


def run(args: argparse.Namespace) -> int:
    """Builds, and returns 0. Raises `BuildError`."""
    project = own.project_root()
    output = own.need_directory(args.output)
    # Here, so that `build --help` works without the build requirements.
    try:
        from tf_model_pool_build.progress import Progress
        from tf_model_pool_build.wheel import builder, library_only, source, toolchain
    except ModuleNotFoundError as error:
        raise own.missing_requirement(error) from error
    if args.wheel is not None:
        wheel = source.by_path(args.wheel, allow_unknown=args.allow_unknown_wheel)
    else:
        tag = args.python_tag or toolchain.running_python_tag()
        wheel = source.by_version(args.tensorflow_version, args.package, tag, machine=args.arch)
    python = toolchain.python_for(
        wheel.python_tag,
        wheel.architecture,
        interpreter=args.python,
        include=args.python_include,
        native=not args.no_native,
    )
    request = builder.Request(wheel, project, output, reuse=args.reuse, python=python)
    make = library_only.build if args.library_only else builder.build
    print(make(request, Progress(quiet=args.quiet)))
    return 0
