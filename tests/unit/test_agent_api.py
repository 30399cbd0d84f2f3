"""The control API keeps what agent/README.md promises."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from itertools import permutations
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.unit.agent_rig import Rig, attachment, deny, pod, running_pod, served, service

from fairway_agent.api.server import SHUTDOWN_SECONDS
from fairway_core.errors import ConflictError, StoreUnavailable
from fairway_store.memory import MemoryStore


def actions(results: list[dict[str, Any]]) -> list[str]:
    return [item["action"] for item in results]


async def test_apply_creates_configures_and_leaves_alone(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        first = await api.applied(service("web"), deny("closed"))
        assert actions(first) == ["created", "created"]
        assert first[0]["key"] == {"kind": "Service", "namespace": "shop", "name": "web"}
        assert first[0]["before"] is None
        assert first[0]["after"]["spec"]["clusterIP"].startswith("10.96.0.")
        again = await api.applied(service("web"), deny("closed"))
        assert actions(again) == ["unchanged", "unchanged"]
        changed = await api.applied(service("web", ports=[{"port": 81}]), deny("closed"))
        assert actions(changed) == ["configured", "unchanged"]
        assert changed[0]["before"] == first[0]["after"]
        assert changed[0]["after"]["spec"]["clusterIP"] == first[0]["after"]["spec"]["clusterIP"]


async def test_dry_run_says_the_same_and_changes_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        status, said = await api.apply(service("web", clusterIP="10.96.0.9"), dryRun=True)
        assert (status, actions(said["results"])) == (200, ["created"])
        assert (await api.call("GET", "/v1/objects/services"))[1]["items"] == []
        done = await api.applied(service("web", clusterIP="10.96.0.9"))
        assert done == said["results"]


async def test_one_bad_document_stops_all_and_is_named(tmp_path: Path) -> None:
    bad = service("bad", ports=[{"port": 0}])
    async with served(tmp_path) as api:
        status, answer = await api.apply(service("good"), bad)
        assert status == 400
        assert answer["error"]["kind"] == "user"
        assert "spec.ports[0].port" in json.dumps(answer["error"])
        assert (await api.call("GET", "/v1/objects/services"))[1]["items"] == []


async def test_a_taken_address_stops_all(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        await api.applied(service("web", clusterIP="10.96.0.9"))
        status, answer = await api.apply(deny("closed"), service("api", clusterIP="10.96.0.9"))
        assert (status, answer["error"]["kind"]) == (400, "user")
        assert "belongs to Service/shop/web" in answer["error"]["message"]
        assert (await api.call("GET", "/v1/objects/networkpolicies"))[1]["items"] == []


async def test_one_object_twice_is_refused_quickly(tmp_path: Path) -> None:
    many = [pod(f"p{number}") for number in range(2000)]
    async with served(tmp_path) as api:
        started = time.perf_counter()
        status, answer = await api.apply(*many, pod("p7"))
        assert (status, answer["error"]["message"]) == (400, "Pod/shop/p7 is given more than once")
        lone = pod("x")
        del lone["metadata"]["namespace"]
        status, answer = await api.apply(lone, pod("x", "default"))
        assert (status, answer["error"]["message"]) == (400, "Pod/default/x is given more than once")
        assert time.perf_counter() - started < 5


async def test_a_left_out_namespace_is_written_down(tmp_path: Path) -> None:
    lone = pod("x")
    del lone["metadata"]["namespace"]
    async with served(tmp_path) as api:
        await api.applied(lone)
        assert (await api.call("GET", "/v1/objects/pods/x"))[1]["item"]["metadata"]["namespace"] == "default"
        assert actions(await api.applied(lone)) == ["unchanged"]


class Unhurried(MemoryStore):
    """A store on a disk: every list takes a moment, in which others run."""

    async def list(self, kind: str | None = None) -> Any:
        found = await super().list(kind)
        await asyncio.sleep(0.005)
        return found


async def test_services_applied_at_the_same_time_get_different_addresses(tmp_path: Path) -> None:
    # "ab" and "ba" begin their search at the same address.
    names = ["".join(letters) for letters in permutations("abcd")]
    async with served(tmp_path, Rig(Unhurried())) as api:
        answers = await asyncio.gather(*(api.apply(service(name, type="NodePort")) for name in names))
        assert [status for status, _ in answers] == [200] * len(names)
        specs = [answer["results"][0]["after"]["spec"] for _, answer in answers]
        assert len({spec["clusterIP"] for spec in specs}) == len(names)
        assert len({spec["ports"][0]["nodePort"] for spec in specs}) == len(names)


class Contended(MemoryStore):
    """A store in which somebody else is always faster, `times` times."""

    times = 0

    async def commit(self, writes: Any) -> int:
        if self.times > 0:
            self.times -= 1
            raise ConflictError("Service/shop/web has changed")
        return await super().commit(writes)


@pytest.mark.parametrize(("times", "wanted"), [(3, 200), (100, 409)])
async def test_a_lost_race_is_run_again_and_then_told(tmp_path: Path, times: int, wanted: int) -> None:
    store = Contended()
    async with served(tmp_path, Rig(store)) as api:
        store.times = times
        status, answer = await api.apply(service("web"))
        assert status == wanted
        assert wanted == 200 or answer["error"]["kind"] == "conflict"


async def test_a_store_that_cannot_be_written_is_503(tmp_path: Path) -> None:
    class Full(MemoryStore):
        async def commit(self, writes: Any) -> int:
            raise StoreUnavailable("fairway.db: no space left on device")

    async with served(tmp_path, Rig(Full())) as api:
        status, answer = await api.apply(service("web"))
        assert (status, answer["error"]["kind"]) == (503, "unavailable")
        assert "no space left" in answer["error"]["message"]


async def test_a_running_pod_keeps_status_and_node(tmp_path: Path) -> None:
    rig = Rig()
    await rig.put(running_pod("web-1", "10.244.0.2"), attachment("a1", "web-1", "10.244.0.2"))
    async with served(tmp_path, rig) as api:
        forged = pod("web-1", labels={"app": "web"}, spec={"nodeName": "elsewhere"}, status={"podIP": "10.244.0.99"})
        for document in (pod("web-1", labels={"app": "web"}), forged):
            await api.applied(document)
            stored = (await api.call("GET", "/v1/objects/pods/web-1?namespace=shop"))[1]["item"]
            assert stored["metadata"]["labels"] == {"app": "web"}
            assert stored["status"]["podIP"] == "10.244.0.2"
            assert stored["spec"]["nodeName"] == "n1"
        # Nothing of the sort holds for a pod without a container here.
        await api.applied(pod("legacy", status={"podIP": "192.0.2.1"}), deny("closed"))
        await api.applied(pod("legacy", status={"podIP": "192.0.2.2"}))
        assert (await api.call("GET", "/v1/objects/pods/legacy?namespace=shop"))[1]["item"]["status"] == {"podIP": "192.0.2.2"}


async def test_lists_are_sorted_and_selected(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        await api.applied(pod("b", labels={"app": "x"}), pod("a", labels={"app": "x"}), pod("a", "other", {"app": "y"}))

        async def names(query: str) -> list[str]:
            status, answer = await api.call("GET", f"/v1/objects/pods{query}")
            assert status == 200
            return [f"{item['metadata']['namespace']}/{item['metadata']['name']}" for item in answer["items"]]

        assert await names("") == ["other/a", "shop/a", "shop/b"]
        assert await names("?namespace=shop") == ["shop/a", "shop/b"]
        assert await names("?selector=app%3Dy") == ["other/a"]
        assert await names("?selector=app%20in%20(x,y)&namespace=nowhere") == []
        assert (await api.call("GET", "/v1/objects/po?selector=%3D%3D"))[0] == 400


async def test_derived_slices_are_listed_and_found_by_names_with_colons(tmp_path: Path) -> None:
    rig = Rig()
    await rig.put(running_pod("web-1", "10.244.0.2", {"app": "web"}))
    async with served(tmp_path, rig) as api:
        await api.applied(service("web"))
        _, answer = await api.call("GET", "/v1/objects/endpointslices?namespace=shop")
        (item,) = answer["items"]
        assert item["endpoints"][0]["addresses"] == ["10.244.0.2"]
        name = item["metadata"]["name"]
        for written in (name, name.replace(":", "%3A")):
            status, found = await api.call("GET", f"/v1/objects/endpointslices/{written}?namespace=shop")
            assert (status, found.get("item")) == (200, item)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "kind"),
    [
        ("GET", "/v1/objects/pods/none?namespace=shop", None, 404, "notfound"),
        ("GET", "/v1/objects/cabbages", None, 400, "user"),
        ("GET", "/v1/nothing", None, 404, "notfound"),
        ("DELETE", "/v1/objects/pods", None, 405, "user"),
        ("POST", "/v1/apply", {"documents": {}}, 400, "user"),
        ("POST", "/v1/apply", {"documents": [1]}, 400, "user"),
        ("POST", "/v1/apply", {"documents": [], "force": True}, 400, "user"),
        ("POST", "/v1/apply", {"documents": [], "dryRun": "yes"}, 400, "user"),
        ("POST", "/v1/apply", [], 400, "user"),
        ("POST", "/v1/delete", {"keys": [{"kind": "Pod"}]}, 400, "user"),
        ("POST", "/v1/delete", {"keys": [{"kind": "Pod", "name": "x", "namespace": 7}]}, 400, "user"),
        ("GET", "/v1/wait?revision=never", None, 400, "user"),
        ("GET", "/v1/wait?revision=1&timeout=-1", None, 400, "user"),
        ("GET", "/v1/wait?revision=999&timeout=0.05", None, 503, "unavailable"),
        ("POST", "/v1/why", {"source": "shop/none", "destination": "10.0.0.1"}, 400, "user"),
        ("POST", "/v1/why", {"source": "10.0.0.1"}, 400, "user"),
        ("POST", "/v1/why", {"source": "10.0.0.1", "destination": "10.0.0.2", "port": 65536}, 400, "user"),
        ("POST", "/v1/why", {"source": "10.0.0.1", "destination": "10.0.0.2", "protocol": 6}, 400, "user"),
    ],
)
async def test_every_fault_has_its_status_and_kind(
    tmp_path: Path, method: str, path: str, body: Any, status: int, kind: str
) -> None:
    async with served(tmp_path) as api:
        found, answer = await api.call(method, path, body)
        assert (found, answer["error"]["kind"]) == (status, kind)
        assert answer["error"]["message"]
        assert set(answer["error"]) == {"kind", "message", "place"}


async def test_delete_tells_what_was_there_and_refuses_the_attached(tmp_path: Path) -> None:
    rig = Rig()
    await rig.put(running_pod("web-1", "10.244.0.2"), attachment("a1", "web-1", "10.244.0.2"))
    async with served(tmp_path, rig) as api:
        await api.applied(deny("closed"))
        keys = [
            {"kind": "NetworkPolicy", "namespace": "shop", "name": "closed"},
            {"kind": "Service", "namespace": "shop", "name": "x"},
        ]
        status, answer = await api.call("POST", "/v1/delete", {"keys": keys})
        assert (status, actions(answer["results"])) == (200, ["deleted", "absent"])
        assert answer["results"][0]["before"]["metadata"]["name"] == "closed"
        await rig.settled(answer["revision"])
        for key in ({"kind": "Pod", "namespace": "shop", "name": "web-1"}, {"kind": "Attachment", "name": "a1"}):
            status, answer = await api.call("POST", "/v1/delete", {"keys": [keys[1], key]})
            assert (status, answer["error"]["kind"]) == (409, "conflict")


async def test_a_watch_lists_syncs_and_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairway_agent.api.objects.GONE_SECONDS", 0.05)
    async with served(tmp_path) as api:
        await api.applied(pod("a", labels={"app": "x"}), pod("other", labels={"app": "y"}))
        query = "/v1/objects/pods?watch=1&namespace=shop&selector=app%3Dx"
        async with api.session.get(f"http://agent{query}") as stream:

            async def event() -> tuple[str, str]:
                line = json.loads(await asyncio.wait_for(stream.content.readline(), 5))
                name = (line.get("document") or {}).get("metadata", {}).get("name") or line.get("key", {}).get("name", "")
                assert isinstance(line["revision"], int)
                return line["type"], name

            assert [await event(), await event()] == [("PUT", "a"), ("SYNC", "")]
            await api.applied(pod("b", labels={"app": "x"}))
            await api.applied(pod("b", "elsewhere", labels={"app": "x"}))
            await api.applied(pod("other", labels={"app": "y", "more": "1"}))
            await api.applied(pod("a", labels={"app": "gone"}))
            await api.call("POST", "/v1/delete", {"keys": [{"kind": "Pod", "namespace": "shop", "name": "b"}]})
            # A pod that stops matching is taken away; one that never matched is not spoken of.
            assert [await event(), await event(), await event()] == [("PUT", "b"), ("DELETE", "a"), ("DELETE", "b")]


async def test_a_client_that_leaves_is_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairway_agent.api.objects.GONE_SECONDS", 0.05)
    async with served(tmp_path) as api:
        followers = api.rig.objects._followers
        stream = await api.session.get("http://agent/v1/objects/pods?watch=1")
        await stream.content.readline()
        assert len(followers) == 1
        stream.close()
        for _ in range(100):
            await asyncio.sleep(0.02)
            if not followers:
                break
        assert not followers
        await api.applied(pod("a"))


async def test_stopping_waits_for_no_watch(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(served(tmp_path))
        stream = await api.session.get("http://agent/v1/objects/pods?watch=1")
        await stream.content.readline()
        waiting = asyncio.create_task(api.session.get("http://agent/v1/wait?revision=99&timeout=60"))
        await asyncio.sleep(0.1)
        start = time.monotonic()
        await api.stop()
        # Left to themselves they would hold it up for SHUTDOWN_SECONDS.
        assert time.monotonic() - start < SHUTDOWN_SECONDS / 2
        stream.close()
        with pytest.raises(aiohttp.ClientError):
            await waiting


async def test_a_long_apply_lets_others_have_their_turn(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        applying = asyncio.create_task(api.rig.objects.apply([pod(f"p{number}") for number in range(1000)], dry_run=False))
        turns = 0
        while not applying.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns > 30


async def test_status_and_wait_tell_what_is_live(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        status, answer = await api.apply(service("web"), deny("closed"))
        revision = answer["revision"]
        assert await api.call("GET", f"/v1/wait?revision={revision}&timeout=5") == (200, {"live": {"nft": revision}})
        status, told = await api.call("GET", "/v1/status")
        assert status == 200
        assert set(told) == {"node", "version", "revision", "live", "ready", "problems", "unenforced", "counts"}
        assert (told["ready"], told["problems"], told["revision"]) == (True, [], revision)
        assert (told["counts"]["Service"], told["counts"]["NetworkPolicy"], told["counts"]["Pod"]) == (1, 1, 0)


async def test_why_names_the_policy(tmp_path: Path) -> None:
    rig = Rig()
    await rig.put(running_pod("web-1", "10.244.0.2", {"app": "web"}))
    async with served(tmp_path, rig) as api:
        question = {"source": "10.0.0.1", "destination": "shop/web-1", "port": 80}
        assert (await api.call("POST", "/v1/why", question))[1]["allowed"] is True
        await api.applied(deny("closed"))
        status, answer = await api.call("POST", "/v1/why", question)
        assert (status, answer["allowed"]) == (200, False)
        assert answer["checks"][0]["ingress"]["policies"] == ["shop/closed"]
        assert answer["revision"] == api.rig.reconciler.world.revision


async def test_health_is_not_readiness(tmp_path: Path) -> None:
    async with served(tmp_path) as api:
        async with api.session.get("http://agent/readyz") as answer:
            assert (answer.status, await answer.text()) == (200, "ok\n")
        api.rig.problems.report("nft", "rules are not in place")
        async with api.session.get("http://agent/readyz") as answer:
            assert (answer.status, await answer.text()) == (503, "rules are not in place\n")
        async with api.session.get("http://agent/healthz") as answer:
            assert answer.status == 200
