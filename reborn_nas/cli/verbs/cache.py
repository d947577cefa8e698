"""`reborn-nas cache`: decoded images on disk, and their removal."""

from __future__ import annotations

import argparse
import json
from datetime import datetime

from reborn_nas.cli.show import print_table
from reborn_nas.commands import command_line
from reborn_nas.data.cache import CacheEntry, cache_root, clean_cache, list_caches
from reborn_nas.heavy import import_networks

GIB = 2**30

EXAMPLES = """  reborn-nas cache
  reborn-nas cache --clean photos-0123456789abcdef
  reborn-nas cache --cache-dir /scratch/decoded --clean all
"""


def add(parser: argparse.ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument(
        "--cache-dir",
        metavar="DIR",
        help="where caches lie; $REBORN_NAS_CACHE or ~/.cache/reborn-nas/decoded",
    )
    parser.add_argument(
        "--clean", metavar="NAME", nargs="+", help="remove these caches; all: every one that no run uses now"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """List caches, or remove them and list the removed ones."""
    import_networks()
    root = cache_root(args.cache_dir)
    found = list_caches(root) if args.clean is None else clean_cache(args.clean, root)
    total = sum(entry.bytes for entry in found)
    if args.json:
        rows = [
            {"name": e.path.name, "path": str(e.path), "source": e.source, "images": e.images, "bytes": e.bytes,
             "used": e.used, "in_use": e.in_use}
            for e in found
        ]  # fmt: skip
        print(json.dumps({"root": str(root), "removed": args.clean is not None, "caches": rows}, indent=2))
        return 0
    if found:
        print_table(("cache", "of", "decoded images", "GiB", "last used"), [_row(e) for e in found])
        print()
    if args.clean is not None:
        count = f"{len(found)} cache{'' if len(found) == 1 else 's'}"
        print(f"removed {count}, {total / GIB:.2f} GiB, from {root}")
    elif found:
        place = () if args.cache_dir is None else ("--cache-dir", args.cache_dir)
        line = command_line("reborn-nas", "cache", *place, "--clean", found[0].path.name)
        print(f"{total / GIB:.2f} GiB in {root}. To remove the first: {line}")
    else:
        print(
            f"there is no cache in {root}; a search of more images than memory holds, --stream, or a Dataset makes one"
        )
    return 0


def _row(entry: CacheEntry) -> tuple[str, ...]:
    images = "; ".join(f"{count:,} of {layout}" for layout, count in entry.images.items())
    used = "now" if entry.in_use else datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
    return entry.path.name, entry.source, images, f"{entry.bytes / GIB:.2f}", used
