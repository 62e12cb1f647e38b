"""The settings of the link: what each means, its bounds, its default and which choice reads it."""

from typing import Annotated, Literal

from pydantic import Field

from cutlayer.config.section import (
    Decibels,
    Real,
    Seconds,
    Section,
    Share,
    Text,
    read_by,
    read_unless,
)

_CELLS = ("umi", "uma")


class FadingSection(Section):
    """How a device's SNR varies from round to round."""

    name: Literal["none", "rayleigh", "rician", "gauss-markov"] = Field(
        default="none",
        description="none; rayleigh; rician; gauss-markov (rayleigh or rician with memory)",
    )
    k_db: Annotated[Decibels | None, read_by("name", "rician", "gauss-markov")] = Field(
        default=None,
        description="power of the direct path over the rest [dB]; null: 10"
        " for rician, no direct path for gauss-markov",
    )
    correlation: Annotated[Real, read_by("name", "gauss-markov")] = Field(
        default=0.9, ge=0, lt=1, description="of one round's gain with the next's"
    )


class CellSection(Section):
    """Devices in a cell of 3GPP TR 38.901: SNR from distances instead of given ones."""

    name: Literal["none", "umi", "uma"] = Field(
        default="none",
        description="none: devices.uplink_snr_db and downlink_snr_db; umi: street canyon; uma:"
        " urban macro; path loss, line of sight and shadowing are drawn from the seed",
    )
    carrier_ghz: Annotated[Real, read_by("name", *_CELLS)] = Field(
        default=3.5, ge=0.5, le=100, description="carrier frequency [GHz]"
    )
    nearest_m: Annotated[Real, read_by("name", *_CELLS)] = Field(
        default=20.0, ge=10, le=5000, description="least distance to the server [m]"
    )
    farthest_m: Annotated[Real, read_by("name", *_CELLS)] = Field(
        default=200.0, ge=10, le=5000, description="greatest distance [m]"
    )
    device_power_dbm: Annotated[Decibels, read_by("name", *_CELLS)] = Field(
        default=23.0, description="transmit power of devices [dBm]"
    )
    server_power_dbm: Annotated[Decibels, read_by("name", *_CELLS)] = Field(
        default=33.0, description="transmit power of the server [dBm]"
    )
    device_noise_db: Annotated[Decibels, read_by("name", *_CELLS)] = Field(
        default=9.0, ge=0, description="noise figure of devices [dB]"
    )
    server_noise_db: Annotated[Decibels, read_by("name", *_CELLS)] = Field(
        default=5.0, ge=0, description="noise figure of the server [dB]"
    )


class LinkSection(Section):
    """The bandwidth that all devices share."""

    bandwidth_hz: Annotated[Real, read_by("traces", ())] = Field(
        default=5e6, ge=1, le=1e12, description="bandwidth, the same both ways [Hz]"
    )
    shares: Annotated[Literal["even"] | tuple[Share, ...], read_by("planner.name", "even")] = Field(
        default="even",
        description="bandwidth allocation: even, or a list that sums to 1 at most",
    )
    rate: Annotated[Literal["constant-snr", "constant-power"], read_by("traces", ())] = Field(
        default="constant-snr",
        description="constant-snr (the paper's): the SNR is the same for any share;"
        " constant-power: it is that of the whole bandwidth, and better for a smaller share",
    )
    fading: FadingSection = FadingSection()
    cell: CellSection = CellSection()
    traces: tuple[Text, ...] = Field(
        default=(),
        description="measured rates instead of SNR: a file a device, or one for all; CSV of"
        " time_s,rate_bit_per_s, or Mahimahi's format",
    )
    downlink_traces: tuple[Text, ...] = Field(
        default=(), description="the same for the downlink; none: as the uplink"
    )
    trace_window_s: Annotated[Seconds, read_unless("traces", ())] = Field(
        default=1.0, description="a round's rate is the trace's mean over so many seconds [s]"
    )
    uplink: Literal["static", "in-turn", "shared"] = Field(
        default="static",
        description="static: each on its share; in-turn: the whole bandwidth for one transfer after"
        " another; shared: time slots among those under way",
    )
    downlink: Literal["static", "in-turn", "shared"] = Field(
        default="static", description="the same for the downlink"
    )
    duplex: Literal["full", "half"] = Field(
        default="full", description="half: never both ways at once"
    )
