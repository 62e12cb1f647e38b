"""Tokens: they come back from their line, and anything else is refused without being quoted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import IdentityError
from cutlayer.net.identity.credentials import (
    SERVER_NAME,
    hash_secret,
    new_token,
    read_token,
)
from cutlayer.net.wire.link import device_name

AUTHORITY = bytes(range(32))


def test_a_token_comes_back_from_its_line() -> None:
    token = new_token("pi-1", AUTHORITY)
    assert read_token(f" {token.text()}\n") == token
    assert token.authority == AUTHORITY
    assert new_token("pi-1", AUTHORITY).secret != token.secret


def test_its_secret_is_not_shown() -> None:
    token = new_token("pi", AUTHORITY)
    assert token.secret.hex() not in repr(token)
    assert repr(token.secret) not in repr(token)


@given(st.data())
def test_a_line_that_is_not_whole_is_refused_and_not_quoted(data: st.DataObject) -> None:
    line = new_token("pi", AUTHORITY).text()
    part = line[: data.draw(st.integers(0, len(line) - 1))]
    with pytest.raises(IdentityError) as raised:
        read_token(part)
    assert line.split(".")[2][:8] not in str(raised.value)


@pytest.mark.parametrize(
    "line",
    ["", "pi", "cutlayer1.pi.!.!", "cutlayer2.pi.AA.AA", "cutlayer1.PI.AA.AA", "cutlayer1.pi.é.AA"],
)
def test_no_token(line: str) -> None:
    with pytest.raises(IdentityError):
        read_token(line)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=40))
def test_a_hash_tells_one_secret_from_others(secret: bytes, other: bytes) -> None:
    kept = hash_secret(secret)
    assert kept.matches(secret)
    assert kept.matches(other) == (other == secret)
    assert kept != hash_secret(secret)  # salted


@pytest.mark.parametrize("name", ["a", "7", "pi-1", "a" * 63])
def test_a_name(name: str) -> None:
    assert device_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "-a", "a-", "a" * 64, "Pi", "a b", "a.b", "a\n", "../x", "é", SERVER_NAME],
)
def test_no_name(name: str) -> None:
    with pytest.raises(IdentityError, match="no name for a device"):
        device_name(name)
