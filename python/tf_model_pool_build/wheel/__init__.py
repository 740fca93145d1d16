# SPDX-License-Identifier: Apache-2.0
"""Makes a TensorFlow wheel with model pools from a released wheel, without building TensorFlow.

`builder.build` runs the stages; every other module is one of them and knows nothing of the rest:

    checkout   the project that is built, and what to say without one
    releases   which wheels, which sha256, which functions to replace     (data)
    source     the wheel named on the command line, found or downloaded
    base       the same of a wheel that is patched
    toolchain  compiler, CMake, ninja, patchelf
    workspace  temporary directory, disk space, signals
    archive    reads and writes the zip; unchanged members are never recompressed
    elf        finds symbols and makes them undefined
    headers    applies patches/<release>/series to the wheel's headers
    compiling  CMake and ninja over tf_allocator/
    platform_tag  the honest manylinux tag
    notices    what is said of the work of others
    metadata   METADATA, WHEEL, RECORD, and the check of a finished wheel
    digest     what a wheel was made from, for --reuse
    progress   one line per stage on standard error
"""
