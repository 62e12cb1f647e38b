"""Table III: every row, the claims, picture, files."""

from pathlib import Path

import pytest
from analytic import made_twice
from report.drawn import assert_labels_apart

from cutlayer.errors import ConfigError
from cutlayer.report.drawing import plain_style
from cutlayer.rounds.memory import PartMemory
from cutlayer.rounds.vit import VIT_BASE
from cutlayer.spec import Trained
from cutlayer.units import MIB
from reproduction import table3
from reproduction.claims import Verdict
from reproduction.table3 import ROWS, calibrated_memory, columns, draw


def test_printed_totals_are_the_sums_of_their_rows() -> None:
    for column in columns():
        total = sum(column.published[row] for row in ROWS[:-1])
        # each of four rows is rounded to 0.01
        assert float(total - column.published["total"]) == pytest.approx(0, abs=0.02)


def test_verdicts() -> None:
    verdicts = {claim.name: claim.verdict for claim in table3.claims_of(columns())}
    exact = (
        "input",
        "model and adapters, split, 5 blocks",
        "model and adapters, FL-LoRA",
        "model and adapters, FL",
        "optimizer, split, 5 blocks",
        "optimizer, FL-LoRA",
    )
    assert {verdicts.pop(name) for name in exact} == {Verdict.EXACT}
    equations = [name for name in verdicts if "equations" in name]
    assert {verdicts.pop(name) for name in equations} == {Verdict.CONTRADICTS_ITSELF}
    assert verdicts.pop("total, FL-LoRA over split") is Verdict.EXACT
    assert set(verdicts.values()) == {Verdict.WITHIN} and len(verdicts) == 9


def test_files(tmp_path: Path) -> None:
    _, rows = made_twice(table3.make, tmp_path, "table3")
    assert len(rows) == 3 * len(ROWS)
    total = next(row for row in rows if row["row"] == "total")
    assert total["published_mib"] == "4122.92"
    assert float(total["physical_mib"]) < float(total["published_mib"])
    assert float(total["equations_mib"]) == pytest.approx(2716, abs=0.5)


def test_labels_stay_apart() -> None:
    with plain_style():
        assert_labels_apart(draw(columns(), table3.SETTING))


SPLIT = calibrated_memory(VIT_BASE, 5, 64)
FL_LORA = calibrated_memory(VIT_BASE, 12, 64)
FL = calibrated_memory(VIT_BASE, 12, 64, trained=Trained.WEIGHTS)

# half a unit of the last published digit
EXACT = 0.005


@pytest.mark.parametrize(
    ("memory", "model", "optimizer"),
    [(SPLIT, 141.19, 3.75), (FL_LORA, 337.03, 9.09), (FL, 327.88, None)],
)
def test_exact_rows(memory: PartMemory[float], model: float, optimizer: float | None) -> None:
    assert memory.input / MIB == 36.75
    assert (memory.weights + memory.adapters) / MIB == pytest.approx(model, abs=EXACT)
    if optimizer is not None:
        assert memory.optimizer / MIB == pytest.approx(optimizer, abs=EXACT)
    assert memory.gradients == 0


def test_the_optimiser_of_fl_is_printed_larger_than_its_model() -> None:
    """329.76 of 327.88: not reproduced, 0.57 % away."""
    assert FL.optimizer == FL.weights
    assert FL.optimizer / MIB == pytest.approx(329.76, rel=0.006)
    assert FL.optimizer / MIB != pytest.approx(329.76, rel=0.005)


@pytest.mark.parametrize(
    ("memory", "activations", "total", "close"),
    [
        (SPLIT, 3941.23, 4122.92, 5e-4),
        (FL_LORA, 9513.82, 9896.69, 6e-3),
        (FL, 9171.11, 9865.5, 0.033),
    ],
)
def test_activations_within_what_is_said(
    memory: PartMemory[float], activations: float, total: float, close: float
) -> None:
    """+0.04, -0.54 and +3.2 %; the totals no further."""
    assert memory.activations / MIB == pytest.approx(activations, rel=close)
    assert memory.total / MIB == pytest.approx(total, rel=close)


def test_blocks_that_are_not() -> None:
    with pytest.raises(ConfigError, match=r"has 1\.\.12"):
        calibrated_memory(VIT_BASE, 0, 64)
