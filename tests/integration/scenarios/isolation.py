# SPDX-License-Identifier: Apache-2.0
"""Two versions alive: weights in their own version's pool, requests in none."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf

from support.isolation import request_violations, weight_violations
from support.models import CATALOGUE, HIDDEN, V1_DIM, V1_ROWS, exact_score, request, weights
from support.scenario import Context
from support.serving import (
    EagerModel,
    Scenario,
    SessionModel,
    address_of,
    eager_op_tensors,
    pool,
    pool_of,
    pools,
    session_models,
    tf_model_pool,
    traced_tensors,
    v1,
)


class Eager(Scenario):
    """`tf.saved_model.load`, where all models share one CPU device."""

    def weights_lie_in_the_pool_of_their_own_version(self) -> None:
        directory = self.context.model("ctr")
        models = {f"ctr/{n}": EagerModel(directory / str(n)) for n in (1, 2)}
        addresses = {name: model.addresses() for name, model in models.items()}
        assert weight_violations(addresses, pool_of) == []

    def pools_have_names_slots_and_states(self) -> None:
        # GIVEN two versions of one model
        directory = self.context.model("ctr")
        first, second = EagerModel(directory / "1"), EagerModel(directory / "2")
        # THEN each has a slot of its own, whose numbers fit its weights
        for name, version, model in (("ctr/1", "1", first), ("ctr/2", "2", second)):
            stats = pool(name)
            assert stats.version == version
            assert Path(stats.model_dir) == directory
            assert stats.state == "live"
            assert model.weight_bytes() <= stats.bytes_in_use <= 2 * model.weight_bytes()
            assert stats.bytes_in_use <= stats.peak_bytes_in_use <= stats.bytes_reserved
            assert stats.num_tensors >= len(model.addresses())
            assert stats.fallback_bytes == 0
        assert {pool("ctr/1").slot, pool("ctr/2").slot} == {"A", "B"}

    def pool_of_accepts_variables_tensors_and_addresses(self) -> None:
        model = EagerModel(self.context.model("ctr") / "1")
        value = model.loaded.user.read_value()
        assert tf_model_pool.pool_of(model.loaded.user) == "ctr/1"
        assert tf_model_pool.pool_of(value) == "ctr/1"
        assert tf_model_pool.pool_of(address_of(value)) == "ctr/1"
        assert tf_model_pool.pool_of(address_of(value) + value.shape.num_elements() * 4 - 1) == (
            "ctr/1"
        )
        assert tf_model_pool.pool_of(tf.constant([1.0, 2.0])) is None

    def request_tensors_lie_in_no_pool(self) -> None:
        directory = self.context.model("ctr")
        models = [EagerModel(directory / str(n)) for n in (1, 2)]
        weights_at = {address for model in models for address in model.addresses().values()}
        for model in models:
            assert request_violations(eager_op_tensors(model), weights_at, pool_of) == []

    def requests_leave_weights_where_they_are(self) -> None:
        model = EagerModel(self.context.model("ctr") / "1")
        before = (pool("ctr/1").bytes_in_use, pool("ctr/1").num_tensors)
        for index in range(3):
            model.run(request(index))
            assert (pool("ctr/1").bytes_in_use, pool("ctr/1").num_tensors) == before

    def exact_answers_are_right_for_each_version(self) -> None:
        directory = self.context.model("exact")
        models = {n: EagerModel(directory / str(n)) for n in (1, 2)}
        for version, model in models.items():
            values = weights(CATALOGUE["exact"][version - 1], version)
            for index in range(3):
                ids = request(index)
                assert model.score(ids).tobytes() == exact_score(values, ids).tobytes()

    def a_variable_changed_in_place_stays_in_its_pool(self) -> None:
        model = EagerModel(self.context.model("ctr") / "1")
        before = address_of(model.loaded.kernel.read_value())
        old = model.loaded.kernel.numpy()
        model.loaded.kernel.assign_add(tf.ones_like(old))
        assert address_of(model.loaded.kernel.read_value()) == before
        assert (model.loaded.kernel.numpy() == old + 1).all()
        assert pool_of(before) == "ctr/1"

    def a_variable_assigned_anew_leaves_its_pool(self) -> None:
        # Only restored tensors belong to a pool: an assigned value is an ordinary tensor.
        model = EagerModel(self.context.model("ctr") / "1")
        model.loaded.kernel.assign(tf.ones_like(model.loaded.kernel) * 2.0)
        assert pool_of(address_of(model.loaded.kernel.read_value())) is None


class EagerConstants(Scenario):
    """Constants where all models share a device. In a process that has restored one version."""

    def constants_lie_in_no_pool_after_a_restore(self) -> None:
        # All models share the device: a constant does not tell whose it is.
        restored = EagerModel(self.context.model("ctr") / "1")
        before = [(p.name, p.bytes_in_use, p.num_tensors) for p in pools()]
        assert [name for name, _, _ in before] == ["ctr/1"]
        directory = self.context.model("v1_frozen")
        frozen = [tf.saved_model.load(str(directory / str(n))) for n in (1, 2)]
        for model in frozen:
            model.signatures["serving_default"](ids=tf.constant(request(0)))
        restored.run(request(0))
        assert [(p.name, p.bytes_in_use, p.num_tensors) for p in pools()] == before


class Session(Scenario):
    """`tf.compat.v1.saved_model.load`, where each session has a CPU device of its own."""

    def resource_variables_lie_in_the_pool_of_their_own_version(self) -> None:
        self._check_weights("v1_resource", 0)

    def resource_variables_lie_in_their_pool_with_intra_op_threads_set(self) -> None:
        self._check_weights("v1_resource", 2)

    def partitioned_variables_lie_in_the_pool_of_their_own_version(self) -> None:
        self._check_weights("v1_partitioned", 0)

    def partitioned_variables_lie_in_their_pool_with_intra_op_threads_set(self) -> None:
        self._check_weights("v1_partitioned", 2)

    def a_tf2_model_in_a_session_lies_in_the_pool_of_its_own_version(self) -> None:
        self._check_weights("ctr", 0)

    def a_tf2_model_in_a_session_lies_in_its_pool_with_intra_op_threads_set(self) -> None:
        self._check_weights("ctr", 2)

    def pools_have_names_slots_and_states(self) -> None:
        directory = self.context.model("v1_resource")
        with session_models(directory / "1", directory / "2"):
            assert {pool(f"v1_resource/{n}").slot for n in (1, 2)} == {"A", "B"}
            assert [pool(f"v1_resource/{n}").state for n in (1, 2)] == ["live", "live"]

    def request_tensors_lie_in_no_pool(self) -> None:
        self._check_requests("ctr", 0)

    def request_tensors_lie_in_no_pool_with_intra_op_threads_set(self) -> None:
        self._check_requests("ctr", 2)

    def request_tensors_of_a_tf1_model_lie_in_no_pool(self) -> None:
        self._check_requests("v1_resource", 0)

    def step_stats_show_the_pool_of_a_restore(self) -> None:
        # The checks above read allocator names: here such a name has to appear.
        directory = self.context.model("ctr")
        prefix = str(directory / "1" / "variables" / "variables")
        name = "user/.ATTRIBUTES/VARIABLE_VALUE"
        with tf.Graph().as_default(), v1.Session() as session:
            restored = tf.raw_ops.RestoreV2(
                prefix=prefix, tensor_names=[name], shape_and_slices=[""], dtypes=[tf.float32]
            )
            metadata = v1.RunMetadata()
            session.run(
                restored,
                options=v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE),
                run_metadata=metadata,
            )
        tensors = [tensor for _, tensor in traced_tensors(metadata.step_stats)]
        assert any("model_pool" in violation for violation in request_violations(tensors, (), str))

    def unloading_a_session_empties_its_pool_only(self) -> None:
        directory = self.context.model("v1_resource")
        with session_models(directory / "1", directory / "2") as (first, second):
            before = second.run(request(0))["score"].tobytes()
            used = pool("v1_resource/2").bytes_in_use
            first.close()
            stats = pool("v1_resource/1")
            assert (stats.bytes_in_use, stats.state) == (0, "standby")
            assert pool("v1_resource/2").bytes_in_use == used
            assert second.run(request(0))["score"].tobytes() == before

    def a_third_version_takes_the_slot_of_the_first(self) -> None:
        directory = self.context.model("v1_resource")
        with session_models(directory / "1", directory / "2") as (first, _):
            slot = pool("v1_resource/1").slot
            mapped = [(p.slot, p.num_regions, p.num_mappings) for p in pools()]
            first.close()
            third = SessionModel(directory / "3")
            assert pool("v1_resource/3").slot == slot
            assert pools("v1_resource/1") == []
            assert [(p.slot, p.num_regions, p.num_mappings) for p in pools()] == mapped
            third.close()

    def reference_variables_lie_in_the_pool_of_their_own_version(self) -> None:
        directory = self.context.model("v1_reference")
        with session_models(directory / "1", directory / "2") as (first, second):
            assert first.run(request(0))["score"].tobytes() != (
                second.run(request(0))["score"].tobytes()
            )
            used = [pool(f"v1_reference/{n}").bytes_in_use for n in (1, 2)]
            assert min(used) >= 4 * V1_ROWS * V1_DIM
            first.close()
            assert pool("v1_reference/1").bytes_in_use == 0
            assert pool("v1_reference/2").bytes_in_use == used[1]

    def reference_variables_lie_in_their_pool_without_grappler(self) -> None:
        # Grappler lets Assign take any buffer over; here it does not run.
        directory = self.context.model("v1_reference")
        config = v1.ConfigProto()
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        with tf.Graph().as_default(), v1.Session(config=config) as session:
            v1.saved_model.load(session, ["serve"], str(directory / "1"))
            stats = pool("v1_reference/1")
            assert stats.bytes_in_use == 4 * (V1_ROWS * V1_DIM + V1_DIM * HIDDEN)
            # Taken over, not copied.
            assert stats.peak_bytes_in_use == stats.bytes_in_use

    def constants_lie_in_the_pool_of_what_their_session_restored(self) -> None:
        directory = self.context.model("v1_constants")
        with session_models(directory / "1", directory / "2") as models:
            for model in models:
                model.run(request(0))
            stats = [pool(f"v1_constants/{n}") for n in (1, 2)]
            expected = 4 * (V1_ROWS * V1_DIM + V1_DIM * HIDDEN)
            assert [(p.bytes_in_use, p.num_tensors) for p in stats] == [(expected, 2)] * 2
            models[0].close()
            assert pool("v1_constants/1").state == "standby"
            assert pool("v1_constants/2").bytes_in_use == expected

    def constants_of_a_session_that_restored_two_versions_lie_in_no_pool(self) -> None:
        directory = self.context.model("v1_constants")
        with tf.Graph().as_default(), v1.Session() as session:
            for n in (1, 2):
                restored = v1.train.load_checkpoint(
                    str(directory / str(n) / "variables" / "variables")
                )
                assert restored.get_variable_to_shape_map()
                v1.saved_model.load(
                    session, ["serve"], str(directory / str(n)), import_scope=f"v{n}"
                )
            before = [(p.name, p.bytes_in_use) for p in pools()]
            session.run("v1/score:0", {"v1/ids:0": request(0)})
            assert [(p.name, p.bytes_in_use) for p in pools()] == before

    def _check_weights(self, name: str, intra_threads: int) -> None:
        directory = self.context.model(name)
        with session_models(
            directory / "1", directory / "2", intra_threads=intra_threads
        ) as models:
            addresses = {
                f"{name}/{n}": model.addresses() for n, model in enumerate(models, start=1)
            }
            assert weight_violations(addresses, pool_of) == []

    def _check_requests(self, name: str, intra_threads: int) -> None:
        directory = self.context.model(name)
        with session_models(
            directory / "1", directory / "2", intra_threads=intra_threads
        ) as models:
            weights_at = {address for model in models for address in model.addresses().values()}
            for model in models:
                tensors = model.request_tensors(request(0))
                assert request_violations(tensors, weights_at, pool_of) == []


class ReleasedTensorFlow:
    """The rule is one that the released TensorFlow breaks: the checker must say so."""

    PYTHONS = ("stock",)

    def __init__(self, context: Context) -> None:
        self.context = context

    def weights_in_no_pool_are_violations(self) -> None:
        directory = self.context.model("ctr")
        models = {f"ctr/{n}": EagerModel(directory / str(n)) for n in (1, 2)}
        addresses = {name: model.addresses() for name, model in models.items()}
        violations = weight_violations(addresses, lambda _: None)
        assert sum("lies in no pool" in violation for violation in violations) == sum(
            len(variables) for variables in addresses.values()
        )

    def weights_of_two_versions_overlap(self) -> None:
        directory = self.context.model("ctr")
        models = {f"ctr/{n}": EagerModel(directory / str(n)) for n in (1, 2)}
        addresses = {name: model.addresses() for name, model in models.items()}
        assert "overlap" in " ".join(weight_violations(addresses, lambda _: None))
