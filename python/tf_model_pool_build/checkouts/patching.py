# SPDX-License-Identifier: Apache-2.0
"""Applies a series to a source tree as changes of its working files: all of it or nothing.

Beside a tree that this project downloaded lies a record of what was written into it, and over what:
when the series has changed, the tree gets the new state in place of the old one.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from tf_model_pool.files import write_text
from tf_model_pool_build.checkouts import files
from tf_model_pool_build.errors import CheckoutError, PatchError
from tf_model_pool_build.series import generated
from tf_model_pool_build.series.listing import Series


@dataclasses.dataclass(frozen=True)
class State:
    """How a tree stands to a series.

    Attributes:
        applied: the tree carries the whole series.
        contents: what the files have to become, None = removed; empty if applied.
        originals: the same files without any state of the series, None = not there.
        problem: why the series neither is there nor fits; "" otherwise.
    """

    applied: bool
    contents: dict[str, bytes | None]
    originals: dict[str, str | None]
    problem: str = ""


def _record_of(tree: Path) -> Path:
    return tree.with_name(f"{tree.name}.applied.json")


def _read_record(tree: Path) -> dict[str, str | None]:
    """What the files of an older state of the series were before it; empty without a record.

    Raises:
        CheckoutError: somebody changed one since.
    """
    record = _record_of(tree)
    if not record.is_file():
        return {}
    originals: dict[str, str | None] = {}
    for name, (sha256, original) in json.loads(record.read_text(encoding="utf-8")).items():
        path = tree / name
        now = path.read_bytes() if path.is_file() else None
        # Without the series again: the tree was unpacked anew.
        untouched = now == (None if original is None else original.encode("utf-8"))
        if not untouched and (now is None or files.sha256(now) != sha256):
            raise CheckoutError(
                f"{path} was changed since the series was applied there; make the change in "
                f"this project, and remove {tree}, which is then downloaded again"
            )
        originals[name] = original
    return originals


def _write_record(tree: Path, state: State) -> None:
    written = {
        name: (files.sha256(contents), state.originals[name])
        for name, contents in state.contents.items()
        if contents is not None
    }
    write_text(_record_of(tree), json.dumps(written))


def _read(tree: Path, one: Series) -> dict[str, str | None]:
    """The files that the series changes or makes, as they are; None for those that are not there.

    Raises:
        PatchError: one is not UTF-8.
    """
    found: dict[str, str | None] = {}
    for change in one.changes:
        path = tree / change.path
        try:
            found[change.path] = path.read_bytes().decode("utf-8") if path.is_file() else None
        except UnicodeDecodeError as error:
            raise PatchError(f"{path} is not UTF-8 at byte {error.start}") from None
    return found


def _carries(before: dict[str, str | None], one: Series) -> bool:
    files_now = dict(before)
    try:
        for change in reversed(one.changes):
            files_now[change.path] = change.revert(files_now[change.path])
    except PatchError:
        return False
    return True


def examine(tree: Path, one: Series) -> State:
    """Says whether `tree` carries the series, and what it would become with it.

    Args:
        tree: sources of TensorFlow.
        one: the series, with the sources of tf_allocator/.

    Raises:
        PatchError: a file of the tree cannot be read as text.
        CheckoutError: in a tree of ours somebody changed a file of the series.
    """
    before = _read(tree, one)
    if _carries(before, one):
        return State(True, {}, {})
    before |= _read_record(tree)
    after: dict[str, str | None] = dict(before)
    for number, patch in enumerate(one.patches, start=1):
        for change in patch.changes:
            try:
                after[change.path] = change.apply(after[change.path])
            except PatchError as error:
                said = f"patch {number} of {len(one.patches)}, {patch.name}, does not fit: {error}"
                return State(False, {}, {}, said)
    contents = {p: None if text is None else text.encode("utf-8") for p, text in after.items()}
    return State(False, contents, before)


def write(tree: Path, contents: dict[str, bytes | None]) -> None:
    """Writes the files of `contents`, removes those that are None there.

    Puts the old ones back if one cannot be written.

    Raises:
        CheckoutError: it names the file.
    """
    old: dict[Path, bytes | None] = {}
    made: list[Path] = []
    try:
        with files.write_errors(str(tree)):
            for name, data in contents.items():
                path = tree / name
                for parent in reversed(path.parents):
                    if not parent.exists():
                        parent.mkdir()
                        made.append(parent)
                old[path] = path.read_bytes() if path.is_file() else None
                if data is None:
                    path.unlink(missing_ok=True)
                else:
                    files.replace(path, data)
    except BaseException:
        for path, before in old.items():
            if before is None:
                path.unlink(missing_ok=True)
            else:
                files.replace(path, before)
        for directory in reversed(made):
            directory.rmdir()
        raise


def apply(tree: Path, one: Series, *, own: bool = False) -> tuple[str, ...]:
    """Makes `tree` carry the series.

    Args:
        tree: sources of TensorFlow.
        one: the series, with the sources of tf_allocator/.
        own: this project downloaded them, so that a record may lie beside them.

    Returns:
        The files that changed; none if the tree carried the series already.

    Raises:
        CheckoutError: the series does not fit, or a file cannot be written. Nothing is changed.
    """
    state = examine(tree, one)
    if state.applied:
        return ()
    if state.problem:
        expected = "expected the release's own sources, or ones that carry the whole series"
        if (tree / generated.DIRECTORY).is_dir():
            remedy = "restore the release's own sources (in git: git stash --include-untracked)"
            if own:
                remedy = "remove it: it is then downloaded again"
            expected = (
                f"{tree} has a {generated.DIRECTORY}/: it carries another state of this project; "
                f"{remedy}"
            )
        raise CheckoutError(
            f"the series {one.release} does not fit {tree}: {state.problem}\n{expected}; "
            "nothing was changed"
        )
    write(tree, state.contents)
    if own:
        _write_record(tree, state)
    return tuple(sorted(state.contents))
