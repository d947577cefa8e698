"""The fields of a study's configuration: what values they take, and how each is described and written as a flag."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BeforeValidator, Field

from reborn_nas.architecture import ORIGINAL, Choice
from reborn_nas.errors import ConfigError, unknown_name
from reborn_nas.metric.classification import METRICS, read_metric

__all__ = [
    "Artifacts",
    "ClassWeights",
    "SCHEME",
    "STORAGES",
    "parse_bucket",
    "Contrast",
    "Count",
    "Dataset",
    "Device",
    "Devices",
    "Duration",
    "MetricText",
    "Positive",
    "Pruner",
    "RecipeName",
    "RunName",
    "Sampler",
    "Sites",
    "Resize",
    "Stem",
    "StorageUrl",
    "Workers",
    "plain_types",
    "read_class_weights",
    "read_duration",
    "setting",
    "split_contrast",
]

SCHEME = "s3://"
"""How the address of a bucket begins."""

STORAGES = ("journal", "sqlite", "postgresql", "mysql", "grpc")
"""How the URL of a storage begins."""

_UNITS = {
    1.0: ("", "s", "sec", "secs", "second", "seconds"),
    60.0: ("m", "min", "mins", "minute", "minutes"),
    3600.0: ("h", "hr", "hrs", "hour", "hours"),
    86400.0: ("d", "day", "days"),
}
_SECONDS = {name: seconds for seconds, names in _UNITS.items() for name in names}
_PART = re.compile(r"(\d+(?:\.\d*)?(?:e[+-]?\d+)?|\.\d+)\s*([a-z]*)\s*")


def read_duration(value: Any) -> Any:
    """Seconds from text such as `90`, `90s`, `30min`, `2h`, `1h30m`; what is not text is returned as it is.

    Raises:
        ValueError: the text is not a duration above zero.
    """
    if not isinstance(value, str):
        return value
    text = value.strip().lower()
    seconds, place = 0.0, 0
    while place < len(text) and (part := _PART.match(text, place)) and part.group(2) in _SECONDS:
        seconds += float(part.group(1)) * _SECONDS[part.group(2)]
        place = part.end()
    if not text or place < len(text) or not 0 < seconds < float("inf"):
        raise ValueError(
            f"a duration is a number of seconds, or such as 90s, 30min, 2h, 1h30m, not {value!r}"
        )
    return seconds


def setting(
    default: Any,
    description: str,
    *,
    group: str,
    metavar: str = "",
    choices: tuple[str, ...] = (),
    factory: Callable[[], Any] | None = None,
) -> Any:
    """A field of the configuration. Flags, `--help` and the documentation of `search` are made from it.

    Args:
        description: one clause, as `--help` shows it.
        group: the heading of `--help` that it stands under.
        metavar: what stands for the value in `--help`.
        choices: all values that it takes, where they are few.
    """
    extra: dict[str, Any] = {"group": group, "metavar": metavar, "choices": list(choices)}
    if factory is not None:
        return Field(default_factory=factory, description=description, json_schema_extra=extra)
    return Field(default, description=description, json_schema_extra=extra)


def plain_types(annotation: Any) -> set[type]:
    """The plain types that a value may have, None apart."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return plain_types(get_args(annotation)[0])
    if origin in (dict, tuple, list):
        return {origin}
    if origin is Literal:
        return {type(value) for value in get_args(annotation)}
    if origin is not None:
        return {base for part in get_args(annotation) for base in plain_types(part)}
    return set() if annotation is type(None) else {annotation}


def split_contrast(text: str) -> tuple[Choice, Choice]:
    """`reborn(kernel_size=3):original` → the choice on trial and its reference. Raises ConfigError."""
    match = re.fullmatch(r"([^:()]+(?:\([^()]*\))?):([^:()]+(?:\([^()]*\))?)", text)
    if match is None:
        raise ConfigError(f"a contrast is tested:reference, such as reborn:original, not {text!r}")
    return Choice.parse(match.group(1)), Choice.parse(match.group(2))


def _run_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+\-]{0,99}", value):
        raise ValueError("1 to 100 letters, digits, '_', '.', '+' or '-', a letter or digit first")
    return value


def _stem(value: str) -> str:
    if value not in ("small", "original"):
        raise ValueError("'small' or 'original'")
    return value


def _contrast(value: str) -> str:
    tested, reference = split_contrast(value)
    if tested == reference:
        raise ValueError("two different activations, such as reborn:original")
    if tested == ORIGINAL:
        raise ValueError(
            f"the activation on trial stands first and what it is compared with second: {reference}:original"
        )
    return value


def _dataset(value: Any) -> Any:
    """The name of a data set; Datasets get one that every process of the study understands."""
    if value is None or isinstance(value, str):
        return value
    from reborn_nas.data.items.stored import hold

    return hold(value)


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:\d+)?", value):
        raise ValueError("'auto', 'cpu', 'cuda' or one with a number, such as 'cuda:1'")
    return value


def _devices(value: Any) -> Any:
    parts = [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        example = f"[{value}]" if type(value) is int else "[0, 1]"
        raise ValueError(f"a list of devices such as {example}, one worker each; on the command line 0,1")
    if isinstance(value, str) and not parts:
        raise ValueError("names no device; write such as 0,1")
    found = [_device(f"cuda:{part}" if str(part).strip().isdigit() else str(part).strip()) for part in parts]
    for name in found:
        if name != "cpu" and found.count(name) > 1:
            raise ValueError(f"{name} is named twice; each device has one worker")
    return tuple(found)


def _workers(value: Any) -> Any:
    if value == "auto":
        return value
    try:
        count = int(value) if isinstance(value, str) else value
    except ValueError:
        count = None
    if type(count) is not int or not 1 <= count <= 1024:
        raise ValueError("a whole number from 1 to 1024, or auto")
    return count


def _storage(value: str) -> str:
    if not re.match(rf"({'|'.join(STORAGES)})(\+\w+)?://", value):
        raise ValueError(f"a URL that starts with one of {', '.join(f'{scheme}://' for scheme in STORAGES)}")
    return value


def parse_bucket(url: str) -> tuple[str, str]:
    """Bucket and prefix of `s3://bucket/prefix`. Raises ValueError where it is none."""
    match = re.fullmatch(r"s3://([a-z0-9][a-z0-9.\-]{1,61}[a-z0-9])(?:/([\w.\-/]*))?", url)
    if match is None:
        raise ValueError(
            "s3://BUCKET/PREFIX; keys and endpoint come from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, …)"
        )
    return match[1], (match[2] or "").strip("/")


def _artifacts(value: Any) -> Any:
    text = str(value) if isinstance(value, Path) else value
    if isinstance(text, str) and text.startswith(SCHEME):
        parse_bucket(text)
    elif isinstance(text, str) and "://" in text:
        raise ValueError("a folder, or s3://BUCKET/PREFIX")
    return text


def _metric(value: Any) -> str:
    try:
        metric = read_metric(value)
    except ConfigError as error:
        raise ValueError("; ".join(error.faults) or str(error)) from None
    return metric.name if METRICS.get(metric.name) == metric else metric.text


def _sites(value: Any) -> Any:
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) and part for part in parts):
        raise ValueError(
            'names of sites or patterns, such as "dec*"; several as a list, on the command line with commas'
        )
    return tuple(parts)


def _sampler(value: str) -> str:
    from reborn_nas.samplers.registry import sampler_names

    return _known("sampler", value, sampler_names())


def _pruner(value: str) -> str:
    from reborn_nas.samplers.registry import PRUNERS

    return _known("pruner", value, PRUNERS)


def _recipe(value: Any) -> Any:
    """A recipe's name, or the recipe itself as a mapping."""
    from reborn_nas.training import Recipe, from_settings, recipe_names

    if isinstance(value, Recipe):
        return value.to_dict()
    if isinstance(value, Mapping):
        try:
            return from_settings(value).to_dict()
        except ConfigError as error:
            raise ValueError("; ".join(error.faults) or str(error)) from None
    if not isinstance(value, str):
        raise ValueError("a recipe's name, or a mapping of its settings")
    return _known("recipe", value, recipe_names(), "or a YAML file with a recipe")


def read_class_weights(value: Any) -> Any:
    """Weights of classes from text such as 1,1,2.5. Raises ValueError."""
    if isinstance(value, str) and value != "balanced":
        parts = value.split(",")
        try:
            return tuple(float(part) for part in parts)
        except ValueError:
            raise ValueError("balanced, or a number for each class, such as 1,1,2.5") from None
    return tuple(value) if isinstance(value, list) else value


def _known(kind: str, value: str, known: tuple[str, ...], hint: str = "") -> str:
    if value not in known:
        raise ValueError(str(unknown_name(kind, value, known, hint)))
    return value


Count = Annotated[int, Field(ge=0, le=1_000_000, strict=True)]
Duration = Annotated[float, BeforeValidator(read_duration), Field(gt=0, allow_inf_nan=False)]
MetricText = Annotated[str, BeforeValidator(_metric)]
Sites = Annotated[tuple[str, ...], BeforeValidator(_sites)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
RunName = Annotated[str, AfterValidator(_run_name)]
Stem = Annotated[str, AfterValidator(_stem)]
Resize = Literal["cover", "contain", "stretch"]
Dataset = Annotated[str, BeforeValidator(_dataset)]
Contrast = Annotated[str, AfterValidator(_contrast)]
Device = Annotated[str, AfterValidator(_device)]
Devices = Annotated[tuple[str, ...], BeforeValidator(_devices)]
Workers = Annotated[int | Literal["auto"], BeforeValidator(_workers)]
StorageUrl = Annotated[str, AfterValidator(_storage)]
Artifacts = Annotated[str, BeforeValidator(_artifacts)]
Sampler = Annotated[str, AfterValidator(_sampler)]
Pruner = Annotated[str, AfterValidator(_pruner)]
RecipeName = Annotated[str | dict[str, Any], BeforeValidator(_recipe)]
ClassWeights = Annotated[str | tuple[float, ...], BeforeValidator(read_class_weights)]
