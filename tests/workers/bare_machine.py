"""Runs `python -m slotpapers.runs` as on a machine that has none of the notebook tools.

Whatever a bare GPU machine lacks is refused at import, whoever asks for it.
"""
import runpy
import sys
from importlib.abc import MetaPathFinder

ABSENT = {"nbdev", "fastcore", "execnb", "ghapi", "IPython", "ipykernel", "jupyter_client", "nbclient", "nbformat", "papermill", "dvc",
          "typer", "seaborn", "pooch", "beartype", "tensorboard", "lightning_fabric" if "--no-fabric" in sys.argv else "jupytext"}


class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r} (this machine has no notebook tools)", name=name)


sys.meta_path.insert(0, Absent())
assert not ABSENT & set(sys.modules)
runpy.run_module("slotpapers.runs", run_name="__main__", alter_sys=True)
