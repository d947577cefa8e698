"""The rivals: loops as people write them, timm's, resident data without a graph, and ours. Each trains some images."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torchvision.transforms as T
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from reborn_nas.data import ImageSet
from reborn_nas.training import Recipe
from reborn_nas.training.loop import _Run
from reborn_nas.training.step.graph import CudaRecorder

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@functools.lru_cache(maxsize=1)
def as_arrays(images: ImageSet) -> tuple[Any, list[int]]:
    """(N, H, W, C) uint8 and the labels, once for all loops of a run."""
    return images.images.permute(0, 2, 3, 1).contiguous().numpy(), images.labels.tolist()


class Pictures(Dataset[Any]):
    """An image at a time, as torchvision's CIFAR hands it to its transforms."""

    def __init__(self, images: ImageSet) -> None:
        self.pixels, self.labels = as_arrays(images)
        self.transform: Any = T.Compose(
            [T.RandomCrop(32, padding=4), T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(MEAN, STD)]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, k: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.pixels[k])), self.labels[k]


class LoaderLoop:
    """The loop of kuangliu/pytorch-cifar: DataLoader, zero_grad, forward, backward, step, `.item()` each step.

    Args:
        amp: bf16 autocast; fp32 otherwise.
    """

    def __init__(
        self,
        model: nn.Module,
        images: ImageSet,
        batch: int,
        device: torch.device,
        workers: int = 0,
        amp: bool = False,
    ) -> None:
        self.model, self.device, self.amp = copy.deepcopy(model).to(device).train(), device, amp
        kept = workers > 0
        self.loader = DataLoader(
            Pictures(images),
            batch,
            shuffle=True,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            persistent_workers=kept,
            drop_last=True,
        )
        self.batches: Iterator[Any] = iter(())
        self.optimiser = torch.optim.SGD(self.model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
        self.criterion = nn.CrossEntropyLoss()
        self.loss, self.correct, self.total = 0.0, 0, 0

    def __call__(self, steps: int) -> None:
        """Train on so many batches, going on where the last call ended."""
        for _ in range(steps):
            inputs, targets = self._next()
            inputs, targets = inputs.to(self.device), targets.to(self.device)
            self.optimiser.zero_grad()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp):
                outputs = self.model(inputs)
                loss = self.criterion(outputs, targets)
            loss.backward()
            self.optimiser.step()
            self.loss += loss.item()
            self.total += targets.size(0)
            self.correct += outputs.max(1)[1].eq(targets).sum().item()

    def _next(self) -> Any:
        try:
            return next(self.batches)
        except StopIteration:
            self.batches = iter(self.loader)
            return next(self.batches)

    def close(self) -> None:
        """End the loader's workers."""
        self.batches = iter(())
        del self.loader


class TimmLoop(LoaderLoop):
    """timm's: its loader (with the prefetcher on a GPU), its optimiser, bf16 autocast, channels_last.

    With the crop and flip of the others and no colour jitter, which is timm's default and would slow it down.
    """

    def __init__(
        self, model: nn.Module, images: ImageSet, batch: int, device: torch.device, workers: int = 2
    ) -> None:
        super().__init__(model, images, batch, device, 0, True)
        from timm.data import create_loader
        from timm.optim import create_optimizer_v2

        cuda = device.type == "cuda"
        data = Pictures(images)
        data.transform = None
        self.loader = create_loader(
            data,
            input_size=(3, 32, 32),
            batch_size=batch,
            is_training=True,
            use_prefetcher=cuda,
            no_aug=False,
            hflip=0.5,
            train_crop_mode="rkrc",
            color_jitter=None,
            num_workers=workers,
            mean=MEAN,
            std=STD,
            device=device,
            persistent_workers=workers > 0,
        )
        if cuda:
            self.model.to(memory_format=torch.channels_last)
        self.optimiser = create_optimizer_v2(self.model, opt="sgd", lr=1e-3, weight_decay=5e-4, momentum=0.9)
        self.channels_last = cuda

    def __call__(self, steps: int) -> None:
        """As in its `train_one_epoch`, without logging."""
        for _ in range(steps):
            inputs, targets = self._next()
            inputs, targets = inputs.to(self.device), targets.to(self.device)
            if self.channels_last:
                inputs = inputs.contiguous(memory_format=torch.channels_last)
            with torch.autocast(self.device.type, torch.bfloat16):
                loss = self.criterion(self.model(inputs), targets)
            loss.backward()
            self.optimiser.step()
            self.optimiser.zero_grad()


class OurLoop:
    """What `train` does, step by step; `graph=False` is the same without a CUDA graph: resident bf16 eager."""

    def __init__(
        self,
        model: nn.Module,
        images: ImageSet,
        batch: int,
        device: torch.device,
        *,
        graph: bool = True,
        precision: str = "auto",
    ) -> None:
        recipe = Recipe(
            batch_size=batch, epochs=1, schedule="constant", learning_rate=1e-3, precision=precision
        )
        rows = torch.arange(len(images.labels))
        self.run = _Run(copy.deepcopy(model), images, rows, {}, recipe, 0, device, ())
        self.run.step.follow([1e-3])
        self.run.capture(CudaRecorder(device) if graph and device.type == "cuda" else None)
        self.batch, self.epoch = batch, 0
        self.batches: Iterator[Any] = iter(())
        self.run.model.train()

    @property
    def form(self) -> str:
        """How the steps run."""
        return f"{self.run.form}, {self.run.precision}"

    def __call__(self, steps: int) -> None:
        """Train on so many batches, going on where the last call ended."""
        for _ in range(steps):
            self.run.run_step(*self._next())

    def _next(self) -> Any:
        try:
            return next(self.batches)
        except StopIteration:
            whole = [self.batch] * (len(self.run.data) // self.batch)
            self.batches = self.run.data.epoch(whole, seed=0, epoch=self.epoch)
            self.epoch += 1
            return next(self.batches)

    def close(self) -> None:
        """Nothing to end."""


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product of random numbers, the yardstick of a run."""
    from tests.benchmarks.harness import alternate

    size = 8192 if device.type == "cuda" else 1024
    one, other = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    work: Callable[[], object] = lambda: torch.mm(one, other)  # noqa: E731
    return 2 * size**3 / alternate({"mm": work}, warmup=3, device=device)["mm"].median
