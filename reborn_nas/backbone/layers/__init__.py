"""Layers: what each kind of layer does with channels, and which of its tensors grow."""
