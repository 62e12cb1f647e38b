"""A configuration made into a plan, and a plan made into the configuration that trains by it.

Needs neither torch nor the data. Knows which names stand for what; the planner knows no names.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cutlayer.codec.presets import paper
from cutlayer.config.choices import SnrSection
from cutlayer.config.keys import chosen_values, unread, without
from cutlayer.config.schema import Config, WarmDevicePart
from cutlayer.config.section import Section
from cutlayer.errors import ConfigError, CutlayerError, shown
from cutlayer.files import path_of
from cutlayer.jobs.build import (
    count_micro_batches,
    fixed_shares,
    most_shares,
)
from cutlayer.jobs.check import (
    check,
    check_fixed,
    check_given,
    check_kind,
)
from cutlayer.jobs.from_run import LearnedRates, learned_rates
from cutlayer.jobs.machines import takes_some
from cutlayer.jobs.scheme import (
    frozen_is_enough,
    gain_of,
    is_auto,
    make_scheme,
    read_own_profile,
    settled,
)
from cutlayer.jobs.workload import (
    configured_codec,
    configured_decision,
    make_workload,
    of_a_round,
)
from cutlayer.planner.configuration import CodecChoices, every_choice, measured_choices
from cutlayer.planner.decision import (
    CodecChoice,
    Decision,
    FixedChoices,
    PlanLimits,
    Workload,
)
from cutlayer.planner.energy import PlanEnergy
from cutlayer.planner.forecast import Forecast
from cutlayer.planner.plan import Plan, make_plan, plan_as_given, with_best_shares
from cutlayer.planner.profile import Profile
from cutlayer.planner.target import (
    Learning,
    Target,
    TargetPlan,
    Variant,
    Way,
    plan_to_target,
)
from cutlayer.report.plan import infeasibility_line, target_notes
from cutlayer.report.plan_page import plan_record, target_record
from cutlayer.report.wording import counted
from cutlayer.rounds.costs import ACTIVATION_BYTES
from cutlayer.rounds.schemes import SFT, SFT_CACHED, SFT_FROZEN, SFT_OVERLAP, Scheme
from cutlayer.spec import ActivationPolicy, Base

# what a plan chooses is not read by a name, but found
CHOICES = ("planner.most_share",)
_MOST_DEVICES, _MOST_STEPS = 100_000, 10_000
# what the paper calls 80 % sparsity and 3 bits
_PUBLISHED: dict[str, float] = {"keep_ratio": 0.2, "levels": 7}


@dataclass(frozen=True, eq=False)
class Planned:
    """A plan with the configuration that was `given` for it; `profile` is None where nobody
    measured accuracy.

    `fixed`: nothing was chosen. `learned`: the rates of a run, which are in `given`. `target`: the
    ways to a target accuracy, the fastest of which the plan is; None: nobody asked for one.
    """

    given: Config
    plan: Plan
    profile: Profile | None
    fixed: bool = False
    learned: LearnedRates | None = None
    target: TargetPlan | None = None

    @property
    def chosen(self) -> Forecast | None:
        """What was decided (`chosen.decision`), and what it comes to: `chosen.delay_s`, of a later
        round, `chosen.training_s`, of all of them [s]. None: nothing keeps all limits."""
        return self.plan.chosen

    @property
    def config(self) -> Config:
        """The configuration with what was decided, to train by.

        The shares are left to the planner that finds them each round (or once, where the channel
        stands still). Raises ConfigError: nothing fits, or each device has a cut of its own, which
        a run cannot have.
        """
        if self.chosen is None:
            why = "; ".join(
                infeasibility_line(self.plan, each) for each in self.plan.infeasibilities
            )
            raise ConfigError(f"nothing fits, so there is no configuration to train with: {why}")
        decision, config = self.chosen.decision, self.given
        if self.fixed:
            return config
        if decision.common_cut is None:
            raise ConfigError(
                "a run has one cut layer for all devices: set planner.cuts to common to train"
                " with it"
            )
        values = config.model_dump(mode="json", exclude_unset=True)
        decided = _decided(config, decision)
        if self.target is not None and self.target.chosen is not None:
            decided["training"]["rounds"] = self.plan.workload.rounds
            for section, settings in self.target.chosen.variant.settings.items():
                decided[section] = {**decided.get(section, {}), **settings}
        if config.adapter.rank == "memory":  # as planned, whatever the cut leaves room for
            own = self.plan.workload.ranks
            decided["adapter"] = {"rank": config.adapter.most_rank if own is None else list(own)}
        for section, settings in decided.items():
            values[section] = chosen_values(section, values.get(section, {}), settings)
        config = Config.model_validate(values)
        return without(config, {each.key for each in unread(config)})

    def to_dict(self) -> dict[str, Any]:
        """Every number of the plan, as `plan.json` has it, units in the keys."""
        record = plan_record(self.plan, self.notes)
        return record if self.target is None else {**record, "target": target_record(self.target)}

    @property
    def energy(self) -> PlanEnergy | None:
        """Joules of each device and of the server in a round after the first, and what all rounds
        cost, where powers and prices are known; None: nothing fits."""
        return self.plan.energy

    @property
    def notes(self) -> list[str]:
        """What is other than given, and what accuracies are known from: a line each."""
        return list(_notes(self))


def plan(
    config: Config,
    *,
    fixed: bool = False,
    from_run: Path | str | None = None,
    target_accuracy: float | None = None,
    device_energy_j: float | None = None,
) -> Planned:
    """The shortest round for `config`, within its planner section's limits; nothing is trained, and
    neither data nor weights are needed.

    With a measured profile the codec is chosen too; without one it stays as configured. `fixed`:
    nothing is chosen, and the answer is what the configuration comes to as it is. `from_run`: the
    directory of a networked run of the same model, data and devices, whose compute and link rates
    are planned with. That nothing fits is an answer: `chosen` is None.

    `target_accuracy`: a share of the test samples, such as 0.78. Then the plan is the one of
    shortest seconds until that, all rounds together, over the device part (trained, frozen), cut,
    codec and order of steps too, by a measured profile; at most `device_energy_j` is taken of all
    devices together. `Planned.target` has the other ways.

    Raises ConfigError for settings, a link, limits, a profile or a run that cannot be, RunError for
    what is no measured run, AssetError and ModelError for a model: as a run of it would.
    """
    config = check_given("plan", config, also_read=CHOICES)
    check_kind(bool, "True or False", fixed=fixed)
    if target_accuracy is None:
        target = None
        if device_energy_j is not None:
            raise ConfigError("the devices' energy is limited until a target accuracy: give one")
    else:
        target = Target(target_accuracy, device_energy_j)
    if fixed and target is not None:
        raise ConfigError("a plan to a target accuracy chooses, and a fixed one chooses nothing")
    learned = None if from_run is None else learned_rates(config, path_of("from_run", from_run))
    config = config if learned is None else learned.into(config)
    if takes_some(config.devices):
        planned = plan(
            of_a_round(config),
            fixed=fixed,
            target_accuracy=target_accuracy,
            device_energy_j=device_energy_j,
        )
        return replace(planned, given=config, learned=learned)
    _check_devices(config.devices.count)
    if fixed or "scheme" in config.planner.fix:
        config = settled(config)
    section, scheme = config.planner, SFT if is_auto(config) else make_scheme(config)
    own_cut = fixed or "cut" in section.fix or "cut" in config.model.model_fields_set
    check(config, cut=own_cut, dealt=False, read=False)
    profile = None if fixed else read_own_profile(config)
    workload = make_workload(config)
    _check_steps(max(workload.local_steps))
    # a part that is frozen needs no adapters
    cuts = workload.model.cuts
    cuts = cuts if scheme.trains_device else range(1, cuts.stop)
    if scheme.splits:
        _check_cuts(config, cuts, fixed=fixed or "cut" in section.fix)
    measured = profile if scheme.compressed and "codec" not in section.fix else None
    if not fixed:
        check_fixed(config, profile)
    limits = PlanLimits(
        most_share=most_shares(section, len(workload.devices)),
        least_cut=max(section.least_cut, cuts.start),
        server_busy=section.server_busy,
        per_device_cuts=section.cuts == "per-device",
        fixed=FixedChoices() if fixed else _fixed_choices(config, scheme),
    )
    if fixed:
        own = _configured(config, workload)
        decision = _as_given(config, workload, limits, own.accurate[0])
        made = plan_as_given(workload, limits, decision, own, section.accuracy_loss)
        return Planned(config, made, None, fixed=True, learned=learned)
    if target is not None:
        if measured is None:
            raise ConfigError(
                f"a target accuracy needs a measured profile of {config.model.name} on"
                f" {config.data.name}, a scheme that compresses, and planner.fix without codec:"
                " `cutlayer profile` measures one, planner.profile names it"
            )
        return _to_target(config, target, workload, limits, scheme, measured, learned)
    if measured is not None:
        codecs = measured_choices(measured, section.accuracy_loss)
    else:
        codecs = _configured(config, workload)
    made = make_plan(workload, limits, scheme, codecs, section.accuracy_loss)
    if is_auto(config) and profile is not None:
        made = _frozen_if_shorter(made, config, profile, chooses_codec=measured is not None)
    return Planned(config, made, profile, learned=learned)


def _frozen_if_shorter(
    made: Plan, config: Config, profile: Profile, *, chooses_codec: bool
) -> Plan:
    """The plan, or that with the device part frozen, at the cut with the shortest round of those at
    which `auto` is `sft-frozen`; a codec may lose what that leaves of the accuracy loss."""
    parts = (made.workload, made.limits, SFT_FROZEN, made.codecs, made.most_loss)
    rows = make_plan(*parts).cuts
    free = [
        (row.delay_s, row.cut)
        for row in rows
        if row.allowed and row.delay_s is not None and frozen_is_enough(config, profile, row.cut)
    ]
    if not free:
        return made
    _, cut = min(free)
    fixed = replace(made.limits, fixed=replace(made.limits.fixed, cut=cut))
    lost, codecs = profile.frozen_loss(cut), made.codecs
    if chooses_codec and lost is not None:
        codecs = measured_choices(profile, made.most_loss - max(lost.loss, 0.0))
    frozen = make_plan(made.workload, fixed, SFT_FROZEN, codecs, made.most_loss)
    if frozen.chosen is None or (made.chosen and made.chosen.delay_s <= frozen.chosen.delay_s):
        return made
    return replace(frozen, limits=made.limits, cuts=rows)


def _to_target(
    config: Config,
    target: Target,
    workload: Workload,
    limits: PlanLimits,
    scheme: Scheme,
    profile: Profile,
    learned: LearnedRates | None,
) -> Planned:
    """The fastest measured way, and its plan. Raises ConfigError: nothing that was measured gets
    there within all limits."""
    steps = max(workload.local_steps)
    learning = Learning.of(profile, workload.rounds, workload.rounds * steps)
    own = scheme if scheme != SFT_OVERLAP else SFT
    ways = (SFT, SFT_FROZEN) if workload.samples is None else (SFT, SFT_FROZEN, SFT_CACHED)
    given = "scheme" in config.planner.fix or "device_part" in config.model_fields_set
    schemes = (own,) if given or own not in ways else ways
    variants = [Variant(workload), *_variants(config, workload, learning, given=given)]
    found = plan_to_target(target, variants, limits, schemes, every_choice(profile), learning)
    found = replace(found, assumed=tuple(_assumed(config, learning)))
    way = found.chosen
    if way is None:
        highest = learning.highest
        share = 100 * sum(highest.accuracies) / len(highest.accuracies)
        raise ConfigError(
            f"target accuracy {target.accuracy:g}: nothing that was measured gets there within all"
            f" limits; the most is {share:.1f} % after {highest.rounds} rounds, without a codec."
            " Lower it, raise the limits, or measure more rounds with `cutlayer profile"
            " --training.rounds`"
        )
    made = _plan_of(way, limits, own)
    return Planned(config, made, profile, learned=learned, target=found)


def _plan_of(way: Way, limits: PlanLimits, scheme: Scheme) -> Plan:
    """The plan of a way's rounds, cut and codec, with the shares of the shortest round."""
    forecast, decision = way.forecast, way.forecast.decision
    warm = forecast.workload.warm_rounds is not None
    fixed = replace(limits.fixed, cut=decision.common_cut, scheme=limits.fixed.scheme or warm)
    frozen = not decision.scheme.trains_device
    codecs = CodecChoices((decision.codec,), (), None, way.loss.error)
    made = make_plan(
        forecast.workload,
        replace(limits, fixed=fixed),
        decision.scheme if frozen or not decision.scheme.splits else scheme,
        codecs,
        way.loss.loss,
    )
    return made if made.chosen is not None else replace(made, chosen=forecast, infeasibilities=())


def _variants(
    config: Config, workload: Workload, learning: Learning, *, given: bool
) -> Iterator[Variant]:
    """Other settings than those given: a device part that is trained for a while, adapters' codec,
    base, local steps. What the profile has the accuracy of is no more than shown if it was given
    otherwise."""
    rounds, profile = learning.warm_rounds, learning.profile
    if rounds is not None and not given and workload.warm_rounds is None:
        own = _rounds_as_measured(rounds, workload, learning)
        title = f"device part warm, {counted(own, 'round')}"
        settings = {"device_part": {"name": "warm", "rounds": own}}
        yield Variant(replace(workload, warm_rounds=own), settings, title=title)
    changes: dict[str, tuple[dict[str, dict[str, Any]], bool]] = {}
    for name in ("none", "int8", "best"):
        if name != config.adapter_codec.name:
            title = "float32 adapters" if name == "none" else f"adapters through {name}"
            changes[title] = {"adapter_codec": {"name": name}}, name == profile.adapter_codec
    for base in Base:
        if base != config.devices.base or base != config.server.base:
            own_base = {"base": base.value}
            measured = profile.bases == (base, base)
            changes[f"a base in {base.value}"] = {"devices": own_base, "server": own_base}, measured
    if (steps := config.training.local_steps) is not None:
        for count in (2 * steps, 4 * steps):
            changes[f"{count} local steps a round"] = {"training": {"local_steps": count}}, False
    for title, (changed, measured) in changes.items():
        values = config.model_dump(mode="json", exclude_unset=True)
        if measured and any(_is_given(config, section) for section in changed):
            continue
        for section, own_values in changed.items():
            values[section] = {**values.get(section, {}), **own_values}
        try:
            other = make_workload(Config.model_validate(values))
        except CutlayerError:
            continue  # a base that this machine or model cannot have is no way to get there
        yield Variant(other, changed, () if measured else (title,), title)


def _is_given(config: Config, section: str) -> bool:
    """Whether a section's base or codec is not the default, but asked for."""
    own = getattr(config, section).model_fields_set
    return "base" in own or (section == "adapter_codec" and section in config.model_fields_set)


def _rounds_as_measured(rounds: int, workload: Workload, learning: Learning) -> int:
    """As many rounds of this workload as have the local steps of so many measured ones."""
    return max(1, math.ceil(rounds * learning.steps / max(workload.local_steps)))


def _assumed(config: Config, learning: Learning) -> Iterator[str]:
    """What is given otherwise than it was measured, and taken to be as accurate."""
    profile, part = learning.profile, config.device_part
    bases = (config.devices.base, config.server.base)
    if bases != profile.bases:
        measured, own = (" and ".join(dict.fromkeys(each)) for each in (profile.bases, bases))
        yield f"a base in {own} is as accurate as one in {measured}, which was measured"
    if config.adapter_codec.name != profile.adapter_codec:
        yield (
            f"adapter_codec {config.adapter_codec.name} costs no accuracy against"
            f" {profile.adapter_codec}, which was measured"
        )
    rounds = learning.warm_rounds
    if isinstance(part, WarmDevicePart) and rounds is not None:
        steps = rounds * learning.steps
        yield (
            f"the device part, trained for {counted(part.rounds, 'round')}, is as accurate as"
            f" trained for {steps:g} local steps, which was measured"
        )


def _check_cuts(config: Config, cuts: range, *, fixed: bool) -> None:
    """Raises ConfigError where a side of the cut has nothing to train, at the one that is `fixed`
    or at any; `cuts`: where both have."""
    cut = config.model.cut
    if not cuts or (fixed and cut not in cuts):
        where = f"cut after block {cuts[0]} to {cuts[-1]}" if cuts else "adapt more blocks"
        raise ConfigError(
            f"with {f'model.cut {cut}' if cuts else 'any model.cut'}, adapter.layers and"
            f" adapter.targets leave devices or server nothing to train: {where}"
        )


def _fixed_choices(config: Config, scheme: Scheme) -> FixedChoices:
    fix, training, count = set(config.planner.fix), config.training, config.devices.count
    parts = count_micro_batches(training, scheme)
    memory = ActivationPolicy(config.devices.activation_memory)
    return FixedChoices(
        # another order of steps is no scheme that can go on frozen
        scheme="scheme" in fix or isinstance(config.device_part, WarmDevicePart),
        cut=config.model.cut if "cut" in fix else None,
        codec="codec" in fix,
        activation_memory=memory if "activation_memory" in fix else None,
        micro_batches=parts if "micro_batches" in fix else None,
        in_flight=training.in_flight if "micro_batches" in fix else None,
        downlink="downlink" in fix,
        shares=fixed_shares(config, count).value if "shares" in fix else None,
    )


def _check_devices(count: int) -> None:
    if count > _MOST_DEVICES:
        raise ConfigError(
            f"devices.count {count:,}: a plan allocates bandwidth to {_MOST_DEVICES:,} devices at"
            " most; plan fewer"
        )


def _check_steps(steps: int) -> None:
    if steps > _MOST_STEPS:
        raise ConfigError(
            f"{steps:,} local steps per round: a plan simulates {_MOST_STEPS:,} at most; lower"
            " training.local_steps"
        )


def _as_given(
    config: Config, workload: Workload, limits: PlanLimits, codec: CodecChoice
) -> Decision:
    """The decision that the configuration makes itself; shares as its planner finds them for the
    channel's mean, drawn ones taken to be even."""
    decision = configured_decision(config, workload, codec)
    if config.planner.name in ("static", "two-timescale"):
        return with_best_shares(workload, limits, decision, workload.channel.mean_curves())
    return decision


def _notes(planned: Planned) -> Iterator[str]:
    if planned.learned is not None:
        yield str(planned.learned)
    energy, price = planned.energy, planned.given.devices.price_per_kwh
    if energy is not None and energy.all_devices_j is None and price is not None:
        yield (
            f"devices.price_per_kwh is {price:g}, but nobody knows what devices draw: set"
            " devices.power_w, or take a preset or a profile that has it"
        )
    devices = planned.given.devices
    if takes_some(devices):
        count = devices.per_round or devices.count
        yield (
            f"planned for the {count} of {devices.count} devices that take part in a round, the"
            " same in each; left out is that weights go to whoever is new, and that devices are"
            " away, leave or come late"
        )
    if planned.fixed:
        yield "as configured (--fixed): nothing was chosen, accuracy is not checked"
        return
    config = planned.given
    if config.planner.fix:
        yield f"kept as configured (planner.fix): {', '.join(config.planner.fix)}"
    if planned.profile is None:
        yield (
            f"no profile of {config.model.name} on {config.data.name}: the codec stays as"
            " configured, accuracy is not checked; `cutlayer profile` measures it"
        )
    if planned.target is not None:
        yield from target_notes(planned.target)
    yield from profile_notes(planned)
    yield from _frozen_notes(planned)
    replaced = replacements(planned)
    yield from replaced
    if replaced:
        yield "`cutlayer plan --fixed` gives the delay of the configuration as it is"


def _frozen_notes(planned: Planned) -> Iterator[str]:
    """What a device part that `auto` froze would have brought."""
    chosen = planned.chosen
    if chosen is None or not is_auto(planned.given) or planned.target is not None:
        return
    cut, frozen = chosen.decision.cuts[0], chosen.decision.scheme == SFT_FROZEN
    gain = gain_of(planned.given, cut) if frozen else None
    if gain is not None:
        yield (
            f"device part frozen: training it brings {gain} points at cut {cut}, by its profile;"
            " where nobody has measured that, a plan trains it (`--scheme sft`: everywhere)"
        )


def replacements(planned: Planned) -> list[str]:
    """What was given and is another in the plan: a line for each, none where nothing fits."""
    chosen, config = planned.chosen, planned.given
    if chosen is None:
        return []
    lines = []
    for name, settings in _decided(config, chosen.decision).items():
        section: Section = getattr(config, name)
        for key, new in settings.items():
            old = getattr(section, key, None)
            if key in section.model_fields_set and old is not None and old != new:
                to = "a cut for each device" if new is None else shown(new)
                lines.append(f"{name}.{key} {shown(old)} was replaced by {to}")
    return lines


def profile_notes(planned: Planned) -> list[str]:
    """How sure the measured accuracies are, and where they were measured."""
    profile, chosen = planned.profile, planned.chosen
    if profile is None or chosen is None or not chosen.decision.scheme.compressed:
        return []
    if "codec" in planned.given.planner.fix:
        return ["accuracy is not checked: the codec was not chosen from the measured ones"]
    error = 100 * profile.loss_error
    of = (
        f"standard error of the accuracies {error:.1f} points: {profile.test_samples} test samples,"
    )
    lines = [f"{of} {len(profile.seeds)} seeds"]
    if set(chosen.decision.cuts) != {profile.cut}:
        cuts = ", ".join(str(cut) for cut in sorted(set(chosen.decision.cuts)))
        lines.append(
            f"they were measured at cut {profile.cut}, not {cuts}: the accuracy loss there may"
            " differ"
        )
    return lines


def _decided(config: Config, decision: Decision) -> dict[str, dict[str, Any]]:
    policy, codec = decision.policy, decision.codec
    changes = not (isinstance(config.channel, SnrSection) and config.channel.fading.name == "none")
    whole = {"levels": round(codec.settings["levels"])} if "levels" in codec.settings else {}
    sections: dict[str, dict[str, Any]] = {
        "training": {
            "micro_batches": policy.micro_batches,
            "in_flight": policy.in_flight if decision.scheme.pipelined else None,
        },
        "devices": {"activation_memory": policy.activation_memory.value},
        "link": {"downlink": decision.rules.downlink.value.replace(" ", "-")},
    }
    changes = changes or takes_some(config.devices)  # others each round
    shares = "two-timescale" if changes else "static"
    if "shares" not in config.planner.fix:
        sections["planner"] = {"name": shares if config.link.uplink == "static" else "even"}
    if decision.scheme.splits:
        sections["model"] = {"cut": decision.common_cut}
    if is_auto(config) or decision.scheme != make_scheme(config):
        sections["scheme"] = {"name": decision.scheme.name}
    # of those without settings of their own here, the configured one may have others
    if decision.scheme.compressed and (codec.settings or codec.codec != config.codec.name):
        sections["codec"] = {"name": codec.codec, **codec.settings, **whole}
    return sections


def _configured(config: Config, workload: Workload) -> CodecChoices:
    """The configured codec alone, of which nobody knows what accuracy it costs."""
    return CodecChoices((configured_codec(config, workload),), (), _published(workload))


def _published(workload: Workload) -> CodecChoice:
    batch = workload.batch
    shape = (batch.samples, batch.tokens, workload.model.width)
    whole = ACTIVATION_BYTES * shape[0] * shape[1] * shape[2]
    codec = paper(_PUBLISHED["keep_ratio"], round(_PUBLISHED["levels"])).up
    sent = codec.expected_bytes(shape) / whole
    return CodecChoice("paper", _PUBLISHED, sent, sent)
