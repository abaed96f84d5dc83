"""What schemas do not say about the objects of a release: that they fit each other, and the database."""

import copy
import re


SETS = ("StatefulSet", "Deployment")


def of(objects, *kinds):
    return [one for one in objects if one["kind"] in kinds]


def name(one):
    return f"{one['kind']} {one['metadata']['name']}"


def pods(objects):
    """(the object, labels of its pods, their spec) of everything that makes pods."""
    for one in of(objects, *SETS):
        template = one["spec"]["template"]
        yield one, template["metadata"]["labels"], template["spec"]
    for one in of(objects, "Pod"):
        yield one, one["metadata"]["labels"], one["spec"]


def selects(selector, labels):
    if not all(labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for term in selector.get("matchExpressions") or []:
        value, values = labels.get(term["key"]), term.get("values", [])
        holds = {"In": value in values, "NotIn": value not in values,
                 "Exists": value is not None, "DoesNotExist": value is None}[term["operator"]]
        if not holds:
            return False
    return True


def sets_select_their_pods_alone(objects):
    for one in of(objects, *SETS):
        for other, labels, _ in pods(objects):
            if selects(one["spec"]["selector"], labels) != (one is other):
                yield f"the selector of {name(one)} and the pods of {name(other)}"


def services_have_pods_and_ports(objects):
    for one in of(objects, "Service"):
        chosen = [(other, spec) for other, labels, spec in pods(objects)
                  if selects({"matchLabels": one["spec"]["selector"]}, labels)]
        if len(chosen) != 1:
            yield f"{name(one)} selects {len(chosen)} kinds of pods"
            continue
        names = {port["name"] for container in chosen[0][1]["containers"] for port in container.get("ports", [])}
        for port in one["spec"]["ports"]:
            if port["targetPort"] not in names:
                yield f"{name(one)}: no port {port['targetPort']} in its pods"


def port_names_are_short(objects):
    for one, _, spec in pods(objects):
        for container in spec["containers"]:
            for port in container.get("ports", []):
                if not re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?", port["name"]):
                    yield f"{name(one)}: the port name {port['name']}"


def probes_ask_ports_that_there_are(objects):
    for one, _, spec in pods(objects):
        for container in spec["containers"]:
            names = {port["name"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                if probe in container and container[probe]["httpGet"]["port"] not in names:
                    yield f"{name(one)}: {probe} asks a port that there is not"
            if one["kind"] in SETS and not {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container):
                yield f"{name(one)}: a probe is missing"


def liveness_asks_nobody_else(objects):
    for one, _, spec in pods(objects):
        for container in spec["containers"]:
            for probe in ("startupProbe", "livenessProbe"):
                if container.get(probe, {}).get("httpGet", {}).get("path", "/livez") != "/livez":
                    yield f"{name(one)}: {probe} depends on more than the process"


def mounts_have_volumes(objects):
    for one, _, spec in pods(objects):
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        claims = {claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", [])}
        mounts = {mount["name"] for container in spec["containers"] for mount in container.get("volumeMounts", [])}
        if mounts != volumes | claims:
            yield f"{name(one)}: mounts {sorted(mounts)}, volumes {sorted(volumes | claims)}"


def what_pods_read_is_there(objects):
    maps = {one["metadata"]["name"] for one in of(objects, "ConfigMap")}
    accounts = {one["metadata"]["name"] for one in of(objects, "ServiceAccount")} | {"default"}
    for one, _, spec in pods(objects):
        for volume in spec.get("volumes", []):
            if "configMap" in volume and volume["configMap"]["name"] not in maps:
                yield f"{name(one)}: there is no ConfigMap {volume['configMap']['name']}"
        if spec["serviceAccountName"] not in accounts:
            yield f"{name(one)}: there is no ServiceAccount {spec['serviceAccountName']}"


def paths_in_flags_are_mounted(objects):
    for one, _, spec in pods(objects):
        for container in spec["containers"]:
            mounts = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            words = [*container["command"][1:], *(word.split("=", 1)[1] for word in container.get("args", []) if "=/" in word)]
            for path in words:
                if path.startswith("/") and not any(path.startswith(f"{mount}/") for mount in mounts):
                    yield f"{name(one)}: {path} lies in no volume"


def budgets_fit(objects):
    for one in of(objects, "PodDisruptionBudget"):
        if ("minAvailable" in one["spec"]) == ("maxUnavailable" in one["spec"]):
            yield f"{name(one)}: minAvailable and maxUnavailable, or neither"
        if sum(selects(one["spec"]["selector"], labels) for _, labels, _ in pods(objects)) != 1:
            yield f"{name(one)} does not select one kind of pods"


def autoscalers_fit(objects):
    sets = {(one["kind"], one["metadata"]["name"]): one for one in of(objects, *SETS)}
    for one in of(objects, "HorizontalPodAutoscaler", "ScaledObject"):
        spec = one["spec"]
        target = sets.get((spec["scaleTargetRef"]["kind"], spec["scaleTargetRef"]["name"]))
        least, most = (spec.get(key) or spec.get(other) for key, other in
                       (("minReplicas", "minReplicaCount"), ("maxReplicas", "maxReplicaCount")))
        if target is None:
            yield f"{name(one)}: there is no such target"
        elif "replicas" in target["spec"]:
            yield f"{name(one)}: its target's number is fixed too, so each upgrade would undo it"
        if least > most:
            yield f"{name(one)}: at least {least}, at most {most}"
        if not (spec.get("metrics") or spec.get("triggers")):
            yield f"{name(one)}: by nothing"
        if target and target["metadata"]["labels"]["app.kubernetes.io/component"] == "shard":
            yield f"{name(one)}: shard nodes are not scaled by a metric"


def pods_are_restricted(objects):
    for one, _, spec in pods(objects):
        whole = spec["securityContext"]
        if not whole.get("runAsNonRoot") or whole.get("runAsUser", 0) == 0 or whole["seccompProfile"]["type"] != "RuntimeDefault":
            yield f"{name(one)}: the pod may be root, or call anything"
        if spec["automountServiceAccountToken"] is not False:
            yield f"{name(one)}: it gets a token that it has no use for"
        if spec["enableServiceLinks"] is not False:
            yield f"{name(one)}: variables of services could be taken for settings"
        for container in spec["containers"]:
            own = container["securityContext"]
            if own != {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}:
                yield f"{name(one)}: {own}"
            if "requests" not in container["resources"] or "memory" not in container["resources"]["limits"]:
                yield f"{name(one)}: no requests, or no limit of memory"


def grace_is_long_enough(objects):
    for one, _, spec in pods(objects):
        if one["kind"] not in SETS:
            continue
        container = spec["containers"][0]
        before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        duck = [int(word.split("=")[1]) for word in container["args"] if word.startswith("--lame-duck=")]
        # A node hands over for 10 s and finishes calls for 15; a router finishes calls for 25.
        if spec["terminationGracePeriodSeconds"] < before + sum(duck) + 25:
            yield f"{name(one)}: killed before it is done"


def policies_cover_every_process(objects):
    policies = of(objects, "NetworkPolicy")
    if not policies:
        return
    for one, labels, _ in pods(objects):
        if one["kind"] in SETS and not any(selects(policy["spec"]["podSelector"], labels) for policy in policies):
            yield f"{name(one)} has no network policy"
    for policy in policies:
        if not any(selects(policy["spec"]["podSelector"], labels) for _, labels, _ in pods(objects)):
            yield f"{name(policy)} selects nobody"


def monitors_reach_every_process(objects):
    """By way of exactly one service, whose port there is."""
    for monitor in of(objects, "ServiceMonitor"):
        reached = {}
        for service in of(objects, "Service"):
            if not selects(monitor["spec"]["selector"], service["metadata"]["labels"]):
                continue
            ports = {port["name"] for port in service["spec"]["ports"]}
            for endpoint in monitor["spec"]["endpoints"]:
                if endpoint["port"] in ports:
                    for one, labels, _ in pods(objects):
                        if selects({"matchLabels": service["spec"]["selector"]}, labels):
                            reached[name(one)] = reached.get(name(one), 0) + 1
        for one in of(objects, *SETS):
            if reached.get(name(one)) != 1:
                yield f"{name(monitor)} scrapes {name(one)} {reached.get(name(one), 0)} times"


def names_are_unique_and_short(objects):
    seen = set()
    for one in objects:
        if name(one) in seen:
            yield f"{name(one)} is there twice"
        seen.add(name(one))
        longest = 52 if one["kind"] == "StatefulSet" else 63
        if len(one["metadata"]["name"]) > longest:
            yield f"{name(one)}: longer than {longest}"


def names_in_flags_are_pods(objects):
    """Every seed, router's node and advertised name is a pod of a headless service that publishes it unready."""
    headless = {one["metadata"]["name"] for one in of(objects, "Service")
                if one["spec"].get("clusterIP") == "None" and one["spec"].get("publishNotReadyAddresses")}
    for one in of(objects, "StatefulSet"):
        if one["spec"]["serviceName"] not in headless:
            yield f"{name(one)}: its service is not headless, or hides unready pods"
    sets = {one["metadata"]["name"]: one for one in of(objects, "StatefulSet")}
    hosts = [word.split("=", 1)[1] for one, _, spec in pods(objects) for word in spec["containers"][0].get("args", [])
             if word.startswith(("--seed=", "--node=", "--advertise="))]
    hosts += [line for one in of(objects, "ConfigMap") for line in one["data"].get("seeds", "").split()]
    for host in hosts:
        pod, service = host.split(":")[0].split(".")[:2]
        set_name, _, ordinal = pod.rpartition("-")
        if service not in headless:
            yield f"{host}: no headless service {service}"
        if pod != "$(POD_NAME)" and (set_name not in sets or int(ordinal) >= sets[set_name]["spec"]["replicas"]):
            yield f"{host}: there is no such pod"


RULES = [sets_select_their_pods_alone, services_have_pods_and_ports, port_names_are_short, probes_ask_ports_that_there_are,
         liveness_asks_nobody_else, mounts_have_volumes, what_pods_read_is_there, paths_in_flags_are_mounted, budgets_fit,
         autoscalers_fit, pods_are_restricted, grace_is_long_enough, policies_cover_every_process,
         monitors_reach_every_process, names_are_unique_and_short, names_in_flags_are_pods]


def wrong(objects):
    for rule in RULES:
        for what in rule(objects):
            yield f"{rule.__name__.replace('_', ' ')}: {what}"


def at(objects, kind, end):
    return next(one for one in of(objects, kind) if one["metadata"]["name"].endswith(end))


def spec(objects, kind, end):
    return at(objects, kind, end)["spec"]["template"]["spec"]


# How to break each rule.
BREAKS = {
    sets_select_their_pods_alone: lambda o: at(o, "StatefulSet", "shard")["spec"]["selector"]["matchLabels"].update(x="y"),
    services_have_pods_and_ports: lambda o: at(o, "Service", "shard")["spec"]["ports"][0].update(targetPort="nobody"),
    port_names_are_short: lambda o: spec(o, "StatefulSet", "shard")["containers"][0]["ports"][0].update(name="sixteen-letters-x"),
    probes_ask_ports_that_there_are: lambda o: spec(o, "Deployment", "router")["containers"][0].pop("livenessProbe"),
    liveness_asks_nobody_else: lambda o: spec(o, "Deployment", "router")["containers"][0]["livenessProbe"]["httpGet"].update(path="/readyz"),
    mounts_have_volumes: lambda o: spec(o, "StatefulSet", "shard").pop("volumes"),
    what_pods_read_is_there: lambda o: o.remove(at(o, "ConfigMap", "-config")),
    paths_in_flags_are_mounted: lambda o: spec(o, "StatefulSet", "shard")["containers"][0]["args"].append("--config=/nowhere/x"),
    budgets_fit: lambda o: at(o, "PodDisruptionBudget", "shard")["spec"].update(minAvailable=1),
    autoscalers_fit: lambda o: at(o, "HorizontalPodAutoscaler", "router")["spec"].update(minReplicas=99),
    pods_are_restricted: lambda o: spec(o, "Deployment", "router")["containers"][0]["securityContext"].pop("capabilities"),
    grace_is_long_enough: lambda o: spec(o, "Deployment", "router").update(terminationGracePeriodSeconds=30),
    policies_cover_every_process: lambda o: o.remove(at(o, "NetworkPolicy", "shard")),
    monitors_reach_every_process: lambda o: at(o, "ServiceMonitor", "flotilla")["spec"]["endpoints"].pop(),
    names_are_unique_and_short: lambda o: o.append(o[0]),
    names_in_flags_are_pods: lambda o: at(o, "Service", "shard")["spec"].pop("publishNotReadyAddresses"),
}


def bites(render):
    """Each rule refuses an object that was broken against it."""
    objects = render()
    for rule in RULES:
        broken = copy.deepcopy(objects)
        BREAKS[rule](broken)
        assert list(rule(broken)), f"{rule.__name__} takes what is wrong"
    return f"{len(RULES)} rules, each broken once"
