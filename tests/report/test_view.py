"""What a report accepts."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pandas as pd
import pytest

from reborn_nas.errors import StudyError
from reborn_nas.report import RunView
from tests.report import fabricate


def test_records_come_as_objects_dicts_or_frame() -> None:
    made = fabricate.records(5)
    rows = [record.to_dict() for record in made]
    assert RunView("t", rows).records == tuple(made)
    nested = ("architecture", "parameters", "levels", "environment", "extra")
    frame = pd.DataFrame([{**row, **{name: json.dumps(row[name]) for name in nested}} for row in rows])
    assert RunView("t", frame).records == tuple(made)


def test_a_record_that_is_none_is_refused() -> None:
    with pytest.raises(StudyError, match="reborn-nas study"):
        RunView("t", [{"value": 1.0}])


def test_sites_come_as_objects_mappings_or_frame_in_execution_order() -> None:
    rows = fabricate.sites(5)
    frames = [
        RunView("t", (), sites=rows[::-1]).sites,
        RunView("t", (), sites=[SimpleNamespace(**row) for row in rows]).sites,
        RunView("t", (), sites=pd.DataFrame(rows)).sites,
    ]
    for frame in frames:
        assert list(frame["name"]) == ["act1", "act2", "act3", "act4", "act5"]
        assert list(frame["stage"]) == [0, 0, 1, 1, 2]
        assert frame["shape"][0] == "16 × 8 × 8"


def test_without_a_site_table_the_levels_name_the_sites() -> None:
    assert RunView("t", fabricate.records(5)).site_names == ["act1", "act2", "act3", "act4", "act5"]


def test_settings_are_found_by_dotted_path() -> None:
    view = RunView(
        "t", (), config={"data": {"name": "digits"}, "epochs": 3, "backbone": {"source": "timm:r"}}
    )
    assert view.setting("dataset", "data.name") == "digits"
    assert view.setting("backbone") == "timm:r"
    assert view.setting("epochs") == "3"
    assert view.setting("none", default="-") == "-"
