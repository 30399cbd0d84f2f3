"""CNI errors: codes, and the JSON a runtime reads (spec 1.1.0, section 5, "Error")."""

from __future__ import annotations

import json
from collections.abc import Iterable

from fairway_core.errors import ExhaustedError, FairwayError, KernelError, StoreUnavailable, UserError

VERSION = 1
UNSUPPORTED_FIELD = 2
ENVIRONMENT = 4
IO = 5
DECODE = 6
CONFIG = 7
HOST_NAMESPACE = 8
TRY_LATER = 11
NOT_AVAILABLE = 50
LIMITED = 51
INTERNAL = 100
WIRING = 101
"""The kernel refused to wire or unwire."""
EXISTS = 102
"""The attachment, or the interface, is there already."""
MISMATCH = 103
"""CHECK found a difference."""
ADDRESS = 104
"""The address asked for is taken or foreign, or there is none left."""
HOST_PORT = 105
"""A port of the node that is asked for is another container's."""
DELEGATE = 106
"""The address plugin could not be run, or its answer means nothing."""

# Code 3 (unknown container) is never used: it tells the runtime that nothing needs cleaning up.


class CniError(FairwayError):
    """An error with the code and texts that the runtime shows. `details` may be empty."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(f"{message}: {details}" if details else message)
        self.code = code
        self.message = message
        self.details = details


def body_of(error: CniError, cni_version: str) -> bytes:
    """The error as JSON. Promise: valid UTF-8 whatever the texts hold."""
    document: dict[str, object] = {"cniVersion": cni_version, "code": error.code, "msg": error.message}
    if error.details:
        document["details"] = error.details
    return json.dumps(document).encode()


def as_cni_error(error: BaseException) -> CniError:
    """The CNI form of any error, by who is at fault (design rule 10)."""
    if isinstance(error, CniError):
        return error
    if isinstance(error, StoreUnavailable | TimeoutError):
        return CniError(TRY_LATER, "the agent cannot do this now", str(error))
    if isinstance(error, ExhaustedError):
        return CniError(ADDRESS, str(error))
    if isinstance(error, UserError):
        return CniError(CONFIG, str(error))
    if isinstance(error, KernelError):
        return CniError(WIRING, "the kernel refused", str(error))
    return CniError(INTERNAL, "internal error", f"{type(error).__name__}: {error}")


def combined(errors: Iterable[Exception], doing: str) -> CniError | None:
    """One error for all that a teardown collected; None if it collected none. The first decides the code."""
    found = [as_cni_error(error) for error in errors]
    if not found:
        return None
    return CniError(found[0].code, doing, "; ".join(map(str, found)))
