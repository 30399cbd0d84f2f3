"""What a node learns from its cluster before it begins: its pod addresses, and where pods expect DNS."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from fairway_agent.config import Config
from fairway_core.codec import decode
from fairway_core.errors import UserError
from fairway_core.keys import Key
from fairway_core.model import Node, Object, Service
from fairway_store.api import Expired, Store

Say = Callable[[str], None]
"""Told what is waited for; empty when the wait is over."""

DNS_SERVICE = Key("Service", "kube-system", "kube-dns")
"""The name kubeadm and its kin give the cluster's DNS service, whatever serves it."""


async def learn(config: Config, store: Store, log: logging.Logger, say: Say) -> Config:
    """The configuration, completed from the API server.

    Waits until the node's own Node object has podCIDRs, if the configuration gives none: without them no container can be
    attached. `say` hears of it. The cluster DNS address is added to those our workers answer on.
    """
    cidrs = list(config.node.podCIDRs)
    if "podCIDRs" not in config.node.model_fields_set:
        cidrs = list(await _pod_cidrs(Key("Node", "", config.node.name), store, say))
    service = await _object(DNS_SERVICE, store)
    extra = service.cluster_ips if isinstance(service, Service) else ()
    listen = list(dict.fromkeys([*config.dns.listen, *extra]))
    log.info("learnt from the cluster", extra={"podCIDRs": cidrs, "dns": listen})
    node = config.node.model_copy(update={"podCIDRs": cidrs})
    return config.model_copy(update={"node": node, "dns": config.dns.model_copy(update={"listen": listen})})


async def _pod_cidrs(key: Key, store: Store, say: Say) -> Sequence[str]:
    while True:
        revision = (await store.list("Node")).revision
        try:
            if cidrs := await _given(key, store, say):
                return cidrs
            async for _event in store.watch(revision):
                if cidrs := await _given(key, store, say):
                    return cidrs
        except Expired:
            continue


async def _given(key: Key, store: Store, say: Say) -> Sequence[str]:
    node = await _object(key, store)
    if node is None:
        say(f"waiting for {key}, which the API server does not have: is node.name right?")
        return ()
    cidrs = node.pod_cidrs if isinstance(node, Node) else ()
    say("" if cidrs else f"waiting for {key} to have spec.podCIDRs: are addresses allocated to nodes?")
    return cidrs


async def _object(key: Key, store: Store) -> Object | None:
    entry = await store.get(key)
    try:
        return decode(entry.document) if entry else None
    except UserError:
        return None
