"""The example that an export carries; it is made where networks are trained."""

from reborn_nas.training.example import save_example

__all__ = ["save_example"]
