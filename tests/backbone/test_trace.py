"""The recorder: what ran, on what, where in the source; and that the model stays as it was."""

from __future__ import annotations

import copy
import inspect
import linecache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from reborn_nas.backbone.trace.graph import CallSpan, Trace, ValueRef
from reborn_nas.backbone.trace.record import trace, trace_modes
from reborn_nas.errors import ConversionError
from tests.backbone import networks


def image(*shape: int) -> Tensor:
    return torch.empty(*(shape or (2, 3, 16, 16)), device="meta")


def text_at(span: CallSpan | None) -> str:
    """The source text of a span."""
    assert span is not None
    lines = [linecache.getline(span.filename, line) for line in range(span.line, span.end_line + 1)]
    lines[-1] = lines[-1][: span.end_column]
    lines[0] = lines[0][span.column :]
    return "".join(lines)


def named(run: Trace, name: str) -> list[Any]:
    return [op for op in run.ops if op.name == name]


def test_records_operations_with_their_source() -> None:
    run = trace(networks.Functional(), image(), training=False)
    assert [op.name for op in run.ops] == [
        *(
            "conv2d",
            "batch_norm",
            "relu",
            "relu",
            "conv2d",
            "relu",
            "add",
            "conv2d",
            "clamp",
            "mean",
            "relu",
            "linear",
        )
    ]
    assert [text_at(op.span) for op in named(run, "relu")] == [
        "F.relu(self.bn1(self.conv1(x)))",
        "F.relu(x)",
        "F.relu(self.conv2(F.relu(x)))",
        "torch.relu(x.mean((2, 3)))",
    ]
    assert {op.span.function for op in named(run, "relu")} == {"Functional.forward"}
    first = inspect.getsourcelines(networks.Functional.forward)[1]
    assert {op.span.first_line for op in named(run, "relu")} == {first}


def test_values_have_shapes_names_and_consumers() -> None:
    run = trace(networks.Functional(), image(), training=False)
    conv = run.ops[0]
    assert [run.values[value].param for value in conv.inputs] == [None, "conv1.weight", "conv1.bias"]
    assert run.values[conv.outputs[0]].shape == (2, 8, 16, 16)
    assert conv.inputs[0] == run.inputs[0]
    residual = named(run, "relu")[0].outputs[0]
    assert [op.name for op in run.consumers(residual)] == ["relu", "add"]
    assert run.producer(residual) == named(run, "relu")[0]
    assert run.producer(run.inputs[0]) is None
    assert run.outputs == named(run, "linear")[0].outputs


def test_an_in_place_operation_gives_a_new_value() -> None:
    clamp = named(trace(networks.Functional(), image(), training=False), "clamp")[0]
    assert clamp.inplace
    assert clamp.inputs[0] != clamp.outputs[0]
    assert clamp.args == (ValueRef(clamp.inputs[0]),)
    assert clamp.kwargs == {"min": 0}

    class Assigns(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.clone()
            y[:, 0] = 0.0
            y += 1
            return F.dropout(y, 0.5, self.training)

    run = trace(Assigns(), image(), training=False)
    assert [(op.name, op.inplace) for op in run.ops] == [
        *(("clone", False), ("setitem", True), ("add", True), ("dropout", False))
    ]
    chain = [run.inputs[0], *(op.outputs[0] for op in run.ops)]
    assert len(set(chain)) == 5
    assert [op.inputs[0] for op in run.ops] == chain[:-1]


def test_module_calls_nest_and_count() -> None:
    run = trace(networks.Shared(), image(), training=False)
    calls = [call for call in run.calls if call.path == "relu"]
    assert [call.ordinal for call in calls] == [0, 1, 2]
    assert [text_at(call.span) for call in calls] == [
        *("self.relu(self.conv1(x))", "self.relu(self.conv2(out) + x)", "self.relu(out.flatten(1))")
    ]
    assert {call.caller for call in calls} == {""}
    assert {run.calls[call.parent].path for call in calls} == {""}
    relu = run.ops[calls[1].first_op]
    assert (relu.name, relu.module, relu.stack) == ("relu", "relu", ("", "relu"))
    assert calls[1].inputs == relu.inputs
    assert calls[1].outputs == relu.outputs
    assert run.calls[relu.call] == calls[1]


def test_calls_in_comprehensions_and_nested_functions_have_their_own_span() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            def inner(y: Tensor) -> Tensor:
                return F.relu(y) + len(str(self.training))

            parts = [F.silu(part) for part in x.split(1, 1)]
            return inner(torch.cat(parts, 1))

    run = trace(Odd(), image(), training=False)
    assert {text_at(op.span) for op in named(run, "silu")} == {"F.silu(part)"}
    assert {op.span.function.rsplit(".", 1)[-1] for op in named(run, "silu")} == {"forward"}
    assert text_at(named(run, "relu")[0].span) == "F.relu(y)"


def test_several_inputs_and_dict_outputs() -> None:
    run = trace(networks.ManyEnds(), (image(), image(2, 1, 16, 16)), training=False)
    assert [run.values[value].shape for value in run.inputs] == [(2, 3, 16, 16), (2, 1, 16, 16)]
    assert [run.values[value].shape for value in run.outputs] == [(2, 8, 14, 14), (2, 2), (2, 14, 14, 8)]
    keyword = trace(networks.ManyEnds(), {"depth": image(2, 1, 16, 16), "image": image()}, training=True)
    assert len(keyword.outputs) == 4


def test_an_aliased_module_has_a_path_at_each_place() -> None:
    run = trace(networks.Aliased(), image(), training=False)
    assert [run.ops[i].module for i in (1, 3, 5)] == ["body.1", "body.3", "last"]


def test_train_mode_runs_what_only_train_mode_runs() -> None:
    in_eval, in_train = trace_modes(networks.ManyEnds(), (image(), image(2, 1, 16, 16)))
    assert in_train is not None
    assert not [call for call in in_eval.calls if call.path == "aux_act"]
    assert [call for call in in_train.calls if call.path == "aux_act"]
    assert (in_eval.training, in_train.training) == (False, True)


def test_what_cannot_run_on_meta_runs_on_the_cpu() -> None:
    run = trace(networks.NeedsNumbers(), image(), training=False)
    assert [op.name for op in run.ops][:2] == ["conv2d", "relu"]
    assert run.values[run.outputs[0]].shape == (2, 4, 14, 14)


def test_a_forward_that_fails_names_module_and_reason() -> None:
    with pytest.raises(ConversionError, match=r"module 'conv1' \(Conv2d, networks\.py:\d+\).*channels"):
        trace(networks.Functional(), image(2, 4, 16, 16), training=False)


def test_the_model_is_not_changed() -> None:
    model, reader = networks.Functional(), networks.NeedsNumbers()
    seen: list[Tensor] = []
    model.conv1.register_forward_hook(lambda module, given, output: seen.append(output))
    model.notes = [torch.zeros(2)]
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    trace_modes(model, image())
    trace_modes(reader, image())
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert not seen
    assert len(model.conv1._forward_hooks) == 1
    assert not model.conv2._forward_hooks
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.notes[0].device.type == "cpu"


def test_parametrised_and_weight_normed_layers() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.ReLU())
    run = trace(model, image(), training=False)
    conv = named(run, "conv2d")[0]
    weight = run.producer(conv.inputs[1])
    assert weight is not None
    assert "0.parametrizations.weight.original0" in {run.values[value].param for value in weight.inputs}


def test_a_compiled_model_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConversionError, match="compile the converted network"):
        trace(torch.compile(networks.Functional(), backend="eager"), image(), training=False)


def test_a_model_on_meta_and_a_half_precision_model() -> None:
    with torch.device("meta"):
        model = networks.Functional()
    assert len(trace(model, image(), training=True).ops) > 10
    run = trace(networks.Functional().half(), image().half(), training=False)
    assert len(run.ops) == 12
