"""The example batch that an export carries."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from reborn_nas.data import load_dataset
from reborn_nas.training.measure.example import save_example


class SharesWork(nn.Module):
    """A network whose last bits depend on the number of threads, as CPU kernels' do for some batch sizes."""

    def __init__(self, steady: set[int]) -> None:
        super().__init__()
        self.steady = steady

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, 8, 8) → (B, 64)."""
        change = 0.0 if len(x) in self.steady else 1e-6 * torch.get_num_threads()
        return x.flatten(1) + change


@pytest.mark.parametrize(("steady", "count"), [({8, 16}, 8), ({16, 1}, 16), ({1}, 1), (set(), 1)])
def test_batch_is_one_whose_logits_do_not_depend_on_threads(tmp_path, steady, count):
    images = load_dataset("digits")
    before = torch.get_num_threads()
    save_example(SharesWork(steady), images, tmp_path / "a.example")
    example = load_file(tmp_path / "a.example")
    assert len(example["input"]) == len(example["logits"]) == count
    assert torch.get_num_threads() == before


def test_input_is_normalised_reserve_and_logits_are_the_networks(tmp_path):
    images = load_dataset("digits")
    save_example(nn.Flatten(), images, tmp_path / "a.example")
    example = load_file(tmp_path / "a.example")
    first = images.images[images.reserve[0]].double() / 255
    expected = (first - images.mean[0]) / images.std[0]
    torch.testing.assert_close(example["input"][0].double(), expected, atol=1e-6, rtol=0)
    assert torch.equal(example["logits"], example["input"].flatten(1))
