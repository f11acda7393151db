"""What may be written and shown of a text: without its passwords, without control characters.

Passwords stand in addresses (`postgresql://user:PASSWORD@host/db`, `?password=...`); every text
that the package writes to a file or a terminal passes here. What else is secret belongs into the
environment, whose values are never written (`configuration/environment.py`).
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

MASK = "***"
# In an address; the last @ before the host ends the password, which may hold others. It is looked
# for from its :// on: where a word begins is asked a million times in a report's page.
_PASSWORD = re.compile(
    r"(?P<before>://(?<=[\w+.-]://)[^\s/:@'\"]*:)(?P<secret>[^\s'\"]*)(?=@[^\s@]*)"
)
_NAMED = re.compile(
    r"(?P<before>[?&;]\s*(?:\w*(?:password|passwd|passphrase|secret|token|credential|api_?key)\w*"
    r"|pwd|pass|key)=)(?P<secret>[^\s&;'\"]+)",
    re.IGNORECASE,
)
_REFERENCE = re.compile(r"\$\{oc\.env:[^}]*\}")
# All but tab and newline, and what no encoding can write: halves of a character.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def masked(text: str) -> str:
    """The text with every password in an address replaced; a reference to one stays."""
    if "://" not in text:
        return text

    def mask(found: re.Match[str]) -> str:
        secret = found["secret"]
        if not secret or _REFERENCE.fullmatch(secret):
            return found[0]
        return found["before"] + MASK

    return _NAMED.sub(mask, _PASSWORD.sub(mask, text))


def printable(text: object) -> str:
    """The text for a terminal: masked, and control characters spelled out, not executed."""
    return _CONTROL.sub(_spelled, masked(str(text)))


def typed(path: Path) -> str:
    """The path as it is typed in a shell: quoted where it has a space or another such character."""
    return shlex.quote(str(path))


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
