"""What an error means: the one table.

The allow-list is that of errors which somebody must cure. All else is taken for transient, errors never heard
of too: spooling and trying again is right for whatever may go away, and loses nothing for what does not.

The code of an error reply decides, and it stands in one of three places: redis-py cuts the codes that it
knows off the text and puts a class in their place; the others it leaves in front of the text; and Redis 6 and
older write it into the middle when the error comes from inside a script (``@user_script: 9: -READONLY You
can't write …``). Classes are compared by name, so that redis need not be imported and no version must know
all of them.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence

from ._outcomes import Failure, FailureKind

_DETAIL_MAX_CHARS = 300

# redis-py's own classes and Python's, which bear the same names.
_NETWORK = {"ConnectionError": "CONNECTION", "TimeoutError": "TIMEOUT", "OSError": "CONNECTION"}

# A reply with one of these codes says that the request was turned away before it changed anything.
_KIND_BY_CODE = {
    # The server is occupied,
    "LOADING": FailureKind.TRANSIENT,
    "BUSY": FailureKind.TRANSIENT,
    "UNKILLABLE": FailureKind.TRANSIENT,
    "INPROG": FailureKind.TRANSIENT,
    "MAXCLIENTS": FailureKind.TRANSIENT,
    "NOSCRIPT": FailureKind.TRANSIENT,
    # or not the one that takes writes, or not yet,
    "READONLY": FailureKind.TRANSIENT,
    "MASTERDOWN": FailureKind.TRANSIENT,
    "CLUSTERDOWN": FailureKind.TRANSIENT,
    "TRYAGAIN": FailureKind.TRANSIENT,
    "MOVED": FailureKind.TRANSIENT,
    "ASK": FailureKind.TRANSIENT,
    # or takes none now.
    "OOM": FailureKind.TRANSIENT,
    "MISCONF": FailureKind.TRANSIENT,
    "NOREPLICAS": FailureKind.TRANSIENT,
    # Somebody must set something right.
    "NOAUTH": FailureKind.OPERATOR,
    "WRONGPASS": FailureKind.OPERATOR,
    "NOPERM": FailureKind.OPERATOR,
    "DENIED": FailureKind.OPERATOR,
    "WRONGTYPE": FailureKind.OPERATOR,
    "CROSSSLOT": FailureKind.OPERATOR,
    "BAD_DATABASE": FailureKind.OPERATOR,
    "UNKNOWN_COMMAND": FailureKind.OPERATOR,
    # This batch will never do.
    "TOO_LARGE": FailureKind.REFUSED,
}

_CODE_BY_CLASS = {
    "AskError": "ASK",
    "AuthenticationError": "WRONGPASS",
    "AuthenticationWrongNumberOfArgsError": "WRONGPASS",
    "AuthorizationError": "NOPERM",
    "BusyLoadingError": "LOADING",
    "ClusterCrossSlotError": "CROSSSLOT",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "MovedError": "MOVED",
    "NoPermissionError": "NOPERM",
    "NoScriptError": "NOSCRIPT",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "TryAgainError": "TRYAGAIN",
}

# Replies whose code is a bare ERR, or that a class does not tell apart; the first that is found names it.
_CODE_BY_TEXT = tuple(
    (re.compile(pattern, re.IGNORECASE), code)
    for pattern, code in (
        (r"authentication required|unauthenticated", "NOAUTH"),
        (r"max number of clients", "MAXCLIENTS"),
        (r"acl failure in script|executing the script can't", "NOPERM"),
        (
            r"unknown (redis )?command|unsupported command|command .*(not supported|disabled)",
            "UNKNOWN_COMMAND",
        ),
        (r"invalid (multi)?bulk length|too big (m?bulk|inline)|exceeds maximum allowed", "TOO_LARGE"),
        (r"db index is out of range|select is not allowed|invalid db index", "BAD_DATABASE"),
    )
)

_CODE_IN_SCRIPT_ERROR = re.compile(r"@user_script\b.*?\s-([A-Z]+)\b", re.DOTALL)
_LEADING_CODE = re.compile(r"([A-Z][A-Z0-9_]+)\b")
_NAMES_EVAL = re.compile(r"\beval(sha)?\b", re.IGNORECASE)

# 'unknown command' repeats the first arguments: the password after AUTH, a record after LPUSH.
_ECHOED_ARGUMENTS = re.compile(r",?\s*with args beginning with:.*", re.DOTALL | re.IGNORECASE)
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\U0010ffff]+")


def classify(error: BaseException, *, sent: bool = True) -> Failure:
    """Say what an error means.

    Args:
        error: whatever came out of an attempt.
        sent: False where not a byte of the request had left when the error came.
    """
    names = [cls.__name__ for cls in type(error).__mro__]  # the most special first
    text = _text(error)

    if _is_certificate_error(error):
        return Failure(FailureKind.OPERATOR, "CERTIFICATE", text, in_doubt=False)

    code = _reply_code(names, text)
    if code in _KIND_BY_CODE:
        detail = text if code in text or code not in _CODE_BY_CLASS.values() else f"{code} {text}"
        no_scripts = code in ("UNKNOWN_COMMAND", "NOPERM") and bool(_NAMES_EVAL.search(text))
        return Failure(_KIND_BY_CODE[code], code, detail, in_doubt=False, scripting_unavailable=no_scripts)

    # An error reply that the table does not know leaves doubt too: a proxy may have made it up after it had
    # passed the request on, and a script that broke in the middle is not rolled back.
    if not code:
        code = next((_NETWORK[name] for name in names if name in _NETWORK), names[0])
        text = text if text and code != names[0] else f"{names[0]}: {text}"
    return Failure(FailureKind.TRANSIENT, code, text[:_DETAIL_MAX_CHARS], in_doubt=sent)


def _reply_code(names: Sequence[str], text: str) -> str:
    """The code of an error reply; empty for an error that is none."""
    by_class = next((_CODE_BY_CLASS[name] for name in names if name in _CODE_BY_CLASS), "")
    is_reply = by_class or "ResponseError" in names
    # The one reply that redis-py shows as a plain ConnectionError.
    if not is_reply and not ("ConnectionError" in names and text == "max number of clients reached"):
        return ""
    inner = _CODE_IN_SCRIPT_ERROR.search(text)
    if inner:
        return inner[1]
    leading = _LEADING_CODE.match(text)
    if leading and leading[1] in _KIND_BY_CODE:
        return leading[1]
    by_text = next((code for pattern, code in _CODE_BY_TEXT if pattern.search(text)), "")
    return by_text or by_class or (leading[1] if leading else "ERR")


def _is_certificate_error(error: BaseException) -> bool:
    """Whether the server's certificate was refused; redis-py wraps that into a ConnectionError."""
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None or isinstance(seen, ssl.SSLCertVerificationError):
            break
        seen = seen.__cause__ or seen.__context__
    return isinstance(seen, ssl.SSLCertVerificationError)


def _text(error: BaseException) -> str:
    """The error's text as one short line without what it echoes."""
    try:
        text = str(error)
    except Exception:  # an exception of whatever stands between us and Redis may do anything
        text = "(its text cannot be had)"
    return _UNPRINTABLE.sub(" ", _ECHOED_ARGUMENTS.sub("", text)).strip()[:_DETAIL_MAX_CHARS]
