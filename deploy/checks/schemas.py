"""The schemas: Kubernetes' own, strict, for each version; those of the operators' kinds, as their Python models have them."""

import importlib
import json
from functools import cache
from importlib import resources

import jsonschema
import referencing

MODELS = {
    "PrometheusRule": "cloudcoil.models.prometheus_operator.v1",
    "ServiceMonitor": "cloudcoil.models.prometheus_operator.v1",
    "ScaledObject": "cloudcoil.models.keda.v1alpha1",
    "Certificate": "cloudcoil.models.cert_manager.v1",
}


class Schemas:
    def wrong(self, one, version):
        """What the schema says against an object."""
        kind = one["kind"]
        try:
            checker = operators(kind) if kind in MODELS else kubernetes(kind, one["apiVersion"], version)
        except FileNotFoundError:
            return [f"there is no {one['apiVersion']} {kind} in this version"]
        found = sorted(checker.iter_errors(one), key=lambda error: list(error.path))
        return [f"{'.'.join(map(str, error.path))}: {error.message[:200]}" for error in found]


@cache
def definitions(version):
    folder = resources.files("kubernetes_validate") / f"kubernetes-json-schema/v{version}.0-local-strict"
    whole = referencing.Resource.from_contents(json.loads((folder / "_definitions.json").read_text()))
    return folder, whole


@cache
def kubernetes(kind, api_version, version):
    folder, whole = definitions(version)
    group, _, name = api_version.rpartition("/")
    file = f"{kind.lower()}-{group.split('.')[0] + '-' if group else ''}{name}.json"
    schema = json.loads((folder / file).read_text())
    registry = whole @ (referencing.Resource.from_contents(schema) @ referencing.Registry())
    return jsonschema.Draft202012Validator(schema, registry=registry)


@cache
def operators(kind):
    schema = getattr(importlib.import_module(MODELS[kind]), kind).model_json_schema(by_alias=True)
    close(schema)
    return jsonschema.Draft202012Validator(schema)


def close(schema):
    """Refuses fields that a schema does not name. The names and labels of objects are Kubernetes' own schema's business."""
    if isinstance(schema, dict):
        if "properties" in schema and schema.get("additionalProperties", True) is True:
            schema["additionalProperties"] = False
        for inner in schema.values():
            close(inner)
    elif isinstance(schema, list):
        for inner in schema:
            close(inner)
