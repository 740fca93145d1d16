# SPDX-License-Identifier: Apache-2.0
"""What models answer, recorded byte by byte for the comparison with the released TensorFlow."""

from __future__ import annotations

import re

import numpy as np
import tensorflow as tf

from support.models import request
from support.scenario import Context
from support.serving import EagerModel, session_models


class _Outputs:
    def __init__(self, context: Context) -> None:
        self.context = context

    def eager_answers(self) -> None:
        directory = self.context.shared_model("ctr")
        models = [EagerModel(directory / str(n)) for n in (1, 2)]
        for version, model in enumerate(models, start=1):
            for index in range(3):
                for name, tensor in model.run(request(index)).items():
                    self.context.record_array(f"{version}/{index}/{name}", tensor.numpy())

    def eager_answers_of_every_type_of_variable(self) -> None:
        model = EagerModel(self.context.shared_model("ctr") / "1")
        for name, tensor in model.loaded.signatures["describe"]().items():
            self.context.record_array(name, np.asarray(tensor.numpy()))

    def eager_weights(self) -> None:
        model = EagerModel(self.context.shared_model("ctr") / "2")
        for name, variable in model.variables.items():
            self.context.record_array(name, np.asarray(variable.numpy()))

    def eager_answers_of_a_big_model(self) -> None:
        model = EagerModel(self.context.shared_model("big") / "1")
        self.context.record_array("score", model.score(request(0)))

    def session_answers(self) -> None:
        self._record_sessions(0)

    def session_answers_with_intra_op_threads_set(self) -> None:
        self._record_sessions(2)

    def error_of_a_constant_that_cannot_be_parsed(self) -> None:
        graph = tf.Graph()
        with graph.as_default():
            tf.constant([0.5] * 2000, name="cut")
        broken = graph.as_graph_def()
        broken.node[0].attr["value"].tensor.tensor_content = b"abcd"
        directory = self.context.shared_model("v1_constants")
        with session_models(directory / "1") as (model,), model.session.graph.as_default():
            tf.import_graph_def(broken, name="broken")
            try:
                model.session.run("broken/cut:0")
            except tf.errors.InvalidArgumentError as error:
                # Protobuf puts a text before the fields that differs between processes.
                message = re.sub(r"goo\.gle/debug\w+ +", "", error.message)
                self.context.record("error", message)
        assert "Cannot parse tensor from proto" in self.context.records["error"]

    def _record_sessions(self, intra_threads: int) -> None:
        for name in (
            "ctr",
            "v1_resource",
            "v1_partitioned",
            "v1_reference",
            "v1_frozen",
            "v1_constants",
        ):
            directory = self.context.shared_model(name)
            with session_models(
                directory / "1", directory / "2", intra_threads=intra_threads
            ) as models:
                for version, model in enumerate(models, start=1):
                    for output, array in model.run(request(version)).items():
                        self.context.record_array(f"{name}/{version}/{output}", array)


class Outputs(_Outputs):
    """With pools as they are by default."""

    PYTHONS = ("stock", "patched")


class OutputsWithPoolsOff(_Outputs):
    """With `TF_MODEL_POOL=off`."""

    SETTINGS = ("TF_MODEL_POOL=off",)
    PYTHONS = ("stock", "patched")


class NativeReference:
    """What the native program's answers are compared with."""

    PYTHONS = ("stock",)

    def __init__(self, context: Context) -> None:
        self.context = context

    def session_answers_intra_0(self) -> None:
        self._record(0)

    def session_answers_intra_2(self) -> None:
        self._record(2)

    def _record(self, intra_threads: int) -> None:
        for name in ("ctr", "v1_resource", "v1_partitioned", "v1_frozen", "v1_constants"):
            for directory in sorted(self.context.shared_model(name).iterdir()):
                with session_models(directory, intra_threads=intra_threads) as (model,):
                    for output, array in model.run(request(0)).items():
                        self.context.record_array(f"{name}/{directory.name}/{output}", array)
