"""What libnftables says when it refuses, as a KernelError. Pure.

The library reports in words only. Kernel refusals carry strerror(3) text; refusals of its own cache have phrases of their own,
and mean the same to a caller.
"""

from __future__ import annotations

import errno
import os
import re

from fairway_core.errors import KernelError

_REPORT = re.compile(r"^(?:(?P<file>\S+?):(?P<line>\d+):(?P<column>\d+)(?:-\d+)?: |.*: )?Error: (?P<text>.*)$", re.MULTILINE)
_PREFIXES = ("Could not process rule: ", "cache initialization failed: ", "Could not receive tables from kernel: ")
_PHRASES = {
    "element does not exist": errno.ENOENT,
    "interval overlaps with an existing one": errno.EEXIST,
    "conflicting intervals specified": errno.EEXIST,
}
_SPAN = 80


def kernel_error(script: str, report: str) -> KernelError:
    """The first refusal in `report`, with the part of `script` it points at.

    An errno that cannot be told from the words is EINVAL (the library did not understand the script); no words at all is EIO.
    """
    found = _REPORT.search(report)
    if found is None:
        return KernelError(errno.EIO, "nft transaction", report.strip()[:_SPAN] or "refused without a word")
    text = found["text"].strip()
    detail = text
    if found["line"]:
        detail += f" at {excerpt(script, int(found['line']), int(found['column']))!r}"
    return KernelError(errno_in(text), "nft transaction", detail)


def errno_in(text: str) -> int:
    """The errno behind the words of one refusal."""
    words = text.split("; did you mean", 1)[0].strip()
    for prefix in _PREFIXES:
        words = words.removeprefix(prefix)
    for phrase, number in _PHRASES.items():
        if phrase in words:
            return number
    return next((number for number in errno.errorcode if os.strerror(number) == words), errno.EINVAL)


def excerpt(script: str, line: int, column: int) -> str:
    """The line (from 1) of the script, or what surrounds the column (from 1) if the line is long."""
    lines = script.split("\n")
    if not 1 <= line <= len(lines):
        return ""
    whole = lines[line - 1]
    if len(whole) <= 2 * _SPAN:
        return whole
    # Element lists run to megabytes: keep the head, which names the set, and the place.
    start = max(0, column - 1 - _SPAN // 2)
    head = whole[: _SPAN // 2] + " … " if start > _SPAN // 2 else whole[:start]
    return head + whole[start : start + _SPAN] + (" …" if start + _SPAN < len(whole) else "")
