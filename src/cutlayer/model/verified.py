"""Which architectures can be split for which task, by the `model_type` of their configuration.

Knows names alone, so that a plan reads it without torch.
"""

ENCODERS = ("bert", "camembert", "distilbert", "electra", "ernie", "roberta", "xlm-roberta")
_DECODERS = (
    *("gemma", "gemma2", "gpt2", "gpt_neox", "llama", "mistral", "olmo2", "opt", "phi", "phi3"),
    *("qwen2", "qwen3", "smollm3", "starcoder2"),
)
_DECODERS_WITHOUT_CLASSIFIER = ("cohere", "granite")

# A model type stands here only if the tests hold its split against the unsplit model, at every
# cut and to the bit: a hidden path around the cut would give plausible but wrong training.
VERIFIED: dict[str, tuple[str, ...]] = {
    "image-classification": ("deit", "dinov2", "dinov2_with_registers", "ijepa", "vit", "vit_msn"),
    "text-classification": (*ENCODERS, *_DECODERS),
    "causal-lm": (*_DECODERS, *_DECODERS_WITHOUT_CLASSIFIER),
}
