"""Compilation as an option: which blocks, the same numbers, and no silent way back to eager."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from reborn_nas.data import split
from reborn_nas.errors import TrainingError
from reborn_nas.training import Recipe, TrainingResult, train
from reborn_nas.training.step.compiled import Compiled, keep_cache, regions, second_rung
from tests.training.test_graph import StandIn
from tests.training.toys import small_net, squares


class Block(nn.Module):
    """One that torch cannot compile as one graph where `breaking`."""

    def __init__(self, breaking: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.breaking = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), breaking
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x))
        if self.breaking:
            print(end="")
            torch._dynamo.graph_break()
        return torch.relu(x)


def net(breaking: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    blocks = nn.Sequential(Block(False), Block(breaking))
    return nn.Sequential(nn.Conv2d(1, 4, 1), blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4))


def run(
    model: nn.Module, after: int | None, recorder: StandIn | None = None
) -> tuple[TrainingResult, torch.Tensor]:
    images = squares()
    own = split(images, block=0, seed=0)
    result = train(
        model,
        images,
        train_indices=own.train,
        evaluate={"validation": own.validation},
        recipe=Recipe(epochs=3, batch_size=40, learning_rate=0.05, precision="fp32"),
        seed=3,
        compile_after=after,
        compile_backend="eager",
        recorder=recorder,
    )
    return result, torch.cat([t.detach().double().flatten() for t in model.state_dict().values()])


def test_the_blocks_of_a_network() -> None:
    resnet = timm.create_model("resnet18")
    found = regions(resnet)
    assert found == [block for stage in (1, 2, 3, 4) for block in getattr(resnet, f"layer{stage}")]
    plain = small_net()
    assert regions(plain) == [plain]


def test_the_second_rung() -> None:
    assert [second_rung(epochs) for epochs in (1, 3, 10, 30)] == [1, 1, 4, 10]


@pytest.mark.parametrize("recorder", [None, StandIn()])
def test_compiled_training_gives_the_same_bits_and_says_so(recorder: StandIn | None) -> None:
    torch._dynamo.reset()
    eager, expected = run(net(), None)
    model = net()
    compiled, got = run(model, 1, recorder)
    assert (eager.form, compiled.form) == ("eager", "cuda-graph, compiled" if recorder else "eager, compiled")
    assert torch.equal(got, expected)
    assert [row["train_loss"] for row in compiled.curve] == [row["train_loss"] for row in eager.curve]
    assert all(part._compiled_call_impl is None for part in model.modules())


def test_a_block_that_would_run_eagerly_is_an_error() -> None:
    torch._dynamo.reset()
    with pytest.raises(TrainingError, match=r"cannot be compiled .*train without --compile"):
        run(net(breaking=True), 0)


def test_nine_architectures_do_not_meet_the_recompile_limit() -> None:
    """Torch's own limit of 8 would send the ninth shape back to eager."""
    torch._dynamo.reset()
    before = torch._dynamo.config.recompile_limit
    conv = nn.Sequential(nn.Sequential(nn.Identity()))
    for _ in range(10):
        compiled = Compiled(conv)
        compiled.close()
    assert torch._dynamo.config.recompile_limit == before
    model = nn.ModuleList([nn.Sequential(nn.ReLU())])[0]
    compiled = Compiled(model, "eager")
    try:
        for size in range(2, 14):
            compiled.run(lambda size=size: model(torch.randn(size)))
    finally:
        compiled.close()


def test_a_switch_in_the_environment_is_an_error() -> None:
    with (
        torch._dynamo.config.patch(disable=True),
        pytest.raises(TrainingError, match="switched off"),
    ):
        Compiled(net())


def test_the_cache_outlives_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    keep_cache()
    assert os.environ.pop("TORCHINDUCTOR_CACHE_DIR") == "/elsewhere/reborn-nas/inductor"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/chosen")
    keep_cache()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/chosen"
