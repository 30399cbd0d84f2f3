"""Open problems in words."""

from __future__ import annotations

from tests.unit.agent_rig import LOG

from fairway_agent.problems import SHOWN, Problems


def test_very_many_of_one_sort_do_not_hide_the_others() -> None:
    problems = Problems(LOG)
    for number in range(10_000):
        problems.report(f"object:Pod/shop/p{number:05}", f"p{number:05} is not understood", blocking=False)
    problems.report("nft", "rules are not in place")
    texts = problems.texts()
    assert len(texts) == SHOWN + 2 and problems.count == 10_001
    assert texts[0] == "rules are not in place" and texts[1] == "p00000 is not understood"
    assert texts[-1] == f"and {10_000 - SHOWN} more problems of this sort (object)"
    assert len(problems.open()) == 10_001
    for number in range(9_970):
        problems.clear(f"object:Pod/shop/p{number:05}")
    assert len(problems.texts()) == 31
