# SPDX-License-Identifier: Apache-2.0
"""The supported releases.

- `releases`: the released wheels, and which functions are replaced in them
- `pins`: the sources that people build from, and what TensorFlow Serving pins
- `matrix`: what became of each release when it was built and tested
"""
