"""Side information in as few bits as its skew allows: a range coder of bits that learns as it goes.

Each bit is coded in a context, a pair of counts [zeros, ones] that both ends update alike, with
P(one) = (ones + 1/2) / (zeros + ones + 1) (Krichevsky-Trofimov). In plain Python: meant for a few
hundred bits; a loop in C takes a writer or a reader as it stands and leaves it as it would be.
All arithmetic is on integers.

Source: Martin, "Range encoding" (1979), with LZMA's carry.
"""

_TOP = 1 << 32
_LOW = 1 << 24
# beyond it the counts are halved, so that a total fits the range many times
_MOST = 1 << 12
# numbers have fewer bits
_LONGEST = 30

Context = list[int]


def contexts(count: int) -> list[Context]:
    """`count` contexts that have seen nothing."""
    return [[0, 0] for _ in range(count)]


def _split(whole: int, context: Context) -> int:
    """The zeros' part of a range."""
    zeros, ones = context
    return whole * (2 * zeros + 1) // (2 * (zeros + ones) + 2)


def _update(context: Context, bit: int) -> None:
    """Count a bit that was coded."""
    zeros, ones = context
    context[bit] += 1
    if context[bit] > _MOST:
        context[:] = zeros >> 1, ones >> 1


class BitWriter:
    """Takes bits in contexts; `to_bytes` ends the code. `low` and `range`: of the interval that all
    bits so far have left, beyond the bytes in `code`, into which a carry may still run."""

    def __init__(self) -> None:
        self.low = 0
        self.range = _TOP
        self.code = bytearray()

    def put(self, bits: list[tuple[int, Context]]) -> None:
        """Bits, 0 or 1, each with its context."""
        for bit, context in bits:
            bound = _split(self.range, context)
            if bit:
                self.low += bound
                self.range -= bound
            else:
                self.range = bound
            _update(context, bit)
            while self.range < _LOW:
                self._shift()

    def _shift(self) -> None:
        if self.low >= _TOP:
            self.low -= _TOP
            self.carry()
        self.code.append(self.low >> 24)
        self.low = (self.low << 8) & (_TOP - 1)
        self.range <<= 8

    def carry(self) -> None:
        """One more in the last byte."""
        place = len(self.code) - 1
        while self.code[place] == 255:
            self.code[place] = 0
            place -= 1
        self.code[place] += 1

    def to_bytes(self) -> bytes:
        """The shortest code of all bits so far: zeros at its end are left out."""
        value, end = self.low, self.low + self.range
        for zeros in (32, 24, 16, 8):
            rounded = -(-self.low >> zeros) << zeros
            if rounded < end:
                value = rounded
                break
        self.low, self.range = value, 0
        for _ in range(4):
            self._shift()
        code = bytes(self.code).rstrip(b"\0")
        self.low = self.range = 0
        return code


class BitReader:
    """`BitWriter` undone, as far as it is asked: zeros follow the last byte. `value`: where
    the code is within the interval, by the bytes before `next`."""

    def __init__(self, code: bytes) -> None:
        self.code = code
        self.next = 4
        self.range = _TOP
        self.value = int.from_bytes(code[:4].ljust(4, b"\0"), "big")

    def ones(self, contexts: list[Context]) -> int:
        """How many bits are 1 before the first that is 0, at most one for each context."""
        for count, context in enumerate(contexts):
            bound = _split(self.range, context)
            bit = int(self.value >= bound)
            if bit:
                self.value -= bound
                self.range -= bound
            else:
                self.range = bound
            _update(context, bit)
            while self.range < _LOW:
                self._shift()
            if not bit:
                return count
        return len(contexts)

    def _shift(self) -> None:
        octet = self.code[self.next] if self.next < len(self.code) else 0
        self.value = self.value << 8 | octet
        self.range <<= 8
        self.next += 1

    @property
    def left(self) -> int:
        """How many bytes were not read."""
        return max(len(self.code) - self.next, 0)


class Number:
    """Contexts for integers of one kind: small ones in unary, each step with a context of its own,
    larger ones by the length of the rest, then its bits."""

    def __init__(self, unary: int) -> None:
        self._unary = contexts(unary)
        self._length = contexts(_LONGEST)
        self._rest, self._sign = contexts(2)

    def put(self, value: int, writer: BitWriter) -> None:
        """`value` in 0..2^30."""
        writer.put(self._bits(value))

    def put_signed(self, value: int, writer: BitWriter) -> None:
        """Any integer of such a magnitude: magnitude, then sign."""
        bits = self._bits(abs(value))
        writer.put([*bits, (int(value < 0), self._sign)] if value else bits)

    def _bits(self, value: int) -> list[tuple[int, Context]]:
        steps = len(self._unary)
        if value < steps:
            ones = [(1, context) for context in self._unary[:value]]
            return [*ones, (0, self._unary[value])]
        rest = value - steps + 1
        length = rest.bit_length() - 1
        bits = [(1, context) for context in (*self._unary, *self._length[:length])]
        bits += [(0, context) for context in self._length[length : length + 1]]
        return bits + [(rest >> place & 1, self._rest) for place in reversed(range(length))]

    def get(self, reader: BitReader) -> int:
        """`put` undone."""
        steps = len(self._unary)
        value = reader.ones(self._unary)
        if value < steps:
            return value
        rest = 1
        for _ in range(reader.ones(self._length)):
            rest = rest << 1 | reader.ones([self._rest])
        return rest - 1 + steps

    def get_signed(self, reader: BitReader) -> int:
        """`put_signed` undone."""
        magnitude = self.get(reader)
        return -magnitude if magnitude and reader.ones([self._sign]) else magnitude
