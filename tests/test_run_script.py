"""`python -m reborn_nas.run SCRIPT …`: the script sees our models and its own arguments."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from reborn_nas.run import main

SCRIPT = """
import sys
import timm
import beside_the_script

if __name__ == "__main__":
    print(sys.argv[1:], timm.is_model("reborn_model"), beside_the_script.VALUE, sys.argv[0].endswith("script.py"))
    raise SystemExit(3)
"""


def test_a_script_runs_as_if_python_had_been_called_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "beside_the_script.py").write_text("VALUE = 7\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(
        sys, "argv", ["reborn_nas.run", str(tmp_path / "script.py"), "--model", "local-dir:x"]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 3
    assert capsys.readouterr().out.strip() == "['--model', 'local-dir:x'] True 7 True"


@pytest.mark.parametrize(("argv", "code"), [([], 2), (["--help"], 0), (["nowhere.py"], 2)])
def test_what_it_says_without_a_script(
    argv: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["reborn_nas.run", *argv])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    said = capsys.readouterr()
    assert "SCRIPT" in said.out or "nowhere.py" in said.err


@pytest.mark.parametrize("trusted", [False, True])
def test_an_export_with_source_of_its_own_needs_the_option(
    trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import reborn_nas as rn
    from reborn_nas.models.exported import TRUST

    (tmp_path / "net.py").write_text(
        "import torch.nn as nn\n"
        "def make(num_classes=2):\n"
        "    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
        "        nn.Linear(2, num_classes))\n"
    )
    architecture = rn.Architecture(rn.BackboneSpec(f"{tmp_path / 'net.py'}:make"), {})
    folder = rn.export(architecture, tmp_path / "out", input_size=(1, 8, 8), classes=["a", "b"])
    script = tmp_path / "script.py"
    script.write_text(f"import timm\ntimm.create_model({f'local-dir:{folder}'!r}, pretrained=True)\n")
    monkeypatch.setattr(TRUST, "every_export", False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["reborn_nas.run", *["--trust-source"] * trusted, str(script)])
    if trusted:
        main()
    else:
        with pytest.raises(rn.RebornError, match="trust_source=True"):
            main()
