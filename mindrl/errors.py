"""The one exception that means: this request can't be served (exit code 2), as opposed to a failure (1)."""


class RequestError(ValueError):
    """What was asked, what was found, why it can't be, what to do: in that order, in the message."""
