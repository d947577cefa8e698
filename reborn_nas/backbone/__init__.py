"""Backbones: a spec is built (load), then run and recorded (trace); its sites are found (sites) and proved (proof);
an architecture becomes a plan (replace, widen), and the plan becomes a converted network.
"""

from reborn_nas.backbone.convert import apply, build_converted, convert, plan
from reborn_nas.backbone.cost import Cost, count, predict
from reborn_nas.backbone.find import discover, find_sites, non_sites
from reborn_nas.backbone.layers.steps import Refusal, Widening
from reborn_nas.backbone.load.factory import load_factory
from reborn_nas.backbone.load.source import build, notes, resolve
from reborn_nas.backbone.proof.record import proof_record
from reborn_nas.backbone.replace.plan import Placement, Plan
from reborn_nas.backbone.sites.site import Discovery, NonSite, Site
from reborn_nas.backbone.trace.graph import Trace
from reborn_nas.backbone.trace.record import trace
from reborn_nas.backbone.widen.edit import apply_widening
from reborn_nas.backbone.widen.walk import widening

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
