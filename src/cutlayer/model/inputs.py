"""What a model's forward is given: real inputs, stand-ins of the right shape, and the tokenizer.

Sequences are padded on the right. Knows no weights and no samples.
"""

import inspect
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedModel

from cutlayer.errors import ModelError, UnsupportedModelError
from cutlayer.model.described import check_documents
from cutlayer.model.placement import HOST, to_device
from cutlayer.model.tasks import is_decoder, padding_id, read_config, setting, text_or_vision
from cutlayer.spec import Task

# for a tokenizer that cannot be used
_REMEDY = (
    "copy the tokenizer's files from where the weights come from, or call"
    " tokenizer.save_pretrained on that folder"
)
# types whose positions start after the padding token's, as RoBERTa's do
_OFFSET = (
    *("camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer", "luke", "markuplm"),
    *("mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
)
# what tells a model where documents of a row end, the first that does: positions that begin anew,
# for models that look at them where they get no mask; with them the mask itself; or one for each
# kind of blocks, with and without a window
DOCUMENTS_BY = ("positions", "mask", "masks")
_LETTERS = 80  # of a value or a library's message


def example_inputs(
    model: PreTrainedModel, task: Task, image_size: int | None = None
) -> dict[str, Any]:
    """One sample on the meta device: a square image, or four tokens."""
    config = model.config
    if task != "image-classification":
        ids = torch.zeros(1, 4, dtype=torch.long, device="meta")
        # a decoder's forward looks at position values if it has no mask, an encoder's at the mask's
        mask = {"attention_mask": torch.ones_like(ids)} if is_decoder(config) else {}
        return {"input_ids": ids, **mask}
    side = image_sides(config)[0] if image_size is None else image_size
    pixels = torch.zeros(1, channels(config), side, side, device="meta")
    return real_inputs(model, task, {"pixel_values": pixels}, None)


def real_inputs(
    model: PreTrainedModel,
    task: Task,
    inputs: Mapping[str, Tensor],
    lengths: Sequence[int] | None,
    documents_by: str | None = None,
) -> dict[str, Any]:
    """Images of any side that the patch divides, or token ids with their attention mask; of packed
    rows with `position_ids`, as `document_positions` gives them, instead of it (`documents_by`:
    as `Anatomy` has it).

    Raises ModelError for inputs that are missing or do not fit the model. Token ids are checked
    where they are on the host: elsewhere it would have to wait for them.
    """
    if task == "image-classification":
        return _image_inputs(model, _needed(inputs, "pixel_values"))
    ids = _needed(inputs, "input_ids")
    _check_tokens(model.config, ids)
    if "position_ids" in inputs:
        positions = inputs["position_ids"]
        return {"input_ids": ids, **_packed(model.config, positions, model.dtype, documents_by)}
    mask = inputs.get("attention_mask")
    if mask is None:
        mask = length_mask(lengths, ids.shape[0], ids.shape[1], ids.device)
    if task == "text-classification" and is_decoder(model.config):
        # such a classifier reads the last token that is not this padding
        ids = ids.masked_fill(mask == 0, model.config.pad_token_id)
    return {"input_ids": ids, "attention_mask": mask}


def stand_in_inputs(
    config: PreTrainedConfig,
    task: Task,
    activation: Float[Tensor, "batch token width"],
    lengths: Sequence[int] | None,
    documents: Sequence[Sequence[int]] | None = None,
    free_tokens: int = 0,
    documents_by: str | None = None,
) -> dict[str, Any]:
    """Inputs for a model whose embedding is hollow: nothing of them but shape, padding and where
    documents end is read.

    Token ids reproduce the padding, since a decoder's classifier finds the last token by it.
    `free_tokens`: those of an image that are no patches.
    """
    batch, tokens = activation.shape[:2]
    if task == "image-classification":
        return _stand_in_images(config, activation, tokens - free_tokens)
    mask = length_mask(lengths, batch, tokens, activation.device)
    padding = padding_id(config) or 0
    filler = 1 if padding == 0 else 0
    ids = torch.full((batch, tokens), filler, dtype=torch.long, device=activation.device)
    if documents is not None:
        positions = to_device(document_positions(documents, tokens), activation.device)
        return {"input_ids": ids, **_packed(config, positions, activation.dtype, documents_by)}
    return {"input_ids": ids.masked_fill(mask == 0, padding), "attention_mask": mask}


def length_mask(
    lengths: Sequence[int] | None, batch: int, tokens: int, device: torch.device
) -> Int[Tensor, "batch token"]:
    """1 where a token is real, 0 where it is padding. Raises ModelError for impossible lengths."""
    if lengths is None:
        return torch.ones(batch, tokens, dtype=torch.long, device=device)
    if len(lengths) != batch or not all(1 <= length <= tokens for length in lengths):
        raise ModelError(
            f"lengths {list(lengths)} do not fit {batch} samples of {tokens} tokens; give one "
            f"from 1 to {tokens} for each sample"
        )
    real = torch.arange(tokens) < torch.tensor(lengths).unsqueeze(1)
    return to_device(real.long(), device)


def document_positions(
    documents: Sequence[Sequence[int]], tokens: int
) -> Int[Tensor, "batch token"]:
    """Each token's place in its document, in rows of `tokens`; 0 at padding, of which each token is
    then a document. Raises ModelError for documents that do not fit."""
    positions = torch.zeros(len(documents), tokens, dtype=torch.long)
    for row, lengths in zip(positions, documents, strict=True):
        if min(lengths, default=0) < 1 or sum(lengths) > tokens:
            raise ModelError(f"documents of {list(lengths)} tokens are no row of {tokens}")
        torch.cat([torch.arange(length) for length in lengths], out=row[: sum(lengths)])
    return positions


def _packed(
    config: PreTrainedConfig,
    positions: Int[Tensor, "batch token"],
    dtype: torch.dtype,
    documents_by: str | None,
) -> dict[str, Any]:
    """What keeps the documents of a row apart."""
    check_documents(config.model_type, documents_by)
    if documents_by == "positions":
        return {"position_ids": positions}
    number = (positions == 0).cumsum(1)
    seen = (number[:, :, None] == number[:, None, :]).tril()[:, None]
    if documents_by == "mask":
        return {"position_ids": positions, "attention_mask": _mask(config, seen, dtype)}
    window = getattr(text_or_vision(config), "sliding_window", None) or seen.shape[-1]
    near = torch.ones_like(seen).triu(1 - window)
    masks = {
        "full_attention": _mask(config, seen, dtype),
        "sliding_attention": _mask(config, seen & near, dtype),
    }
    return {"position_ids": positions, "attention_mask": masks}


def _mask(
    config: PreTrainedConfig, seen: Bool[Tensor, "batch one token token"], dtype: torch.dtype
) -> Tensor:
    """As this attention takes what a token sees: eager attention adds it to its scores."""
    if config._attn_implementation != "eager":
        return seen
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


def channels(config: PreTrainedConfig) -> int:
    """Values of a pixel. Raises UnsupportedModelError as `image_sides` does."""
    value = _named(config, "num_channels")
    return value if isinstance(value, int) else value[0]


def patch_count(config: PreTrainedConfig, sides: tuple[int, int] | None = None) -> int:
    """Patches of an image of this height and width [pixel] (None: as the model was trained)."""
    height, width = image_sides(config) if sides is None else sides
    patch = patch_sides(config)
    return (height // patch[0]) * (width // patch[1])


def image_sides(config: PreTrainedConfig) -> tuple[int, int]:
    """Height and width [pixel] of the images that an image model was trained on.

    Raises UnsupportedModelError for a configuration that does not say.
    """
    sizes = text_or_vision(config)
    places = setting(sizes, "num_patches")
    if setting(sizes, "image_size") is None and isinstance(places, int):
        side = math.isqrt(places)
        height, width = patch_sides(config)
        return side * height, side * width
    return _pair(_named(config, "image_size"))


def patch_sides(config: PreTrainedConfig) -> tuple[int, int]:
    """Height and width [pixel] of a patch. Raises UnsupportedModelError as `image_sides` does."""
    return _pair(_named(config, "patch_size"))


def image_step(config: PreTrainedConfig) -> int | None:
    """What divides the side of a square image [pixel]; None for a model that takes no patches."""
    patch = setting(text_or_vision(config), "patch_size")
    if patch is None:
        return None
    step = math.lcm(*_pair(patch))
    if not step:
        raise ModelError(f"config.json says patch_size {patch}: it must be above 0")
    return step


def token_limit(config: PreTrainedConfig) -> int | None:
    """The most tokens that a text may have; None where the model has no such limit."""
    limit = setting(config, "max_position_embeddings")
    if not isinstance(limit, int) or limit < 1:
        return None
    if config.model_type in _OFFSET:
        limit -= (padding_id(config) or 0) + 1
    return limit


def _image_inputs(model: PreTrainedModel, pixels: Tensor) -> dict[str, Any]:
    config = model.config
    if pixels.ndim != 4 or pixels.shape[1] != channels(config):
        raise ModelError(
            f"pixel_values have shape {tuple(pixels.shape)}; the model takes "
            f"[batch, {channels(config)}, height, width]"
        )
    sides, patch = (pixels.shape[2], pixels.shape[3]), patch_sides(config)
    if sides[0] % patch[0] or sides[1] % patch[1]:
        raise ModelError(
            f"images of {sides[0]}x{sides[1]} pixels cannot be cut into patches of "
            f"{patch[0]}x{patch[1]}; resize them to a multiple"
        )
    pixels = pixels.to(model.dtype)
    if _takes_patches(config):
        return _patches_of(pixels, patch)
    inputs: dict[str, Any] = {"pixel_values": pixels}
    if sides != image_sides(config) and _interpolates(model):
        inputs["interpolate_pos_encoding"] = True
    return inputs


def _takes_patches(config: PreTrainedConfig) -> bool:
    """Whether a model is given patches with their place, and has no size of images of its own."""
    sizes = text_or_vision(config)
    return setting(sizes, "image_size") is None and setting(sizes, "num_patches") is not None


def _patches_of(pixels: Tensor, patch: tuple[int, int]) -> dict[str, Any]:
    """Patches row by row, each of its pixels with their channels: [batch, patch, value]."""
    batch, depth, height, width = pixels.shape
    rows, columns = height // patch[0], width // patch[1]
    split = pixels.reshape(batch, depth, rows, patch[0], columns, patch[1])
    patches = split.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, -1)
    return _with_places(patches, rows, columns)


def _with_places(patches: Tensor, rows: int, columns: int) -> dict[str, Any]:
    # where there are no values, those of places are needed all the same
    device = HOST if patches.is_meta else patches.device
    return {
        "pixel_values": patches,
        "pixel_attention_mask": torch.ones(patches.shape[:2], device=patches.device),
        "spatial_shapes": torch.tensor([[rows, columns]] * len(patches), device=device),
    }


def _interpolates(model: PreTrainedModel) -> bool:
    """Whether a model's forward, or that of a model in it which it hands its arguments to, is told
    that an image has another size than those that it was trained on."""
    taken = inspect.signature(type(model).forward).parameters
    handed = any(kind.kind is kind.VAR_KEYWORD for kind in taken.values())
    inner = model.modules() if handed else [model]
    return any(
        "interpolate_pos_encoding" in inspect.signature(type(module).forward).parameters
        for module in inner
        if isinstance(module, PreTrainedModel)
    )


def _stand_in_images(config: PreTrainedConfig, activation: Tensor, patches: int) -> dict[str, Any]:
    """Images of as many patches, without the memory of any: some models see from an image's size
    where its patches are."""
    batch, (high, wide) = len(activation), patch_sides(config)
    sides = image_sides(config)
    rows, columns = sides[0] // high, sides[1] // wide
    if rows * columns != patches:
        rows = math.isqrt(max(patches, 1))
        rows, columns = (rows, rows) if rows * rows == patches else (1, max(patches, 1))
    depth, empty = channels(config), activation.new_zeros(())
    if _takes_patches(config):
        return _with_places(empty.expand(batch, rows * columns, depth * high * wide), rows, columns)
    return {"pixel_values": empty.expand(batch, depth, rows * high, columns * wide)}


def _check_tokens(config: PreTrainedConfig, ids: Tensor) -> None:
    limit = token_limit(config)
    longest = ids.shape[1] if ids.ndim == 2 else 0
    if longest < 1 or (limit is not None and longest > limit):
        raise ModelError(
            f"input_ids have shape {tuple(ids.shape)}; the model takes [batch, token] with at most "
            f"{limit} tokens: truncate longer texts"
        )
    rows = getattr(config, "vocab_size", None)
    if isinstance(rows, int) and ids.device == HOST:
        least, most = (int(bound) for bound in torch.aminmax(ids))
        if least < 0 or most >= rows:
            raise ModelError(
                f"input_ids go from {least} to {most}, the model's embedding from 0 to {rows - 1}:"
                " take the tokenizer that belongs to the model"
            )


def _needed(inputs: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in inputs:
        raise ModelError(f"the inputs have no {name!r}, only {sorted(inputs)}")
    return inputs[name]


def _named(config: PreTrainedConfig, name: str) -> int | Sequence[int]:
    value: int | Sequence[int] | None = setting(text_or_vision(config), name)
    if value is None:
        raise UnsupportedModelError(
            f"a model of type {config.model_type!r} has no {name} in its configuration: it is not"
            " one stack of blocks over patches of an image; take a vision transformer, such as ViT"
            " or DINOv2"
        )
    return value


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


@dataclass(frozen=True)
class Tokenizer:
    """`tokenize(texts)` gives ids with special tokens, cut after the limit it was made with.

    `unknown_share(texts)`: the part of their tokens that the vocabulary lacks; 0 of a tokenizer
    that has a token for everything. `note`: what looks odd beside the model, or None. `begin_id`:
    the token that may begin a text. `check` raises ModelError for ids that the model has no
    embedding for. `library`: transformers' own, for chat templates.
    """

    tokenize: Callable[[list[str]], list[list[int]]]
    pad_id: int
    separator_id: int
    begin_id: int | None
    check: Callable[[list[int]], None]
    library: Any
    unknown_share: Callable[[list[str]], float] = lambda texts: 0.0
    note: str | None = None


def load_tokenizer(folder: Path, max_tokens: int | None) -> Tokenizer:
    """The tokenizer in `folder`; `max_tokens` None: texts are not cut.

    transformers makes a tokenizer of special tokens alone where its files are missing, and takes
    that of another model as gladly: both are found here, before anything trains.

    Padding falls back to the end-of-text id (what is padded is masked anyway). Raises ModelError
    when the folder has no usable tokenizer, or one that gives ids beyond the model's embedding; of
    a token added later, `tokenize` does so for the text that has it.
    """
    inner = open_tokenizer(folder)
    if not _own_ids(inner) - set(inner.all_special_ids):
        raise ModelError(
            f"the tokenizer in {folder} knows no words, only special or added tokens: the files of"
            f" its vocabulary (tokenizer.json, or vocab.txt) are missing; {_REMEDY}"
        )
    ends = [i for i in (inner.sep_token_id, inner.eos_token_id) if i is not None]
    pads = [i for i in (inner.pad_token_id, *ends) if i is not None]
    if not pads:
        raise ModelError(f"the tokenizer in {folder} names no padding, separator or end token")
    pad, separator = int(pads[0]), int(ends[-1] if ends else pads[0])
    rows = _embedding_rows(folder)
    check = _check_of_ids(folder, inner, rows)
    check([*_own_ids(inner), pad, separator, *inner([""])["input_ids"][0]])
    marks = len(inner([""])["input_ids"][0])
    if max_tokens is not None and max_tokens <= marks:
        raise ModelError(
            f"max_tokens is {max_tokens}, and the tokenizer in {folder} adds {marks} special tokens"
            f" to every text: no word would be left; set data.max_tokens to more than {marks}"
        )
    limit = {} if max_tokens is None else {"truncation": True, "max_length": max_tokens}

    def tokenize(texts: list[str]) -> list[list[int]]:
        encoded: list[list[int]] = inner(texts, verbose=False, **limit)["input_ids"]
        for ids in encoded:
            check(ids)
        return encoded

    return Tokenizer(
        tokenize,
        pad,
        separator,
        inner.bos_token_id,
        check,
        inner,
        _unknown_share(inner),
        _note(folder, inner, rows),
    )


# what a tokenizer's files are called, chat template included
_TOKENIZER_FILES = ("*token*", "vocab*", "merges*", "*.model", "*.jinja")


def save_tokenizer(folder: Path, to: Path, padding: int | None = None) -> None:
    """Put the tokenizer in `folder` into `to`, file by file as it is; with `padding` as one that
    pads on the right with this id, which a decoder's classifier passes over.

    Raises ModelError for a tokenizer that cannot be read.
    """
    if padding is not None:
        inner = open_tokenizer(folder)
        inner.pad_token, inner.padding_side = inner.convert_ids_to_tokens(padding), "right"
        inner.save_pretrained(to)
        return
    names = {path for pattern in _TOKENIZER_FILES for path in folder.glob(pattern)}
    for path in names:
        if path.is_file():
            shutil.copyfile(path, to / path.name)


def open_tokenizer(folder: Path) -> Any:
    """As transformers reads it; no code of the folder's own is run. Raises ModelError."""
    try:
        return AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the tokenizers library raises bare ones
        raise ModelError(
            f"{folder} has no tokenizer that can be read ({_why(folder, error)}); {_REMEDY}"
        ) from error


def _why(folder: Path, error: Exception) -> str:
    """The damaged file if there is one, else what the library says."""
    for path in sorted(folder.glob("*.json")):
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return f"{path.name} is damaged, or a pointer of Git LFS"
    if "sentencepiece" in str(error) or "tiktoken" in str(error):
        return "no tokenizer.json, which alone needs no further library"
    return " ".join(str(error).split())[:_LETTERS]


def _own_ids(inner: Any) -> set[int]:
    """Ids of the vocabulary that it was trained with: no token added later."""
    return set(inner.get_vocab().values()) - set(inner.get_added_vocab().values())


def _embedding_rows(folder: Path) -> int | None:
    """Ids that the model in the folder has an embedding for, if its configuration says."""
    if not (folder / "config.json").is_file():
        return None
    rows = getattr(read_config(folder), "vocab_size", None)
    return rows if isinstance(rows, int) else None


def _check_of_ids(folder: Path, inner: Any, rows: int | None) -> Callable[[list[int]], None]:
    """What raises ModelError for ids that no embedding has."""

    def check(ids: list[int]) -> None:
        largest = max(ids, default=0)
        if rows is not None and largest >= rows:
            token = str(inner.convert_ids_to_tokens(largest))[:_LETTERS]
            raise ModelError(
                f"token {token!r} has id {largest}, the embedding of the model in {folder} ends at"
                f" {rows - 1}: take the tokenizer that belongs to these weights, or call"
                " model.resize_token_embeddings(len(tokenizer)) and save the model"
            )

    some_unknown = rows is not None and max(inner.get_vocab().values()) >= rows
    return check if some_unknown else lambda ids: None


def _unknown_share(inner: Any) -> Callable[[list[str]], float]:
    unknown = inner.unk_token_id

    def share(texts: list[str]) -> float:
        encoded = inner(texts, verbose=False, add_special_tokens=False)["input_ids"]
        ids = [token for text in encoded for token in text]
        return ids.count(unknown) / len(ids) if ids and unknown is not None else 0.0

    return share


def _note(folder: Path, inner: Any, rows: int | None) -> str | None:
    if rows is None:
        return None
    padding = getattr(read_config(folder), "pad_token_id", None)
    if None not in (padding, inner.pad_token_id) and padding != inner.pad_token_id:
        return (
            f"the tokenizer in {folder} pads with id {inner.pad_token_id}, config.json"
            f" says {padding}: is it another model's?"
        )
    if 2 * len(inner) >= rows:
        return None
    return (
        f"the tokenizer in {folder} has {len(inner)} tokens, the model's embedding {rows}:"
        " is it another model's?"
    )
