"""Tests of what is in `deploy/`. Those that need a tool of their own run by `make test-deploy` alone."""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("TEST_DEPLOY") else ["test_tools.py", "test_images.py"]
