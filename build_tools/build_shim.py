"""Build step of the wheel: compile the CNI shim, one static C file, into the package."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = "cni/shim/shim.c"
TARGET = "cni/fairway_cni/fairway-shim"
FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-s")


class ShimBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Compiles the shim before the wheel (or the editable install) is put together."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        target = root / TARGET
        subprocess.run([_compiler(), *FLAGS, "-o", str(target), str(root / SOURCE)], check=True)
        build_data["artifacts"].append(TARGET)
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def _compiler() -> str:
    """musl's where it is installed: a static program of it starts in half the time of glibc's, and every call is a start."""
    return "musl-gcc" if shutil.which("musl-gcc") else "cc"
