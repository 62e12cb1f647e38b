"""Bytes that a scheme moves, before any compression: model, adapters, activation, gradient.

Knows no link and no codec; frames, labels and checksums are left out.
"""

from dataclasses import dataclass

from cutlayer.cost.cut import check_held
from cutlayer.spec import MiniBatch, ModelSpec, Trained

# what is trained is float32, and so is what is sent
TRAINED_BYTES = 4
ACTIVATION_BYTES = 4


@dataclass(frozen=True)
class Traffic:
    """Bytes of each payload: what is broadcast first, what a round merges, what a local step sends.

    `activation_bytes` and `gradient_bytes` are one mini-batch's at the cut. `adapters_in_model`:
    whether `model_bytes` has the adapters in it already, which are then not broadcast beside it.
    """

    model_bytes: float
    adapter_bytes: float
    activation_bytes: float
    gradient_bytes: float
    adapters_in_model: bool = False


def physical_traffic(
    model: ModelSpec, cut: int, batch: MiniBatch, trained: Trained = Trained.ADAPTERS
) -> Traffic:
    """What is really sent at `cut`; at `cut = blocks` the whole model and no activation.

    Model: embedding and blocks as stored, without adapters (they are broadcast each round, and
    counted in `adapter_bytes`). Adapters: device-side, float32; with all weights trained, every
    weight that the device holds. Activation and gradient: `4 B N D`.
    Raises ConfigError for a cut that is not.
    """
    check_held(model, cut)
    weights = model.device_parameters(cut)
    exchanged = weights if trained is Trained.WEIGHTS else model.device_adapter_parameters(cut)
    activation = 0 if cut == model.blocks else batch.samples * batch.tokens * model.width
    return Traffic(
        model_bytes=model.bytes_per_value * weights,
        adapter_bytes=TRAINED_BYTES * exchanged,
        activation_bytes=ACTIVATION_BYTES * activation,
        gradient_bytes=ACTIVATION_BYTES * activation,
    )


def paper_traffic(
    model: ModelSpec, cut: int, batch: MiniBatch, trained: Trained = Trained.ADAPTERS
) -> Traffic:
    """Section V-E as printed, with b bytes a value, width D, rank r, l blocks on the device.

    `Psi(l) = b l (18Dr + 12D^2 + (P^2 C + N + 3) D)`: the embedding is counted in every block
    (defect 11; here it is the model's own, which for a ViT is that term). `Psi^L(l) = 2 l B D r`
    is taken as bytes, with B the batch (defect 12). The activation is `BND`, here of b bytes each,
    which the paper leaves out (defect 16). With all weights trained the adapter is `Psi(l)` too, of
    which the paper says nothing. Source: SFT Section V-E.
    """
    check_held(model, cut)
    b, B, D, r = model.bytes_per_value, batch.samples, model.width, model.rank
    psi = b * cut * (18 * D * r + 12 * D**2 + model.embedding_parameters)
    activation = 0 if cut == model.blocks else b * B * batch.tokens * D
    return Traffic(
        model_bytes=psi,
        adapter_bytes=psi if trained is Trained.WEIGHTS else 2 * cut * B * D * r,
        activation_bytes=activation,
        gradient_bytes=activation,
        adapters_in_model=True,
    )
