"""The compiler's parts: permits, address ranges, profiles, generations; and that small changes stay small."""

from __future__ import annotations

import random

import pytest

from fairway_core.delta import Delta
from fairway_core.keys import Key
from fairway_core.model import IpBlock, Meta, NetworkPolicy, Pod, PodPeer, PodPort, PolicyPort, Rule
from fairway_core.model.policy import EGRESS, INGRESS
from fairway_core.selectors import EVERYTHING as ANY_LABELS
from fairway_core.selectors import Selector, selector_from_labels
from fairway_core.world import Change, World
from fairway_kernel.nft.compiler import Compiler
from fairway_kernel.nft.objects import ElementValue, Range, Slot
from fairway_policy.cidr import Atom, BlockTable, world_permit
from fairway_policy.compiler import PolicyCompiler
from fairway_policy.generation import generation_chains, generation_elements, next_generation, read_generation
from fairway_policy.identity import Identity, IdentityTable
from fairway_policy.permit import EVERYTHING, NOTHING, named, numeric, permit, union
from fairway_policy.profile import ProfileTable, profile_elements

TCP80 = permit([("TCP", 80, 80)])
UDP = permit([("UDP", 0, 65535)])


def test_permits_are_canonical() -> None:
    assert permit([("TCP", 81, 90), ("TCP", 1, 80), ("UDP", 5, 5)]).ranges == (("TCP", 1, 90), ("UDP", 5, 5))
    assert permit([("TCP", 1, 100), ("TCP", 5, 6)]) == permit([("TCP", 1, 100)])
    assert union((UDP, TCP80, NOTHING)) == TCP80 | UDP
    assert EVERYTHING | TCP80 == EVERYTHING
    assert (TCP80 | UDP).covers(TCP80) and not TCP80.covers(UDP)


def test_all_ports_of_all_protocols_are_not_everything() -> None:
    ports = tuple(PolicyPort(protocol) for protocol in ("TCP", "UDP", "SCTP"))
    assert numeric(ports) != EVERYTHING
    assert numeric(()) == EVERYTHING


def test_port_names_need_name_and_protocol() -> None:
    ports = (PolicyPort("TCP", "dns"), PolicyPort("UDP", "http"), PolicyPort("TCP", 5))
    container = [PodPort("dns", 53, "UDP"), PodPort("dns", 54, "TCP"), PodPort("http", 80, "TCP")]
    assert named(ports, container) == permit([("TCP", 54, 54)])


def test_blocks_are_cut_into_disjoint_ranges() -> None:
    rules = [(IpBlock("10.0.0.0/24", ("10.0.0.64/26",)), EVERYTHING), (IpBlock("10.0.0.0/25"), TCP80)]
    atoms = world_permit(NOTHING, rules).atoms
    base = 10 << 24
    assert atoms == (
        Atom(4, base, base + 63, EVERYTHING),
        Atom(4, base + 64, base + 127, TCP80),
        Atom(4, base + 128, base + 255, EVERYTHING),
    )


def test_cutting_agrees_with_looking_at_every_address() -> None:
    dice = random.Random(7)
    for _round in range(50):
        rules = []
        for _rule in range(dice.randint(1, 5)):
            cidr = f"10.0.0.{dice.randrange(0, 256, 16)}/28" if dice.random() < 0.5 else "10.0.0.0/24"
            holes = tuple(f"10.0.0.{dice.randrange(0, 256, 8)}/29" for _hole in range(dice.randint(0, 3)))
            rules.append((IpBlock(cidr, holes), dice.choice((EVERYTHING, TCP80, UDP))))
        whole = world_permit(NOTHING, rules)
        for last in range(256):
            table = BlockTable()
            for block, _allowed in rules:
                for cidr in (block.cidr, *block.excepts):
                    table.add(cidr)
            around = table.around(f"10.0.0.{last}")
            expected = union(p for block, p in rules if block.cidr in around and not set(block.excepts) & set(around))
            assert whole.at(f"10.0.0.{last}") == expected


def test_the_same_permit_everywhere_is_a_plain_profile() -> None:
    assert world_permit(TCP80, [(IpBlock("0.0.0.0/0"), TCP80)]).uniform() == TCP80
    assert world_permit(NOTHING, [(IpBlock("0.0.0.0/0"), TCP80)]).uniform() is None
    both = [(IpBlock("0.0.0.0/0"), EVERYTHING), (IpBlock("::/0"), EVERYTHING)]
    table = ProfileTable()
    assert table.acquire(world_permit(NOTHING, both)) == table.acquire(EVERYTHING) == 0x8000_0001


def test_profile_ids_are_stable_and_make_way_for_others() -> None:
    first, second = ProfileTable(), ProfileTable()
    number = first.acquire(TCP80)
    assert number == second.acquire(TCP80) >= 1 << 31
    taken = ProfileTable()
    taken.learn({number: UDP})
    assert taken.acquire(TCP80) == number + 1
    assert taken.acquire(UDP) == number


def test_every_ranged_element_is_written_as_ranges() -> None:
    content = world_permit(NOTHING, [(IpBlock("10.0.0.1/32"), TCP80), (IpBlock("fd00::1/128"), EVERYTHING)])
    assert set(profile_elements(5, content)) == {
        Slot("policy_cidrport4", (5, Range("10.0.0.1", "10.0.0.1"), "tcp", Range(80, 80))),
        Slot("policy_cidr6", (5, Range("fd00::1", "fd00::1"))),
    }


def test_identity_numbers_are_not_reused() -> None:
    table = IdentityTable()
    table.learn({"10.0.0.1": 7})
    assert table.acquire(Identity("shop"), "10.0.0.1") == (7, True)
    number, born = table.acquire(Identity("bank"), "10.0.0.1")
    assert (number, born) == (8, True)
    assert table.release(number) and not table.used(number)
    table.drop(number)
    assert table.acquire(Identity("other"), "10.0.0.2") == (9, True)


def test_generations_wrap_and_say_so() -> None:
    assert next_generation(0) == (1, False)
    assert next_generation(4095) == (1, True)
    fast, stamp = generation_chains(5)
    assert fast.rules == ("ct mark & 0x00000fff == 0x005 accept",)
    assert stamp.rules == ("ct mark set ct mark & 0xfffff000 | 0x005",)
    assert all(not chain.rules for chain in generation_chains(0))
    assert read_generation(generation_elements(17)) == 17
    assert read_generation({}) == 0
    with pytest.raises(ValueError, match="4096"):
        generation_chains(4096)


def pod(number: int, app: str, namespace: str = "shop") -> Change:
    meta = Meta(f"{app}-{number}", namespace, {"app": app, "pod-template-hash": str(number)})
    return Change(meta.key("Pod"), Pod(meta, (f"10.0.{number >> 8}.{number & 255}",), phase="Running"))


def policy(name: str, subject: str, peer: str, namespace: str = "shop") -> Change:
    meta = Meta(name, namespace)
    rule = Rule((PodPeer(None, selector_from_labels({"app": peer})),), (PolicyPort("TCP", 80),))
    value = NetworkPolicy(meta, selector_from_labels({"app": subject}), frozenset({INGRESS}), (rule,))
    return Change(meta.key("NetworkPolicy"), value)


class Fed:
    """A compiler over a world of 300 pods in 30 identities and 30 policies."""

    def __init__(self) -> None:
        self.compiler = PolicyCompiler()
        self.world = World(derive_endpoints=False)
        pods = [pod(number, f"app{number % 30}") for number in range(300)]
        self.feed(*pods, *(policy(f"p{n}", f"app{n}", f"app{(n + 1) % 30}") for n in range(30)))

    def feed(self, *changes: Change) -> dict[tuple[str, ...], dict[Slot, ElementValue]]:
        after, touched = self.world.apply(changes, self.world.revision + 1)
        out = self.compiler.update(self.world, after, touched)
        self.world = after
        return {owner: dict(elements) for owner, elements in out.items()}


def test_the_compiler_is_a_compiler() -> None:
    compiler: Compiler = PolicyCompiler()
    assert compiler.layout == PolicyCompiler().layout


def test_a_pod_of_a_known_identity_is_three_elements() -> None:
    out = Fed().feed(pod(999, "app3"))
    assert set(out) == {("policy", "address", "shop", "app3-999")}
    assert len(next(iter(out.values()))) == 3


def test_labels_nobody_selects_by_do_not_matter() -> None:
    fed = Fed()
    change = pod(3, "app3")
    assert isinstance(change.value, Pod)
    relabelled = Meta("app3-3", "shop", {**change.value.meta.labels, "pod-template-hash": "new"})
    assert fed.feed(Change(change.key, Pod(relabelled, change.value.ips, phase="Running"))) == {}


def test_a_policy_is_its_subjects_pairs() -> None:
    fed = Fed()
    out = fed.feed(policy("extra", "app3", "app9"))
    assert {owner[1] for owner in out} == {"pair"}
    assert len(out) == 1
    assert fed.feed(Change(Key("NetworkPolicy", "shop", "extra"), None)).keys() == out.keys()


def test_a_namespace_of_many_applications_is_not_tried_against_all_its_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Identity] = []
    real = Identity.matches

    def matches(self: Identity, pods: Selector | None, namespaces: Selector | None) -> bool:
        tried.append(self)
        return real(self, pods, namespaces)

    monkeypatch.setattr(Identity, "matches", matches)
    fed = Fed()
    # Of 30 policies and 30 identities each has one subject and one peer.
    assert len(tried) <= 2 * 30
    tried.clear()
    fed.feed(pod(1002, "app30"), policy("p30", "app30", "app1"))
    assert len(tried) <= 4


def test_another_tenants_labels_split_nobody() -> None:
    out = Fed().feed(pod(1000, "x", "bank"), policy("b", "x", "x", "bank"), policy("c", "x", "pod-template-hash", "bank"))
    assert {owner[2] for owner in out if owner[1] == "address"} == {"bank"}


def test_a_rule_for_everybody_makes_no_pairs() -> None:
    meta = Meta("open", "shop")
    value = NetworkPolicy(meta, ANY_LABELS, frozenset({EGRESS}), (), (Rule((), (PolicyPort("TCP", 443),)),))
    out = Fed().feed(Change(meta.key("NetworkPolicy"), value))
    assert not any(owner[1] == "pair" for owner in out)
    assert sum(owner[1] == "subject" for owner in out) == 30


def test_deleting_a_pod_without_privileges_takes_no_rights() -> None:
    fed = Fed()
    fed.feed(pod(1001, "plain", "bank"))
    fed.feed(Change(Key("Pod", "bank", "plain-1001"), None))
    gone: Delta[Slot, ElementValue] = Delta(delete={Slot("policy_source4", ("10.0.3.233",)): (31,)})
    assert not fed.compiler.tightens(gone)
    privileged: Delta[Slot, ElementValue] = Delta(delete={Slot("policy_source4", ("10.0.0.4",)): (5,)})
    assert fed.compiler.tightens(privileged)
