# SPDX-License-Identifier: Apache-2.0
"""Memory pools per model version for TensorFlow on CPU: the run-time interface.

Importing this package imports neither TensorFlow nor the native module; the first call that
needs them does. Where the patched TensorFlow is missing, importing emits one
`InactiveWarning` that says what is missing and how to get it (another TensorFlow that was
installed over the patched one is such a case), `is_active()` is False, and the
other functions raise `NotActiveError` with the same text. The command line
(`python -m tf_model_pool`) does not warn. The submodules `prometheus` and `stats` are there
without an import of their own.
"""

import importlib
import sys
import warnings
from types import ModuleType
from typing import TYPE_CHECKING

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
from tf_model_pool.eager_release import release
from tf_model_pool.errors import (
    ForkedError,
    HotModelClosedError,
    HotModelError,
    HotModelForkedError,
    HotModelTimeoutError,
    LoadPriorityError,
    ModelClosedError,
    ModelPoolError,
    NotActiveError,
    NotServingError,
    SettingError,
    TensorFlowError,
    VersionLoadError,
    VersionNotFoundError,
)
from tf_model_pool.hot_events import (
    HotEvent,
    Loaded,
    LoadFailed,
    LoadStarted,
    StorageFailed,
    StorageRecovered,
    Switched,
    Unloaded,
)
from tf_model_pool.hot_model import HotModel, hot_models, set_max_concurrent_loads
from tf_model_pool.hot_types import HotStats, VersionStatus
from tf_model_pool.load import LoadedModel, Signature, TensorSpec, load
from tf_model_pool.load_priority import loading, run_at_load_priority

__all__ = [
    "ForkedError",
    "HotEvent",
    "HotModel",
    "HotModelClosedError",
    "HotModelError",
    "HotModelForkedError",
    "HotModelTimeoutError",
    "HotStats",
    "InactiveWarning",
    "LoadFailed",
    "LoadPriorityError",
    "LoadStarted",
    "LoadTotals",
    "Loaded",
    "LoadedModel",
    "ModelClosedError",
    "ModelPoolError",
    "NotActiveError",
    "NotServingError",
    "PoolStats",
    "SettingError",
    "Signature",
    "StorageFailed",
    "StorageRecovered",
    "Switched",
    "TensorFlowError",
    "TensorSpec",
    "Totals",
    "Unloaded",
    "VersionLoadError",
    "VersionNotFoundError",
    "VersionStatus",
    "__version__",
    "binding",
    "build_info",
    "hot_models",
    "inactive_reason",
    "is_active",
    "link_flags",
    "load",
    "load_totals",
    "loading",
    "pool_of",
    "pools",
    "release",
    "run_at_load_priority",
    "set_max_concurrent_loads",
    "settings",
    "totals",
    "trim",
]

if TYPE_CHECKING:
    from tf_model_pool import prometheus as prometheus
    from tf_model_pool import stats as stats
else:
    # Type checkers would believe that every name is there.
    def __getattr__(name: str) -> ModuleType:
        if name in ("prometheus", "stats"):
            return importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _runs_as_command() -> bool:
    if sys.argv and sys.argv[0].rpartition("/")[2] == "tf-model-pool":
        return True
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
