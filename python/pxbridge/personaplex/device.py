"""The memory of a device, as torch reports it."""

from __future__ import annotations

import os

import torch


def free_bytes(device: str) -> int:
    """Memory that is free now."""
    if device == "cpu":
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free, _ = torch.cuda.mem_get_info()
    return int(free)


def memory(device: str) -> dict[str, int]:
    """Bytes of a GPU's memory, by purpose. Empty for the CPU: the metrics of the process have its memory."""
    if device == "cpu":
        return {}
    free, total = torch.cuda.mem_get_info()
    return {"free": int(free), "total": int(total), "allocated": int(torch.cuda.memory_allocated())}
