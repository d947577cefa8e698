"""Imports the libraries that every network needs, in less time."""

from __future__ import annotations

import gc
import sys

__all__ = ["import_networks"]


def import_networks() -> None:
    """Import torch, torchvision and timm, and register the models of reborn-nas with it.

    That creates more than half a million objects, almost all of which are kept. Python's garbage collector would scan
    them again and again, which takes a quarter of the time: it is disabled meanwhile, and does not scan them later.
    """
    if "timm" in sys.modules:
        return
    collects = gc.isenabled()
    gc.disable()
    try:
        import timm  # noqa: F401
    finally:
        if collects:
            gc.enable()
            gc.freeze()
