# SPDX-License-Identifier: Apache-2.0
"""The patch series in patches/: for people who build TensorFlow themselves.

- `patch`: one patch file, read
- `listing`: the patches of a release, in order
- `tree`: the files that a series changes
- `generated`: the patch that brings tf_allocator/ into TensorFlow's tree
- `checkout`: a series as commits on a checkout, and back
- `check`: the rules
- `sources`: what each series was made from
- `verify`: patched sources in a released wheel, under the integration tests
- `command`: the command line
"""
