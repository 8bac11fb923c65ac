"""How a tunnel is kept open: what counts as open, when it is started again, and what it must never do."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from tests import virtual_time

from pxbridge.errors import ConfigError, HandshakeFailed, HandshakeRefused, InputError, TunnelFailed
from pxbridge.tunnel import target as targets
from pxbridge.tunnel.supervisor import Schedule, Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pxbridge.tunnel.target import Target

TARGET = targets.bridge("127.0.0.1", 5050, path="/exotel", login="exotel:s3cret")
ONE, TWO = "wss://one.example", "wss://two.example"


@dataclass
class World:
    """A tunnel program, the port behind it and the way there, as a test sets them.

    Attributes:
        addresses: What each start gets; the last one stays. None: no address.
        dials: What each attempt to dial raises, or None; after the last one, none does.
        settings: The same of each reading of the settings.
        starts: The same of each start of the program.
        answer_s: The program takes this long to say whether it is connected.
        stop_s: It takes this long to end.
        told: What the observer was told, with the time.
    """

    addresses: list[str | None] = field(default_factory=lambda: [ONE])
    dials: list[Exception | None] = field(default_factory=list)
    settings: list[Exception | None] = field(default_factory=list)
    starts: list[Exception | None] = field(default_factory=list)
    guarded: bool | None = True
    alive: bool = True
    reached: bool = True
    connected: bool = True
    words: str = ""
    answer_s: float = 0.0
    stop_s: float = 0.0
    told: list[tuple[float, str]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    failed_starts: list[bool] = field(default_factory=list)
    dialled: list[str] = field(default_factory=list)

    name = "cloudflared"
    install = "somewhere"

    def new(self, host: str, port: int) -> Run:
        assert (host, port) == ("127.0.0.1", 5050)
        found = self.addresses.pop(0) if len(self.addresses) > 1 else self.addresses[0]
        self.runs.append(Run(self, found))
        return self.runs[-1]

    def failed(self, connected: bool) -> None:
        self.failed_starts.append(connected)

    async def start(self, program: object) -> Run:
        assert program is self.runs[-1]
        if self.starts and (fault := self.starts.pop(0)) is not None:
            self.runs.pop()
            raise fault
        return self.runs[-1]

    async def target(self) -> Target:
        if self.settings and (fault := self.settings.pop(0)) is not None:
            raise fault
        return TARGET

    async def is_guarded(self) -> bool | None:
        return self.guarded

    async def is_alive(self) -> bool:
        return self.alive

    async def is_reached(self, address: str) -> bool:
        return self.reached

    async def dial(self, address: str) -> None:
        self.dialled.append(TARGET.url(address))
        if self.dials and (fault := self.dials.pop(0)) is not None:
            raise fault

    def opened(self, target: Target, address: str, before: str | None) -> None:
        self._note(f"opened {address}" + (f" after {before}" if before else ""))

    def failed_with(self, why: str, again_in_s: float) -> None:
        self._note(f"{why}; again in {again_in_s:g} s")

    def _note(self, text: str) -> None:
        self.told.append((round(asyncio.get_running_loop().time(), 1), text))


class Run:
    """One start of the program, and its process."""

    def __init__(self, world: World, address: str | None) -> None:
        self.command: Sequence[str] = ()
        self.status: int | None = None
        self.lines: list[str] = []
        self.stopped = False
        self._world = world
        self._address = address
        self._ended = asyncio.Event()

    def end(self, status: int) -> None:
        self.status = status
        self._ended.set()

    def read(self, line: str) -> None: ...

    async def address(self) -> str | None:
        return self._address

    async def is_connected(self) -> bool:
        await asyncio.sleep(self._world.answer_s)
        return self._world.connected

    def last_words(self, lines: Sequence[str]) -> str:
        return self._world.words

    async def wait(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), timeout_s)

    async def stop(self) -> None:
        await asyncio.sleep(self._world.stop_s)
        self.stopped = True


class Told:
    """Passes what a supervisor tells on to the world, whose `failed` is the program's."""

    def __init__(self, world: World) -> None:
        self.opened, self.failed = world.opened, world.failed_with


def keep_open(
    world: World, *acts: tuple[float, Callable[[], object]], for_s: float = 1000.0, again_s: float = 0.0
) -> list[str]:
    """What is told within `for_s`, while `acts` happen at their times.

    Args:
        world: The world.
        acts: What happens, and when.
        for_s: The task is cancelled then.
        again_s: It is cancelled a second time, this long after the first.
    """

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        for at_s, act in acts:
            loop.call_at(at_s, act)
        supervisor = Supervisor(world, world.start, world.target, lambda _: world, Told(world), Schedule())
        task = asyncio.create_task(supervisor.run())
        await asyncio.wait([task], timeout=for_s)
        task.cancel()
        if again_s:
            await asyncio.wait([task], timeout=again_s)
            task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    virtual_time.run(scene(), limit_s=10 * for_s)
    assert all(run.stopped for run in world.runs), "no program is left behind"
    return [text for _, text in world.told]


def test_a_tunnel_is_open_when_its_public_url_was_dialled_with_the_secret() -> None:
    world = World()
    assert keep_open(world) == [f"opened {ONE}"]
    assert world.dialled == ["wss://exotel:s3cret@one.example/exotel"]


def test_a_name_that_is_not_known_yet_is_dialled_again() -> None:
    world = World(dials=[OSError("no such host"), TimeoutError(), HandshakeFailed("not a WebSocket server")])
    assert keep_open(world) == [f"opened {ONE}"]
    assert len(world.dialled) == 4
    assert world.told[0][0] == pytest.approx(3.0, abs=0.1)


def test_no_address_is_told_and_tried_again_after_longer_and_longer_pauses() -> None:
    told = keep_open(World(addresses=[None]), for_s=300.0)
    assert [line.rpartition("; ")[2] for line in told] == [
        f"again in {pause_s} s" for pause_s in (1, 2, 4, 8, 16, 32, 60)
    ]
    assert told[0].startswith("cloudflared: no address within 30 s")


def test_an_edge_that_cannot_be_reached_is_told_and_the_program_is_called_in_another_way() -> None:
    world = World(connected=False, dials=[OSError("no route to host")] * 1000)
    told = keep_open(world, for_s=100.0)
    assert told[0] == (
        "cloudflared reaches no server of its network; "
        "wss://one.example cannot be reached: no route to host; again in 1 s"
    )
    assert world.failed_starts[0] is False


def test_a_program_that_ends_is_started_again_and_a_new_address_is_told() -> None:
    world = World(addresses=[ONE, TWO, TWO], words="killed by somebody")
    told = keep_open(world, (50.0, lambda: world.runs[0].end(-9)), (100.0, lambda: world.runs[1].end(1)))
    assert told == [
        f"opened {ONE}",
        "cloudflared: ended with status -9: killed by somebody; again in 1 s",
        f"opened {TWO} after {ONE}",
        "cloudflared: ended with status 1: killed by somebody; again in 2 s",
        f"opened {TWO} after {TWO}",
    ]


def test_after_a_steady_time_pauses_begin_anew() -> None:
    world = World()
    told = keep_open(
        world,
        (10.0, lambda: world.runs[0].end(1)),
        (20.0, lambda: world.runs[1].end(1)),
        (500.0, lambda: world.runs[2].end(1)),
    )
    assert [line.rpartition("; ")[2] for line in told if "again" in line] == [
        "again in 1 s",
        "again in 2 s",
        "again in 1 s",
    ]


def test_a_tunnel_that_stops_working_is_started_again_though_its_program_runs() -> None:
    world = World(connected=False)

    def fail() -> None:
        world.reached = False

    def heal() -> None:
        world.reached = True

    told = keep_open(world, (100.0, fail), (160.0, heal))
    assert told[1:] == ["cloudflared has lost its network; again in 1 s", f"opened {ONE} after {ONE}"]


def test_one_failed_check_is_no_reason() -> None:
    world = World()
    flips = [
        (100.0, lambda: setattr(world, "reached", False)),
        (125.0, lambda: setattr(world, "reached", True)),
    ]
    assert keep_open(world, *flips) == [f"opened {ONE}"]


def test_while_the_port_itself_is_gone_the_tunnel_keeps_its_address() -> None:
    world = World()

    def restart() -> None:
        world.reached = world.alive = False

    def back() -> None:
        world.reached = world.alive = True

    assert keep_open(world, (100.0, restart), (280.0, back)) == [f"opened {ONE}"]
    assert len(world.runs) == 1


def test_no_tunnel_is_opened_to_a_port_that_lets_in_whoever_comes() -> None:
    world = World(guarded=False)
    with pytest.raises(InputError, match="admits anybody"):
        keep_open(world)
    assert world.runs == []


def test_a_tunnel_is_closed_when_its_port_begins_to_let_in_whoever_comes() -> None:
    world = World()
    with pytest.raises(InputError, match="admits anybody"):
        keep_open(world, (200.0, lambda: setattr(world, "guarded", False)))
    assert world.runs[0].stopped


def test_a_port_where_nothing_listens_is_told_before_anything_is_started() -> None:
    with pytest.raises(InputError, match="nothing listens at port 5050"):
        keep_open(World(guarded=None))


def test_a_port_that_refuses_its_own_secret_is_no_matter_for_another_try() -> None:
    world = World(dials=[HandshakeRefused(401, "authentication required")])
    with pytest.raises(HandshakeRefused, match="401"):
        keep_open(world)
    assert world.runs[0].stopped


BROKEN = ConfigError("port", "pxbridge.toml", "half written")


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ({"settings": [BROKEN]}, "port (pxbridge.toml): half written"),
        ({"starts": [InputError("cloudflared is not installed: somewhere")]}, "cloudflared is not installed"),
        ({"dials": [HandshakeRefused(401, "authentication required")]}, "the server answered 401"),
    ],
    ids=["settings", "program", "secret"],
)
def test_what_goes_wrong_after_a_tunnel_was_open_does_not_end_it_for_good(
    fault: dict[str, list[Exception | None]], told: str
) -> None:
    world = World(addresses=[ONE, TWO])

    def break_it() -> None:
        for name, faults in fault.items():
            setattr(world, name, list(faults))
        world.runs[0].end(-9)

    opened, lost, failed, again = keep_open(world, (200.0, break_it))
    assert opened == f"opened {ONE}" and lost == "cloudflared: ended with status -9; again in 1 s"
    assert failed.startswith(told) and failed.endswith("; again in 2 s")
    assert again.startswith("opened ")


def slow_world(*addresses: str | None) -> World:
    """A program that is slow to say whether it is connected, and slow to end."""
    return World(addresses=list(addresses), answer_s=2.0, stop_s=3.0)


def test_a_second_cancellation_before_the_tunnel_is_open_leaves_no_program_behind() -> None:
    world = slow_world(None)
    keep_open(world, for_s=10.0, again_s=1.0)
    assert world.failed_starts == [], "who is cancelled does not ask"


def test_a_second_cancellation_while_an_open_tunnel_ends_leaves_no_program_behind() -> None:
    keep_open(slow_world(ONE), for_s=10.0, again_s=1.0)


def test_a_cancellation_while_a_failed_start_says_whether_it_is_connected_leaves_no_program_behind() -> None:
    world = slow_world(None)
    keep_open(world, for_s=Schedule().address_s + 1.0, again_s=0.5)


def test_settings_that_were_not_read_in_time_are_read_again() -> None:
    told = keep_open(World(settings=[TunnelFailed("reading the settings took longer than 30 s")]))
    assert told == ["reading the settings took longer than 30 s; again in 1 s", f"opened {ONE}"]


def test_settings_that_cannot_be_used_end_the_first_start() -> None:
    with pytest.raises(ConfigError, match="half written"):
        keep_open(World(settings=[BROKEN]))


def test_the_line_holds_the_secret_and_the_masked_line_does_not() -> None:
    with_token = targets.bridge("127.0.0.1", 5050, path="/exotel", token="d.1.x.y")
    assert with_token.url(ONE) == "wss://one.example/exotel/t/d.1.x.y"
    assert with_token.masked_url(ONE) == "wss://one.example/exotel/t/TOKEN"
    odd = targets.bridge("127.0.0.1", 5050, path="/exotel", login="exotel:p@ss:w/rd")
    assert odd.url(ONE) == "wss://exotel:p%40ss%3Aw%2Frd@one.example/exotel"
    engine = targets.engine("127.0.0.1", 8998, path="/api/chat", token="s3cret")
    assert engine.url(ONE) == "wss://bridge:s3cret@one.example/api/chat"
    assert "s3cret" not in engine.masked_url(ONE)
