"""From a picture with a hole to the picture without it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selfsup.ops.holes import smooth_fill


def maps_and_vector(network: nn.Module, pictures: Tensor) -> tuple[list[Tensor], Tensor]:
    """What a timm network knows of each place, coarsest first, and of the whole picture.

    Args:
        network: of timm.
        pictures: (B, C, S, S) normalized.

    Returns:
        One map (B, D_i, h_i, h_i) of each resolution that it has, the last at that; and its vector (B, D).
    """
    features, maps = network.forward_intermediates(pictures)  # type: ignore[operator]
    last = {one.shape[2]: one for one in maps}
    return [last[edge] for edge in sorted(last)], network.forward_head(features)  # type: ignore[operator]


class FillingDecoder(nn.Module):
    """From what an encoder knows of a picture to what is missing in it, told as a change of the smooth filling.

    Convolutions, each at twice the resolution of the one before (Pathak et al. 2016, section 3.1), with what the
    encoder knows at that resolution beside them (Ronneberger et al. 2015, "U-Net"); the vector of the whole picture
    stands in for Pathak's fully connected layer, by which every place knows of every other.

    Args:
        maps: (channels, edge) of the encoder's maps, coarsest first.
        vector: D of the vector.
        inner: channels at the coarsest map; each finer one has half as many, but 16 at least.
        size: edge of the pictures.
        channels: of the pictures.
    """

    def __init__(self, maps: list[tuple[int, int]], vector: int, inner: int, size: int, channels: int) -> None:
        super().__init__()
        (width, edge), *finer = maps
        self.enter, self.whole = nn.Conv2d(width, inner, 1), nn.Linear(vector, inner)
        beside = {side: width for width, side in finer}
        self.edges, self.grow = [], nn.ModuleList()
        while edge < size:
            edge, before, inner = min(2 * edge, size), inner, max(inner // 2, 16)
            self.edges.append(edge)
            self.grow.append(nn.Conv2d(before + beside.get(edge, 0), inner, 3, padding=1))
        self.blend = nn.Conv2d(inner + channels + 1, 16, 3, padding=1)
        self.leave = nn.Conv2d(16, channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)  # at the beginning the smooth filling is the answer
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor], vector: Tensor, smooth: Tensor, hole: Tensor) -> Tensor:
        """(B, C, S, S): what is added to the smooth filling (B, C, S, S) where the hole (B, 1, S, S) is."""
        x = F.relu(self.enter(maps[0]) + self.whole(vector)[:, :, None, None])
        beside = {one.shape[2]: one for one in maps[1:]}
        for edge, layer in zip(self.edges, self.grow, strict=True):
            x = F.interpolate(x, (edge, edge))
            x = F.relu(layer(torch.cat([x, beside[edge]], 1) if edge in beside else x))
        return self.leave(F.relu(self.blend(torch.cat([x, smooth.to(x.dtype), hole.to(x.dtype)], 1))))


class FillingNetwork(nn.Module):
    """Encoder and decoder, from a normalized picture with a hole to the whole picture.

    The encoder sees the mean color in the hole (Pathak et al. 2016, section 3.3).

    Args:
        backbone: a timm network.
        inner: channels of the decoder.
        size: edge of the pictures.
        channels: of the pictures.
    """

    def __init__(self, backbone: nn.Module, inner: int, size: int, channels: int) -> None:
        super().__init__()
        training = backbone.training
        with torch.no_grad():
            maps, vector = maps_and_vector(backbone.eval(), torch.zeros(1, channels, size, size))
        self.backbone = backbone.train(training)
        shapes = [(one.shape[1], one.shape[2]) for one in maps]
        decoder = FillingDecoder(shapes, vector.shape[1], inner, size, channels)
        self.decoder = decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, pictures: Tensor, hole: Tensor) -> Tensor:
        """(B, C, S, S) normalized and (B, 1, S, S) bool to (B, C, S, S), filled where the hole is."""
        return self.paint(pictures, hole, smooth_fill(pictures, hole))

    def paint(self, pictures: Tensor, hole: Tensor, smooth: Tensor) -> Tensor:
        """The same, for who has the smooth filling (B, C, S, S) already."""
        maps, vector = maps_and_vector(self.backbone, torch.where(hole, 0.0, pictures))
        return torch.where(hole, smooth + self.decoder(maps, vector, smooth, hole), pictures)
