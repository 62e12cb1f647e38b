"""The evaluation's setting: minutes against the schemes' closed forms, bytes worked out by hand."""

import math
from dataclasses import replace

import pytest

from cutlayer.rounds.memory import PAPER
from cutlayer.rounds.parameters import vit_spec
from cutlayer.rounds.schemes import SCHEMES, Phase
from reproduction.setting import (
    EVALUATION,
    LARGE_MODEL,
    READINGS,
    TINY_IMAGENET,
    TWENTY_DEVICES,
    gigabytes,
    minutes,
    minutes_of,
)

# bit/s of 5 MHz at 17 dB
BAND = 5e6 * math.log2(1 + 10**1.7)
ACTIVATION_BITS = 8 * 4 * 64 * 197 * 768
MODEL = vit_spec(EVALUATION.dimensions)
STEPS = 98
FLOPS = PAPER.flops(MODEL, 5, EVALUATION.batch)
TRAFFIC = PAPER.traffic(MODEL, 5, EVALUATION.batch)
DEVICE_S = (FLOPS.device_forward + FLOPS.device_backward) / 1.024e12
SERVER_S = FLOPS.server / 3.072e12
ADAPTER_BITS = 8 * TRAFFIC.adapter_bytes


def later_round_s(scheme: str) -> float:
    """A round after the first [s]: 98 steps of the line."""
    return 60 * STEPS * minutes_of(EVALUATION, SCHEMES[scheme]).each_step


def test_a_round_is_an_epoch() -> None:
    # 50,000 / (8 x 64) = 97.7; 100,000: 195.3; 20 devices: 39.1
    assert EVALUATION.epoch_steps == STEPS
    assert TINY_IMAGENET.epoch_steps == 196
    assert TWENTY_DEVICES.epoch_steps == 40
    assert EVALUATION.devices == 8 and TWENTY_DEVICES.devices == 20
    assert (EVALUATION.batch.samples, EVALUATION.batch.tokens) == (64, 197)
    assert LARGE_MODEL.dimensions.blocks == 24


def test_splitlora_is_its_closed_form() -> None:
    # K (DC + IAT + N SC + GT + DU), all devices alike, an eighth of the band each; adapters up on
    # that share, and down to all on the whole band
    transfer_s = 2 * ACTIVATION_BITS / (BAND / 8)
    expected_s = STEPS * (DEVICE_S + transfer_s + 8 * SERVER_S) + 9 * ADAPTER_BITS / BAND
    # sums of some hundred terms in double precision
    assert later_round_s("splitlora-paper") == pytest.approx(expected_s, rel=1e-12)


def test_sl_is_its_closed_form() -> None:
    # one device after another with the whole band, adapters down to it and up from it
    step_s = DEVICE_S + 2 * ACTIVATION_BITS / BAND + SERVER_S
    expected_s = 8 * (STEPS * step_s + 2 * ADAPTER_BITS / BAND)
    assert later_round_s("sl") == pytest.approx(expected_s, rel=1e-12)


def test_fl_is_its_closed_form() -> None:
    adapter_bits = 8 * PAPER.traffic(MODEL, 12, EVALUATION.batch).adapter_bytes
    expected_s = STEPS * FLOPS.total / 1.024e12 + 9 * adapter_bits / BAND
    assert later_round_s("fl-lora") == pytest.approx(expected_s, rel=1e-12)


def test_sft_waits_in_a_queue_that_the_closed_form_lacks() -> None:
    for scheme, ratio in (("sft", 14.75), ("sft-uncompressed", 1.0)):
        transfer_s = 2 * ACTIVATION_BITS / ratio / (BAND / 8)
        edge_s = 9 * ADAPTER_BITS / BAND
        alone_s = STEPS * (DEVICE_S + transfer_s + SERVER_S) + edge_s
        # at worst all eight mini-batches are there at once in the first step
        assert alone_s < later_round_s(scheme) <= alone_s + 7 * SERVER_S * STEPS
    # the queue forms once: later mini-batches come as far apart as the server let them go
    assert later_round_s("sft-uncompressed") == pytest.approx(alone_s + 7 * SERVER_S, rel=1e-12)


def test_minutes_are_a_line_that_starts_with_the_model() -> None:
    line = minutes_of(EVALUATION, SCHEMES["sft"])
    # Psi(5) instead of the adapters; it holds them in the paper's accounting
    opening_s = 8 * (TRAFFIC.model_bytes - TRAFFIC.adapter_bytes) / BAND
    assert line.start == pytest.approx(opening_s / 60, rel=1e-9)
    assert line.after(0) == line.start
    assert minutes(EVALUATION, SCHEMES["sft"], 10.0) == line.start + 10 * line.each_step


def test_bytes_by_hand() -> None:
    one_way = 8 * 4 * 64 * 197 * 768 / 1e9  # eight devices
    sent = gigabytes(EVALUATION, SCHEMES["sl"], 2 * STEPS)
    assert sent[Phase.ACTIVATION_UP] == sent[Phase.GRADIENT_DOWN]
    assert sent[Phase.ACTIVATION_UP] == pytest.approx(2 * STEPS * one_way, rel=1e-12)
    assert sent[Phase.MODEL_DISTRIBUTION] == pytest.approx(TRAFFIC.model_bytes / 1e9, rel=1e-12)
    for phase in (Phase.ADAPTER_UP, Phase.ADAPTER_DOWN):
        assert sent[phase] == pytest.approx(2 * 8 * TRAFFIC.adapter_bytes / 1e9, rel=1e-12)
    compressed = gigabytes(EVALUATION, SCHEMES["sft"], 2 * STEPS)
    assert compressed[Phase.ACTIVATION_UP] == pytest.approx(
        sent[Phase.ACTIVATION_UP] / 14.75, rel=1e-12
    )
    # the model once, and the merged adapters once in the second round: a broadcast
    assert compressed[Phase.MODEL_DISTRIBUTION] == pytest.approx(
        (TRAFFIC.model_bytes + TRAFFIC.adapter_bytes) / 1e9, rel=1e-12
    )


def test_more_band_is_no_slower_and_more_data_no_faster() -> None:
    for scheme in (SCHEMES["sft"], SCHEMES["fl-lora"]):
        narrow = minutes(EVALUATION, scheme, STEPS)
        assert minutes(READINGS["30 MHz (Table II)"], scheme, STEPS) < narrow
        assert minutes(EVALUATION, scheme, STEPS + 1) > narrow
        assert minutes(replace(EVALUATION, snr_db=10.0), scheme, STEPS) > narrow
