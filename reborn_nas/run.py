"""Run somebody else's script with our models registered: `python -m reborn_nas.run SCRIPT [ARGUMENTS …]`.

timm has no plug-ins, and its `validate.py`, `benchmark.py`, `onnx_export.py` and `inference.py` have no option that
imports a module first. The script then runs as if Python had been called with it. timm itself is the installed one,
also where the script comes from a checkout of timm.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

__all__ = ["main"]


def main() -> None:
    """Import `reborn_nas`, then run the script that the command line names."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(
            "usage: python -m reborn_nas.run SCRIPT [ARGUMENTS …]\n\nRuns SCRIPT after `import reborn_nas`."
        )
        raise SystemExit(0 if len(sys.argv) > 1 else 2)
    script = Path(sys.argv[1])
    if not script.is_file():
        print(f"python -m reborn_nas.run: error: there is no file {script}", file=sys.stderr)
        raise SystemExit(2)
    import reborn_nas  # noqa: F401  registers the models

    sys.argv = sys.argv[1:]
    sys.path.insert(0, str(script.resolve().parent))
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
