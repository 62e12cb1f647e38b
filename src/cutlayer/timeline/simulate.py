"""The event simulation of one round of any scheme, under given rules.

Knows no model and no channel: the work brings its amounts and rates.
"""

from collections.abc import Sequence

from cutlayer.errors import ConfigError
from cutlayer.schemes.scheme import DeviceOrder, Place, Scheme, ServerOrder
from cutlayer.timeline.legs import legs_of
from cutlayer.timeline.play import play
from cutlayer.timeline.result import DeviceTimeline, RoundTimeline
from cutlayer.timeline.rules import Rules
from cutlayer.timeline.work import DeviceWork


def simulate(
    scheme: Scheme, work: Sequence[DeviceWork], rules: Rules | None = None
) -> RoundTimeline:
    """Play one round of `scheme` with each device's `work`; without `rules`, the paper's.

    Everything that could happen at the same second goes by device number. Devices in turn have the
    rates in their work while they are alone, which is the caller's to give.

    Raises ConfigError without devices, for a scheme that visits the server more than once in a
    local step, for micro-batches at a server that keeps an order by local step, and for work that
    does not fit the scheme.
    Source: SFT eqs. (19) to (27), the server working in order of arrival (Section IV-A).
    """
    rules = Rules() if rules is None else rules
    _check(scheme, work)
    legs = legs_of(scheme)
    devices: list[DeviceTimeline] = []
    if scheme.devices is DeviceOrder.PARALLEL:
        devices = play(scheme, legs, work, rules, turn_s=0.0)
    else:
        for device in work:
            turn_s = devices[-1].delay_s if devices else 0.0
            devices += play(scheme, legs, [device], rules, turn_s)
    return RoundTimeline(scheme, tuple(work), rules, tuple(devices))


def _check(scheme: Scheme, work: Sequence[DeviceWork]) -> None:
    if not work:
        raise ConfigError("a round needs at least one device")
    if sum(step.place is Place.SERVER for step in scheme.local) > 1:
        raise ConfigError(f"scheme {scheme.name}: at most one server step in a local step")
    most = max(device.micro_batches for device in work)
    if most > 1 and scheme.server is not ServerOrder.ARRIVAL:
        raise ConfigError(
            f"scheme {scheme.name}: {most} micro-batches, but its server takes mini-batches in an"
            " order of its own: give 1 micro-batch"
        )
