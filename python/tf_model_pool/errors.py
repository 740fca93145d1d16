# SPDX-License-Identifier: Apache-2.0
"""Every error that this package raises on purpose. The root is `ModelPoolError`."""


class ModelPoolError(Exception):
    """Root of this package's errors; the text says what was found and what was expected."""


class SettingError(ModelPoolError):
    """A `TF_MODEL_POOL*` variable has a value that is not allowed."""


class NotActiveError(ModelPoolError):
    """The call needs the patched TensorFlow, and this process does not run it."""


class LoadPriorityError(ModelPoolError):
    """A thread's priority could not be raised again after it was lowered."""


class RunError(ModelPoolError):
    """`run` did not start the program.

    Attributes:
        status: the exit status that says so, as env(1) has it: 125, 126 or 127.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class BuildError(ModelPoolError):
    """The patched wheel was not made. Nothing is left behind."""


class ToolMissingError(BuildError):
    """A program or a header that the build needs is not installed."""


class CompileError(BuildError):
    """CMake or the compiler failed; the text ends with their last lines."""


class UnsupportedWheelError(BuildError):
    """This version, package, platform or Python is not in the table of releases."""


class DownloadError(BuildError):
    """pip could not get the released wheel."""


class ChecksumError(BuildError):
    """A wheel's sha256 is not the one of the release."""


class CorruptWheelError(BuildError):
    """The file is not a wheel, or is damaged."""


class AlreadyPatchedError(BuildError):
    """The input already contains model pools."""


class SymbolError(BuildError):
    """A function that must be replaced is missing, ambiguous, or not bound by its symbol."""


class HeaderPatchError(BuildError):
    """A header patch does not fit the wheel's header."""


class PlatformTagError(BuildError):
    """No manylinux policy allows what the compiled objects need."""


class DiskSpaceError(BuildError):
    """There is not enough room for the build."""


class BuildInterruptedError(BuildError):
    """A signal stopped the build.

    Attributes:
        signal_number: the signal, for the exit status 128 + number that shells expect.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"interrupted by signal {signal_number}; nothing is left behind")
        self.signal_number = signal_number


class PatchError(ModelPoolError):
    """A patch series breaks a rule, does not fit the sources, or could not be moved."""
