"""Our Mimi at its real size, beside Kyutai's own."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-moshi" / "bin" / "python"


def test_codes_and_sound_are_kyutais_own_at_real_size(tmp_path: Path) -> None:
    result = subprocess.run(
        [PYTHON, ROOT / "tests" / "engine" / "peer_mimi.py", tmp_path],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "different codes, sound within" in result.stdout
