"""Channel maps against real tensors whose entries say which channel they are."""

from __future__ import annotations

import json

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reborn_nas.backbone.layers.steps import ChannelMap


@given(
    st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=4),
    st.integers(1, 3),
    st.integers(1, 3),
)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_channel_maps_follow_real_tensors(parts: list[tuple[int, bool]], outer: int, inner: int) -> None:
    """Concatenation, doubling and flattening, with tensors whose entries say which channel they are."""
    maps, tensors, offset = [], [], 0
    for size, double in parts:
        channels = ChannelMap.identity(size)
        labels = torch.arange(offset, offset + size)
        tensor = torch.stack([labels, torch.zeros_like(labels)], 1)
        if double:
            channels = channels.doubled()
            tensor = torch.cat([tensor, torch.stack([labels, torch.ones_like(labels)], 1)])
        maps.append(channels)
        tensors.append(tensor)
        offset += size
    whole, tensor = ChannelMap.concatenated(maps), torch.cat(tensors)
    assert [list(map(int, entry)) for entry in whole.entries()] == tensor.tolist()
    assert ChannelMap.from_list(json.loads(json.dumps(whole.to_list()))) == whole
    assert [tensor[place].tolist() for place in whole.kept()] == [[c, 0] for c in range(offset)]
    # the elements of an original (outer, C, inner) tensor, numbered as a flatten sees them
    numbers = torch.arange(outer * offset * inner).reshape(outer, offset, inner)
    flat = numbers[:, tensor[:, 0]].flatten()
    extra = tensor[:, 1][None, :, None].expand(outer, -1, inner).flatten()
    merged = whole.merged(outer, inner)
    assert merged.sources() == flat.tolist()
    assert [int(e) for _, e in merged.entries()] == extra.tolist()
    start, size = 0, max(1, offset // 2)
    half = whole.part(start, size)
    assert [list(map(int, e)) for e in half.entries()] == [row for row in tensor.tolist() if row[0] < size]
