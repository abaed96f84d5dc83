"""What people and pods are told to run: the runbooks' commands and panels, the flags and settings of pods and of the compose file,
each put to the binary itself."""

import re
import shlex
import tempfile
from pathlib import Path

import yaml

import rules
from report import Skip, none
from tools import CHART, ROOT, binary, helms, quiet

RUNBOOKS = ROOT / "deploy/runbooks"
SECTIONS = ["## What it means", "## What to look at", "## What to do"]


def pages():
    return sorted(path for path in RUNBOOKS.glob("*.md") if path.name != "README.md")


def one_for_each():
    alerts = {rule["alert"]: rule["labels"]["severity"] for rule in rules.alerts()}
    there = {path.stem for path in pages()}
    found = [f"{name}: no page" for name in alerts.keys() - there] + [f"{name}: no such alert" for name in there - alerts.keys()]
    index = (RUNBOOKS / "README.md").read_text()
    titles = {panel["title"] for panel in rules.panels()}
    for path in pages():
        text = path.read_text()
        at = [text.find(section) for section in SECTIONS]
        if not text.startswith(f"# {path.stem}\n") or -1 in at or at != sorted(at):
            found.append(f"{path.name}: a title and {SECTIONS}")
        severity = alerts.get(path.stem, "")
        if f"\n{severity.capitalize()}.\n" not in text or f"| [{path.stem}]({path.name}) | {severity} |" not in index:
            found.append(f"{path.name}: the alert is {severity}, here or in the index it is not")
        look = text[at[1]:at[2]]
        shown = re.findall(r"^- \*\*(.+)\*\*$", look, re.M)
        found += [f"{path.name}: no panel {title}" for title in shown if title not in titles] + ([] if shown else [f"{path.name}: no panel"])
        found += [f"{path.name}: a dead link to {link}" for link in re.findall(r"\]\(([^)]+)\)", text) if not (RUNBOOKS / link).exists()]
        if "```" not in text[at[2]:]:
            found.append(f"{path.name}: no command")
    none(found)
    return f"{len(there)} pages for {len(alerts)} alerts; titles, severities, panels and links fit"


def commands(text):
    for block in re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.M | re.S):
        yield from (line.strip() for line in block.splitlines() if line.strip())


def parses(product, words):
    """The binary's word on a command line: everything is parsed, and nothing is done."""
    code, said = quiet(str(product), *words, "--help")
    return None if code == 0 else said.strip().splitlines()[0]


def runnable(product):
    assert parses(product, ["ctl", "drain", "3", "--nonsense"]) and parses(product, ["ctl", "drain", "x"]), "any command is taken"
    found, count = [], 0
    for path in [*pages(), RUNBOOKS / "README.md"]:
        for line in commands(path.read_text()):
            count += 1
            words = shlex.split(line)
            if words[0] != "flotilla":
                found.append(f"{path.name}: {line}: not a command of the binary")
            elif why := parses(product, words[1:]):
                found.append(f"{path.name}: {line}: {why}")
    none(found)
    return f"{count} commands of {len(pages())} pages"


def settings_named():
    """Keys that pages speak of are in the chart's values or in the README's table."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    keys = set(re.findall(r"^\| `([a-z_0-9.]+)` \|", rules.README, re.M))
    found, count = [], 0
    for path in pages():
        for name in re.findall(r"`((?:config|shard|replica|router|node|networkPolicy|monitoring|index)\.[A-Za-z_.]+)`", path.read_text()):
            count += 1
            at = values
            for step in name.split("."):
                at = at.get(step) if isinstance(at, dict) else None
            if at is None and name.removeprefix("config.") not in keys:
                found.append(f"{path.name}: there is no {name}")
    none(found)
    return f"{count} names of values and settings"


def sets():
    """The values' settings are the README's, with the same bounds."""
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())["$defs"]["config"]
    section = rules.README.split("## Configuration")[1].split("\n## ")[0].replace("\\|", "¦")
    # The chart says itself where its members listen, what they are and how they find each other.
    own = {"server.bind", "server.port", "storage.data_dir"}
    own |= {f"replication.{name}" for name in ("enabled", "role", "bind_address", "master_address")}
    own |= {f"cluster.{name}" for name in ("enabled", "mode", "shards", "shard_id", "router_address")}
    there = {}

    def walk(at, path):
        for name, one in at["properties"].items():
            if "properties" in one:
                walk(one, [*path, name])
            else:
                there[".".join([*path, name])] = one

    walk(schema, [])
    known = {name: legal.replace("¦", "|") for name, _, legal in re.findall(r"^\| `([a-z_0-9.]+)` \| ([^|]*) \| ([^|]*) \|", section, re.M)
             if name not in own}
    found = [f"{name} is not in the schema" for name in known.keys() - there.keys()] + [f"{name} is no setting" for name in there.keys() - known.keys()]
    for name, legal in known.items():
        one = there.get(name, {})
        if "minimum" in one and not legal.startswith(f"{one['minimum']} to {one['maximum']}"):
            found.append(f"{name}: {legal}, and the schema says {one['minimum']} to {one['maximum']}")
        if "enum" in one and " | ".join(map(str, one["enum"])) != legal.strip():
            found.append(f"{name}: {legal}, and the schema says {one['enum']}")
    none(found)
    return f"{len(known)} settings"


def started(product):
    """Flags of every pod and service, and every settings file."""
    there, missing = helms()
    if not there:
        raise Skip(missing[0])
    found, flags, files = [], 0, 0
    for values in sorted([*CHART.glob("ci/*-values.yaml"), *CHART.glob("tiers/*.yaml")]):
        code, said = quiet(str(there[-1][1]), "template", "flotilla", str(CHART), "-f", str(values))
        assert code == 0, said
        for one in filter(None, yaml.safe_load_all(said)):
            if one["kind"] in ("Deployment", "StatefulSet"):
                container = one["spec"]["template"]["spec"]["containers"][0]
                words = (["node"] if container["command"][0] == "/bin/sh" else []) + container["args"]
                words = [word.replace("$(POD_NAME)", "x-0").replace("$(ZONE)", "") for word in words]
                flags += len(words)
                if why := parses(product, words):
                    found.append(f"{values.name}, {one['metadata']['name']}: {why}")
            if one["kind"] == "ConfigMap" and "flotilla.yaml" in one["data"]:
                files += 1
                with tempfile.TemporaryDirectory() as folder:
                    file = Path(folder, "flotilla.yaml")
                    file.write_text(one["data"]["flotilla.yaml"])
                    code, said = quiet(str(product), "config", "check", str(file))
                    if code:
                        found.append(f"{values.name}: {said}")
    for name, one in yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"].items():
        flags += len(one["command"])
        if why := parses(product, one["command"]):
            found.append(f"compose.yaml, {name}: {why}")
    none(found)
    return f"{flags} words of command lines, {files} settings files"


def run(report):
    report.check("runbooks: a page for each alert", one_for_each)
    report.check("runbooks: the values that they name", settings_named)
    report.check("values: the settings of the README", sets)
    try:
        product = binary()
    except Skip as why:
        reason = str(why)

        def missing():
            raise Skip(reason)

        report.check("runbooks, pods, compose: commands put to the binary", missing)
        return
    report.check("runbooks: commands put to the binary", runnable, product)
    report.check("pods, compose: flags and settings put to the binary", started, product)
