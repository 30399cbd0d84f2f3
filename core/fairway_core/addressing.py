"""Which addresses a pod has, where Pods are declared by an API server and containers are attached here. Pure.

The API server learns a pod's addresses from kubelet, and kubelet learns them from us: at ADD the Pod object is there, with labels
and without an address. Rules and names must not wait for that round trip, so the attachment is the source of the addresses as
long as it exists, also when the object still shows those of an earlier sandbox.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fairway_core.keys import Key
from fairway_core.model import Attachment, Meta, Pod

PRIMARY = "eth0"


def addressed(key: Key, declared: Pod | None, attachments: Sequence[Attachment]) -> Pod | None:
    """The pod at `key` as the node sees it: `declared` with the addresses of its attachments.

    Promise: without attachments exactly what is declared. An attachment that nobody declared a Pod for (a container of another
    runtime) is a running pod without labels, so that namespace-wide policies hold for it too. A pod may have two sandboxes for
    a moment; policies hold for the addresses of both.
    """
    if not attachments:
        return declared
    ordered = sorted(attachments, key=lambda item: (item.ifname != PRIMARY, item.meta.name))
    ips = tuple(dict.fromkeys(ip for item in ordered for ip in item.ips))
    if declared is None:
        return Pod(Meta(key.name, key.namespace), ips, phase="Running", ready=True)
    return declared if declared.host_network else replace(declared, ips=ips)
