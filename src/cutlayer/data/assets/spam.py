"""SpamAssassin's public mail corpus: subject and body of each mail, `ham` or `spam`.

A mail whose text occurs twice (mass mail) is kept once, so none is in both splits.
"""

import email
import email.errors
import email.header
import email.message
from pathlib import Path

from cutlayer.data.assets.splitting import write_split

_FOLDER = "package/data"
_TEST_FRACTION = 0.2


def convert(unpacked: Path, target: Path) -> None:
    """Write both splits as JSON lines."""
    rows: dict[str, str] = {}
    for path in sorted((unpacked / _FOLDER).glob("*-[12]/*.txt")):
        text = _text(email.message_from_bytes(path.read_bytes()))
        if text:
            rows.setdefault(text, "spam" if path.parent.name.startswith("spam") else "ham")
    write_split(target, sorted(rows.items()), _TEST_FRACTION)


def _text(mail: email.message.Message) -> str:
    """Subject and first text part, blanks run together."""
    part: email.message.Message = mail
    for candidate in mail.walk():
        if candidate.get_content_maintype() == "text":
            part = candidate
            break
    body = part.get_payload(decode=True)
    words = _decode(body, part.get_content_charset()) if isinstance(body, bytes) else ""
    return " ".join(f"{_subject(mail)}\n{words}".split())


def _subject(mail: email.message.Message) -> str:
    try:
        pieces = email.header.decode_header(str(mail.get("subject", "")))
    except email.errors.HeaderParseError:  # some spam has broken encoded words
        return str(mail.get("subject", ""))
    return "".join(
        _decode(piece, charset) if isinstance(piece, bytes) else piece for piece, charset in pieces
    )


def _decode(content: bytes, charset: str | None) -> str:
    try:
        return content.decode(charset or "utf-8")
    except (LookupError, UnicodeDecodeError):  # unknown or wrongly declared: never fails so
        return content.decode("latin-1")
