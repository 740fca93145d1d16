# SPDX-License-Identifier: Apache-2.0
"""Errors of the own-build routes. The root is `tf_model_pool.errors.ModelPoolError`."""

from tf_model_pool.errors import ModelPoolError


class OwnBuildError(ModelPoolError):
    """The checkout was not prepared or not built. What was there is as it was."""


class SeriesError(OwnBuildError):
    """A patch series is missing, lists what does not exist, or holds what Bazel cannot apply."""


class CheckoutError(OwnBuildError):
    """The directory is not the checkout that was expected, or was changed since."""


class WorkspaceError(OwnBuildError):
    """A WORKSPACE file does not declare TensorFlow in a known way."""


class ToolError(OwnBuildError):
    """A program is not installed; the text has the command that installs it."""


class FetchError(OwnBuildError):
    """An archive could not be downloaded, or is not the one that was expected."""
