"""The settings of a study: each field with its values and its description."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
)

from reborn_nas.study.config.functions import Function
from reborn_nas.study.config.objectives import Objectives
from reborn_nas.study.config.values import (
    Artifacts,
    ClassWeights,
    Contrast,
    Count,
    Dataset,
    Device,
    Devices,
    Duration,
    MetricText,
    Positive,
    Pruner,
    RecipeName,
    Resize,
    RunName,
    Sampler,
    Sites,
    Stem,
    StorageUrl,
    Workers,
    setting,
)

__all__ = ["Fields"]

WHAT, HOW, OWN, EXPLORATION, STUDY, MACHINE = (
    "what is searched",
    "how it is trained",
    "a training of your own",
    "the exploration",
    "the study",
    "where it runs",
)
"""Groups of settings, in the order of `reborn-nas search --help`."""


class Fields(BaseModel):
    """The fields of `StudyConfig`, in the order of `--help`.

    The flags of `reborn-nas search`, the arguments of `reborn_nas.search` and the command that repeats a run come from
    them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    backbone: str = setting(
        "convnet5",
        "timm model (resnet34), torchvision:NAME, path/to/file.py:factory or package.module:factory",
        group=WHAT,
        metavar="NAME",
    )
    backbone_arguments: dict[str, Any] = setting(
        None,
        "keyword argument of the backbone's constructor, such as width=0.25; may be repeated",
        group=WHAT,
        metavar="NAME=VALUE",
        factory=dict,
    )
    stem: Stem | None = setting(
        None,
        "first layers; small: 3×3, stride 1, no max-pool (the default up to 64×64 pixels)",
        group=WHAT,
        choices=("original", "small"),
    )
    pretrained: bool = setting(
        False, "start every training from the backbone's published weights", group=WHAT
    )
    checkpoint: Path | None = setting(
        None,
        "start every training from these weights of the unconverted backbone: safetensors, of torch.save, or a folder",
        group=WHAT,
        metavar="FILE",
    )
    dataset: Dataset = setting(
        "digits",
        "cifar10, cifar100, svhn, mnist, kmnist, fashion_mnist, digits (default), folder:PATH, file.py:function that "
        "returns torch Datasets, or timm's hfds/NAME, wds/NAME, tfds/NAME, torch/NAME",
        group=WHAT,
        metavar="NAME",
    )
    data_dir: Path | None = setting(
        None,
        "where data sets lie or are downloaded to; the root of timm's readers",
        group=WHAT,
        metavar="DIR",
    )
    image_size: Annotated[int, Field(ge=4, le=4096)] | None = setting(
        None, "resize images to N×N", group=WHAT, metavar="N"
    )
    stored_size: Annotated[int, Field(ge=4, le=4096)] | None = setting(
        None,
        "keep images of folder:PATH at N×N, larger than --image-size: trainings see random parts, judging the middle",
        group=WHAT,
        metavar="N",
    )
    fraction: Annotated[float, Field(gt=0, le=1)] = setting(
        1.0, "use this share of every part of the data", group=WHAT, metavar="F"
    )
    skip_broken: bool = setting(False, "leave out images that cannot be read, instead of ending", group=WHAT)
    resize: Resize = setting(
        "cover",
        "images of another size than most: cover (default) cuts, contain has black around, stretch distorts",
        group=WHAT,
        choices=("cover", "contain", "stretch"),
    )
    rgb: bool = setting(
        False, "read grey images as RGB, for networks and weights of three channels", group=WHAT
    )
    stream: bool | None = setting(
        None,
        "read decoded images from a cache on disk in every epoch; by default only where memory is short",
        group=WHAT,
    )
    cache_dir: Path | None = setting(
        None,
        "where decoded images are cached: $REBORN_NAS_CACHE, else ~/.cache/reborn-nas/decoded",
        group=WHAT,
        metavar="DIR",
    )
    space: str = setting(
        "paper", "search space: a name of `reborn-nas spaces`, or a YAML file", group=WHAT, metavar="NAME"
    )
    contrast: Contrast = setting(
        "reborn:original",
        "what the study compares at each site: A against B; original is what the backbone has (reborn:original)",
        group=WHAT,
        metavar="A:B",
    )
    sites: Sites = setting(
        (),
        "only these activation sites take part: names or patterns, such as dec*,head.act; all others stay as they are",
        group=WHAT,
        metavar="LIST",
    )
    recipe: RecipeName = setting(
        "fast",
        "fast (default), adamw, a3, finetune or paper, or FILE.yaml: a recipe of yours, or the args.yaml of timm's "
        "train.py; the next settings replace the recipe's",
        group=HOW,
        metavar="NAME",
    )
    epochs: Annotated[int, Field(ge=1)] | None = setting(
        None, "epochs of each training", group=HOW, metavar="N"
    )
    batch_size: Annotated[int, Field(ge=1)] | None = setting(
        None, "images of one step", group=HOW, metavar="N"
    )
    learning_rate: Positive | None = setting(None, "largest learning rate", group=HOW, metavar="X")
    optimizer: str | None = setting(
        None,
        "sgd, adamw, lion or another optimizer of timm; on a GPU sgd, adam and adamw train in a CUDA graph",
        group=HOW,
        metavar="NAME",
    )
    optimizer_args: dict[str, Any] = setting(
        None,
        "argument of the optimizer, such as betas=[0.9,0.95]; may be repeated",
        group=HOW,
        metavar="NAME=VALUE",
        factory=dict,
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = setting(
        None, "of sgd, and of other optimizers that have one", group=HOW, metavar="X"
    )
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = setting(
        None, "of the optimiser", group=HOW, metavar="X"
    )
    decay_norms_and_biases: bool | None = setting(
        None, "whether weight decay also acts on norms and biases", group=HOW
    )
    clip_grad: Positive | None = setting(
        None, "largest norm of the gradients of a step", group=HOW, metavar="X"
    )
    ema: Annotated[float, Field(ge=0, lt=1)] | None = setting(
        None,
        "average the weights over the steps, such as 0.999, and judge by the average",
        group=HOW,
        metavar="D",
    )
    schedule: str | None = setting(
        None,
        "one_cycle, step_half, constant, or timm's cosine, tanh, step, multistep, poly, wsd, rsqrt",
        group=HOW,
        metavar="NAME",
    )
    schedule_args: dict[str, Any] = setting(
        None,
        "argument of one of timm's schedules, such as warmup_epochs=5; may be repeated",
        group=HOW,
        metavar="NAME=VALUE",
        factory=dict,
    )
    layer_decay: float | None = setting(
        None, "learning rate of each layer as a share of the next one's, such as 0.75", group=HOW, metavar="X"
    )
    loss: str | None = setting(
        None, "cross_entropy, or bce: a binary one for each class", group=HOW, metavar="NAME"
    )
    loss_args: dict[str, Any] = setting(
        None,
        "argument of bce: target_threshold=0.2, sum=true",
        group=HOW,
        metavar="NAME=VALUE",
        factory=dict,
    )
    class_weights: ClassWeights | None = setting(
        None, "balanced, or a number for each class: 1,1,2.5", group=HOW, metavar="LIST"
    )
    augment: dict[str, Any] = setting(
        None,
        "augmentation by timm's name, such as mixup=0.2, cutmix=1, scale=[0.35,1], aa=randaugment, reprob=0.25; may be "
        "repeated",
        group=HOW,
        metavar="NAME=VALUE",
        factory=dict,
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] | None = setting(
        None, "of the targets", group=HOW, metavar="X"
    )
    precision: str | None = setting(
        None,
        "auto: bf16 where the device computes with it, fp16 on older NVIDIA GPUs",
        group=HOW,
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    train: Function | None = setting(
        None,
        "function (model, job) that trains a network: path/to/file.py:function or package.module:function",
        group=OWN,
        metavar="FUNCTION",
    )
    evaluate: Function | None = setting(
        None,
        "function (model, job) that returns the value of a trained network on job.part",
        group=OWN,
        metavar="FUNCTION",
    )
    example_inputs: Function | None = setting(
        None,
        "function that returns what the network takes: a tensor, a tuple of arguments or a dict of keywords",
        group=OWN,
        metavar="FUNCTION",
    )
    metric: MetricText | None = setting(
        None,
        "what trainings are judged by: accuracy (default), balanced_accuracy, macro_f1, auroc, top5, log_loss; of a "
        "training of your own with its direction: miou:higher,label=mIoU,unit=points,scale=100,worst=0",
        group=HOW,
        metavar="NAME",
    )
    version: str | None = setting(
        None,
        "of your data and of what your source does not show; a change is reported when the study goes on",
        group=OWN,
        metavar="TEXT",
    )
    sampler: Sampler = setting(
        "tpe",
        "what proposes: tpe (default), additive, nsga2, gp, random, or a plug-in's",
        group=EXPLORATION,
        metavar="NAME",
    )
    objectives: Objectives = setting(
        ("accuracy",),
        "the metric (default), or with costs, such as accuracy,params; macs, latency, memory",
        group=EXPLORATION,
        metavar="LIST",
    )
    max_params: str | None = setting(
        None,
        "reject architectures above, untrained: parameters; 1.2x: of the parent's; 12M",
        group=EXPLORATION,
        metavar="1.2x",
    )
    max_macs: str | None = setting(
        None,
        "reject architectures above, untrained: multiply-accumulates of one input",
        group=EXPLORATION,
        metavar="1.5G",
    )
    max_latency: str | None = setting(
        None,
        "reject architectures above, untrained: a forward pass on the study's device, folded",
        group=EXPLORATION,
        metavar="5ms",
    )
    max_memory: str | None = setting(
        None,
        "reject architectures above, untrained: one training step, estimated",
        group=EXPLORATION,
        metavar="2GB",
    )
    latency_batch: Annotated[int, Field(ge=1, le=65536)] | None = setting(
        None, "inputs of the pass whose latency is measured (1)", group=EXPLORATION, metavar="N"
    )
    pruner: Pruner = setting(
        "none",
        "stop hopeless trainings at rungs: none (default), halving, hyperband, median",
        group=EXPLORATION,
        metavar="NAME",
    )
    init: str | None = setting(
        None,
        "scratch: fresh weights (default); parent: a trained parent's; xavier, kaiming, default: how the recipe draws "
        "them",
        group=EXPLORATION,
        metavar="NAME",
    )
    parent: Path | None = setting(
        None,
        "trained parent for --init parent: safetensors, or an export's folder; else it is trained once",
        group=EXPLORATION,
        metavar="FILE",
    )
    warm_epochs: Annotated[int, Field(ge=1)] | None = setting(
        None, "epochs of a training that starts from the parent", group=EXPLORATION, metavar="N"
    )
    trials: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] | None = setting(
        None, "trainings in all, finished ones included", group=STUDY, metavar="N"
    )
    baseline: Count | None = setting(
        None, "trainings of parent and all-reborn network", group=STUDY, metavar="N"
    )
    screen: Count | None = setting(
        None, "trainings of the balanced design that the effects are estimated from", group=STUDY, metavar="N"
    )
    exploration: Count | None = setting(None, "trainings that the sampler proposes", group=STUDY, metavar="N")
    candidate: Count | None = setting(
        None, "trainings of the candidate and its parent", group=STUDY, metavar="N"
    )
    retest: Count | None = setting(
        None, "trainings of the top sites on unused data", group=STUDY, metavar="N"
    )
    control: Count | None = setting(
        None, "trainings of the top sites with the positive twin", group=STUDY, metavar="N"
    )
    checks: Count | None = setting(
        None, "trainings of the top sites alone and with other controls", group=STUDY, metavar="N"
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = setting(0, "of everything random", group=STUDY, metavar="N")
    name: RunName | None = setting(
        None, "the study's name; default BACKBONE-DATASET", group=STUDY, metavar="NAME"
    )
    run: Path | None = setting(None, "the run's folder; default runs/NAME", group=STUDY, metavar="DIR")
    storage: StorageUrl | None = setting(
        None, "Optuna storage; default a journal file in the run's folder", group=STUDY, metavar="URL"
    )
    timeout: Duration | None = setting(
        None, "stop after 90s, 30min, 2h; the same command goes on", group=STUDY, metavar="TIME"
    )
    gpu_hours: Positive | None = setting(
        None, "stop when all trainings together took so long on their devices", group=STUDY, metavar="H"
    )
    hang_after: Duration | None = setting(
        None,
        "give up a training that ends no epoch for so long (30 times the longest epoch, 15 min at least)",
        group=STUDY,
        metavar="TIME",
    )
    adopt: bool = setting(
        False,
        "resume although settings differ; choices, contrast, data set and objectives cannot",
        group=STUDY,
    )
    device: Device = setting("auto", "auto (default), cpu, cuda, cuda:1", group=MACHINE, metavar="NAME")
    devices: Devices = setting(
        (), "one worker each, such as 0,1,2 for three GPUs", group=MACHINE, metavar="LIST"
    )
    workers: Workers = setting(
        "auto",
        "processes that train at the same time; auto (default): one on each GPU, or as many as end soonest on a CPU",
        group=MACHINE,
        metavar="K",
    )
    threads: Annotated[int, Field(ge=1, le=1024)] | None = setting(
        None, "CPU threads of each worker", group=MACHINE, metavar="N"
    )
    compile: bool = setting(
        False, "compile the networks' blocks after a third of the longer trainings", group=MACHINE
    )
    recompute: bool = setting(
        False,
        "make the blocks' maps again in the backward pass: less memory, more time, the same results",
        group=MACHINE,
    )
    deterministic: bool = setting(False, "on a GPU, the same numbers each time; slower", group=MACHINE)
    artifacts: Artifacts | None = setting(
        None,
        "shared folder, or s3://BUCKET/PREFIX, for the states of interrupted trainings",
        group=MACHINE,
        metavar="DIR",
    )
