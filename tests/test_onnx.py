"ONNX files, made in a process without the shape checks: these compare sizes, which would pin the batch."
import json
import subprocess
import sys

import pytest
import torch

from slotpapers.models import onnx_export
from slotpapers.models.slotfm import SlotFM

SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np, torch
from slotpapers.core.seeds import forked_rng
from slotpapers.data.simulated import simulated_windows
from slotpapers.models.onnx_export import export_onnx, quantise_onnx, read_expectations, run_onnx
from slotpapers.models.slotfm import SlotFM
from slotpapers.models.slotfm_baselines import WindowModel

home, found = Path(sys.argv[1]), {}
small = dict(hidden=48, n_blocks=1)
with forked_rng(0, "onnx"):
    models = {"five seconds": SlotFM(**small), "activity benchmark": SlotFM(n_slots=4, n_steps=100, **small), "six bands": SlotFM(edges=(1, 2, 4, 6, 10), **small),
              "baseline": WindowModel(hidden=48, n_blocks=2)}
for name, model in models.items():
    x = simulated_windows(7, seconds=model.n_steps / 50).x
    path = export_onnx(model.train(), home / "m.onnx")
    assert model.training
    exact = model.eval().encode(torch.from_numpy(x)).detach().numpy()
    found[name] = {n: float(np.abs(run_onnx(path, x[:n]) - exact[:n]).max()) for n in (1, 2, 7)} | {"says": read_expectations(path), "bytes": path.stat().st_size}
    eight = quantise_onnx(path, home / "q.onnx", simulated_windows(40, seconds=model.n_steps / 50).x, batch=16)
    found[name] |= {"int8": float(np.abs(run_onnx(eight, x) - exact).mean() / exact.std()), "int8 bytes": eight.stat().st_size}
    assert sorted(p.name for p in home.iterdir()) == ["m.onnx", "q.onnx"]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_every_encoder_is_the_same_in_another_runtime(tmp_path):
    pytest.importorskip("onnxruntime", reason="export extra: onnxruntime is not installed")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == {"five seconds", "activity benchmark", "six bands", "baseline"}
    for name, one in found.items():
        assert all(one[n] < 1e-4 for n in ("1", "2", "7")), (name, one)
        assert one["says"] == {"fs": "50", "unit": "m/s^2", "model": "WindowModel" if name == "baseline" else "SlotFM"}
        assert one["int8"] < 0.1 and one["int8 bytes"] < one["bytes"], (name, one)


def test_what_cannot_be_exported(tmp_path, monkeypatch):
    model = SlotFM(hidden=8, n_blocks=1, n_steps=100)
    with pytest.raises(ValueError, match=r"on the CPU and in float32 to be exported: model.cpu\(\).float\(\)"):
        onnx_export.export_onnx(model.double(), tmp_path / "m.onnx")
    with torch.device("meta"), pytest.raises(ValueError, match="on the CPU"):
        onnx_export.export_onnx(SlotFM(hidden=8, n_blocks=1, n_steps=100), tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'slotpapers\[export\]'"):
        onnx_export.export_onnx(model.float(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
