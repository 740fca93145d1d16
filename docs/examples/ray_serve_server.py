# SPDX-License-Identifier: Apache-2.0
"""Models on more than one machine: Ray Serve, with a `tf_model_pool.HotModel` in each replica.

    MODEL=models/ctr serve run --app-dir docs/examples ray_serve_server:app

    curl localhost:8000 -H 'content-type: application/json' -d '{"ids": [[1, 2, 3, 4, 5, 6, 7, 8]]}'

Two kinds of update, in neither of which a request fails:

- A new version of the model is a new directory, models/ctr/2 beside models/ctr/1. Each replica
  loads it beside the old one and switches.
- New code is a rolling update of Ray's: a new replica takes requests once `__init__` has returned,
  and an old one is stopped when it has answered those it has.

`user_config` pins a version, `{"version": 3}`, or follows the newest, `{"version": null}`.
"""

import os
from typing import Any

import numpy as np
from ray import serve
from starlette.requests import Request

import tf_model_pool


@serve.deployment(
    num_replicas=2,
    max_ongoing_requests=16,
    ray_actor_options={"num_cpus": float(os.environ.get("CPUS_PER_REPLICA", "1"))},
    user_config={"version": None},
    health_check_period_s=5,
)
class Ranker:
    def __init__(self, base_path: str) -> None:
        # A replica is a process of its own, so this is after any fork.
        self.hot = tf_model_pool.HotModel(base_path)
        self.hot.wait_for(timeout=600)

    def reconfigure(self, config: dict[str, Any]) -> None:
        """Ray calls this in each replica, with `user_config`."""
        self.hot.reload(config["version"], timeout=600)

    def check_health(self) -> None:
        """Ray replaces a replica that raises here."""
        if self.hot.version is None:
            raise RuntimeError("no version serves")

    async def __call__(self, request: Request) -> dict[str, Any]:
        inputs = {
            name: np.asarray(value, np.int32) for name, value in (await request.json()).items()
        }
        # Another thread runs the model, so this replica takes the next request meanwhile.
        answer = await self.hot.call_async(inputs)
        return {
            "replica": serve.get_replica_context().replica_id.unique_id,
            **{name: value.tolist() for name, value in answer.items()},
        }

    def __del__(self) -> None:
        if hasattr(self, "hot"):
            self.hot.close()


app = Ranker.bind(os.environ.get("MODEL", "models/ctr"))  # type: ignore[attr-defined]
