"""The channel section made into a channel, and the link section into the timeline's rules."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cutlayer.channel.drop import Radio, distances_in_cell, drop_devices
from cutlayer.channel.fading import Fading, GaussMarkov, NoFading, Rayleigh, Rician
from cutlayer.channel.path_loss import SCENARIOS
from cutlayer.channel.rates import Channel
from cutlayer.channel.shannon import ConstantPower, ConstantSnr
from cutlayer.channel.snr_channel import SnrChannel
from cutlayer.channel.trace import Trace
from cutlayer.channel.trace_channel import TraceChannel
from cutlayer.channel.trace_files import read_trace
from cutlayer.config.channel_section import (
    FadingSection,
    GaussMarkovFading,
    NoCell,
    RayleighFading,
    RicianFading,
    SnrSection,
    TracesSection,
    UmaCell,
    UmiCell,
)
from cutlayer.config.channel_section import NoFading as NoFadingSection
from cutlayer.config.schema import Config
from cutlayer.errors import ConfigError
from cutlayer.spec import Device
from cutlayer.timeline.rules import Duplex, Rules, Sharing

_SHARING = {"static": Sharing.STATIC, "in-turn": Sharing.IN_TURN, "shared": Sharing.SHARED}


def make_rules(config: Config) -> Rules:
    """How the timeline shares links and server. Raises ConfigError where they exclude each
    other."""
    link = config.link
    return Rules(
        server_workers=config.server.workers,
        uplink=_SHARING[link.uplink],
        downlink=_SHARING[link.downlink],
        duplex=Duplex(link.duplex),
    )


def make_channel(config: Config, devices: Sequence[Device]) -> Channel:
    """Each device's rates in every round. Raises ConfigError for traces that cannot be read, or
    settings that cannot be together."""
    section = config.channel
    match section:
        case TracesSection():
            return _traces(section, len(devices))
        case SnrSection():
            return _snr(section, config, devices)


def _snr(section: SnrSection, config: Config, devices: Sequence[Device]) -> SnrChannel:
    if isinstance(section.cell, NoCell):
        up = np.array([device.uplink_snr_db for device in devices])
        down = np.array([device.downlink_snr_db for device in devices])
    else:
        up, down = _cell(section.cell, section.bandwidth_hz, len(devices), config.seed)
    return SnrChannel(
        section.bandwidth_hz,
        up,
        down,
        uplink_law=ConstantPower() if section.rate == "constant-power" else ConstantSnr(),
        fading=_fading(section.fading),
        reciprocal=config.link.duplex == "half",
        seed=config.seed,
    )


def _fading(section: FadingSection) -> Fading:
    match section:
        case NoFadingSection():
            return NoFading()
        case RayleighFading():
            return Rayleigh()
        case RicianFading():
            return Rician(section.k_db)
        case GaussMarkovFading():
            return GaussMarkov(section.correlation, section.k_db)


def _cell(
    section: UmiCell | UmaCell, bandwidth_hz: float, devices: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Uplink and downlink ratios of devices dropped in a cell [dB]."""
    if not section.nearest_m < section.farthest_m:
        raise ConfigError(
            f"channel.cell.nearest_m {section.nearest_m:g} is not below channel.cell.farthest_m"
            f" {section.farthest_m:g}: lower the one or raise the other"
        )
    radio = Radio(
        bandwidth_hz=bandwidth_hz,
        carrier_ghz=section.carrier_ghz,
        device_power_dbm=section.device_power_dbm,
        server_power_dbm=section.server_power_dbm,
        device_noise_figure_db=section.device_noise_db,
        server_noise_figure_db=section.server_noise_db,
    )
    distances = distances_in_cell(devices, section.nearest_m, section.farthest_m, seed)
    drop = drop_devices(SCENARIOS[section.name], distances, radio, seed)
    return drop.uplink_snr_db, drop.downlink_snr_db


def _traces(section: TracesSection, devices: int) -> TraceChannel:
    up = _each("channel.uplink", section.uplink, devices)
    down = _each("channel.downlink", section.downlink or section.uplink, devices)
    return TraceChannel(up, down, section.window_s)


def _each(key: str, paths: tuple[str, ...], devices: int) -> tuple[Trace, ...]:
    if len(paths) not in (1, devices):
        raise ConfigError(f"{key} lists {len(paths)} files for {devices} devices: one, or one each")
    traces = [read_trace(Path(path)) for path in paths]
    return tuple(traces) if len(traces) == devices else tuple(traces * devices)
