"""Devices and servers: hardware by name, and settings of what they reach, hold and draw."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator

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
from cutlayer.errors import ConfigError, nearest, quoted
from cutlayer.spec import Base
from cutlayer.units import GIB, MIB

# Devices and servers by name: what their arithmetic does at its peak, and their memory as sold.
#
# Every rate is of float32 on the processor that the preset names, its CPU or its GPU. It is
# derived, `cores x clock x operations a cycle`, from the numbers of the named sources; a fused
# multiply-add is two operations. GPUs are counted by their CUDA cores, without tensor cores, which
# do not multiply float32; phones by their CPU, whose units are documented. Knows neither power
# modes nor heat: a training reaches part of a peak, which only a measurement tells.
#
# Operations a cycle of an Arm core: 4 float32 in a 128-bit vector, 2 operations each, times the
# vectors that it multiplies and adds in a cycle (Arm's Software Optimization Guides: Cortex-A72,
# UAN 0016A; Cortex-A76, PJDOC-466751330-7215; Cortex-A77, PJDOC-466751330-11050; of Cortex-X1 and
# Cortex-A55 as well): A55 and A72 one, A76 and A77 two, X1 four.


# What a system keeps of its memory: kernel, drivers and a session without a desktop. A preset's
# memory is what is sold.
RESERVED_MIB = 512.0

_GHZ = 1e9
_MHZ = 1e6
# a fused multiply-add
_CUDA = 2


@dataclass(frozen=True)
class Cores:
    """Equal cores: how many, their clock [Hz], float32 operations of one in a cycle."""

    count: int
    clock_hz: float
    flops_per_cycle: int

    @property
    def flops_per_s(self) -> float:
        """All of them at their peak [FLOP/s]."""
        return self.count * self.clock_hz * self.flops_per_cycle


@dataclass(frozen=True)
class Preset:
    """A device that can be bought: its arithmetic, its memory [byte], and who says so.

    `power_w`: the most that its data sheet lets it draw [W], of a module all of it, of a GPU its
    board; None where none says. `base`: the numbers that its rate is for.
    """

    name: str
    title: str
    cores: tuple[Cores, ...]
    memory_bytes: int
    source: str
    power_w: float | None = None
    base: Base = Base.FLOAT32

    @property
    def flops_per_s(self) -> float:
        """The peak in float32 [FLOP/s]: all its cores together."""
        return sum(cores.flops_per_s for cores in self.cores)

    @property
    def processor(self) -> str:
        """Whose rate that is: `GPU` where its cores are a GPU's, else `CPU`."""
        return "GPU" if any(cores.flops_per_cycle == _CUDA for cores in self.cores) else "CPU"


def find_preset(name: str) -> Preset:
    """The preset of that name. Raises ConfigError, naming the nearest, for an unknown one."""
    if name not in PRESETS:
        raise ConfigError(f"no device preset {quoted(name)}; {nearest(name, list(PRESETS))}")
    return PRESETS[name]


def _a55(count: int, clock_hz: float) -> Cores:
    return Cores(count, clock_hz, 8)


def _a72(count: int, clock_hz: float) -> Cores:
    return Cores(count, clock_hz, 8)


def _a76(count: int, clock_hz: float) -> Cores:
    return Cores(count, clock_hz, 16)


def _a77(count: int, clock_hz: float) -> Cores:
    return Cores(count, clock_hz, 16)


def _x1(count: int, clock_hz: float) -> Cores:
    return Cores(count, clock_hz, 32)


def _cuda(count: int, clock_hz: float) -> tuple[Cores, ...]:
    return (Cores(count, clock_hz, _CUDA),)


_PI_4 = (_a72(4, 1.5 * _GHZ),)
_PI_4_SOURCE = "Raspberry Pi 4 Model B product brief (BCM2711; 1.8 GHz on boards since 2021)"
_XAVIER_NX = _cuda(384, 1100 * _MHZ)
_ORIN_NANO_SOURCE = "NVIDIA Jetson Orin Nano Series Data Sheet DS-11105-001"
_ORIN_NX_SOURCE = "NVIDIA Jetson Orin NX Series data sheet, GPU Max Frequency"
_AGX_ORIN_SOURCE = "NVIDIA Jetson AGX Orin Series Technical Brief v1.2"
_TENSOR = (_x1(2, 2.80 * _GHZ), _a76(2, 2.25 * _GHZ), _a55(4, 1.80 * _GHZ))
_TENSOR_SOURCE = "Google Tensor: cores and clocks as Android reports them"
_A100 = _cuda(6912, 1410 * _MHZ)
_A100_SOURCE = "NVIDIA A100 Tensor Core GPU Architecture whitepaper (19.5 TFLOP/s)"

_ALL = (
    Preset("raspberry-pi-4b-4gb", "Raspberry Pi 4B, 4 GB", _PI_4, 4 * GIB, _PI_4_SOURCE),
    Preset("raspberry-pi-4b-8gb", "Raspberry Pi 4B, 8 GB", _PI_4, 8 * GIB, _PI_4_SOURCE),
    Preset(
        "raspberry-pi-5-8gb",
        "Raspberry Pi 5, 8 GB",
        (_a76(4, 2.4 * _GHZ),),
        8 * GIB,
        "Raspberry Pi 5 product brief (BCM2712)",
    ),
    Preset(
        "jetson-nano",
        "Jetson Nano, 4 GB",
        _cuda(128, 921.6 * _MHZ),
        4 * GIB,
        "NVIDIA Jetson Nano System-on-Module Data Sheet DS-09366 v1.0",
        10.0,
    ),
    Preset(
        "jetson-tx2",
        "Jetson TX2, 8 GB",
        _cuda(256, 1300 * _MHZ),
        8 * GIB,
        "NVIDIA Jetson TX2 Series Module Data Sheet v1.6; clock of power mode Max-N",
        15.0,
    ),
    Preset(
        "jetson-xavier-nx-8gb",
        "Jetson Xavier NX, 8 GB",
        _XAVIER_NX,
        8 * GIB,
        "NVIDIA Jetson Xavier NX System-on-Module Data Sheet DA-09366-001 v1.3",
        15.0,
    ),
    Preset(
        "jetson-xavier-nx-16gb",
        "Jetson Xavier NX, 16 GB",
        _XAVIER_NX,
        16 * GIB,
        "as the 8 GB module, whose GPU it has",
        20.0,
    ),
    Preset(
        "jetson-orin-nano-4gb",
        "Jetson Orin Nano, 4 GB",
        _cuda(512, 625 * _MHZ),
        4 * GIB,
        _ORIN_NANO_SOURCE,
        10.0,
    ),
    Preset(
        "jetson-orin-nano-8gb",
        "Jetson Orin Nano, 8 GB",
        _cuda(1024, 625 * _MHZ),
        8 * GIB,
        _ORIN_NANO_SOURCE,
        15.0,
    ),
    Preset(
        "jetson-orin-nx-8gb",
        "Jetson Orin NX, 8 GB",
        _cuda(1024, 765 * _MHZ),
        8 * GIB,
        _ORIN_NX_SOURCE,
        20.0,
    ),
    Preset(
        "jetson-orin-nx-16gb",
        "Jetson Orin NX, 16 GB",
        _cuda(1024, 918 * _MHZ),
        16 * GIB,
        _ORIN_NX_SOURCE,
        25.0,
    ),
    Preset(
        "jetson-agx-orin-32gb",
        "Jetson AGX Orin, 32 GB",
        _cuda(1792, 930 * _MHZ),
        32 * GIB,
        _AGX_ORIN_SOURCE,
        40.0,
    ),
    Preset(
        "jetson-agx-orin-64gb",
        "Jetson AGX Orin, 64 GB",
        _cuda(2048, 1300 * _MHZ),
        64 * GIB,
        _AGX_ORIN_SOURCE,
        60.0,
    ),
    Preset(
        "pixel-4a",
        "Google Pixel 4a, 6 GB",
        (_a76(2, 2.2 * _GHZ), _a55(6, 1.8 * _GHZ)),
        6 * GIB,
        "Snapdragon 730G: Kryo 470, taken as Cortex-A76 and Cortex-A55",
    ),
    Preset("pixel-6a", "Google Pixel 6a, 6 GB", _TENSOR, 6 * GIB, _TENSOR_SOURCE),
    Preset("pixel-6", "Google Pixel 6, 8 GB", _TENSOR, 8 * GIB, _TENSOR_SOURCE),
    Preset(
        "oneplus-8",
        "OnePlus 8, 8 GB",
        (_a77(1, 2.84 * _GHZ), _a77(3, 2.42 * _GHZ), _a55(4, 1.8 * _GHZ)),
        8 * GIB,
        "Snapdragon 865: Kryo 585, taken as Cortex-A77 and Cortex-A55",
    ),
    Preset(
        "l4",
        "NVIDIA L4, 24 GB",
        _cuda(7424, 2040 * _MHZ),
        24 * GIB,
        "NVIDIA L4 data sheet (30.3 TFLOP/s)",
        72.0,
    ),
    Preset(
        "rtx-4090",
        "GeForce RTX 4090, 24 GB",
        _cuda(16384, 2520 * _MHZ),
        24 * GIB,
        "NVIDIA Ada GPU Architecture whitepaper (82.6 TFLOP/s)",
        450.0,
    ),
    Preset("a100-40gb", "NVIDIA A100, 40 GB", _A100, 40 * GIB, _A100_SOURCE, 400.0),
    Preset("a100-80gb", "NVIDIA A100, 80 GB", _A100, 80 * GIB, _A100_SOURCE, 400.0),
)

PRESETS: dict[str, Preset] = {preset.name: preset for preset in _ALL}


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
