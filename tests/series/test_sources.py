# SPDX-License-Identifier: Apache-2.0
"""The record of what each series was made from, and the table that is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.patch_project import RELEASE, Project, write
from tf_model_pool_build.errors import PatchError
from tf_model_pool_build.series import sources


def test_the_table_in_the_documents_is_in_step(repository: Path) -> None:
    written = (repository / sources.DOCUMENT).read_text()
    assert sources.document_with_table(repository) == written, (
        "run: ./build.sh patches sources --write"
    )


def test_the_table_says_what_was_not_run(project: Project) -> None:
    lines = sources.table(project.patches).splitlines()
    assert lines[2] == (
        f"| {RELEASE} | `process_state.h`, `save_restore_tensor.cc`: release | not run |"
    )
    assert lines[-1] == "- release: the release"


def test_a_document_without_a_place_for_the_table_is_named(project: Project) -> None:
    write(project.root, {sources.DOCUMENT: "nothing\n"})
    with pytest.raises(PatchError, match=r"docs/patches\.md has no lines"):
        sources.document_with_table(project.root)
