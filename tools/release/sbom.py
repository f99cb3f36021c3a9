"""A bill of materials: bitvit and all that it imports, as CycloneDX 1.6 in JSON.

Read from the metadata of what is installed, so it is true of one environment, and says so. sha256 are those that
.ci/requirements.txt has of a version's files. Equal environments give equal bytes.
"""

import datetime
import json
import platform
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import Distribution, distribution
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["LOCK", "bill_of_materials", "closure", "hashes_of", "licence_of"]

LOCK = ".ci/requirements.txt"
NAMESPACE = uuid.UUID("0f0cf5b7-45a6-4c5a-b15b-55cc4d3c4d52")  # of this tool's serial numbers

# What some packages say instead of an SPDX expression, where it can mean one licence alone ("BSD License" cannot).
_SPDX = {"Apache 2.0": "Apache-2.0", "ISC License": "ISC", "MIT License": "MIT", "The MIT License (MIT)": "MIT"}


def closure(name: str, extras: Sequence[str] = ()) -> dict[str, tuple[Distribution, list[str]]]:
    """What a package needs here, itself included: by its canonical name the distribution and what it needs itself.

    Raises PackageNotFoundError for what is needed and not installed.
    """
    found: dict[str, tuple[Distribution, list[str]]] = {}
    waiting = [(canonicalize_name(name), frozenset(extras))]
    seen = set(waiting)
    while waiting:
        current, wanted = waiting.pop()
        about = distribution(current)
        needs = found.setdefault(current, (about, []))[1]
        for requirement in map(Requirement, about.requires or ()):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*wanted, "")):
                needed = canonicalize_name(requirement.name)
                if needed != current and needed not in needs:
                    needs.append(needed)
                if (entry := (needed, frozenset(requirement.extras))) not in seen:
                    seen.add(entry)
                    waiting.append(entry)
    return dict(sorted(found.items()))


def licence_of(about: Distribution) -> str:
    """An SPDX expression, or what the package says instead; "" if it says nothing."""
    metadata = about.metadata
    for text in (metadata["License-Expression"], metadata["License"]):
        if text and "\n" not in text and len(text) < 80:
            return _SPDX.get(text, text)
    for classifier in metadata.get_all("Classifier") or ():
        if classifier.startswith("License :: OSI Approved :: "):
            text = classifier.rpartition(" :: ")[2]
            return _SPDX.get(text, text)
    return ""


def hashes_of(lock: str) -> dict[tuple[str, str], list[str]]:
    """By name and version, the sha256 that a file of requirements has."""
    found: dict[tuple[str, str], list[str]] = {}
    entry: list[str] = []
    for line in lock.splitlines():
        if pinned := re.match(r"([\w.-]+)==([^\s;]+)", line):
            entry = found.setdefault((canonicalize_name(pinned[1]), pinned[2]), [])
        elif given := re.match(r"\s+--hash=sha256:([0-9a-f]{64})", line):
            entry.append(given[1])
    return found


def bill_of_materials(lock: str, time: int, extras: Sequence[str] = ()) -> str:
    """The bill of bitvit as installed here, with some of its extras.

    lock: the text of LOCK. time: that it gives, seconds since 1970. Raises PackageNotFoundError as `closure` does.
    """
    hashes = hashes_of(lock)
    parts = closure("bitvit", extras)
    components = [_component(about, hashes) for name, (about, _) in parts.items() if name != "bitvit"]
    root = _component(parts["bitvit"][0], {})
    bill = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": datetime.datetime.fromtimestamp(time, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {**root, "type": "application"},
            "properties": list(_environment(extras)),
        },
        "components": components,
        "dependencies": [
            {"ref": _purl(about), "dependsOn": sorted(_purl(parts[need][0]) for need in needs)}
            for about, needs in parts.values()
        ],
    }
    serial = uuid.uuid5(NAMESPACE, json.dumps(bill))
    return json.dumps({"serialNumber": f"urn:uuid:{serial}", **bill}, indent=1) + "\n"


def _environment(extras: Sequence[str]) -> Iterator[dict[str, str]]:
    facts = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "extras": ", ".join(extras) or "none",
    }
    for name, value in facts.items():
        yield {"name": f"bitvit:{name}", "value": value}


def _purl(about: Distribution) -> str:
    return f"pkg:pypi/{canonicalize_name(about.name)}@{about.version}"


def _component(about: Distribution, hashes: Mapping[tuple[str, str], Sequence[str]]) -> dict[str, Any]:
    purl, licence = _purl(about), licence_of(about)
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "name": canonicalize_name(about.name),
        "version": about.version,
        "purl": purl,
    }
    if about.metadata["Summary"]:
        component["description"] = about.metadata["Summary"]
    if licence:
        spdx = re.fullmatch(r"\(?[\w.+-]+(?: (?:AND|OR|WITH) \(?[\w.+-]+\)?)*", licence)
        component["licenses"] = [{"expression": licence} if spdx else {"license": {"name": licence}}]
    if files := hashes.get((canonicalize_name(about.name), about.version)):
        sums = [{"alg": "SHA-256", "content": value} for value in files]
        component["externalReferences"] = [{"type": "distribution", "url": purl, "hashes": sums}]
    return component
