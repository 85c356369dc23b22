# See LICENSE for details.
"""
Build both distributions into C{dist}, look into them, then use the wheel as a
stranger would: in a fresh environment, in a directory that is not the checkout.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

PLUGIN = "twisted/plugins/pcapdaemon_plugin.py"
#: The live page, of which each module imports others.
PAGE = [
    f"pcapdaemon/listeners/http/page/{name}"
    for name in (
        *("index.html", "page.css", "icon.svg", "page.js", "api.js", "captures.js"),
        *("draw.js", "form.js", "model.js", "side.js"),
    )
]


def look(kind: str, names: set[str], wanted: set[str]) -> None:
    """
    @param names: What is in the distribution, without the sdist's top folder.
    """
    if missing := wanted - names:
        sys.exit(f"{kind}: {', '.join(sorted(missing))} missing")
    if foreign := {n for n in names if n.startswith("twisted/")} - {PLUGIN}:
        sys.exit(f"{kind}: {', '.join(sorted(foreign))} belongs to Twisted")
    print(f"{kind}: {len(names)} files, the plugin among them")


def run(where: Path, *command: str | Path) -> str:
    """
    Run a command, or end with what it said.

    @return: What it said.
    """
    # PYTHONPATH would lead back into the checkout.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        command,
        check=False,
        cwd=where,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        print(done.stdout)
        sys.exit(f"{' '.join(map(str, command))}: status {done.returncode}")
    return done.stdout


def use(wheel: Path, where: Path) -> None:
    """
    @param where: An empty directory.
    """
    print(f"installing {wheel.name} into a fresh environment", flush=True)
    venv.create(where / "environment", with_pip=True)
    bin = where / "environment" / "bin"
    elsewhere = where / "elsewhere"
    elsewhere.mkdir()
    run(elsewhere, bin / "python", "-m", "pip", "install", "-q", wheel)
    said = run(elsewhere, bin / "pcapdaemon", "--help")
    print(f"pcapdaemon --help: {said.strip().splitlines()[0]}")
    for option in ("--version", "--help", "--check"):
        said = run(elsewhere, bin / "twistd", "pcapdaemon", option)
        print(f"twistd pcapdaemon {option}: {said.strip().splitlines()[0]}")


def main() -> None:
    project = Path(__file__).resolve().parent.parent
    dist = project / "dist"
    for old in dist.glob("pcapdaemon-*"):
        old.unlink()
    print("building", flush=True)
    run(project, sys.executable, "-m", "build", "--outdir", dist)
    [wheel], [sdist] = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as z:
        look("wheel", set(z.namelist()), {PLUGIN, "pcapdaemon/py.typed", *PAGE})
    with tarfile.open(sdist) as t:
        names = {m.name.partition("/")[2] for m in t.getmembers() if m.isfile()}
    wanted = {PLUGIN, "LICENSE", "README.rst", "etc/pcapdaemon.toml", "Makefile", *PAGE}
    look("sdist", names, wanted)
    with tempfile.TemporaryDirectory() as where:
        use(wheel, Path(where))


if __name__ == "__main__":
    main()
