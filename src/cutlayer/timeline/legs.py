"""A device's round as the clock sees it: each step, and what is waited for before it.

Knows no seconds. A scheme's steps are given; the waits between them follow from its two orders.
"""

from dataclasses import dataclass

from cutlayer.schemes.scheme import DeviceOrder, Phase, Place, Scheme, ServerOrder, Step

_QUEUES = {
    Place.DEVICE: Phase.DEVICE_QUEUE,
    Place.SERVER: Phase.SERVER_QUEUE,
    Place.UPLINK: Phase.LINK_QUEUE,
    Place.DOWNLINK: Phase.LINK_QUEUE,
    Place.BROADCAST: Phase.LINK_QUEUE,
}


@dataclass(frozen=True)
class Leg:
    """One step and the wait before it; without a step, a wait for other devices alone."""

    step: Step | None
    wait: Phase


TURN = Leg(None, Phase.TURN)
BARRIER = Leg(None, Phase.BARRIER)


@dataclass(frozen=True)
class Legs:
    """`opening` once, `local` once each micro-batch of each local step, `closing` once."""

    opening: tuple[Leg, ...]
    local: tuple[Leg, ...]
    closing: tuple[Leg, ...]


def legs_of(scheme: Scheme) -> Legs:
    """The legs of each device's round.

    Devices in turn hear the broadcasts that open the round all at once, then wait for their turn.
    A server that works on all devices together ends every local step with a barrier.
    """
    opening = [_leg(step) for step in scheme.opening]
    if scheme.devices is DeviceOrder.IN_TURN:
        heard = [step.place is Place.BROADCAST for step in scheme.opening]
        opening.insert(heard.index(False) if False in heard else len(heard), TURN)
    local = [_leg(step) for step in scheme.local]
    if scheme.server is ServerOrder.TOGETHER:
        local.append(BARRIER)
    return Legs(tuple(opening), tuple(local), tuple(_leg(step) for step in scheme.closing))


def _leg(step: Step) -> Leg:
    return Leg(step, _QUEUES[step.place])
