"""What cannot run over a network is said before a run directory is made."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from net.wire.test_messages import TERMS
from training.conftest import vision

from cutlayer.errors import ConfigError, FrameError
from cutlayer.jobs.network import check_net, open_net
from cutlayer.jobs.prepare import prepare
from cutlayer.jobs.train import new_directory
from cutlayer.net.wire.frames import (
    decode_message,
    device_limits,
    encode_message,
    largest_frame,
    server_limits,
)
from cutlayer.net.wire.link import in_place
from cutlayer.net.wire.messages import Welcome
from cutlayer.training.records import Silent

__all__ = ["vision"]


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"scheme": "sl"}, "scheme sl cannot run over a network"),
        ({"training": {"local_epochs": 1}}, "does not know how many samples"),
        ({"net": {"devices": ("a", "b")}}, "2 names for devices.count 3"),
        ({"net": {"devices": ("a", "b", "a")}}, "one of its own"),
        ({"net": {"quorum": 4}}, "quorum 4 for 3 devices"),
        ({"planner": "two-timescale"}, "devices are not paced"),
    ],
)
def test_what_cannot_be(sections: dict[str, object], words: str, vision: tuple[Path, Path]) -> None:
    job = prepare(tiny.config(*vision, **sections))
    with pytest.raises(ConfigError, match=words):
        check_net(job)


@pytest.mark.parametrize(("length", "fits"), [(200, True), (1000, False)])
def test_names_of_classes_fit_in_the_terms(
    length: int, fits: bool, vision: tuple[Path, Path]
) -> None:
    """4000 names and a frame of them, as a device reads it."""
    job = prepare(tiny.config(*vision))
    names = tuple(f"{number:0{length}}" for number in range(4000))
    prepared = replace(job.prepared, data=replace(job.prepared.data, class_names=names))
    welcome = encode_message(Welcome(replace(TERMS, class_names=list(names))), 0)
    if fits:
        check_net(replace(job, prepared=prepared))
        decode_message(welcome, device_limits(None))
    else:
        with pytest.raises(ConfigError, match="names of the 4000 classes"):
            check_net(replace(job, prepared=prepared))
        with pytest.raises(FrameError, match="WELCOME"):
            decode_message(welcome, device_limits(None))


def test_devices_are_told_the_template_and_not_where_it_lies(tmp_path: Path) -> None:
    model = tiny.text_model(tmp_path / "llama", "llama")
    data, template = tiny.chats(tmp_path / "chats.jsonl"), tmp_path / "chat.jinja"
    template.write_text(tiny.CHAT_TEMPLATE, encoding="utf-8")
    section = {"chat_template": str(template), "max_tokens": 40, "loss_on": "completion"}
    config = tiny.config(model, data, data=section)
    job = prepare(config, dealt=False)
    net = open_net(job, new_directory(config, tmp_path), Silent(), in_place)
    told = net.plan.terms[0].settings["data"]
    assert told["chat_template"] == tiny.CHAT_TEMPLATE
    assert (told["loss_on"], told["packing"], "name" in told) == ("completion", None, False)
    prepared = replace(job.prepared, chat_template="{{ bos_token }}" * 100_000)
    with pytest.raises(ConfigError, match=r"data\.chat_template has 1500002 bytes"):
        check_net(replace(job, prepared=prepared))


def test_a_link_takes_no_frame_beyond_the_runs(vision: tuple[Path, Path], tmp_path: Path) -> None:
    config = tiny.config(*vision)
    net = open_net(prepare(config), new_directory(config, tmp_path), Silent(), in_place)
    assert net.limits.frame_bytes == largest_frame(server_limits(net.plan.bounds))
