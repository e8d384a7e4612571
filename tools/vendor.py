"""Fetches what the dashboard takes from npm: `python -m tools.vendor` packs, verifies, copies and writes THIRD_PARTY.md.

`tools/vendor.json` lists packages and files. The first fetch of a version writes its integrity and the hash of every
file there; later ones refuse anything else. Browsers get these files from the farm itself, never from a third party.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = ROOT / "tools" / "vendor.json"
TARGET = ROOT / "farm" / "web" / "static" / "vendor"
NOTICE = ROOT / "THIRD_PARTY.md"


def folder_of(package: dict[str, Any]) -> Path:
    """Where the files of `package` lie; the scope's slash becomes a dash."""
    return TARGET / f"{package['name'].lstrip('@').replace('/', '-')}@{package['version']}"


def path_of(package: dict[str, Any], member: str) -> Path:
    return folder_of(package) / Path(member).name


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def fetch(package: dict[str, Any]) -> None:
    """Copy the files of `package`, after checking the archive and each file against what is known of them."""
    with tempfile.TemporaryDirectory(prefix="farm-vendor-") as folder:
        spec = f"{package['name']}@{package['version']}"
        subprocess.run(["npm", "pack", spec, "--silent", "--pack-destination", folder], check=True)
        archive = next(Path(folder).glob("*.tgz"))
        digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        integrity = f"sha512-{digest}"
        if package.setdefault("integrity", integrity) != integrity:
            sys.exit(f"{spec}: the archive is not the one that was vendored before ({integrity})")
        with tarfile.open(archive) as tar:
            for member, known in package["files"].items():
                found = tar.extractfile(f"package/{member}")
                if found is None:
                    sys.exit(f"{spec}: {member} is no file")
                data = found.read()
                if known and known != sha256(data):
                    sys.exit(f"{spec}: {member} is not the file that was vendored before")
                package["files"][member] = sha256(data)
                path = path_of(package, member)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)


def notice(packages: list[dict[str, Any]]) -> str:
    """The text of THIRD_PARTY.md."""
    lines = [
        "# Third-party files",
        "",
        "The dashboard brings these files along, so that a browser loads nothing from elsewhere. They are unchanged;",
        "`python -m tools.vendor` fetches them, `tools/vendor.json` holds their hashes. Licences lie beside them.",
        "",
        "| Package | Version | Licence | What for |",
        "| --- | --- | --- | --- |",
    ]
    for package in packages:
        folder = folder_of(package).relative_to(ROOT).as_posix()
        name = f"[{package['name']}](https://www.npmjs.com/package/{package['name']})"
        licence = f"[{package['license']}]({folder}/LICENSE)"
        lines.append(f"| {name} | {package['version']} | {licence} | {package['use']} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    packages = json.loads(MANIFEST.read_text())
    for package in packages:
        fetch(package)
    wanted = {path_of(package, member) for package in packages for member in package["files"]}
    for path in TARGET.rglob("*"):
        if path.is_file() and path not in wanted:
            path.unlink()
    MANIFEST.write_text(json.dumps(packages, indent=2) + "\n")
    NOTICE.write_text(notice(packages))


if __name__ == "__main__":
    main()
