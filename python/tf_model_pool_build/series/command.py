# SPDX-License-Identifier: Apache-2.0
"""`./build.sh patches`: the series of patches/, on a checkout of the project."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tf_model_pool_build import project as own
from tf_model_pool_build.errors import PatchError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, purpose: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=purpose, description=purpose[0].upper() + purpose[1:])

    for name, purpose in (
        ("import", "apply a series to a git checkout of TensorFlow, as commits"),
        ("export", "write the commits of a checkout as the series of a release"),
    ):
        sub = action(name, purpose)
        sub.add_argument("--checkout", type=Path, required=True, metavar="DIR")
        sub.add_argument("--release", required=True, metavar="vX.Y")
        if name == "export":
            sub.add_argument("--base", metavar="COMMIT", help="default: where import began")
    sub = action("check", "check the rules of patches/README.md")
    sub.add_argument(
        "--release", action="append", metavar="vX.Y", help="default: all; may be repeated"
    )
    sub.add_argument(
        "--source", type=Path, metavar="DIR", help="TensorFlow's sources of the one release"
    )
    sub = action("verify", "run the integration tests on a wheel with the patched sources in it")
    sub.add_argument("--source", type=Path, required=True, metavar="DIR")
    which = sub.add_mutually_exclusive_group(required=True)
    which.add_argument("--wheel", type=Path, metavar="FILE", help="the released wheel")
    which.add_argument("--tensorflow-version", metavar="V", help="download its wheel")
    sub.add_argument(
        "--stock-python",
        type=Path,
        metavar="FILE",
        help="interpreter with the released wheel (default: make one)",
    )
    sub.add_argument("--build-only", action="store_true", help="make the wheel, run nothing")
    sub.add_argument("pytest", nargs="*", metavar="ARGUMENT", help="for pytest, after --")
    action("generate", "write the patch that brings tf_allocator/ into TensorFlow's tree")
    sub = action("sources", "print what each series was made from, as Markdown")
    sub.add_argument("--write", action="store_true", help="put it into docs/patches.md")


def run(args: argparse.Namespace) -> int:
    """Does one action, and returns 0; 1 where a check found something. Raises `PatchError`."""
    project = own.project_root()
    # Here, so that `patches --help` works without the build requirements.
    try:
        from tf_model_pool_build.series import check, checkout, generated, sources
        from tf_model_pool_build.series import release_series as series
    except ModuleNotFoundError as error:
        raise own.missing_requirement(error) from error
    root = project / "patches"
    if args.action == "import":
        one = series.read(root, args.release)
        for path in checkout.import_series(args.checkout, one):
            print(
                f"note: {path} is another version than the series was made from; it fits",
                file=sys.stderr,
            )
        print(f"{len(one.patches)} commits on {args.checkout}")
    elif args.action == "export":
        for name in checkout.export_series(args.checkout, project, args.release, args.base):
            print(f"patches/{name}")
    elif args.action == "check":
        releases = tuple(args.release or series.releases(root))
        if args.source is not None and len(releases) != 1:
            raise PatchError("--source belongs to one release: name it with --release")
        found = check.check(project, releases, args.source)
        for note in found.notes:
            print(f"note: {note}", file=sys.stderr)
        print("\n".join(found.problems) or f"checked {', '.join(releases)}: no problems")
        return 1 if found.problems else 0
    elif args.action == "generate":
        target = root / series.SHARED / generated.NAME
        series.replace_file(target, generated.generate(project))
        print(target.relative_to(project))
    elif args.action == "sources" and args.write:
        series.replace_file(project / sources.DOCUMENT, sources.document_with_table(project))
    elif args.action == "sources":
        print(sources.table(root), end="")
    else:
        _verify(args, project)
    return 0


def _verify(args: argparse.Namespace, project: Path) -> None:
    from tf_model_pool_build.progress import Progress
    from tf_model_pool_build.series import verify
    from tf_model_pool_build.wheel import source, toolchain

    if args.wheel is not None:
        wheel = source.by_path(args.wheel)
    else:
        wheel = source.by_version(
            args.tensorflow_version, "tensorflow-cpu", toolchain.running_python_tag()
        )
    request = verify.Request(
        project=project,
        source=args.source,
        wheel=wheel,
        stock_python=args.stock_python,
        arguments=tuple(args.pytest),
    )
    if args.build_only:
        place = project / ".build" / "verify" / wheel.release.patches
        print(verify.build_wheel(request, place, Progress()))
    else:
        print(verify.verify(request, Progress()))
