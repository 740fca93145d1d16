# SPDX-License-Identifier: Apache-2.0
"""Makes the TensorFlow archive of a TensorFlow Serving checkout carry our series, and undoes it.

Serving's WORKSPACE declares TensorFlow with `tensorflow_http_archive`, which takes one label of one
patch file. Some tags use it already. So their patch and our series are joined to one file in a
package of ours, and the label is pointed at it:

    third_party/tf_model_pool/tensorflow.patch   their patch to the letter, then our series
    third_party/tf_model_pool/BUILD              makes the directory a package
    third_party/tf_model_pool/applied.json       what was done, so that it can be undone
    WORKSPACE                                    names the first of these in place of their patch

No other byte of the checkout changes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tf_model_pool._version import __version__
from tf_model_pool_build.checkouts import files, starlark
from tf_model_pool_build.errors import CheckoutError, WorkspaceError
from tf_model_pool_build.releases import releases
from tf_model_pool_build.series import listing

DIRECTORY = "third_party/tf_model_pool"
LABEL = f"//{DIRECTORY}:tensorflow.patch"
RULES = "tensorflow_serving/repo.bzl"
#: What is in DIRECTORY; in this order it is removed.
_FILES = ("BUILD", "tensorflow.patch", "applied.json")
_REPOSITORY = "org_tensorflow"
_SCHEMA = 1
_BUILD = (
    b"# Made by tf-model-pool: this directory is a package, so that WORKSPACE can name its files.\n"
)
_LABEL = re.compile(r"//([\w./-]*):([\w./-]+)")
_VERSION = re.compile(r"\d+\.\d+")
_NOTES = "RELEASE.md"
_NOTED = re.compile(r"^#+ *Release (\S+)", re.MULTILINE)
#: How repo.bzl applies the patch: the strip level decides which paths the patch must have.
_APPLIES = re.compile(r"\bctx\.patch\(\s*patch\s*,\s*strip\s*=\s*1\s*\)")


@dataclasses.dataclass(frozen=True)
class Report:
    """What was found or done.

    Attributes:
        carries: whether the checkout now carries the series as this project has it.
        changed: files that were written or removed, relative to the checkout.
        lines: for people.
    """

    carries: bool
    changed: tuple[str, ...]
    lines: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Checkout:
    root: Path
    workspace: bytes
    rule: starlark.Rule
    commit: str
    label: str | None  # None: the rule takes no patch
    applied: dict[str, Any] | None  # applied.json

    @property
    def has_ours(self) -> bool:
        return self.label == LABEL

    def their_label(self) -> str | None:
        """The label that was there before us."""
        if self.has_ours and self.applied is not None:
            before = self.applied["their_label"]
            return None if before is None else str(before)
        return self.label


def _read_applied(root: Path) -> dict[str, Any] | None:
    path = root / DIRECTORY / "applied.json"
    if not path.is_file():
        return None
    try:
        applied = json.loads(path.read_text(encoding="utf-8"))
        if applied["schema"] != _SCHEMA:
            raise ValueError(f"schema {applied['schema']!r}, expected {_SCHEMA}")
        for field, kind in (("rule_before", str), ("rule_after", str), ("files", dict)):
            if not isinstance(applied[field], kind):
                raise ValueError(f"{field} is not a {kind.__name__}")
        applied["their_label"], applied["series"], applied["workspace_before"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckoutError(
            f"{path} is damaged ({error}); restore it, or give WORKSPACE back "
            f"(git checkout WORKSPACE) and remove {DIRECTORY}"
        ) from error
    return dict(applied)


def _read(root: Path) -> _Checkout:
    workspace = root / "WORKSPACE"
    if not workspace.is_file() or not (root / RULES).is_file():
        missing = "WORKSPACE" if not workspace.is_file() else RULES
        raise CheckoutError(
            f"{root} has no {missing}; expected a checkout of TensorFlow Serving "
            f"(tags {', '.join(pin.tag for pin in releases.SERVING_PINS)})"
        )
    contents = workspace.read_bytes()
    rule = starlark.find_rule(contents, _REPOSITORY, str(workspace))
    if rule.function != "tensorflow_http_archive":
        raise WorkspaceError(
            f"{workspace} declares {_REPOSITORY} with {rule.function}; expected "
            "tensorflow_http_archive, which TensorFlow Serving uses"
        )
    commit = rule.arguments.get("git_commit")
    if not isinstance(commit, str):
        raise WorkspaceError(f"{workspace}: {_REPOSITORY} has no git_commit that is a string")
    label = rule.arguments.get("patch")
    if "patch" in rule.keywords and not isinstance(label, str):
        raise WorkspaceError(f"{workspace}: the patch of {_REPOSITORY} is not a label in quotes")
    if not _APPLIES.search((root / RULES).read_text(encoding="utf-8")):
        raise CheckoutError(
            f"{root / RULES} does not apply its patch as expected; expected "
            "ctx.patch(patch, strip = 1)"
        )
    return _Checkout(
        root, contents, rule, commit, label if isinstance(label, str) else None, _read_applied(root)
    )


def _label_file(root: Path, label: str) -> Path:
    match = _LABEL.fullmatch(label)
    if not match or ".." in label:
        raise WorkspaceError(
            f"the patch of {_REPOSITORY} is {label!r}; expected a file of the checkout, "
            "//PACKAGE:FILE"
        )
    path = root / match[1] / match[2]
    if not path.is_file():
        raise CheckoutError(f"{label} names {path}, which does not exist")
    return path


def _version_of(root: Path) -> str:
    """The release of the checkout, by its tag or its release notes, e.g. `2.18`; "" if unknown."""
    said = files.git_tag(root) if files.is_git_checkout(root) else ""
    if not _VERSION.match(said) and (root / _NOTES).is_file():
        notes = (root / _NOTES).read_text(encoding="utf-8", errors="replace")
        said = next(iter(_NOTED.findall(notes)), "")
    match = _VERSION.match(said)
    return match[0] if match else ""


def _series_name(checkout: _Checkout, wanted: str | None) -> tuple[str, str]:
    """The directory below patches/, and what to tell about it."""
    pin = releases.serving_pin(checkout.commit)
    if wanted is None and pin is None and checkout.has_ours and checkout.applied is not None:
        wanted = str(checkout.applied["series"])
    if wanted is not None:
        name = f"v{releases.minor_of(wanted)}"
        return name, f"TensorFlow {checkout.commit}, patched as {name} as you asked"
    if pin is None:
        known = ", ".join(f"{pin.commit[:11]} ({pin.tag})" for pin in releases.SERVING_PINS)
        raise CheckoutError(
            f"{checkout.root / 'WORKSPACE'} pins TensorFlow {checkout.commit}, which no known tag "
            f"of TensorFlow Serving does; known: {known}. If you know which release it is, "
            f"say so: --tensorflow-version {_version_of(checkout.root) or 'X.Y'}"
        )
    name = f"v{releases.minor_of(pin.tensorflow)}"
    said = f"TensorFlow Serving {pin.tag}, TensorFlow {pin.commit[:11]}: series {name}"
    return name, said + (f" ({pin.note})" if pin.note else "")


def _joined(checkout: _Checkout, project: Path, name: str) -> bytes:
    """The patch file that the checkout should have."""
    ours = listing.read(project / "patches", name).with_sources().joined()
    label = checkout.their_label()
    theirs = b""
    if label is not None:
        theirs = _label_file(checkout.root, label).read_bytes()
        if not theirs.endswith(b"\n"):
            theirs += b"\n"
    parts = [f"{label}, then " if label else "", f"patches/{name} of tf-model-pool {__version__}."]
    head = f"# {''.join(parts)}\n# Generated: do not edit; ./build.sh serving makes it again.\n"
    return head.encode() + theirs + ours.encode()


def _shared_paths(checkout: _Checkout, project: Path, name: str) -> tuple[str, ...]:
    """Files that both their patch and our series change."""
    label = checkout.their_label()
    if label is None:
        return ()
    text = _label_file(checkout.root, label).read_text(encoding="utf-8", errors="replace")
    theirs = set(re.findall(r"^\+\+\+ b/(\S+)", text, re.MULTILINE))
    ours = listing.read(project / "patches", name).changed_files
    return tuple(sorted(theirs.intersection(ours)))


def _check_unedited(checkout: _Checkout) -> None:
    """What we wrote is as we wrote it. Raises `CheckoutError` that names the file."""
    assert checkout.applied is not None
    for name, digest in checkout.applied["files"].items():
        path = checkout.root / DIRECTORY / name
        if not path.is_file() or files.sha256(path.read_bytes()) != digest:
            what = "was edited since" if path.is_file() else "is gone"
            raise CheckoutError(
                f"{path} {what}: keep what you need of it, give WORKSPACE back "
                f"(git checkout WORKSPACE), remove {DIRECTORY}, and run this again"
            )


def _check_clean(checkout: _Checkout) -> None:
    """Nobody else's changes lie where we are going to write. Raises `CheckoutError`."""
    root = checkout.root
    watched = ["WORKSPACE", RULES]
    if checkout.label is not None:
        watched.append(_label_file(root, checkout.label).relative_to(root).as_posix())
    if files.is_git_checkout(root):
        changes = files.git_changes(root, watched)
        if changes:
            raise CheckoutError(
                f"{root} has changes that are not committed: {', '.join(changes)}; "
                "commit or stash them"
            )
    directory = root / DIRECTORY
    if directory.exists() and checkout.applied is None:
        raise CheckoutError(f"{directory} is there already and is not ours; move it away")


def _manifest(
    checkout: _Checkout, name: str, contents: dict[str, bytes], after: bytes, rule_after: str
) -> bytes:
    before = checkout.workspace[checkout.rule.start : checkout.rule.end].decode()
    return (
        json.dumps(
            {
                "schema": _SCHEMA,
                "made_by": f"tf-model-pool {__version__}",
                "series": name,
                "tensorflow_commit": checkout.commit,
                "their_label": checkout.label,
                "rule_before": before,
                "rule_after": rule_after,
                "workspace_before": files.sha256(checkout.workspace),
                "workspace_after": files.sha256(after),
                "files": {file: files.sha256(data) for file, data in sorted(contents.items())},
            },
            indent=2,
        )
        + "\n"
    ).encode()


@contextlib.contextmanager
def _new_directory(target: Path) -> Iterator[Path]:
    """A directory beside `target` that takes its place at the end, or is gone."""
    made_parent = not target.parent.exists()
    target.parent.mkdir(exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield directory
        directory.chmod(0o755)
        directory.rename(target)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        if made_parent:
            with contextlib.suppress(OSError):
                target.parent.rmdir()
        raise


def _write_first_time(checkout: _Checkout, contents: dict[str, bytes], workspace: bytes) -> None:
    target = checkout.root / DIRECTORY
    # An interrupted run may have left a directory that WORKSPACE does not name yet.
    if target.exists():
        shutil.rmtree(target)
    with _new_directory(target) as directory:
        for name, data in contents.items():
            (directory / name).write_bytes(data)
    try:
        files.replace(checkout.root / "WORKSPACE", workspace)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def apply(root: Path, project: Path, *, tensorflow_version: str | None = None) -> Report:
    """Makes the checkout in `root` carry the series; does nothing if it does.

    Args:
        root: a checkout of TensorFlow Serving.
        project: a checkout of this project.
        tensorflow_version: take the series of this version, whatever commit is pinned.

    Raises:
        CheckoutError: it is another checkout, has uncommitted changes in the way, was edited
            since, or cannot be written. Nothing is changed then.
        WorkspaceError, PatchError: what they say.
    """
    checkout = _read(root)
    name, said = _series_name(checkout, tensorflow_version)
    lines = [said]
    if checkout.has_ours:
        if checkout.applied is None:
            raise CheckoutError(
                f"WORKSPACE names {LABEL}, but {DIRECTORY}/applied.json is gone; "
                "give WORKSPACE back (git checkout WORKSPACE) and run this again"
            )
        _check_unedited(checkout)
        return _refresh(checkout, project, name, lines)
    _check_clean(checkout)
    joined = _joined(checkout, project, name)
    workspace = starlark.with_argument(
        checkout.workspace, checkout.rule, "patch", LABEL, after="git_commit"
    )
    rule = starlark.find_rule(workspace, _REPOSITORY, "the new WORKSPACE")
    contents = {"BUILD": _BUILD, "tensorflow.patch": joined}
    contents["applied.json"] = _manifest(
        checkout, name, contents, workspace, workspace[rule.start : rule.end].decode()
    )
    both = _shared_paths(checkout, project, name)
    with files.write_errors(str(root)):
        _write_first_time(checkout, contents, workspace)
    if checkout.label:
        lines.append(f"{checkout.label} is in it, before the series")
    if not files.is_git_checkout(root):
        lines.append("not a git checkout: whether it was edited before cannot be told")
    if both:
        lines.append(f"both change {', '.join(both)}: Bazel finds hunks that moved, but look")
    changed = ("WORKSPACE", *(f"{DIRECTORY}/{file}" for file in sorted(contents)))
    return Report(True, changed, tuple(lines))


def _refresh(checkout: _Checkout, project: Path, name: str, lines: list[str]) -> Report:
    """Brings our patch file up to date with their patch and our series."""
    assert checkout.applied is not None
    joined = _joined(checkout, project, name)
    target = checkout.root / DIRECTORY
    if joined == (target / "tensorflow.patch").read_bytes():
        return Report(True, (), (*lines, "the checkout carries it already"))
    applied = dict(checkout.applied)
    applied.update(
        series=name,
        made_by=f"tf-model-pool {__version__}",
        files={**applied["files"], "tensorflow.patch": files.sha256(joined)},
    )
    with files.write_errors(str(target)):
        old = (target / "tensorflow.patch").read_bytes()
        files.replace(target / "tensorflow.patch", joined)
        try:
            files.replace(target / "applied.json", (json.dumps(applied, indent=2) + "\n").encode())
        except BaseException:
            files.replace(target / "tensorflow.patch", old)
            raise
    changed = (f"{DIRECTORY}/applied.json", f"{DIRECTORY}/tensorflow.patch")
    return Report(True, changed, (*lines, "brought up to date"))


def revert(root: Path) -> Report:
    """Takes the series away: every byte is as before, unless somebody else changed it since.

    Raises:
        CheckoutError: what was written was edited since, or cannot be removed. Nothing is
            changed then.
    """
    checkout = _read(root)
    target = root / DIRECTORY
    if not checkout.has_ours:
        if checkout.applied is None:
            return Report(False, (), ("the checkout does not carry the series",))
        # An interrupted run: the directory is there, and nothing names it.
        _check_only_ours(target)
        with files.write_errors(str(target)):
            _remove(target)
        return Report(False, (DIRECTORY,), (f"removed {DIRECTORY}, which nothing named",))
    if checkout.applied is None:
        raise CheckoutError(
            f"WORKSPACE names {LABEL}, but {DIRECTORY}/applied.json is gone; "
            "give WORKSPACE back with git checkout WORKSPACE"
        )
    _check_unedited(checkout)
    _check_only_ours(target)
    rule = checkout.workspace[checkout.rule.start : checkout.rule.end].decode()
    if rule != checkout.applied["rule_after"]:
        raise CheckoutError(
            f"{root / 'WORKSPACE'}: {_REPOSITORY} was edited since; put the line\n"
            f'    patch = "{LABEL}"\nback as it was in\n{checkout.applied["rule_after"]}'
        )
    workspace = (
        checkout.workspace[: checkout.rule.start]
        + checkout.applied["rule_before"].encode()
        + checkout.workspace[checkout.rule.end :]
    )
    with files.write_errors(str(root)):
        files.replace(root / "WORKSPACE", workspace)
        _remove(target)
    lines = ["the series is gone"]
    if files.sha256(workspace) != checkout.applied["workspace_before"]:
        lines.append("WORKSPACE has other changes made since; they are kept")
    return Report(False, ("WORKSPACE", DIRECTORY), tuple(lines))


def _check_only_ours(directory: Path) -> None:
    for path in sorted(directory.iterdir()):
        if path.name not in _FILES:
            raise CheckoutError(f"{path} is not ours; move it away and run this again")


def _remove(directory: Path) -> None:
    """Removes what we made; applied.json last, so that an interrupted run can be taken up again."""
    for name in _FILES:
        (directory / name).unlink(missing_ok=True)
    directory.rmdir()


def check(root: Path, project: Path, *, tensorflow_version: str | None = None) -> Report:
    """Says whether the checkout carries the series as this project has it. Changes nothing."""
    checkout = _read(root)
    name, said = _series_name(checkout, tensorflow_version)
    if not checkout.has_ours:
        joined = _joined(checkout, project, name)
        size = f"{len(joined)} bytes"
        return Report(False, (), (said, f"not applied; ready to be ({size} of patch)"))
    if checkout.applied is None:
        return Report(False, (), (said, f"{DIRECTORY}/applied.json is gone"))
    _check_unedited(checkout)
    if _joined(checkout, project, name) != (root / DIRECTORY / "tensorflow.patch").read_bytes():
        return Report(
            False, (), (said, "applied, but from another series or another patch of theirs")
        )
    return Report(True, (), (said, "applied"))
