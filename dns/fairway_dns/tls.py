"""DNS over TLS (RFC 7858) in the strict profile (RFC 8310, 5): no verified certificate, no question. No way leads back to clear
text.
"""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from fairway_core.errors import UserError
from fairway_dns.config import Address
from fairway_dns.question import Asked, Entropy, question_of
from fairway_dns.stream import Security, Stream
from fairway_dns.upstream import Asker, Attempt, ask_stream


def client_context(ca_file: str = "") -> ssl.SSLContext:
    """What servers must show: a certificate for their name by an authority in `ca_file`, or one the system trusts. Raises
    UserError.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise UserError(f"no certificates of authorities can be read from {Path(ca_file)}: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["dot"])
    return context


class TlsServer:
    """A server asked over one connection (a `Server`). Queries are padded (RFC 8467), the case of letters is left alone."""

    def __init__(self, address: Address, loop: asyncio.AbstractEventLoop, context: ssl.SSLContext) -> None:
        self.address = address
        self._stream = Stream(address, loop, Entropy(), Security(context, address.tls_name))

    def ask(self, asked: Asked, asker: Asker, now: float, mixed: bool = True) -> Attempt:
        """See `Server`."""
        attempt = Attempt(asked, asker, self, now)
        attempt.question = question_of(asked, asked.name)
        ask_stream(self._stream, attempt, padded=True)
        return attempt

    def close(self) -> None:
        """See `Server`."""
        self._stream.close()
