"""The presets on a device: what crosses to the host, and that either end may be anywhere.

The processor serves as the device; `Customs` counts what would cross if it were another.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from codec.ends import correlated, cosine
from torch.overrides import TorchFunctionMode

from cutlayer.codec import presets
from cutlayer.codec.codec import EMPTY
from cutlayer.codec.dead_zone import DeadZone
from cutlayer.codec.memories import Delta
from cutlayer.codec.pipeline import LearnedBasis
from cutlayer.codec.quantisers import RelativeStep
from cutlayer.codec.staged import StagedCodec
from cutlayer.errors import PacketError
from cutlayer.training.torch_codec import TensorCodec, for_device, on_device

CPU = torch.device("cpu")
SHAPE = (8, 33, 64)
# every way from a tensor to the host that torch has
WAYS = {"cpu", "numpy", "tolist", "item", "__array__", "__float__", "__int__", "__bool__"}
BEST_DOWN = replace(presets.best().down, transform=LearnedBasis(coarseness=2.0, warm_up=1))
STAGED = {
    "paper": presets.paper().up,
    "paper-rans": presets.paper_rans().up,
    "best up": presets.best().up,
    "best down": BEST_DOWN,
    "fast": presets.fast().up,
}
each_codec = pytest.mark.parametrize("codec", STAGED.values(), ids=STAGED.keys())


class Customs(TorchFunctionMode):
    """Counts the bytes [B] of tensors that are moved by `cpu` or to a device, and refuses all other
    ways to the host."""

    def __init__(self):
        super().__init__()
        self.to_host = self.to_device = 0
        self.landed = []

    def __torch_function__(self, function, types, arguments=(), named=None):
        result = function(*arguments, **(named or {}))
        name = getattr(function, "__name__", "")
        tensor = arguments[0] if arguments else None
        if name == "cpu":
            self.to_host += tensor.nbytes
            # on the processor it is the same tensor
            result = result.clone()
            self.landed.append(result)
        elif name == "to" and arguments[1:] == (CPU,):
            self.to_device += tensor.nbytes
        elif name in WAYS:
            assert any(tensor is each for each in self.landed), f"{name} crosses by itself"
        return result


class Ends:
    """Sender and receiver, each on the device or on the host."""

    def __init__(self, codec, *, sender, receiver):
        host = TensorCodec(codec, CPU, stays=False)
        device = on_device(codec, CPU)
        self.ends = [device if there else host for there in (sender, receiver)]
        self.states = [EMPTY, EMPTY]
        self.rng = np.random.default_rng(5)

    def send(self, tensor, lengths=None):
        encoder, decoder = self.ends
        encoded = encoder.encode(tensor, self.states[0], self.rng, lengths=lengths)
        arrived = decoder.decode(encoded.packet, tuple(tensor.shape), self.states[1])
        self.states = [encoded.state, arrived.state]
        return encoded.packet, arrived


def tensors(count=6):
    return [torch.from_numpy(correlated(SHAPE, n, mean=0.3)) for n in range(count)]


@pytest.mark.parametrize("lengths", [None, (33, 5, 0, 33, 20, 1, 33, 8)])
@pytest.mark.parametrize("name", ["paper", "paper-rans", "fast"])
def test_without_sums_the_bytes_and_tensors_are_those_of_the_host(name, lengths):
    here, there = (Ends(STAGED[name], sender=device, receiver=device) for device in (False, True))
    for tensor in tensors(3):
        (packet, arrived), (same, alike) = here.send(tensor, lengths), there.send(tensor, lengths)
        assert packet == same
        assert torch.equal(arrived.tensor, alike.tensor)
        assert arrived.lengths == alike.lengths


@each_codec
def test_either_end_may_be_on_a_device(codec):
    """One stream to a receiver on the host and to one on a device."""
    here, there = (Ends(codec, sender=True, receiver=device) for device in (False, True))
    for tensor in tensors():
        (packet, arrived), (same, alike) = here.send(tensor), there.send(tensor)
        assert packet == same
        # a decoded value is a sum of 64 products at most: in float32 any two orders of summation
        # differ by 2 x 64 x 2^-24 of the sum of magnitudes, which by Cauchy-Schwarz is at most the
        # norm of the row's coefficients, thus of the decoded row less the mean
        bound = 2 * 64 * 2.0**-24 * float((arrived.tensor - 0.3).norm(dim=-1).max() + 1)
        assert float((arrived.tensor - alike.tensor).abs().max()) <= bound


@pytest.mark.parametrize("name", ["best up", "best down"])
def test_with_sums_the_stream_is_as_good_as_the_hosts(name):
    """Steps and bases differ in their last bits, so single symbols may; sizes and angles do not."""
    here, there = (Ends(STAGED[name], sender=device, receiver=False) for device in (False, True))
    for tensor in tensors():
        (packet, arrived), (other, alike) = here.send(tensor), there.send(tensor)
        angles = [cosine(tensor.numpy(), each.tensor.numpy()) for each in (arrived, alike)]
        # a symbol that falls to its neighbour is one in thousands of a packet
        assert len(packet) == pytest.approx(len(other), rel=0.01, abs=4)
        assert angles[0] == pytest.approx(angles[1], abs=1e-3)
    assert set(here.states[0]) == set(there.states[0])
    assert "basis" in there.states[0]


@each_codec
def test_only_symbols_and_small_statistics_cross(codec):
    """At most a byte a value each way beside the sides: 4 bytes a token, a sample, a column."""
    ends = Ends(codec, sender=True, receiver=True)
    *before, last = tensors(7)
    for tensor in before:
        ends.send(tensor)
    with Customs() as customs:
        ends.send(last)
    batch, token, width = SHAPE
    # a token's scale; a sample's extremes, points, and places; a column's energy, and whether alive
    sides = 4 * batch * token + 64 * batch + 8 * width + 64
    drawn = 8 * min(512, batch * token)
    assert 0 < customs.to_host <= last.numel() + sides
    assert customs.to_device <= last.numel() + sides + drawn


def test_a_basis_that_is_tried_costs_its_moments_and_no_tensor():
    codec = StagedCodec(
        DeadZone(RelativeStep(0.5)), presets.best().up.entropy, True, LearnedBasis(warm_up=4)
    )
    ends = Ends(codec, sender=True, receiver=False)
    first, second = tensors(2)
    ends.send(first)
    with Customs() as customs:
        ends.send(second)
    assert "basis" in ends.states[0]
    width = SHAPE[2]
    # the moments and twice the sum in float64; the packet's symbols and twice those of the trial;
    # the columns' energies and which are alive, of this packet and of 11 attempts in the trial
    moments, symbols = 8 * width * (width + 2), 3 * second.numel()
    assert customs.to_host <= moments + symbols + 12 * (5 * width + 64)


def test_a_state_of_the_host_goes_on_on_the_device():
    ends = Ends(BEST_DOWN, sender=False, receiver=False)
    for tensor in tensors(4):
        ends.send(tensor)
    ends.ends = [on_device(BEST_DOWN, CPU)] * 2
    _, arrived = ends.send(tensors(5)[-1])
    assert isinstance(arrived.state["basis"], torch.Tensor)
    assert torch.isfinite(arrived.tensor).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_with_their_place(value):
    tensor = torch.zeros(2, 3, 4)
    tensor[1, 2, 3] = value
    with pytest.raises(PacketError, match=r"1 of 24 values .* sample 1, token 2, column 3"):
        on_device(presets.fast().up, CPU).encode(tensor, EMPTY, np.random.default_rng(0))


def test_the_device_decides_where_a_codec_works():
    cuda = torch.device("cuda")
    assert for_device(presets.fast().up, cuda).stays
    assert not for_device(presets.fast().up, CPU).stays
    # float32 as it is has nothing to leave behind
    assert not for_device(presets.none().up, cuda).stays
    assert not for_device(Delta(presets.fast().up), cuda).stays


def test_none_gives_back_every_bit():
    codec = for_device(presets.none().up, CPU)
    tensor = tensors(1)[0].requires_grad_()
    encoded = codec.encode(tensor, EMPTY, np.random.default_rng(0))
    assert torch.equal(codec.decode(encoded.packet, SHAPE, EMPTY).tensor, tensor)
