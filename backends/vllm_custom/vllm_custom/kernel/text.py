"""Text that may be logged and sent, whatever it was made of."""

from __future__ import annotations

import itertools
import re
import reprlib
from collections.abc import Iterator, Mapping

# gRPC writes each byte beyond ASCII of an error's message as three characters, into trailers of 8 KiB.
MAX_MESSAGE_BYTES = 2_400
_MAX_CAUSES = 20

# Messages of libraries that say what was being done, with all of its data, and not what went wrong.
_WRAPPER = re.compile(r"Failed to apply \w+ on data=|.*\bat 0x[0-9a-fA-F]", re.DOTALL)

# Rules may make a text shorter: this many times the limit is looked at, and what is behind that is never touched.
_MARGIN = 4
_MAX_NESTING = 3

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_REPR_WITH_ADDRESS = re.compile(r"<[^<>]{1,400}\bat\s+0x[^<>]{0,400}(?:>|\Z)", re.IGNORECASE)
_REPR = re.compile(
    r"<(?:function|bound method|built-in (?:function|method)|property object|module|code object|generator object|"
    r"coroutine object|_io\.\w+)\b(?:[^<>]|<object>){0,400}(?:>|\Z)"
)
_ADDRESS = re.compile(r"(\bat\s+)0x[0-9a-f]*|(?<!\w)0x(?:0000)?[0-9a-f]{12}\b", re.IGNORECASE)
# Two steps at least: "/" alone and "image/png" are none. A URL keeps its path.
_ABSOLUTE_PATH = re.compile(r"(?<![\w./:@-])/[\w.@+~-]+(?:/[\w.@+~-]*)+")

# What looks like a URL: no blanks, quotes and angle brackets, and two slashes, or what is taken for them. An apostrophe
# may stand in a URL, and behind one.
_TOKEN = re.compile(r"(?:[^\s'\"<>`]|'(?=[\w&%=./?@-]))+")
_AUTHORITY = re.compile(r"([/\\]{2,})")
# A library may have shortened a URL in its middle: nothing says what the rest is.
_CUT = "..."
_QUERY = re.compile(r"[?#]|\.\.\.(?!@)")
_PATH = re.compile(r"([^/\\]*)([/\\]?)(.*)", re.DOTALL)


def safe_text(text: object, limit: int, *, hide_paths: bool = False) -> str:
    """``text`` fit for a log and an answer. Never raises.

    Credentials, queries and fragments of URLs are left out: they hold passwords and signatures, and an error repeats
    what a client sent, wherever that stood. What UTF-8 cannot hold and control characters (but tabs and line breaks)
    are escaped; addresses and the ``repr`` of objects that have one are replaced.

    Args:
        text: any string; of another object, its ``str``.
        limit: bytes of UTF-8 that the result has at most.
        hide_paths: leave out absolute paths, which texts of libraries hold.
    """
    text = _plain(text)
    looked_at = text[: limit * _MARGIN]
    # What was cut may have been a password.
    shown = _escaped(looked_at if len(looked_at) == len(text) else looked_at + _CUT)
    for _ in range(_MAX_NESTING):
        shown = _REPR.sub("<object>", _REPR_WITH_ADDRESS.sub("<object>", shown))
    shown = _ADDRESS.sub(lambda found: f"{found[1] or ''}(address)", shown)
    shown = without_url_secrets(shown)
    if hide_paths:
        shown = _ABSOLUTE_PATH.sub("...", shown)
    data = shown.encode()
    if len(data) <= limit and len(text) <= limit * _MARGIN:
        return shown
    mark = f"... ({len(text)} characters)"
    return data[: max(limit - len(mark), 0)].decode(errors="ignore") + mark[:limit]


def without_url_secrets(text: str) -> str:
    """``text`` without the credentials, queries and fragments of what looks like a URL in it. In linear time."""
    if _AUTHORITY.search(text) is None:
        return text
    return _TOKEN.sub(lambda found: _without_secrets(found[0]), text)


def _without_secrets(token: str) -> str:
    begin = _AUTHORITY.search(token)
    if begin is None:
        return token
    end = _QUERY.search(token, begin.end())
    # What ends a token may be a quote that is escaped, as in JSON.
    escapes = len(token) - len(token.rstrip("\\"))
    head, rest = (token[: end.start()], f"{end[0].rstrip('.')}{_CUT}" + "\\" * escapes) if end else (token, "")
    pieces = _AUTHORITY.split(head)  # what is between two marks, and the marks
    for index in range(2, len(pieces), 2):
        host, mark, path = _PATH.match(pieces[index]).groups()  # type: ignore[union-attr] # it matches everything
        pieces[index] = f"...@{host.rpartition('@')[2]}{mark}{path}" if "@" in host else pieces[index]
        if end and end[0] == _CUT and not mark and index == len(pieces) - 1:
            pieces[index] = ""  # it may have been a password, whose end is not there
    return "".join(pieces) + rest


def root_cause(error: BaseException) -> str:
    """What went wrong, in the words of the library that noticed it: the first message that is no mere wrapper.

    vLLM wraps an error of a model's processor in one that shows all media and arguments, and that one in another
    without a word. Paths of this machine are left out. An error without any text gives the name of its class.
    """
    chain = list(_chain(error))
    texts = [text for text in map(_text_of, chain) if text]
    plain = next((text for text in texts if not _WRAPPER.match(text[:MAX_MESSAGE_BYTES])), "")
    text = plain or next(reversed(texts), "") or type(chain[-1]).__name__
    return safe_text(text, MAX_MESSAGE_BYTES, hide_paths=True)


def bounded_repr(value: object) -> str:
    """``repr(value)`` of a value of any size, in bounded time. Never raises."""
    try:
        return _BOUNDED.repr(value)
    except Exception:  # an integer of thousands of digits, or a __repr__ that is not ours
        return f"a value of type {type(value).__name__}"


class _BoundedRepr(reprlib.Repr):
    """reprlib's, as long as what an error shows, and dicts in their own order."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 4
        self.maxtuple = self.maxlist = self.maxset = self.maxfrozenset = self.maxdeque = self.maxdict = 40
        self.maxstring = self.maxlong = self.maxother = 200

    def repr_dict(self, x: Mapping[object, object], level: int) -> str:
        if level <= 0 and x:
            return "{...}"
        items = itertools.islice(x.items(), self.maxdict)
        shown = [f"{self.repr1(key, level - 1)}: {self.repr1(value, level - 1)}" for key, value in items]
        return "{" + ", ".join(shown + ["..."] * (len(x) > self.maxdict)) + "}"

    def repr_bytes(self, x: bytes, level: int) -> str:
        return repr(x[: self.maxstring])


_BOUNDED = _BoundedRepr()


def _plain(text: object) -> str:
    try:
        return text if type(text) is str else str.__str__(text) if isinstance(text, str) else str(text)
    except Exception:  # a __str__ that is not ours
        return type(text).__name__


def _escaped(text: str) -> str:
    """Only what can be encoded, and no control characters."""
    valid = text.encode(errors="backslashreplace").decode()
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", valid)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, from the outside in."""
    current: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if current is None:
            return
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _text_of(error: BaseException) -> str:
    """``str(error)``; vLLM's validation errors append to it, a second time, what their sentence says."""
    try:
        first = error.args[0] if len(error.args) == 1 else None
        return (first if isinstance(first, str) and first else str(error)).strip()
    except Exception:  # a __str__ that is not ours
        return ""
