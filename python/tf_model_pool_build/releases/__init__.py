# SPDX-License-Identifier: Apache-2.0
"""The supported releases.

- `releases`: the table: wheels, replaced functions, sources, what TensorFlow Serving pins
- `matrix`: what became of each release when it was built and tested
"""
