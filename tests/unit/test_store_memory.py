"""What the store in memory holds on to."""

from __future__ import annotations

from fairway_core.keys import Key
from fairway_store.api import Changed, Put
from fairway_store.memory import MemoryStore

WEB = Key("Service", "shop", "web")


async def test_whoever_lists_or_watches_holds_the_text_that_is_kept_anyhow() -> None:
    """A journal of 20,000 decoded Pods once held 75 MiB, a list of everything as much again."""
    store = MemoryStore()
    await store.commit([Put(WEB, {"n": 1, "of": {"some": "length"}})])
    at_rest = store.at_rest(WEB)
    (listed,) = (await store.list()).entries
    events = await anext(store.watch(0))
    assert at_rest is not None and isinstance(events, tuple) and isinstance(events[0], Changed) and events[0].entry is not None
    assert listed.text is at_rest.text
    assert events[0].entry.text is at_rest.text
    assert listed.document == {"n": 1, "of": {"some": "length"}}


async def test_a_document_is_the_readers_own() -> None:
    store = MemoryStore()
    await store.commit([Put(WEB, {"n": [1]})])
    (listed,) = (await store.list()).entries
    listed.document["n"].append(2)
    assert listed.document == {"n": [1]}
