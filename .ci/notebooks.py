"""Run every notebook of docs/tutorials in an empty folder, and fail at the first error or after the time limit."""

import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"
LIMIT_S = 300  # a cell; a whole notebook takes less than 60 s on two free cores


def main() -> None:
    chosen = sys.argv[1:] or sorted(path.stem for path in TUTORIALS.glob("*.ipynb"))
    for name in chosen:
        notebook = nbformat.read(TUTORIALS / f"{name}.ipynb", as_version=4)
        began_s = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            NotebookClient(notebook, timeout=LIMIT_S, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
        print(f"{name}: {time.monotonic() - began_s:.0f} s", flush=True)
        for cell in notebook.cells:
            for output in cell.get("outputs", ()):
                shown = output.get("text") or output.get("data", {}).get("text/plain", "")
                kinds = ", ".join(output.get("data", {})) or output.output_type
                print(f"    [{kinds}] {' '.join(shown.split())[:150]}")


if __name__ == "__main__":
    main()
