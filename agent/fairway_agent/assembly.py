"""The composition root: every part is made here, handed what it needs, started and stopped in order. No logic."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from fairway_agent.api.cni import CniRoutes
from fairway_agent.api.dns import DnsRoutes
from fairway_agent.api.insight import HealthRoutes, InsightRoutes
from fairway_agent.api.objects import ObjectRoutes
from fairway_agent.api.server import application, serve_tcp, serve_unix
from fairway_agent.cluster import learn
from fairway_agent.cluster_dns import ClusterDns, ServedAddresses, listener
from fairway_agent.config import Config
from fairway_agent.control import AgentControl
from fairway_agent.dataplane import Dataplane
from fairway_agent.dnstop import DnsTop
from fairway_agent.drift import Drift
from fairway_agent.egress import LearnedAddresses
from fairway_agent.flows import forget_addresses, forget_unserved
from fairway_agent.freshness import Freshness, Progress
from fairway_agent.health_server import HealthServer, place_of
from fairway_agent.lag import beat
from fairway_agent.live import DNS, NFT, LiveRevisions
from fairway_agent.metrics import AddressCollector, GapCollector, LiveCollector, Metrics, ProblemCollector, RuleCollector
from fairway_agent.metrics_dns import SupervisorCollector, WorkerCollector
from fairway_agent.names import Names
from fairway_agent.node import Node
from fairway_agent.objects import Objects
from fairway_agent.own_node import OwnNode, OwnNodeCollector
from fairway_agent.problems import Problems
from fairway_agent.propagation import Propagation
from fairway_agent.queryfile import QueryFile, pod_titles
from fairway_agent.reconcile import Reconciler
from fairway_agent.reports import Reports
from fairway_agent.resolving import Resolving
from fairway_agent.routes import PeerCollector, PeerRouting, Surroundings, after
from fairway_agent.starting import WAITING, EarlyServer, Starting
from fairway_agent.status import Status
from fairway_agent.worker_config import RESOLV_CONF, launcher_of, started_workers, worker_config
from fairway_cni.attach import Attacher
from fairway_cni.compile import PinCompiler
from fairway_cni.handler import CniHandler
from fairway_cni.ipam import AddressPool
from fairway_cni.plan import NodeFacts
from fairway_cni.recover import Recoverer
from fairway_cni.spool import Spool
from fairway_cni.wires import Kernel
from fairway_core.clock import SystemClock
from fairway_dns.compile import ZoneCompiler
from fairway_dns.config import WorkerConfig
from fairway_dns.egress import EgressCompiler
from fairway_dns.feed import ZoneFeed
from fairway_dns.rules import DnsRulesCompiler
from fairway_dns.supervise import WorkerSupervisor
from fairway_dns.viewcompile import ViewCompiler, ViewRules
from fairway_dns.visibility import ALL, POLICY
from fairway_dns.watch import EgressRules, NoEgressRules
from fairway_kernel import netns
from fairway_kernel.conntrack import Conntrack
from fairway_kernel.link.manager import KernelLinks
from fairway_kernel.link.monitor import LinkMonitor
from fairway_kernel.nft.counters import CounterReader
from fairway_kernel.nft.libnft import LibnftablesRunner
from fairway_kernel.nft.monitor import NftMonitor
from fairway_kernel.sole import claim
from fairway_kernel.sysctl import Sysctls
from fairway_policy.compiler import PolicyCompiler
from fairway_proxy.compile import ServiceCompiler
from fairway_store.api import Store
from fairway_store.open import ClusterOptions, open_store, open_writer

SOLE = "fairway-agent"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Agent:
    """One node's agent. `run` ends when it is cancelled, or raises what made going on impossible."""

    def __init__(self, config: Config, log: logging.Logger, egress: EgressRules | None = None) -> None:
        """`egress` tells which names open ways out for whom; no policy does that yet."""
        self._egress = egress or NoEgressRules()
        self._egress_rules = EgressCompiler(self._egress)
        self._config = config
        self._log = log
        self._clock = SystemClock()
        self._metrics = Metrics()
        self._propagation = Propagation([NFT, DNS], self._metrics.observe_propagation, self._clock)
        self._live = LiveRevisions([NFT, DNS], self._propagation.live)
        self._policy = PolicyCompiler()
        self._problems = Problems(log.getChild("problems"))
        self._reports = Reports(config.node.name, self._problems, self._metrics, self._clock, log.getChild("reports"))

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Serve until cancelled; `on_ready` is called once the first state is live and the sockets listen."""
        async with AsyncExitStack() as stack:
            # Two that know nothing of each other would take each other's rules and links away.
            stack.callback((await asyncio.to_thread(claim, SOLE)).close)
            given_dns = tuple(self._config.dns.listen)
            store, early = await self._begin(stack)
            links = KernelLinks()
            stack.callback(links.close)
            conntrack = Conntrack()
            reconciler = self._reconciler(store, conntrack)
            stack.callback(reconciler.close)
            self._reports.follow_pods(reconciler, self._config.node.podCIDRs)
            node = self._node(links)
            reconciler.subscribe(node)
            supervisors: list[WorkerSupervisor] = []
            cluster_dns = self._cluster_dns(given_dns, node, supervisors, reconciler)
            if self._clustered:
                reconciler.subscribe(cluster_dns)
                reconciler.subscribe(self._own_node())
            peers = self._peers(links)
            reconciler.subscribe(peers)
            health = await self._health(stack, reconciler)
            reconciler.subscribe(health)
            feed = await self._feed(stack, reconciler)
            names = self._names(feed, reconciler)
            reconciler.subscribe(names)
            learned = self._learned(feed, reconciler)
            reconciler.subscribe(learned)
            objects = Objects(store, reconciler, self._config.cluster.serviceCIDRs, read_only=self._clustered)
            async with asyncio.TaskGroup() as group:
                telling = self._reports.run(store, reconciler)
                late = beat(self._metrics.lag.observe, self._clock)
                for work in (late, reconciler.run(), names.run(), health.run(), telling):
                    group.create_task(work)
                await reconciler.synced.wait()
                group.create_task(learned.run())
                await names.told()
                await asyncio.to_thread(node.ensure)
                await peers.ensure()
                group.create_task(peers.run())
                async for supervisor in started_workers(self._workers(feed), self._config, self._problems):
                    supervisors.append(supervisor)
                    stack.push_async_callback(supervisor.detach)
                group.create_task(cluster_dns.run())
                attacher, recoverer = self._attachments(store, reconciler, links, conntrack)
                await recoverer.run()
                mend, log = after(peers, recoverer.run), self._log.getChild("drift")
                drift = Drift(NftMonitor(), LinkMonitor(), reconciler, node, mend, self._metrics, log)
                group.create_task(drift.run())
                resolving = Resolving(self._worker_config(), feed, lambda: reconciler.world)
                cni = CniHandler(attacher, self._log.getChild("cni"))
                await early.close()
                await self._serve(stack, reconciler, objects, cni, DnsRoutes(resolving, DnsTop(feed, self._clock)))
                on_ready()

    @property
    def _clustered(self) -> bool:
        return self._config.store.kind == "kubernetes"

    @property
    def _scoped(self) -> bool:
        """Whether names are hidden from anybody."""
        return self._config.dns.visibility != ALL

    async def _begin(self, stack: AsyncExitStack) -> tuple[Store, EarlyServer]:
        """The store, and the configuration as the cluster completes it. Until the server is closed it says what is waited for."""
        self._make_directories()
        state = Starting(self._config.node.name, version("fairway"), self._problems)
        early = EarlyServer(state, self._metrics, self._log.getChild("api"))
        stack.push_async_callback(early.close)
        if self._clustered:
            await early.open(self._config.paths.socket, self._config.metrics.listen)
        store = await self._open_store()
        stack.push_async_callback(store.close)
        stack.push_async_callback(self._reports.close)
        if self._clustered:
            await self._learn(store)
        return store, early

    async def _learn(self, store: Store) -> None:
        def say(text: str) -> None:
            if text:
                self._problems.report(WAITING, text)
            else:
                self._problems.clear(WAITING)

        telling = asyncio.create_task(self._reports.while_waiting(store, WAITING))
        try:
            self._config = await learn(self._config, store, self._log.getChild("cluster"), say)
        finally:
            telling.cancel()
            await asyncio.wait({telling})

    async def _open_store(self) -> Store:
        given = self._config.store

        def report(kind: str, fault: str) -> None:
            if fault:
                self._problems.report(f"store:{kind}", fault, blocking=False)
            else:
                self._problems.clear(f"store:{kind}")

        log = self._log.getChild("store")
        options = ClusterOptions(report, log, given.kubeconfig, given.context, tuple(given.servers))
        if self._clustered and given.report:
            self._reports.use(open_writer(options))
        return await open_store(given.kind, self._config.paths.database, options)

    def _make_directories(self) -> None:
        paths = self._config.paths
        for directory in (paths.state, paths.run, paths.spool):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _reconciler(self, store: Store, conntrack: Conntrack) -> Reconciler:
        config = self._config
        cidrs = tuple(config.node.podCIDRs)
        log = self._log.getChild("reconcile")
        self._dns_rules = DnsRulesCompiler(tuple(config.dns.listen), config.dns.port)
        dataplane = Dataplane(
            LibnftablesRunner(),
            ServiceCompiler(config.node.name, cidrs),
            self._policy,
            (PinCompiler(cidrs, config.node.nonMasqueradeCIDRs), self._dns_rules, self._egress_rules),
            conntrack,
            log,
        )
        counters = CounterReader(dataplane.chains)
        self._metrics.registry.register(RuleCollector(counters.read))
        return Reconciler(
            store,
            dataplane,
            self._live,
            self._problems,
            self._metrics,
            self._clock,
            log,
            clustered=self._clustered,
            gaps=self._reports.gaps,
            committed=self._propagation.seen,
        )

    def _node(self, links: KernelLinks) -> Node:
        config = self._config
        log = self._log.getChild("node")
        return Node(links, Sysctls(), config.dns.listen, config.cluster.serviceCIDRs, self._problems, log)

    def _own_node(self) -> OwnNode:
        own = OwnNode(self._config.node.name, self._config.node.podCIDRs, self._problems)
        self._metrics.registry.register(OwnNodeCollector(own))
        return own

    def _cluster_dns(
        self, given: Sequence[str], node: Node, workers: Sequence[WorkerSupervisor], reconciler: Reconciler
    ) -> ClusterDns:
        def rules(addresses: tuple[str, ...]) -> None:
            self._dns_rules.serve(addresses)
            reconciler.request_verify()

        served = ServedAddresses(given, self._config.dns.listen)
        listen = listener(node, workers, self._worker_argv)
        return ClusterDns(served, listen, rules, self._problems, self._log.getChild("dns"))

    def _peers(self, links: KernelLinks) -> PeerRouting:
        config = self._config
        own, services = tuple(config.node.podCIDRs), tuple(config.cluster.serviceCIDRs)
        here = Surroundings(config.node.name, own, services, config.routes_peers)
        peers = PeerRouting(links, here, self._problems, self._log.getChild("routes"))
        self._metrics.registry.register(PeerCollector(peers))
        return peers

    async def _health(self, stack: AsyncExitStack, reconciler: Reconciler) -> HealthServer:
        def progress() -> Progress:
            return Progress(reconciler.world.revision, self._live.snapshot()[NFT], bool(self._problems.text(NFT)))

        node, freshness = self._config.node.name, Freshness(self._clock, progress)
        health = HealthServer(node, place_of(self._config.health_address), freshness, self._clock, self._problems)
        stack.push_async_callback(health.close)
        await health.start()
        return health

    async def _feed(self, stack: AsyncExitStack, reconciler: Reconciler) -> ZoneFeed:
        log = self._log.getChild("dns")
        feed = ZoneFeed(self._config.paths.feed, log, scoped=self._scoped)
        queries = QueryFile(self._config.paths.queries, pod_titles(lambda: reconciler.world), log)
        stack.callback(queries.close)
        feed.queries = queries.take
        await feed.start()
        stack.push_async_callback(feed.close)
        return feed

    def _learned(self, feed: ZoneFeed, reconciler: Reconciler) -> LearnedAddresses:
        learned = LearnedAddresses(self._egress, self._egress_rules, reconciler.commit_beside, self._clock, self._problems)
        feed.learned = learned.learn
        return learned

    def _names(self, feed: ZoneFeed, reconciler: Reconciler) -> Names:
        config = self._config
        listen = tuple(config.dns.listen)
        compiler = ZoneCompiler(config.cluster.domain, listen, scoped=self._scoped)
        rules = ViewRules(config.dns.visibility, config.dns.completion, config.node.name, listen)
        views = ViewCompiler(rules, self._policy.reach() if rules.visibility == POLICY else None, self._egress)
        self._metrics.registry.register(LiveCollector(self._live))
        self._metrics.registry.register(WorkerCollector(feed))
        self._metrics.registry.register(ProblemCollector(self._problems))
        self._metrics.registry.register(GapCollector(self._reports.gaps))
        return Names(compiler, views, feed, self._live, self._problems, reconciler.call)

    def _workers(self, feed: ZoneFeed) -> list[WorkerSupervisor]:
        paths, log = self._config.paths, self._log.getChild("dns")
        listen = tuple(self._config.dns.listen)
        launcher = launcher_of(self._config)
        made = [
            WorkerSupervisor(self._worker_argv(number, listen), paths.run / f"dns-{number}.pid", log, feed, launcher=launcher)
            for number in range(self._config.dns.workers)
        ]
        self._metrics.registry.register(SupervisorCollector(made))
        return made

    def _worker_argv(self, number: int, listen: tuple[str, ...]) -> Sequence[str]:
        worker = replace(self._worker_config(), listen=listen, state=str(self._config.paths.state / f"zone-{number}.json"))
        return worker.argv(sys.executable)

    def _worker_config(self) -> WorkerConfig:
        return worker_config(self._config, RESOLV_CONF, version("fairway"), self._scoped)

    def _attachments(
        self, store: Store, reconciler: Reconciler, links: KernelLinks, conntrack: Conntrack
    ) -> tuple[Attacher, Recoverer]:
        config = self._config
        log = self._log.getChild("cni")
        control = AgentControl(store, reconciler, self._live, self._not_ready, log, owns_pods=not self._clustered)
        pool = AddressPool(config.node.podCIDRs)
        pool.adopt((ip, item.meta.name) for item in reconciler.world.attachments() for ip in item.ips)
        self._metrics.registry.register(AddressCollector(pool.counts))
        facts = NodeFacts(
            node=config.node.name,
            boot_id=BOOT_ID.read_text().strip(),
            host_netns=_identify(netns.OWN),
            cluster_domain=config.cluster.domain,
            nameservers=tuple(config.dns.listen),
        )
        kernel = Kernel(links, _identify, partial(forget_addresses, conntrack), partial(forget_unserved, conntrack))
        spool = Spool(config.paths.spool, log)
        attacher = Attacher(control, kernel, pool, facts, spool, log)
        return attacher, Recoverer(control, kernel, attacher, spool, log)

    def _not_ready(self) -> str:
        return self._problems.text("nft")

    async def _serve(
        self, stack: AsyncExitStack, reconciler: Reconciler, objects: Objects, cni: CniHandler, dns: DnsRoutes
    ) -> None:
        config, log = self._config, self._log.getChild("api")
        status = Status(config.node.name, version("fairway"), reconciler, self._live, self._problems)
        health = HealthRoutes(status, self._metrics).routes()
        plugin = CniRoutes(cni, self._metrics, self._clock, self._reports.add_failed)
        routes = [
            *health,
            *dns.routes(),
            *InsightRoutes(status, self._live, reconciler, dns.resolving.hidden).routes(),
            *ObjectRoutes(objects).routes(),
            *plugin.routes(),
        ]
        runner = await serve_unix(application(routes, log), config.paths.socket, plugin.carry_out, log)
        stack.callback(config.paths.socket.unlink, missing_ok=True)
        stack.push_async_callback(runner.cleanup)
        if config.metrics.listen:
            host, _, port = config.metrics.listen.rpartition(":")
            metrics = await serve_tcp(application(health, log), host.strip("[]"), int(port))
            stack.push_async_callback(metrics.cleanup)


def _identify(path: str) -> str:
    device, inode = netns.identity(path)
    return f"{device}:{inode}"
