"""Networks in the ways people write them, judged by an oracle that uses nothing of the conversion.

Run `python -m tests.backbone.own_networks` for the table, `--write` to record it in `tests/golden/own_networks.csv`.
"""
