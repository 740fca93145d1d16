# SPDX-License-Identifier: Apache-2.0
"""Every error that this package raises on purpose. The root is `ModelPoolError`."""

#: Of absl::StatusCode, which are those of `tf.errors`.
_CODE_NAMES = {
    1: "CANCELLED",
    2: "UNKNOWN",
    3: "INVALID_ARGUMENT",
    4: "DEADLINE_EXCEEDED",
    5: "NOT_FOUND",
    6: "ALREADY_EXISTS",
    7: "PERMISSION_DENIED",
    8: "RESOURCE_EXHAUSTED",
    9: "FAILED_PRECONDITION",
    10: "ABORTED",
    11: "OUT_OF_RANGE",
    12: "UNIMPLEMENTED",
    13: "INTERNAL",
    14: "UNAVAILABLE",
    15: "DATA_LOSS",
    16: "UNAUTHENTICATED",
}


class ModelPoolError(Exception):
    """Root of this package's errors; the text says what was found and what was expected.

    Attributes:
        exit_status: of the command line that the error ends.
    """

    exit_status = 1


class SettingError(ModelPoolError):
    """A `TF_MODEL_POOL*` variable has a value that is not allowed."""


class NotActiveError(ModelPoolError):
    """The call needs the patched TensorFlow, and this process does not run it."""


class LoadPriorityError(ModelPoolError):
    """A thread's priority could not be raised again after it was lowered."""


class TensorFlowError(ModelPoolError):
    """TensorFlow failed to load or to run a model.

    Attributes:
        code: as in `tf.errors`: 3 is `tf.errors.INVALID_ARGUMENT`.
        code_name: its name, `INVALID_ARGUMENT`.
        message: TensorFlow's text.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.code_name = _CODE_NAMES.get(code, f"code {code}")
        self.message = message

    def __str__(self) -> str:
        return f"{self.code_name}: {self.message}"


class ModelClosedError(ModelPoolError):
    """A `LoadedModel` was called after it was closed, or `load` while the interpreter ends."""


class ForkedError(ModelPoolError):
    """TensorFlow's threads stayed with the process that this one was forked from."""


class HotModelError(ModelPoolError):
    """A `HotModel` cannot do what was asked. Root of the errors that name one."""


class NotServingError(HotModelError):
    """No version of a `HotModel` served for as long as a call waits; the text says why."""


class VersionNotFoundError(HotModelError):
    """`HotModel.reload` was given a version that has no directory."""


class VersionLoadError(HotModelError):
    """`HotModel.reload` was given a version that does not load; `__cause__` says why."""


class HotModelClosedError(HotModelError, ModelClosedError):
    """The `HotModel` is closed, or was while the call waited."""


class HotModelForkedError(HotModelError, ForkedError):
    """The `HotModel` was made before fork(), by the parent of this process."""


class HotModelTimeoutError(HotModelError, TimeoutError):
    """What a `HotModel` was asked to wait for has not come in time."""


class RunError(ModelPoolError):
    """`run` did not start the program.

    Attributes:
        status: the exit status that says so, as env(1) has it: 125, 126 or 127.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
