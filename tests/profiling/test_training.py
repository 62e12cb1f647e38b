"""Training runs from one start: comparable, repeatable, with the bits of their packets."""

import pytest
import tiny

from cutlayer.codec.codec import CodecPair
from cutlayer.codec.presets import fast, none, paper
from cutlayer.errors import ConfigError
from cutlayer.profiling.grid import ShadowCodec
from cutlayer.profiling.measure import JobStart, train_through
from reproduction.training import accuracy_of, configuration_of, job_starts


@pytest.fixture(scope="module")
def pair_of_starts(tmp_path_factory: pytest.TempPathFactory) -> list[JobStart]:
    """Two seeds of a tiny job."""
    root = tmp_path_factory.mktemp("job")
    settings = {
        "model.name": str(tiny.vision_model(root / "model")),
        "model.cut": 2,
        "data.name": str(tiny.images(root / "images")),
        "data.image_size": 28,
        "data.train_samples": 40,
        "data.test_samples": 16,
        "devices.count": 2,
        "devices.memory_mib": None,
        "partition.name": "iid",
        "training.rounds": 2,
        "training.local_steps": 2,
        "training.batch_size": 4,
    }
    return list(job_starts(configuration_of(settings), [0, 1]))


def test_seeds_differ_in_all_but_the_test_samples(pair_of_starts: list[JobStart]) -> None:
    first, second = pair_of_starts
    assert second.setup.server.test is first.setup.server.test
    assert not second.state.device.row.equal(first.state.device.row)
    orders = [start.setup.devices[0].plan.indices(0).tolist() for start in pair_of_starts]
    assert orders[0] != orders[1]


def test_a_start_can_be_used_again(pair_of_starts: list[JobStart]) -> None:
    start = pair_of_starts[0]
    before = accuracy_of(start)
    one, between, again = (train_through(start, codecs) for codecs in (paper(), none(), paper()))
    assert (one.loss, one.bits_up, one.bits_down) == (again.loss, again.bits_up, again.bits_down)
    assert between.loss != one.loss
    assert accuracy_of(start) == before


def test_bits_are_those_of_packets(pair_of_starts: list[JobStart]) -> None:
    start = pair_of_starts[0]
    plain = train_through(start, none())
    assert (plain.bits_up, plain.bits_down) == (32.0, 32.0)
    # four samples, (28 / 14)^2 patches and a class token, 24 wide; neither codec's length depends
    # on the values
    shape = (4, 5, 24)
    packets = fast().up.expected_bytes(shape), none().up.expected_bytes(shape)
    expected = 32 * packets[0] / packets[1]
    assert train_through(start, fast()).bits_up == pytest.approx(expected, rel=1e-12)


def test_what_another_codec_would_send_is_what_it_sends(pair_of_starts: list[JobStart]) -> None:
    """With `none` beside itself, what is trained does not depend on the codec."""
    start = pair_of_starts[0]
    beside = train_through(start, CodecPair(ShadowCodec(none().up, none().up), none().down))
    assert beside.bits_up_other == beside.bits_up == 32.0
    assert beside.loss == train_through(start, none()).loss


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(ConfigError, match=r"training\.rounds"):
        configuration_of({"training.rounds": 0})
    assert configuration_of({"data.name": "2024"}).data.name == "2024"


def test_rounds_on_the_way_are_evaluated_and_change_nothing(
    pair_of_starts: list[JobStart],
) -> None:
    start = pair_of_starts[0]
    plain = train_through(start, none())
    seen = train_through(start, none(), every=1)
    assert plain.curve == {}
    assert sorted(seen.curve) == list(range(1, start.rounds + 1))
    assert seen.curve[start.rounds] == seen.accuracy == plain.accuracy
    assert seen.loss == plain.loss
