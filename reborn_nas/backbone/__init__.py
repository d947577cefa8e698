"""Backbones: where they come from, where their activation sites are, and how these are replaced."""

from reborn_nas.backbone.channels import Refusal, Widening, apply_widening, widening
from reborn_nas.backbone.convert import apply, build_converted, convert
from reborn_nas.backbone.cost import Cost, count, predict
from reborn_nas.backbone.factory import load_factory
from reborn_nas.backbone.fingerprint import proof_record
from reborn_nas.backbone.non_sites import NonSite
from reborn_nas.backbone.placement import Placement
from reborn_nas.backbone.plan import Plan, plan
from reborn_nas.backbone.sites import Discovery, Site, discover, find_sites, non_sites
from reborn_nas.backbone.source import build, notes, resolve
from reborn_nas.backbone.trace import Trace, trace

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
