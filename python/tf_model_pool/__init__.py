# SPDX-License-Identifier: Apache-2.0
"""Memory pools per model version for TensorFlow on CPU: the run-time interface.

Importing this package imports neither TensorFlow nor the native module; the first call that
needs them does. Where the patched TensorFlow is missing, importing emits one
`InactiveWarning` that says what is missing and how to get it, `is_active()` is False, and the
other functions raise `NotActiveError` with the same text. The command line
(`python -m tf_model_pool`, which builds the wheel, among others) does not warn.
"""

import sys
import warnings

from tf_model_pool._version import __version__
from tf_model_pool.api import (
    PREFIX,
    InactiveWarning,
    LoadTotals,
    PoolStats,
    Totals,
    binding,
    build_info,
    inactive_reason,
    is_active,
    link_flags,
    load_totals,
    missing_parts,
    pool_of,
    pools,
    settings,
    totals,
    trim,
)
from tf_model_pool.errors import (
    LoadPriorityError,
    ModelPoolError,
    NotActiveError,
    SettingError,
)
from tf_model_pool.load_priority import loading, run_at_load_priority

__all__ = [
    "InactiveWarning",
    "LoadPriorityError",
    "LoadTotals",
    "ModelPoolError",
    "NotActiveError",
    "PoolStats",
    "SettingError",
    "Totals",
    "__version__",
    "binding",
    "build_info",
    "inactive_reason",
    "is_active",
    "link_flags",
    "load_totals",
    "loading",
    "pool_of",
    "pools",
    "run_at_load_priority",
    "settings",
    "totals",
    "trim",
]


def _runs_as_command() -> bool:
    # While Python locates the module of `python -m`, sys.argv[0] is "-m" (documented at
    # sys.argv), and this package is imported in exactly that stage.
    return sys.argv[:1] == ["-m"] and any(
        argument.partition(".")[0] == __name__ for argument in sys.orig_argv[1:]
    )


def _warn_if_parts_are_missing() -> None:
    if _runs_as_command():
        return
    missing = missing_parts()
    if missing is not None:
        warnings.warn(PREFIX + missing, InactiveWarning, stacklevel=3)


_warn_if_parts_are_missing()
