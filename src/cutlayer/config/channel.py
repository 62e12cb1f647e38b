"""The settings of the channel and of the links on it: what each means, its bounds, its default."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from cutlayer.config.section import Choices, Decibels, PluginSection, Real, Seconds, Section, Text


class NoFading(Section):
    """The SNR is the same in every round."""

    name: Literal["none"] = "none"


class RayleighFading(Section):
    """Drawn each round, without a line of sight."""

    name: Literal["rayleigh"] = "rayleigh"


class RicianFading(Section):
    """Drawn each round, with a line of sight."""

    name: Literal["rician"] = "rician"
    k_db: Decibels = Field(
        default=10.0, description="Rician K factor: power of the line of sight over the rest [dB]"
    )


class GaussMarkovFading(Section):
    """Rayleigh or Rician, correlated over rounds."""

    name: Literal["gauss-markov"] = "gauss-markov"
    k_db: Decibels | None = Field(
        default=None,
        description="Rician K factor: power of the line of sight over the rest [dB]; null: no"
        " line of sight",
    )
    correlation: Real = Field(
        default=0.9, ge=0, lt=1, description="of one round's channel gain with the next's"
    )


FadingSection: TypeAlias = NoFading | RayleighFading | RicianFading | GaussMarkovFading


class NoCell(Section):
    """devices.uplink_snr_db and downlink_snr_db."""

    name: Literal["none"] = "none"


class _Cell(Section):
    name: str
    carrier_ghz: Real = Field(default=3.5, ge=0.5, le=100, description="carrier frequency [GHz]")
    nearest_m: Real = Field(
        default=20.0, ge=10, le=5000, description="least distance to the server [m]"
    )
    farthest_m: Real = Field(default=200.0, ge=10, le=5000, description="greatest distance [m]")
    device_power_dbm: Decibels = Field(default=23.0, description="transmit power of devices [dBm]")
    server_power_dbm: Decibels = Field(
        default=33.0, description="transmit power of the server [dBm]"
    )
    device_noise_db: Decibels = Field(default=9.0, ge=0, description="noise figure of devices [dB]")
    server_noise_db: Decibels = Field(
        default=5.0, ge=0, description="noise figure of the server [dB]"
    )


class UmiCell(_Cell):
    """Street canyon; path loss, line of sight and shadowing are drawn from the seed."""

    name: Literal["umi"] = "umi"


class UmaCell(_Cell):
    """Urban macro; path loss, line of sight and shadowing are drawn from the seed."""

    name: Literal["uma"] = "uma"


CellSection: TypeAlias = NoCell | UmiCell | UmaCell


class SnrSection(Section):
    """Shannon's rate at each device's SNR, over a bandwidth that all devices share."""

    name: Literal["snr"] = "snr"
    bandwidth_hz: Real = Field(
        default=5e6, ge=1, le=1e12, description="bandwidth in each direction [Hz]"
    )
    rate: Literal["constant-snr", "constant-power"] = Field(
        default="constant-snr",
        description="constant-snr (the paper's): the SNR does not depend on the bandwidth"
        " share; constant-power: it is that of the whole bandwidth, and higher for a"
        " smaller share",
    )
    fading: Annotated[FadingSection, Choices("none")] = Field(
        default=NoFading(), description="How a device's SNR varies from round to round."
    )
    cell: Annotated[CellSection, Choices("none")] = Field(
        default=NoCell(),
        description="Devices in a cell of 3GPP TR 38.901: SNR from distances instead of given"
        " ones.",
    )


class TracesSection(Section):
    """Measured rates instead of SNR, replayed."""

    name: Literal["traces"] = "traces"
    uplink: tuple[Text, ...] = Field(
        min_length=1,
        description="one file per device, or one for all; CSV of time_s,rate_bit_per_s, or"
        " Mahimahi's format",
    )
    downlink: tuple[Text, ...] = Field(
        default=(), description="the same for the downlink; none: as the uplink"
    )
    window_s: Seconds = Field(
        default=1.0, description="a round's rate is the trace's mean over so many seconds [s]"
    )


ChannelSection: TypeAlias = SnrSection | TracesSection | PluginSection


class LinkSection(Section):
    """How transfers share the channel."""

    uplink: Literal["static", "in-turn", "shared"] = Field(
        default="static",
        description="static: each device on its bandwidth share; in-turn: one transfer after"
        " another on the whole bandwidth; shared: time slots among the active"
        " transfers",
    )
    downlink: Literal["static", "in-turn", "shared"] = Field(
        default="static", description="the same for the downlink"
    )
    duplex: Literal["full", "half"] = Field(
        default="full", description="half: never both directions at once"
    )
