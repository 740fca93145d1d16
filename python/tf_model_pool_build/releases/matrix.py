# SPDX-License-Identifier: Apache-2.0
"""What became of each release: one file per run, all of them in one, and the table of the docs.

    python -m tf_model_pool_build.releases.matrix summarise --wheel W --base B --results DIR
    python -m tf_model_pool_build.releases.matrix record .build/ci/*/release.json
    python -m tf_model_pool_build.releases.matrix table [--check]

`ci/release.sh` calls the first. `record` puts results into docs/releases.json, each in the place of
an older one of the same package, version and Python; `table` writes docs/releases.md from it.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import hashlib
import json
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tf_model_pool.cli import exit_status_of
from tf_model_pool.files import write_text
from tf_model_pool_build import architecture, project
from tf_model_pool_build.errors import BuildError
from tf_model_pool_build.releases import releases

RECORDED = Path("docs/releases.json")
PAGE = Path("docs/releases.md")
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
_LIBRARY = "tensorflow/libtf_model_pool.so"
_BUILD_INFO = "tf_model_pool/build_info.json"
_MIB = 1 << 20


class ResultsError(BuildError):
    """A file of results is missing, damaged, or not what it should be."""


@dataclasses.dataclass(frozen=True)
class Result:
    """One wheel, and what it went through. Sizes are bytes.

    Attributes:
        package: distribution of the released wheel.
        version: TensorFlow's.
        python_tag: e.g. `cp311`.
        date: of the run, `YYYY-MM-DD`.
        base_wheel_sha256: of the released wheel.
        wheel: file name of ours.
        wheel_sha256: of that file.
        wheel_bytes: its size.
        added_bytes: by how much it is larger than the released one.
        library_sha256: of libtf_model_pool.so in it.
        binding: `native`, or `c` if the wheel has no native module.
        compiler: the first line that it says about itself.
        selection: the expression of pytest's `-k` that chose tests, "" = all of them.
        tests: counts of `passed`, `failed` and `skipped`; None = not run.
        gate: `passed` or `failed`; None = not run.
    """

    package: str
    version: str
    python_tag: str
    date: str
    base_wheel_sha256: str
    wheel: str
    wheel_sha256: str
    wheel_bytes: int
    added_bytes: int
    library_sha256: str
    binding: str
    compiler: str
    selection: str
    tests: dict[str, int] | None
    gate: str | None

    @property
    def machine(self) -> str:
        """What the wheel is for, e.g. `x86_64`."""
        return architecture.of_platform(self.wheel.removesuffix(".whl")).name

    @property
    def key(self) -> tuple[tuple[str, str], tuple[int, ...], tuple[int, ...]]:
        """What is recorded once, and its place in the table."""
        version = tuple(-part for part in releases.version_key(self.version))
        python = (int(self.python_tag[2:3]), int(self.python_tag[3:]))
        return (self.package, self.machine), version, python


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_MIB):
            digest.update(block)
    return digest.hexdigest()


def read_junit(*paths: Path) -> dict[str, int]:
    """Counts of `passed`, `failed` and `skipped` in JUnit files. Raises `ResultsError`.

    A test that is in several files counts once, as in the last of them.
    """
    outcomes: dict[tuple[str, str], str] = {}
    for path in paths:
        if path.is_file() and path.stat().st_size == 0:
            raise ResultsError(f"{path} is empty: the tests ended before they were counted")
        try:
            cases = list(ElementTree.parse(path).getroot().iter("testcase"))
            found = {
                (case.attrib["classname"], case.attrib["name"]): _outcome(case) for case in cases
            }
        except (OSError, ElementTree.ParseError, KeyError) as error:
            raise ResultsError(f"{path} is not a readable JUnit file: {error!r}") from error
        if not found:
            raise ResultsError(f"{path} has no tests")
        outcomes |= found
    counts = Counter(outcomes.values())
    return {name: counts[name] for name in ("passed", "failed", "skipped")}


def _outcome(case: ElementTree.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "passed" if case.find("skipped") is None else "skipped"


def read_gate(path: Path) -> str:
    """`passed` or `failed`, from what `bench gate` printed. Raises `ResultsError`.

    `ci/release.sh` makes the file before the benchmark: if that or the gate ended before there was
    a finding, it is empty, which is not a pass, and not "not run" either.
    """
    lines = path.read_text(encoding="utf-8").strip().splitlines()
    if not lines:
        return "failed"
    last = lines[-1]
    if last != "passed" and not last.endswith(" failed"):
        raise ResultsError(f"{path} does not end with what the gate found, but with {last!r}")
    return "passed" if last == "passed" else "failed"


def summarise(
    wheel: Path, base: Path, results: Path, selection: str, today: datetime.date
) -> Result:
    """What `ci/release.sh` left in `results`, about `wheel`, made from `base`.

    Further files `junit-*.xml` are later runs of a part of the tests.
    """
    with zipfile.ZipFile(wheel) as archive:
        info = json.loads(archive.read(_BUILD_INFO))
        library = hashlib.sha256(archive.read(_LIBRARY)).hexdigest()
        native = any(
            name.startswith("tf_model_pool/_native.cpython") for name in archive.namelist()
        )
    junit = sorted(results.glob("junit*.xml"), key=lambda path: path.stem)
    gate = results / "gate.txt"
    package, _, python_tag = wheel.name.split("-")[:3]
    return Result(
        package=package.replace("_", "-"),
        version=str(info["tensorflow_version"]),
        python_tag=python_tag,
        date=today.isoformat(),
        base_wheel_sha256=str(info["base_wheel_sha256"]),
        wheel=wheel.name,
        wheel_sha256=_sha256(wheel),
        wheel_bytes=wheel.stat().st_size,
        added_bytes=wheel.stat().st_size - base.stat().st_size,
        library_sha256=library,
        binding="native" if native else "c",
        compiler=str(info["compiler"]),
        selection=selection,
        tests=read_junit(*junit) if junit else None,
        gate=read_gate(gate) if gate.is_file() else None,
    )


def read_results(path: Path) -> list[Result]:
    """The results in a file: one object, or a list of them. Raises `ResultsError`."""
    fields = {field.name for field in dataclasses.fields(Result)}
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path} is not a readable file of results: {error}") from error
    found = []
    for entry in content if isinstance(content, list) else [content]:
        if not isinstance(entry, dict) or set(entry) != fields:
            keys = set(entry) if isinstance(entry, dict) else {type(entry).__name__}
            raise ResultsError(
                f"{path}: a result has the fields {', '.join(sorted(fields))}; "
                f"different: {', '.join(sorted(keys ^ fields))}"
            )
        found.append(Result(**entry))
    keys_found = [result.key for result in found]
    if len(set(keys_found)) != len(keys_found):
        raise ResultsError(f"{path} has two results of one package, machine, version and Python")
    return found


def merge(old: Iterable[Result], new: Iterable[Result]) -> list[Result]:
    """All results, a new one in the place of an old one, in the table's order."""
    return sorted({r.key: r for r in [*old, *new]}.values(), key=lambda result: result.key)


def check_libraries(results: Iterable[Result]) -> None:
    """Checks that all Pythons of a release have one library, byte for byte: it has no Python in it.

    Raises `ResultsError`, also for results that were made from different sources of this project.
    """
    first: dict[tuple[str, str, str], Result] = {}
    for result in results:
        other = first.setdefault((result.package, result.machine, result.version), result)
        if other.library_sha256 != result.library_sha256:
            raise ResultsError(
                f"the wheels of {result.package} {result.version} for {other.python_tag} and "
                f"{result.python_tag} have different libraries; record all Pythons of a release "
                "from the same sources, compiler and tools"
            )


def to_json(results: Iterable[Result]) -> str:
    """The text of a file of results."""
    entries = [dataclasses.asdict(result) for result in results]
    return json.dumps(entries, indent=1) + "\n"


def table(results: Iterable[Result]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| TensorFlow | package | machine | Python | binding | wheel, MiB | added, MiB | tests "
        "| passed, failed, skipped | gate | date |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        which, tests = "none", "not run"
        if result.tests is not None:
            which = f"`{result.selection}`" if result.selection else "all"
            tests = ", ".join(str(result.tests[n]) for n in ("passed", "failed", "skipped"))
        lines.append(
            f"| {result.version} | {result.package} | {result.machine} | {result.python_tag} "
            f"| {'native module' if result.binding == 'native' else 'C interface'} "
            f"| {result.wheel_bytes / _MIB:.1f} | {result.added_bytes / _MIB:+.1f} "
            f"| {which} | {tests} | {result.gate or 'not run'} | {result.date} |"
        )
    return "\n".join(lines) + "\n"


def with_table(page: str, text: str) -> str:
    """The page with `text` between the marks. Raises `ResultsError` where it lacks them."""
    head, begin, rest = page.partition(BEGIN + "\n")
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ResultsError(f"the page has no marks {BEGIN} and {END} around its table")
    return head + begin + text + end + tail


def main(arguments: Sequence[str], root: Path | None = None) -> int:
    """Runs one of the commands; 0, or 1 where `table --check` finds a difference."""
    parser = argparse.ArgumentParser(
        prog="python -m tf_model_pool_build.releases.matrix",
        description=(__doc__ or "").partition("\n")[0],
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("summarise", help="write DIR/release.json about one wheel")
    one.add_argument("--wheel", type=Path, required=True, help="the patched wheel")
    one.add_argument("--base", type=Path, required=True, help="the released wheel")
    one.add_argument("--selection", default="", help="of tests, as pytest's -k takes it")
    one.add_argument("--results", type=Path, required=True, metavar="DIR")
    add = commands.add_parser("record", help=f"put results into {RECORDED}, and the table in step")
    add.add_argument("results", type=Path, nargs="+", metavar="release.json")
    show = commands.add_parser("table", help=f"write {PAGE} from {RECORDED}")
    show.add_argument("--check", action="store_true", help="change nothing; 1 where it differs")
    args = parser.parse_args(arguments)
    root = root or project.project_root()

    if args.command == "summarise":
        today = datetime.date.today()
        result = summarise(args.wheel, args.base, args.results, args.selection, today)
        write_text(args.results / "release.json", to_json([result]))
        print(table([result]), end="")
        return 0
    recorded, page = root / RECORDED, root / PAGE
    results = read_results(recorded) if recorded.is_file() else []
    if args.command == "record":
        results = merge(results, [r for path in args.results for r in read_results(path)])
        check_libraries(results)
        write_text(recorded, to_json(results))
    before = page.read_text(encoding="utf-8")
    after = with_table(before, table(results))
    if args.command == "table" and args.check:
        if before != after:
            print(f"{PAGE} is not in step with {RECORDED}", file=sys.stderr)
        return int(before != after)
    write_text(page, after)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status_of(lambda: main(sys.argv[1:])))
