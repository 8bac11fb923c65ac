"""The console's API: what can be asked, and the answers to it.

`ENDPOINTS` lists everything once. The server's routes, the OpenAPI document and the client's types are made
from it, and each endpoint's name is that of the method of `Api` that answers it.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aiohttp import web
from pydantic import ValidationError

from pxbridge.calls.numbers import dialable
from pxbridge.calls.phrases import End, HandOver
from pxbridge.console import models
from pxbridge.console.auth import SESSION_COOKIE, SESSION_LONGEST_S, Operator, Refusal
from pxbridge.console.openapi import document
from pxbridge.errors import CallConflict, NoSuchCall

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from pydantic import BaseModel

    from pxbridge.calls.phrases import Action
    from pxbridge.console.auth import Access

    Operate = Callable[[str, Action, str], str]
    """Applies an operator's action to a call: its id, the action and the operator's name; returns the full
    id."""
    FindRecording = Callable[[str], Path | None]
    """The file of a call's recording, by the call's key or id. It may be called in any thread."""
    LiveCall = Callable[[str], dict[str, Any] | None]
    """A live call's figures and counters, by its key or id, or the beginning of either."""
    TalkOffer = Callable[[], Awaitable[models.Talk]]

    _Asked = TypeVar("_Asked", bound=models.Asked)

OPERATOR: Final = web.RequestKey("operator", Operator)
"""Who asks; set before an endpoint that needs a login is called."""

_CALL_NAME: Final = re.compile(r"[\x21-\x7e]{1,128}")
"""Ids of calls that can be asked for: printable ASCII without spaces."""

JSON: Final = "application/json"
BODY_TIMEOUT_S: Final = 10.0
"""How long the body of a request may take."""


@dataclass(frozen=True)
class Endpoint:
    """One thing that can be asked.

    Attributes:
        method: The HTTP method.
        path: The path; ``{name}`` is a part of it that varies.
        name: The method of `Api` that answers.
        summary: What it does, for people.
        asks: The model of the JSON body; None without a body.
        gives: The model of the answer, or its media type if it is no JSON; None for an empty answer.
        status: The status of that answer.
        refusals: The statuses of other answers, which are `models.Refused`, beside those of a client that is
            not let in.
        public: Whether it needs no login.
    """

    method: str
    path: str
    name: str
    summary: str
    asks: type[BaseModel] | None = None
    gives: type[BaseModel] | str | None = None
    status: int = 200
    refusals: tuple[int, ...] = ()
    public: bool = False


_BODY: Final = (400, 408, 413, 415)

ENDPOINTS: Final = (
    Endpoint(
        "GET",
        "/api/session",
        "session",
        "Who uses this browser",
        gives=models.Session,
        refusals=(429,),
        public=True,
    ),
    Endpoint(
        "POST",
        "/api/session",
        "log_in",
        "Log in; sets the cookie of a session",
        asks=models.Login,
        status=204,
        refusals=(*_BODY, 401, 429),
        public=True,
    ),
    Endpoint("DELETE", "/api/session", "log_out", "End this browser's session", status=204, public=True),
    Endpoint("GET", "/api/talk", "talk", "What can be talked with", gives=models.Talk),
    Endpoint(
        "GET",
        "/api/calls",
        "calls",
        "Live calls, and those that ended last",
        gives=models.Calls,
        refusals=(401,),
    ),
    Endpoint(
        "POST",
        "/api/calls/end",
        "end",
        "End a live call",
        asks=models.EndCall,
        gives=models.Done,
        status=202,
        refusals=(*_BODY, 404, 409),
    ),
    Endpoint(
        "POST",
        "/api/calls/hand-over",
        "hand_over",
        "Hand a live call over to a person",
        asks=models.HandOverCall,
        gives=models.Done,
        status=202,
        refusals=(*_BODY, 404, 409),
    ),
    Endpoint(
        "GET",
        "/api/calls/{call}/figures",
        "figures",
        "A live call's figures and its line's counters, by its key or id, or the beginning of either",
        gives=models.LiveFigures,
        refusals=(404,),
    ),
    Endpoint(
        "GET",
        "/api/calls/{call}/recording",
        "recording",
        "A call's recording, WAV or Ogg Opus: the caller left, the agent right. Takes Range requests",
        gives="audio/wav",
        refusals=(404,),
    ),
    Endpoint("GET", "/api/openapi.json", "openapi", "This document", gives=JSON),
)


class Api:
    """Answers the endpoints.

    Args:
        access: Sessions.
        calls: Live and recent calls.
        live_call: One live call.
        operate: Applies an operator's action to a call.
        find_recording: Finds the file of a call's recording.
        talk_offer: What the talk page can offer.
        version: The version of the bridge.
    """

    def __init__(
        self,
        access: Access,
        calls: Callable[[], dict[str, list[dict[str, Any]]]],
        live_call: LiveCall,
        operate: Operate,
        find_recording: FindRecording | None,
        talk_offer: TalkOffer | None,
        version: str,
    ) -> None:
        self._access = access
        self._calls = calls
        self._live_call = live_call
        self._operate = operate
        self._find_recording = find_recording
        self._talk_offer = talk_offer
        self._version = version

    # -- sessions -------------------------------------------------------------------------------------

    async def session(self, request: web.Request) -> web.Response:
        """Who uses this browser."""
        operator = self._access.operator(request) if _shows_who(request) else None
        if isinstance(operator, Refusal) and operator.delay_s:  # or guesses would cost nothing here
            await self._access.delay(operator)
            return refused(operator.status, operator.text.strip(), operator.headers)
        user = operator.name if isinstance(operator, Operator) else None
        return _json(models.Session(login=self._access.asks_for_login, user=user, version=self._version))

    async def log_in(self, request: web.Request) -> web.Response:
        """Begins a session."""
        asked = await _body(request, models.Login)
        if isinstance(asked, web.Response):
            return asked
        if not self._access.asks_for_login:
            return web.Response(status=204)
        operator = self._access.log_in(request, asked.user, asked.password)
        if isinstance(operator, Refusal):
            await self._access.delay(operator)
            return refused(operator.status, operator.text.strip(), operator.headers)
        answer = web.Response(status=204)
        answer.set_cookie(
            SESSION_COOKIE,
            operator.session or "",
            max_age=round(SESSION_LONGEST_S),
            httponly=True,
            samesite="Strict",
            secure=request.secure or request.headers.get("X-Forwarded-Proto", "").lower() == "https",
        )
        return answer

    async def log_out(self, request: web.Request) -> web.Response:
        """Ends the session that the request's cookie names."""
        if (token := request.cookies.get(SESSION_COOKIE)) is not None:
            self._access.sessions.end(token)
        answer = web.Response(status=204)
        answer.del_cookie(SESSION_COOKIE, httponly=True, samesite="Strict")
        return answer

    # -- calls ----------------------------------------------------------------------------------------

    async def calls(self, _request: web.Request) -> web.Response:
        """Live and recent calls."""
        return web.json_response(self._calls())

    async def end(self, request: web.Request) -> web.Response:
        """Ends a call."""
        asked = await _body(request, models.EndCall)
        return asked if isinstance(asked, web.Response) else self._do(request, asked, End())

    async def hand_over(self, request: web.Request) -> web.Response:
        """Hands a call over."""
        asked = await _body(request, models.HandOverCall)
        if isinstance(asked, web.Response):
            return asked
        try:
            action = HandOver(tuple(map(dialable, asked.numbers)))
        except ValueError as wrong:
            return refused(400, str(wrong))
        return self._do(request, asked, action)

    def _do(self, request: web.Request, asked: models.EndCall, action: Action) -> web.Response:
        """Applies an action to a call."""
        operator = request[OPERATOR].name
        try:
            call = self._operate(asked.call, action, _printable(asked.by) if operator is None else operator)
        except NoSuchCall as error:
            return refused(404, str(error))
        except CallConflict as error:
            return refused(409, str(error))
        return _json(models.Done(call=call), 202)

    async def figures(self, request: web.Request) -> web.Response:
        """A live call."""
        name = request.match_info["call"]
        if (found := self._live_call(name)) is None:
            return refused(404, f"no live call's id begins with {name!r}")
        return web.json_response(found)

    async def recording(self, request: web.Request) -> web.StreamResponse:
        """A call's recording. The name of the file comes from the records, never from the request."""
        name = request.match_info["call"]
        path = None
        if self._find_recording is not None and _CALL_NAME.fullmatch(name):
            path = await asyncio.to_thread(self._find_recording, name)
        if path is None:
            return refused(404, "there is no recording of this call")
        content_type = "audio/wav" if path.suffix == ".wav" else "audio/ogg"
        return web.FileResponse(path, headers={"Content-Type": content_type})

    # -- the rest -------------------------------------------------------------------------------------

    async def talk(self, _request: web.Request) -> web.Response:
        """What the talk page can offer."""
        if self._talk_offer is None:
            return refused(404, "nobody can be talked with here")
        return _json(await self._talk_offer())

    async def openapi(self, _request: web.Request) -> web.Response:
        """The OpenAPI document."""
        return web.json_response(document(ENDPOINTS, self._version))


def _shows_who(request: web.Request) -> bool:
    return SESSION_COOKIE in request.cookies or "Authorization" in request.headers


async def _body(request: web.Request, model: type[_Asked]) -> _Asked | web.Response:
    """A request's body; or the answer if it is not JSON of this form."""
    if request.content_type != JSON:
        return refused(415, "send the request as application/json")
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            body = await request.read()
    except TimeoutError:
        return refused(408, f"the body did not arrive within {BODY_TIMEOUT_S:g} s")
    try:
        return model.model_validate_json(body)
    except ValidationError as wrong:
        problem = wrong.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, problem["loc"])) or "the body"
        return refused(400, f"{where}: {problem['msg']}")


def _json(answer: models.Given, status: int = 200) -> web.Response:
    return web.Response(status=status, body=answer.model_dump_json().encode(), content_type=JSON)


def refused(status: int, why: str, headers: Any = None) -> web.Response:
    """A refusal as the API gives it."""
    body = json.dumps({"error": why}).encode()
    return web.Response(status=status, body=body, content_type=JSON, headers=headers)


def _printable(by: str) -> str:
    """The name that a client without a login gives itself. It is noted and proves nothing."""
    return "".join(each for each in by if each.isprintable())[: models.MAX_NAME_CHARS].strip()
