"""Which jobs a lab can play, and one that it plays from beginning to end."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import plugin
import pytest
import tiny
import torch
from safetensors.torch import load_file

from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError
from cutlayer.jobs.prepare import Job, prepare
from cutlayer.jobs.train import start
from cutlayer.lab.environment import loopback
from cutlayer.lab.lab import check_lab, run_lab
from cutlayer.lab.run import LabSetup, join_command, served_config, whole_json_lines
from cutlayer.logs import lines_to

Folders = tuple[Path, Path]
# one that warms up, one that calibrates, one that is compared
ROUNDS = {"rounds": 3}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    folder = tmp_path_factory.mktemp("lab")
    return tiny.vision_model(folder / "model"), tiny.images(folder / "images")


def job(folders: Folders, **sections: object) -> Job:
    return prepare(tiny.config(*folders, **{"codec": "paper", "training": ROUNDS, **sections}))


def play(made: Job) -> LabSetup:
    links, shares = check_lab(made)
    return LabSetup(made, links, shares, loopback(len(links), "asked for"), Path(), Path())


def test_a_device_computes_where_the_configuration_says(folders: Folders) -> None:
    command = join_command(play(job(folders, devices={"count": 3, "device": "cpu"})), 0, 7700)
    assert command[command.index("--device") + 1] == "cpu"


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"training": {"rounds": 2}}, "it needs 3 or more"),
        ({"link": {"uplink": "shared"}}, "a link of its own to one server"),
        ({"link": {"duplex": "half"}}, "a link of its own to one server"),
        ({"server": {"workers": 2}}, "a link of its own to one server"),
        ({"server": {"batch": "arrivals"}}, "server.batch to alone"),
        ({"planner": "two-timescale"}, "planner"),
        ({"scheme": "sl"}, "cannot run over a network"),
    ],
)
def test_a_job_that_no_lab_can_play(
    folders: Folders, sections: Mapping[str, object], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        check_lab(job(folders, **sections))


def test_links_have_the_rates_of_their_shares(folders: Folders) -> None:
    """Shannon's with a constant ratio: in the proportion of the shares. Nobody broadcasts."""
    links, shares = check_lab(job(folders, planner={"name": "fixed", "shares": [0.5, 0.25, 0.25]}))
    assert shares == (0.5, 0.25, 0.25)
    assert links[0].uplink_bit_per_s == pytest.approx(2 * links[1].uplink_bit_per_s)
    assert all(link.broadcast_bit_per_s == link.downlink_bit_per_s for link in links)


def test_on_loopback_the_band_is_paced(folders: Folders) -> None:
    made = play(job(folders, planner={"name": "fixed", "shares": [0.5, 0.25, 0.25]}))
    net = served_config(made).net
    assert net.uplink_bit_s == pytest.approx(2 * made.links[0].uplink_bit_per_s)
    assert net.downlink_bit_s == pytest.approx(4 * made.links[1].downlink_bit_per_s)
    assert net.devices == ("device-0", "device-1", "device-2")


def test_over_shaped_links_nobody_paces(folders: Folders) -> None:
    made = play(job(folders, net={"uplink_bit_s": 1e6}))
    net = served_config(replace(made, environment=replace(made.environment, shaped=True))).net
    assert net.uplink_bit_s is None and net.downlink_bit_s is None


def test_on_loopback_one_rate_is_shared_out(folders: Folders) -> None:
    made = play(job(folders, devices={"uplink_snr_db": [10.0, 20.0, 20.0]}))
    with pytest.raises(ConfigError, match="the uplink rates of these differ"):
        served_config(made)


def test_a_line_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "rounds.jsonl"
    path.write_text('{"round": 0}\n{"rou', encoding="utf-8")
    assert whole_json_lines(path) == [{"round": 0}]


def test_a_codec_of_another_package_is_played_if_it_is_registered(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin.install(monkeypatch, tmp_path)
    made = job(folders, codec={"name": "truncated", "options": {"kept": 3}})
    check_lab(made)
    # its processes read what the configuration says
    assert served_config(play(made)).codec == made.config.codec
    (tmp_path / "own.py").write_text("from cutlayer_example.pieces import Truncated\n")
    unknown = job(folders, codec="own:Truncated")
    with pytest.raises(ConfigError, match=r"own:Truncated is registered in .* by no package here"):
        check_lab(unknown)


@pytest.mark.slow("a lab of real processes on loopback")
def test_a_lab_on_loopback(folders: Folders, tmp_path: Path) -> None:
    """Processes, TLS and pacing; the adapter is the trainer's, and nothing else is left."""
    config: Config = tiny.config(
        *folders, codec="paper", devices={"count": 2}, training={**ROUNDS, "local_steps": 4}
    )
    said: list[str] = []
    with lines_to(said.append):
        ended = run_lab(config, tmp_path / "runs", on_loopback=True)
    assert ended.where.startswith("on loopback")
    (last,) = ended.comparison.rounds
    assert last.number == 3 and last.interval_s is not None
    labels = {line.label for line in ended.comparison.phases}
    assert {"device forward", "activation up", "server compute", "adapter up"} <= labels
    assert any("round 3 of 3" in line for line in said)
    alone = config.model_copy(update={"server": config.server.model_copy(update={"group": 1})})
    trained = start(alone, tmp_path / "trained").path
    one, other = (
        load_file(path / "adapter" / "adapter_model.safetensors")
        for path in (ended.directory, trained)
    )
    assert all(torch.equal(one[name], other[name]) for name in one | other)
