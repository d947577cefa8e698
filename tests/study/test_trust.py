"""A run folder may come from anybody: its code runs only where this user's own search ran it, or on request."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reborn_nas import known
from reborn_nas.architecture import BackboneSpec
from reborn_nas.cli.main import main
from reborn_nas.files import sha256_of
from reborn_nas.known import foreign_code, remember_code
from reborn_nas.study import run_search
from tests.study.test_run import tiny

NETWORK = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, in_chans):
        super().__init__()
        self.conv = nn.Conv2d(in_chans, 8, 3, padding=1)
        self.act = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.head(self.pool(self.act(self.conv(x))).flatten(1))

def make(num_classes=10, in_chans=1):
    return Net(num_classes, in_chans)
"""


@pytest.fixture
def nowhere_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user who has never searched."""
    monkeypatch.setattr(known, "_marked", set())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "reborn-nas"


def evil(run: Path, source: str, arguments: dict[str, Any]) -> None:
    """Replace the network of every architecture in the run's journal."""
    lines = []
    digest = sha256_of(source.rpartition(":")[0]) if Path(source.rpartition(":")[0]).is_file() else None

    def walk(value: Any) -> Any:
        if isinstance(value, dict) and "source" in value and "num_classes" in value:
            return {**value, "source": source, "source_digest": digest, "arguments": arguments}
        if isinstance(value, dict):
            return {key: walk(one) for key, one in value.items()}
        return [walk(one) for one in value] if isinstance(value, list) else value

    for line in (run / "study.journal").read_text().splitlines():
        lines.append(json.dumps(walk(json.loads(line))))
    (run / "study.journal").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def innocent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert run_search(tiny(folder, candidate=4, trials=12, screen=4)).complete
    return folder


@pytest.fixture
def stranger_s(innocent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder whose network is built by a file beside it, which leaves a trace where it runs."""
    monkeypatch.chdir(tmp_path)
    run = Path("r")
    shutil.copytree(innocent, run)
    (run / "evil.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')\n{NETWORK}")
    return run


NAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "file": ("r/evil.py:make", {}),
    "module": ("os:system", {"command": "touch pwned"}),
    "nested": (
        "timm:reborn_model",
        {"architecture": {"backbone": {"source": "r/evil.py:make"}, "choices": {}}, "trust_source": True},
    ),
    "weights": ("timm:convnet5", {"checkpoint_path": "r/evil.py"}),
}


@pytest.mark.parametrize("kind", NAMED)
@pytest.mark.usefixtures("nowhere_known")
def test_what_a_stranger_names_does_not_run(
    stranger_s: Path, kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, arguments = NAMED[kind]
    evil(stranger_s, source, arguments)
    run = str(stranger_s)
    assert main(["report", run, "--out", "page"]) == 0
    assert "what the sites see is left out" in Path("page/index.html").read_text()
    assert source in Path("page/index.html").read_text()
    assert main(["status", run]) == 0
    capfd.readouterr()
    for words in (["export", run, "--out", "model"], ["train", "--architecture", run, "--out", "model"]):
        assert main(words) == 2
        said = capfd.readouterr().err
        assert source in said
        assert "--trust-source" in said or "--backbone" in said
    assert not (tmp_path / "pwned").exists()
    assert not Path("model").exists()


@pytest.mark.usefixtures("nowhere_known")
def test_on_request_it_runs(stranger_s: Path, tmp_path: Path) -> None:
    evil(stranger_s, "r/evil.py:make", {})
    assert main(["export", "r", "--out", "model", "--trust-source"]) == 2  # other weights than evil's
    assert (tmp_path / "pwned").exists()


def test_what_this_user_s_search_ran_needs_no_question(
    nowhere_known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NETWORK)
    config = tiny(Path("run"), backbone="net.py:make", backbone_arguments={}, trials=6)
    assert run_search(config).complete
    assert len(list(nowhere_known.iterdir())) == 1
    monkeypatch.setattr(known, "_marked", set())  # another process
    assert main(["report", "run"]) == 0
    assert "left out: the networks" not in Path("run/report/index.html").read_text()
    assert main(["export", "run", "--out", "model"]) == 0
    shutil.rmtree(nowhere_known)  # another user
    assert main(["export", "run", "--out", "model2"]) == 2


def test_a_mark_is_of_a_path_a_content_and_a_factory(
    nowhere_known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not nowhere_known.exists()
    own, other = tmp_path / "own" / "net.py", tmp_path / "other" / "net.py"
    for path in (own, other):
        path.parent.mkdir()
        path.write_text(NETWORK)
    spec = BackboneSpec(f"{own}:make")
    remember_code(spec)
    assert foreign_code([spec]) is None
    for foreign in (f"{other}:make", f"{own}:Net", "os:system", f"{tmp_path}/none.py:make"):
        assert foreign_code([spec, replace(spec, source=foreign)]) == foreign
    own.write_text(NETWORK + "# changed")
    assert foreign_code([spec]) == spec.source
    remember_code(BackboneSpec("timm:resnet18"))  # a library's own needs no mark
    assert len(list(nowhere_known.iterdir())) == 1
    assert (
        foreign_code([BackboneSpec("timm:resnet18", {"width": 2}), BackboneSpec("torchvision:resnet18")])
        is None
    )


@pytest.mark.parametrize("place", ["/proc/nowhere", "file"])
def test_a_state_folder_that_cannot_be_written_costs_a_warning(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(known, "_marked", set())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / place))
    path = tmp_path / "net.py"
    path.write_text(NETWORK)
    spec = BackboneSpec(f"{path}:make")
    remember_code(spec)
    assert foreign_code([spec]) is None, "this process ran it"
    assert "cannot be marked" in caplog.text


def test_looking_for_a_module_s_file_imports_nothing(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "nets.py").write_text("raise SystemExit('imported')")
    code = (
        "from reborn_nas.known import foreign_code, remember_code\n"
        "from reborn_nas.architecture import BackboneSpec\n"
        "spec = BackboneSpec('package.nets:make')\n"
        "assert foreign_code([spec])\nremember_code(spec)\nassert foreign_code([spec]) is None\n"
        "open('package/nets.py', 'a').write('#')\nassert foreign_code([spec])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("nowhere_known")
def test_a_report_folder_that_leads_elsewhere_is_not_written(innocent: Path, tmp_path: Path) -> None:
    run, home = tmp_path / "run", tmp_path / "home"
    shutil.copytree(innocent, run, ignore=shutil.ignore_patterns("report"))
    home.mkdir()
    (run / "report").symlink_to(home)
    assert main(["report", str(run)]) == 2
    assert not list(home.iterdir())


@pytest.mark.usefixtures("nowhere_known")
def test_a_server_that_a_stranger_s_folder_names_is_not_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import socket

    monkeypatch.delenv("REBORN_NAS_STORAGE", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        url = f"postgresql://127.0.0.1:{server.getsockname()[1]}/db"
        (tmp_path / "config.json").write_text(json.dumps({"study": "x", "storage": url}))
        for verb in ("status", "report", "dashboard"):
            assert main([verb, str(tmp_path)]) == 2
            assert "REBORN_NAS_STORAGE" in capfd.readouterr().err
        with pytest.raises(TimeoutError):
            server.accept()
