"""What a user can do about a forward that fails."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

import torch

_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]), "<")
_GPU = re.compile(r"nvidia|cuda|hip|\bgpu\b|mps backend|\bxpu\b", re.IGNORECASE)
_FITTING = re.compile(
    r"size|shape|channel|dimension|argument|expected|dtype|scalar type|multipl|input type|too small",
    re.IGNORECASE,
)


def place_of(error: BaseException) -> str:
    """File and line of the last call outside of torch that an error went through; "" where there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)]
    return f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""


def reason_of(error: BaseException) -> str:
    """The first line of what an error says, with its kind where that line would not be understood without."""
    if isinstance(error, SystemExit):
        return f"it ends the program (exit code {error.code})"
    first = (str(error).strip().splitlines() or [""])[0]
    plain = first and isinstance(error, RuntimeError | TypeError | ValueError | NotImplementedError)
    return first if plain else f"{type(error).__name__}: {first}".removesuffix(": ")


def way_out(reason: str, inputs: str) -> str:
    """What to do about a failure.

    Args:
        reason: what the failing forward said.
        inputs: the advice where the inputs do not fit.
    """
    if _GPU.search(reason):
        return "it asks for a GPU by itself: make tensors on the device of its input (x.device) instead"
    if "higher order operator" in reason:
        return "write a plain if or loop: torch.cond, while_loop and scan are not followed"
    if _FITTING.search(reason):
        return inputs
    return "it must run by itself first: try model(example) in eval and in train mode"
