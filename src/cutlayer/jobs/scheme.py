"""Which scheme a run has, and whose adapters it trains and merges.

`auto` is decided here, by what was measured of the model and the data. Imports no torch.
"""

from dataclasses import dataclass
from pathlib import Path

from cutlayer.config.choices import BestCodec, StagesCodec
from cutlayer.config.read import SETTINGS_FILE, read_written
from cutlayer.config.schema import (
    AggregationSection,
    AutoScheme,
    AveragingSection,
    Config,
    DeviceAggregation,
    FedProxAggregation,
    FrozenDevicePart,
    NoAggregation,
    ServerAggregation,
    Sft,
    SftFrozen,
    TrainedDevicePart,
    WarmDevicePart,
)
from cutlayer.config.section import SCHEMES as SCHEME_PLUGINS
from cutlayer.config.section import PluginSection
from cutlayer.data.find import KNOWN_MODELS
from cutlayer.errors import ConfigError
from cutlayer.jobs.plugins import plugged
from cutlayer.planner.profile import (
    TRAINED,
    MeasuredLoss,
    Profile,
    packaged_profile,
    read_profile,
)
from cutlayer.rounds.schemes import SCHEMES, SFT, SFT_FROZEN, Merging, Scheme
from cutlayer.spec import Trained


def settled(config: Config) -> Config:
    """The configuration with the scheme that `auto` is for it, so that it stays what it is whatever
    is measured later; one that names its scheme as it is. Raises ConfigError for a profile that
    cannot be read.

    `auto` is `sft-frozen` where the profile of model and data has what a frozen device part loses
    at this cut, and that is at most `planner.accuracy_loss`, as a codec may lose; else `sft`: so
    where nobody has measured it, where `device_part` says otherwise, and with adapters on chosen
    blocks alone, which profiles do not have. A run that starts from another's adapter trains what
    that one trained.
    """
    if not is_auto(config):
        return config
    if config.adapter.start_from is not None:
        frozen = _was_frozen(Path(config.adapter.start_from), config.model.cut)
    else:
        profile = read_own_profile(config)
        frozen = profile is not None and frozen_is_enough(config, profile, config.model.cut)
    return config.model_copy(update={"scheme": SftFrozen() if frozen else Sft()})


def _was_frozen(start: Path, cut: int) -> bool:
    """Whether an adapter, or that of a run, is of a run of ours whose device part was frozen at
    this cut."""
    for folder in (start.expanduser(), start.expanduser() / "adapter"):
        if (settings := folder / SETTINGS_FILE).is_file():
            began = read_written(settings)
            return began.model.cut == cut and not make_scheme(began).trains_device
    return False


def is_auto(config: Config) -> bool:
    """Whether its scheme is still to be decided."""
    return isinstance(config.scheme, AutoScheme)


def frozen_is_enough(config: Config, profile: Profile, cut: int) -> bool:
    """Whether the profile says that training the device part brings next to nothing at this cut."""
    if config.adapter.layers is not None or not isinstance(config.device_part, TrainedDevicePart):
        return False
    lost = profile.frozen_loss(cut)
    return lost is not None and lost.loss <= config.planner.accuracy_loss


def read_own_profile(config: Config) -> Profile | None:
    """The configured profile, else the packaged one; None: there is none. Raises ConfigError for
    one of another model or data set, or that cannot be read."""
    path, name, data = config.planner.profile, config.model.name, config.data.name
    if path is None:
        return packaged_profile(name, data)
    profile = read_profile(Path(path))
    if not (same_asset(profile.model, name) and same_asset(profile.data, data)):
        raise ConfigError(
            f"planner.profile {path} was measured with {profile.model} on {profile.data}, and the"
            f" plan is for {name} on {data}: accuracies of one do not hold for the other; measure"
            " them with `cutlayer profile`, or leave the profile out"
        )
    return profile


def same_asset(measured: str, name: str) -> bool:
    """Whether two names are of one model or data set: a short name or hub id, or a folder's."""
    return _plain(measured) == _plain(name)


def _plain(name: str) -> str:
    return KNOWN_MODELS.get(name, Path(name).name if Path(name).exists() else name)


@dataclass(frozen=True)
class DevicePartGain:
    """What training the device part brings at a cut, as a profile has it: what a frozen one loses,
    of this `accuracy` [share of samples]."""

    loss: MeasuredLoss
    accuracy: float

    def __str__(self) -> str:
        loss, error = 100 * self.loss.loss, 100 * self.loss.error
        return f"{loss:.1f} ± {error:.1f} of {100 * self.accuracy:.1f}"


def gain_of(config: Config, cut: int) -> DevicePartGain | None:
    """By the profile of model and data; None where there is none, or not of this cut."""
    try:
        profile = read_own_profile(config)
    except ConfigError:  # of no plan: a run that names its scheme does not need it
        return None
    points = () if profile is None else profile.device_parts_at(cut)
    trained = next((one for one in points if one.device_part == TRAINED), None)
    lost = None if profile is None else profile.frozen_loss(cut)
    if trained is None or lost is None:
        return None
    return DevicePartGain(lost, trained.accuracy)


def make_scheme(config: Config) -> Scheme:
    """The scheme that a run begins with. Raises ConfigError for another package's that cannot be,
    and for one that has no say in what devices train."""
    config = settled(config)
    section, part = config.scheme, config.device_part
    if not isinstance(part, TrainedDevicePart) and section.name != SFT.name:
        raise ConfigError(
            f"device_part {part.name} is of scheme {SFT.name}, and scheme is {section.name}: leave"
            " one of them out"
        )
    if isinstance(section, PluginSection):
        return plugged("scheme", section, Scheme, {}, group=SCHEME_PLUGINS)
    _check_sent_once(config)
    return SFT_FROZEN if isinstance(part, FrozenDevicePart) else SCHEMES[section.name]


def _check_sent_once(config: Config) -> None:
    """Raises ConfigError for a codec that remembers what was sent where packets are kept."""
    codec = config.codec
    memory = codec.up.memory if isinstance(codec, StagesCodec) else "none"
    if not SCHEMES[config.scheme.name].cached:
        return
    if isinstance(codec, BestCodec) and codec.reference_rows:
        raise ConfigError(
            f"codec.reference_rows {codec.reference_rows}: {config.scheme.name} keeps packets with"
            " what their receiver knew, and each would have all those rows: set it to 0"
        )
    if memory != "none":
        raise ConfigError(
            f"codec.up.memory {memory} remembers what was sent of each sample, and"
            f" {config.scheme.name} sends each once: set it to none"
        )


def warm_rounds(config: Config) -> int | None:
    """For how many rounds the devices' part is trained before it is frozen; None: as the scheme has
    it. Raises ConfigError where no round would be left."""
    part, rounds = config.device_part, config.training.rounds
    if not isinstance(part, WarmDevicePart):
        return None
    if part.rounds >= rounds:
        raise ConfigError(
            f"device_part.rounds {part.rounds} of training.rounds {rounds}: the devices' part would"
            " be trained to the end; lower it, or set device_part to trained"
        )
    return part.rounds


def make_merging(section: AggregationSection, scheme: Scheme) -> Merging:
    """Whose adapters are merged, and how near to them devices stay. Raises ConfigError where a
    scheme's one server-side adapter should be each device's own."""
    match section:
        case FedProxAggregation(mu=mu):
            merging = Merging(proximal_mu=mu)
        case NoAggregation():
            merging = Merging(device=False, server=False)
        case DeviceAggregation():
            merging = Merging(server=False)
        case ServerAggregation():
            merging = Merging(device=False)
        case _:
            merging = Merging()
    product = isinstance(section, AveragingSection) and section.merge == "product"
    if product and scheme.trained is Trained.WEIGHTS:
        raise ConfigError(
            f"aggregation.merge product is of adapters, and scheme {scheme.name} has none: leave it"
            " out"
        )
    if scheme.shared_server and not merging.server:
        raise ConfigError(
            f"aggregation {section.name}: scheme {scheme.name} has one adapter in the server's part"
            " for all devices; set aggregation to server or fedavg, or another scheme"
        )
    return merging
