"""The stages' own settings: what a stream learns, and what is kept."""

import numpy as np
import pytest

from codec.ends import Ends, correlated, cosine
from cutlayer.codec.codec import EMPTY
from cutlayer.codec.dead_zone import DeadZone
from cutlayer.codec.kernels.native import load_kernels
from cutlayer.codec.packet import read_packet
from cutlayer.codec.pipeline import LearnedBasis, TopK, kept_counts
from cutlayer.codec.quantisers import RelativeStep, TargetBits
from cutlayer.codec.staged import StagedCodec, basis_from_bytes
from cutlayer.codec.two_way import TwoWay
from cutlayer.errors import ConfigError, PacketError

SHAPE = (4, 8, 32)
STEP = RelativeStep(0.5)


def codec(centre=True, share=1.0, rule=STEP, coarseness=1.0):
    basis = LearnedBasis(share, coarseness, warm_up=2, growth=2)
    return StagedCodec(DeadZone(rule), TwoWay(), centre=centre, transform=basis)


def shipped(packet):
    return {"mean", "basis"} & set(read_packet(packet).sections)


def test_the_mean_ships_first_and_the_basis_when_enough_rows_were_seen():
    ends = Ends(codec())
    # 32 rows a packet, 32 columns: tried on the packet after 2 x 32 rows
    ships = [shipped(ends.send(correlated(SHAPE, n))[0]) for n in range(12)]
    assert ships[:3] == [{"mean"}, set(), {"mean", "basis"}]
    # one from many more rows may still be worth it, but no third one
    assert sum(map(bool, ships[3:])) <= 1


def test_another_basis_ships_when_the_directions_have_changed():
    ends = Ends(codec())
    for n in range(4):
        ends.send(correlated(SHAPE, n))
    ships = [shipped(ends.send(correlated(SHAPE, n, directions=3))[0]) for n in range(20)]
    assert {"mean", "basis"} in ships


def test_a_basis_that_saves_nothing_is_not_sent():
    # by chance it may seem to save some bytes, which are not enough for so few packets
    basis = LearnedBasis(warm_up=2, growth=2, packets=20)
    ends = Ends(StagedCodec(DeadZone(STEP), TwoWay(), transform=basis))
    noise = np.random.default_rng(0)
    for _ in range(20):
        packet, _ = ends.send(noise.normal(size=SHAPE).astype(np.float32))
        assert not shipped(packet)


def test_a_basis_that_comes_too_late_to_pay_is_not_sent():
    basis = LearnedBasis(warm_up=2, packets=3)
    ends = Ends(StagedCodec(DeadZone(STEP), TwoWay(), transform=basis))
    assert not any(shipped(ends.send(correlated(SHAPE, n))[0]) for n in range(6))


def test_gradients_get_no_mean():
    ends = Ends(codec(centre=False))
    ships = [shipped(ends.send(correlated(SHAPE, n))[0]) for n in range(4)]
    assert ships == [set(), set(), {"basis"}, set()]


def test_a_basis_saves_bytes_at_the_same_fidelity():
    with_basis, without = (
        Ends(codec(rule=TargetBits(1.0))),
        Ends(StagedCodec(DeadZone(TargetBits(1.0)), TwoWay(), centre=True)),
    )
    large = (16, 32, 32)
    for ends in (with_basis, without):
        for n in range(4):
            ends.send(correlated(large, n))
    tensor = correlated(large, 10)
    rotated, plain = (ends.send(tensor)[1].tensor for ends in (with_basis, without))
    # 8 of 32 directions hold 99.9 % of the energy: four times the bits for each of them
    assert 1 - cosine(rotated, tensor) < 0.3 * (1 - cosine(plain, tensor))


def test_a_share_of_the_basis_keeps_the_directions_of_most_energy():
    ends = Ends(codec(share=0.25, rule=RelativeStep(0.1), coarseness=0.1))
    for n in range(4):
        ends.send(correlated(SHAPE, n))
    tensor = correlated(SHAPE, 10)
    _, decoded = ends.send(tensor)
    assert ends.receiver["basis"].shape == (32, 8)
    # what is left out is the noise: 0.05^2 of 8 per value
    assert cosine(decoded.tensor, tensor) > 0.995


def test_both_ends_know_the_same():
    ends = Ends(codec())
    for n in range(7):
        ends.send(correlated(SHAPE, n, mean=3.0))
    for name in ("mean", "basis", "identity"):
        np.testing.assert_array_equal(ends.sender[name], ends.receiver[name])
    assert set(ends.receiver) == {"mean", "basis", "identity"}


@pytest.mark.parametrize(("bits", "fewest", "most"), [(0.2, 1, 8), (1.0, 9, 17)])
def test_columns_are_those_that_are_worth_bits(bits, fewest, most):
    ends = Ends(codec(share=None, rule=TargetBits(bits)))
    # energies of column k in proportion to 1 / 4^(k / 4), turned
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(32, 32))).Q * 2.0 ** (-np.arange(32) / 4)[:, None]
    for _ in range(12):
        tensor = (rng.normal(size=(8, 16, 32)) @ turn).astype(np.float32)
        ends.send(tensor)
    columns = ends.receiver["basis"].shape[1]
    assert fewest <= columns <= most
    assert ends.receiver["basis"].shape == ends.sender["basis"].shape


def test_one_massive_channel_does_not_leave_the_other_directions_out():
    def kept(massive):
        ends = Ends(codec(rule=TargetBits(1.0)))
        for n in range(6):
            tensor = correlated((8, 16, 128), n)
            tensor[:, :, 5] += massive * (1 + np.arange(16) % 2)
            ends.send(tensor.astype(np.float32))
        basis = ends.receiver["basis"].astype(np.float64)
        others = np.cov(correlated((8, 16, 128), 7).reshape(-1, 128).T.astype(np.float64))
        others[5] = others[:, 5] = 0
        # energy of the other channels that the basis finds in a few directions
        found = np.sort(np.diag(basis.T @ others @ basis))[::-1]
        return found[:12].sum() / np.trace(others)

    assert kept(0.0) > 0.9
    assert kept(1000.0) > 0.9


def test_a_receiver_that_missed_the_basis_says_so():
    ends = Ends(codec())
    for n in range(4):
        packet, _ = ends.send(correlated(SHAPE, n))
    with pytest.raises(PacketError, match="a packet was lost"):
        ends.codec.decode(packet, SHAPE, EMPTY)


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_the_basis_in_use_is_orthonormal(share):
    ends = Ends(codec(share=share))
    for n in range(4):
        ends.send(correlated(SHAPE, n))
    basis = ends.receiver["basis"].astype(np.float64)
    # a float32 is off by 2^-25 of itself at most: 32 products of such in each entry
    np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=32 * 2.0**-25)


@pytest.mark.parametrize("data", [b"", b"\x00\x00\x00", b"\x21\x20\x00", b"\x02\x03\x00"])
def test_a_basis_of_another_size_is_refused(data):
    with pytest.raises(PacketError):
        basis_from_bytes(data, 32, load_kernels())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 0.0}, "share 0.0"),
        ({"share": 1.1}, "share 1.1"),
        ({"coarseness": 0.0}, "coarseness 0.0"),
        ({"warm_up": 0}, "warm_up 0"),
        ({"growth": 1}, "growth 1"),
        ({"packets": 0}, "packets 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        LearnedBasis(**settings)


@pytest.mark.parametrize(
    ("size", "keep_ratio", "count"),
    [(10, 0.2, 2), (10, 0.25, 3), (10, 0.24, 2), (10, 0.01, 1), (10, 1.0, 10), (0, 0.5, 0)],
)
def test_k_is_rounded_half_up_and_at_least_one_where_there_is_a_value(size, keep_ratio, count):
    assert kept_counts(np.array([size]), keep_ratio).tolist() == [count]


@pytest.mark.parametrize(
    ("scope", "kept"),
    [
        # a quarter of 8 values, of each of 4 tokens of 4 values, of 16 values
        ("sample", [[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]]),
        ("token", [[0, 0, 0, 1], [0, 0, 0, 1], [0, 1, 0, 0], [1, 0, 0, 0]]),
        ("batch", [[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]]),
    ],
)
def test_it_keeps_the_largest_of_each_sample_token_or_batch(scope, kept):
    values = np.array(
        [[0, 1, 2, -3], [4, 5, 6, -7], [5, 6, -6, 5], [-3, 2, 1, 0]], dtype=np.float32
    )
    sizes = np.array([8, 8])
    found = TopK(0.25, scope).kept(values, sizes, load_kernels())
    assert found.reshape(4, 4).tolist() == kept


@pytest.mark.parametrize("keep_ratio", [0.0, -0.1, 1.0001, float("nan"), float("inf")])
def test_a_keep_ratio_out_of_range_is_refused(keep_ratio):
    with pytest.raises(ConfigError, match=r"keep_ratio .*\(0, 1\]"):
        TopK(keep_ratio)
