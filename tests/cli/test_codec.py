"""`cutlayer codec` as a user types it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import plugin
import pytest
import tiny
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from cutlayer.cli.main import main
from cutlayer.codec import adapters
from cutlayer.codec.codec import EMPTY
from cutlayer.codec.packet import read_packet
from cutlayer.codec.presets import PRESETS, codec_pair

SHAPE = (4, 6, 16)


@pytest.fixture
def tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The values of `x.npy` in the current directory."""
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).laplace(size=SHAPE).astype(np.float32)
    np.save("x.npy", values)
    return values


def mistake(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the command says to a mistake."""
    assert main(["codec", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("cutlayer: "), lines
    return lines[0]


@pytest.mark.parametrize("name", PRESETS)
def test_a_round_trip_writes_the_packet_that_it_tells_of(
    name: str, tensor: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["codec", "roundtrip", "x.npy", "--codec", name, "--output", "x.packet"]) == 0
    packet = Path("x.packet").read_bytes()
    (row,) = [line.split() for line in capsys.readouterr().out.splitlines() if " x " in line]
    assert row[:7] == ["x", "4", "x", "6", "x", "16", str(len(packet))]
    assert row[7] == f"{8 * len(packet) / tensor.size:.3f}"
    decoded = codec_pair(name).up.decode(packet, SHAPE, EMPTY).tensor
    error = np.linalg.norm(decoded - tensor) / np.linalg.norm(tensor)
    # four digits are printed
    assert float(row[-2]) == pytest.approx(error, rel=1e-3, abs=1e-9)


def test_both_directions_and_several_packets(
    tensor: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["codec", "roundtrip", "x.npy", "--codec", "best", "--packets", "8"]
    assert main([*words, "--output", "up.packet"]) == 0
    assert main([*words, "--direction", "down", "--output", "down.packet"]) == 0
    capsys.readouterr()
    up, down = (read_packet(Path(f"{name}.packet").read_bytes()) for name in ("up", "down"))
    assert up.sections["stages"] != down.sections["stages"]
    # up has a mean; gradients have none, and noise has no basis that would repay its bytes
    assert "basis id" in up.sections and "basis id" not in down.sections


@pytest.mark.parametrize("name", PRESETS)
def test_inspect_adds_up(name: str, tensor: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    main(["codec", "roundtrip", "x.npy", "--codec", name, "--output", "x.packet"])
    capsys.readouterr()
    assert main(["codec", "inspect", "x.packet"]) == 0
    head, _, sections = capsys.readouterr().out.partition("sections  bytes\n")
    size = Path("x.packet").stat().st_size
    assert f"bytes     {size}, {8 * size / tensor.size:.3f} bits an element" in head
    assert "float32, 4 x 6 x 16" in head
    assert "checksum right" in head
    assert "decodes   yes" in head
    rows = [line.split() for line in sections.splitlines()]
    assert sum(int(row[-3]) for row in rows) == size
    assert {" ".join(row[:-3]) for row in rows} == {
        *read_packet(Path("x.packet").read_bytes()).sections,
        "frame",
    }


def test_a_change_of_an_adapter_is_inspected(
    tensor: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    change = np.linspace(-1, 1, 192, dtype=np.float32)
    Path("x.packet").write_bytes(adapters.best(1.0).encode(change, ((4, 24), (24, 4))))
    assert main(["codec", "inspect", "x.packet"]) == 0
    out = capsys.readouterr().out
    assert "kind      adapter" in out and "stages    DeadZone -> TwoWay" in out
    assert "decodes   with the shapes of its row's tensors" in out


def test_a_packet_of_a_learned_basis_is_told_from_a_damaged_one(
    tensor: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["codec", "roundtrip", "x.npy", "--codec", "best", "--packets", "8"]
    main([*words, "--output", "x.packet"])
    capsys.readouterr()
    assert main(["codec", "inspect", "x.packet"]) == 0
    assert "decodes   not by itself, codec best" in capsys.readouterr().out


def test_every_floating_point_tensor_of_a_safetensors_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    save_file(
        {
            "a/weight": rng.normal(size=(6, 8)).astype(np.float32),
            "half": rng.normal(size=(6, 8)).astype(np.float16),
            "ids": np.arange(5),
        },
        "m.safetensors",
    )
    words = ["codec", "roundtrip", "m.safetensors", "--codec", "none", "--output", "out"]
    assert main(words) == 0
    told = capsys.readouterr()
    assert "half: converted from float16 to float32" in told.err
    assert "ids: I64 of shape [5] left out" in told.err
    assert sorted(path.name for path in Path("out").iterdir()) == ["a_weight.packet", "half.packet"]


def test_bfloat16_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    values = torch.tensor([[1.0, -2.5], [0.0, 3e38]])
    save_torch({"b": values.bfloat16()}, "b.safetensors")
    words = ["codec", "roundtrip", "b.safetensors", "--codec", "none", "--output", "out"]
    assert main(words) == 0
    assert "b: converted from bfloat16" in capsys.readouterr().err
    packet = Path("out/b.packet").read_bytes()
    decoded = codec_pair("none").up.decode(packet, (2, 2), EMPTY).tensor
    np.testing.assert_array_equal(decoded, values.bfloat16().float().numpy())


class _Trap:
    """Would leave a file behind if it were unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("sprung"),)  # type: ignore[return-value]


BAD_ARRAYS = {
    "nan": (np.array([1.0, np.nan], dtype=np.float32), "finite"),
    "infinite": (np.array([1.0, -np.inf], dtype=np.float32), "finite"),
    "too large": (np.array([1.0, 1e300]), "finite"),
    "whole numbers": (np.arange(6), "int64 values"),
    "truth": (np.ones(4, dtype=bool), "bool values"),
    "complex": (np.ones(4, dtype=np.complex64), "complex64 values"),
    "text": (np.array(["a", "b"]), "<U1 values"),
    "empty": (np.zeros((3, 0), dtype=np.float32), "an empty array of shape (3, 0)"),
    "five dimensions": (np.zeros((1,) * 5, dtype=np.float32), "dimensions"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_an_array_that_no_codec_takes(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    array, message = BAD_ARRAYS[name]
    np.save("x.npy", array)
    assert main(["codec", "roundtrip", "x.npy", "--output", "x.packet"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("cutlayer: ") and message in last
    assert not Path("x.packet").exists()


def test_python_objects_are_never_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.array([_Trap()], dtype=object), allow_pickle=True)
    assert "never unpickled" in mistake(["roundtrip", "x.npy"], capsys)
    assert not Path("sprung").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("x.npy", b"not an array", "x.npy"),
        ("x.npy", b"", "x.npy"),
        ("x.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran", "x.npy: not a .npy file"),
        ("x.safetensors", b"\x08\0\0\0\0\0\0\0{}", "x.safetensors: not a .safetensors file"),
        ("x.safetensors", b"\x02\0\0\0\0\0\0\0{}", "no tensor of floating-point numbers"),
        ("x.txt", b"1 2 3", "a file .txt; give .npy, .safetensors"),
    ],
)
def test_a_file_that_is_no_tensor(
    file: str,
    content: bytes,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(file).write_bytes(content)
    assert message in mistake(["roundtrip", file], capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "bench, inspect, roundtrip"),
        (["inspct"], "inspct"),
        (["inspect"], "which file?"),
        (["roundtrip"], "which file?"),
        (["inspect", "nowhere"], "nowhere: No such file"),
        (["inspect", "x.npy"], "a packet starts with b'CUTL'"),
        (["roundtrip", "nowhere.npy"], "nowhere.npy: No such file"),
        (["roundtrip", "x.npy", "--codec", "bets"], "bets"),
        (["roundtrip", "x.npy", "--packets", "0"], "from 1 on"),
        (["roundtrip", "x.npy", "--output", "nowhere/x"], "nowhere/x: No such file"),
        (["roundtrip", "x.npy", "--outptu", "x"], "unknown argument --outptu"),
        (["bench", "--data.image-size", "-3"], "data.image_size"),
        (["bench", "--packets", "many"], "from 1 on"),
    ],
)
def test_a_mistake_gets_one_line(
    words: list[str], message: str, tensor: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in mistake(words, capsys)


def test_a_damaged_packet_is_told(tensor: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    main(["codec", "roundtrip", "x.npy", "--output", "x.packet"])
    packet = bytearray(Path("x.packet").read_bytes())
    packet[40] ^= 1
    Path("x.packet").write_bytes(packet)
    capsys.readouterr()
    assert "wrong checksum" in mistake(["inspect", "x.packet"], capsys)


def test_bench_has_every_preset_in_both_directions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, data = tiny.vision_model(tmp_path / "model"), tiny.images(tmp_path / "images")
    words = ["--model", str(model), "--model.cut", "2", "--data", str(data)]
    sizes = ["--data.image-size", "28", "--training.batch-size", "4", "--threads", "1"]
    assert main(["codec", "bench", *words, *sizes, "--packets", "3", "--warm-steps", "1"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    starts = [row[0] for row in rows if len(row) > 5]
    assert [name for name in PRESETS if name in starts] == list(PRESETS)
    gradients = [row for row in rows if row[:1] == ["gradient"]]
    assert len(gradients) == len(PRESETS)
    (plain,) = [row for row in rows if row[:2] == ["none", "activation"]]
    # lossless: no error, the same gradient
    assert [float(cell) for cell in plain[-3:]] == [0.0, 1.0, 1.0]


def test_bench_has_another_packages_codec_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin.install(monkeypatch, tmp_path / "site")
    model, data = tiny.vision_model(tmp_path / "model"), tiny.images(tmp_path / "images")
    words = ["--model", str(model), "--model.cut", "2", "--data", str(data), "--threads", "1"]
    words += ["--data.image-size", "28", "--training.batch-size", "4", "--packets", "1"]
    own = ["--codec.name", "truncated", "--codec.options", "{kept: 3}"]
    assert main(["codec", "bench", *words, *own, "--warm-steps", "1"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    (row,) = [row for row in rows if row[:2] == ["truncated", "activation"]]
    # three bytes a value, and what surrounds them
    assert 24 < float(row[2]) < 26
    own[-1] = "{kept: 9}"
    assert main(["codec", "bench", *words, *own]) == 2
    assert "truncated: kept 9: 2 or 3 of" in capsys.readouterr().err


def test_packets_are_inspected_without_torch() -> None:
    """Which takes seconds to import, and need not be installed."""
    code = "import sys, cutlayer.cli.codec; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
