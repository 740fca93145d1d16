# SPDX-License-Identifier: Apache-2.0
"""Every check of every scenario with every allocator, one test each.

The checks are the methods of the classes in `scenarios/`. Those that run with both TensorFlows
must also have recorded the same values: outputs, restored bytes, errors, trained weights.

Where the library is preloaded into the released TensorFlow, the code that runs is the patched
TensorFlow's; what differs is how TensorFlow comes to call it. So the checks of isolation and of
restored values run that way too, with one allocator.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from support.children import ScenarioRunner, record_differences
from support.scenario import Group, read_groups

SCENARIOS = Path(__file__).parent / "scenarios"
PRELOADED = ("isolation.py", "restore.py")


@dataclasses.dataclass(frozen=True)
class Case:
    """One check of one scenario class with one allocator."""

    group: Group
    mode: str
    check: str
    pythons: tuple[str, ...]

    def __str__(self) -> str:
        way = "preload-" if "preload" in self.pythons else ""
        return f"{self.group.file.stem}.{self.group.name}-{way}{self.mode}-{self.check}"


_PRELOADED_AS = {"patched": "preload"}
CASES = [
    Case(group, mode, check, group.pythons)
    for file in sorted(SCENARIOS.glob("*.py"))
    for group in read_groups(file)
    for mode in group.modes
    for check in group.checks
] + [
    Case(group, "onednn", check, tuple(_PRELOADED_AS.get(p, p) for p in group.pythons))
    for name in PRELOADED
    for group in read_groups(SCENARIOS / name)
    if "patched" in group.pythons and not group.environment
    for check in group.checks
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_scenario(case: Case, runner: ScenarioRunner) -> None:
    results = {
        python: runner.start(case.group, case.mode, python).result()[case.check]
        for python in case.pythons
    }
    for python, result in results.items():
        assert not result.message, f"with the {python} TensorFlow:\n{result.message}"
    stock = results.pop("stock", None)
    for python, result in results.items():
        if stock is not None:
            assert record_differences(stock.records, result.records) == [], python
