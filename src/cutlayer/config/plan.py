"""A configuration made into a plan, and a plan made into the configuration that trains by it.

Needs neither torch nor the data. Knows which names stand for what; the planner knows no names.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cutlayer.codec.presets import paper
from cutlayer.config.devices import each
from cutlayer.config.read import read_values
from cutlayer.config.schema import Config
from cutlayer.config.workload import expected_compression, make_workload
from cutlayer.cost.traffic import ACTIVATION_BYTES
from cutlayer.errors import ConfigError
from cutlayer.planner.accuracy.packaged import packaged_profile
from cutlayer.planner.accuracy.profile import Profile, read_profile
from cutlayer.planner.codec_choices import CodecChoices, measured_choices
from cutlayer.planner.decision import CodecChoice, Decision, Limits
from cutlayer.planner.plan import Plan, make_plan
from cutlayer.planner.workload import Workload
from cutlayer.schemes.all import SCHEMES

Say = Callable[[str], None]

# what the paper calls 80 % sparsity and 3 bits
_PUBLISHED: dict[str, float] = {"keep_ratio": 0.2, "levels": 7}
_SETTINGS = {
    "best": ("target_bits_up", "target_bits_down"),
    "paper": ("keep_ratio", "levels"),
    "lossless-plus": ("keep_ratio", "levels"),
}


@dataclass(frozen=True, eq=False)
class Planned:
    """A plan with the configuration it is for; `profile` is None where nobody measured accuracy."""

    config: Config
    plan: Plan
    profile: Profile | None


def plan(config: Config, say: Say = lambda line: None) -> Planned:
    """The shortest round for `config`, within its planner section's limits.

    With a measured profile the codec is chosen too; without one it stays as configured. Raises
    CutlayerError for a model, link, profile or limit that cannot be.
    """
    workload = make_workload(config, say)
    profile = _profile(config)
    section = config.planner
    limits = Limits(
        most_share=each("planner.most_share", section.most_share, len(workload.devices)),
        least_cut=section.least_cut,
        server_busy=section.server_busy,
        per_device_cuts=section.cuts == "per-device",
    )
    scheme = SCHEMES[config.scheme.name]
    if profile is not None and scheme.compressed:
        codecs = measured_choices(profile, section.accuracy_loss)
    else:
        codecs = _configured(config, workload)
    made = make_plan(workload, limits, scheme, codecs, section.accuracy_loss)
    return Planned(config, made, profile)


def planned_config(planned: Planned) -> Config:
    """The configuration with what was decided, to train by.

    The shares are left to the planner that finds them each round (or once, where the channel stands
    still). Raises ConfigError: nothing fits, or each device has a cut of its own, which a run
    cannot have.
    """
    chosen = planned.plan.chosen
    if chosen is None:
        raise ConfigError("nothing fits, so there is no configuration to train by")
    decision, config = chosen.decision, planned.config
    if decision.common_cut is None:
        raise ConfigError("a run cuts all devices alike: set planner.cuts to common to train by it")
    values = config.model_dump(mode="json", exclude_unset=True)
    for section, settings in _decided(config, decision).items():
        values[section] = {**_section(values.get(section)), **settings}
    return read_values(values)


def _decided(config: Config, decision: Decision) -> dict[str, dict[str, Any]]:
    held, codec = decision.held, decision.codec
    changes = config.link.fading.name != "none" or bool(config.link.traces)
    shares = "two-timescale" if changes else "static"
    whole = {"levels": round(codec.settings["levels"])} if "levels" in codec.settings else {}
    sections: dict[str, dict[str, Any]] = {
        "scheme": {"name": decision.scheme.name},
        "training": {
            "micro_batches": held.micro_batches,
            "in_flight": held.in_flight if decision.scheme.pipelined else None,
        },
        "devices": {"holding": held.holding.value},
        "link": {"downlink": decision.rules.downlink.value.replace(" ", "-")},
        "planner": {"name": shares if config.link.uplink == "static" else "even"},
    }
    if decision.scheme.splits:
        sections["model"] = {"cut": decision.common_cut}
    if decision.scheme.compressed and codec.codec != "stages":
        sections["codec"] = {"name": codec.codec, **codec.settings, **whole}
    if config.link.shares != "even" and sections["planner"]["name"] != "even":
        sections["link"]["shares"] = "even"
    return sections


def _section(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}


def _profile(config: Config) -> Profile | None:
    if config.planner.profile is not None:
        return read_profile(Path(config.planner.profile))
    return packaged_profile(config.model.name, config.data.name)


def _configured(config: Config, workload: Workload) -> CodecChoices:
    """The configured codec alone, of which nobody knows what accuracy it costs."""
    sent = expected_compression(config, workload)
    section = config.codec
    settings = {key: float(getattr(section, key)) for key in _SETTINGS.get(section.name, ())}
    own = CodecChoice(section.name, settings, sent.up, sent.down)
    return CodecChoices((own,), (), _published(workload))


def _published(workload: Workload) -> CodecChoice:
    batch = workload.batch
    shape = (batch.samples, batch.tokens, workload.model.width)
    whole = ACTIVATION_BYTES * shape[0] * shape[1] * shape[2]
    codec = paper(_PUBLISHED["keep_ratio"], round(_PUBLISHED["levels"])).up
    sent = codec.expected_bytes(shape) / whole
    return CodecChoice("paper", _PUBLISHED, sent, sent)
