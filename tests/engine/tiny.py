"""The tiny checkpoint of the test vectors."""

from __future__ import annotations

from pathlib import Path

from pxbridge.personaplex.config import LmConfig, MimiConfig

FOLDER = Path(__file__).parents[1] / "vectors" / "engine"
LM_FILE = FOLDER / "tiny-personaplex.safetensors"
MIMI_FILE = FOLDER / "tiny-mimi.safetensors"
TOKENIZER_FILE = FOLDER / "tiny-tokenizer.model"
LM_JSON, MIMI_JSON = FOLDER / "tiny-personaplex.json", FOLDER / "tiny-mimi.json"
LM, MIMI = LmConfig.read(LM_JSON), MimiConfig.read(MIMI_JSON)
