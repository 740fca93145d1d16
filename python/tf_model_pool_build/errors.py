# SPDX-License-Identifier: Apache-2.0
"""Every error that the tooling raises on purpose. The root is the package's `ModelPoolError`."""

from tf_model_pool.errors import ModelPoolError


class BuildError(ModelPoolError):
    """What was asked for was not made. What was there is as it was, and nothing is left behind."""


class ToolMissingError(BuildError):
    """A program or a header that the build needs is not installed."""


class CompileError(BuildError):
    """CMake or the compiler failed; the text ends with their last lines."""


class UnsupportedWheelError(BuildError):
    """This version, package, platform or Python is not in the table of releases."""


class DownloadError(BuildError):
    """A released wheel or an archive of sources could not be had, or is not the expected one."""


class ChecksumError(BuildError):
    """A wheel's sha256 is not the one of the release."""


class CorruptWheelError(BuildError):
    """The file is not a wheel, or is damaged."""


class AlreadyPatchedError(BuildError):
    """The input already contains model pools."""


class SymbolError(BuildError):
    """A function that must be replaced is missing, ambiguous, or not bound by its symbol."""


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
        self.exit_status = 128 + signal_number


class PatchError(BuildError):
    """A patch series breaks a rule, does not fit, or could not be moved. All is as it was."""


class CheckoutError(BuildError):
    """The directory is not the checkout that was expected, or was changed since."""


class WorkspaceError(BuildError):
    """A WORKSPACE file does not declare TensorFlow in a known way."""
