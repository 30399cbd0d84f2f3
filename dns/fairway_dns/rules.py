"""nftables rules that keep connection tracking away from DNS to the node's own address.

Why: two queries in parallel from one socket (A and AAAA) race for one conntrack entry, and the loser waits out the client's 5 s
timeout (kubernetes#56903); and a busy resolver fills the table. Both directions pass both hooks, because the node's own queries
go over lo.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fairway_core.delta import Owner
from fairway_core.keys import Key
from fairway_core.model import family_of
from fairway_core.world import World
from fairway_kernel.nft.objects import Chain, Elements, Layout, SetDecl, Slot, canonical_address

OWNER: Owner = ("Dns",)


class DnsRulesCompiler:
    """The nft compiler (fairway_kernel.nft.compiler) of the DNS part: sets `dns4` and `dns6` with the listening addresses, and
    NOTRACK for UDP and TCP to and from `port` of them. The elements depend on the addresses alone.

    Raises ValueError for what is no address.
    """

    def __init__(self, addresses: Sequence[str], port: int = 53) -> None:
        self._addresses = tuple(canonical_address(address) for address in addresses)
        self._told: tuple[str, ...] | None = None
        self._layout = Layout(
            sets=(SetDecl("dns4", ("ipv4_addr",)), SetDecl("dns6", ("ipv6_addr",))),
            chains=(_chain("prerouting", port), _chain("output", port)),
        )

    @property
    def layout(self) -> Layout:
        """Two sets, two base chains."""
        return self._layout

    def learn(self, actual: Elements) -> None:
        """Nothing to learn: no numbers are handed out here."""

    def serve(self, addresses: Sequence[str]) -> None:
        """Other addresses from the next update on. From any thread."""
        self._addresses = tuple(canonical_address(address) for address in addresses)

    def update(self, before: World, after: World, touched: frozenset[Key]) -> Mapping[Owner, Elements]:
        """The addresses, if they have not been told yet."""
        addresses = self._addresses
        if addresses == self._told:
            return {}
        self._told = addresses
        slots = (Slot("dns6" if family_of(address) == 6 else "dns4", (address,)) for address in addresses)
        return {OWNER: dict.fromkeys(slots, ())}


def _chain(hook: str, port: int) -> Chain:
    rules = tuple(
        f"{family} {end}addr @{name} meta l4proto {{ tcp, udp }} th {end}port {port} notrack"
        for family, name in (("ip", "dns4"), ("ip6", "dns6"))
        for end in ("d", "s")
    )
    return Chain(f"dns_{hook}", rules, f"type filter hook {hook} priority raw; policy accept;")
