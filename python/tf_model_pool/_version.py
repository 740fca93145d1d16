# SPDX-License-Identifier: Apache-2.0
"""The version of the patch set, and the only place that says it.

A wheel made with it is called `<TensorFlow's version>+modelpool.<this>`.
"""

__version__ = "0.1.0"
