# SPDX-License-Identifier: Apache-2.0
"""Results of releases: read, collected, shown; and the repository's own are in step."""

from __future__ import annotations

import dataclasses
import datetime
import json
import zipfile
from pathlib import Path

import pytest

from tf_model_pool_build.releases import matrix, releases

ROOT = Path(__file__).resolve().parents[2]
JUNIT = """<testsuites><testsuite>
<testcase classname="a" name="good"/>
<testcase classname="a" name="bad"><failure/></testcase>
<testcase classname="b" name="bad"><error/></testcase>
<testcase classname="b" name="left out"><skipped/></testcase>
</testsuite></testsuites>"""
LATER = '<testsuite><testcase classname="b" name="bad"/></testsuite>'
PAGE = f"before\n{matrix.BEGIN}\nold\n{matrix.END}\nafter\n"

SAMPLE = matrix.Result(
    package="tensorflow-cpu",
    version="2.20.0",
    python_tag="cp311",
    date="2026-01-02",
    base_wheel_sha256="1" * 64,
    wheel="tensorflow_cpu-2.20.0+modelpool.0.1.0-cp311-cp311-manylinux_2_34_x86_64.whl",
    wheel_sha256="2" * 64,
    wheel_bytes=250 << 20,
    added_bytes=1 << 20,
    library_sha256="3" * 64,
    binding="native",
    compiler="g++ 12",
    selection="",
    tests={"passed": 100, "failed": 0, "skipped": 1},
    gate="passed",
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / matrix.PAGE).write_text(PAGE)
    return tmp_path


def write_result(path: Path, result: matrix.Result) -> str:
    path.write_text(matrix.to_json([result]))
    return str(path)


def test_results_are_recorded_once_and_shown_newest_first(checkout: Path) -> None:
    # GIVEN a result, then a newer one of the same wheel, and one of an older release
    older = dataclasses.replace(SAMPLE, version="2.9.0", tests=None, gate=None, binding="c")
    candidate = dataclasses.replace(SAMPLE, version="2.20.0rc1")
    again = dataclasses.replace(SAMPLE, date="2026-02-03", selection="onednn")
    for number, result in enumerate((older, SAMPLE, candidate, again)):
        path = write_result(checkout / f"{number}.json", result)
        # WHEN
        assert matrix.main(["record", path], root=checkout) == 0
    # THEN
    assert matrix.read_results(checkout / matrix.RECORDED) == [again, candidate, older]
    rows = [line for line in (checkout / matrix.PAGE).read_text().splitlines() if "2." in line]
    assert "| 2.20.0 | tensorflow-cpu | x86_64 | cp311 | native module | 250.0 | +1.0 |" in rows[0]
    assert rows[0].endswith("| `onednn` | 100, 0, 1 | passed | 2026-02-03 |")
    assert rows[1].startswith("| 2.20.0rc1 |")
    assert rows[2].endswith(
        "| C interface | 250.0 | +1.0 | none | not run | not run | 2026-01-02 |"
    )


def test_a_table_that_is_not_in_step_is_found_and_mended(checkout: Path) -> None:
    matrix.main(["record", write_result(checkout / "r.json", SAMPLE)], root=checkout)
    page = checkout / matrix.PAGE
    assert matrix.main(["table", "--check"], root=checkout) == 0
    page.write_text(page.read_text().replace("100, 0, 1", "101, 0, 0"))
    assert matrix.main(["table", "--check"], root=checkout) == 1
    assert matrix.main(["table"], root=checkout) == 0
    assert "100, 0, 1" in page.read_text()


def test_the_page_around_the_table_stays(checkout: Path) -> None:
    assert matrix.with_table(PAGE, "new\n") == PAGE.replace("old", "new")
    with pytest.raises(matrix.ResultsError, match="has no marks"):
        matrix.with_table("no marks here", "new\n")


def test_a_junit_file_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "junit.xml"
    path.write_text(JUNIT)
    assert matrix.read_junit(path) == {"passed": 1, "failed": 2, "skipped": 1}


def test_a_later_run_of_a_test_counts_in_the_place_of_the_first(tmp_path: Path) -> None:
    first, second = tmp_path / "junit.xml", tmp_path / "junit-2.xml"
    first.write_text(JUNIT)
    second.write_text(LATER)
    assert matrix.read_junit(first, second) == {"passed": 2, "failed": 1, "skipped": 1}
    assert matrix.read_junit(second, first)["failed"] == 2


@pytest.mark.parametrize(
    "text", ["", "<testsuites>", "<testsuites/>", "<testsuite><testcase/></testsuite>"]
)
def test_a_junit_file_without_tests_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "junit.xml"
    path.write_text(text)
    with pytest.raises(matrix.ResultsError, match=r"junit\.xml"):
        matrix.read_junit(path)


def test_tests_that_ended_before_they_were_counted_are_not_summed_up_as_not_run(
    tmp_path: Path,
) -> None:
    # GIVEN the file that ci/release.sh makes before the tests, and pytest writes at its end
    (tmp_path / "junit.xml").touch()
    with pytest.raises(matrix.ResultsError, match="is empty: the tests ended before"):
        matrix.read_junit(tmp_path / "junit.xml")


def test_what_the_gate_said_is_its_last_line(tmp_path: Path) -> None:
    path = tmp_path / "gate.txt"
    path.write_text("ok    cell   answers\npassed\n")
    assert matrix.read_gate(path) == "passed"
    path.write_text("FAIL  cell   answers\n1 failed\n")
    assert matrix.read_gate(path) == "failed"
    # ci/release.sh makes the file before the benchmark, and the gate writes it.
    path.write_text("")
    assert matrix.read_gate(path) == "failed"
    path.write_text("Traceback\n")
    with pytest.raises(matrix.ResultsError, match="'Traceback'"):
        matrix.read_gate(path)


@pytest.mark.parametrize(
    "text", ["[", '"text"', "[1]", '{"version": "2.20.0"}', "half"], ids=lambda text: text[:5]
)
def test_a_file_that_holds_no_results_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "release.json"
    path.write_text(text)
    with pytest.raises(matrix.ResultsError, match=r"release\.json"):
        matrix.read_results(path)


def test_two_results_of_one_wheel_in_a_file_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "releases.json"
    path.write_text(json.dumps([dataclasses.asdict(SAMPLE)] * 2))
    with pytest.raises(matrix.ResultsError, match="two results of one"):
        matrix.read_results(path)


def test_pythons_of_a_release_with_different_libraries_are_not_recorded(checkout: Path) -> None:
    other = dataclasses.replace(SAMPLE, python_tag="cp312", library_sha256="4" * 64)
    matrix.main(["record", write_result(checkout / "a.json", SAMPLE)], root=checkout)
    before = (checkout / matrix.RECORDED).read_text()
    with pytest.raises(matrix.ResultsError, match="for cp311 and cp312 have different libraries"):
        matrix.main(["record", write_result(checkout / "b.json", other)], root=checkout)
    assert (checkout / matrix.RECORDED).read_text() == before


def test_a_wheel_is_summed_up_with_what_was_run(tmp_path: Path) -> None:
    # GIVEN a wheel without a native module, a test run and a later one, and no benchmark
    wheel = tmp_path / SAMPLE.wheel
    info = {
        "tensorflow_version": "2.20.0",
        "base_wheel_sha256": "1" * 64,
        "compiler": "g++ 12",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tf_model_pool/build_info.json", json.dumps(info))
        archive.writestr("tf_model_pool/_native.pyi", "")
        archive.writestr("tensorflow/libtf_model_pool.so", "library")
    (tmp_path / "base.whl").write_bytes(b"released")
    (tmp_path / "junit.xml").write_text(JUNIT)
    (tmp_path / "junit-2.xml").write_text(LATER)
    # WHEN
    today = datetime.date(2026, 1, 2)
    found = matrix.summarise(wheel, tmp_path / "base.whl", tmp_path, "onednn", today)
    # THEN
    assert (found.package, found.version, found.python_tag) == ("tensorflow-cpu", "2.20.0", "cp311")
    assert (found.binding, found.gate, found.date) == ("c", None, "2026-01-02")
    assert found.selection == "onednn"
    assert found.added_bytes == wheel.stat().st_size - len(b"released")
    assert found.tests == {"passed": 2, "failed": 1, "skipped": 1}


# ---- the repository's own results ---------------------------------------------------------------


def test_the_table_of_the_docs_is_in_step_with_the_recorded_results() -> None:
    assert matrix.main(["table", "--check"], root=ROOT) == 0


def test_the_library_of_a_release_is_the_same_for_every_python() -> None:
    matrix.check_libraries(matrix.read_results(ROOT / matrix.RECORDED))


def test_recorded_results_are_of_wheels_that_the_builder_knows() -> None:
    sums = {w.sha256: w for release in releases.RELEASES for w in release.wheels}
    for result in matrix.read_results(ROOT / matrix.RECORDED):
        wheel = sums[result.base_wheel_sha256]
        found = (wheel.package, wheel.version, wheel.python_tag)
        assert found == (result.package, result.version, result.python_tag)
