# SPDX-License-Identifier: Apache-2.0
"""The C interface answers as the native module does, the package works over it alone, ABI flags."""

from __future__ import annotations

import dataclasses
import gc
import shutil
import sys
from pathlib import Path
from typing import Any

import tensorflow as tf

from support.serving import EagerModel, Scenario, tf_model_pool

_NATIVE = "tf_model_pool._native"
#: What JSON has to escape, and what is not ASCII.
_NAME = 'tab\t "quotes" é'


def _fields(kind: Any, source: Any) -> dict[str, Any]:
    return {field.name: getattr(source, field.name) for field in dataclasses.fields(kind)}


class Bindings(Scenario):
    """One process that asks in both ways."""

    MODES = ("system",)

    def _load(self) -> dict[int, EagerModel]:
        directory = self.context.model("exact", copy_to=_NAME)
        return {version: EagerModel(directory / str(version)) for version in (1, 2)}

    def both_give_the_same_answers(self) -> None:
        from tf_model_pool import _c_interface

        tf_model_pool.pools()  # has loaded the native module, where the wheel has one
        native = sys.modules.get(_NATIVE, tf_model_pool.api._load_native())
        models = self._load()
        address = next(iter(models[2].addresses().values()))
        for asked in (native, _c_interface):
            pools = [_fields(tf_model_pool.PoolStats, pool) for pool in asked.list_pools()]
            assert pools == [dataclasses.asdict(pool) for pool in tf_model_pool.pools()]
            totals = _fields(tf_model_pool.Totals, asked.totals())
            assert totals == dataclasses.asdict(tf_model_pool.totals())
            loads = _fields(tf_model_pool.LoadTotals, asked.load_totals())
            assert loads == dataclasses.asdict(tf_model_pool.load_totals())
            assert asked.pool_of(address) == f"{_NAME}/2"
            assert asked.pool_of(0) == ""
            status = asked.status()
            assert (status.active, status.code, status.reason) == (True, "active", "")
            assert asked.settings() == tf_model_pool.settings()
        del models[1]
        gc.collect()
        (standby,) = [p for p in _c_interface.list_pools() if p.state == "standby"]
        assert _c_interface.trim() >= standby.bytes_reserved > 0
        assert native.trim() == 0

    def the_library_was_compiled_with_the_flags_of_this_tensorflow(self) -> None:
        flags = tf.sysconfig.get_compile_flags()
        abi = {flag for flag in flags if not flag.startswith(("-I", "--std"))}
        assert set(tf_model_pool.build_info()["compile_flags"].split()) == abi

    def a_package_without_a_native_module_works(self) -> None:
        # GIVEN the package as a wheel without the module installs it
        api = tf_model_pool.api
        installed: Path = api._PACKAGE_DIR
        bare = self.context.directory / "tf_model_pool"
        bare.mkdir()
        shutil.copy(installed / "build_info.json", bare)
        native = sys.modules.pop(_NATIVE, None)
        api._PACKAGE_DIR = bare
        try:
            # THEN it says so, and answers
            assert (tf_model_pool.binding(), tf_model_pool.build_info()["binding"]) == ("c", "c")
            assert tf_model_pool.is_active()
            models = self._load()
            assert [pool.version for pool in tf_model_pool.pools()][-2:] == ["1", "2"]
            address = next(iter(models[1].addresses().values()))
            assert tf_model_pool.pool_of(address) == f"{_NAME}/1"
            assert tf_model_pool.totals().num_pools >= 2
            assert tf_model_pool.settings()["TF_MODEL_POOL"] == "on"
            assert _NATIVE not in sys.modules
        finally:
            api._PACKAGE_DIR = installed
            if native is not None:
                sys.modules[_NATIVE] = native
