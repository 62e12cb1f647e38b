"""Traces from text: what each form means, and errors that name file and line."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.channel.traces import csv_trace, mahimahi_trace, read_trace
from cutlayer.errors import ConfigError

HEADING = "time_s,rate_bit_per_s\n"


def test_csv_by_hand() -> None:
    trace = csv_trace(HEADING + "100,5e6\n100.5, 0\n\n102,1000\n", "t.csv")
    # from the first time; the last rate holds for 1.5 s, as the one before it
    assert trace.edges_s.tolist() == [0.0, 0.5, 2.0, 3.5]
    assert trace.rate_bit_per_s.tolist() == [5e6, 0.0, 1000.0]


def test_a_single_line_is_a_constant_rate() -> None:
    trace = csv_trace(HEADING + "0,42\r\n", "t.csv")
    assert trace.mean_bit_per_s(17.0, 3.0) == pytest.approx(42.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.csv: line 1 must be time_s,rate_bit_per_s, not an empty file"),
        ("0,1\n", "t.csv: line 1 must be time_s,rate_bit_per_s, not '0,1'"),
        ("rate_bit_per_s,time_s\n0,1\n", "line 1 must be"),
        (HEADING, "no line follows the heading"),
        (HEADING + "0,1\n0,2\n", "line 3: the time 0 s does not follow 0 s"),
        (HEADING + "5,1\n\n4,2\n", "line 4: the time 4 s does not follow 5 s"),
        (HEADING + "0,-1\n", "line 2: a rate must be at least 0, not -1 bit/s"),
        (HEADING + "0,nan\n", "line 2: nan is not a finite number"),
        (HEADING + "inf,1\n", "line 2: inf is not a finite number"),
        (HEADING + "0,fast\n", "line 2: 'fast' is not a number"),
        (HEADING + "0,\n", "line 2: '' is not a number"),
        (HEADING + "0\n", "line 2 has 1 values, not the 2"),
        (HEADING + "0,1,2\n", "line 2 has 3 values, not the 2"),
        (HEADING + "0,0\n1,0\n", "t.csv: a trace whose rate is always 0"),
        # so near together that their difference is nothing beside 1e300
        (HEADING + "-1e300,1\n1e-300,1\n1,1\n", "t.csv: a trace's edges must"),
    ],
)
def test_csv_that_is_no_trace(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        csv_trace(text, "t.csv")


def test_mahimahi_by_hand() -> None:
    # two packets in the first second, none in the second, three in the third: 12,000 bits each;
    # one at 1000 ms ends the first second
    trace = mahimahi_trace("7\n1000\n2001\n2001\n3000\n", "m")
    assert trace.edges_s.tolist() == [0.0, 1.0, 2.0, 3.0]
    assert trace.rate_bit_per_s.tolist() == [24_000.0, 0.0, 36_000.0]


def test_mahimahi_of_one_line_is_12_mbit_per_s() -> None:
    """The manual's example: `1` is a packet each millisecond, 1500 * 8 bits in 1e-3 s."""
    trace = mahimahi_trace("1\n", "m")
    assert trace.length_s == 0.001
    assert trace.mean_bit_per_s(3.7, 1.0) == pytest.approx(12e6, rel=1e-9)


def test_mahimahi_bins_divide_the_whole() -> None:
    # 2.4 s in 2 bins of 1.2 s; of a bin of 0.5 s, 5 of 0.48 s
    text = "0\n1200\n1201\n2400\n"
    assert mahimahi_trace(text, "m").rate_bit_per_s == pytest.approx([20_000.0, 20_000.0])
    assert mahimahi_trace(text, "m", bin_s=0.5).edges_s == pytest.approx(0.48 * np.arange(6))
    # and never under a millisecond
    assert len(mahimahi_trace("0\n3\n", "m", bin_s=1e-9).rate_bit_per_s) == 3


@given(
    st.lists(st.integers(0, 100_000), min_size=1, max_size=60).filter(lambda ms: max(ms) > 0),
    st.floats(0.001, 200),
)
def test_mahimahi_loses_no_packet(times_ms: list[int], bin_s: float) -> None:
    text = "\n".join(str(ms) for ms in sorted(times_ms))
    trace = mahimahi_trace(text, "m", bin_s)
    bits = float(np.diff(trace.edges_s) @ trace.rate_bit_per_s)
    # quotients and products of up to 100,000 bins
    assert bits == pytest.approx(12_000 * len(times_ms), rel=1e-9)
    assert trace.length_s == pytest.approx(max(times_ms) / 1000, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "m holds no packet times"),
        ("\n \n", "m holds no packet times"),
        ("1\n5\n4\n", "m: line 3: 4 ms comes after 5 ms: sort the file"),
        ("1\n-2\n", "m: line 2: '-2' is not a whole number of milliseconds"),
        ("1\n2.5\n", r"line 2: '2\.5' is not a whole number"),
        ("1\nnan\n", "line 2: 'nan' is not a whole number"),
        ("1\n1_0\n", "line 2: '1_0' is not a whole number"),
        ("1\n٣\n", "line 2: '٣' is not a whole number"),
        ("1 2\n", "line 1: '1 2' is not a whole number"),
        ("0\n0\n", "ends at 0 ms: a packet schedule must last from 1 ms to a day"),
        ("1\n86400001\n", "must last from 1 ms to a day"),
        ("1\n" + "9" * 5000 + "\n", "is not a whole number"),
    ],
)
def test_mahimahi_that_is_no_schedule(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mahimahi_trace(text, "m")


@pytest.mark.parametrize("bin_s", [0.0, -1.0, float("nan"), float("inf")])
def test_bins_that_cannot_be(bin_s: float) -> None:
    with pytest.raises(ConfigError, match="bin of a trace must be positive"):
        mahimahi_trace("1\n", "m", bin_s)


def test_a_file_tells_its_form(tmp_path: Path) -> None:
    table, schedule = tmp_path / "a.csv", tmp_path / "b"
    table.write_bytes(b"\xef\xbb\xbf" + (HEADING + "0,12e6\n").encode())
    schedule.write_text("1\n")
    for path in (table, schedule):
        assert read_trace(path).mean_bit_per_s(0.0, 1.0) == pytest.approx(12e6)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the trace .*none\.csv: No such file"):
        read_trace(tmp_path / "none.csv")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not text in UTF-8"):
        read_trace(tmp_path / "bytes")
    (tmp_path / "empty").write_text(" \n")
    with pytest.raises(ConfigError, match="is empty"):
        read_trace(tmp_path / "empty")
    (tmp_path / "prose").write_text("some words\n")
    with pytest.raises(ConfigError, match="line 1 must be time_s,rate_bit_per_s, not 'some words'"):
        read_trace(tmp_path / "prose")
