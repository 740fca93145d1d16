# SPDX-License-Identifier: Apache-2.0
"""What `patches verify` hands to the wheel builder. The whole run needs TensorFlow's sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.patch_project import RELEASE, SOURCE, Project, edit
from tf_model_pool_build.errors import PatchError, UnsupportedWheelError
from tf_model_pool_build.progress import Progress
from tf_model_pool_build.releases import releases
from tf_model_pool_build.series import verify
from tf_model_pool_build.wheel import builder, source, toolchain

QUIET = Progress(quiet=True)


def request(project: Project, python_tag: str = "") -> verify.Request:
    wheel = source.Input(
        filename="tensorflow_cpu-9.9.0-cp0-cp0-any.whl",
        sha256="",
        package="tensorflow-cpu",
        python_tag=python_tag or toolchain.running_python_tag(),
        platform="any",
        release=releases.Release("9.9.0", RELEASE, "", ()),
        path=None,
    )
    return verify.Request(project=project.root, source=project.source, wheel=wheel)


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[tuple[builder.Request, str]]:
    """The requests that the builder got, each with the patched source as it was then."""
    requests = []

    def build(request: builder.Request, progress: Progress) -> Path:
        assert request.sources is not None
        requests.append((request, (request.sources.directory / SOURCE).read_text()))
        return request.output / "a.whl"

    monkeypatch.setattr(builder, "build", build)
    return requests


def test_the_builder_gets_the_patched_sources(
    project: Project, built: list[tuple[builder.Request, str]], tmp_path: Path
) -> None:
    assert verify.build_wheel(request(project), tmp_path, QUIET) == tmp_path / "a.whl"
    ((got, text),) = built
    assert got.sources is not None
    assert got.sources.files == (SOURCE,)
    assert text.count("// the call\n") == 1
    # The sources that were given are left alone, and the copy is gone.
    assert "// the call" not in (project.source / SOURCE).read_text()
    assert not got.sources.directory.exists()


def test_sources_that_the_series_does_not_fit_stop_it(
    project: Project, built: list[tuple[builder.Request, str]], tmp_path: Path
) -> None:
    edit(project.source, SOURCE, "// line 15\n", "// line fifteen\n")
    with pytest.raises(PatchError, match=r"hunk 1 of .* does not fit tensorflow/core/kernels"):
        verify.build_wheel(request(project), tmp_path, QUIET)
    assert built == []


def test_a_series_without_sources_has_nothing_to_try(
    project: Project, built: list[tuple[builder.Request, str]], tmp_path: Path
) -> None:
    series = project.patches / RELEASE / "series"
    lines = [line for line in series.read_text().splitlines() if "Call-the-pools" not in line]
    series.write_text("\n".join(lines) + "\n")
    with pytest.raises(PatchError, match=r"changes no \.cc file"):
        verify.build_wheel(request(project), tmp_path, QUIET)


def test_a_wheel_of_another_python_is_refused(project: Project) -> None:
    with pytest.raises(UnsupportedWheelError, match="is not for this Python"):
        verify.verify(request(project, python_tag="cp27"), QUIET)


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ((), ("-k", "not preload")),
        (("-q",), ("-k", "not preload", "-q")),
        (("-x", "-k", "a or b"), ("-k", "not preload and (a or b)", "-x")),
    ],
)
def test_a_selection_of_tests_leaves_out_what_is_preloaded(
    given: tuple[str, ...], passed: tuple[str, ...]
) -> None:
    assert verify.selection(given) == passed
