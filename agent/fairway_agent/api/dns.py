"""/v1/dns/resolve, /v1/dns/top: what people ask about names."""

from __future__ import annotations

from aiohttp import web

from fairway_agent.api.body import number_parameter
from fairway_agent.dnstop import DnsTop
from fairway_agent.resolving import Resolving
from fairway_core.errors import UserError


class DnsRoutes:
    """Questions about names and who asks for them."""

    def __init__(self, resolving: Resolving, top: DnsTop) -> None:
        self.resolving = resolving
        self._top = top

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/v1/dns/resolve", self.resolve), web.get("/v1/dns/top", self.top)]

    async def resolve(self, request: web.Request) -> web.Response:
        """`name`, and maybe `type`, `from` (NAMESPACE/POD) and `ask=1`."""
        given = request.query
        if not given.get("name"):
            raise UserError("name: text is required")
        ask = given.get("ask", "") == "1"
        return web.json_response(
            await self.resolving.resolve(given["name"], given.get("type", "A"), given.get("from", ""), ask)
        )  # fmt: skip

    async def top(self, request: web.Request) -> web.Response:
        """`by` (pod, name, zone; nothing: all three) and `count`."""
        count = int(number_parameter(request, "count", 20))
        top = await self._top.rows(request.query.get("by", ""), count, self.resolving.title_of, self.resolving.zone_of)
        return web.json_response(top)
