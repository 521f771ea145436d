"""The machine and the checkout: where things are, what ran where, and how to run a command."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target" / "bench"


def say(message):
    print(message, file=sys.stderr, flush=True)


def run(command, merge=False, **options):
    """Run a command and return its standard output, with `merge` its standard error too; if it fails, stop."""
    command = [str(part) for part in command]
    errors = subprocess.STDOUT if merge else subprocess.PIPE
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True, **options)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + (done.stderr or "")).strip().splitlines()[-20:])
        raise SystemExit(f"{shlex.join(command)} failed with {done.returncode}:\n{tail}")
    return done.stdout


def has_amx():
    return sys.platform == "linux" and "amx_tile" in Path("/proc/cpuinfo").read_text()


def cpu_model():
    for line in Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cpu_family():
    """Family and model numbers, which tell apart CPUs that a hypervisor gives one name."""
    if sys.platform != "linux":
        return ""
    fields = [line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line]
    values = {key.strip(): value.strip() for key, value in fields}
    return f"family {values.get('cpu family', '?')} model {values.get('model', '?')}"


def physical_cores():
    """Distinct (package, core) pairs; hyper-threads count once."""
    cores = set()
    for topology in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology"):
        cores.add(tuple((topology / name).read_text() for name in ("physical_package_id", "core_id")))
    return len(cores) or os.cpu_count() or 1


def checkout_version():
    commit = run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"]).strip()
    dirty = run(["git", "-C", ROOT, "status", "--porcelain", "--untracked-files=no"]).strip()
    return f"{commit}{' with changes' if dirty else ''}"


def without_folder(argument):
    """A path without where it lies on this machine."""
    return f"…/{Path(argument).name}" if Path(argument).is_absolute() else argument


def describe(threads):
    """What every record says about where it was measured."""
    return {
        "cpu": cpu_model(),
        "cpu_family": cpu_family(),
        "cores": physical_cores(),
        "threads": threads,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "date": date.today().isoformat(),
        "foretoken": checkout_version(),
        "command": shlex.join(["bench/" + Path(sys.argv[0]).name, *map(without_folder, sys.argv[1:])]),
    }
