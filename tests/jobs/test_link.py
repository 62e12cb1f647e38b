"""The channel and link sections: every channel, shares and rules; what cannot be together."""

from pathlib import Path

import pytest

from cutlayer.channel.rates import LinkRates
from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError
from cutlayer.jobs.build import fixed_shares, make_channel, make_rules
from cutlayer.jobs.machines import make_devices
from cutlayer.rounds.batching import ServerBatch, ServerBatching
from cutlayer.rounds.work import Duplex, Sharing, SharingRules


def _config(count: int = 2, **channel: object) -> Config:
    return Config.model_validate({"devices": {"count": count}, "channel": channel})


def _linked(**link: object) -> Config:
    return Config.model_validate({"devices": {"count": 2}, "link": link})


def _shared(*shares: float) -> Config:
    values = {"devices": {"count": 2}, "planner": {"name": "fixed", "shares": shares}}
    return Config.model_validate(values)


def _rates(config: Config, round_number: int = 1, start_s: float = 0.0) -> tuple[LinkRates, ...]:
    channel = make_channel(config, make_devices(config.devices))
    return channel.rates(round_number, start_s, fixed_shares(config, config.devices.count).value)


def test_even_shares_fill_the_band() -> None:
    rates = _rates(_config(4))
    # four quarters of the bandwidth, all at 17 dB
    total = sum(rate.uplink_bit_per_s for rate in rates)
    assert total == pytest.approx(rates[0].broadcast_bit_per_s, rel=1e-12)
    assert total == pytest.approx(rates[0].uplink_alone_bit_per_s, rel=1e-12)


def test_shares_as_given() -> None:
    first, second = _rates(_shared(0.25, 0.5))
    assert second.uplink_bit_per_s == pytest.approx(2 * first.uplink_bit_per_s)


def test_a_device_that_sends_with_all_its_power_has_a_better_share() -> None:
    constant, power = _rates(_config()), _rates(_config(rate="constant-power"))
    assert power[0].uplink_bit_per_s > constant[0].uplink_bit_per_s
    assert power[0].uplink_alone_bit_per_s == pytest.approx(constant[0].uplink_alone_bit_per_s)
    assert power[0].downlink_bit_per_s == pytest.approx(constant[0].downlink_bit_per_s)


@pytest.mark.parametrize("fading", ["rayleigh", "rician", "gauss-markov"])
def test_fading_differs_from_round_to_round_and_follows_the_seed(fading: str) -> None:
    config = _config(fading=fading)
    assert _rates(config, 1) == _rates(config, 1) != _rates(config, 2)
    assert _rates(config.model_copy(update={"seed": 1}), 1) != _rates(config, 1)


def test_a_steady_path_fades_less() -> None:
    steady = _rates(_config(fading={"name": "rician", "k_db": 60.0}))
    assert steady[0].uplink_bit_per_s == pytest.approx(_rates(_config())[0].uplink_bit_per_s, 0.01)


def test_a_cell_gives_each_device_its_own_ratio() -> None:
    umi, uma = (_rates(_config(cell=name)) for name in ("umi", "uma"))
    assert umi[0].uplink_bit_per_s != umi[1].uplink_bit_per_s
    assert umi != uma
    near = _rates(_config(cell={"name": "umi", "nearest_m": 10.0, "farthest_m": 11.0}))
    assert min(r.uplink_bit_per_s for r in near) > max(r.uplink_bit_per_s for r in umi)


def test_traces_replace_ratios(tmp_path: Path) -> None:
    trace = tmp_path / "up.csv"
    trace.write_text("time_s,rate_bit_per_s\n0,1e6\n1,3e6\n2,3e6\n", encoding="utf-8")
    config = _config(name="traces", uplink=(str(trace),))
    assert _rates(config)[0].uplink_bit_per_s == pytest.approx(0.5e6)
    assert _rates(config, 2, 1.0)[1].downlink_alone_bit_per_s == pytest.approx(3e6)


def test_rules() -> None:
    assert make_rules(_config()) == SharingRules()
    config = _linked(uplink="shared", downlink="shared", duplex="half")
    config = config.model_copy(update={"server": config.server.model_copy(update={"workers": 3})})
    assert make_rules(config) == SharingRules(3, Sharing.SHARED, Sharing.SHARED, Duplex.HALF)
    assert make_rules(_linked(downlink="in-turn")).downlink is Sharing.IN_TURN


def test_a_server_of_arrivals() -> None:
    server = {"batch": "arrivals", "batch_tokens": 4096, "coalesce_ms": 2.5}
    config = Config.model_validate({"server": server})
    assert make_rules(config).batching == ServerBatching(ServerBatch.ARRIVALS, 4096, 0.0025)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (_shared(0.5), r"planner\.shares lists 1 shares for devices\.count 2"),
        (_shared(0.9, 0.9), "more than the bandwidth"),
        (_config(name="traces", uplink=("nowhere.csv",)), "nowhere.csv"),
        (_config(name="traces", uplink=("a", "b", "c")), "lists 3 files for 2 devices"),
        (
            _config(cell={"name": "umi", "nearest_m": 90.0, "farthest_m": 50.0}),
            r"nearest_m 90 is not below channel\.cell\.farthest_m 50",
        ),
    ],
)
def test_channels_that_cannot_be(config: Config, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _rates(config)


def test_half_duplex_is_one_band() -> None:
    with pytest.raises(ConfigError, match="half duplex"):
        make_rules(_linked(duplex="half", downlink="shared"))
