"""The chart: linted and rendered by every Helm to be had, held against the schemas of Kubernetes and of the operators, and
against what schemas do not say. Values that make no sense must be refused."""

import json
import os
import sys
import tempfile
from pathlib import Path

import yaml

import admission
import manifests
from report import Skip, none
from schemas import Schemas
from tools import CHART, HOME, helms, quiet

RELEASE, NAMESPACE = "flotilla", "prod"
KUBERNETES = [f"1.{minor}" for minor in range(30, 38)]

# Values that are refused, and a word that the refusal has.
REFUSED = [
    ("an unknown key", ["unknown=1"], "unknown"),
    ("an unknown key within", ["shard.replica=3"], "replica"),
    ("an unknown tier", ["tier=huge"], "tier"),
    ("no shard nodes", ["shard.replicas=0"], "replicas"),
    ("a number as text", ["shard.replicas=three"], "replicas"),
    ("a setting that there is not", ["config.replication.role=master"], "role"),
    ("a misspelt setting", ["config.raft.heartbeat=400"], "heartbeat"),
    ("a setting out of its bounds", ["config.raft.heartbeat_ms=10"], "heartbeat_ms"),
    ("a setting that is the chart's", ["config.server.port=1"], "server"),
    ("a folder that is the chart's", ["config.storage.data_dir=/x"], "data_dir"),
    ("root", ["uid=0"], "uid"),
    ("two away at once", ["shard.podDisruptionBudget.maxUnavailable=2"], "maxUnavailable"),
    ("two kinds of budget", ["shard.podDisruptionBudget.minAvailable=2"], "minAvailable"),
    ("an unknown autoscaler", ["router.autoscaling.kind=vpa"], "kind"),
    ("more at least than at most", ["router.autoscaling.minReplicas=11"], "minReplicas"),
    ("the same of read replicas", ["replica.enabled=true", "replica.autoscaling.enabled=true",
                                   "replica.autoscaling.minReplicas=9"], "minReplicas"),
    ("KEDA without an address", ["router.autoscaling.kind=keda"], "prometheusAddress"),
    ("an autoscaler of shard nodes", ["shard.autoscaling.enabled=true"], "autoscaling"),
    ("a size without a unit", ["shard.storage.size=100"], "size"),
    ("a short digest", ["image.digest=sha256:12"], "digest"),
    ("an alert that there is not", ["monitoring.rules.enabled=true", "monitoring.rules.disabled={FlotillaNothing}"],
     "FlotillaNothing"),
    ("an empty peer", ["networkPolicy.clients[0].nobody=1"], "nobody"),
    ("an unknown kind of beginning", ["shard.begin=perhaps"], "begin"),
    ("a long name", ["fullnameOverride=" + "a" * 41], "fullnameOverride"),
    ("an unknown way to scale in", ["shard.scaleIn.force=true"], "force"),
    ("a publisher without an image", ["shard.scaleIn.publisher.enabled=true"], "publisher.image"),
    ("a publisher without credentials", ["shard.scaleIn.publisher.enabled=true", "shard.scaleIn.publisher.image=k:1",
                                         "config.security.cluster_key_file=/k"], "publisher"),
    ("an operator without credentials", ["shard.scaleIn.rolloutOperator=true", "config.security.cluster_key_file=/k"],
     "rolloutOperator"),
    ("certificates that no setting names", ["security.certManager.enabled=true"], "cert_file"),
    ("an unknown kind of issuer", ["security.certManager.issuer.kind=Authority"], "kind"),
    ("a short grace", ["shard.terminationGracePeriodSeconds=5"], "terminationGracePeriodSeconds"),
]


def value_files():
    return sorted([*CHART.glob("ci/*-values.yaml"), *CHART.glob("tiers/*.yaml")])


def rendered(helm, *more):
    """The objects of the chart as this Helm renders it."""
    code, said = quiet(str(helm), "template", RELEASE, str(CHART), "-n", NAMESPACE, *more)
    assert code == 0, said
    return [one for one in yaml.safe_load_all(said) if one]


def lint(helm):
    for values in value_files():
        code, said = quiet(str(helm), "lint", "--strict", str(CHART), "-f", str(values))
        assert code == 0, f"{values.name}: {said}"
    return f"{len(value_files())} sets of values"


def refuses(helm):
    found = []
    for what, sets, word in REFUSED:
        flags = [flag for one in sets for flag in ("--set", one)]
        code, said = quiet(str(helm), "template", RELEASE, str(CHART), *flags)
        if code == 0:
            found.append(f"{what} ({sets[0]}) is taken")
        elif word not in said:
            found.append(f"{what}: the refusal does not name `{word}`: {said.strip()}")
    none(found)
    return f"{len(REFUSED)} sets of values refused, each by its name"


def begins(helm):
    """Who may begin a cluster: by default at an install only."""
    def says(*flags):
        objects = rendered(helm, "-s", "templates/shard.yaml", *flags)
        start = next(one for one in objects if one["metadata"]["name"].endswith("-start"))
        return start["data"]["begin"].strip()

    assert says() == "yes"
    assert says("--is-upgrade") == "no"
    assert says("--set", "shard.begin=never") == "no"
    assert says("--is-upgrade", "--set", "shard.begin=always") == "yes"

    def pods(*flags):
        objects = rendered(helm, *flags)
        return {one["metadata"]["name"]: one["spec"]["template"] for one in objects if one["kind"] in manifests.SETS}

    assert pods() == pods("--is-upgrade"), "an upgrade that changes nothing restarts pods"
    three, nine = pods(), pods("--set", "shard.replicas=9")
    assert three == nine, "more shard nodes restart the present ones"
    return "at install, not at an upgrade, and no pod restarts for it or for more shard nodes"


def noted(helm):
    """What an install prints, for every set of values."""
    for values in value_files():
        code, said = quiet(str(helm), "install", RELEASE, str(CHART), "--dry-run=client", "-n", NAMESPACE, "-f", str(values),
                           env={**os.environ, "KUBECONFIG": os.devnull})
        assert code == 0, said
        notes = said.split("\nNOTES:\n")[-1]
        tier = (yaml.safe_load(values.read_text()) or {}).get("tier", "cluster")
        assert f"tier {tier}" in notes and f".{NAMESPACE}:150" in notes, f"{values.name}: {notes}"
    return f"{len(value_files())} sets of values"


def same(first, other):
    """Two Helms agree on every object."""
    for values in value_files():
        left, right = (rendered(helm, "-f", str(values)) for helm in (first, other))
        assert by_name(left) == by_name(right), f"{values.name}: the two render different objects"
    return f"{len(value_files())} sets of values"


def by_name(objects):
    return {(one["kind"], one["metadata"]["name"]): one for one in objects}


def valid(helm):
    schemas = Schemas()
    found, count, kinds = [], 0, set()
    for values in value_files():
        for one in rendered(helm, "-f", str(values)):
            kinds.add(one["kind"])
            for version in KUBERNETES:
                count += 1
                found += [f"{values.name}, {one['kind']} {one['metadata']['name']}, Kubernetes {version}: {why}"
                          for why in schemas.wrong(one, version)]
    none(found)
    return f"{count} validations of {len(kinds)} kinds, Kubernetes {KUBERNETES[0]} to {KUBERNETES[-1]}, strict"


def bites():
    """The schemas are able to refuse."""
    schemas = Schemas()
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [{"name": "x", "nonsense": 1}]}}
    assert list(schemas.wrong(pod, "1.30")), "a pod with an unknown field is taken"
    rule = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": {"name": "x"},
            "spec": {"groups": [{"name": "x", "rules": [{"alert": "x", "expresion": "1"}]}]}}
    assert list(schemas.wrong(rule, "1.30")), "a rule with an unknown field is taken"
    return "unknown fields are refused, of Kubernetes' kinds and of the operators'"


def sound(helm):
    found, count = [], 0
    for values in value_files():
        objects = rendered(helm, "-f", str(values))
        count += len(objects)
        found += [f"{values.name}: {why}" for why in manifests.wrong(objects)]
    none(found)
    return f"{count} objects, {len(manifests.RULES)} rules"


def promised(helm):
    """The figures that the chart's defaults promise."""
    objects = by_name(rendered(helm))
    hpa = objects["HorizontalPodAutoscaler", "flotilla-router"]["spec"]
    assert (hpa["minReplicas"], hpa["maxReplicas"]) == (3, 10)
    metrics = {(one.get("resource") or one["pods"]["metric"])["name"]: (one.get("resource") or one["pods"])["target"]
               for one in hpa["metrics"]}
    assert metrics["cpu"]["averageUtilization"] == 70 and metrics["memory"]["averageUtilization"] == 80
    assert metrics["flotilla_search_latency_p99"] == {"type": "AverageValue", "averageValue": "10m"}
    shard = objects["StatefulSet", "flotilla-shard"]["spec"]
    claim = shard["volumeClaimTemplates"][0]["spec"]
    assert claim["storageClassName"] == "fast-ssd" and claim["resources"]["requests"]["storage"] == "100Gi"
    assert shard["template"]["spec"]["containers"][0]["resources"] == {
        "requests": {"cpu": "4", "memory": "8Gi"}, "limits": {"cpu": "8", "memory": "16Gi"}}
    assert shard["podManagementPolicy"] == "Parallel"
    assert set(shard["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}
    headless = objects["Service", "flotilla-shard"]["spec"]
    assert headless["clusterIP"] == "None" and headless["publishNotReadyAddresses"] is True
    budget = objects["PodDisruptionBudget", "flotilla-shard"]["spec"]
    assert budget["maxUnavailable"] == 1 and budget["unhealthyPodEvictionPolicy"] == "IfHealthyBudget"
    scaled = [one["spec"]["scaleTargetRef"]["name"] for (kind, _), one in objects.items()
              if kind in ("HorizontalPodAutoscaler", "ScaledObject")]
    assert "flotilla-shard" not in scaled
    return "routers 3 to 10 by 70 %, 80 %, p99 10 ms; shard nodes 100Gi fast-ssd, 4 to 8 CPU, 8 to 16Gi, never scaled"


def guarded(helm):
    """Fewer shard nodes than the floor are refused, by whatever way they are asked for."""
    objects = by_name(rendered(helm))
    policy = objects["ValidatingAdmissionPolicy", "prod-flotilla-shard"]["spec"]
    rule, = policy["matchConstraints"]["resourceRules"]
    assert set(rule["resources"]) == {"statefulsets", "statefulsets/scale"} and rule["operations"] == ["UPDATE"]
    assert "'prod'" in policy["matchConditions"][0]["expression"] and "'flotilla-shard'" in policy["matchConditions"][0]["expression"]
    assert policy["failurePolicy"] == "Fail"
    binding = objects["ValidatingAdmissionPolicyBinding", "prod-flotilla-shard"]["spec"]
    assert binding["policyName"] == "prod-flotilla-shard" and binding["validationActions"] == ["Deny"]
    floor = binding["paramRef"]["name"]
    assert binding["paramRef"] == {"name": floor, "namespace": "prod", "parameterNotFoundAction": "Deny"}
    assert "floor" not in objects["ConfigMap", floor]["data"], "an upgrade would set the floor back"

    def of(replicas):
        return {"spec": {} if replicas is None else {"replicas": replicas}}

    for present, wanted, lowest, passes in [(3, 3, None, True), (3, 4, None, True), (3, 2, None, False), (3, 2, "3", False),
                                            (3, 2, "2", True), (3, None, "2", False), (None, 1, None, True), (2, 3, "5", True),
                                            (3, 2, "two", False), (3, 3, "two", True)]:
        allowed, said = admission.decides(policy, of(wanted), of(present), {} if lowest is None else {"floor": lowest})
        assert allowed is passes, (present, wanted, lowest, said)
        assert allowed or lowest == "two" or f"flotilla ctl scale --nodes {wanted or 0} --wait" in said, said
    other = admission.decides(policy, of(0), of(3), {}, name="another")
    assert other == (True, "not its business"), other

    kinds = {kind for kind, _ in by_name(rendered(helm, "--set", "shard.scaleIn.policy=false"))}
    assert not {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"} & kinds
    for tier in ("embedded", "sharded"):
        kinds = {kind for kind, _ in by_name(rendered(helm, "--set", f"tier={tier}"))}
        assert "ValidatingAdmissionPolicy" not in kinds, tier

    full = by_name(rendered(helm, "-f", str(CHART / "ci/full-values.yaml")))
    role = full["Role", floor]["rules"]
    assert role == [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [floor], "verbs": ["get", "patch"]}], role
    job = full["CronJob", floor]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert job["serviceAccountName"] == floor and full["RoleBinding", floor]["subjects"][0]["name"] == floor
    for container in job["initContainers"] + job["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] and container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    meta = full["StatefulSet", "flotilla-shard"]["metadata"]
    assert meta["labels"]["grafana.com/prepare-downscale"] == "true"
    assert meta["annotations"]["grafana.com/prepare-downscale-http-port"] == "15002"
    return "by kubectl scale or apply; one ConfigMap has the floor, and one job may change it"


def certified(helm):
    """Each pod has the certificates that its settings name, of the right issuer, and no other's."""
    objects = by_name(rendered(helm, "-f", str(CHART / "ci/cert-manager-values.yaml")))
    made = {one["spec"]["secretName"]: one["spec"] for (kind, _), one in objects.items() if kind == "Certificate"}
    assert {name: spec["issuerRef"]["name"] for name, spec in made.items()} == {
        "flotilla-api-tls": "letsencrypt", "flotilla-node-tls": "flotilla-members", "flotilla-router-tls": "flotilla-members"}
    assert made["flotilla-node-tls"]["uris"] == ["flotilla://node"] and made["flotilla-router-tls"]["uris"] == ["flotilla://router"]
    assert made["flotilla-node-tls"]["dnsNames"] == [f"*.flotilla-{of}.prod.svc.cluster.local" for of in ("shard", "replica")]
    advertised = next(word for word in objects["StatefulSet", "flotilla-shard"]["spec"]["template"]["spec"]["containers"][0]["args"]
                      if word.startswith("--advertise="))
    assert advertised.endswith(".flotilla-shard.prod.svc.cluster.local"), advertised
    assert {"flotilla.prod.svc", "flotilla.example.com"} <= set(made["flotilla-api-tls"]["dnsNames"])
    settings = yaml.safe_load(objects["ConfigMap", "flotilla-config"]["data"]["flotilla.yaml"])["security"]
    expected = {"router": {"api": "flotilla-api-tls", "peer": "flotilla-router-tls"},
                "shard": {"peer": "flotilla-node-tls"}, "replica": {"peer": "flotilla-node-tls"}}
    for (kind, name), one in objects.items():
        if kind not in manifests.SETS:
            continue
        pod = one["spec"]["template"]["spec"]
        volumes = {volume["name"]: volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in pod["containers"][0]["volumeMounts"]
                  if mount["mountPath"].startswith("/etc/flotilla-certificates/")}
        assert mounts == {f"/etc/flotilla-certificates/{at}": secret
                          for at, secret in expected[name.removeprefix("flotilla-")].items()}, (name, mounts)
        assert "--insecure-bind" not in pod["containers"][0]["args"], name
        sections = ["peer_tls"] + (["tls"] if name == "flotilla-router" else [])
        for path in (path for section in sections for path in settings[section].values()):
            folder, file = path.rsplit("/", 1)
            assert folder in mounts and file in ("tls.crt", "tls.key", "ca.crt"), path
    return "three certificates of two issuers, where the settings of each pod name them"


def published(helm):
    """The job's script takes the floor out of what the binary prints."""
    job = by_name(rendered(helm, "-f", str(CHART / "ci/full-values.yaml")))["CronJob", "flotilla-shard-floor"]
    script = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["args"][0]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        stub = folder / "kubectl"
        stub.write_text("#!/bin/sh\nshift 5\necho \"$@\"\n")
        stub.chmod(0o755)

        def runs(text):
            (folder / "status.json").write_text(text)
            return quiet("/bin/sh", "-c", script.replace("/floor/", f"{folder}/"), env={"PATH": f"{folder}:/usr/bin:/bin"})

        code, said = runs('{"desired_shard_nodes":3,"epoch":9,"shard_nodes_floor":2,"target":2}\n')
        assert (code, json.loads(said.strip().removeprefix("--patch "))) == (0, {"data": {"floor": "2"}}), said
        assert runs("")[0] != 0 and runs("{}")[0] != 0, "nothing is published where nothing is known"
    return "a floor of 2 is published; nothing where none is told"


def scanned(helm):
    """checkov, in an environment of its own: it is large."""
    at = HOME / "checkov"
    program = at / "bin/checkov"
    if not program.exists():
        quiet(sys.executable, "-m", "venv", str(at))
        code, said = quiet(str(at / "bin/pip"), "install", "-q", "--disable-pip-version-check", "checkov==3.3.30")
        if code:
            raise Skip(f"checkov cannot be installed: {said.strip().splitlines()[-1]}")
    file = HOME / "hardened.yaml"
    objects = rendered(helm, "-f", str(CHART / "ci/hardened-values.yaml"))
    file.write_text(yaml.safe_dump_all(objects))
    # 21: the namespace is said at the install, not in the objects.
    code, said = quiet(str(program), "--framework", "kubernetes", "-f", str(file), "--quiet", "--compact",
                       "--skip-download", "--skip-check", "CKV_K8S_21", "-o", "json", cwd=HOME)
    answer = json.loads(said[said.index("{"):])
    failed = answer["results"]["failed_checks"] if "results" in answer else []
    none(f"{one['check_id']} {one['check_name']}: {one['resource']}" for one in failed)
    return f"checkov {answer['summary']['passed'] if 'summary' in answer else answer['passed']} checks passed"


def run(report):
    there, missing = helms()
    for what in missing:
        report.check(f"chart, {what.split(':')[0]}", skip, what)
    for version, helm in there:
        report.check(f"chart, Helm {version}: helm lint --strict", lint, helm)
        report.check(f"chart, Helm {version}: bad values are refused", refuses, helm)
        # Helm 3 asks a cluster even for this.
        if version.startswith("v4"):
            report.check(f"chart, Helm {version}: what an install prints", noted, helm)
    if not there:
        return
    _, helm = there[-1]
    for version, other in there[:-1]:
        report.check(f"chart, Helm {version} and {there[-1][0]} render the same", same, other, helm)
    report.check("chart: schemas refuse what is wrong", bites)
    report.check("chart: objects against schemas", valid, helm)
    report.check("chart: what schemas do not say", sound, helm)
    report.check("chart: those rules refuse what is wrong", manifests.bites, lambda: rendered(helm, "-f", str(CHART / "ci/full-values.yaml")))
    report.check("chart: what is promised", promised, helm)
    report.check("chart: who begins a cluster", begins, helm)
    report.check("chart: fewer shard nodes than the floor", guarded, helm)
    report.check("chart: how the floor is published", published, helm)
    report.check("chart: certificates of cert-manager", certified, helm)
    report.check("chart: checkov over the hardened values", scanned, helm)


def skip(why):
    raise Skip(why)
