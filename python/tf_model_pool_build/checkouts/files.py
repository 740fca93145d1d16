# SPDX-License-Identifier: Apache-2.0
"""Files of other people's checkouts: read, replaced in one step, compared, asked git about."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tf_model_pool.files import replacing
from tf_model_pool_build.errors import CheckoutError, ToolMissingError


def sha256(contents: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(contents).hexdigest()


@contextlib.contextmanager
def write_errors(what: str) -> Iterator[None]:
    """Turns an `OSError` into a `CheckoutError` that names the file."""
    try:
        yield
    except OSError as error:
        raise CheckoutError(
            f"cannot write {error.filename or what}: {error.strerror or error}; nothing was changed"
        ) from error


def replace(path: Path, contents: bytes) -> None:
    """Writes `path` in one step, with the mode that it had."""
    mode = path.stat().st_mode & 0o7777 if path.exists() else 0o644
    with replacing(path) as partial:
        partial.write_bytes(contents)
        partial.chmod(mode)


def need_git() -> str:
    """The path of git. Raises `ToolMissingError`."""
    git = shutil.which("git")
    if git is None:
        raise ToolMissingError("git is not installed; install it: apt-get install git")
    return git


def is_git_checkout(root: Path) -> bool:
    """Whether `root` is the top of a git checkout (or of a worktree or submodule)."""
    return (root / ".git").exists()


def git_changes(root: Path, paths: Sequence[str]) -> tuple[str, ...]:
    """What git says has changed of `paths` since the checkout, e.g. `M WORKSPACE`."""
    command = [need_git(), "-C", str(root), "status", "--porcelain=v1", "--untracked-files=all"]
    result = subprocess.run(
        [*command, "--", *paths],
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise CheckoutError(f"git cannot read {root}: {result.stderr.strip()}")
    return tuple(line.strip() for line in result.stdout.splitlines())


def git_tag(root: Path) -> str:
    """The nearest tag that the checkout descends from; "" if there is none."""
    result = subprocess.run(
        [need_git(), "-C", str(root), "describe", "--tags", "--abbrev=0"],
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout.strip()
