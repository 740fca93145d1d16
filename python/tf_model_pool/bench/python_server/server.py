# SPDX-License-Identifier: Apache-2.0
"""The server in Python, and the command that runs it once."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from .burner import Burner
from .closed_loop import ClosedLoop
from .open_loop import REQUEST, OpenLoop, run_client
from .run_log import Pools, RunLog, Sampler, now_ns, write_whole
from .versions import Hot, Model, Served
from .ways import Eager, Load, checksum

RESULT_SCHEMA = "tf_model_pool.bench.result/1"
_CODES = {"<i8": "q", "<i4": "i", "<i2": "h", "<f8": "d"}
_LEAD_NS = 50_000_000


class ConfigError(Exception):
    """The configuration cannot be used; the text says what of it."""


class Server:
    """Answers requests by model and number, with the record's bytes."""

    def __init__(self, config: dict[str, Any], models: Sequence[Served], log: RunLog) -> None:
        fields = config["python"]["record"]
        self._record = struct.Struct("<" + "".join(_CODES[kind] for _, kind in fields))
        self._names = [name for name, _ in fields]
        self._models = models
        self._log = log

    def answer(self, model: int, number: int) -> bytes:
        start = self._log.now()
        before = resource.getrusage(resource.RUSAGE_THREAD)
        served = self._models[model]
        values: dict[str, Any] = dict.fromkeys(self._names, 0)
        values |= {"start_ns": start, "version": -1}
        try:
            with served.use() as (values["version"], loaded):
                inputs = served.requests[number % len(served.requests)]
                outputs = served.way.run(loaded, inputs)
        except Exception as error:
            values["status"] = 1
            if len(self._log.found["errors"]) < 20:
                self._log.found["errors"].append(f"{served.name}: {error}")
        else:
            values["checksum"] = checksum(outputs)
        after = resource.getrusage(resource.RUSAGE_THREAD)
        values |= {
            "minor_faults": after.ru_minflt - before.ru_minflt,
            "major_faults": after.ru_majflt - before.ru_majflt,
            "voluntary_switches": after.ru_nvcsw - before.ru_nvcsw,
            "involuntary_switches": after.ru_nivcsw - before.ru_nivcsw,
        }
        return self._record.pack(*(values[name] for name in self._names))

    def serve(self, connection: socket.socket) -> None:
        """A request thread: answers what comes over its connection, until that is closed."""
        with connection:
            while True:
                request = connection.recv(REQUEST.size, socket.MSG_WAITALL)
                if len(request) < REQUEST.size:
                    return
                connection.sendall(self.answer(*REQUEST.unpack(request)))


class Timeline(threading.Thread):
    """Lets the configuration's timeline happen. Updates run on a thread of their own."""

    def __init__(self, config: dict[str, Any], models: Sequence[Served], log: RunLog) -> None:
        super().__init__(daemon=True)
        self._entries = config.get("timeline", [])
        self._by_name = {model.name: model for model in models}
        self._log = log
        self._updates: dict[str, threading.Thread] = {}
        burning = any(entry["action"].startswith("burn_") for entry in self._entries)
        self._burner = Burner(config["python"]["burner"]) if burning else None

    def run(self) -> None:
        for entry in self._entries:
            time.sleep(max(0, entry["at_s"] - self._log.now() / 1e9))
            if self._burner is not None and entry["action"] != "update":
                self._burner.burn(entry, self._log)
                continue
            for name in entry["models"]:
                before = self._updates.get(name)
                self._updates[name] = threading.Thread(
                    target=self._update, args=(self._by_name[name], before), daemon=True
                )
                self._updates[name].start()
        for thread in self._updates.values():
            thread.join()

    def close(self) -> None:
        """Ends the burner."""
        if self._burner is not None:
            self._burner.close()

    def _update(self, model: Served, before: threading.Thread | None) -> None:
        if before is not None:
            before.join()
        try:
            model.update()
        except Exception as error:
            self._log.found["errors"].append(f"{model.name}: {error}")


@contextlib.contextmanager
def _client_process(
    config_file: Path, output: Path, server: Server, threads: int
) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """The client, connected, and the connection that tells it when to begin."""
    ours, theirs = [], []
    for _ in range(threads + 1):
        a, b = socket.socketpair()
        ours.append(a)
        theirs.append(b)
    descriptors = [each.fileno() for each in theirs]
    program = Path(__file__).with_name("__main__.py")
    command = [sys.executable, "-I", str(program), "--config", str(config_file)]
    command += ["--output", str(output), "--client", ",".join(map(str, descriptors))]
    client = subprocess.Popen(command, pass_fds=descriptors)
    for each in theirs:
        each.close()
    for connection in ours[1:]:
        threading.Thread(target=server.serve, args=(connection,), daemon=True).start()
    try:
        yield client, ours[0]
    finally:
        if client.poll() is None:
            client.kill()
        client.wait()


def _make(config: dict[str, Any], log: RunLog, pools: Pools, scratch: Path) -> list[Served]:
    ways: dict[str, type[Eager] | type[Load]] = {"eager": Eager, "load": Load}
    made: list[Served] = []
    for model in config["models"]:
        way = config["python"]["way"]
        if way == "hot":
            made.append(Hot(model, log, pools, scratch / model["name"]))
        elif way in ways:
            made.append(Model(model, ways[way](model), log, pools))
        else:
            raise ConfigError(f"python.way: {way!r}; allowed: eager, load, hot")
    return made


def run_server(config: dict[str, Any], config_file: Path, output: Path) -> int:
    """Serves one run and writes its two files."""
    if cpus := config["load"].get("server_cpus"):
        os.sched_setaffinity(0, cpus)
    output.mkdir(parents=True, exist_ok=True)
    log, pools = RunLog(), Pools()
    threads = config["load"]["request_threads"]
    models = _make(config, log, pools, output / "versions")
    server = Server(config, models, log)
    timeline, sampler = Timeline(config, models, log), Sampler(log)

    def begin() -> int:
        log.zero_ns = now_ns() + _LEAD_NS
        log.clear()  # what the first load left
        sampler.start()
        timeline.start()
        print("python_server: running", flush=True)
        return log.zero_ns

    with contextlib.closing(timeline):
        if config["load"]["arrival"] == "closed":
            begin()
            closed = ClosedLoop(config, models[0], threads)
            write_whole(output / "requests.bin", closed.records.tobytes())
        elif config["python"]["client"] == "inside":
            loop = OpenLoop(config, [server.answer] * threads, begin())
            loop.join()
            write_whole(output / "requests.bin", loop.records.tobytes())
        else:
            with _client_process(config_file, output, server, threads) as (client, control):
                control.recv(1)
                control.sendall(struct.pack("<q", begin()))
                if client.wait() != 0:
                    raise RuntimeError(f"the client ended with status {client.returncode}")
        timeline.join()
    sampler.stop()
    result = {
        "schema": RESULT_SCHEMA,
        "config": config,
        "pools_active": pools.active(),
        "pool_status": pools.status(),
        "duration_ns": log.now(),
        "interrupted": False,
        "dropped": 0,
        **log.found,
    }
    for model in models:
        model.close()
    shutil.rmtree(output / "versions", ignore_errors=True)
    write_whole(output / "result.json", json.dumps(result).encode())
    for error in log.found["errors"]:
        print(f"python_server: {error}", file=sys.stderr)
    return 1 if log.found["errors"] else 0


def main() -> int:
    """Runs what the arguments say."""
    parser = argparse.ArgumentParser(description="A Python server under load; see bench/README.md")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--client", help=argparse.SUPPRESS)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        config = json.loads(args.config.read_text(encoding="utf-8"))
        if args.client:
            control, *connections = map(int, args.client.split(","))
            run_client(config, args.output, connections, control)
            return 0
        return run_server(config, args.config, args.output)
    except (ConfigError, RuntimeError, OSError, json.JSONDecodeError) as error:
        print(f"python_server: {args.config}: {error}", file=sys.stderr)
        return 2
