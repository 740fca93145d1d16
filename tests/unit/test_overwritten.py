# SPDX-License-Identifier: Apache-2.0
"""Another TensorFlow installed over the patched one is found from files alone."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import pytest

import tf_model_pool
from tf_model_pool import api, overwritten
from tf_model_pool.errors import NotActiveError

FRAMEWORK = "tensorflow/libtensorflow_framework.so.2"
PATCHED = "tensorflow-cpu"
PATCHED_VERSION = "2.21.0+modelpool.0.1.0"


class Site:
    """A site-packages, filled as pip fills it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tensorflow = directory / "tensorflow"

    def install(self, name: str, version: str, files: dict[str, str], url: str = "") -> Path:
        """Writes files over those that are there, and metadata beside those of others."""
        for member, text in files.items():
            path = self.directory / member
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        info = self.directory / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        record = [f"{member},sha256=x,{len(text)}" for member, text in files.items()]
        (info / "RECORD").write_text("\n".join(record) + "\n")
        if url:
            (info / "direct_url.json").write_text(json.dumps({"url": url}))
        return info

    def patched(self, url: str = "") -> Path:
        return self.install(
            PATCHED,
            PATCHED_VERSION,
            {
                "tensorflow/__init__.py": "",
                "tensorflow/libtf_model_pool.so": "ours",
                FRAMEWORK: "patched library",
            },
            url,
        )

    def stock(self, name: str = "tensorflow", version: str = "2.20.0") -> Path:
        return self.install(name, version, {"tensorflow/__init__.py": "", FRAMEWORK: "a library"})


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Site:
    directory = tmp_path / "site"
    directory.mkdir()
    monkeypatch.setattr(sys, "path", [str(directory)])
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.delitem(sys.modules, "tf_model_pool._native", raising=False)
    package = tmp_path / "package"
    package.mkdir()
    monkeypatch.setattr(api, "_PACKAGE_DIR", package)
    (package / "build_info.json").write_text("{}")
    return Site(directory)


def find() -> api.TensorFlowLocation:
    location = api.find_tensorflow()
    assert location is not None
    return location


def test_the_other_distribution_and_the_lines_that_mend_it_are_named(site: Site) -> None:
    # GIVEN `pip install tensorflow` after the wheel
    site.patched()
    site.stock()
    # WHEN
    location = find()
    # THEN what is there is the other's, although our library is still there
    assert (location.distribution, location.version) == ("tensorflow", "2.20.0")
    assert not location.patched
    missing = api.missing_parts()
    assert missing is not None
    assert missing.splitlines() == [
        f"tensorflow 2.20.0 was installed over {PATCHED} {PATCHED_VERSION} and replaced its files "
        f"in {site.tensorflow}. Two commands mend it:",
        "    pip uninstall -y tensorflow tensorflow-cpu",
        f"    pip install dist/tensorflow_cpu-{PATCHED_VERSION}-*.whl",
    ]


def test_it_works_for_a_patched_wheel_of_the_other_name(site: Site) -> None:
    info = site.patched()
    info.rename(info.with_name(f"tensorflow-{PATCHED_VERSION}.dist-info"))
    metadata = site.directory / f"tensorflow-{PATCHED_VERSION}.dist-info" / "METADATA"
    metadata.write_text(f"Metadata-Version: 2.1\nName: tensorflow\nVersion: {PATCHED_VERSION}\n")
    site.stock("tensorflow-cpu", "2.21.0")
    over = find().overwritten
    assert over is not None
    assert over.mend[0] == "pip uninstall -y tensorflow-cpu tensorflow"


def test_the_wheel_that_pip_installed_is_named_if_it_is_there(site: Site, tmp_path: Path) -> None:
    wheel = tmp_path / "my dist" / "tensorflow_cpu-2.21.0+modelpool.whl"
    wheel.parent.mkdir()
    wheel.write_text("")
    site.patched(url=wheel.as_uri())
    site.stock()
    over = find().overwritten
    assert over is not None
    assert over.mend[1] == f"pip install '{wheel}'"
    # THEN a wheel that has gone since is not named
    wheel.unlink()
    again = find().overwritten
    assert again is not None
    assert again.mend[1] == f"pip install dist/tensorflow_cpu-{PATCHED_VERSION}-*.whl"


def test_importing_the_package_warns_with_the_lines(site: Site) -> None:
    site.patched()
    site.stock()
    with pytest.warns(api.InactiveWarning, match="pip uninstall -y tensorflow tensorflow-cpu"):
        tf_model_pool._warn_if_parts_are_missing()
    assert "tensorflow" not in sys.modules


def test_calls_say_it_without_the_names_of_hooks(site: Site) -> None:
    site.patched()
    site.stock()
    with pytest.raises(NotActiveError, match=r"tensorflow 2\.20\.0 was installed over"):
        api.pools()
    reason = api.inactive_reason()
    assert reason is not None
    assert reason.startswith("tensorflow 2.20.0 was installed over")


@pytest.mark.parametrize("first", ["stock", "none"])
def test_a_patched_wheel_that_came_last_is_not_overwritten(site: Site, first: str) -> None:
    if first == "stock":
        site.stock()
    site.patched()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tf_model_pool._warn_if_parts_are_missing()
    assert find().patched
    assert find().distribution == PATCHED


@pytest.mark.parametrize("record", ["", "tensorflow/x,,\n", f"{FRAMEWORK},,not a number\n"])
def test_records_that_say_nothing_prove_nothing(site: Site, record: str) -> None:
    site.patched()
    info = site.stock()
    (info / "RECORD").write_text(record)
    assert find().overwritten is None


def test_files_changed_by_hand_are_not_taken_for_another_distributions(site: Site) -> None:
    site.stock()
    site.patched()
    (site.tensorflow / "libtensorflow_framework.so.2").write_text("repaired by another tool")
    assert find().overwritten is None


def test_one_distribution_costs_no_reading_of_records(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.patched()
    monkeypatch.setattr(overwritten, "_sizes", lambda distribution: pytest.fail("read RECORD"))
    assert find().patched
