# SPDX-License-Identifier: Apache-2.0
"""`./build.sh source`: prints the path of the wheel on standard output."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tf_model_pool_build import project as own
from tf_model_pool_build.checkouts import fetching, patching, source
from tf_model_pool_build.errors import CheckoutError
from tf_model_pool_build.progress import Progress
from tf_model_pool_build.releases import releases
from tf_model_pool_build.series import listing
from tf_model_pool_build.workspace import signals_as_errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument(
        "--tensorflow",
        required=True,
        metavar="DIR|TAG",
        help="TensorFlow's sources, or a release to download: "
        + ", ".join(f"v{known.version}" for known in releases.TENSORFLOW_SOURCES),
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
        metavar="DIR",
        help="where the wheel goes (default: dist/ of the project)",
    )
    parser.add_argument(
        "--sources",
        type=Path,
        metavar="DIR",
        help="where downloaded sources are kept (default: .build/tensorflow/ of the project)",
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


def _given(argument: str) -> tuple[Path | None, releases.TensorFlowSource | None, str]:
    """The directory or else the release that `--tensorflow` names, and its version."""
    path = Path(argument)
    if path.is_dir():
        return path.resolve(), None, source.version_of(path)
    if path.exists() or "/" in argument:
        raise CheckoutError(f"{path} is not a directory; expected TensorFlow's sources or a tag")
    release = releases.tensorflow_source(argument)
    return None, release, release.version


def run(args: argparse.Namespace) -> int:
    """Builds, and returns 0. Raises `BuildError`."""
    progress = Progress(quiet=args.quiet)
    project = own.project_root()
    args.sources = (args.sources or project / ".build" / "tensorflow").resolve()
    output = own.need_directory(args.output or project / "dist")
    with signals_as_errors():
        tree, archive, version = _given(args.tensorflow)
        release = releases.source_like(version)
        name = f"v{releases.minor_of(version)}"
        series = listing.read(project / "patches", name).with_sources()
        source.check_python(release, args.python_version)
        if archive is not None and (args.sources / archive.directory).is_dir():
            tree = args.sources / archive.directory
        if args.dry_run:
            _say_what_would_run(args, tree, series, release, output)
            return 0
        # Before the download, which takes long.
        bazelisk = "" if args.patch_only else source.find_bazelisk()
        if tree is None:
            assert archive is not None
            tree = fetching.fetch(archive, args.sources, progress)
        changed = patching.apply(tree, series, own=archive is not None)
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


def _say_what_would_run(
    args: argparse.Namespace,
    tree: Path | None,
    series: listing.Series,
    release: releases.TensorFlowSource,
    output: Path,
) -> None:
    if tree is None:
        known = releases.tensorflow_source(args.tensorflow)
        print(f"# download {known.url}")
        print(f"# sha256 {known.sha256}, unpacked in {args.sources / known.directory}")
    else:
        state = patching.examine(tree, series)
        if state.problem:
            raise CheckoutError(f"the series does not fit {tree}: {state.problem}")
        said = "is applied already" if state.applied else "fits, and would be applied"
        print(f"# patches/v{releases.minor_of(release.version)} {said}")
        print(f"cd {tree}")
    for step in source.plan(
        release,
        args.python_version,
        output,
        bazelisk="bazelisk",
        bazel_arguments=args.bazel_argument,
    ):
        print(step.shown())
