"""Figures: findings drawn as SVG and PNG."""
