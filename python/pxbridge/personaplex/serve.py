"""The engine as a process: a loaded model, its thread and its port, from the start to the last good-bye."""

from __future__ import annotations
