"""How many conversations a device holds: (free memory - memory needed once) / memory of a slot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pxbridge.errors import InputError
from pxbridge.personaplex.memory import ALLOWANCE_BYTES

if TYPE_CHECKING:
    from pxbridge.personaplex.memory import Footprint

GB: Final = 1e9
MOST_SLOTS: Final = 256
"""A tick over more takes longer than a frame lasts on any card there is."""
MOST_PREFIX_BYTES: Final = 2 << 30
PREFIX_SHARE: Final = 0.05
"""Of what is free beside the weights, for prompts that are kept: 2 GB hold twenty of usual length."""


@dataclass(frozen=True)
class Plan:
    """How many slots there are, and why.

    Attributes:
        slots: Conversations at once.
        prefix_bytes: For prompts that are kept.
        arithmetic: How that was found, for people.
    """

    slots: int
    prefix_bytes: int
    arithmetic: str


def plan(
    footprint: Footprint,
    free_bytes: int,
    *,
    context: int,
    device: str,
    slots: int | None = None,
    prefix_bytes: int | None = None,
) -> Plan:
    """Says how many slots there are.

    Args:
        footprint: What the model takes.
        free_bytes: The device's free memory, before anything is loaded.
        context: Positions that a slot keeps.
        device: Its name.
        slots: The wanted number; None: as many as fit.
        prefix_bytes: For prompts that are kept; None: a share.

    Raises:
        InputError: The wanted number does not fit, or not even one slot does.
    """
    beside = free_bytes - footprint.weights - ALLOWANCE_BYTES
    if prefix_bytes is None:
        prefix_bytes = max(0, min(MOST_PREFIX_BYTES, int(beside * PREFIX_SHARE)))
    fit = footprint.slots(free_bytes, prefix_bytes)
    arithmetic = (
        f"{device}: {free_bytes / GB:.1f} GB free - {footprint.weights / GB:.1f} weights "
        f"- {ALLOWANCE_BYTES / GB:.1f} for the libraries - {prefix_bytes / GB:.1f} for kept prompts "
        f"= {(beside - prefix_bytes) / GB:.1f} GB; a slot of {context} positions takes "
        f"{footprint.slot / GB:.3f} GB: {fit} fit"
    )
    wanted = min(fit, MOST_SLOTS) if slots is None else slots
    if wanted < 1 or wanted > fit:
        remedies = "a shorter --context or --weights int8 takes less"
        raise InputError(f"--slots {'auto' if slots is None else slots}: {arithmetic}; {remedies}")
    return Plan(wanted, prefix_bytes, arithmetic)
