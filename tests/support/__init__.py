# SPDX-License-Identifier: Apache-2.0
"""Helpers of the tests: models, checkpoints, child processes and what they measure."""
