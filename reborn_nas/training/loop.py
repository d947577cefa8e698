"""`train`: one network, one recipe, one seed, from the first step to the last evaluation."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import torch
from torch import nn

from reborn_nas.data import ImageSet, Resident
from reborn_nas.errors import DivergedError, TrainingError
from reborn_nas.seeds import derive_seed, kept_generators, seed_everything
from reborn_nas.training.checkpoint import Checkpoint, TrainingState
from reborn_nas.training.device.cpu import kept_heap
from reborn_nas.training.device.precision import resolve_precision
from reborn_nas.training.device.selection import check_device, first_line
from reborn_nas.training.evaluation import Tally
from reborn_nas.training.losses import class_weights
from reborn_nas.training.mixing import Mixing
from reborn_nas.training.optimisers import restore_state, saved_state
from reborn_nas.training.recipe.recipe import Recipe, batch_sizes, learning_rates
from reborn_nas.training.result import TrainingResult
from reborn_nas.training.scores import Value, check_defined, score_error, score_value
from reborn_nas.training.step.compiled import Compiled, eagerly
from reborn_nas.training.step.graph import (
    WARM_UP,
    Batch,
    CudaRecorder,
    GraphStep,
    Recorder,
    Step,
    StepSnapshot,
)
from reborn_nas.training.step.step import TrainingStep
from reborn_nas.training.suits import check_recipe
from reborn_nas.training.weights import Average, draw_weights

OnEpoch = Callable[[int, Mapping[str, float]], None]

_log = logging.getLogger(__name__)
_reported: set[str] = set()
"""Forms of training that the log has named already: one line for all trainings of a process."""


def train(
    model: nn.Module,
    images: ImageSet,
    *,
    train_indices: torch.Tensor,
    evaluate: Mapping[str, torch.Tensor],
    recipe: Recipe,
    seed: int,
    device: torch.device | str = "cpu",
    on_epoch: OnEpoch | None = None,
    checkpoint: Checkpoint | None = None,
    every_epoch: Sequence[str] = ("validation",),
    graph: bool = True,
    recorder: Recorder | None = None,
    undecayed: Collection[str] = (),
    compile_after: int | None = None,
    compile_backend: str = "inductor",
    metric: str = "accuracy",
) -> TrainingResult:
    """Train `model` in place.

    Nothing is read from the device within an epoch; after it, one number for the loss and two for each part judged. On
    a CPU the same seed gives the same numbers to the bit, with the same number of threads.

    Args:
        model: the network; it is moved to `device` and left in eval mode.
        train_indices: images to train on.
        evaluate: part → images to judge by, such as `{"validation": split.validation}`.
        seed: of order, augmentation, dropout and, where the recipe draws them, the initial weights.
        on_epoch: called after each epoch with its number, from 1, and its metrics (a row of the curve); what it
            raises ends the training.
        checkpoint: keeps the state after each epoch; a training that finds its own state there goes on from it.
        every_epoch: parts judged after each epoch; the others are judged once, at the end.
        graph: on a GPU, replay the step as a CUDA graph where the network allows it.
        recorder: captures the step; CUDA's on a GPU.
        undecayed: names of parameters that weight decay leaves alone, such as those that start at an identity.
        compile_after: compile the network's blocks after so many epochs (`second_rung`); None never does.
        compile_backend: of `torch.compile`.
        metric: of `classification.METRICS`; another one than the accuracy adds `<part>_<metric>` to the curve, and
            value and standard error to the result.

    Raises:
        DivergedError: the loss became infinite or no number; `.result` holds what there was until then.
        TrainingError: the network cannot be trained on these images.
    """
    place = torch.device(device)
    if len(train_indices) == 0:
        raise TrainingError("there are no training images")
    gpus = (
        [torch.cuda.current_device() if place.index is None else place.index] if place.type == "cuda" else []
    )
    with kept_heap(place), kept_generators(gpus), _kernels(place):
        run = _Run(
            model, images, train_indices, evaluate, recipe, seed, place, every_epoch, undecayed, metric
        )
        if recipe.ema:
            run.keep_average(recipe.ema)
        if checkpoint is not None:
            run.restore(checkpoint.load())
        run.step.follow(run.rates, at=run.epoch * len(run.sizes))
        recorder = recorder or (CudaRecorder(place) if graph and place.type == "cuda" else None)
        begins = recipe.epochs if compile_after is None else max(run.epoch, compile_after)
        if run.epoch < begins:
            run.capture(recorder)
        try:
            while run.epoch < recipe.epochs:
                if run.epoch == begins:
                    run.compile(recorder, compile_backend)
                metrics = run.one_epoch()
                if checkpoint is not None and checkpoint.due():
                    checkpoint.save(run.state())
                if on_epoch is not None:
                    on_epoch(run.epoch, metrics)
            return run.finish()
        finally:
            run.close()


class _Run:
    """The state of one training."""

    def __init__(
        self,
        model: nn.Module,
        images: ImageSet,
        train_indices: torch.Tensor,
        evaluate: Mapping[str, torch.Tensor],
        recipe: Recipe,
        seed: int,
        device: torch.device,
        every_epoch: Sequence[str],
        undecayed: Collection[str] = (),
        metric: str = "accuracy",
    ) -> None:
        self.metric = "" if metric == "accuracy" else metric  # the accuracy is counted without keeping logits
        for part, indices in evaluate.items() if self.metric else ():
            check_defined(metric, images.labels[indices], len(images.classes), part)
        self.began = time.perf_counter()
        self.model, self.recipe, self.seed, self.device = model, recipe, seed, device
        self.precision = resolve_precision(recipe.precision, device, model)
        if recipe.init != "default":
            draw_weights(model, recipe.init, seed)
        last = recipe.channels_last and device.type == "cuda"
        model.to(device)
        if last:
            model.to(memory_format=torch.channels_last)
        self.sizes = batch_sizes(len(train_indices), recipe.batch_size)
        augmentation = recipe.augmentation(images.augmentation)
        self.data = Resident(images, train_indices, device, augmentation=augmentation, channels_last=last)
        self.parts = {
            part: Resident(images, indices, device, channels_last=last) for part, indices in evaluate.items()
        }
        self.every_epoch = [part for part in evaluate if part in every_epoch]
        self.identity = _identity(images, recipe, self.precision, seed, train_indices, undecayed)
        self.identity += f"-{metric}" if self.metric else ""
        self.rates = learning_rates(recipe, len(self.sizes))
        self.mixing = Mixing(recipe.augment, images.num_classes, seed)
        check_recipe(recipe, images, model)
        weights = class_weights(recipe.class_weights, images.labels[train_indices], images.num_classes)
        self.step = TrainingStep(
            model, recipe, self.precision, device, undecayed=undecayed, class_weights=weights
        )
        self.run_step: Step = self.step
        keep = max(map(len, self.parts.values()), default=0) if self.metric else 0
        self.tally = Tally(model, self.precision, device, keep=keep)
        self.form = "eager"
        self.epoch = 0
        self.curve: list[dict[str, float]] = []
        self.judged: dict[str, tuple[int, float]] = {}
        self.values: dict[str, Value] = {}
        self.seconds_before = 0.0
        self.average: Average | None = None
        self.compiled: Compiled | None = None

    def keep_average(self, decay: float) -> None:
        """Average the weights over the steps to come."""
        self.average = Average(self.model, decay)
        self.identity += f"-average-{decay:g}"

    def restore(self, state: TrainingState | None) -> None:
        """Go on from `state`, if there is one and it is this training's."""
        if state is None:
            return
        if state.identity != self.identity:
            raise TrainingError(
                f"the checkpoint is of another training ({state.identity}; this one is {self.identity}): data, recipe "
                "or seed differ; delete it, or repeat the settings that it was made with"
            )
        own = {key[6:]: tensor for key, tensor in state.tensors.items() if key.startswith("model/")}
        try:
            self.model.load_state_dict(own)
            restore_state(self.step.optimiser, self.step.parameters, state.tensors)
            with torch.no_grad():
                for name, tensor in self.scaling().items():
                    tensor.copy_(state.tensors[name])
            if self.average is not None:
                self.average.restore(state.tensors)
        except (RuntimeError, KeyError) as error:
            raise TrainingError(f"the checkpoint does not fit this network ({error}); delete it") from error
        self.epoch, self.curve, self.seconds_before = state.epoch, list(state.curve), state.seconds

    def state(self) -> TrainingState:
        """The state after this epoch, copied to the CPU."""
        tensors = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= saved_state(self.step.optimiser, self.step.parameters)
        tensors |= self.scaling()
        if self.average is not None:
            tensors |= self.average.state()
        copies = {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}
        return TrainingState(self.epoch, copies, list(self.curve), self.identity, self.seconds())

    def scaling(self) -> dict[str, torch.Tensor]:
        """The loss scaling's state by its names in a checkpoint; empty without."""
        scaler = self.step.scaler
        return (
            {} if scaler is None else {f"scaler/{name}": tensor for name, tensor in scaler.tensors().items()}
        )

    def capture(self, recorder: Recorder | None) -> None:
        """Capture the step and the judging, if there is a recorder and the network allows it; else say why not."""
        if recorder is None or self.epoch >= self.recipe.epochs:
            return
        if not self.step.capturable:
            how = f"optimizer {self.recipe.optimizer} reads the device or keeps state in Python"
            self._run_eagerly(f"eager (no CUDA graph: {how})")
            return
        self.tally.release()  # before a capture: a graph that is destroyed later would take workspaces along
        self.run_step = self.step
        self.model.train()
        how = ", compiled" if self.compiled else ""
        try:
            self.run_step = GraphStep(self.step, self._first_batches(), recorder)
            self.form = "cuda-graph" + how
        except RuntimeError as error:
            self._run_eagerly(f"eager{how} (no CUDA graph: {first_line(error)})", error)
            return
        try:
            for part in self.every_epoch[:1]:  # the others have batches of the same size
                with eagerly(self.compiled is not None):
                    self.tally.capture(recorder, self.parts[part])
        except RuntimeError as error:
            self._run_eagerly(f"{self.form} (judged eagerly: {first_line(error)})", error)

    def _first_batches(self) -> list[Batch]:
        """Up to three batches of the size of the first one."""
        batches = self.batches(0)
        first = [size for size in self.sizes[:WARM_UP] if size == self.sizes[0]]
        return [batch for batch, _ in zip(batches, first)]

    def batches(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, as the step takes them."""
        return self.mixing.batches(self.data.epoch(self.sizes, seed=self.seed, epoch=epoch), epoch)

    def _run_eagerly(self, form: str, error: Exception | None = None) -> None:
        if error is not None:
            check_device(self.device, error)
        self.form = form
        if form not in _reported:
            _reported.add(form)
            _log.warning("%s", form)

    def compile(self, recorder: Recorder | None, backend: str) -> None:
        """Compile the blocks and capture the step anew; later trainings of this process find the compiled code."""
        self.model.train()
        self.compiled = Compiled(self.model, backend)
        pictures, labels = self._first_batches()[0]
        before = StepSnapshot(self.step)
        try:
            self.compiled.run(lambda: self.step(pictures, labels))
        finally:
            before.restore()
        self.run_step, self.form = self.step, "eager, compiled"
        self.capture(recorder)

    def close(self) -> None:
        """Leave the network without compiled blocks, and give back at once what the graphs hold of the device.

        Torch no longer collects garbage before a capture, so that the next training would find the memory taken.
        """
        self.run_step = self.step
        self.tally.release()
        if self.compiled is not None:
            self.compiled.close()

    def one_epoch(self) -> dict[str, float]:
        """Train on every batch, judge the parts of every epoch, then read the device once."""
        start = time.perf_counter()
        first = self.epoch * len(self.sizes)
        rates = self.rates[first : first + len(self.sizes)]
        seed_everything(derive_seed(self.seed, "noise", self.epoch))
        self.model.train()
        self.step.loss_sum.zero_()
        batches = self.batches(self.epoch)
        for number, (pictures, labels) in enumerate(batches, start=first):
            self.run_step(pictures, labels)
            if self.average is not None:
                self.average.update(number)
        sums, values = [self.step.loss_sum], []
        for part in self.every_epoch:
            with eagerly(self.compiled is not None):
                self.tally.run(self.parts[part])
            sums += self.tally.sums.clone().unbind()  # the next part is counted in the same memory
            values += [score_value(self.metric, *self.kept(part))] if self.metric else []
        loss, *numbers = torch.stack([*sums, *values]).tolist()
        found = dict(zip(self.every_epoch, numbers[len(numbers) - len(values) :])) if values else {}
        numbers = numbers[: len(numbers) - len(values)]
        self.epoch += 1
        metrics = {"epoch": float(self.epoch), "train_loss": loss / sum(self.sizes)}
        judged = dict(zip(self.every_epoch, zip(numbers[::2], numbers[1::2]), strict=True))
        for part, (correct, part_loss) in judged.items():
            metrics[f"{part}_accuracy"] = correct / len(self.parts[part])
            metrics[f"{part}_loss"] = part_loss / len(self.parts[part])
        metrics |= {f"{part}_{self.metric}": value for part, value in found.items()}
        metrics |= {"learning_rate": rates[-1], "seconds": time.perf_counter() - start}
        self.curve.append(metrics)
        self.check_finite(loss, *numbers[1::2])
        self.judged = {part: (int(correct), part_loss) for part, (correct, part_loss) in judged.items()}
        self.values = {part: Value(value, math.nan) for part, value in found.items()}
        return dict(metrics)

    def kept(self, part: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and labels of the part that was judged last."""
        assert self.tally.kept is not None
        return self.tally.kept.of(len(self.parts[part]))

    def finish(self) -> TrainingResult:
        """Judge the parts that are judged once; all of them by averaged weights, or where a metric needs its error."""
        if self.average is not None:
            self.average.into_model()
        if self.average is not None or self.metric:
            self.judged = {}
        for part, resident in self.parts.items():
            if part not in self.judged:
                self.tally.run(resident)
                self.judged[part] = self.tally.read()
                if self.metric:
                    logits = self.kept(part)
                    self.values[part] = Value(
                        float(score_value(self.metric, *logits)), score_error(self.metric, *logits)
                    )
        self.model.eval()
        self.check_finite(*(loss for _, loss in self.judged.values()))
        return self.result()

    def check_finite(self, *losses: float) -> None:
        """Raise DivergedError unless every loss is a finite number."""
        if all(math.isfinite(loss) for loss in losses):
            return
        raise DivergedError(
            f"the loss became non-finite in epoch {self.epoch} of {self.recipe.epochs}; a lower learning rate than "
            f"{self.recipe.learning_rate:g} may help",
            self.result(),
            self.epoch,
        )

    def result(self) -> TrainingResult:
        """What there is so far."""
        correct = {part: right for part, (right, _) in self.judged.items()}
        n = {part: len(self.parts[part]) for part in correct}
        asked = self.recipe.batch_size
        smaller = f"batches of {self.sizes[0]} images, not {asked}: there are no more training images"
        return TrainingResult(
            accuracy={part: correct[part] / max(1, n[part]) for part in correct},
            correct=correct,
            n=n,
            curve=list(self.curve),
            train_loss_sum=sum(row["train_loss"] for row in self.curve),
            epochs=self.epoch,
            seconds=self.seconds(),
            precision=self.precision,
            form=self.form,
            device=str(self.device),
            batch_size=self.sizes[0],
            notes=(smaller,) if self.sizes[0] < asked else (),
            value={part: found.value for part, found in self.values.items()},
            error={part: found.error for part, found in self.values.items()},
        )

    def seconds(self) -> float:
        """Wall seconds so far, those before a resume included."""
        return self.seconds_before + time.perf_counter() - self.began


def _identity(
    images: ImageSet,
    recipe: Recipe,
    precision: str,
    seed: int,
    train_indices: torch.Tensor,
    undecayed: Collection[str],
) -> str:
    """Sixteen hex digits for what determines a training beside its network."""
    words = [images.fingerprint, json.dumps(recipe.to_dict(), sort_keys=True), precision, str(seed)]
    words += sorted(undecayed)
    digest = hashlib.sha256("|".join(words).encode())
    digest.update(train_indices.numpy().tobytes())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def _kernels(device: torch.device) -> Iterator[None]:
    """cuDNN tries its kernels on the first batch, which pays as all batches have one shape.

    Not where the process asks for deterministic algorithms: which kernel wins the trial may differ the next time.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = (
        device.type == "cuda" and not torch.are_deterministic_algorithms_enabled()
    )
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
