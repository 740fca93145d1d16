# SPDX-License-Identifier: Apache-2.0
"""A web server that changes models under load: FastAPI, uvicorn, `tf_model_pool.HotModel`.

    MODEL=models/ctr uvicorn --app-dir docs/examples fastapi_server:app

    curl localhost:8000/predict -H 'content-type: application/json' \\
        -d '{"inputs": {"ids": [[1, 2, 3, 4, 5, 6, 7, 8]]}}'
    curl localhost:8000/healthz
    curl localhost:8000/metrics

A new version is a new directory, models/ctr/2 beside models/ctr/1. `uvicorn --workers N` is fine:
each worker starts the application anew, so each has a HotModel of its own.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import prometheus_client
from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import BaseModel

import tf_model_pool
import tf_model_pool.prometheus


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # Here and not at import, so that it is made in the process that serves.
    with tf_model_pool.HotModel(os.environ["MODEL"]) as hot:
        app.state.hot = hot
        yield


app = FastAPI(lifespan=lifespan)
tf_model_pool.prometheus.register()


class Prediction(BaseModel):
    signature: str = "serving_default"
    inputs: dict[str, Any]
    outputs: list[str] | None = None


@app.post("/predict")
async def predict(prediction: Prediction, request: Request) -> dict[str, Any]:
    signature = request.app.state.hot.signatures[prediction.signature]
    try:
        # On another thread, without the interpreter's lock; this one takes the next request.
        answer = await signature.call_async(prediction.inputs, outputs=prediction.outputs)
    except tf_model_pool.NotServingError as error:
        raise HTTPException(503, str(error)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise HTTPException(400, str(error)) from error
    return {"outputs": {name: value.tolist() for name, value in answer.items()}}


@app.get("/healthz")
async def healthz(request: Request) -> dict[str, Any]:
    """For the load balancer: 503 until the first version serves."""
    hot = request.app.state.hot
    if hot.version is None:
        raise HTTPException(503, "no version serves yet")
    return {"version": hot.version}


@app.get("/metrics")
async def metrics() -> Response:
    return Response(
        prometheus_client.generate_latest(), media_type=prometheus_client.CONTENT_TYPE_LATEST
    )
