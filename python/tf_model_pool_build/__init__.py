# SPDX-License-Identifier: Apache-2.0
"""Makes what ships: wheels, and TensorFlow with our patches. Works in a checkout, never ships.

    releases/   which wheels, sources and pins are known, and what became of each release
    series/     patches/: read, checked, applied, moved to commits and back
    wheel/      a wheel with model pools from a released wheel, without building TensorFlow
    checkouts/  other people's builds: TensorFlow Serving, TensorFlow with Bazel

`./build.sh` runs it. It may import `tf_model_pool`, which never imports it.
"""

import warnings

# That no patched TensorFlow is installed here is of no interest to those who build one.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tf_model_pool as tf_model_pool
