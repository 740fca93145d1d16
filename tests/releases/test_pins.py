# SPDX-License-Identifier: Apache-2.0
"""The sources that people build from, and how versions are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tf_model_pool_build.errors import CheckoutError
from tf_model_pool_build.releases import pins


def test_every_known_serving_tag_and_release_has_a_series(repository: Path) -> None:
    wanted = {pins.minor_of(pin.tensorflow) for pin in pins.SERVING_PINS}
    wanted |= {pins.minor_of(source.version) for source in pins.TENSORFLOW_SOURCES}
    assert {f"v{minor}" for minor in wanted} == {
        path.parent.name for path in repository.glob("patches/*/series")
    }


@pytest.mark.parametrize("version", ["2.20.0", "v2.20.0", "2.20", "v2.20"])
def test_versions_are_read_as_people_write_them(version: str) -> None:
    assert pins.minor_of(version) == "2.20"


@pytest.mark.parametrize("version", ["", "2", "master", "2.20.0-rc1", "../v2.20"])
def test_what_is_no_version_is_refused(version: str) -> None:
    with pytest.raises(CheckoutError, match="is not a version of TensorFlow"):
        pins.minor_of(version)
