# SPDX-License-Identifier: Apache-2.0
"""The driver whose server is a Python process. A program of its own, because it needs TensorFlow.

    PYTHON -I python_server/__main__.py --config FILE.json --output DIR

Reads the native driver's configuration and writes the same files (tf_allocator/bench/README.md).
PYTHON is the interpreter of an environment with TensorFlow. Of the package there this one imports
what a server's author would: `load` and `HotModel`. The configuration's `python` object has
`way`: how models are loaded and run ("eager", "load", "hot");
`client`: where requests come from ("socket": another process, over a connection for each request
thread; "inside": the request threads themselves);
`burner`: the native driver, whose burners are the controls;
`record`: the layout of a request in requests.bin.

A request travels by its number. The server has the inputs, as a server has them after parsing.
Exit status: 0 ok, 1 failure, 2 wrong configuration, 128 + the signal that ended it.
"""
