# SPDX-License-Identifier: Apache-2.0
"""`./build.sh patches`: the series of patches/, on a checkout of the project."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tf_model_pool.files import write_text
from tf_model_pool_build import project as own
from tf_model_pool_build.errors import PatchError
from tf_model_pool_build.releases import releases

WRITTEN = "tensorflow.patch"
_PACKAGE = "# Makes the directory a package, so that a WORKSPACE can name the patch in it.\n"


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
        sub.add_argument("--release", required=True, metavar="X.Y")
        if name == "export":
            sub.add_argument("--base", metavar="COMMIT", help="default: where import began")
    sub = action("check", "check the rules of patches/README.md")
    sub.add_argument(
        "--release", action="append", metavar="X.Y", help="default: all; may be repeated"
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
    sub = action("write", "write a series as one patch, for Bazel or patch(1)")
    sub.add_argument("--release", required=True, metavar="X.Y")
    sub.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help=f"gets {WRITTEN} and BUILD"
    )
    sub = action("sources", "print what each series was made from, as Markdown")
    sub.add_argument("--write", action="store_true", help="put it into docs/patches.md")


def run(args: argparse.Namespace) -> int:
    """Does one action, and returns 0; 1 if a check found something. Raises `PatchError`."""
    project = own.project_root()
    # Here, so that `patches --help` works without the build requirements.
    try:
        from tf_model_pool_build.series import check, checkout, listing, sources
    except ModuleNotFoundError as error:
        raise own.missing_requirement(error) from error
    root = project / "patches"
    if args.action == "import":
        one = listing.read(root, _named(args.release)).with_sources()
        for path in checkout.import_series(args.checkout, one):
            print(
                f"note: {path} is another version than the series was made from; it fits",
                file=sys.stderr,
            )
        print(f"{len(one.patches)} commits on {args.checkout}")
        print(
            "next: build it, or change the commits and run ./build.sh patches export "
            f"--checkout {args.checkout} --release {args.release}"
        )
    elif args.action == "export":
        release = _named(args.release)
        for name in checkout.export_series(args.checkout, project, release, args.base):
            print(f"patches/{name}")
    elif args.action == "check":
        names = tuple(map(_named, args.release or ())) or listing.releases(root)
        if args.source is not None and len(names) != 1:
            raise PatchError("--source belongs to one release: name it with --release")
        found = check.check(project, names, args.source)
        for note in found.notes:
            print(f"note: {note}", file=sys.stderr)
        print("\n".join(found.problems) or f"checked {', '.join(names)}: no problems")
        return 1 if found.problems else 0
    elif args.action == "write":
        one = listing.read(root, _named(args.release)).with_sources()
        own.need_directory(args.output).mkdir(parents=True, exist_ok=True)
        write_text(args.output / "BUILD", _PACKAGE)
        write_text(args.output / WRITTEN, one.joined())
        print(args.output / WRITTEN)
    elif args.action == "sources" and args.write:
        write_text(project / sources.DOCUMENT, sources.document_with_table(project))
    elif args.action == "sources":
        print(sources.table(root), end="")
    else:
        _verify(args, project)
    return 0


def _named(release: str) -> str:
    """The directory below patches/ of `2.20`, `v2.20` or `2.20.0`."""
    return f"v{releases.minor_of(release)}"


def _verify(args: argparse.Namespace, project: Path) -> None:
    from tf_model_pool_build.progress import Progress
    from tf_model_pool_build.series import verify
    from tf_model_pool_build.wheel import source, toolchain

    if args.wheel is not None:
        wheel = source.by_path(args.wheel)
    else:
        tag = toolchain.running_python_tag()
        wheel = source.by_version(args.tensorflow_version, None, tag)
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
