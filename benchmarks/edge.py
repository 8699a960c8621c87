"""The encoder at the edge: latency, memory and size of one window on one CPU thread, in single precision and in eight bits.

    python benchmarks/edge.py

SlotFM's encoder (three bands, four blocks each, slot attention) and the encoder of the paper's other methods (twelve blocks, mean over time, a linear map), both
at the paper's size, with random weights, in PyTorch and as ONNX files in ONNX Runtime. In eight bits the convolutions are quantised, calibrated on
simulated windows; filters and slot attention stay in single precision. The paper names such use and measures none of it.
"""
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch

import measure
from slotpapers.core.seeds import forked_rng
from slotpapers.data.simulated import simulated_windows
from slotpapers.models.onnx_export import export_onnx, quantise_onnx, session
from slotpapers.models.slotfm import SlotFM
from slotpapers.models.slotfm_baselines import WindowModel

KEPT = tempfile.TemporaryDirectory()
HOME = Path(os.environ.setdefault("SLOTPAPERS_EDGE_FILES", KEPT.name))      # processes that measure memory find the files there
PARTS = {"SlotFM": lambda: [part for name, part in models()["SlotFM"].named_children() if name != "decoders"], "ResNet-12": lambda: [models()["ResNet-12"]]}


@cache
def models() -> dict:
    "Both encoders, untrained."
    with forked_rng(0, "edge"):
        return {"SlotFM": SlotFM().eval(), "ResNet-12": WindowModel().eval()}


def windows(n: int) -> np.ndarray:
    return simulated_windows(n, seconds=5.0).x


def file(name: str, kind: str) -> Path:
    "The ONNX file of a model, made when it is not there."
    path = HOME / f"{name}-{kind}.onnx"
    if not path.exists():
        export_onnx(models()[name], path) if kind == "fp32" else quantise_onnx(file(name, "fp32"), path, windows(64), batch=16)
    return path


def candidates() -> measure.Candidates:
    import onnxruntime
    made, x = {}, windows(1)
    for name in PARTS:
        model = models()[name]

        def torch_call(model=model):
            with torch.inference_mode():
                return model.encode(torch.from_numpy(x)).numpy()

        made[f"{name}, PyTorch"] = torch_call
        for kind in ("fp32", "int8"):
            made[f"{name}, ONNX {kind}"] = lambda run=session(onnxruntime, file(name, kind)): run.run(None, {"x": x})[0]
    return made


LOAD = """
import sys, time
from pathlib import Path
import numpy as np
kind, name, x = sys.argv[1], sys.argv[2], np.zeros((1, 3, 250), np.float32)
if kind == "torch":
    import torch
    torch.set_num_threads(1)
    from slotpapers.models.slotfm import SlotFM
    from slotpapers.models.slotfm_baselines import WindowModel
    from slotpapers.models.onnx_export import Encoding
else:
    import onnxruntime
    from slotpapers.models.onnx_export import session
status = lambda key: int(next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(key + ":")).split()[1]) / 1024
Path("/proc/self/clear_refs").write_text("5")        # the high-water mark starts again at the present resident set
before = status("VmRSS")
if kind == "torch":
    model = SlotFM() if name == "SlotFM" else WindowModel()
    if name == "SlotFM":
        del model.decoders                           # what a user of embeddings alone would do
    with torch.inference_mode():
        model.eval().encode(torch.from_numpy(x)), model.encode(torch.from_numpy(x))
else:
    run = session(onnxruntime, name)
    run.run(None, {"x": x}), run.run(None, {"x": x})
print(round(status("VmHWM") - before, 1))
"""


def resident(kind: str, name: str) -> float | None:
    "MB that loading a model and embedding two windows add to a fresh process that has its libraries; None where /proc does not offer it."
    if not os.access("/proc/self/clear_refs", os.W_OK):
        return None
    done = subprocess.run([sys.executable, "-c", LOAD, kind, name], capture_output=True, text=True, check=True,
                          env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"})
    return float(done.stdout.split()[-1])


def facts() -> dict:
    "Size on disk, weights of the encoder, and how far each runtime is from PyTorch, in parts of the embedding's spread."
    calls, size, distance, memory = candidates(), {}, {}, {}
    count = {name: sum(p.numel() for part in parts() for p in part.parameters()) for name, parts in PARTS.items()}
    for name in PARTS:
        exact = calls[f"{name}, PyTorch"]()
        memory[f"{name}, PyTorch"] = resident("torch", name)
        size[f"{name}, PyTorch"] = round(4 * count[name] / 1e6, 1)
        for kind in ("fp32", "int8"):
            memory[f"{name}, ONNX {kind}"] = resident("onnx", str(file(name, kind)))
            size[f"{name}, ONNX {kind}"] = round(file(name, kind).stat().st_size / 1e6, 1)
            distance[f"{name}, ONNX {kind}"] = float(f"{np.abs(calls[f'{name}, ONNX {kind}']() - exact).max() / exact.std():.2e}")
    return {"weights of the encoder": count, "megabytes on disk": size, "megabytes loaded and running": memory, "largest difference from PyTorch by spread": distance,
            "SlotFM fp32 equal to 1e-4": bool(np.abs(calls["SlotFM, ONNX fp32"]() - calls["SlotFM, PyTorch"]()).max() < 1e-4)}


CASES = {"one window of 5 s": measure.Case(candidates, "ResNet-12, ONNX fp32", "(1, 3, 250) to an embedding, untrained weights", facts=facts, peak=False)}

if __name__ == "__main__":
    measure.run(__file__, CASES, peers=("onnx", "onnxruntime"), missing=measure.left_out("onnxruntime", "onnxscript"))
