"""Models that are known by a short name: their name on the hub, and their configuration.

The configurations come with cutlayer, so that a model can be planned with, or described, on a
machine without network. They hold what shapes the architecture, as published with the weights.
"""

from pathlib import Path

from cutlayer.data.assets.catalogue import CATALOGUE

_FOLDER = Path(__file__).parent / "model_configs"

# assets are models too: their names on the hub stand in the catalogue
KNOWN_MODELS: dict[str, str] = {
    **{
        asset.name: asset.hub_id
        for asset in CATALOGUE.values()
        if asset.kind == "model" and asset.hub_id is not None
    },
    "vit-b16": "google/vit-base-patch16-224",
    "vit-l16": "google/vit-large-patch16-224",
    "dinov2-base": "facebook/dinov2-base",
    "dinov2-large": "facebook/dinov2-large",
    "bert-base": "google-bert/bert-base-uncased",
    "bert-large": "google-bert/bert-large-uncased",
    "gpt2": "openai-community/gpt2",
    "opt-1.3b": "facebook/opt-1.3b",
    "llama-2-7b": "meta-llama/Llama-2-7b-hf",
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B",
    "llama-3.2-1b": "meta-llama/Llama-3.2-1B",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
    "qwen2.5-0.5b": "Qwen/Qwen2.5-0.5B",
    "qwen3-0.6b": "Qwen/Qwen3-0.6B",
}


def known_config(name: str) -> Path | None:
    """The folder with the `config.json` of the model of this short name or hub id."""
    for short, hub_id in KNOWN_MODELS.items():
        if name in (short, hub_id):
            return _FOLDER / short
    return None
