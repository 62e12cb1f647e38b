"""Devices and servers: hardware by name, and settings of what they reach, hold and draw."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator

from cutlayer.config.presets import RESERVED_MIB, find_preset
from cutlayer.config.section import (
    MOST_DEVICES,
    DecibelsEach,
    Mebibytes,
    MebibytesEach,
    Number,
    Price,
    Rate,
    RateEach,
    Real,
    Reserved,
    ReservedEach,
    Section,
    Text,
    TextEach,
    TorchDevice,
    Watts,
    WattsEach,
    Whole,
    read_by,
    read_unless,
)
from cutlayer.errors import ConfigError, quoted
from cutlayer.units import MIB

# The values that a device preset stands for in a configuration's section.
#
# They are filled in as the section is read, so that whoever looks at it finds numbers, and a
# configuration that was written out reads back to the same values.


def device_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """What `devices.preset` says of the other keys, and what goes with `devices.profile`; nothing
    without one.

    Raises ConfigError: a name that nobody knows, a list of another length than a given count, an
    efficiency without a preset, a preset beside a profile.
    """
    preset, efficiency = given.get("preset"), _efficiency("devices", given)
    profile, reserved = given.get("profile"), _reserved(given)
    if profile is not None:
        _refuse_preset("devices", given)
        return reserved | _counted("profile", profile, given)
    if isinstance(preset, str):
        one = find_preset(preset)
        return reserved | {
            "flops_per_s": efficiency * one.flops_per_s,
            "flops_spread": 0.0,
            "memory_mib": one.memory_bytes / MIB,
            "power_w": one.power_w,
        }
    if isinstance(preset, list | tuple) and all(isinstance(name, str) for name in preset):
        each = [find_preset(name) for name in preset]
        return (
            reserved
            | _counted("preset", preset, given)
            | {
                "flops_per_s": tuple(efficiency * one.flops_per_s for one in each),
                "flops_spread": 0.0,
                "memory_mib": tuple(one.memory_bytes / MIB for one in each),
                "power_w": tuple(one.power_w for one in each),
            }
        )
    return {}  # without one, or of a type that the section refuses


def server_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same of `server.preset` and `server.profile`."""
    preset, efficiency = given.get("preset"), _efficiency("server", given)
    if given.get("profile") is not None:
        _refuse_preset("server", given)
        return _reserved(given)
    if not isinstance(preset, str):
        _refuse_reserved(given)
        return {}
    one = find_preset(preset)
    return _reserved(given) | {
        "flops_per_s": efficiency * one.flops_per_s,
        "memory_mib": one.memory_bytes / MIB,
        "power_w": one.power_w,
    }


def _reserved(given: Mapping[str, Any]) -> dict[str, Any]:
    """Who says how much memory there is for training has reserved the rest."""
    return {} if "memory_mib" in given else {"reserved_mib": RESERVED_MIB}


def _refuse_reserved(given: Mapping[str, Any]) -> None:
    """Without a limit nothing is taken from it."""
    reserved = _number(given.get("reserved_mib", 0.0))
    if given.get("memory_mib") is None and reserved:
        raise ConfigError(
            f"server.reserved_mib {reserved:g} is part of server.memory_mib, which is null: give"
            " that, or a server.preset or server.profile that has it"
        )


def _counted(key: str, names: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Of a list of devices, how many there are."""
    if not isinstance(names, list | tuple):
        return {}
    if not names:
        raise ConfigError(f"devices.{key} is an empty list: name one, or one for each device")
    if _number(given.get("count", len(names))) != len(names):
        raise ConfigError(
            f"devices.{key} lists {len(names)} names for devices.count {given['count']}: leave the"
            " count out"
        )
    return {"count": len(names)}


def _refuse_preset(section: str, given: Mapping[str, Any]) -> None:
    if given.get("preset") is not None:
        raise ConfigError(
            f"{section}.profile {quoted(given['profile'])} was measured, and {section}.preset"
            f" {quoted(given['preset'])} is of a data sheet: give one of them"
        )


def _efficiency(section: str, given: Mapping[str, Any]) -> float:
    """What to multiply a peak by; the section refuses one that is no part of it."""
    efficiency = _number(given.get("efficiency", 1.0))
    if efficiency is None:
        return 1.0
    if efficiency != 1.0 and given.get("preset") is None:
        raise ConfigError(
            f"{section}.efficiency {efficiency} is of a preset's peak rate, and {section}.preset is"
            f" null: give a preset, or {section}.flops_per_s as it is reached"
        )
    return efficiency


def _number(value: Any) -> float | None:
    """A number as the section will read it, also of a text such as 3e-1, which YAML takes for one;
    None: the section refuses it."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


# The settings of the devices and of the server: what they are, reach, hold and draw.


BaseName: TypeAlias = Literal["float32", "bfloat16", "int8", "nf4"]
# schemes whose devices train the whole model: their server only merges
WHOLE = ("fl-lora", "fl-full")
# the server takes mini-batches in an order of its own, or has none
_ORDERED = (*WHOLE, "sl", "splitlora", "splitlora-paper")
# while a server waits, nobody's leaving and no deadline is looked at
_Wait = Annotated[float, Field(ge=0, le=60_000, allow_inf_nan=False), Number]
_Milliseconds = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False), Number]


class DevicesSection(Section):
    """The simulated devices. A list gives each its own value."""

    count: Whole = Field(
        default=8,
        ge=1,
        le=MOST_DEVICES,
        description="number of devices; with a list of presets its length",
    )
    per_round: Annotated[int, Field(ge=1, le=MOST_DEVICES), Number] | None = Field(
        default=None,
        description="devices that take part in a round, drawn anew for each of those that are"
        " there; null: all of them",
    )
    state: Literal["keep", "fresh"] = Field(
        default="keep",
        description="what devices that sit rounds out remember, where not all take part in each:"
        " optimiser, codecs and their own adapters, on disk (keep), or nothing but the frozen"
        " weights (fresh)",
    )
    availability: Real = Field(
        default=1.0,
        gt=0,
        le=1,
        description="probability that a device is there when a round begins, drawn for each round",
    )
    availability_trace: Text | None = Field(
        default=None,
        description="when each device is there, a CSV file of device,from_s,to_s on the simulated"
        " clock, which begins again after its last time; null: by availability",
    )
    dropout: Real = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="probability that a device leaves a round, in a local step drawn evenly: what"
        " it sent is counted, its adapters are not merged; needs net.quorum and net.deadline_s",
    )
    preset: Text | tuple[Text, ...] | None = Field(
        default=None,
        description="a device by name (jetson-nano), or a list of names, one per device: sets"
        " flops_per_s to its peak rate in float32, flops_spread to 0, memory_mib to its nominal"
        " memory and reserved_mib to 512; explicit settings take precedence",
    )
    efficiency: Real = Field(
        default=1.0,
        gt=0,
        le=1,
        description="fraction of the preset's peak rate that training reaches; measure it, 1 is"
        " never reached",
    )
    profile: TextEach | None = Field(
        default=None,
        description="what a device was measured to reach, a file of `cutlayer bench-device`, or a"
        " list of files, one per device: gives compute rate, memory and power in place of a"
        " preset, and reserved_mib is 512 unless given",
    )
    flops_per_s: Annotated[RateEach, read_by("profile", None)] = Field(
        default=1.024e12,
        description="compute rate [FLOP/s]; the default is 256 cores at 1 GHz, 4 FLOP per cycle",
    )
    flops_spread: Annotated[Real, read_by("profile", None)] = Field(
        default=0.5,
        ge=0,
        lt=1,
        description="compute rates are spread evenly from 1 - spread to 1 + spread times that",
    )
    uplink_snr_db: Annotated[
        DecibelsEach, read_by("channel.name", "snr"), read_by("channel.cell.name", "none")
    ] = Field(default=17.0, description="uplink SNR [dB]")
    downlink_snr_db: Annotated[
        DecibelsEach, read_by("channel.name", "snr"), read_by("channel.cell.name", "none")
    ] = Field(default=17.0, description="downlink SNR [dB]")
    memory_mib: Annotated[MebibytesEach | None, read_by("profile", None)] = Field(
        default=72.0,
        description="device memory for training [MiB], without reserved_mib; a run that needs more"
        " is refused; null: no limit",
    )
    reserved_mib: Annotated[ReservedEach, read_unless("memory_mib", None)] = Field(
        default=0.0,
        description="part of memory_mib that the operating system keeps [MiB]; 512 of a preset's"
        " nominal memory, unless memory_mib is given",
    )
    power_w: WattsEach | None = Field(
        default=None,
        description="what a device draws while it computes [W]; a preset's is the most that its"
        " data sheet allows, a profile's measured; null: unknown, and a plan tells no energy",
    )
    price_per_kwh: Price | None = Field(
        default=None, description="of the devices' energy, for plans; null: not priced"
    )
    activation_memory: Literal["keep", "checkpoint", "recompute"] = Field(
        default="keep",
        description="activation memory policy, what devices keep for backward: all activations"
        " (keep), the blocks' inputs (checkpoint), or the mini-batch's input"
        " (recompute)",
    )
    base: Annotated[BaseName, read_unless("scheme.name", "fl-full")] = Field(
        default="float32",
        description="numbers that devices hold the frozen weights in; int8 and nf4 need the extra"
        " quant",
    )
    have_weights: Annotated[bool, read_unless("scheme.name", "fl-full")] = Field(
        default=False,
        description="devices have the frozen weights from the start, so that the first round sends"
        " none; over a network each says so itself (join --model)",
    )
    device: TorchDevice = Field(
        default="auto",
        description="what computes the devices' parts in the simulator: cpu, cuda, cuda:N, mps, or"
        " the first of cuda, mps and cpu that is there (auto)",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, value: Any) -> Any:
        return device_values(value) | value if isinstance(value, dict) else value


class ServerSection(Section):
    """The edge server."""

    preset: Annotated[Text | None, read_unless("scheme.name", *WHOLE)] = Field(
        default=None,
        description="hardware by name (rtx-4090): sets flops_per_s to its peak rate and memory_mib"
        " to its nominal memory, unless given",
    )
    efficiency: Real = Field(
        default=1.0,
        gt=0,
        le=1,
        description="fraction of the preset's peak rate that training reaches; measure it",
    )
    profile: Annotated[Text | None, read_unless("scheme.name", *WHOLE)] = Field(
        default=None,
        description="what the server was measured to reach, a file of `cutlayer bench-device`:"
        " gives flops_per_s, block_ms, memory and power in place of a preset",
    )
    flops_per_s: Annotated[Rate, read_unless("scheme.name", *WHOLE), read_by("profile", None)] = (
        Field(
            default=3.072e12,
            description="compute rate [FLOP/s]; the default is 2048 cores at 1.5 GHz",
        )
    )
    workers: Annotated[Whole, read_unless("scheme.name", *WHOLE)] = Field(
        default=1,
        ge=1,
        le=10**6,
        description="mini-batches computed in parallel, each at that rate",
    )
    block_ms: Annotated[
        _Milliseconds, read_unless("scheme.name", *WHOLE), read_by("profile", None)
    ] = Field(
        default=0.0,
        description="least time of a block in one pass, forward and backward, however few tokens:"
        " launches, and reading its weights [ms]; measure it, 0 counts arithmetic alone",
    )
    batch: Annotated[Literal["alone", "arrivals"], read_unless("scheme.name", *_ORDERED)] = Field(
        default="alone",
        description="what the server computes at a time: one mini-batch, the same bits whoever else"
        " trains (alone), or all that wait, equal but for rounding (arrivals)",
    )
    batch_tokens: Annotated[Whole, read_by("batch", "arrivals")] = Field(
        default=4_096,
        ge=1,
        le=2**31 - 1,
        description="tokens in a batch of arrivals at most; a larger mini-batch is taken alone",
    )
    coalesce_ms: Annotated[_Wait, read_by("batch", "arrivals")] = Field(
        default=0.0,
        description="how long the oldest mini-batch waits for others to share its pass [ms]",
    )
    base: Annotated[BaseName, read_unless("scheme.name", *WHOLE)] = Field(
        default="float32", description="numbers that the server holds its frozen weights in"
    )
    group: Whole = Field(
        default=8,
        ge=1,
        le=MOST_DEVICES,
        description="devices that share one pass through the model in the simulator; fewer where"
        " server.memory_mib does not hold so many, or, without it, 4 GiB their activations",
    )
    memory_mib: Annotated[
        Mebibytes | None, read_unless("scheme.name", *WHOLE), read_by("profile", None)
    ] = Field(
        default=None,
        description="server memory for training [MiB], without reserved_mib; a run or plan that"
        " needs more is refused; null: no limit",
    )
    reserved_mib: Annotated[Reserved, read_unless("scheme.name", *WHOLE)] = Field(
        default=0.0,
        description="part of memory_mib that system and driver keep [MiB]; 512 of a preset's or"
        " profile's, unless memory_mib is given",
    )
    power_w: Annotated[Watts | None, read_unless("scheme.name", *WHOLE)] = Field(
        default=None,
        description="what the server draws while it computes [W]; a preset's is its data sheet's,"
        " a profile's measured; null: unknown",
    )
    price_per_hour: Price | None = Field(
        default=None, description="of the server, energy included, for plans; null: not priced"
    )
    activation_memory: Annotated[
        Literal["keep", "checkpoint"], read_unless("scheme.name", *WHOLE)
    ] = Field(
        default="keep",
        description="what the server keeps for backward: all activations (keep), or its blocks'"
        " inputs, from which blocks run again (checkpoint)",
    )
    device: TorchDevice = Field(
        default="auto",
        description="what computes the server's part: cpu, cuda, cuda:N, mps, or the first of cuda,"
        " mps and cpu that is there (auto)",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, value: Any) -> Any:
        return server_values(value) | value if isinstance(value, dict) else value
