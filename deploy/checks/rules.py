"""Rules and dashboard without a server: rendered, checked and tested by promtool, and every name in them is one that there is."""

import json
import re
import shutil
import tempfile
from pathlib import Path

import yaml

from report import none
from tools import CHART, ROOT, helms, prometheus, quiet

HERE = Path(__file__).parent
RELEASE, NAMESPACE = "flotilla", "prod"
README = (ROOT / "README.md").read_text()
# What others than the database export: the kubelet, its cAdvisor, kube-state-metrics, Prometheus itself.
FOREIGN = re.compile(r"\b(?:kubelet_volume_stats|container|kube)_[a-z_]+\b|\bup\b")


def rendered():
    """The rules of a release, filled in as the chart does it."""
    full = RELEASE
    text = (CHART / "files/rules.yaml").read_text()
    text = text.replace("$own", f'namespace="{NAMESPACE}",release="{RELEASE}"').replace("$ns", f'namespace="{NAMESPACE}"')
    return yaml.safe_load(text.replace("$full", full).replace("$backlog_max", "40000"))


def alerts():
    return [rule for group in rendered()["groups"] for rule in group["rules"] if "alert" in rule]


def recorded():
    return [rule for group in rendered()["groups"] for rule in group["rules"] if "record" in rule]


def panels():
    return [panel for panel in json.loads((CHART / "files/dashboard.json").read_text())["panels"] if panel["type"] != "row"]


def metrics():
    """The database's metrics and their labels, by the README's table."""
    table = README.split("## Metrics")[1].split("\n## ")[0]
    return {name: set(filter(None, (labels or "").strip("{}").split(",")))
            for name, labels in re.findall(r"^\| `(flotilla_[a-z_]+)(\{[a-z,]+\})?` \|", table, re.M)}


def expressions():
    """(where, expression) of rules, dashboard and adapter, with the dashboard's variables filled in."""
    for rule in alerts() + recorded():
        yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield f"panel {panel['title']}", filled(target["expr"])
    for rule in yaml.safe_load((CHART / "files/adapter.yaml").read_text())["rules"]:
        series = re.match(r"[a-z_0-9]+", rule["seriesQuery"]).group()
        query = rule["metricsQuery"].replace("<<.Series>>", series).replace("<<.GroupBy>>", "pod")
        yield f"adapter {rule['name']['as']}", query.replace("<<.LabelMatchers>>", f'namespace="{NAMESPACE}",pod=~".+"')
        yield f"adapter {rule['name']['as']}, series", rule["seriesQuery"]


def filled(expression):
    for name, value in (("$__rate_interval", "1m"), ("$namespace", NAMESPACE), ("$release", RELEASE)):
        expression = expression.replace(name, value)
    return expression


def checked(bin):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "rules.yaml").write_text(yaml.safe_dump(rendered()))
        code, said = quiet(str(bin / "promtool"), "check", "rules", f"{folder}/rules.yaml")
        assert code == 0, said
    return f"{len(alerts())} alerts, {len(recorded())} recording rules"


def tested(bin):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "rules.yaml").write_text(yaml.safe_dump(rendered()))
        shutil.copy(HERE / "rules.test.yaml", folder)
        code, said = quiet(str(bin / "promtool"), "test", "rules", "rules.test.yaml", cwd=folder)
        assert code == 0, said
    text = (HERE / "rules.test.yaml").read_text()
    tests = yaml.safe_load(text)["tests"]
    none(f"{rule['alert']} fires in no test" for rule in alerts() if f'"{rule["alert"]}"' not in text and
         f"alertname: {rule['alert']}\n" not in text)
    count = sum(len(one.get("promql_expr_test", [])) + len(one.get("alert_rule_test", [])) for one in tests)
    return f"{count} expectations in {len(tests)} situations; every alert fires in one"


def parses(bin):
    """Prometheus parses every expression of dashboard and adapter too."""
    found = list(expressions())
    groups = [{"name": "x", "rules": [{"record": f"e{i}", "expr": expr} for i, (_, expr) in enumerate(found)]}]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "all.yaml").write_text(yaml.safe_dump({"groups": groups}))
        code, said = quiet(str(bin / "promtool"), "check", "rules", f"{folder}/all.yaml")
        assert code == 0, said
    return f"{len(found)} expressions"


def names():
    """Every metric and label that an expression names is one that the database has, or is recorded, or is another's."""
    known = metrics()
    assert len(known) > 25, known
    own = {rule["record"] for rule in recorded()}
    scraped = {"namespace", "release", "component", "pod", "le", "operation", "code", "partition", "figure"}
    found = []
    for where, expr in expressions():
        for name in re.findall(r"\bflotilla[a-z0-9_:]+", re.sub(r'"[^"]*"', '""', expr)):
            base = re.sub(r"_(bucket|count|sum)$", "", name)
            if name not in known and base not in known and name not in own:
                found.append(f"{where}: there is no metric {name}")
        for name, labels in re.findall(r"\b(flotilla_[a-z_]+)\{([^}]*)\}", expr):
            given = set(re.findall(r"([a-z_]+)(?:=~|!=|!~|=)", labels))
            has = known.get(re.sub(r"_(bucket|count|sum)$", "", name), set()) | scraped - {"operation", "code", "partition", "figure"}
            if name in known and given - has:
                found.append(f"{where}: {name} has no label {given - has}")
        if "flotilla" not in expr and not FOREIGN.search(expr):
            found.append(f"{where}: asks for nothing known")
    none(found)
    used = {name for name in known if any(re.search(rf"\b{name}(_bucket|_count|_sum)?\b", expr) for _, expr in expressions())}
    none(f"nothing shows {name}" for name in sorted(set(known) - used))
    return f"{len(known)} metrics of the README, each is used; nothing else is"


def same_as_chart():
    there, missing = helms()
    if not there:
        from report import Skip
        raise Skip(missing[0])
    code, said = quiet(str(there[-1][1]), "template", RELEASE, str(CHART), "-n", NAMESPACE, "-s", "templates/monitoring.yaml",
                       "--set", "monitoring.rules.enabled=true")
    assert code == 0, said
    one = next(one for one in yaml.safe_load_all(said) if one and one["kind"] == "PrometheusRule")
    assert one["spec"] == rendered(), "the chart renders other rules than those that are tested"
    code, said = quiet(str(there[-1][1]), "template", RELEASE, str(CHART), "-n", NAMESPACE, "-f", str(CHART / "ci/config-values.yaml"))
    assert ">= 80000" in said, "the alert on the index's backlog does not follow index.backlog_max"
    return "the chart renders what is tested"


def dashboard():
    whole = json.loads((CHART / "files/dashboard.json").read_text())
    ids = [panel["id"] for panel in whole["panels"]]
    assert len(ids) == len(set(ids)), "two panels have one id"
    titles = [panel["title"] for panel in panels()]
    assert len(titles) == len(set(titles)), "two panels have one title"
    none(f"{panel['title']}: no description" for panel in panels() if not panel.get("description"))
    places = {}
    for panel in whole["panels"]:
        at = panel["gridPos"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in places, f"{panel['title']} lies over {places[x, y]}"
                places[x, y] = panel["title"]
    return f"{len(titles)} panels, none over another"


def run(report):
    report.check("dashboard: panels", dashboard)
    report.check("rules, dashboard, adapter: every name is one that there is", names)
    report.check("rules: as the chart renders them", same_as_chart)
    bin = None

    def have():
        nonlocal bin
        bin = prometheus()
        return quiet(str(bin / "promtool"), "--version")[1].splitlines()[0]

    report.check("promtool", have)
    if bin:
        report.check("rules: promtool check rules", checked, bin)
        report.check("rules: promtool test rules", tested, bin)
        report.check("dashboard, adapter: promtool parses them", parses, bin)
