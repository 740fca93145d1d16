# SPDX-License-Identifier: Apache-2.0
"""The patch series in other people's builds: TensorFlow Serving, and TensorFlow with Bazel.

Only the standard library is needed, so that this runs in a build container as it is.
"""
