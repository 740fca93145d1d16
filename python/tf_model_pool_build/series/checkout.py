# SPDX-License-Identifier: Apache-2.0
"""A series as commits on a git checkout of TensorFlow, and back: the only way to change a patch."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from tf_model_pool.files import write_text
from tf_model_pool_build.errors import PatchError, ToolMissingError
from tf_model_pool_build.series import generated, listing, tree
from tf_model_pool_build.series.patch import (
    AUTHOR_LINE,
    DATE_LINE,
    blob_hash,
    file_name,
    parse,
    without_positions,
)
from tf_model_pool_build.workspace import temporary_directory

#: Where import leaves the commit that it began from.
_BASE = "refs/tf-model-pool/base"
_IDENTITY = {
    "GIT_AUTHOR_NAME": "tf-model-pool",
    "GIT_AUTHOR_EMAIL": "tf-model-pool@localhost",
    "GIT_COMMITTER_NAME": "tf-model-pool",
    "GIT_COMMITTER_EMAIL": "tf-model-pool@localhost",
}
#: The form that does not depend on the machine: no commit hashes, no statistics, no version.
_FORMAT = (
    "format-patch",
    "--stdout",
    "--zero-commit",
    "--full-index",
    "--no-stat",
    "--no-signature",
    "-N",
    "--no-renames",
    "--no-color",
    "--no-ext-diff",
    "--no-textconv",
    "--diff-algorithm=myers",
    "--unified=3",
)
_HEADER = "# Applied from top to bottom. Rules: patches/README.md\n"


def _git(
    directory: Path,
    *arguments: str,
    text: str = "",
    environment: Mapping[str, str] | None = None,
) -> str:
    """Standard output of git in `directory`, which reads `text`. Raises `PatchError`."""
    settings = {
        **{k: v for k, v in os.environ.items() if not k.startswith("GIT_")},
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        **(environment or {}),
    }
    command = ["git", "-C", str(directory), "-c", "safe.directory=*", *arguments]
    try:
        done = subprocess.run(
            command, input=text.encode(), env=settings, capture_output=True, check=False
        )
    except FileNotFoundError:
        raise ToolMissingError("git not found; install it: apt-get install git") from None
    if done.returncode != 0:
        said = (done.stderr + done.stdout).decode("utf-8", "replace").strip()
        raise PatchError(f"git {arguments[0]} failed in {directory}: {said}")
    return done.stdout.decode("utf-8", "replace")


def _checked(checkout: Path) -> Path:
    """The root of the checkout. Raises `PatchError` where it is none."""
    if not checkout.is_dir():
        raise PatchError(f"{checkout} is not a directory; expected a git checkout of TensorFlow")
    try:
        root = Path(_git(checkout, "rev-parse", "--show-toplevel").strip())
        _git(checkout, "rev-parse", "--verify", "HEAD")
    except PatchError:
        raise PatchError(
            f"{checkout} is not a git checkout with a commit; for an unpacked archive run there: "
            "git init && git add -A && git commit -m base"
        ) from None
    if root != checkout.resolve():
        raise PatchError(f"{checkout} is not the root of its git checkout, which is {root}")
    return root


def _ref(root: Path, name: str) -> str:
    with contextlib.suppress(PatchError):
        return _git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}").strip()
    return ""


def import_series(checkout: Path, one: listing.Series) -> list[str]:
    """Applies a series as commits.

    Args:
        checkout: root of a clean git checkout of TensorFlow.
        one: what to apply.

    Returns:
        The changed files that are not those that the series was made from: it fitted all the
        same.

    Raises:
        PatchError: the checkout is dirty, has the series already, or a patch does not fit. The
            checkout is then as it was.
    """
    root = _checked(checkout)
    if dirty := _git(root, "status", "--porcelain", "--untracked-files=no").strip():
        raise PatchError(f"{root} has changes that are not committed:\n{dirty}")
    if (root / generated.DIRECTORY).exists():
        raise PatchError(f"{root} has {generated.DIRECTORY}/ already: the series is in it")
    files = tree.read(root, one.changed_files)
    others = [
        path
        for path, expected in one.first_hashes().items()
        if blob_hash(files[path].encode("utf-8")) != expected
    ]
    base = _git(root, "rev-parse", "HEAD").strip()
    am = ["-c", "core.hooksPath=/dev/null", "-c", "core.autocrlf=false", "am", "--quiet"]
    am += ["--no-3way", "--no-gpg-sign", "--committer-date-is-author-date", "--whitespace=nowarn"]
    try:
        _git(root, *am, text="".join(p.text for p in one.patches), environment=_IDENTITY)
    except BaseException as error:
        with contextlib.suppress(PatchError):
            _git(root, "am", "--abort", environment=_IDENTITY)
        if not isinstance(error, PatchError):
            raise
        said = re.sub(r"(?m)^hint:.*\n?", "", str(error)).strip()
        raise PatchError(f"the series {one.release} does not fit {root}: {said}") from None
    _git(root, "update-ref", _BASE, base)
    return others


@contextlib.contextmanager
def _plain_repository(root: Path, state: Path) -> Iterator[Path]:
    """A repository with the objects of `root`'s, and none of its settings and attributes."""
    with temporary_directory(state) as work:
        _git(work, "init", "--quiet")
        objects = Path(_git(root, "rev-parse", "--git-common-dir").strip())
        objects = (root / objects).resolve() / "objects"
        (work / ".git/objects/info/alternates").write_text(f"{objects}\n")
        yield work


def _export_commit(repository: Path, commit: str) -> str:
    text = _git(repository, *_FORMAT, "-1", commit)
    lines = text.split("\n")
    # Whoever committed, on whatever day: a patch is the project's.
    lines[1:3] = [AUTHOR_LINE, DATE_LINE]
    return "\n".join(lines)


def export_commits(checkout: Path, base: str | None, state: Path) -> tuple[str, ...]:
    """The commits since `base` as patches.

    Args:
        checkout: root of a git checkout.
        base: any name of a commit; None for the one that import recorded.
        state: directory for temporary files.

    Raises:
        PatchError: no base is known, or the commits are not one line of changes.
    """
    root = _checked(checkout)
    start = _ref(root, base or _BASE)
    if not start:
        expected = f"{base!r} is no commit" if base else "no import was recorded; pass --base"
        raise PatchError(f"{root}: {expected}")
    commits = _git(root, "rev-list", "--reverse", f"{start}..HEAD").split()
    if not commits:
        raise PatchError(f"{root} has no commits since {start[:12]}")
    if merges := _git(root, "rev-list", "--merges", f"{start}..HEAD").split():
        raise PatchError(f"{merges[0][:12]} is a merge; a series is one line of commits")
    with _plain_repository(root, state) as plain:
        return tuple(_export_commit(plain, commit) for commit in commits)


def export_series(
    checkout: Path, project: Path, release: str, base: str | None = None
) -> tuple[str, ...]:
    """Writes the commits of a checkout as the series of a release.

    A commit goes to the file that the series has for its subject; a new subject gets a new file
    beside the series.

    Returns:
        The files of patches/ that changed, sorted.

    Raises:
        PatchError: among others if tf_allocator/ was changed in the checkout, or a commit
            differs from a patch that other releases share. Nothing is written then.
    """
    root = project / "patches"
    directory = root / release
    known: dict[str, Path] = {}
    if (directory / "series").is_file():
        known = {p.subject: p.path for p in listing.read(root, release).patches}
    writes: dict[Path, str] = {}
    entries: list[str] = []
    for text in export_commits(checkout, base, project / ".build"):
        patch = parse(Path("the commit"), text)
        inside = [c.path.startswith(f"{generated.DIRECTORY}/") for c in patch.changes]
        path = known.get(patch.subject, directory / file_name(patch.subject))
        if any(inside):
            if text != generated.generate(project):
                raise PatchError(
                    f"the commit {patch.subject!r} is not what the series brings of "
                    f"{generated.DIRECTORY}/: change it in this project"
                )
            continue
        if path.parent != directory:
            shared = path.read_text(encoding="ascii")
            if without_positions(shared) != without_positions(text):
                raise PatchError(
                    f"the commit {patch.subject!r} differs from {path.relative_to(project)}, which "
                    f"other releases share: copy that file to patches/{release}/, list the copy in "
                    "its series, and export again"
                )
            # The same change of this release's files, which may have other lines elsewhere.
            text = shared
        if path in writes:
            raise PatchError(f"two commits have the subject {patch.subject!r}")
        writes[path] = text
        entries.append(listing.entry(directory, path))
    writes[directory / "series"] = _HEADER + "".join(f"{entry}\n" for entry in entries)
    changed = [p for p, text in writes.items() if not p.is_file() or p.read_text() != text]
    directory.mkdir(parents=True, exist_ok=True)
    for path in changed:
        write_text(path, writes[path])
    for path in directory.glob("*.patch"):
        if path not in writes:
            path.unlink()
            changed.append(path)
    return tuple(sorted(path.relative_to(root).as_posix() for path in changed))


def export_again(one: listing.Series, source: Path) -> tuple[str, ...]:
    """The series as git exports it after an import into a copy of the files that it changes.

    Raises:
        PatchError: it does not fit `source`.
    """
    files = tree.read(source, one.changed_files)
    project = one.directory.parents[1]
    with temporary_directory(project / ".build") as work:
        scratch = work / "tensorflow"
        tree.write(files, scratch)
        commit_all(scratch)
        import_series(scratch, one)
        return export_commits(scratch, None, work)


def commit_all(directory: Path) -> None:
    """Makes `directory` a git repository with one commit of all that is in it."""
    _git(directory, "init", "--quiet")
    _git(directory, "add", "--all", "--force")
    _git(directory, "commit", "--quiet", "--message=base", environment=_IDENTITY)
