"""Whatever is printed can be pasted: each command and snippet of README, help, messages, report, card and notes runs.

They are collected by extraction, so that a new one is tried too. What would take hours is parsed and planned.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reborn_nas.cli.main import VERBS, main, parser
from reborn_nas.cli.settings import given_settings
from tests.printed import FILLED, LOAD, PACKAGE, ROOT, Command, blocks, commands_in, messages, visible

README = (ROOT / "README.md").read_text(encoding="utf-8")
RUN = "odd name ü #1/run"


def in_the_source() -> list[Command]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for line, text in messages(path):
            found += commands_in(text, f"{path.relative_to(ROOT)}:{line}")
    return found


def in_the_help() -> list[Command]:
    found = []
    for verb in ("", *VERBS):
        made = parser(verb or None)
        if verb:
            made = made._subparsers._group_actions[0].choices[verb]  # type: ignore[union-attr]
        found += commands_in(made.format_help().partition("\n\n")[2], f"{verb or 'reborn-nas'} --help")
    return found


def in_the_documents() -> list[Command]:
    places = [ROOT / "README.md", *sorted((ROOT / "studies").glob("*.md"))]
    return [one for path in places for one in commands_in(path.read_text(encoding="utf-8"), path.name)]


def check(command: Command) -> None:
    """Parse it as the command line would; a search is also checked as a configuration."""
    program, *words = command.words
    if program == "pip":
        assert words[0] == "install", command
        assert not any(word.startswith("reborn-nas") for word in words), f"{command}: nobody can install that"
        return
    if program == "python":
        assert words[:2] == ["-m", "reborn_nas.run"], command
        return
    if not words or words[-1] in ("--help", "--version") or (len(words) == 1 and words[0] in VERBS):
        return
    assert words[0] in VERBS or words[0] == "VERB", command
    if words[0] == "VERB":
        return
    try:
        args = parser(words[0]).parse_args(words)
    except SystemExit:
        raise AssertionError(f"{command.place}: {shlex.join(command.words)}") from None
    if words[0] == "search":
        from reborn_nas.study import load_config

        settings = given_settings(args)
        if str(settings.get("recipe")).endswith("args.yaml"):
            settings["recipe"] = "fast"  # the file is the reader's
        load_config(None if args.config in (FILLED, "FILE") else args.config, **settings)


def test_every_command_in_source_help_and_documents_is_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    commands = [*in_the_source(), *in_the_help(), *in_the_documents()]
    faults = []
    for command in commands:
        try:
            check(command)
        except AssertionError as error:
            faults.append(f"{error}: {capsys.readouterr().err}")
    assert not faults, "\n".join(faults)
    verbs = {command.verb for command in commands}
    assert verbs >= set(VERBS), "the extraction finds every verb"
    assert len(commands) >= 80


# what a real run prints


def said(*words: str) -> str:
    """What a command prints; it must succeed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main(list(words))
    assert code == 0, (words, out.getvalue())
    return out.getvalue()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    for part, label, index in np.ndindex(2, 2, 8):
        place = folder / "photos" / ("train", "val")[part] / "ab"[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 100 * label + index, np.uint8)).save(place / f"{index}.png")
    shutil.copy(ROOT / "studies" / "segmentation.py", folder / "seg.py")
    return folder


@pytest.fixture(scope="module")
def printed(home: Path) -> Iterator[dict[str, str]]:
    """Place → text, of a small run with settings that have no default and a name that needs quotes."""
    search = shlex.split(
        "search --model-arg width=0.125 --momentum 0.85 --label-smoothing 0.05 --epochs 1 --threads 1 --yes "
        f"--run '{RUN}' --baseline 2 --screen 16 --search 2 --candidate 4 --confirm 0 --control 0"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        texts = {"search": said(*search)}
        texts["search again"] = said(*search)
        texts["status"] = said("status", RUN)
        texts["report"] = visible(Path(RUN, "report", "index.html").read_text())
        texts["export"] = said("export", RUN, "--out", "ordinary")
        texts["card"] = Path("ordinary/README.md").read_text()
        texts["front"] = (
            said("export", RUN, "--trial", "pareto", "--out", "front") + Path("front/README.md").read_text()
        )
        texts["recommended"] = refused("export", RUN, "--trial", "recommended", "--out", "x")
        from optuna_dashboard import get_note

        from reborn_nas.study.store.opening import open_store

        for study in open_store(RUN).studies():
            texts[f"note of {study.study_name}"] = get_note(study)
        yield texts


def refused(*words: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        main(list(words))
    return out.getvalue()


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    return home


def test_every_command_that_a_run_prints_runs(
    printed: dict[str, str], at_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[str] = []
    monkeypatch.setattr("reborn_nas.api.dashboards.serve_dashboard", lambda run, **_: served.append(str(run)))
    commands = {one.words: one for place, text in printed.items() for one in commands_in(text, place)}
    ran = []
    for number, command in enumerate(commands.values()):
        words = list(command.words[1:])
        if command.words[0] != "reborn-nas" or len(words) < 2:
            check(command)
            continue
        if "--out" in words:
            words[words.index("--out") + 1] = f"out-{number}"
        if command.verb == "train":
            words += ["--seeds", "1"]
        if command.verb == "search":
            again = said(*words)
            assert "24 of 24 trainings are done already" in again, (command, again)
            words[words.index("--run") + 1] = "fresh"
            assert "24 trainings" in said(*words, "--dry-run")
        else:
            said(*words)
        ran.append(command)
    assert served == [RUN]
    assert {command.verb for command in ran} >= {"search", "dashboard", "export"}
    places = {place for place, text in printed.items() if commands_in(text, place)}
    assert places >= {"search", "report", "card"}


def test_no_name_of_another_day_is_printed(printed: dict[str, str], at_home: Path) -> None:
    texts = {**printed, "status --json": said("status", RUN, "--json")}
    texts["plan --json"] = said("search", "--dry-run", "--json", "--run", "other")
    texts |= {path.name: path.read_text() for path in Path(RUN).rglob("*") if path.suffix in (".csv", ".log")}
    assert {"search.log", "trials.csv", "exploration"} <= {*texts, *re.findall(r"\w+", texts["search.log"])}
    old = re.compile(r"\bfactors?\b|\bsearch/\d|\bconfirm/\w|\"(search|confirm)\"")
    assert not [(place, found[0]) for place, text in texts.items() if (found := old.search(text))]


def test_paths_are_printed_as_one_would_write_them(printed: dict[str, str], at_home: Path) -> None:
    (line,) = [one for one in printed["search"].splitlines() if one.startswith("report: ")]
    assert line.split(None, 1)[1] == f"{RUN}/report/index.html"
    assert str(at_home) not in printed["search"] + printed["export"]


def test_every_line_that_loads_an_export_runs(printed: dict[str, str], at_home: Path) -> None:
    lines = [line for text in printed.values() for line in LOAD.findall(text)]
    assert lines
    for line in lines:
        exec(line, {})
    for snippet in blocks(printed["card"], "python"):
        space: dict[str, Any] = {}
        exec(snippet, space)
        assert space["model"].num_classes == 10


def test_an_export_with_source_of_its_own_says_how_it_is_trusted(at_home: Path) -> None:
    Path("my net.py").write_text(
        "import torch.nn as nn\n"
        "def make(num_classes=10):\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),\n"
        "        nn.Linear(4, num_classes))\n"
    )
    told = said(
        *shlex.split(
            "train --architecture reborn --backbone 'my net.py:make' --dataset digits --epochs 1 --seeds 1 -q --out own"
        )
    )
    assert told.startswith("test accuracy"), "with --quiet the answer alone"
    (line,) = LOAD.findall(told)
    assert "trust_source=True" in line
    exec(line, {})
    (snippet,) = blocks(Path("own/README.md").read_text(), "python")
    exec(snippet, {})


def test_numbers_of_the_dashboard_and_keys_of_the_report_are_exported(
    printed: dict[str, str], at_home: Path
) -> None:
    from reborn_nas.study import load_run

    info = load_run(RUN)
    keys = set(re.findall(r"^\s*((?:screen|search|candidate)/\S+)\s*$", printed["report"], re.M))
    assert len(keys) >= 16
    for place, which in enumerate([*sorted(keys)[::6], *map(str, sorted(info.numbers)[::6])]):
        told = said("export", RUN, "--trial", which, "--out", f"numbered-{place}")
        assert info.numbers.get(int(which) if which.isdigit() else -1, which) in told


def _small_mnist(root: Path) -> None:
    """Files of MNIST's names and format (idx-ubyte) with a hundred drawn images in each part."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        images = rng.integers(0, 256, (100, 28, 28), dtype=np.uint8)
        labels = np.arange(100, dtype=np.uint8) % 10
        (raw / f"{part}-images-idx3-ubyte").write_bytes(
            np.array([2051, 100, 28, 28], dtype=">i4").tobytes() + images.tobytes()
        )
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            np.array([2049, 100], dtype=">i4").tobytes() + labels.tobytes()
        )


def test_the_readmes_python_runs(
    printed: dict[str, str], at_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, in one session, as a reader would; searches and trainings on data of their own are planned."""
    import optuna

    import reborn_nas as rn
    from reborn_nas.study import StudyConfig, load_config, load_run, plan_search

    def planned(config: Any = None, **settings: Any) -> Any:
        made = config if isinstance(config, StudyConfig) else load_config(config, **settings)
        small = {"image_size": 8} if made.train is None else {}
        assert plan_search(made.replace(run=Path("planned"), **small), measure=False).total > 0
        return RUN

    monkeypatch.setattr(rn, "search", planned)
    _small_mnist(Path("data"))
    said("export", RUN, "--out", "my-model", "--force")
    accuracy = np.array([record.accuracy for record in load_run(RUN).records if record.phase == "screen"])
    design = rn.screen_design(n_sites=33, n_runs=96, seed=0)
    space: dict[str, Any] = {
        "my_training_loop": lambda model: float(model.training),
        "accuracy": np.resize(accuracy, len(design)),
    }
    snippets = blocks(README, "python")
    assert len(snippets) >= 4
    for snippet in snippets:
        if 'rn.export(architecture, "my-model"' in snippet:
            snippet = snippet.replace(
                'rn.export(architecture, "my-model"', 'rn.export(architecture, "my-own-model"'
            )
        exec(re.sub(r'rn\.export\(run, "my-model"\)', 'rn.export(run, "my-other-model")', snippet), space)
        if "objective" in space and "architecture" not in space:
            trial = optuna.create_study().ask()
            assert space["objective"](trial) in (0.0, 1.0)
            space["architecture"] = space["space"].suggest(trial, space["sites"])
            space["trained"] = rn.convert(space["model"], space["architecture"], input_size=(3, 32, 32))
    assert Path("my-own-model/config.json").is_file()
