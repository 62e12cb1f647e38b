"""A Llama with random weights in shards, to try what fits a machine: no download, no training.

    python examples/make_random_model.py llama-0.7b [--width 2048] [--blocks 12]

0.75 billion parameters unless told otherwise, in bfloat16 on disk, one shard in memory at a time.
The tokenizer has a token for each byte, so that any text can be read. Needs the extra `train`.
"""

import argparse
import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

_DEVIATION = 0.02
_END = "<end>"


def main() -> None:
    """Write the model. Its parameters and bytes are printed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the model goes; made anew")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--vocabulary", type=int, default=32_000, help="at least 257")
    parser.add_argument("--shard-mib", type=int, default=256, help="of a file at most (256)")
    arguments = parser.parse_args()
    config = LlamaConfig(
        hidden_size=arguments.width,
        intermediate_size=arguments.width * 11 // 4,
        num_hidden_layers=arguments.blocks,
        num_attention_heads=max(1, arguments.width // 64),
        vocab_size=arguments.vocabulary,
        max_position_embeddings=2048,
    )
    arguments.folder.mkdir(parents=True)
    write_tokenizer(arguments.folder)
    count = write_weights(arguments.folder, config, arguments.shard_mib * 2**20)
    print(f"{arguments.folder}: {count:,} parameters, {2 * count / 2**20:,.0f} MiB in bfloat16")


def write_tokenizer(folder: Path) -> None:
    """A token for each byte, and one for the end of a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {_END: 0, **{byte: 1 + place for place, byte in enumerate(alphabet)}}
    tokenizer = Tokenizer(BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=_END, pad_token=_END)
    fast.save_pretrained(folder)


def write_weights(folder: Path, config: LlamaConfig, shard_bytes: int) -> int:
    """Random matrices, norms of one; how many parameters."""
    config.dtype = torch.bfloat16
    config.architectures = ["LlamaForCausalLM"]
    config.bos_token_id = config.eos_token_id = config.pad_token_id = 0
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {
            name: tuple(parameter.shape)
            for name, parameter in AutoModelForCausalLM.from_config(config).named_parameters()
        }
    shards: list[list[str]] = [[]]
    size = 0
    for name, shape in shapes.items():
        size += 2 * math.prod(shape)
        if size > shard_bytes and shards[-1]:
            shards.append([])
            size = 2 * math.prod(shape)
        shards[-1].append(name)
    places = {}
    generator = torch.Generator().manual_seed(0)
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {name: _weights(shapes[name], generator) for name in names}
        save_file(tensors, folder / file, {"format": "pt"})
        places |= dict.fromkeys(names, file)
    count = sum(map(math.prod, shapes.values()))
    index = {"metadata": {"total_size": 2 * count}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    return count


def _weights(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0.0, _DEVIATION, generator=generator)


if __name__ == "__main__":
    main()
