"""chain.8: the hospital wheel holds client and shared only, is the same from two builds, lacks the server."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def build(copy: Path, mtime: int, dist: str = "client") -> Path:
    """Build the wheel of a folder from a copy of the sources whose files have this modification time."""
    for part in (dist, "shared"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "dist"))
    for path in copy.rglob("*"):
        os.utime(path, (mtime, mtime))
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(copy / "out"),
        str(copy / dist),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = (copy / "out").glob("*.whl")
    return wheel


def names(wheel: Path) -> set[str]:
    """Top-level names in the wheel, its metadata apart."""
    with zipfile.ZipFile(wheel) as archive:
        return {name.split("/")[0] for name in archive.namelist() if ".dist-info" not in name}


def sources(wheel: Path) -> set[str]:
    """Every file of the packages in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info" not in name}


def expected() -> set[str]:
    """Every file that belongs in it."""
    roots = {"client": ROOT / "client/genopact_client", "shared": ROOT / "shared/genopact_shared"}
    found = (path.relative_to(root.parent) for root in roots.values() for path in root.rglob("*") if path.is_file())
    return {path.as_posix() for path in found if "__pycache__" not in path.parts}


def imports(wheel: Path, folder: Path) -> dict[str, bool]:
    """Which packages an environment with only this wheel imports (dependencies are not installed)."""
    venv.create(folder, with_pip=False)
    (site,) = (folder / "lib").glob("python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = "import importlib.util as u, json; print(json.dumps({n: u.find_spec(n) is not None for n in %r}))"
    packages = ["genopact_client", "genopact_shared", "genopact_server", "genopact_ingest"]
    done = subprocess.run(
        [folder / "bin/python", "-I", "-c", code % packages], check=True, capture_output=True, text=True
    )
    found: dict[str, bool] = json.loads(done.stdout)
    return found


def main() -> dict[str, Any]:
    """The row."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        wheels = [build(folder / str(index), 1_700_000_000 + 86_400 * index) for index in range(2)]
        digests = [hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels]
        found = imports(wheels[0], folder / "venv")
        importing = build(folder / "importing", 1_700_000_000, "ingest")
        parts = {
            "same hash from two builds": len(set(digests)) == 1,
            "client and shared only": names(wheels[0]) == {"genopact_client", "genopact_shared"},
            "every file and no other": sources(wheels[0]) == expected(),
            "import genopact_server fails": found
            == {"genopact_client": True, "genopact_shared": True, "genopact_server": False, "genopact_ingest": False},
            "the importing room's wheel holds that room only": names(importing) == {"genopact_ingest"},
        }
    return {
        "value": int(all(parts.values())),
        "note": "; ".join(f"{part}: {'yes' if ok else 'NO'}" for part, ok in parts.items()),
    }


if __name__ == "__main__":
    print(json.dumps(main(), indent=1))
