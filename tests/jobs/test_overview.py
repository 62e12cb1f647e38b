"""A run says what it trains, on what, over which link and how long, a line each."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from planner.test_profile import PROFILE

from cutlayer.config.schema import Config
from cutlayer.jobs.prepare import prepare
from cutlayer.jobs.train import overview, resume, start
from cutlayer.logs import lines_to
from cutlayer.planner.profile import profile_text


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.vision_model(tmp_path_factory.mktemp("vision") / "tiny-vit")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.images(tmp_path_factory.mktemp("pictures") / "colours")


def _lines(config: Config, *, real: bool = False) -> list[str]:
    job = prepare(config)
    return overview(job.config, job.prepared, job.setup, real=real)


def test_a_run_of_images(model: Path, images: Path) -> None:
    model_line, data, link, work = _lines(tiny.config(model, images))
    assert model_line == "tiny-vit: 34.2 k parameters, 4 blocks, cut after 2; 2.88 k trainable"
    assert data == (
        "colours: 4 classes: red, green, blue, yellow; 80 train, 32 test; 18 to 39 samples per"
        " device"
    )
    assert (
        link
        == "codec best (0.7 + 0.4 bits per value); link 5 MHz, SNR 17 dB uplink, 17 dB downlink"
    )
    assert work == (
        "scheme sft; 3 devices, 2 rounds of 2 local steps per device, mini-batches of 4 samples"
    )


def test_a_run_of_a_language_model(tmp_path: Path) -> None:
    files = tiny.text_model(tmp_path / "words", "llama"), tiny.corpus(tmp_path / "corpus")
    _, data, *_ = _lines(tiny.config(*files, partition={"name": "iid"}))
    assert data == "corpus: blocks of 12 tokens; 97 train, 26 test; 32 to 33 blocks per device"


def test_a_run_of_conversations(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Rows of their own lengths; and what the template does not write is not learned from."""
    model, path = tiny.text_model(tmp_path / "words", "llama"), tmp_path / "chats.jsonl"
    call = {"function": {"name": "plot", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": "good film"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "a plot"},
        {"role": "assistant", "content": "great", "thinking": "was the film good"},
    ]
    path.write_text((json.dumps({"messages": turns}) + "\n") * 10, encoding="utf-8")
    said = {"max_tokens": 40, "chat_template": tiny.CHAT_TEMPLATE}
    config = tiny.config(model, path, partition="iid", data=said)
    _, data, *_ = _lines(config)
    assert data == ("chats.jsonl: rows of up to 40 tokens; 8 train, 2 test; 2 to 3 rows per device")
    assert "the chat template leaves out the tool_calls, thoughts of the conver" in caplog.text


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"codec": {"name": "none"}}, "codec none (float32); "),
        (
            {"codec": {"name": "paper", "keep_ratio": 0.2, "levels": 7}},
            "codec paper (20 % of the values, 7 levels); ",
        ),
        (
            {"codec": {"target_cosine_up": 0.99}},
            "codec best (cosine 0.99 uplink, 0.4 downlink); ",
        ),
        (
            {"codec": {"name": "stages", "up": {"quantise": "int"}}},
            "codec stages (int, two-way uplink, int, two-way downlink); ",
        ),
        ({"scheme": {"name": "splitlora"}}, "no codec: splitlora sends float32; "),
        (
            {"scheme": "splitlora", "adapter_codec": {"name": "best", "target_bits_up": 0.5}},
            "no codec: splitlora sends float32; adapters best (0.5 + 4 bits per value); link",
        ),
        ({"adapter_codec": "int8"}, "; adapters int8 (8 bits per value); link"),
        (
            {"scheme": {"name": "fl-lora"}},
            "no codec: fl-lora sends neither activations nor gradients; ",
        ),
        (
            {
                "devices": {"uplink_snr_db": (3, 17, 25)},
                "channel": {"fading": {"name": "rayleigh"}},
            },
            "link 5 MHz, SNR 3 to 25 dB uplink, 17 dB downlink, rayleigh fading",
        ),
        ({"channel": {"bandwidth_hz": 500}}, "link 500 Hz, SNR 17 dB up"),
    ],
)
def test_codecs_and_links(
    model: Path, images: Path, sections: dict[str, object], said: str
) -> None:
    assert said in _lines(tiny.config(model, images, **sections))[2]


def test_a_run_over_a_network_has_no_simulated_link(model: Path, images: Path) -> None:
    config = tiny.config(model, images)
    _, data, link, _ = _lines(config, real=True)
    assert link.endswith("; link: the network, not paced")
    assert data.endswith("red, green, blue, yellow; 32 test; devices have their own samples")
    paced = tiny.config(model, images, net={"uplink_bit_s": 8e6})
    assert _lines(paced, real=True)[2].endswith("; link: the network, 8 Mbit/s uplink")


def test_all_weights_are_trained_on_devices_that_hold_them(model: Path, images: Path) -> None:
    first, *_ = _lines(tiny.config(model, images, scheme={"name": "fl-full"}))
    assert first.endswith("4 blocks, not cut; all of them trainable")


def test_many_classes_and_long_names_are_cut(model: Path, tmp_path: Path) -> None:
    folder = tiny.images(tmp_path / "many")
    names = ["a" * 500, "bell\a", *(f"class-{n}" for n in range(98))]
    (folder / "fine_label_names.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    data = _lines(tiny.config(model, folder))[1]
    assert f"100 classes: {'a' * 19}…, bell\ufffd, class-0, " in data
    assert "and 94 more; 80 train" in data
    assert len(data) < 200


def test_a_resumed_run_says_where_it_goes_on(model: Path, images: Path, tmp_path: Path) -> None:
    path = start(tiny.config(model, images, training={"rounds": 1}), tmp_path).path
    said: list[str] = []
    with lines_to(said.append):
        resume(path)
    assert "already finished: all of 1 round; more with training.rounds" in said
    with lines_to(said.append):
        resume(path, changes={"training.rounds": "2"})
    assert said.count("resumes with round 2 of 2") == 1


def test_a_device_part_that_is_frozen_says_what_training_it_would_bring(
    model: Path, images: Path, tmp_path: Path
) -> None:
    frozen = tiny.config(model, images, scheme="sft-frozen")
    _, _, link, _, part = _lines(frozen)
    assert link.startswith("codec best (0.7 bits per value); link")
    assert part == "device part frozen"
    warm = tiny.config(model, images, device_part={"name": "warm", "rounds": 1})
    assert _lines(warm)[-1] == "device part trained in 1 round, then frozen"
    path = tmp_path / "profile.json"
    own = replace(PROFILE, model=str(model), data=str(images), cut=2)
    parts = tuple(replace(point, cut=2) for point in own.device_parts)
    path.write_text(profile_text(replace(own, device_parts=parts)), encoding="utf-8")
    measured = tiny.config(model, images, scheme="sft-frozen", planner={"profile": str(path)})
    trained, point = parts[:2]
    lost = own.device_part_loss(replace(point, cut=4))
    assert _lines(measured)[-1] == (
        f"device part frozen: training it brings {100 * lost.loss:.1f} ± {100 * lost.error:.1f} of"
        f" {100 * trained.accuracy:.1f} points at cut 2, by its profile"
    )
