"""Run notebooks without Jupyter, each in one process of its own: `python scripts/run_notebook.py examples/*.ipynb`.

SALAD_SMALL=1 makes ours small, for CI. The first cell that fails ends it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

HOUSE = Path(__file__).parents[1]


def program(notebook: Path) -> str:
    """The code of its cells, in order."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        start = time.monotonic()
        subprocess.run([sys.executable, "-c", program(Path(name))], cwd=HOUSE, check=True)
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)
