# SPDX-License-Identifier: Apache-2.0
"""Training code, recorded byte by byte for the comparison with the released TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from support.scenario import Context
from support.serving import pools, tf_model_pool, totals, v1, wait_until_drained


class Training:
    """Pools only ever hold what was restored, and training goes on from there."""

    PYTHONS = ("stock", "patched")

    def __init__(self, context: Context) -> None:
        self.context = context
        tf.config.experimental.enable_op_determinism()

    def _after_check(self) -> None:
        # Keras' fit keeps handles of its variables, in the released TensorFlow as well.
        if not self.context.check.startswith("keras"):
            wait_until_drained(self.context.directory)

    def keras_fits_saves_restores_and_continues(self) -> None:
        features, labels = self._data()
        model = self._keras_model()
        model.fit(features, labels, epochs=2, batch_size=64, shuffle=False, verbose=0)
        checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
        path = checkpoint.write(str(self.context.directory / "ckpt-1"))
        self._record("first", model)
        continued = model.fit(features, labels, epochs=1, batch_size=64, shuffle=False, verbose=0)
        self._record("continued", model)

        # WHEN a fresh model goes on from the checkpoint
        fresh = self._keras_model()
        fresh.train_on_batch(features[:64], labels[:64])
        restored = tf.train.Checkpoint(model=fresh, optimizer=fresh.optimizer)
        restored.read(path).assert_existing_objects_matched()
        again = fresh.fit(features, labels, epochs=1, batch_size=64, shuffle=False, verbose=0)

        # THEN it ends where the first one did
        assert again.history == continued.history
        for old, new in zip(model.get_weights(), fresh.get_weights(), strict=True):
            assert old.tobytes() == new.tobytes()
        self.context.record("losses", [float(x).hex() for x in continued.history["loss"]])

    def keras_weights_survive_a_file(self) -> None:
        features, labels = self._data()
        model = self._keras_model()
        model.fit(features, labels, epochs=1, batch_size=64, shuffle=False, verbose=0)
        path = str(self.context.directory / "model.weights.h5")
        model.save_weights(path)
        fresh = self._keras_model()
        fresh.load_weights(path)
        assert fresh.predict(features[:8], verbose=0).tobytes() == (
            model.predict(features[:8], verbose=0).tobytes()
        )
        self._record("weights", fresh)

    def a_training_loop_that_saves_and_restores_goes_on(self) -> None:
        table = tf.Variable(tf.random.stateless_normal([20000, 16], [1, 2]), name="table")
        step = tf.Variable(0, dtype=tf.int64, name="step")
        checkpoint = tf.train.Checkpoint(table=table, step=step)
        manager = tf.train.CheckpointManager(
            checkpoint, str(self.context.directory / "loop"), max_to_keep=3
        )

        @tf.function  # type: ignore[untyped-decorator]
        def train(ids: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(tf.gather(table, ids) - 1.0))
            gradient = tf.convert_to_tensor(tape.gradient(loss, table))
            table.assign_sub(100.0 * gradient)
            step.assign_add(1)
            return loss

        for turn in range(8):
            loss = train(tf.range(turn * 100, turn * 100 + 2000))
            self.context.record(f"loss {turn}", float(loss.numpy()).hex())
            path = manager.save()
            saved = table.numpy()
            table.assign(tf.zeros_like(table))
            checkpoint.restore(path).assert_consumed()
            assert np.array_equal(table.numpy(), saved)
        self.context.record_array("table", table.numpy())
        assert int(step.numpy()) == 8
        # A pool for every checkpoint of a loop would grow without end.
        assert len([stats for stats in pools() if stats.bytes_in_use]) <= 2

    def a_session_trains_saves_and_restores(self) -> None:
        for use_resource in (True, False):
            with tf.Graph().as_default(), v1.Session() as session:
                table = v1.get_variable(
                    "table",
                    initializer=tf.random.stateless_normal([5000, 16], [3, 4]),
                    use_resource=use_resource,
                )
                loss = tf.reduce_mean(tf.square(table - 1.0))
                update = v1.train.GradientDescentOptimizer(1000.0).minimize(loss)
                saver = v1.train.Saver()
                session.run(v1.global_variables_initializer())
                for turn in range(3):
                    session.run(update)
                    path = saver.save(session, str(self.context.directory / "session"), turn)
                    expected = session.run(table)
                    session.run(table.assign(tf.zeros([5000, 16])))
                    saver.restore(session, path)
                    assert np.array_equal(session.run(table), expected)
                self.context.record_array(f"table resource={use_resource}", session.run(table))

    def restored_tensors_had_pools(self) -> None:
        # Otherwise the comparison says nothing.
        if tf_model_pool is not None:
            assert totals().num_mappings > 0
            assert totals().fallback_loads == 0

    def _data(self) -> tuple[Any, Any]:
        rng = np.random.default_rng(17)
        features = rng.standard_normal((512, 20), dtype=np.float32)
        return features, (features.sum(axis=1, keepdims=True) > 0).astype(np.float32)

    def _keras_model(self) -> Any:
        tf.keras.utils.set_random_seed(23)
        model = tf.keras.Sequential(
            [
                tf.keras.layers.Input([20]),
                tf.keras.layers.Dense(256, activation="relu"),
                tf.keras.layers.Dense(256, activation="relu"),
                tf.keras.layers.Dense(1, activation="sigmoid"),
            ]
        )
        model.compile(optimizer="adam", loss="binary_crossentropy")
        return model

    def _record(self, label: str, model: Any) -> None:
        for index, array in enumerate(model.get_weights()):
            self.context.record_array(f"{label}/{index}", array)
