"""Trains one architecture with the full recipe and several seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reborn_nas.api.run import Run, network_of_code, parent_arm
from reborn_nas.architecture import Architecture, BackboneSpec
from reborn_nas.data import ImageSet
from reborn_nas.errors import ConfigError
from reborn_nas.export import (
    Parent,
    Retrained,
    Trainings,
    check_forms,
    check_target,
    choose,
    export_trained,
    prepare,
    read_architecture,
    retrain,
)
from reborn_nas.known import foreign_code
from reborn_nas.metric import Metric
from reborn_nas.metric.classification import METRICS, read_metric, undefined
from reborn_nas.study import load_run
from reborn_nas.study.config.functions import is_factory
from reborn_nas.study.result.networks import recommend_info
from reborn_nas.study.setup.images import load_images
from reborn_nas.training import Recipe, from_settings, get_recipe, is_file, read_recipe
from reborn_nas.training.device.selection import pick_device


def train(
    architecture: Architecture | Run,
    out: Run,
    *,
    trial: str = "auto",
    dataset: Any = None,
    data_dir: Run | None = None,
    image_size: int | None = None,
    stored_size: int | None = None,
    skip_broken: bool | None = None,
    resize: str | None = None,
    rgb: bool | None = None,
    stream: bool | None = None,
    cache_dir: Run | None = None,
    recipe: str | Mapping[str, Any] | None = None,
    seeds: int = 3,
    seed: int = 0,
    device: str = "auto",
    pretrained: bool = False,
    checkpoint: Run | None = None,
    metric: str | None = None,
    run: Run | None = None,
    fold: bool = False,
    forms: Sequence[str] = (),
    force: bool = False,
    name: str | None = None,
    say: Callable[[str], None] | None = None,
    on_epoch: Callable[[int, int, Mapping[str, float]], None] | None = None,
    overrides: Mapping[str, Any] | None = None,
    **network: Any,
) -> Retrained:
    """Train one architecture with several seeds on training plus validation images, test it, and export it.

    Args:
        architecture: an `Architecture`, its JSON file, an export's folder, a run (its candidate, or `trial`), or an
            activation for every site, such as "reborn".
        out: folder of the export, which is the first seed's network, regardless of the test results.
        dataset, data_dir, image_size, recipe, metric: by default the run's, else "digits", "fast" and "accuracy".
        stored_size, skip_broken, rgb, resize, stream, cache_dir: as in `load_dataset`; by default the run's.
        seeds: number of trainings, with the seeds `seed`, `seed` + 1, …; more of them continue a finished folder.
        pretrained: start from the backbone library's published weights.
        checkpoint: start from these weights of the unconverted backbone: safetensors, a file of `torch.save` with only
            tensors, or a folder with `model.safetensors`.
        run: folder of finished and interrupted trainings; None means `runs/train-…`.
        say: called with each message for the user. on_epoch: called with seed, epoch and metrics.
        overrides: fields of `Recipe`.
        network: arguments of `reborn_nas.export.prepare`: `backbone`, `arguments`, `stem` and `init`.

    Raises:
        RebornError: the settings do not fit together, or a training cannot continue.
    """
    parent = Parent(pretrained, None if checkpoint is None else Path(checkpoint))
    _check(seeds, (overrides or {}).get("epochs"), parent)
    check_target(out, force)
    check_forms(forms)
    chosen, known = _one_architecture(architecture, trial, network.get("backbone") is not None)
    recorded = known if dataset is None and known.get("dataset") else {}
    _check_code(architecture, recorded)
    images = load_images(
        recorded.get("dataset", "digits") if dataset is None else dataset,
        data_dir=Path(place) if (place := data_dir or known.get("data_dir")) else None,
        image_size=image_size or recorded.get("image_size"),
        stored_size=stored_size or recorded.get("stored_size"),
        seed=known.get("seed", 0),
        skip_broken=bool(recorded.get("skip_broken") if skip_broken is None else skip_broken),
        resize=resize or recorded.get("resize", "cover"),
        rgb=bool(recorded.get("rgb") if rgb is None else rgb),
        stream=recorded.get("stream") if stream is None else stream,
        cache_dir=Path(kept) if (kept := cache_dir or known.get("cache_dir")) else None,
    )
    settled, remarks = _recipe(known, recipe, images.name, overrides or {})
    judged_by = _metric(metric or known.get("metric") or "accuracy", images)
    job, notes = prepare(
        chosen,
        images,
        settled,
        seeds=range(seed, seed + seeds),
        device=pick_device(device)[0],
        parent=parent,
        folder=None if run is None else Path(run),
        metric=judged_by,
        **network,
    )
    if not parent.given:
        notes = (*notes, *_other_start(known))
    for note in (
        *remarks,
        *notes,
        f"trainings are kept in {job.folder}; the same command resumes",
    ):
        if say is not None:
            say(note)
    outcome = retrain(job, name, on_epoch)
    export_trained(outcome.trained, out, force=force, fold=fold, forms=forms)
    return outcome


def _check_code(given: Architecture | Run, recorded: Mapping[str, Any]) -> None:
    """Refuse to run a function for the data that a run names and no search of this user's has run."""
    name = str(recorded.get("dataset", ""))
    if is_factory(name) and foreign_code([BackboneSpec(name)]) is not None:
        raise ConfigError(
            f"{given}: its data come from source code, {name}, that no search of yours has run on this machine; read "
            f"it, then name it with --dataset {name}"
        )


def _check(seeds: int, epochs: object, parent: Parent) -> None:
    """Refuse invalid numbers of seeds and epochs."""
    if seeds < 1:
        raise ConfigError(f"seeds: at least one training, not {seeds}")
    if epochs == 0 and not parent.given:
        raise ConfigError(
            "epochs: at least one, except for a parent with weights (--pretrained, --checkpoint), whose conversion is "
            "then exported without training; `reborn-nas export` writes networks that are already trained"
        )


def _other_start(known: Mapping[str, Any]) -> list[str]:
    """A message if the run's trainings started from weights, but these start from random ones."""
    start = known.get("checkpoint") or ("the library's published weights" if known.get("pretrained") else "")
    if not start:
        return []
    way = "--pretrained" if known.get("pretrained") else f"--checkpoint {start}"
    return [f"the run's trainings started from {start}, these start from random weights; {way} repeats that"]


def _one_architecture(
    given: Architecture | Run, trial: str, backbone_named: bool
) -> tuple[Architecture | str, Mapping[str, Any]]:
    """The architecture of `given`, with the configuration of its run.

    A file may come from a third party, so its source file is run only if the caller names it too.
    """
    if isinstance(given, Architecture):
        return given, {}
    path = Path(given)
    if not path.is_dir() or (path / "model.safetensors").is_file():
        found = read_architecture(str(given))
        if isinstance(found, Architecture) and found.backbone.library == "file" and not backbone_named:
            raise ConfigError(
                f"{given}: its network is source code, {found.backbone.source}; read it, then name it with "
                f"--backbone {found.backbone.source}"
            )
        return found, {}
    if trial == "pareto":
        raise ConfigError("--trial pareto names several networks; give the key of one, such as search/12")
    info = load_run(path)
    if info.config.get("train") is not None:
        raise ConfigError(
            f"{given}: its networks are trained by {info.config['train']}, not by the built-in training of "
            "classifiers; call that function, or search on"
        )
    known = {**info.config, "recipe_settings": info.settings.get("recipe", {})}
    if trial == "auto" and info.candidate is not None:
        chosen = info.candidate
    elif trial == "recommended":
        chosen = recommend_info(info).architecture
    else:
        done = {record.key: path for record in info.records if record.state == "complete"}
        trainings = Trainings(str(path), info.records, done, info.numbers, parent_arm=parent_arm(info))
        chosen = Architecture.from_dict(choose(trainings, trial)[0][0].architecture)
    code = None if backbone_named else foreign_code([chosen.backbone])
    if code is not None:
        raise ConfigError(f"{given}: {network_of_code(code)} name it with --backbone {code}")
    return chosen, known


def _metric(name: str, images: ImageSet) -> Metric:
    """The metric of that name. Raises ConfigError if there is none, or it is undefined on the test images."""
    found = read_metric(name)
    if METRICS.get(found.name) != found:
        raise ConfigError(f"metric: classifiers are judged by one of {', '.join(METRICS)}, not {name!r}")
    if reason := undefined(found.name, images.counts(images.test), "test"):
        raise ConfigError(reason)
    return found


def _recipe(
    known: Mapping[str, Any], name: str | Mapping[str, Any] | None, dataset: str, overrides: Mapping[str, Any]
) -> tuple[Recipe, tuple[str, ...]]:
    if name is None and known.get("recipe_settings"):
        return get_recipe(known["recipe_settings"], **overrides), ()
    if is_file(name):
        recipe, notes = read_recipe(str(name))
        return recipe.changed(overrides), notes
    found = from_settings(name) if isinstance(name, Mapping) else name or "fast"
    made = get_recipe(found.to_dict() if isinstance(found, Recipe) else found, dataset=dataset, **overrides)
    return made, ()
