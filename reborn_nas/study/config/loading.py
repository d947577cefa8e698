"""A study's configuration from a YAML file, a shipped one or the caller's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from reborn_nas.documents import read_yaml, text_numbers, yaml_fault
from reborn_nas.errors import ConfigError, unknown_name
from reborn_nas.study.config.config import StudyConfig, renamed

__all__ = ["load_config", "shipped_files", "shipped_studies"]


def load_config(path: str | Path | None = None, **overrides: Any) -> StudyConfig:
    """The configuration in the YAML file `path`, with `overrides` that are not None in place of its values.

    `path` may also be the name of a shipped study (`studies/<name>.yaml`). Raises ConfigError, every fault
    with its place.
    """
    settings: dict[str, Any] = {}
    place = ""
    if path is not None:
        found = _find(path)
        place = f"{found}: "
        settings = renamed(_read(found))
    given = renamed({key: value for key, value in overrides.items() if value is not None})
    settings |= given
    try:
        return StudyConfig(**settings)
    except ConfigError as error:
        faults = [
            fault if fault.split(":", 1)[0].split("[")[0] in given else place + fault
            for fault in error.faults
        ]
        raise ConfigError("the study's configuration has faults:", faults) from None


def shipped_studies() -> dict[str, Path]:
    """Name → file of the ready-made studies; the paper's tables are `replicate.shipped_replications`."""
    return shipped_files(replications=False)


def shipped_files(*, replications: bool) -> dict[str, Path]:
    """Name → file of what lies in `studies/`, in the package or beside it in a checkout: searches or replications."""
    package = Path(__file__).parents[2]
    folder = package / "studies" if (package / "studies").is_dir() else package.parent / "studies"
    return {
        path.stem: path
        for path in sorted(folder.glob("*.yaml"))
        if path.read_text(encoding="utf-8").startswith("kind: replication") == replications
    }


def _find(path: str | Path) -> Path:
    shipped = shipped_studies()
    if str(path) in shipped:
        return shipped[str(path)]
    found = Path(path)
    if found.is_dir():
        raise ConfigError(f"study file {found} is a folder; give a YAML file, or one of {', '.join(shipped)}")
    if not found.is_file():
        if found.suffix in (".yaml", ".yml"):
            raise ConfigError(f"study file {found} does not exist; shipped studies: {', '.join(shipped)}")
        raise unknown_name("study", str(path), shipped, "or give the path of a YAML file")
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        data = read_yaml(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"study file {path}, {yaml_fault(error)}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"study file {path} cannot be read: {' '.join(str(error).split())}") from error
    if data is None:
        return {}
    if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        raise ConfigError(f"study file {path} is a mapping of settings, not {type(data).__name__}")
    if data.get("kind") == "replication":
        raise ConfigError(
            f"study file {path} is a table of a paper, not a search; run it with: reborn-nas replicate {path}"
        )
    settings = {str(key): value for key, value in data.items() if key != "description"}
    if faults := list(text_numbers(settings)):
        raise ConfigError(f"study file {path} has faults:", faults)
    return settings
