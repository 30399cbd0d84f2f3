"""Address plugins of others: what they are told, and what becomes of their errors, silence and slowness."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from tests.lab.peer import NAME, ScriptedPlugin

from fairway_cni import faults
from fairway_cni.delegate import AddressPlugins, Delegation
from fairway_cni.faults import CniError
from fairway_cni.health import PluginHealth


@pytest.fixture
def plugin(tmp_path: Path) -> ScriptedPlugin:
    return ScriptedPlugin(tmp_path)


def told(plugin: ScriptedPlugin, **conf: Any) -> Delegation:
    return Delegation(NAME, f"/nowhere:{plugin.directory}", "A=b", json.dumps({"name": "n", **conf}))


async def test_a_failed_add_is_undone_by_the_plugins_own_del(plugin: ScriptedPlugin) -> None:
    plugin.fails("ADD", 11, "busy")
    with pytest.raises(CniError, match="busy") as caught:
        await AddressPlugins().add(told(plugin), "c1", "/n/1", "eth0")
    assert caught.value.code == faults.TRY_LATER
    assert plugin.calls == [f"{verb} id=c1 netns=/n/1 ifname=eth0 args=A=b" for verb in ("ADD", "DEL")]


@pytest.mark.parametrize("answer", [{}, {"ips": []}, {"ips": "x"}, {"ips": [{"address": "nonsense"}]}, [1]])
async def test_a_result_that_means_nothing_is_given_back(plugin: ScriptedPlugin, answer: Any) -> None:
    plugin.answers("ADD", answer)
    with pytest.raises(CniError):
        await AddressPlugins().add(told(plugin), "c1", "/n/1", "eth0")
    assert plugin.verbs == ["ADD", "DEL"]


async def test_one_that_hangs_is_ended_with_what_it_started(plugin: ScriptedPlugin) -> None:
    plugin.answers("CHECK", {}, after=77.25)
    started = time.monotonic()
    with pytest.raises(CniError, match="does not answer") as caught:
        await AddressPlugins(0.3).check(told(plugin), "c1", "/n/1", "eth0")
    assert (caught.value.code, time.monotonic() - started < 20) == (faults.TRY_LATER, True)
    for _ in range(200):
        if not any(b"77.25" in line for line in command_lines()):
            return
        await asyncio.sleep(0.05)
    raise AssertionError("its child lives on")


def command_lines() -> list[bytes]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes())
        except OSError:
            continue
    return found


async def test_one_that_is_too_old_for_status_counts_as_able(plugin: ScriptedPlugin) -> None:
    plugin.fails("STATUS", 4, "unknown CNI_COMMAND: STATUS")
    await AddressPlugins().status(told(plugin))


class Answers:
    """A plugin's STATUS under the test's control."""

    def __init__(self) -> None:
        self.asked = 0
        self.go = asyncio.Event()
        self.fault: CniError | None = None

    async def __call__(self, what: Delegation) -> None:
        self.asked += 1
        await self.go.wait()
        if self.fault:
            raise self.fault


async def test_health_is_the_plugins_answer_if_it_comes_in_time(plugin: ScriptedPlugin) -> None:
    answers = Answers()
    answers.go.set()
    health = PluginHealth(answers, patience=20)
    await health.look("n", told(plugin))
    answers.fault = CniError(faults.LIMITED, "full")
    with pytest.raises(CniError, match="full"):
        await health.look("n", told(plugin))
    assert answers.asked == 2


async def test_health_waits_for_nobody(plugin: ScriptedPlugin) -> None:
    answers = Answers()
    health = PluginHealth(answers, patience=0.01)
    for _ in range(3):
        with pytest.raises(CniError, match="does not answer") as caught:
            await health.look("n", told(plugin))
        assert caught.value.code == faults.NOT_AVAILABLE
    assert answers.asked == 1, "one question at a time"
    answers.go.set()
    await asyncio.sleep(0.05)
    answers.go.clear()
    await health.look("n", told(plugin))
    await health.look("n", told(plugin))
    assert answers.asked == 2, "a late answer stands in for one that is later still"
    with pytest.raises(CniError, match="does not answer"):
        await health.look("n", told(plugin, changed=1))


async def test_health_does_not_believe_old_answers(plugin: ScriptedPlugin) -> None:
    answers = Answers()
    answers.go.set()
    health = PluginHealth(answers, patience=0.01, fresh=0.0)
    await health.look("n", told(plugin))
    answers.go.clear()
    with pytest.raises(CniError, match="does not answer"):
        await health.look("n", told(plugin))
