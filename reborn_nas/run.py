"""Run a third-party script with our models registered: `python -m reborn_nas.run SCRIPT [ARGUMENTS …]`.

timm has no plug-ins, and its `validate.py`, `benchmark.py`, `onnx_export.py` and `inference.py` have no option that
imports a module first. The script then runs as if Python had been called with it, and with the installed timm, even if
the script is from a checkout of timm.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

__all__ = ["main"]


USAGE = """usage: python -m reborn_nas.run [--trust-source] SCRIPT [ARGUMENTS …]

Runs SCRIPT after `import reborn_nas`. With --trust-source, exports that carry a source file of their own are loaded
as with timm.create_model(..., trust_source=True): read that file first.
"""


def main() -> None:
    """Run the script of the command line; importing this module has registered the models."""
    words = sys.argv[1:]
    trust = words[:1] == ["--trust-source"]
    words = words[1:] if trust else words
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        raise SystemExit(0 if words else 2)
    script = Path(words[0])
    if not script.is_file():
        print(f"python -m reborn_nas.run: error: there is no file {script}", file=sys.stderr)
        raise SystemExit(2)
    if trust:
        from reborn_nas.models.exported import TRUST

        TRUST.every_export = True
    sys.argv = words
    sys.path.insert(0, str(script.resolve().parent))
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
