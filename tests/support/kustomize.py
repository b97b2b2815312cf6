"""
C{kustomize build}, as far as our manifests need it.

Invariant: an unknown setting is an error.
"""

import copy
from pathlib import Path
from typing import Any

import yaml

Resource = dict[str, Any]


def read(path: Path) -> Resource:
    """
    A file with one document.
    """
    content: Resource = yaml.safe_load(path.read_text())
    return content


def build(folder: Path) -> list[Resource]:
    """
    The resources of a kustomization.
    """
    return _build(folder, [])


def _build(folder: Path, resources: list[Resource]) -> list[Resource]:
    """
    @param resources: what a component is put on.
    """
    settings = read(folder / "kustomization.yaml")
    kind = settings.pop("kind")
    version = settings.pop("apiVersion")
    if (kind, version.rpartition("/")[2]) not in (
        ("Kustomization", "v1beta1"),
        ("Component", "v1alpha1"),
    ):
        raise AssertionError(f"{folder}: no kustomization is {kind} of {version}")
    resources = list(resources)
    for name in settings.pop("resources", []):
        path = folder / name
        resources += build(path) if path.is_dir() else [read(path)]
    for name in settings.pop("components", []):
        resources = _build(folder / name, resources)
    for each in settings.pop("patches", []):
        _patch(resources, **each)
    if namespace := settings.pop("namespace", None):
        for resource in resources:
            if resource["kind"] == "Namespace":
                resource["metadata"]["name"] = namespace
            else:
                resource["metadata"]["namespace"] = namespace
    for each in settings.pop("labels", []):
        for resource in resources:
            resource["metadata"].setdefault("labels", {}).update(each["pairs"])
    if settings:
        raise AssertionError(f"{folder}: {', '.join(settings)}: not known here")
    return resources


def _patch(resources: list[Resource], target: dict[str, str], patch: str) -> None:
    found = [
        resource
        for resource in resources
        if (resource["kind"], resource["metadata"]["name"]) == (target["kind"], target["name"])
    ]
    if len(found) != 1:
        raise AssertionError(f"{target} is {len(found)} resources")
    for operation in yaml.safe_load(patch):
        _apply(found[0], **operation)


def _apply(resource: Resource, op: str, path: str, value: Any) -> None:
    """
    Apply an operation of RFC 6902.
    """
    *way, last = path.lstrip("/").replace("~1", "/").split("/")
    place: Any = resource
    for step in way:
        place = place[int(step) if isinstance(place, list) else step]
    value = copy.deepcopy(value)
    if isinstance(place, list) and op == "add" and last == "-":
        place.append(value)
    elif isinstance(place, dict) and op == ("replace" if last in place else "add"):
        place[last] = value
    else:
        raise AssertionError(f"{op} of {path}: not known here")
