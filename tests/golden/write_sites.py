"""Write the golden site tables: `python -m tests.golden.write_sites [SOURCE …]`.

A table that exists is part of what users rely on: the names of sites stand in their spaces, studies and exports.
Write one anew only when a backbone itself has changed.
"""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

from reborn_nas.backbone import find_sites
from tests.backbones import make, size_of

FOLDER = Path(__file__).parent / "sites"
COLUMNS = (
    "name",
    "kind",
    "activation",
    "channels",
    "shape",
    "layout",
    "stage",
    "block",
    "owner",
    "train_only",
    "in_loop",
)
SOURCES = [
    *("timm:resnet18", "timm:resnet34", "timm:resnet50", "timm:vgg11_bn", "timm:mobilenetv2_050"),
    *("timm:mobilenetv3_small_050", "timm:efficientnet_b0", "timm:convnext_atto", "timm:convnext_tiny"),
    *(
        "timm:densenet121",
        "timm:regnetx_002",
        "timm:hrnet_w18_small",
        "timm:res2next50",
        "timm:mobilevitv2_050",
    ),
    *("torchvision:resnet18", "torchvision:resnet34", "torchvision:resnet50", "torchvision:vgg11"),
    *("torchvision:densenet121", "torchvision:googlenet", "torchvision:inception_v3"),
]


def path_of(source: str) -> Path:
    """The file of a backbone's table."""
    return FOLDER / f"{source.replace(':', '-')}.csv"


def table(source: str) -> str:
    """The site table of a backbone at its own input size, as CSV text."""
    model = make(source)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for site in find_sites(model, size_of(source, model)):
        row = [getattr(site, column) for column in COLUMNS]
        row[COLUMNS.index("shape")] = "x".join(map(str, site.shape))
        writer.writerow(row)
    return text.getvalue()


def main() -> None:
    """Write the tables of the backbones named on the command line, or of all."""
    FOLDER.mkdir(exist_ok=True)
    for source in sys.argv[1:] or SOURCES:
        path_of(source).write_text(table(source), encoding="utf-8")
        print(path_of(source))


if __name__ == "__main__":
    main()
