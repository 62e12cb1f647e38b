"""Tiny models and data sets on disk, made in a second: real formats, random weights."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from cutlayer.config.schema import Config
from cutlayer.data.assets.catalogue import CATALOGUE
from cutlayer.data.samples import Batch, BatchMaker, Samples, write_arrays
from cutlayer.spec import IGNORED_LABEL
from cutlayer.training.state import Setup

CLASSES = 4
BLOCKS = 4
WORDS = ("bad", "good", "poor", "great", "film", "plot", "the", "a", "was", "and")
_MARKS = ("[PAD]", "[BOS]", "[EOS]", "[UNK]")
# the id of the first of the words
FIRST_WORD = len(_MARKS)


def vision_model(folder: Path, blocks: int = BLOCKS) -> Path:
    """A DINOv2, 24 wide, patches of 14 px."""
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=blocks, num_attention_heads=2, mlp_ratio=2, image_size=28
    )
    transformers.Dinov2Model(config).save_pretrained(folder)
    half = {"image_mean": 0.5, "image_std": 0.5}
    (folder / "preprocessor_config.json").write_text(json.dumps(half))
    return folder


def cache(folder: Path) -> Path:
    """A cutlayer cache whose default model and data are tiny stand-ins, and those of a chat."""
    images, words = (("models", "dinov2-small"), ("data", "fashion-mnist")), "smollm2"
    for kind, name in (*images, ("models", words), ("data", "arithmetic")):
        (folder / kind / name).mkdir(parents=True)
        record = {"name": name, "layout": CATALOGUE[name].layout}
        (folder / kind / name / "asset.json").write_text(json.dumps(record), encoding="utf-8")
    text_model(folder / "models" / words, "llama", blocks=10)
    (folder / "models" / words / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    for split in ("train", "test"):
        chats(folder / "data" / "arithmetic" / f"{split}.jsonl")
    vision_model(folder / "models" / "dinov2-small", blocks=8)
    rng = np.random.default_rng(0)
    labels = np.arange(240) % CLASSES
    pixels = (60 * labels[:, None, None] + rng.integers(0, 60, (240, 28, 28))).astype(np.uint8)
    split = (pixels, labels)
    write_arrays(folder / "data" / "fashion-mnist", split, split, ("a", "b", "c", "d"))
    return folder


def text_model(folder: Path, kind: str, blocks: int = BLOCKS) -> Path:
    """A BERT ("bert") or a Llama ("llama") of some blocks with a tokenizer of ten words."""
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    common = {
        "vocab_size": len(tokenizer),
        "hidden_size": 24,
        "num_hidden_layers": blocks,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "pad_token_id": 0,
    }
    if kind == "bert":
        transformers.BertModel(transformers.BertConfig(**common)).save_pretrained(folder)
    else:
        config = transformers.LlamaConfig(**common, bos_token_id=1, eos_token_id=2)
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def images(folder: Path, train: int = 80, test: int = 32) -> Path:
    """CIFAR-100's binary form: four classes, each a colour with noise on it."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    colours = np.array([[220, 30, 30], [30, 220, 30], [30, 30, 220], [200, 200, 40]])
    for split, count in (("train", train), ("test", test)):
        labels = np.arange(count) % CLASSES
        pixels = colours[labels][:, :, None] + rng.integers(-30, 30, (count, 3, 32 * 32))
        records = np.concatenate(
            [np.stack([labels, labels], 1), pixels.clip(0, 255).reshape(count, -1)], axis=1
        )
        records.astype(np.uint8).tofile(folder / f"{split}.bin")
    (folder / "fine_label_names.txt").write_text("red\ngreen\nblue\nyellow\n", encoding="utf-8")
    return folder


def reviews(folder: Path, count: int = 60) -> Path:
    """CSV files of short texts of different lengths, labelled pos or neg."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        lines = ["text,label"]
        for i in range(count):
            words = [WORDS[int(w)] for w in rng.integers(4, len(WORDS), rng.integers(2, 9))]
            lines.append(
                f"{' '.join([WORDS[i % 2 + 2 * (i % 4 // 2)], *words])},{('neg', 'pos')[i % 2]}"
            )
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def corpus(folder: Path, documents: int = 24, words: int = 60) -> Path:
    """Plain text files of a language in which every word decides the next."""
    folder.mkdir()
    for i in range(documents):
        text = " ".join(WORDS[(i + 3 * place) % len(WORDS)] for place in range(words))
        (folder / f"{i:02d}.txt").write_text(text, encoding="utf-8")
    return folder


# of a text model whose tokenizer has none
CHAT_TEMPLATE = (
    "{% for turn in messages %}[BOS] {{ turn['role'] }} {{ turn['content'] }} [EOS] {% endfor %}"
    "{% if add_generation_prompt %}[BOS] assistant {% endif %}"
)


def chats(path: Path, count: int = 24, senders: int = 6) -> Path:
    """JSON lines of conversations of two or four turns, with the one who wrote them."""
    rows = []
    for i in range(count):
        said = [" ".join(WORDS[(i + k + n) % len(WORDS)] for n in range(2 + k)) for k in range(4)]
        turns = [
            {"role": ("user", "assistant")[k % 2], "content": text}
            for k, text in enumerate(said[: 2 + 2 * (i % 2)])
        ]
        rows.append({"messages": turns, "sender": f"s{i % senders}"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def config(model: Path, data: Path, /, **sections: object) -> Config:
    """A run of seconds: three devices, two rounds of two steps, sections on top."""
    values: dict[str, object] = {
        "model": {"name": str(model), "cut": 2},
        "data": {
            "name": str(data),
            "image_size": 28,
            "max_tokens": 12,
            "train_samples": None,
            "test_samples": None,
        },
        "adapter": {"rank": 2, "alpha": 2},
        "training": {"rounds": 2, "local_steps": 2, "batch_size": 4},
        "optimizer": {"learning_rate": 0.01},
        "devices": {"count": 3},
        "threads": 1,
    }
    for name, section in sections.items():
        old = values.get(name)
        values[name] = {**old, **section} if isinstance(old, dict) else section  # type: ignore[dict-item]
    return Config.model_validate(values)


def _tokenizer() -> transformers.PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate((*_MARKS, *WORDS))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", eos_token="[EOS]", unk_token="[UNK]"
    )


@final
@dataclass(frozen=True)
class Masked(BatchMaker):
    """Another maker's texts, of which half of the tokens count, and of every second sample none."""

    inner: BatchMaker

    def make(self, samples: Samples, indices: np.ndarray) -> Batch:
        batch = self.inner.make(samples, indices)
        labels = batch.labels.copy()
        for row, index in enumerate(indices.tolist()):
            ignored = np.random.default_rng(index).random(labels.shape[1]) < (0.5, 1.0)[index % 2]
            labels[row, ignored] = IGNORED_LABEL
        return replace(batch, labels=labels)


@final
@dataclass(frozen=True)
class Packed(BatchMaker):
    """The same in rows of documents that do not see each other, but of every third sample."""

    inner: BatchMaker

    def make(self, samples: Samples, indices: np.ndarray) -> Batch:
        batch = Masked(self.inner).make(samples, indices)
        assert batch.lengths is not None
        documents = []
        for row, index in enumerate(indices.tolist()):
            length, first = batch.lengths[row], 1 + index % 4
            whole = index % 3 == 0 or first >= length
            documents.append((length,) if whole else (first, length - first))
            if not whole:
                batch.labels[row, first] = IGNORED_LABEL
        return replace(batch, documents=tuple(documents))


def with_batches(setup: Setup, maker: Callable[[BatchMaker], BatchMaker]) -> Setup:
    """The run of a language model with other batches."""
    devices = tuple(replace(own, batches=maker(own.batches)) for own in setup.devices)
    server = replace(setup.server, batches=maker(setup.server.batches))
    return replace(setup, devices=devices, server=server)


def read_lines(path: Path) -> list[dict[str, object]]:
    """A file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
