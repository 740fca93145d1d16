# SPDX-License-Identifier: Apache-2.0
"""Runs as a file in an environment whose `tf_model_pool`, if it has one, is another than this."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    # Last, so that nothing here hides a module of the environment's.
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    sys.exit(importlib.import_module("python_server.server").main())
