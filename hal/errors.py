"""What can go wrong in `hal`, each with a type of its own."""


class HalError(RuntimeError):
    """Base of every error that `hal` raises: what was asked, what was found, why it can't be, what to do."""


class UnavailableError(HalError):
    """An accelerator can't be used here; `hardware` says that the machine shows such a device all the same."""

    def __init__(self, message: str, *, hardware: bool = False) -> None:
        super().__init__(message)
        self.hardware = hardware


class KernelUnavailableError(HalError):
    """No provider, or not the one asked for, can serve an op under the given facts."""


class CommunicationError(HalError):
    """The process group could not be set up."""


class RedirectError(HalError):
    """A module can't be redirected to this accelerator."""
