"""What a run says of itself as it starts: what it trains, on what, over which link, how long.

Knows a run that is ready; who shows the lines is the caller's.
"""

from collections.abc import Sequence
from pathlib import Path

from cutlayer.channel.fading import SnrChannel
from cutlayer.config.channel import TracesSection
from cutlayer.config.codec import (
    BestCodec,
    CodecSection,
    FastCodec,
    NoCodec,
    PaperCodec,
    PaperRansCodec,
    StagesCodec,
    StagesSection,
)
from cutlayer.config.schema import Config, NetSection
from cutlayer.config.section import PluginSection
from cutlayer.data.partition import PreparedData
from cutlayer.report.vocabulary import shortened
from cutlayer.report.wording import counted
from cutlayer.spec import Trained
from cutlayer.train.state import Setup

_NAMED = 6
_NAME = 20


def overview(
    config: Config, prepared: PreparedData, setup: Setup, *, real: bool = False
) -> list[str]:
    """One line each: the model, the data, codec and link, devices and rounds; `real`: between
    machines, not on a simulated link."""
    link = _network(config.net) if real else _link(config, setup)
    return [
        _model(config, setup),
        _data(config, prepared, real),
        f"{_codec(config.codec, setup)}; {link}",
        _work(config, setup),
    ]


def _model(config: Config, setup: Setup) -> str:
    spec = setup.simulation.model
    trained = sum(part.adapted.layout.parameters for part in setup.parts)
    size = f"{_count(spec.parameters)} parameters, {counted(spec.blocks, 'block')}"
    cut = f"cut after {setup.server.device_part.cut}" if setup.training.scheme.splits else "not cut"
    if setup.training.scheme.trained is Trained.WEIGHTS:
        return f"{_name(config.model.name)}: {size}, {cut}; all of them trainable"
    return f"{_name(config.model.name)}: {size}, {cut}; {_count(trained)} trainable"


def _data(config: Config, prepared: PreparedData, real: bool) -> str:
    data = prepared.data
    counts = f"{len(data.test)} test" if real else f"{len(data.train)} train, {len(data.test)} test"
    if prepared.task == "causal-lm":
        what, noun = f"blocks of {config.data.max_tokens} tokens", "block"
    else:
        what = f"{len(data.class_names)} classes: {_names(data.class_names)}"
        noun = "sample"
    sizes = [len(part) for part in prepared.parts]
    dealt = f"devices have their own {noun}s" if real else f"{_span(sizes, noun)} per device"
    left_out = f"; {prepared.skipped} left out" if prepared.skipped else ""
    return f"{_name(config.data.name)}: {what}; {counts}; {dealt}{left_out}"


def _work(config: Config, setup: Setup) -> str:
    steps = [device.local_steps for device in setup.devices]
    rounds = counted(config.training.rounds, "round")
    batch = counted(config.training.batch_size, "sample")
    few = sum(device.samples < config.training.batch_size for device in setup.devices)
    fewer = f"; {counted(few, 'device')} with fewer samples: all in one" if few else ""
    return (
        f"scheme {setup.training.scheme.name}; {counted(len(setup.devices), 'device')}, {rounds} of"
        f" {_span(steps, 'local step')} per device, mini-batches of {batch}{fewer}"
    )


def _codec(section: CodecSection, setup: Setup) -> str:
    scheme = setup.training.scheme
    if not scheme.compressed:
        sends = "sends" if scheme.splits else "sends neither activations nor gradients"
        return f"no codec: {scheme.name} {sends}{' float32' if scheme.splits else ''}"
    return f"codec {section.name}{_setting(section)}"


def _setting(section: CodecSection) -> str:
    match section:
        case BestCodec():
            up = _goal(section.target_bits_up, section.target_cosine_up)
            down = _goal(section.target_bits_down, section.target_cosine_down)
            both = section.target_cosine_up is None and section.target_cosine_down is None
            return (
                f" ({up} + {down} bits per value)" if both else f" ({up} uplink, {down} downlink)"
            )
        case PaperCodec() | PaperRansCodec():
            kept = f"{100 * section.keep_ratio:g} % of the values"
            return f" ({kept}, {section.levels} levels)"
        case FastCodec():
            return " (4 bits per value)"
        case NoCodec():
            return " (float32)"
        case StagesCodec():
            back = section.down or section.up
            return f" ({_stages(section.up)} uplink, {_stages(back)} downlink)"
        case PluginSection():
            options = (f"{name} {value}" for name, value in section.options.items())
            return f" ({', '.join(options)})" if section.options else ""


def _goal(bits: float, cosine: float | None) -> str:
    return f"{bits:g}" if cosine is None else f"cosine {cosine:g}"


def _stages(section: StagesSection) -> str:
    stages = (section.transform.name, section.sparsify.name, section.quantise.name, section.entropy)
    return ", ".join(stage for stage in stages if stage != "none")


def _link(config: Config, setup: Setup) -> str:
    section, channel = config.channel, setup.simulation.channel
    if isinstance(section, TracesSection):
        return f"link of measured rates ({counted(len(section.uplink), 'trace')})"
    if isinstance(section, PluginSection):
        return f"channel {section.name}"
    assert isinstance(channel, SnrChannel)
    up, down = _snr(channel.uplink_snr_db.tolist()), _snr(channel.downlink_snr_db.tolist())
    fading = "" if section.fading.name == "none" else f", {section.fading.name} fading"
    cell = "" if section.cell.name == "none" else f", {section.cell.name} cell"
    bandwidth = _with_unit(section.bandwidth_hz, "Hz")
    return f"link {bandwidth}, SNR {up} uplink, {down} downlink{cell}{fading}"


def _network(net: NetSection) -> str:
    rates = {"uplink": net.uplink_bit_s, "downlink": net.downlink_bit_s}
    paced = [
        f"{_with_unit(rate, 'bit/s')} {way}" for way, rate in rates.items() if rate is not None
    ]
    return f"link: the network, {', '.join(paced) or 'not paced'}"


def _snr(values_db: Sequence[float]) -> str:
    least, most = f"{min(values_db):.3g}", f"{max(values_db):.3g}"
    return f"{least} dB" if least == most else f"{least} to {most} dB"


def _span(counts: Sequence[int], noun: str) -> str:
    """`4 to 11 samples`, `1 sample`."""
    least, most = min(counts), max(counts)
    return counted(most, noun) if least == most else f"{least} to {counted(most, noun)}"


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(shortened(name, _NAME) for name in names[:_NAMED])
    rest = len(names) - _NAMED
    return f"{shown} and {rest} more" if rest > 0 else shown


def _name(name: str) -> str:
    """Of a path its last part."""
    return shortened(Path(name).name or name, 2 * _NAME)


def _count(value: float, giga: str = "B") -> str:
    """`22.1 M`, `7.24 B`, `850`."""
    for size, unit in ((1e9, giga), (1e6, "M"), (1e3, "k")):
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def _with_unit(value: float, unit: str) -> str:
    """`5 MHz`, `500 Hz`."""
    count = _count(value, "G")
    return f"{count}{unit}" if count[-1].isalpha() else f"{count} {unit}"
