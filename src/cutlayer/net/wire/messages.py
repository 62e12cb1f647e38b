"""What devices and server say to each other: one value for each message.

Tensors are packets of the codec; settings are checked field by field. Knows neither who says what
when, nor what a packet holds, nor the bytes of a frame.
"""

from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from cutlayer.errors import IdentityError
from cutlayer.spec import Task

# When a device did what in a round, by its own clock: what it tells the server with its adapter.
#
# Knows no clock and no link. The server lays these times beside its own (`measured`); the probe, a
# frame without content that is answered at once, tells how far apart the two clocks are.


@dataclass(frozen=True)
class StepTimes:
    """One micro-batch [s]: its forward begins, its activation begins to leave, its gradient has
    come."""

    began_s: float
    sent_s: float
    got_s: float


@dataclass(frozen=True)
class DeviceTimes:
    """A device's round [s], by a clock of its own that never goes back.

    Its probe left at `asked_s` and was answered by `answered_s`; its adapter began to leave at
    `ended_s`. `steps`: every micro-batch in its order.
    """

    asked_s: float
    answered_s: float
    ended_s: float
    steps: tuple[StepTimes, ...]


_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_LARGEST_U32 = 2**32 - 1
# beyond any file, and within what every system seeks and every JSON reader counts to
_LARGEST_OFFSET = 2**53
# of the manifest of a device's part, which is held in memory: some 100,000 tensors
MANIFEST_BYTES = 2**24
# of the file of a device's part, at a time: a frame of it fits in a link's chunk
PIECE_BYTES = 1_000_000

Count: TypeAlias = Annotated[int, Field(ge=1, le=_LARGEST_U32)]
Index: TypeAlias = Annotated[int, Field(ge=0, le=_LARGEST_U32)]
Part: TypeAlias = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Position:
    """Where in the training a frame belongs; 0 where a kind has no use for a number."""

    round: int = 0
    step: int = 0
    micro: int = 0


NOWHERE = Position()


@checked(frozen=True, config=_STRICT)
class Terms:
    """All that a device must know to take part, its data apart.

    `run`: the run's own name, so that a device's state is never taken for another run's. `width`,
    `tokens`: values a token and the most tokens of a sample at the cut. `class_names`: what labels
    are numbers of; none for language modelling. `part_sha256`, `manifest_bytes`: of the manifest of
    the device's part, which its file begins with. `uplink_bit_s`: the uplink rate that the devices
    share [bit/s]; None: not paced. `settings`: those keys of the server's configuration that a
    device computes by. `frozen_from`: the first round in which the devices' part is not trained;
    None: it always is. `cached`: the server keeps activations, and asks for those that it does not
    hold.
    """

    run: Annotated[str, Field(pattern="^[A-Za-z0-9]{1,64}$")]
    device: Index
    task: Task
    classes: Count
    class_names: list[str]
    width: Count
    tokens: Count
    part_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    manifest_bytes: Annotated[int, Field(ge=1, le=MANIFEST_BYTES)]
    uplink_bit_s: Annotated[float, Field(gt=0)] | None
    rounds: Count
    local_steps: Count
    micro_batches: Count
    settings: dict[str, Any]
    frozen_from: Count | None = None
    cached: bool = False

    def frozen(self, round_number: int) -> bool:
        """Whether nothing comes back in this round: a device's activations are acknowledged, and it
        waits for none of them."""
        return self.frozen_from is not None and round_number >= self.frozen_from


@checked(frozen=True, config=_STRICT)
class Opening:
    """A round's settings for one device: its share of the bandwidth.

    `fresh`: the device begins anew. Its optimiser and what its codecs remember are void, because
    the server's side of them is. `keeps`: its adapter stays on the device as the round ends.
    `held`: which samples the server holds as the round opens, a bit for each of all local steps in
    their order, the first one the highest, in hexadecimal digits; None: it keeps none.
    """

    share: Annotated[float, Field(gt=0, le=1)]
    fresh: bool
    keeps: bool | None = None
    held: Annotated[str, Field(pattern="^([0-9a-f]{2})*$")] | None = None


@checked(frozen=True, config=_STRICT)
class Micro:
    """A micro-batch's part of its mini-batch's mean loss, and whether it is the last one."""

    weight: Part
    last: bool


@checked(frozen=True, config=_STRICT)
class Weight:
    """What an adapter counts in the mean: the samples that it was trained on. `labels`: how many
    they are of each label, where the run evaluates each device."""

    samples: Count
    labels: list[Index] | None = None


@checked(frozen=True, config=_STRICT)
class OwnSamples:
    """How many samples a device has, and the beginning of their SHA-256: so that a server that
    holds their activations knows which those of a local step are."""

    count: Count
    digest: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]


@checked(frozen=True, config=_STRICT)
class PartRange:
    """A place in the file of the device's part [bytes from its start], and how many from there."""

    offset: Annotated[int, Field(ge=0, le=_LARGEST_OFFSET)]
    size: Annotated[int, Field(ge=1, le=PIECE_BYTES)]


@checked(frozen=True, config=_STRICT)
class MergedFrom:
    """The devices whose adapters a round is the mean of."""

    devices: list[Index]


@checked(frozen=True, config=_STRICT)
class Ending:
    """Whether the run has reached its end."""

    finished: bool


@dataclass(frozen=True)
class Ask:
    """A device that is not ready yet asks for the terms."""


@dataclass(frozen=True)
class Fetch:
    """A device asks for a piece of the file of its part."""

    place: PartRange


@dataclass(frozen=True)
class PartPiece:
    """The bytes of that file at `place`, or the first of them."""

    place: PartRange
    data: bytes


@dataclass(frozen=True)
class Hello:
    """A device is here. `round`: the last one that it opened, whose state it still has; or 0."""

    round: int


@dataclass(frozen=True)
class Introduce:
    """A device says what it has, before its hello, to a server that keeps activations."""

    samples: OwnSamples


@dataclass(frozen=True)
class Welcome:
    """The server takes part with a device, on these terms."""

    terms: Terms


@dataclass(frozen=True)
class Refused:
    """The server does not; a stranger is not told why."""


@dataclass(frozen=True)
class Open:
    """A round begins for a device, from this adapter (a packet of `RowCodec`: the adapter, or how
    it differs from the one before; empty: from its own, if it has one)."""

    round: int
    opening: Opening
    adapter: bytes


@dataclass(frozen=True)
class Activation:
    """One micro-batch at the cut: the codec's packet, the labels' payload, the samples' numbers.

    The numbers are the device's own names for its samples, for codecs that remember samples. Of a
    micro-batch that the server holds a part of, it is about the others; empty if there are none.
    """

    position: Position
    micro: Micro
    packet: bytes
    labels: bytes
    samples: tuple[int, ...]


@dataclass(frozen=True)
class Gradient:
    """The answer to the activation of the same position: the codec's packet (empty: it is on disk
    at the server, and nothing comes back, since the devices' part is frozen)."""

    position: Position
    packet: bytes


@dataclass(frozen=True)
class Adapter:
    """A device's adapter after its last local step (a packet of `RowCodec`: the adapter, or how it
    has changed; empty: it keeps it, or trained none).

    `times`: when it did what in the round; None if it has not seen all of it.
    """

    round: int
    weight: Weight
    packet: bytes
    times: DeviceTimes | None = None


@dataclass(frozen=True)
class Probe:
    """A device asks for an echo, to compare the two clocks by."""


@dataclass(frozen=True)
class Echo:
    """The answer to a probe, as soon as it is seen."""


@dataclass(frozen=True)
class Close:
    """The server hangs up."""

    ending: Ending


@dataclass(frozen=True)
class Restarted:
    """Journal only: a device began the round anew; what it had done of it is void."""

    round: int


@dataclass(frozen=True)
class Held:
    """Journal only: the server trained on a device's micro-batch of which it holds every sample."""

    position: Position
    micro: Micro


@dataclass(frozen=True)
class RoundClosed:
    """Journal only: a round closed with these devices."""

    round: int
    made: MergedFrom


Message: TypeAlias = (
    Ask
    | Fetch
    | PartPiece
    | Hello
    | Welcome
    | Refused
    | Open
    | Activation
    | Gradient
    | Adapter
    | Probe
    | Echo
    | Close
    | Restarted
    | Held
    | RoundClosed
    | Introduce
)


# What a device is told of a run before it has an identity: enough to see whether its data fit.


@checked(frozen=True)
class Outline:
    """The task, and the names of the classes; none for language modelling."""

    task: Task
    class_names: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """As JSON."""
        return _ADAPTER.dump_json(self)


_ADAPTER = TypeAdapter(Outline)


def read_outline(content: bytes) -> Outline:
    """What `to_bytes` gave. Raises IdentityError."""
    try:
        return _ADAPTER.validate_json(content)
    except ValidationError as error:
        raise IdentityError(
            "what the server says of its run cannot be read: run the same version on both ends"
        ) from error
