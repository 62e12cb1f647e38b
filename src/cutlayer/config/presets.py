"""Devices and servers by name: what their arithmetic does at its peak, and their memory as sold.

Every rate is of float32 on the processor that the preset names, its CPU or its GPU. It is
derived, `cores x clock x operations a cycle`, from the numbers of the named sources; a fused
multiply-add is two operations. GPUs are counted by their CUDA cores, without tensor cores, which
do not multiply float32; phones by their CPU, whose units are documented. Knows neither power
modes nor heat: a training reaches part of a peak, which only a measurement tells.

Operations a cycle of an Arm core: 4 float32 in a 128-bit vector, 2 operations each, times the
vectors that it multiplies and adds in a cycle (Arm's Software Optimization Guides: Cortex-A72,
UAN 0016A; Cortex-A76, PJDOC-466751330-7215; Cortex-A77, PJDOC-466751330-11050; of Cortex-X1 and
Cortex-A55 as well): A55 and A72 one, A76 and A77 two, X1 four.
"""

from dataclasses import dataclass

from cutlayer.errors import ConfigError, nearest, quoted
from cutlayer.spec import Base
from cutlayer.units import GIB

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
