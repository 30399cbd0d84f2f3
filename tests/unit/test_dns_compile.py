"""World -> zone records: the Kubernetes DNS specification, and what we add to it."""

from __future__ import annotations

from fairway_core.model import Attachment, Endpoint, EndpointSlice, Meta, Pod, Service, ServicePort, SlicePort
from fairway_core.selectors import selector_from_labels
from fairway_core.world import Change, World
from fairway_dns.compile import ZoneCompiler
from fairway_dns.zone import Record

Z = "cluster.local"
WEB = Service(
    Meta("web", "shop"),
    cluster_ips=("10.96.0.10", "fd00:10:96::a"),
    ports=(ServicePort(80, "TCP", "http"), ServicePort(9000, "UDP", "")),
)


def compiled(*objects: tuple[str, object], domain: str = Z, nameservers: tuple[str, ...] = ()) -> frozenset[Record]:
    changes = [Change(item.meta.key(kind), item) for kind, item in objects]  # type: ignore[attr-defined,arg-type]
    world, touched = World().apply(changes, 1)
    compiler = ZoneCompiler(domain, nameservers)
    compiler.update(World(), world, touched)
    return compiler.records


def headless(**more: object) -> Service:
    return Service(Meta("db", "shop"), headless=True, ports=(ServicePort(5432, "TCP", "pg"),), **more)  # type: ignore[arg-type]


def slices(*endpoints: Endpoint, family: int = 4) -> EndpointSlice:
    return EndpointSlice(Meta(f"db-{family}", "shop"), "db", family, endpoints, (SlicePort("pg", 5432),))


def test_virtual_ip_has_both_families_srv_for_named_ports_and_ptr() -> None:
    assert compiled(("Service", WEB)) == {
        Record(Z, "NS", f"ns.dns.{Z}"),
        Record(f"dns-version.{Z}", "TXT", "1.1.0"),
        Record(f"web.shop.svc.{Z}", "A", "10.96.0.10"),
        Record(f"web.shop.svc.{Z}", "AAAA", "fd00:10:96::a"),
        Record("10.0.96.10.in-addr.arpa", "PTR", f"web.shop.svc.{Z}"),
        Record("a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa", "PTR", f"web.shop.svc.{Z}"),
        Record(f"_http._tcp.web.shop.svc.{Z}", "SRV", f"0 100 80 web.shop.svc.{Z}"),
    }


def test_headless_has_ready_endpoints_only_with_given_or_made_hostnames() -> None:
    found = compiled(
        ("Service", headless()),
        (
            "EndpointSlice",
            slices(
                Endpoint(("10.244.0.5",), hostname="db-0"),
                Endpoint(("10.244.0.6",)),
                Endpoint(("10.244.0.7",), ready=False),
            ),
        ),
        ("EndpointSlice", slices(Endpoint(("fd00::5",), hostname="db-0"), family=6)),
    )
    name = f"db.shop.svc.{Z}"
    assert {r for r in found if r.name == name} == {
        Record(name, "A", "10.244.0.5"),
        Record(name, "A", "10.244.0.6"),
        Record(name, "AAAA", "fd00::5"),
    }
    assert Record(f"db-0.{name}", "AAAA", "fd00::5") in found
    assert Record(f"10-244-0-6.{name}", "A", "10.244.0.6") in found
    assert Record("5.0.244.10.in-addr.arpa", "PTR", f"db-0.{name}") in found
    assert {r.data for r in found if r.type == "SRV"} == {f"0 100 5432 db-0.{name}", f"0 100 5432 10-244-0-6.{name}"}
    assert not any("10.244.0.7" in r.data or r.name.startswith("7.") for r in found)


def test_publish_not_ready_addresses_is_honoured() -> None:
    unready = slices(Endpoint(("10.244.0.7",), ready=False))
    assert Record(f"db.shop.svc.{Z}", "A", "10.244.0.7") in compiled(
        ("Service", headless(publish_not_ready=True)), ("EndpointSlice", unready)
    )


def test_derived_endpoints_carry_hostnames_of_the_subdomain() -> None:
    pod = Pod(Meta("db-0", "shop", {"app": "db"}), ("10.244.0.9",), phase="Running", ready=True, hostname="first", subdomain="db")
    found = compiled(("Service", headless(selector=selector_from_labels({"app": "db"}))), ("Pod", pod))
    assert Record(f"first.db.shop.svc.{Z}", "A", "10.244.0.9") in found
    assert Record(f"10-244-0-9.shop.pod.{Z}", "A", "10.244.0.9") in found


def test_external_name_is_a_cname_and_nonsense_is_left_out() -> None:
    good = Service(Meta("mail", "shop"), type="ExternalName", external_name="Mail.Example.COM.")
    bad = Service(Meta("bad", "shop"), type="ExternalName", external_name="no spaces allowed")
    found = compiled(("Service", good), ("Service", bad))
    assert Record(f"mail.shop.svc.{Z}", "CNAME", "mail.example.com") in found
    assert not any(r.name.startswith("bad.") for r in found)


def test_pod_names_exist_only_for_pods_on_the_pod_network() -> None:
    running = Pod(Meta("a", "shop"), ("10.244.0.5", "fd00::5"), phase="Running")
    done = Pod(Meta("b", "shop"), ("10.244.0.6",), phase="Succeeded")
    host = Pod(Meta("c", "shop"), ("192.168.1.1",), phase="Running", host_network=True)
    found = {r for r in compiled(("Pod", running), ("Pod", done), ("Pod", host)) if ".pod." in r.name}
    assert found == {
        Record(f"10-244-0-5.shop.pod.{Z}", "A", "10.244.0.5"),
        Record(f"fd00--5.shop.pod.{Z}", "AAAA", "fd00::5"),
    }


def attachment(name: str, ip: str, *aliases: str) -> Attachment:
    return Attachment(Meta(name), "fairway", name, "eth0", "/x", "shop", name, "fw1", "02:00:00:00:00:01", (ip,), aliases=aliases)


def test_containers_with_one_alias_share_its_name() -> None:
    one, two = attachment("c1", "10.244.0.5", "Cache", "bad alias"), attachment("c2", "10.244.0.6", "cache")
    found = {r for r in compiled(("Attachment", one), ("Attachment", two)) if ".pod." in r.name}
    assert found == {Record(f"cache.shop.pod.{Z}", "A", ip) for ip in ("10.244.0.5", "10.244.0.6")}


def test_deltas_follow_changes_and_undo_them() -> None:
    compiler = ZoneCompiler(nameservers=("169.254.20.10", "fd00::53"))
    empty = World()
    one, touched = empty.apply([Change(WEB.meta.key("Service"), WEB)], 1)
    first = compiler.update(empty, one, touched)
    assert Record(f"ns.dns.{Z}", "AAAA", "fd00::53") in first.add
    moved = Service(WEB.meta, cluster_ips=("10.96.0.11",), ports=WEB.ports)
    two, touched = one.apply([Change(WEB.meta.key("Service"), moved)], 2)
    second = compiler.update(one, two, touched)
    assert Record(f"web.shop.svc.{Z}", "A", "10.96.0.11") in second.add
    assert Record(f"web.shop.svc.{Z}", "A", "10.96.0.10") in second.remove
    assert not any(r.type == "SRV" for r in second.add | second.remove)
    three, touched = two.apply([Change(WEB.meta.key("Service"), None)], 3)
    compiler.update(two, three, touched)
    assert compiler.records == ZoneCompiler(nameservers=("169.254.20.10", "fd00::53")).records | {
        r for r in first.add if not r.name.startswith(("web.", "_http.")) and not r.name.endswith(".arpa")
    }


def test_an_update_that_concerns_no_name_is_empty() -> None:
    compiler = ZoneCompiler()
    world, touched = World().apply([Change(WEB.meta.key("Service"), WEB)], 1)
    compiler.update(World(), world, touched)
    assert not compiler.update(world, world, touched)
