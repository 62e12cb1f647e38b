"""Links over TLS 1.3: one connection as a link, and a device's way to open one.

Knows asyncio's transports and the certificates of devices; what is said over a link is the
caller's. Both ends show a certificate of the run's authority (mutual TLS); addresses and what the
other end says of itself count for nothing. In TLS each way is words of four bytes (little endian):

    the length of a frame, and the frame
    or a word that no length is: the server accepts the device, or does not and why; this end is
    there; this end is done

What is spoken is named in the handshake (ALPN), and the name has the version: who speaks another
one is told so. TLS authenticates every record, so that frames need no checksum here.
"""

import asyncio
import contextlib
import os
import ssl
import struct
import tempfile
from collections import deque
from collections.abc import Iterator
from enum import IntEnum
from typing import cast, final

from cryptography import x509

from cutlayer.errors import FrameError
from cutlayer.net.identity.credentials import SERVER_NAME, DeviceKeys
from cutlayer.net.identity.run_keys import RunKeys
from cutlayer.net.wire.frames import Buffers, Received, size_of
from cutlayer.net.wire.link import ConnectionLimits, Link, LinkClosed, address_of
from cutlayer.units import KIB, format_bytes

# what a connection is for, and in which version, by the names of the handshake (RFC 7301)
VERSION = 2
LINK, ENROL = f"cutlayer/{VERSION}", f"cutlayer-enrol/{VERSION}"
OTHER_VERSION = f"speaks no protocol of version {VERSION}; run the same version on both ends"
# the other end said so
CLOSED = "the other end closed the link"
_CUT = "the connection was cut"
_WORD = struct.Struct("<I")
_CONNECT_S = 20.0
_CLOSE_S = 5.0
# how long a connection that is refused, or has said all, may take to leave by itself
LEAVE_S = 0.5
# what is read at once, unless it belongs to one frame
SCRATCH_BYTES = 64 * KIB
# parts of a frame that are at least so long are written as they are, in pieces
_LARGE_BYTES = 64 * KIB
_PIECE_BYTES = 256 * KIB
# of frames that nobody received
INBOX_FRAMES = 2
# asyncio's TLS reads into 256 KiB, and stops reading with 256 KiB of records unread; it has 256 KiB
# more to write than a transport of TCP with its 64 KiB, and the piece that comes on top of each
TRANSPORT_BYTES = (256 + 2 * 256 + 2 * (256 + 64) + 2 * 256) * KIB


class Word(IntEnum):
    """What is no length of a frame."""

    ALIVE = 2**32 - 1
    END = 2**32 - 2
    ACCEPTED = 2**32 - 3
    NOT_VALID = 2**32 - 4
    TOO_OFTEN = 2**32 - 5


LARGEST_FRAME_BYTES = 2**32 - 17
_GREETINGS = (Word.ACCEPTED, Word.NOT_VALID, Word.TOO_OFTEN)
_REFUSALS = {
    Word.NOT_VALID: "the server does not accept this device's certificate; was it revoked?",
    Word.TOO_OFTEN: "the server was asked for too many links of this device in a row",
}


@final
class TlsLink(asyncio.BufferedProtocol, Link):
    """One connection as a link, once `begin` was called.

    A frame that is not received waits here, with one more behind it; then nothing is read, and TCP
    stops the sender. Cancelling `receive` loses nothing. Cancelling `send` may leave half a frame,
    so it ends the link. An end that has nothing to send says that it is there; one that hears
    nothing for twice `keepalive_s`, though it listens, takes the connection for cut.

    scratch: what is read into; links of one event loop may share it.
    lost: set when the connection has gone.
    """

    def __init__(self, limits: ConnectionLimits, scratch: memoryview | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        self._keepalive_s = limits.keepalive_s
        self._scratch = memoryview(bytearray(SCRATCH_BYTES)) if scratch is None else scratch
        self._transport: asyncio.Transport
        self._peer = ""
        self._largest = 0
        # a frame that has begun, and how much of it is there; of a word, what is there
        self._frame: memoryview | None = None
        self._filled = 0
        self._head = b""
        self._direct = False
        # what was read behind the last frame that there was room for
        self._rest = b""
        self._inbox: deque[Received] = deque()
        self._arrived = asyncio.Event()
        self._greeting: asyncio.Future[Word] = self._loop.create_future()
        self._listens = False
        self._heard_s = self._sent_s = self._loop.time()
        self._beat: asyncio.TimerHandle | None = None
        self._turn = asyncio.Lock()
        self._room = asyncio.Event()
        self._room.set()
        self._why: str | None = None
        self._over = self._closed = False
        self.lost = asyncio.Event()

    @property
    def peer(self) -> str:
        """The name in the other end's certificate."""
        return self._peer

    @property
    def held_bytes(self) -> int:
        """What has come and was not received, two frames at most, and what was not sent yet."""
        unsent = 0 if self.lost.is_set() else self._transport.get_write_buffer_size()
        begun = 0 if self._frame is None else len(self._frame)
        return sum(map(len, self._inbox)) + begun + len(self._rest) + unsent

    @property
    def why(self) -> str:
        """Why the link has ended; empty while it has not."""
        return self._why or ""

    @property
    def protocol(self) -> str | None:
        """What both ends agreed to speak; None: nothing."""
        found: str | None = self._tls.selected_alpn_protocol()
        return found

    @property
    def certificate(self) -> x509.Certificate | None:
        """What the other end has shown and TLS has verified, if it has shown one."""
        shown = self._tls.getpeercert(binary_form=True)
        return None if shown is None else x509.load_der_x509_certificate(shown)

    @property
    def _tls(self) -> ssl.SSLObject:
        return cast(ssl.SSLObject, self._transport.get_extra_info("ssl_object"))

    def begin(self, peer: str, largest_frame_bytes: int, keepalive: bool = True) -> None:
        """Take what comes, and say now and then that this end is there."""
        self._peer, self._largest = peer, largest_frame_bytes
        self._heard_s = self._sent_s = self._loop.time()
        if keepalive:
            self._beat = self._loop.call_later(self._keepalive_s / 2, self._beats)
        self._listen()

    def greet(self, word: Word) -> None:
        """Say whether the device is accepted; who is not has a moment to leave by itself."""
        self._transport.write(_WORD.pack(word))
        if word is not Word.ACCEPTED:
            self.leave()

    def leave(self) -> None:
        """Close the connection as TLS does; nothing more comes, and nothing more is sent."""
        self.end("closed at this end")
        self._transport.close()

    async def greeted(self) -> None:
        """Wait until the server has accepted this device. Raises LinkClosed if it does not."""
        word = await self._greeting
        if word in _REFUSALS:
            raise LinkClosed(_REFUSALS[word])

    async def send(self, frame: Buffers) -> None:
        """Send one frame; waits while the peer is slow. Raises LinkClosed."""
        size = size_of(frame)
        if size > LARGEST_FRAME_BYTES:
            raise FrameError(f"a frame of {format_bytes(size)}; the limit is 4 GiB")
        async with self._turn:
            begun = False
            try:
                for piece in _pieces(size, frame):
                    if not self._room.is_set():
                        await self._room.wait()
                    if self._why is not None:
                        raise LinkClosed(self._why)
                    self._transport.write(piece)
                    begun = True
            except asyncio.CancelledError:
                if begun:
                    self.abort("a frame was given up half-way")
                raise
            self._sent_s = self._loop.time()

    async def receive(self) -> Received:
        """The next whole frame. Raises LinkClosed when there is none and never will be."""
        while not self._inbox:
            if self._over:
                raise LinkClosed(self.why)
            self._arrived.clear()
            await self._arrived.wait()
        frame = self._inbox.popleft()
        if not self._listens and not self._over:
            rest, self._rest = self._rest, b""
            self._feed(memoryview(rest))
            self._listen()
        return frame

    async def close(self, reason: str = "") -> None:
        """End the link: what was sent still arrives, what was not received is lost."""
        if self._closed:
            return
        self._closed = True
        self._drop()
        self.end(reason or "closed at this end")
        if self.lost.is_set():
            return
        if self._turn.locked():  # within a frame
            self._transport.abort()
            return
        self._transport.write(_WORD.pack(Word.END))
        # what still comes is read and dropped, so that the other end gets to the end
        self._transport.resume_reading()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_S):
                await self.lost.wait()
        self._transport.abort()

    def abort(self, reason: str) -> None:
        """End the link and its connection, now."""
        self._drop()
        self.end(reason)
        self._transport.abort()

    def end(self, why: str) -> None:
        """Nothing more is sent, and nothing more comes; the first reason stands. What has come may
        still be received."""
        if self._why is None:
            self._why = why
        self._over = True
        self._arrived.set()
        self._room.set()
        if not self._greeting.done():
            self._greeting.set_exception(LinkClosed(self._why))
            self._greeting.exception()  # that nobody asked for it is no mistake

    def _drop(self) -> None:
        self._inbox.clear()
        self._frame, self._rest = None, b""

    def _listen(self) -> None:
        """Read on, while there is room for what comes."""
        room = len(self._inbox) < INBOX_FRAMES
        if room and not self._listens and not self._over:
            self._listens = True
            self._heard_s = self._loop.time()
            self._transport.resume_reading()

    def _beats(self) -> None:
        now_s = self._loop.time()
        if self._listens and now_s - self._heard_s >= 2 * self._keepalive_s:
            self.abort(f"{_CUT}: nothing came for {2 * self._keepalive_s:g} s")
            return
        silent = now_s - self._sent_s >= self._keepalive_s / 2
        if silent and self._room.is_set() and not self._turn.locked() and not self._over:
            self._transport.write(_WORD.pack(Word.ALIVE))
        self._beat = self._loop.call_later(self._keepalive_s / 2, self._beats)

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_PIECE_BYTES)
        self._transport.pause_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        left = None if self._frame is None else self._frame[self._filled :]
        self._direct = left is not None and len(left) >= len(self._scratch)
        return left if left is not None and self._direct else self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        self._heard_s = self._loop.time()
        if self._closed or self._over:
            return
        if self._direct:
            self._filled += nbytes
            self._whole()
        else:
            self._feed(self._scratch[:nbytes])
        if self._listens and len(self._inbox) >= INBOX_FRAMES:
            self._listens = False
            self._transport.pause_reading()

    def eof_received(self) -> None:
        self._gone()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone()
        if self._beat is not None:
            self._beat.cancel()
        self.lost.set()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    def _gone(self) -> None:
        within = self._frame is not None or self._head
        self.end(f"{_CUT}, within a frame" if within else _CUT)

    def _feed(self, data: memoryview) -> None:
        """Words and frames, until there is no room for more."""
        at = 0
        while at < len(data):
            if len(self._inbox) >= INBOX_FRAMES:
                self._rest = bytes(data[at:])
                return
            if self._frame is not None:
                some = data[at : at + len(self._frame) - self._filled]
                self._frame[self._filled : self._filled + len(some)] = some
                self._filled += len(some)
                at += len(some)
                self._whole()
                continue
            more = _WORD.size - len(self._head)
            head = self._head + bytes(data[at : at + more])
            at += min(more, len(data) - at)
            if len(head) < _WORD.size:
                self._head = head
                return
            self._head = b""
            (word,) = _WORD.unpack(head)
            if word <= self._largest:
                if at + word <= len(data):
                    self._deliver(bytes(data[at : at + word]))
                    at += word
                else:
                    self._frame, self._filled = memoryview(bytearray(word)), 0
            elif not self._told(word):
                return

    def _whole(self) -> None:
        """Whether the frame is there, and if so, to who receives."""
        if self._frame is not None and self._filled == len(self._frame):
            frame, self._frame = self._frame, None
            self._deliver(cast(bytearray, frame.obj))

    def _deliver(self, frame: Received) -> None:
        self._inbox.append(frame)
        self._arrived.set()

    def _told(self, word: int) -> bool:
        """Whether the link goes on after a word that is no length within the limit."""
        if word == Word.ALIVE:
            return True
        if word in _GREETINGS and not self._greeting.done():
            self._greeting.set_result(Word(word))
            return True
        if word == Word.END:
            self.end(CLOSED)
            self._transport.abort()
        elif word > LARGEST_FRAME_BYTES:
            self.abort(f"a word {word:#x} that means nothing here")
        else:
            self.abort(
                f"a frame of {format_bytes(word)} where {format_bytes(self._largest)} are the limit"
            )
        return False


def _pieces(size: int, frame: Buffers) -> Iterator[bytes | memoryview]:
    """Small parts joined, large ones as they are."""
    small: list[Received] = [_WORD.pack(size)]
    for part in frame if isinstance(frame, tuple) else (frame,):
        if len(part) < _LARGE_BYTES:
            small.append(part)
            continue
        yield b"".join(small)
        small = []
        view = memoryview(part)
        for start in range(0, len(part), _PIECE_BYTES):
            yield view[start : start + _PIECE_BYTES]
    if small:
        yield b"".join(small)


async def connect(address: str, keys: DeviceKeys, limits: ConnectionLimits) -> Link:
    """A device's link to the server at `address` (`host:port`), tried once.

    Raises LinkClosed if it cannot be reached, is not this run's server, or does not want us.
    """
    host, port = address_of(address)
    link = TlsLink(limits)
    try:
        async with asyncio.timeout(_CONNECT_S):
            await asyncio.get_running_loop().create_connection(
                lambda: link,
                host,
                port,
                ssl=device_context(keys),
                server_hostname=SERVER_NAME,
                ssl_handshake_timeout=_CONNECT_S,
                ssl_shutdown_timeout=LEAVE_S,
            )
            await _enter(link, limits)
    except TimeoutError:
        raise LinkClosed(f"{address}: no answer in {_CONNECT_S:g} s") from None
    except (OSError, LinkClosed) as error:
        raise LinkClosed(f"{address}: {_unreached(error)}") from error
    return link


async def _enter(link: TlsLink, limits: ConnectionLimits) -> None:
    try:
        if link.protocol != LINK:
            raise LinkClosed(f"the server {OTHER_VERSION}")
        link.begin(SERVER_NAME, limits.frame_bytes)
        await link.greeted()
    except BaseException:
        link.abort("not accepted")
        raise


def _unreached(error: Exception) -> str:
    """Why there is no link, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not that of this run's server: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS handshake failed ({error.reason}): is this where `cutlayer serve` listens?"
    if isinstance(error, OSError) and error.errno is not None:
        # asyncio's words have the address again; those for a name that nobody has have not
        return str(error.strerror) if error.errno < 0 else os.strerror(error.errno)
    return str(error)


# Who believes whom.


def server_context(keys: RunKeys) -> ssl.SSLContext:
    """The server's end, of links and of enrolment: who shows a certificate is verified, and who
    shows none has no link."""
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*keys.server_files)
    context.load_verify_locations(cadata=keys.authority_pem.decode("ascii"))
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols([LINK, ENROL])
    # who comes back shows its certificate again: it may have been revoked
    context.num_tickets = 0
    return context


def device_context(keys: DeviceKeys) -> ssl.SSLContext:
    """A device's end of a link: the certificate names the server, whatever its address is."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=keys.authority.decode("ascii"))
    with tempfile.NamedTemporaryFile() as both:  # nobody else may read it
        both.write(keys.key + keys.certificate)
        both.flush()
        context.load_cert_chain(both.name)
    context.set_alpn_protocols([LINK])
    return context


def invited_context() -> ssl.SSLContext:
    """The end of a device that has no identity yet, and believes nobody: it checks the certificate
    itself before it sends anything."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([ENROL])
    return context


def _context(end: int) -> ssl.SSLContext:
    context = ssl.SSLContext(end)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context
