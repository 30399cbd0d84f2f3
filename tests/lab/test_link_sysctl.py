"""Kernel settings of one namespace, and of no other."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fairway_core.errors import KernelError
from fairway_kernel.sysctl import Sysctls, setting_path

pytestmark = pytest.mark.needs_root

FORWARD = "net.ipv4.ip_forward"


def test_ensure_tells_what_it_changed_and_stays_in_its_namespace(namespaces: Callable[[str], str]) -> None:
    one, other = Sysctls(namespaces("one")), Sysctls(namespaces("other"))
    assert one.ensure({FORWARD: "1", "net/ipv4/conf/lo/rp_filter": "1"}) == {FORWARD: "0", "net/ipv4/conf/lo/rp_filter": "0"}
    assert one.ensure({FORWARD: "1"}) == {}
    assert (one.read(FORWARD), other.read(FORWARD)) == ("1", "0")


def test_lists_are_compared_by_their_values(namespace: str) -> None:
    settings = Sysctls(namespace)
    assert settings.write("net.ipv4.ping_group_range", "0 100")
    assert settings.ensure({"net.ipv4.ping_group_range": "0   100"}) == {}


def test_missing_settings_are_recorded(namespace: str) -> None:
    settings = Sysctls(namespace)
    assert settings.ensure({"net.ipv4.no_such": "1", FORWARD: "1"}) == {FORWARD: "0"}
    assert settings.missing == {"net.ipv4.no_such"}
    assert settings.read("net.ipv4.no_such") is None
    assert settings.write("net.ipv4.no_such", "1") is False
    settings.ensure({FORWARD: "1"})
    assert settings.missing == frozenset()


def test_a_refused_value_is_an_error(namespace: str) -> None:
    with pytest.raises(KernelError):
        Sysctls(namespace).write(FORWARD, "no number")


@pytest.mark.parametrize("name", ["kernel.panic", "net", "net/../kernel/panic", "net..ipv4", "net/ipv4/./x"])
def test_only_network_settings(name: str) -> None:
    with pytest.raises(ValueError, match="not a network setting"):
        setting_path(name)
