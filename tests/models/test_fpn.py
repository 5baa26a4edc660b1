"""The feature pyramid network against its definition with torch's own operators."""

import torch
import torch.nn.functional as F

from selectivemae.models.heads.fpn import FPN


def test_equals_the_definition_also_for_odd_sizes():
    torch.manual_seed(0)
    fpn = FPN([4, 6, 8, 10], width=5)
    maps = [torch.randn(2, c, h, w) for c, h, w in ((4, 25, 50), (6, 13, 25), (8, 7, 13), (10, 3, 6))]
    out = fpn(maps)
    lateral = [F.conv2d(m, c.weight, c.bias) for m, c in zip(maps, fpn.lateral, strict=True)]
    merged = lateral[3]
    for level in (3, 2, 1, 0):
        if level < 3:
            h, w = lateral[level].shape[-2:]
            rows = torch.arange(h) * merged.shape[-2] // h
            columns = torch.arange(w) * merged.shape[-1] // w
            merged = lateral[level] + merged[:, :, rows][:, :, :, columns]
        conv = fpn.output[level]
        assert torch.allclose(out[level], F.conv2d(merged, conv.weight, conv.bias, padding=1), atol=1e-5)
    assert torch.equal(out[4], out[3][:, :, ::2, ::2])
    assert all(p.abs().sum() == 0 for n, p in fpn.named_parameters() if n.endswith("bias"))
