"""Everything that pxbridge raises on purpose, by whose fault it is.

The tree::

    PxbridgeError
    ├── OperatorError            the operator of pxbridge has to change something
    │   ├── ConfigError          a setting that stops the start
    │   └── DatabaseTooNew       a newer pxbridge has written the database
    ├── InputError               a file or an argument of a command cannot be used
    │   ├── NoSuchCall           no live call has this id
    │   ├── CallConflict         several live calls fit this id, or the call is ending already
    │   ├── NoSuchVoice          no voice of the engine has this name
    │   ├── PromptTooLong        voice and text prompt take more positions than the model remembers
    │   └── BadQuery             a client of the engine sent a query that cannot be served
    └── PeerError                the other end of a connection
        ├── EngineError          an engine that cannot be used for this call
        │   ├── EngineUnreachable    no connection: refused, timed out, no such host
        │   │   └── EngineUntrusted  its TLS certificate is not the one in the settings
        │   ├── EngineRefused    it answered the upgrade with an HTTP error
        │   ├── EngineBusy       it accepted, then sent nothing: it has another conversation
        │   │   └── EngineFull       it says that it is busy or restarting
        │   ├── EngineRejected   it does not accept the persona, or failed while it read its prompts
        │   ├── EngineLost       its connection ended during the conversation
        │   └── NoEngineFree     every engine is leased, or was already tried for this call
        ├── StoreUnreachable     the store that bridges share, or a single bridge's file, does not answer
        ├── HandshakeFailed      the other end does not answer as a WebSocket server
        │   └── HandshakeRefused     it answered the upgrade with an HTTP error
        ├── CallFailed           a simulated call that could not be placed
        │   └── CallRefused      the server answered its upgrade with an HTTP error
        ├── BenchFailed          a process that a bench needs did not start
        └── TunnelFailed         a tunnel did not open, or is lost

Bad media is counted, never raised. What a peer does wrong ends at most its own call. A fault of pxbridge's
own is none of these: it is an ordinary exception, and is logged with its traceback.
"""

from __future__ import annotations


class PxbridgeError(Exception):
    """Base of everything that pxbridge raises on purpose."""


# -- the operator's -----------------------------------------------------------------------------------------


class OperatorError(PxbridgeError):
    """The operator of pxbridge has to change something."""


class ConfigError(OperatorError):
    """A setting that stops the start: which one, where it came from, and what would be right.

    Args:
        setting: Its name as the operator wrote it (``PXBRIDGE_PORT``, ``--port``, ``port``).
        source: Where the value came from (``environment``, ``command line``, a file's path).
        problem: What is wrong with it, and what would be right.
    """

    def __init__(self, setting: str, source: str, problem: str) -> None:
        super().__init__(f"{setting} ({source}): {problem}")
        self.setting = setting
        self.source = source
        self.problem = problem


class DatabaseTooNew(OperatorError):
    """A newer pxbridge has written the database. It is left alone."""


# -- the user's ---------------------------------------------------------------------------------------------


class InputError(PxbridgeError):
    """A file or an argument that was given to a command cannot be used."""


class NoSuchCall(InputError):
    """No live call has this id."""


class CallConflict(InputError):
    """Several live calls fit this id, or the call is ending already."""


class NoSuchVoice(InputError):
    """No voice of the engine has this name."""


class PromptTooLong(InputError):
    """Voice and text prompt together take more positions than the model remembers."""


class BadQuery(InputError):
    """A client of the engine sent a query that cannot be served.

    Args:
        parameter: The query's parameter that is wrong.
        problem: What is wrong with it, and what would be right.
    """

    def __init__(self, parameter: str, problem: str) -> None:
        super().__init__(f"{parameter}: {problem}")
        self.parameter = parameter
        self.problem = problem


# -- a peer's -----------------------------------------------------------------------------------------------


class PeerError(PxbridgeError):
    """The other end of a connection does not answer, or not as it should."""


class EngineError(PeerError):
    """An engine that cannot be used for this call."""


class EngineUnreachable(EngineError):
    """No connection to the engine: refused, timed out, or no such host."""


class EngineUntrusted(EngineUnreachable):
    """The engine's TLS certificate is not the one that the settings name."""


class EngineRefused(EngineError):
    """The engine answered the WebSocket upgrade with an HTTP error.

    Args:
        message: The error's text.
        status: The HTTP status it answered with.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class EngineBusy(EngineError):
    """The engine accepted and then sent nothing: it has another conversation, or is very slow."""


class EngineFull(EngineBusy):
    """The engine says that it is busy or restarting: a status 503, a close with 1012 or 1013, an error.

    The engine is not at fault.

    Args:
        message: The error's text.
        retry_after_s: When it asks to be tried again; None if it does not say.
    """

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineRejected(EngineError):
    """The engine does not accept the persona, or it closed or reported an error while it read its prompts.

    Args:
        message: The error's text.
        status: The HTTP status it answered the upgrade with; None if it failed after that.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class EngineLost(EngineError):
    """The engine was live and its connection ended."""


class NoEngineFree(EngineError):
    """Every engine is leased to another call, or was already tried for this one."""


class StoreUnreachable(PeerError):
    """The store that bridges share does not answer, or the file that a single bridge uses instead.

    No lease is granted until it answers. Leases that are held stay valid.
    """


class HandshakeFailed(PeerError):
    """The other end can be reached, but does not answer as a WebSocket server."""


class HandshakeRefused(HandshakeFailed):
    """The server answered the upgrade with an HTTP status other than 101. Redirects are not followed.

    Args:
        status: That HTTP status.
        text: What the answer's body says, or its beginning.
        retry_after_s: The answer's Retry-After in seconds; None without one.
    """

    def __init__(self, status: int, text: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"the server answered {status}" + (f": {text}" if text else ""))
        self.status = status
        self.text = text
        self.retry_after_s = retry_after_s


class CallFailed(PeerError):
    """A simulated call that could not be placed: nobody answered, or not as a WebSocket server."""


class CallRefused(CallFailed):
    """The server answered a simulated call's upgrade with an HTTP error.

    Args:
        message: The error's text.
        status: The HTTP status it answered with.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class BenchFailed(PeerError):
    """A process at the other end of a bench did not start, or did not answer."""


class TunnelFailed(PeerError):
    """A tunnel program did not open its tunnel, or lost it. It is started again."""
