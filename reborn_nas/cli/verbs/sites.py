"""`reborn-nas sites`: the activation sites of a backbone and their possible activations."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import redirect_stdout
from typing import Any

import reborn_nas as rn
from reborn_nas.architecture import BackboneSpec, Choice
from reborn_nas.cli.arguments import add_backbone, input_size
from reborn_nas.cli.show import count_text, print_table
from reborn_nas.errors import ConfigError
from reborn_nas.heavy import import_networks

EXAMPLES = """  reborn-nas sites --backbone resnet34
  reborn-nas sites --backbone torchvision:googlenet --input-size 3x224x224 --verbose
  reborn-nas sites --backbone my_net.py:make_model --input-size 1x28x28 --json
  reborn-nas sites --backbone seg.py:make --example-inputs seg.py:example
"""


def add(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    add_backbone(parser, default="convnet5")
    parser.add_argument(
        "--input-size",
        "--image-size",
        type=input_size,
        metavar="CxHxW",
        help="224 or 1x28x28; default 3x32x32",
    )
    parser.add_argument(
        "--example-inputs",
        metavar="FUNCTION",
        help="file.py:function that returns what the network takes, where that is not one batch of images",
    )
    parser.add_argument("--num-classes", type=int, metavar="N", help="the network's own by default")
    parser.add_argument(
        "--verbose", action="store_true", help="also what is not a site, what is refused, and why"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Find the sites and print them."""
    import_networks()
    with redirect_stdout(sys.stderr):  # output of the network is not part of the answer
        spec, found = _discover(args)
        rows = [site_row(site) for site in found.sites]
    sites, others = found.sites, found.others if args.verbose or not found.sites else ()
    if args.json:
        data = {"backbone": spec.to_dict(), "sites": rows}
        if args.verbose:
            data["no_sites"] = [{"name": other.name, "reason": other.reason} for other in others]
        print(json.dumps(data, indent=2, default=str))
        return 0
    reason = rn.space.no_maps(sites)
    if reason and not args.verbose:
        print(f"{spec.source}: {reason}")
        return 0
    for note in rn.backbone.notes(spec):
        print(note)
    _print(spec, sites, rows, others, args.verbose)
    return 0


def _discover(args: argparse.Namespace) -> tuple[Any, Any]:
    """The network's spec, and its sites and other activations."""
    from reborn_nas.study.setup.own import file_spec, load_function, make_example

    if args.example_inputs is None:
        spec = rn.backbone.resolve(
            args.backbone,
            input_size=args.input_size or (3, 32, 32),
            num_classes=args.num_classes,
            stem=args.stem,
            arguments=dict(args.model_arg),
        )
        return spec, rn.backbone.discover(rn.backbone.build(spec, device="meta"), spec.input_size)
    for name in ("input_size", "stem", "num_classes"):
        if getattr(args, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{flag}: --example-inputs shows what the network takes, so leave {flag} out")
    if BackboneSpec(args.backbone).library != "file":
        raise ConfigError(
            f"--example-inputs: {args.backbone} takes one batch of images; give its size with --input-size"
        )
    example = make_example(load_function(args.example_inputs, "example_inputs"), args.example_inputs)
    spec = file_spec(args.backbone, example, dict(args.model_arg))
    return spec, rn.backbone.discover(rn.backbone.build(spec, device="meta"), example_inputs=example)


def site_row(site: Any) -> dict[str, Any]:
    """One site as JSON values, with the parameters and MACs of a reborn block with kernel 3 and compression 1×1."""
    choice = Choice("reborn", kernel_size=3, compression="1x1")
    added = (
        rn.backbone.cost.added(choice, site.channels, site.shape, site.layout)
        if site.admits(choice)
        else None
    )
    return {
        "name": site.name,
        "stage": site.stage,
        "block": site.block,
        "shape": list(site.shape),
        "layout": site.layout,
        "original": site.activation,
        "choices": list(site.choices),
        "refusals": dict(site.refusals),
        "added_params": None if added is None else added[0],
        "added_macs": None if added is None else added[1],
    }


def _print(spec: Any, sites: Any, rows: list[dict[str, Any]], others: Any, verbose: bool) -> None:
    if not sites:
        what = (
            "nothing that looks like an activation runs" if not others else "what looks like an activation:"
        )
        print(f"{spec.source} has no activation site; {what}")
        print_table(("where", "why it is not a site"), [(other.name, other.reason) for other in others])
        return
    common = set(sites[0].choices).intersection(*(site.choices for site in sites))
    print_table(
        ("site", "stage", "shape", "original", "choices", "reborn adds", "MACs"),
        [
            (
                row["name"],
                str(row["stage"]),
                "×".join(map(str, row["shape"])),
                row["original"],
                "all"
                if set(row["choices"]) == common
                else ", ".join(c for c in row["choices"] if c not in common),
                count_text(row["added_params"]),
                count_text(row["added_macs"]),
            )
            for row in rows
        ],
        right=(1, 5, 6),
    )
    print(
        f"\n{len(sites)} {'site' if len(sites) == 1 else 'sites'} in {spec.source}; all of them admit: "
        f"{', '.join(sorted(common)) or 'nothing in common'}"
    )
    if verbose:
        for row in rows:
            for choice, reason in row["refusals"].items():
                print(f"  {row['name']}: {choice} refused: {reason}")
        print(f"\n{len(others)} activations that are not sites:")
        print_table(("where", "why"), [(other.name, other.reason) for other in others])
