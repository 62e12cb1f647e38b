"""The cache of coded activations: what is held, what is put out, and what a kill leaves."""

import contextlib
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cutlayer.codec.codec import EMPTY, CodecState
from cutlayer.codec.presets import best
from cutlayer.codec.quantisers import TargetBits
from cutlayer.codec.raw import RawCodec, Targets, decode_targets, encode_targets
from cutlayer.errors import RunError
from cutlayer.training.activation_cache import ActivationCache, Coded
from cutlayer.training.server_batch import Served, in_order, joined
from cutlayer.training.state import CacheLimits
from cutlayer.training.torch_codec import for_device

CLASSES, TOKENS, WIDTH = 10, 6, 24
HOST = torch.device("cpu")
ROOM = CacheLimits(10**9, 10**9)
RAW = RawCodec()


def _decode(coded: Coded) -> Served:
    decoded = for_device(RAW, HOST).decode(coded.packet, coded.shape, coded.receiver)
    shape = coded.shape[:2] if coded.device == 9 else coded.shape[:1]
    return Served(
        decoded.tensor,
        decoded.lengths,
        decode_targets(coded.labels, shape, decoded.lengths, CLASSES),
    )


def _coded(device: int, samples: tuple[int, ...], step: int = 0, seed: int = 0) -> Coded:
    """Activations that say whose they are: sample n of a device is filled with draws of its own."""
    tensors = [
        np.random.default_rng([seed, device, sample]).standard_normal((TOKENS, WIDTH))
        for sample in samples
    ]
    tensor = np.stack(tensors).astype(np.float32)
    packet = RAW.encode(tensor, EMPTY, np.random.default_rng(0)).packet
    labels = np.array(samples, np.int64) % CLASSES
    payload = encode_targets(Targets(labels), None, CLASSES)
    shape = (len(samples), TOKENS, WIDTH)
    return Coded(device, (step, 0), samples, shape, packet, payload)


def _add(cache: ActivationCache, coded: Coded) -> Served:
    rows = _decode(coded)
    cache.add(coded, rows)
    return rows


def _open(path: Path | None, limits: CacheLimits = ROOM) -> ActivationCache:
    return ActivationCache(path, limits, _decode)


@pytest.mark.parametrize("memory_bytes", [0, 10**9])
def test_samples_come_back_in_any_order_from_whichever_packets_held_them(
    memory_bytes: int,
) -> None:
    """To the bit, decoded from the packet or remembered."""
    cache = _open(None, replace(ROOM, memory_bytes=memory_bytes))
    cache.begin_round(1)
    first, second = _add(cache, _coded(0, (3, 1, 4))), _add(cache, _coded(0, (5, 9), step=1))
    cache.hit(3)
    found = cache.serve(0, (9, 3, 4), None)
    expected = torch.stack([second.tensor[1], first.tensor[0], first.tensor[2]])
    assert torch.equal(found.tensor, expected)
    assert found.targets.labels.tolist() == [9, 3, 4]
    assert found.lengths == (TOKENS,) * 3
    assert cache.missing(0, (9, 2, 3)) == (2,)
    assert cache.missing(1, (9, 3)) == (9, 3), "another device's samples are others"
    figures = cache.close_round()
    assert (figures.hits, figures.misses, figures.evicted, figures.samples) == (3, 5, 0, 5)


def test_rows_of_texts_lose_the_padding_that_others_needed() -> None:
    """Labels are -100 and activations zero where a longer sample pads a shorter one."""
    tensor = np.random.default_rng(0).standard_normal((2, TOKENS, WIDTH)).astype(np.float32)
    lengths, labels = (2, TOKENS), np.full((2, TOKENS), -100)
    labels[0, :2], labels[1] = 1, 2
    state: CodecState = EMPTY
    packet = RAW.encode(tensor, state, np.random.default_rng(0), lengths=lengths).packet
    payload = encode_targets(Targets(labels, ((2,), (4, 2))), lengths, CLASSES)
    coded = Coded(9, (0, 0), (7, 8), (2, TOKENS, WIDTH), packet, payload)
    cache = _open(None)
    cache.begin_round(1)
    _add(cache, coded)
    short = cache.rows(9, (7,))
    assert short.tensor.shape == (1, 2, WIDTH)
    assert torch.equal(short.tensor[0], torch.from_numpy(tensor[0, :2]))
    both = cache.rows(9, (8, 7))
    assert both.lengths == (TOKENS, 2)
    assert both.targets.labels.tolist() == labels[::-1].tolist()
    assert both.targets.documents == ((4, 2), (2,))
    assert not both.tensor[1, 2:].any()
    again = in_order(both, (1, 0))
    assert again.lengths == (2, TOKENS)
    assert torch.equal(joined([again]).tensor, again.tensor)


def test_a_packet_is_read_with_what_its_stream_knew_before_it(tmp_path: Path) -> None:
    """The codec learns a mean and a basis: ten packets, few states, all read after a restart."""
    codec = best(TargetBits(1.0), TargetBits(1.0), 1 / 3, 10_000).up
    # a basis after few rows, so that the receiver's state changes within ten packets
    codec = replace(codec, transform=replace(codec.transform, warm_up=1))
    host = for_device(codec, HOST)

    def decode(coded: Coded) -> Served:
        decoded = host.decode(coded.packet, coded.shape, coded.receiver)
        targets = decode_targets(coded.labels, coded.shape[:1], None, CLASSES)
        return Served(decoded.tensor, decoded.lengths, targets)

    path, rng = tmp_path / "cache", np.random.default_rng(0)
    directions = rng.standard_normal((2, WIDTH))
    cache = ActivationCache(path, replace(ROOM, memory_bytes=0), decode)
    cache.begin_round(1)
    sender, receiver, sent = EMPTY, EMPTY, []
    for step in range(10):
        tensor = (rng.standard_normal((4, TOKENS, 2)) @ directions).astype(np.float32)
        encoded = host.encode(torch.from_numpy(tensor), sender, rng)
        shape = (4, TOKENS, WIDTH)
        decoded = host.decode(encoded.packet, shape, receiver)
        samples = tuple(range(4 * step, 4 * step + 4))
        labels = encode_targets(Targets(np.zeros(4, np.int64)), None, CLASSES)
        coded = Coded(0, (step, 0), samples, shape, encoded.packet, labels, receiver)
        cache.add(coded, Served(decoded.tensor, decoded.lengths, Targets(np.zeros(4, np.int64))))
        sent.append(decoded.tensor)
        sender, receiver = encoded.state, decoded.state
    cache.close_round()
    cache.close()
    with contextlib.closing(sqlite3.connect(path)) as file:
        (states,) = file.execute("select count(*) from receiver").fetchone()
    assert 2 <= states < 10
    cache = ActivationCache(path, ROOM, decode)
    assert torch.equal(cache.rows(0, tuple(range(40))).tensor, torch.cat(sent))


def test_a_round_that_begins_again_knows_nothing_of_what_came_in_it(tmp_path: Path) -> None:
    """A kill within a round, and one after the cache closed it and before its checkpoint."""
    cache = _open(tmp_path / "cache")
    cache.begin_round(1)
    kept = _add(cache, _coded(0, (0, 1)))
    cache.close_round()
    cache.begin_round(2)
    _add(cache, _coded(0, (2, 3)))
    cache.close()  # killed within round 2
    for _ in range(2):
        cache = _open(tmp_path / "cache")
        cache.begin_round(2)
        assert cache.missing(0, (0, 1, 2, 3)) == (2, 3)
        assert torch.equal(cache.rows(0, (0, 1)).tensor, kept.tensor)
        other = _add(cache, _coded(0, (2, 5), seed=1))
        assert torch.equal(cache.rows(0, (2,)).tensor, other.tensor[:1])
        cache.close_round()
        cache.close()  # killed before the checkpoint of round 2


def _sizes(cache: ActivationCache) -> int:
    return sum(own.held_bytes for own in cache.held())


def test_what_does_not_fit_is_put_out_as_the_round_closes_and_what_is_held_stays() -> None:
    """Room for three entries: of a round of five the first three by step and device stay, in
    whatever order they came, and later rounds change nothing."""
    probe = _open(None)
    probe.begin_round(1)
    _add(probe, _coded(0, (0, 1)))
    probe.close_round()
    one = _sizes(probe)
    came = [_coded(n, (2 * s, 2 * s + 1), s) for s in range(3) for n in range(2)][:5]
    held = []
    for order in (came, came[::-1]):
        cache = _open(None, CacheLimits(3 * one + one // 2, 10**9))
        cache.begin_round(1)
        for coded in order:
            _add(cache, coded)
        assert not cache.missing(0, (4, 5)), "within its round all is held"
        figures = cache.close_round()
        assert figures.evicted == 4
        assert figures.samples == 6
        assert figures.held_bytes <= 3 * one + one // 2
        held.append([(own.device, own.samples) for own in cache.held()])
        cache.begin_round(2)
        _add(cache, _coded(0, (4, 5)))
        assert cache.close_round().evicted == 2
        assert not cache.missing(0, (0, 1, 2, 3)), "what is held stays"
        assert not cache.missing(1, (0, 1))
    assert held == [[(0, 4), (1, 2)]] * 2


def test_the_file_stays_within_what_it_holds_and_forgets_bytes_too(tmp_path: Path) -> None:
    """A limit that a round exceeds ten times; then one device's samples leave no trace."""
    path = tmp_path / "cache"
    cache = _open(path, CacheLimits(100_000, 0))
    for number in range(1, 11):
        cache.begin_round(number)
        for n in range(2):
            _add(cache, _coded(n, tuple(range(20 * number, 20 * number + 20))))
        figures = cache.close_round()
        assert figures.held_bytes <= 100_000
    assert path.stat().st_mode & 0o077 == 0
    # the pages of the last round, which did not fit, are used again
    assert path.stat().st_size < 100_000 + 3 * 2 * 20 * 4 * TOKENS * WIDTH
    content = _coded(1, tuple(range(20, 40))).packet[-64:]
    assert content in path.read_bytes()
    assert cache.forget(1) > 0
    cache.close()
    assert content not in path.read_bytes()
    assert not path.with_name("cache-wal").exists() or not path.with_name("cache-wal").read_bytes()
    again = _open(path)
    assert [own.device for own in again.held()] == [0]


def test_two_processes_do_not_share_a_cache(tmp_path: Path) -> None:
    cache = _open(tmp_path / "cache")
    with pytest.raises(RunError, match="is in use: stop the run"):
        _open(tmp_path / "cache")
    cache.close()


def test_a_damaged_cache_says_what_to_do(tmp_path: Path) -> None:
    """Not one at all, and one whose packet has changed."""
    path = tmp_path / "cache"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(RunError, match="delete the file: devices send"):
        _open(path)
    path.unlink()
    cache = _open(path, replace(ROOM, memory_bytes=0))
    cache.begin_round(1)
    _add(cache, _coded(0, (0, 1)))
    cache.close_round()
    cache.close()
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.execute("update entry set packet = substr(packet, 1, 20)")
        file.commit()
    with pytest.raises(RunError, match=r"cached activations .* cannot be read"):
        _open(path).rows(0, (0,))
