"""Minutes, ratios and bytes after the fitted epochs, and the words for them."""

import pytest

from cutlayer.rounds.schemes import Phase
from reproduction.evaluation import (
    NAMES,
    Evaluation,
    evaluate,
    fitted_words,
    step_gigabytes,
    words_of,
)
from reproduction.fit import fit
from reproduction.setting import EVALUATION, TINY_IMAGENET, TWENTY_DEVICES


@pytest.fixture(scope="module")
def cifar() -> Evaluation:
    return evaluate(EVALUATION)


def test_the_main_setting_is_what_was_fitted(cifar: Evaluation) -> None:
    found = fit()
    assert {name: cifar.minutes[name] for name in found.minutes} == pytest.approx(found.minutes)
    assert cifar.local_steps == pytest.approx(found.local_steps)
    assert cifar.fl_own_minutes == pytest.approx(419.6)
    assert set(cifar.minutes) == set(NAMES)
    assert cifar.times_sft("sft") == 1.0
    assert cifar.times_sft("sl") == cifar.minutes["sl"] / cifar.minutes["sft"]
    assert cifar.fl_own_times_sft == cifar.fl_own_minutes / cifar.minutes["sft"]


def test_another_setting_takes_the_same_epochs(cifar: Evaluation) -> None:
    twenty = evaluate(TWENTY_DEVICES)
    assert (twenty.rounds, twenty.fl_rounds) == (cifar.rounds, cifar.fl_rounds)
    assert twenty.local_steps == pytest.approx(40 * cifar.rounds)


def test_bytes_are_those_of_the_epochs(cifar: Evaluation) -> None:
    # 8 devices, two ways, 64 x 197 x 768 float32
    assert step_gigabytes() == pytest.approx(8 * 2 * 4 * 64 * 197 * 768 / 1e9, rel=1e-12)
    sent = cifar.gigabytes("sl")
    both = sent[Phase.ACTIVATION_UP] + sent[Phase.GRADIENT_DOWN]
    assert both == pytest.approx(cifar.local_steps * step_gigabytes(), rel=1e-12)
    # FL sends nothing but adapters and the model, for epochs of its own
    fl = cifar.gigabytes("fl-lora")
    assert set(fl) == {Phase.MODEL_DISTRIBUTION, Phase.ADAPTER_UP}
    # Psi^L(12) = 2 x 12 x 64 x 768 x 16 bytes
    one = 2 * 12 * 64 * 768 * 16
    assert fl[Phase.ADAPTER_UP] == pytest.approx(cifar.fl_rounds * 8 * one / 1e9, rel=1e-12)


def test_words(cifar: Evaluation) -> None:
    assert words_of(EVALUATION).startswith("ViT-B/16, 50,000 samples, 8 devices, 5 MHz at 17 dB")
    both = words_of(EVALUATION, TINY_IMAGENET)
    assert both.startswith("ViT-B/16, 50,000 and 100,000 samples, 8 devices")
    assert "nothing trained" in both
    assert fitted_words(cifar) == "305.2 local steps a device (3.11 epochs)"
