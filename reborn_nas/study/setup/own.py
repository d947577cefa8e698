"""A training of the user's own, resolved: its functions, what identifies them, and the network that they train."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from reborn_nas.architecture import BackboneSpec
from reborn_nas.backbone import resolve
from reborn_nas.backbone.load.factory import files_of, load_factory, load_file, split_source
from reborn_nas.backbone.trace.inputs import arguments, call_text
from reborn_nas.backbone.trace.replica import tensors_in
from reborn_nas.errors import ConfigError, unknown_name
from reborn_nas.files import sha256_of
from reborn_nas.study.config.functions import HERE, is_here, live_function, source_digest
from reborn_nas.study.setup.context import OwnTraining

if TYPE_CHECKING:
    from reborn_nas.study.config.config import StudyConfig

__all__ = ["file_spec", "load_function", "make_example", "make_own", "own_spec", "refuse_unnamed"]


def refuse_unnamed(config: StudyConfig) -> None:
    """Raise ConfigError where several processes would need a function that only this one has."""
    if config.processes < 2 and len(config.devices) < 2:
        return
    names = {"train": config.train, "evaluate": config.evaluate, "example_inputs": config.example_inputs}
    for setting, name in names.items():
        if is_here(name):
            raise ConfigError(
                f"{setting}: {str(name).removeprefix(HERE)} cannot be imported by name (a function of the script that "
                "runs, of a notebook, a lambda, or an object), and each of several processes must find it; put it into "
                "a file and give its name, such as training.py:train, or train in one process with workers=1"
            )


def load_function(name: str, setting: str) -> Any:
    """The function of that name. Raises ConfigError, with the setting that it belongs to."""
    live = live_function(name)
    if live is not None:
        return live
    if is_here(name):
        raise ConfigError(
            f"{setting}: {name.removeprefix(HERE)} was a function of the process that began the study; give it again "
            "from Python, or put it into a file and begin a new study with its name"
        )
    place, _, attribute = name.rpartition(":")
    try:
        module = load_file(place)
    except ConfigError as error:
        raise ConfigError(f"{setting}: {_as_function(str(error))}") from error.__cause__
    if not hasattr(module, attribute):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ConfigError(f"{setting}: {unknown_name(f'function in {place}', attribute, known)}")
    found = getattr(module, attribute)
    if setting != "example_inputs" and not callable(found):
        takes = "" if setting == "dataset" else " of (model, job)"
        raise ConfigError(f"{setting}: {name} is {type(found).__name__}, not a function{takes}")
    return found


def _as_function(text: str) -> str:
    """What the loader of networks says, in the words of a function."""
    for old, new in (("backbone file", "file"), ("backbone module", "module"), (":factory", ":function")):
        text = text.replace(old, new)
    return text.split("; a backbone is")[0]


def make_own(config: StudyConfig) -> OwnTraining:
    """Load the functions and the example of `config.train`. Raises ConfigError."""
    assert config.train is not None
    refuse_unnamed(config)
    names = {"train": config.train, "evaluate": config.evaluate, "example_inputs": config.example_inputs}
    found = {key: None if name is None else load_function(name, key) for key, name in names.items()}
    for key in ("train", "evaluate"):
        if found[key] is not None:
            found[key] = callable_with(found[key], key)
    settings = {
        **{key: name for key, name in names.items() if name is not None},
        "epochs": config.epochs,
        **({"version": config.version} if config.version is not None else {}),
        "files": _digests(names),
    }
    train = found["train"]
    assert train is not None
    made = OwnTraining(train, found["evaluate"], _example(config, found), config.judged_by, settings)
    timed = config.max_latency is not None or "latency" in config.objectives
    if timed and made.example is not None and made.input_size is None:
        raise ConfigError(
            "latency is measured with one batch of images, and this network takes other inputs; limit its parameters "
            "or MACs instead"
        )
    return made


def callable_with(function: Any, setting: str) -> Callable[..., Any]:
    """`function` called with (model, job), also where it takes the model alone. Raises ConfigError."""
    if not callable(function):
        raise ConfigError(f"{setting}: a function of (model, job), not {type(function).__name__}")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return function  # type: ignore[no-any-return]
    for count in (2, 1):
        try:
            signature.bind(*[None] * count)
        except TypeError:
            continue
        return function if count == 2 else partial(_without_job, function)
    name = getattr(function, "__name__", "it")
    raise ConfigError(
        f"{setting}: is called with (model, job), or with (model) alone; {name}{signature} takes neither"
    )


def _without_job(function: Callable[..., Any], model: Any, job: Any) -> Any:
    return function(model)


def _digests(names: Mapping[str, str | None]) -> dict[str, str]:
    """Each source file that the functions need → its SHA-256; a function without a file by its own name."""
    found: dict[str, str] = {}
    for name in names.values():
        if name is None:
            continue
        if is_here(name):
            live = live_function(name)
            found[name] = source_digest(live) if callable(live) else _of_example(live)
            continue
        own = files_of(name.rpartition(":")[0])
        found |= {place: sha256_of(path)[:16] for place, path in own.files.items()}
    return found


def _of_example(value: Any) -> str:
    """Of example inputs that were given as they are: shapes and types; numbers of a study's example decide nothing."""
    return hashlib.sha256(call_text(value).encode()).hexdigest()[:16]


def _example(config: StudyConfig, found: Mapping[str, Any]) -> Any:
    """The example inputs; of a library's network those of its own input size."""
    given = found["example_inputs"]
    if given is None:
        if BackboneSpec(config.backbone).library == "file":
            raise ConfigError(
                "example_inputs: a network of your own is run with an example of what it takes; name a function that "
                "returns it, such as torch.zeros(2, 3, 64, 64), a tuple of arguments, or a dict of keywords"
            )
        return None
    return make_example(given, str(config.example_inputs))


def make_example(given: Any, name: str) -> Any:
    """What the function `given` returns as an example of a network's inputs, or `given` itself where it is one.

    Raises ConfigError, with the function's name.
    """
    if not callable(given) or isinstance(given, torch.Tensor):
        return given
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made = given()
    except Exception as error:
        raise ConfigError(f"example_inputs: {name} failed: {type(error).__name__}: {error}") from error
    if made is None:
        raise ConfigError(f"example_inputs: {name} returned None, not an example of the inputs")
    return made


def own_spec(config: StudyConfig, own: OwnTraining, arguments: Mapping[str, Any]) -> BackboneSpec:
    """The complete spec of the network. Of a user's file nothing is probed: the example shows that it runs.

    A library's network has as many outputs as `backbone_arguments` give it with `num_classes`.
    """
    given = dict(arguments)
    spec = BackboneSpec(config.backbone)
    if spec.library != "file":
        size = own.input_size if own.example is not None else None
        if own.example is not None and (size is None or len(size) != 3):
            raise ConfigError(
                f"example_inputs: {spec.source} takes one batch of images, (B, C, H, W); a network with other inputs "
                "comes from a file of yours, as path/to/file.py:factory"
            )
        outputs = given.pop("num_classes", None)
        return resolve(
            spec,
            input_size=None if size is None else (size[0], size[1], size[2]),
            num_classes=outputs,
            stem="original",
            arguments=given or None,
            pretrained=config.pretrained,
        )
    return file_spec(config.backbone, own.example, given)


def file_spec(source: str, example: Any, arguments: Mapping[str, Any]) -> BackboneSpec:
    """The spec of a network that `source`, as file.py:factory, makes and `example` runs; nothing is probed."""
    spec = BackboneSpec(source)
    load_factory(spec.source)
    digest = files_of(split_source(spec.source)[0]).digest
    return BackboneSpec(spec.source, dict(arguments), _size_of(example), 0, "original", digest)


def _size_of(example: Any) -> tuple[int, int, int]:
    """(C, H, W) of the first tensor of the example, as far as it has such: what a factory is offered as `in_chans`."""
    args, kwargs = arguments(example)
    first = next(iter([*args, *kwargs.values()]), None)
    found = next((tensor for tensor in tensors_in(example)), None)
    if found is None:
        raise ConfigError("example_inputs: holds no tensor, so the network cannot be run with it")
    shape = tuple(found.shape[1:]) if isinstance(first, torch.Tensor) else tuple(found.shape)
    if len(shape) == 2:
        shape = (shape[0], 1, shape[1])
    padded = (*shape[:3], *[1] * (3 - len(shape[:3])))
    return (max(1, padded[0]), max(1, padded[1]), max(1, padded[2]))
