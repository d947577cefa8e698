"""Backbones: where they come from, where their activation sites are, and how these are replaced."""

from reborn_nas.backbone.convert import apply, build_converted, convert, plan
from reborn_nas.backbone.cost import Cost, count, predict
from reborn_nas.backbone.find import discover, find_sites, non_sites
from reborn_nas.backbone.layers.steps import Refusal, Widening
from reborn_nas.backbone.load.factory import load_factory
from reborn_nas.backbone.load.source import build, notes, resolve
from reborn_nas.backbone.proof.fingerprint import proof_record
from reborn_nas.backbone.replace.placement import Placement
from reborn_nas.backbone.replace.plan import Plan
from reborn_nas.backbone.sites.non_sites import NonSite
from reborn_nas.backbone.sites.site import Discovery, Site
from reborn_nas.backbone.trace.trace import Trace, trace
from reborn_nas.backbone.widen.edit import apply_widening
from reborn_nas.backbone.widen.widening import widening

__all__ = [
    "Cost",
    "Discovery",
    "NonSite",
    "Placement",
    "Plan",
    "Refusal",
    "Site",
    "Trace",
    "Widening",
    "apply",
    "apply_widening",
    "build",
    "build_converted",
    "convert",
    "count",
    "discover",
    "find_sites",
    "load_factory",
    "non_sites",
    "notes",
    "plan",
    "predict",
    "proof_record",
    "resolve",
    "trace",
    "widening",
]
