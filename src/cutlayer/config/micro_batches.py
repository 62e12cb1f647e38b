"""The micro-batches of a run, as its scheme can take them. Imports no torch."""

from cutlayer.config.schema import TrainingSection
from cutlayer.errors import ConfigError
from cutlayer.schemes.scheme import Scheme, ServerOrder

# micro-batches where a scheme overlaps them and nobody says how many
_OVERLAPPING = 4


def count_micro_batches(training: TrainingSection, scheme: Scheme) -> int:
    """How many a mini-batch goes through in. Raises ConfigError for what the scheme cannot do."""
    if training.in_flight is not None and not scheme.pipelined:
        raise ConfigError(
            f"training.in_flight {training.in_flight} is for sft-overlap: {scheme.name} takes one"
            " micro-batch after another"
        )
    usual = min(_OVERLAPPING, training.batch_size) if scheme.pipelined else 1
    count = training.micro_batches or usual
    if count > training.batch_size:
        raise ConfigError(
            f"training.micro_batches {count} of training.batch_size {training.batch_size}: a"
            " micro-batch needs a sample"
        )
    if count > 1 and scheme.server is not ServerOrder.ARRIVAL:
        raise ConfigError(
            f"training.micro_batches {count}: the server of {scheme.name} takes whole mini-batches"
            " in an order of its own; leave it at 1"
        )
    return count
