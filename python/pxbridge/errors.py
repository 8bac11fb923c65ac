"""Everything pxbridge raises on purpose.

The tree::

    PxbridgeError
    ├── ConfigError              a setting that stops the start
    ├── EngineError              an engine that cannot be used for this call
    │   ├── EngineUnreachable    no connection: refused, timed out, no such host
    │   │   └── EngineUntrusted  its TLS certificate is not the one we were told to trust
    │   ├── EngineRefused        it answered the upgrade with an HTTP error
    │   ├── EngineBusy           it accepted, then said nothing: another conversation has it
    │   ├── EngineRejected       it closed, or reported an error, while it read its prompts
    │   ├── EngineLost           it was live and is gone
    │   ├── NoEngineFree         every engine is leased, or was tried for this call
    │   └── StoreUnreachable     the store that bridges share does not answer: no lease can be had
    ├── PhoneError               the phone's side broke its protocol: this call ends
    │   └── PhoneStalled         it no longer reads what we send
    ├── CallFailed               a simulated call that could not be placed
    │   └── CallRefused          the server answered its upgrade with an HTTP error
    └── InputError               a file or argument given to a command cannot be used

Bad media is counted, never raised. What a peer does wrong ends at most its own call.
"""

from __future__ import annotations


class PxbridgeError(Exception):
    """Base of everything pxbridge raises on purpose."""


class ConfigError(PxbridgeError):
    """A setting that stops the start: which one, where it came from, what would be right.

    Args:
        setting: Its name as the user wrote it (``PXBRIDGE_PORT``, ``--port``, ``port``).
        source: Where the value came from (``environment``, ``command line``, a file's path).
        problem: What is wrong with it, and what would be right.
    """

    def __init__(self, setting: str, source: str, problem: str) -> None:
        super().__init__(f"{setting} ({source}): {problem}")
        self.setting = setting
        self.source = source
        self.problem = problem


class EngineError(PxbridgeError):
    """An engine that cannot be used for this call."""


class EngineUnreachable(EngineError):
    """No connection to the engine: refused, timed out, or no such host."""


class EngineUntrusted(EngineUnreachable):
    """The engine's TLS certificate is not the one we were told to trust."""


class EngineRefused(EngineError):
    """The engine answered the WebSocket upgrade with an HTTP error.

    Args:
        status: The HTTP status it answered with.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class EngineBusy(EngineError):
    """The engine accepted and then said nothing: another conversation has it, or it is very slow."""


class EngineRejected(EngineError):
    """The engine closed, or reported an error, while it read its prompts."""


class EngineLost(EngineError):
    """The engine was live and its connection ended."""


class NoEngineFree(EngineError):
    """Every engine is leased to another call, or was already tried for this one."""


class StoreUnreachable(EngineError):
    """The store that bridges share does not answer: no lease can be had, and those that are held go on."""


class PhoneError(PxbridgeError):
    """The phone's side broke its protocol: this call ends."""


class PhoneStalled(PhoneError):
    """The phone's side no longer reads what we send."""


class CallFailed(PxbridgeError):
    """A simulated call that could not be placed: nobody answered, or not as a WebSocket server."""


class CallRefused(CallFailed):
    """The server answered a simulated call's upgrade with an HTTP error.

    Args:
        status: The HTTP status it answered with.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class InputError(PxbridgeError):
    """A file or argument given to a command cannot be used."""
