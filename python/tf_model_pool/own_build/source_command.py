# SPDX-License-Identifier: Apache-2.0
"""`python -m tf_model_pool source`: prints the path of the wheel on standard output."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tf_model_pool.own_build import fetching, files, patching, pins, series, source
from tf_model_pool.own_build.errors import CheckoutError
from tf_model_pool.wheel.progress import Progress
from tf_model_pool.wheel.workspace import signals_as_errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "--tensorflow",
        required=True,
        metavar="DIR|TAG",
        help="TensorFlow's sources, or a release to download: "
        + ", ".join(f"v{known.version}" for known in pins.TENSORFLOW_SOURCES),
    )
    parser.add_argument(
        "--python-version",
        default=f"{sys.version_info.major}.{sys.version_info.minor}",
        metavar="V",
        help="Python that the wheel is for (default: the running one, %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("dist"),
        metavar="DIR",
        help="where the wheel goes (default: %(default)s)",
    )
    parser.add_argument(
        "--sources",
        type=Path,
        default=Path(".build/tensorflow"),
        metavar="DIR",
        help="where downloaded sources are kept (default: %(default)s)",
    )
    parser.add_argument(
        "--bazel-argument",
        action="append",
        default=[],
        metavar="ARG",
        help="a further argument of bazelisk build, e.g. --bazel-argument=--jobs=8",
    )
    parser.add_argument(
        "--patch-only", action="store_true", help="apply the series and stop; needs no bazelisk"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say whether the series fits and what would run; change, download and run nothing",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")


def _tree(args: argparse.Namespace, progress: Progress) -> tuple[Path | None, str]:
    """The sources (None: not there, and this is a dry run) and their version."""
    given = Path(args.tensorflow)
    if given.is_dir():
        return given.resolve(), source.version_of(given)
    if given.exists() or "/" in args.tensorflow:
        raise CheckoutError(f"{given} is not a directory; expected TensorFlow's sources or a tag")
    release = pins.tensorflow_source(args.tensorflow)
    if args.dry_run and not (args.sources / release.directory).is_dir():
        return None, release.version
    return fetching.fetch(release, args.sources.resolve(), progress), release.version


def run(args: argparse.Namespace) -> int:
    """Builds, and returns 0. Raises `OwnBuildError`."""
    progress = Progress(quiet=args.quiet)
    with signals_as_errors():
        if not args.patch_only:
            source.check_python(
                pins.source_like(_version_wanted(args)), args.python_version
            )
        bazelisk = "bazelisk" if args.dry_run or args.patch_only else source.find_bazelisk()
        tree, version = _tree(args, progress)
        release = pins.source_like(version)
        name = f"v{pins.minor_of(version)}"
        patches = series.read_series(files.project_root() / "patches" / name)
        output: Path = args.output.resolve()
        if args.dry_run:
            _say_what_would_run(args, tree, patches, release, output)
            return 0
        assert tree is not None
        changed = patching.apply(tree, patches, name)
        progress.note(
            f"applied patches/{name} to {tree}: {len(changed)} files"
            if changed
            else f"{tree} carries patches/{name} already"
        )
        if args.patch_only:
            print(tree)
            return 0
        before = frozenset(path.name for path in output.glob("*.whl"))
        for step in source.plan(
            release,
            args.python_version,
            output,
            bazelisk=bazelisk,
            bazel_arguments=args.bazel_argument,
        ):
            progress.note(step.shown())
            source.run_step(step, tree)
        for wheel in source.collect(tree, output, before):
            print(wheel)
    return 0


def _version_wanted(args: argparse.Namespace) -> str:
    given = Path(args.tensorflow)
    if given.is_dir():
        return source.version_of(given)
    return str(args.tensorflow) if "/" not in args.tensorflow else pins.TENSORFLOW_SOURCES[0].version


def _say_what_would_run(
    args: argparse.Namespace,
    tree: Path | None,
    patches: tuple[Path, ...],
    release: pins.TensorFlowSource,
    output: Path,
) -> None:
    if tree is None:
        known = pins.tensorflow_source(args.tensorflow)
        print(f"# download {known.url}")
        print(f"# sha256 {known.sha256}, unpacked in {args.sources / known.directory}")
    else:
        state = patching.examine(tree, patches)
        if state.problem:
            raise CheckoutError(f"the series does not fit {tree}: {state.problem}")
        said = "is applied already" if state.applied else "fits, and would be applied"
        print(f"# {patches[0].parent.name if len(patches) == 1 else 'the series'} {said}")
        print(f"cd {tree}")
    for step in source.plan(
        release,
        args.python_version,
        output,
        bazelisk="bazelisk",
        bazel_arguments=args.bazel_argument,
    ):
        print(step.shown())
