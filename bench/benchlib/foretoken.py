"""Our own binary, built as a user would build it."""

import os
import subprocess
from pathlib import Path

from benchlib.host import ROOT, say


def binary(given=None):
    """Path of the release binary: `given`, or built now."""
    if given:
        return Path(given).resolve()
    say("building foretoken (release)")
    subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "foretoken"], cwd=ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "release" / "foretoken"
