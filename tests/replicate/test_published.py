"""The paper's numbers in the files: complete, consistent between tables, and the text's claims about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from reborn_nas.data.standard import PUBLISHED
from reborn_nas.errors import ConfigError, RebornError
from reborn_nas.replicate import load_replication, shipped_replications
from reborn_nas.replicate.compare import text_in_table
from reborn_nas.study import load_config
from reborn_nas.training import get_recipe

CIFAR10, CIFAR100, SVHN, MNIST, KMNIST, FMNIST = range(6)
TABLES = ("table2", "table3", "table4")


def test_how_many_numbers() -> None:
    """Three networks, six data sets; nine, five and three rows."""
    for name, rows in zip(TABLES, (9, 5, 3), strict=True):
        study = load_replication(name)
        numbers = [number for table in study.expected.values() for row in table.values() for number in row]
        assert len(numbers) == 3 * 6 * rows
        assert list(study.expected) == ["convnet8", "convnet13", "resnet34"]
        assert all(list(table) == list(study.rows) for table in study.expected.values())


SUMS = {
    "table2": [541.13, 541.02, 540.23, 538.65, 542.5, 537.4, 530.86, 537.81, 547.04,
               545.34, 547.28, 545.77, 544.5, 546.52, 542.483, 536.22, 540.61, 551.82,
               555.93, 557.0, 555.19, 553.37, 556.13, 551.19, 546.48, 551.41, 561.8],
    "table3": [541.13, 541.02, 535.03, 536.63, 541.94, 545.34, 547.28, 541.91, 542.63, 547.15,
               555.93, 557.0, 550.54, 552.6, 555.92],
    "table4": [541.13, 541.33, 547.04, 545.34, 542.67, 551.82, 555.93, 555.99, 561.8],
}  # fmt: skip
"""Of each printed line, added up from the paper itself."""


@pytest.mark.parametrize("name", TABLES)
def test_the_lines_add_up_as_printed(name: str) -> None:
    study = load_replication(name)
    lines = [sum(row) for table in study.expected.values() for row in table.values()]
    assert lines == pytest.approx(SUMS[name], abs=1e-6)


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ("relu", ["table2", "table3", "table4", "controls"]),
        ("crelu", ["table2", "table3"]),
        ("reborn", ["table2", "table4", "section33", "controls"]),
    ],
)
def test_rows_that_several_tables_print(row: str, names: list[str]) -> None:
    for network in ("convnet8", "convnet13", "resnet34"):
        assert len({load_replication(name).expected[network][row] for name in names}) == 1


def test_the_best_of_each_column_is_what_the_paper_prints_bold() -> None:
    """All bold cells as printed; one of them is not the largest: ConvNet-8, SVHN, where CReLU has 94.37."""
    bold = {("table2", network): ["reborn"] * 6 for network in ("convnet8", "convnet13", "resnet34")} | {
        ("table4", network): ["reborn"] * 6 for network in ("convnet8", "convnet13", "resnet34")
    }
    half = "half_reborn"
    bold["table3", "convnet8"] = [half, half, "relu", half, "crelu", half]
    bold["table3", "convnet13"] = ["crelu", "crelu", half, half, half, f"crelu {half}"]
    bold["table3", "resnet34"] = ["crelu", "crelu", half, half, "crelu", "relu"]
    wrong = []
    for (name, network), winners in bold.items():
        table = load_replication(name).expected[network]
        for column, printed in enumerate(winners):
            best = max(numbers[column] for numbers in table.values())
            found = {row for row, numbers in table.items() if numbers[column] == best}
            if found != set(printed.split()):
                wrong.append((name, network, column, printed))
    assert wrong == [("table3", "convnet8", SVHN, "relu")]


def contradicted(name: str) -> list[tuple[str, int, str, str]]:
    """Network, column and rows where a table does not say what the text says of it."""
    study = load_replication(name)
    return [
        (network, column, row, against)
        for network, table in study.expected.items()
        for claim in study.comparisons
        for row, against in claim.pairs
        for column in range(6)
        if text_in_table(table[row][column] - table[against][column], claim) == "no"
    ]


def test_where_the_text_is_not_what_its_table_says() -> None:
    """Read off the printed tables by eye."""
    assert contradicted("table2") == []
    assert contradicted("table3") == [
        ("convnet8", SVHN, "half_reborn", "relu"),  # 93.90 against 93.96
        ("convnet8", KMNIST, "half_reborn", "relu"),  # 96.92 against 97.06
        ("convnet8", KMNIST, "half_reborn", "half_crelu"),  # 96.92 against 97.15
        ("resnet34", CIFAR10, "half_reborn", "relu"),  # 93.15 against 93.64
        ("resnet34", FMNIST, "half_reborn", "relu"),  # 93.97 against 94.23
    ]
    assert contradicted("table4") == [  # "insignificant and negligible"
        ("convnet13", CIFAR10, "extended_conv", "relu"),  # 90.54 against 91.58
        ("convnet13", CIFAR100, "extended_conv", "relu"),  # 66.79 against 68.48
    ]


def test_section_4_3_for_each_data_set() -> None:
    study = load_replication("table2")
    told = {"cifar10": (160, 4, True), "cifar100": (160, 4, True), "svhn": (80, 0, False)}
    told |= {"mnist": (80, 0, False), "kmnist": (80, 0, False), "fashion_mnist": (80, 4, True)}
    found = {}
    for name in study.datasets:
        recipe = get_recipe(study.recipe, dataset=name)
        augmentation = recipe.augmentation(PUBLISHED[name].augmentation)
        found[name] = (recipe.epochs, augmentation.crop_padding, augmentation.flip)
        assert (recipe.batch_size, recipe.momentum, recipe.weight_decay) == (64, 0.9, 0.0005)
        assert (recipe.learning_rate, recipe.schedule, recipe.init) == (0.001, "step_half", "xavier")
    assert found == told


def test_every_fault_of_a_file_at_once(tmp_path: Path) -> None:
    data: dict[str, Any] = yaml.safe_load(shipped_replications()["table4"].read_text(encoding="utf-8"))
    data["networks"]["convnet8"]["backbone"] = "convnet9"
    data["datasets"][3] = "mnits"
    data["rows"]["reborn"]["activation"] = "rebron"
    data["rows"]["relu"]["activation"] = "relu(slope=1)"
    data["expected"]["convnet8"]["relu"][0] = 100.01
    data["expected"]["convnet8"]["reborn"][1] = -0.5
    data["expected"]["convnet13"]["relu"][2] = True
    data["expected"]["convnet13"]["reborn"] = [1, 2]
    data["expected"]["resnet35"] = {}
    data["comparisons"][0]["against"] = ["rule"]
    data["training"] = {"epocs": 3}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_replication(path)
    said = str(caught.value)
    assert len(caught.value.faults) == 11
    for part in (
        "convnet9",
        "mnits",
        "rebron",
        "slope",
        "100.01",
        "-0.5",
        "True",
        "2 numbers for 6",
        "resnet35",
        "rule",
        "epocs",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("kind: replication\n", "networks: is missing"),
        ("kind: replication\nnetwoks: {}\n", "netwoks: is not known here"),
        ("dataset: mnist\n", "is not a replication"),
        ("- 1\n", "is not a replication"),
        ("kind: [", "cannot be read"),
    ],
)
def test_what_is_no_replication(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=part):
        load_replication(path)


def test_names_and_the_two_kinds_of_study() -> None:
    with pytest.raises(RebornError, match=r"did you mean .*table2"):
        load_replication("table22")
    with pytest.raises(ConfigError, match=r"does not exist; shipped replications: .*table4"):
        load_replication("nowhere.yaml")
    with pytest.raises(ConfigError, match="reborn-nas replicate"):
        load_config(shipped_replications()["table2"])
