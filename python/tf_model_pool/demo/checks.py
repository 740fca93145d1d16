# SPDX-License-Identifier: Apache-2.0
"""What the demonstration says of each thing that it checks."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(slots=True)
class Checks:
    """Prints a line for each check and counts the failed ones."""

    failed: int = 0

    def that(self, what: str, holds: bool, seen: str = "") -> None:
        """Prints whether `what` holds, and `seen` beside it."""
        self.failed += not holds
        print(f"  {'PASS' if holds else 'FAIL'}  {what}" + (f" ({seen})" if seen else ""))
