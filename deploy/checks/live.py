"""The checks with real processes: a cluster started as the chart starts it, a real Prometheus that scrapes it, and every expression
of rules, dashboard and autoscalers asked of that Prometheus."""

import contextlib
import json
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.parse
from pathlib import Path

import yaml

import rules
from cluster import NAMESPACE, RELEASE, SHARDS, Cluster, ends_with_us, free_port, get, kubelet, within
from report import none
from tools import CHART, binary, helms, prometheus, quiet


class Prometheus:
    def __init__(self, bin, folder, targets, kubelet_port):
        self.port = free_port()
        folder = Path(folder)
        (folder / "rules.yaml").write_text(yaml.safe_dump(rules.rendered()))
        scrapes = [{"job_name": "flotilla", "static_configs": [{"targets": [at], "labels": labels} for at, labels in targets]},
                   {"job_name": "kubelet", "honor_labels": True, "static_configs": [{"targets": [f"127.0.0.1:{kubelet_port}"]}]}]
        (folder / "prometheus.yaml").write_text(yaml.safe_dump({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"], "scrape_configs": scrapes}))
        log = open(folder / "prometheus.log", "w")
        self.process = subprocess.Popen(
            [str(bin / "prometheus"), "--config.file=prometheus.yaml", f"--storage.tsdb.path={folder / 'tsdb'}",
             f"--web.listen-address=127.0.0.1:{self.port}"], cwd=folder, stdout=log, stderr=log, start_new_session=True, preexec_fn=ends_with_us)
        log.close()
        within(30, "Prometheus ready", lambda: "Ready" in get(f"http://127.0.0.1:{self.port}/-/ready"))

    def ask(self, expression):
        answer = json.loads(get(f"http://127.0.0.1:{self.port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})))
        assert answer["status"] == "success", answer
        return answer["data"]["result"]

    def rules(self):
        groups = json.loads(get(f"http://127.0.0.1:{self.port}/api/v1/rules"))["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def never_empty(expression):
    """An alert's expression, made to answer where all is well: comparisons give 0 or 1, what is missing is asked for itself."""
    text = re.sub(r"\s(>=|<=|==|!=|>|<)\s(?=[0-9$a-z(])", r" \1 bool ", expression)
    text = re.sub(r"^absent\((.*)\)$", r"\1", text.strip())
    return re.sub(r"\bunless\b", "and", text)


def keda_queries():
    there, _ = helms()
    if not there:
        return
    code, said = quiet(str(there[-1][1]), "template", RELEASE, str(CHART), "-n", NAMESPACE, "-f", str(CHART / "ci/keda-values.yaml"))
    assert code == 0, said
    for one in yaml.safe_load_all(said):
        if one and one["kind"] == "ScaledObject":
            for trigger in one["spec"]["triggers"]:
                if trigger["type"] == "prometheus":
                    yield "KEDA", trigger["metadata"]["query"]


def round_trip(cluster, api):
    """The chart's test pod, as it is; a second time, over what the first one left."""
    script = CHART / "files/round-trip.sh"
    for _ in range(2):
        code, said = quiet("/bin/sh", str(script), env={**cluster.env, "API": api, "TEST_DIR": str(CHART / "files")})
        assert code == 0, said
    return said.strip().splitlines()[-1]


def probed(cluster):
    count = 0
    for name, ports in cluster.ports.items():
        for path in ("/livez", "/readyz", "/metrics"):
            get(f"http://127.0.0.1:{ports[0]}{path}")
            count += 1
    return f"{count} answers from {len(cluster.ports)} processes"


def linted(cluster, bin):
    """promtool finds nothing to say against the page of any process."""
    found = []
    for name, ports in cluster.ports.items():
        code, said = quiet(str(bin / "promtool"), "check", "metrics", input=get(f"http://127.0.0.1:{ports[0]}/metrics"))
        found += [f"{name}: {line}" for line in said.splitlines()] + ([f"{name}: exit code {code}"] if code else [])
    none(found)
    return f"{len(cluster.ports)} pages without a finding"


def disturb(cluster):
    """Two of four nodes stop for a while: calls are retried and hedged, and some partitions are missing."""
    search = ("search", "--collection", "docs", "--key", "5", "--limit", "3")
    stopped = [cluster.processes[f"{RELEASE}-shard-{i}"] for i in (2, 3)]
    try:
        stopped[0].send_signal(signal.SIGSTOP)
        with contextlib.suppress(subprocess.TimeoutExpired):
            for _ in range(12):
                cluster.ctl(*search, "--consistency", "any", "--prefer", "nearest", check=False, timeout=20)
                cluster.ctl(*search, "--consistency", "any", "--prefer", "leader", check=False, timeout=20)
        stopped[1].send_signal(signal.SIGSTOP)
        with contextlib.suppress(subprocess.TimeoutExpired):
            for _ in range(4):
                cluster.ctl("count", "--collection", "docs", "--allow-partial", check=False, timeout=60)
    finally:
        for process in stopped:
            process.send_signal(signal.SIGCONT)
    for name in cluster.ports:
        cluster.ready(name)
    within(60, "the cluster answers whole again", lambda: count(cluster) == 4000)


def count(cluster):
    return json.loads(cluster.ctl("count", "--collection", "docs").stdout)["count"]


def scraped(cluster, server):
    """Every metric of the README comes from a live process."""
    known = rules.metrics()
    there = {one["metric"]["__name__"] for one in server.ask('count by (__name__) ({__name__=~"flotilla.*"})')}
    missing = [name for name in known if not {name, f"{name}_bucket"} & there]
    stray = [name for name in there if name not in known and re.sub("_(bucket|count|sum)$", "", name) not in known
             and name not in {rule["record"] for rule in rules.recorded()}]
    none([f"{name} is in the README and nobody exports it" for name in missing]
         + [f"{name} is exported and not in the README" for name in stray])
    return f"{len(known)} metrics of the README, all there and no other"


def answered(server):
    found = []
    alerts = {rule["alert"] for rule in rules.alerts()}
    all_of_them = [*rules.expressions(), *keda_queries()]
    for where, expression in all_of_them:
        asked = never_empty(expression) if where in alerts else expression
        if not server.ask(asked):
            found.append(f"{where}: no answer to {asked}")
    none(found)
    return f"{len(all_of_them)} expressions, each with an answer"


def healthy(server):
    all_rules = server.rules()
    none(f"{rule['name']}: {rule.get('lastError')}" for rule in all_rules if rule["health"] != "ok")
    fixed = {"FlotillaReplicaDiverged", "FlotillaLogLaneFailed", "FlotillaLogLaneFull", "FlotillaReplicaQuarantined",
             "FlotillaDiskFull", "FlotillaMetricsMissing"}
    none(f"{rule['name']} is {rule['state']} on a cluster without that" for rule in all_rules
         if rule["name"] in fixed and rule["state"] != "inactive")
    return f"{len(all_rules)} rules evaluated without an error"


def quiet_small(cluster, server):
    """The one process of the small tiers: both halves of the metrics on one page, and no alert that it cannot help."""
    subprocess.run(["flotilla", "collections", "create", "small", "--vector", "default:4", "--to", cluster.small], env=cluster.env,
                   check=True, capture_output=True)
    page = get(f"{cluster.small}/metrics")
    none(f"no {name}" for name in ("flotilla_raft_term", "flotilla_search_latency_seconds_bucket") if name not in page)
    within(20, "it is scraped", lambda: server.ask('flotilla_raft_term{release="small"}'))
    ours = [(rule["alert"], rule["expr"].replace(f'release="{RELEASE}"', 'release="small"')) for rule in rules.alerts()]
    ours = [(name, expr) for name, expr in ours if 'release="small"' in expr]
    none(f"{name} holds" for name, expr in ours if server.ask(expr))
    return f"none of {len(ours)} alerts holds"


def noticed(cluster, server):
    """A node that is gone is down for the alert; a partition without it still has a leader."""
    name = f"{RELEASE}-shard-{SHARDS - 1}"
    process = cluster.processes[name]
    process.terminate()
    assert process.wait(40) == 0, f"{name} drains and ends with {process.returncode}: {cluster.log(name)}"
    by_name = {rule["alert"]: rule["expr"] for rule in rules.alerts()}
    within(30, "FlotillaDown sees it", lambda: [one["metric"]["pod"] for one in server.ask(by_name["FlotillaDown"])] == [name])
    within(30, "every partition is led", lambda: not server.ask(by_name["FlotillaNoLeader"]))
    return "a stopped node is told by FlotillaDown, and FlotillaNoLeader stays quiet"


def replaced(cluster):
    """The runbook of a lost volume: refused under the old number, replaced, removed, taken in anew."""
    name = f"{RELEASE}-shard-{SHARDS - 1}"
    nodes = json.loads(cluster.ctl("ctl", "nodes", "--output", "json").stdout)
    port = str(cluster.ports[name][0])
    node = str(next(one for one in nodes["nodes"] if one["address"].endswith(f":{port}"))["node"])
    shutil.rmtree(cluster.folder / name)
    (cluster.folder / f"{name}.log").write_text("")
    cluster.shard(SHARDS - 1, may_begin=False)
    process = cluster.processes[name]
    assert process.wait(60) != 0, "an empty volume under a known number is taken in"
    assert "replace that node first" in cluster.log(name), cluster.log(name)
    cluster.ctl("ctl", "replace", node, "--dry-run")
    cluster.ctl("ctl", "replace", node, "--wait", timeout=120)
    cluster.ctl("ctl", "remove", node)
    cluster.shard(SHARDS - 1, may_begin=False)
    cluster.ready(name)
    cluster.ctl("ctl", "rebalance", "--wait", timeout=120)
    assert count(cluster) == 4000, f"{count(cluster)} records of 4000"
    cluster.ctl("verify", "--collection", "docs", timeout=120)
    return "refused, replaced, removed, joined anew, rebalanced; 4000 records, replicas equal"


def drained(cluster):
    slow = 0
    for name in sorted(cluster.processes, reverse=True):
        process, began = cluster.processes[name], time.monotonic()
        process.terminate()
        assert process.wait(60) == 0, f"{name} ends with {process.returncode}: {cluster.log(name)[-2000:]}"
        slow = max(slow, time.monotonic() - began)
    return f"SIGTERM ends {len(cluster.processes)} processes with 0, the slowest after {slow:.1f} s"


def run(report):
    tools = {}

    def have():
        tools["binary"], tools["prometheus"] = binary(), prometheus()
        return f"{tools['binary'].name} and Prometheus are there"

    report.check("live: what it needs", have)
    if len(tools) < 2:
        return
    with tempfile.TemporaryDirectory() as folder, Cluster(tools["binary"], folder) as cluster:
        def begun():
            cluster.begin()
            return f"{SHARDS} shard nodes, a replica and a router, started by start.sh and the chart's flags"

        if not report.check("live: a cluster begins", begun):
            return
        report.check("live: the chart's test pod", round_trip, cluster, cluster.api)
        cluster.small = report.check("live: the small tiers' process", cluster.one_process)
        if cluster.small:
            report.check("live: the chart's test pod, small tiers", round_trip, cluster, cluster.small)
        report.check("live: probes", probed, cluster)
        report.check("live: promtool check metrics", linted, cluster, tools["prometheus"])
        with kubelet(cluster.ports) as port:
            server = Prometheus(tools["prometheus"], folder, cluster.targets(), port)
            try:
                def used():
                    cluster.fill()
                    cluster.search(8)
                    disturb(cluster)
                    cluster.search(8)
                    return "4000 records, searches, two nodes stopped for a while"

                report.check("live: the cluster is used and disturbed", used)
                report.check("live: the metrics of the README", scraped, cluster, server)
                report.check("live: every expression has an answer", answered, server)
                report.check("live: Prometheus evaluates the rules", healthy, server)
                report.check("live: the small tiers' alerts are quiet", quiet_small, cluster, server)
                report.check("live: a node is gone", noticed, cluster, server)
                report.check("live: a volume is lost (runbook)", replaced, cluster)
            finally:
                server.stop()
        report.check("live: the drain", drained, cluster)
