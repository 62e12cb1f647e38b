"""The paper's memory equations as printed. For the right ones see `memory`."""

from cutlayer.cost.cut import check_held
from cutlayer.cost.memory import PartMemory
from cutlayer.errors import ConfigError
from cutlayer.spec import Holding, MiniBatch, ModelSpec, Trained

LINEAR_COEFFICIENT = 34
ATTENTION_COEFFICIENT = 5


def paper_memory(
    model: ModelSpec,
    cut: int,
    batch: MiniBatch,
    *,
    optimizer_slots: int = 1,
    holding: Holding = Holding.KEEP,
    micro_batches: int = 1,
    in_flight: int = 1,
    trained: Trained = Trained.ADAPTERS,
) -> PartMemory[float]:
    """Equations (29) to (34) as printed: `M^c(l) = 16D^2 + BND + l M_t` [byte], where a block takes
    `M_t = (2a + o)(12D^2 + 18Dr) + 34BND + 5BN^2A` with a bytes a value, A heads, and
    `o = optimizer_slots * a` (1 for SGD with momentum, 2 for Adam, 3 for mixed precision).

    Frozen weights have gradients and optimiser states like the adapters (defect 17), so it is the
    same whatever is trained; 34 and 5 are those of float16 (defect 18); `16D^2 + BND` is not what
    the text adds up (defect 19): here 16D^2 is among the weights, BND among the activations.
    The paper knows neither `holding` nor micro-batches: ConfigError for anything but the default.
    """
    check_held(model, cut)
    if holding is not Holding.KEEP or micro_batches != 1 or in_flight != 1:
        raise ConfigError(
            f"the paper's memory equations know neither holding {holding.value} nor"
            f" {micro_batches} micro-batches; use the physical accounting"
        )
    alpha, B, N, D, r = (
        model.bytes_per_value,
        batch.samples,
        batch.tokens,
        model.width,
        model.rank,
    )
    block = 12 * D**2 + 18 * D * r
    kept = LINEAR_COEFFICIENT * B * N * D + ATTENTION_COEFFICIENT * B * N**2 * model.heads
    return PartMemory(
        weights=16 * D**2 + cut * alpha * 12 * D**2,
        adapters=cut * alpha * 18 * D * r,
        gradients=cut * alpha * block,
        optimizer=cut * optimizer_slots * alpha * block,
        activations=B * N * D + cut * kept,
        input=0,
    )
