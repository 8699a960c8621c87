"""Runs the code cells of one notebook in a shell of their own, in a process that has torch imported already.

Forked from a server without pytest, so a page meets the library as a reader's kernel does: no shape hook, no strict warnings.
"""
import os
import sys
import traceback
from pathlib import Path

import ipykernel  # noqa: F401  a page that is also a script asks for it
import nbformat
from IPython.core.interactiveshell import InteractiveShell

SHARED = ["torch", "torch._dynamo", "matplotlib.pyplot", "matplotlib_inline.backend_inline", "pandas", "scipy.signal", "scipy.stats", "scipy.optimize",
          "sklearn.ensemble", "sklearn.metrics", "jaxtyping", "beartype", "einops", "IPython.core.interactiveshell", "nbformat", "lightning_fabric", "huggingface_hub"]      # imported once, before the fork


class PageShell(InteractiveShell):
    "A shell without a window system."

    def enable_gui(self, gui=None) -> None:
        pass


def run(path: str, channel) -> None:
    "Sends None when every cell has run, else the failing cell and its traceback."
    try:
        os.chdir(Path(path).parent)
        sys.path.insert(0, "")
        shell = PageShell.instance()
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                found = shell.run_cell(cell.source)
                if not found.success:
                    error = found.error_before_exec or found.error_in_exec
                    channel.send(f"{cell.source}\n\n{''.join(traceback.format_exception(error))}")
                    return
        channel.send(None)
    except BaseException:
        channel.send(traceback.format_exc())
        raise
