"""Check `docker-compose.yml` and the Dockerfiles without a Docker engine: paths, settings and services that must exist."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import yaml

from farm.settings import Settings

ROOT = Path(__file__).parent.parent


def dockerfile_problems(path: Path) -> list[str]:
    """Copied paths that do not exist, and a missing unprivileged user."""
    text = path.read_text()
    problems = []
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        problems += [
            f"{path.name}: COPY {source}: no such path"
            for source in line.split()[:-1]
            if not (ROOT / source).exists()
        ]
    if "\nUSER " not in text:
        problems.append(f"{path.name}: runs as root; name a USER")
    return problems + unknown_settings(path.name, text)


def unknown_settings(where: str, text: str) -> list[str]:
    """Names `FARM_…` that are no setting."""
    known = {f"FARM_{name.upper()}" for name in Settings.model_fields}
    return [
        f"{where}: {name} is no setting of Farm"
        for name in sorted(set(re.findall(r"FARM_[A-Z0-9_]+", text)) - known)
    ]


def compose_problems(path: Path) -> list[str]:
    """Services that depend on what is not there, builds without a file, volumes without a declaration."""
    text = path.read_text()
    compose: dict[str, Any] = yaml.safe_load(text)
    services: dict[str, Any] = compose["services"]
    problems = unknown_settings(path.name, text)
    built = {service["image"] for service in services.values() if "build" in service}
    for name, service in services.items():
        for other in service.get("depends_on", {}):
            if other not in services:
                problems.append(f"{name}: depends on {other}, which is no service")
        if "build" in service and not (ROOT / service["build"]["dockerfile"]).exists():
            problems.append(f"{name}: {service['build']['dockerfile']} does not exist")
        if service["image"].startswith("farm-") and service["image"] not in built:
            problems.append(f"{name}: nothing builds the image {service['image']}")
        for volume in service.get("volumes", []):
            if volume.split(":")[0] not in compose["volumes"]:
                problems.append(f"{name}: volume {volume.split(':')[0]} is not declared")
    return problems


def main() -> int:
    problems = compose_problems(ROOT / "docker-compose.yml")
    for dockerfile in sorted((ROOT / "infra").glob("*.Dockerfile")):
        problems += dockerfile_problems(dockerfile)
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
