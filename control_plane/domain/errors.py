"""Why a command is refused. Each message names the fault and its remedy."""

from __future__ import annotations

from traffic_policy.errors import PodlaneError


class RefusedError(PodlaneError):
    """A command cannot be carried out; nothing was changed. ``message`` says what is wrong, ``remedy`` what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        self.message = message
        self.remedy = remedy
        super().__init__(f"{message} {remedy}")


class UnknownSubjectError(RefusedError):
    """What the command is about is not there."""


class StateConflictError(RefusedError):
    """What is there does not allow it."""


class InvalidError(RefusedError):
    """The command itself is wrong."""


class NotAllowedError(RefusedError):
    """The caller may not do it."""


class UnauthenticatedError(RefusedError):
    """Nobody is known to have sent the request."""


class TooManyError(RefusedError):
    """Requests came too fast; ``wait`` is after how many seconds the next may."""

    def __init__(self, message: str, wait: int) -> None:
        self.wait = wait
        super().__init__(message, f"Wait {wait} s, and send fewer.")


class UnknownEventError(PodlaneError):
    """The store has an event that this version does not know."""
