# SPDX-License-Identifier: Apache-2.0
"""The hot-swap latency benchmark: `python -m tf_model_pool bench`; see docs/benchmark.md.

Layers, each using only those above it: `records` (the driver's files), `models` and `config`
(what is measured), `machine` (where), `analysis` (raw records to numbers), `run` (the
orchestrator), `report` and `gate` (results to people and to CI), `command`.
Importing this package needs neither TensorFlow nor the requirements of the extra `bench`.
"""
