"""Run the demonstration: `python -m fairway_netlab.demo`. Exit code 1 if a promise did not hold."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from fairway_netlab.demo import tenants
from fairway_netlab.demo.runtimes import show_runtimes
from fairway_netlab.demo.story import Story
from fairway_netlab.lab import Lab, up
from fairway_netlab.topology import parse_topology


def main() -> int:
    """Build, show, tear down."""
    story = Story()
    with story.step("A node, two tenants, six containers attached through the CNI plugin"):
        lab = up(parse_topology("lab.yaml", tenants.resource("lab.yaml")), say=story.tell)
    try:
        _tell(lab, story)
    finally:
        lab.down()
    return story.end()


def _tell(lab: Lab, story: Story) -> None:
    with story.step("Services are declared"):
        tenants.apply_file(lab, story, "services.yaml")
    with story.step("Names, asked from inside the containers"):
        tenants.show_names(lab, story)
    with story.step(f"{tenants.CONNECTIONS} connections to http://web, per family"):
        tenants.show_spread(lab, story)
    with story.step("Who reaches whom before there is a policy"):
        tenants.show_isolation(lab, story, isolated=False)
    with story.step("Payments is closed but for what it needs"):
        tenants.apply_file(lab, story, "policy.yaml")
    with story.step("Who reaches whom now"):
        tenants.show_isolation(lab, story, isolated=True)
    with story.step("Why?"):
        tenants.show_why(lab, story)
    with tempfile.TemporaryDirectory(prefix="fairway-demo-") as work:
        show_runtimes(lab, story, Path(work))


if __name__ == "__main__":
    sys.exit(main())
