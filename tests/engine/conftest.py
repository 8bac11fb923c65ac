"""These tests need the extra `engine` and run by `make test-engine`; elsewhere they are not collected."""

from __future__ import annotations

import importlib.util

import pytest

collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["test_*.py", "mutants/*"]


@pytest.fixture(autouse=True, scope="session")
def one_torch_thread() -> None:
    """The tiny model is slower on more, and other tests may be running beside these."""
    import torch

    torch.set_num_threads(1)
