"""The reference's network, loss and optimiser in plain PyTorch, for `torch_peer.py`.

Jiang et al., "Rethinking Temporal Fusion for Video-based Person Re-identification on Semantic and
Time Aspect" (AAAI 2020), computed as its published code does: T slots a tracklet, padded ones pass
through the backbone, all T x T pairs are concatenated, frames are embedded once for each attention.
Its tensors' names, so that a state dict of either is the other's. ResNet as torchvision's
(He et al., CVPR 2016; stride in the 3x3 convolution), with stride 1 in the last stage.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

# name -> (bottleneck blocks?, blocks per stage)
BACKBONES = {
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
}
STAGES = (2, 4)


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without bias that keeps the size, but for its stride."""
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or 1x1, 3x3 and 1x1 if `bottleneck`."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        outputs = 4 * width if bottleneck else width
        if bottleneck:
            self.conv1, self.conv2 = conv(inputs, width, 1), conv(width, width, 3, stride)
            self.conv3, self.bn3 = conv(width, outputs, 1), nn.BatchNorm2d(outputs)
        else:
            self.conv1, self.conv2 = conv(inputs, width, 3, stride), conv(width, width, 3)
            self.conv3 = None
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            shortcut = conv(inputs, outputs, 1, stride)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, h, w] -> [N, outputs, h / stride, w / stride]."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.conv3 is not None:
            y = self.bn3(self.conv3(torch.relu(y)))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """The four stages of a ResNet."""

    def __init__(self, backbone: str) -> None:
        super().__init__()
        bottleneck, counts = BACKBONES[backbone]
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        inputs = 64
        stages = []
        for width, count, stride in zip((64, 128, 256, 512), counts, (1, 2, 2, 1), strict=True):
            blocks = []
            for i in range(count):
                blocks.append(Block(inputs, width, stride if i == 0 else 1, bottleneck))
                inputs = 4 * width if bottleneck else width
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.channels = inputs

    def stem(self, x: Tensor) -> Tensor:
        """Pixels [N, 3, H, W] -> what the first stage takes, [N, 64, H / 4, W / 4]."""
        return functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)

    def stage(self, number: int, x: Tensor) -> Tensor:
        """Apply stage 1, 2, 3 or 4."""
        return (self.layer1, self.layer2, self.layer3, self.layer4)[number - 1](x)


class Output(NamedTuple):
    """Of B tracklets of T slots; S stripes, C channels, K classes."""

    features: Tensor  # [B, S, C]
    logits: Tensor  # [B, S, K]
    intra: Tensor  # [B, T], each sums to 1 over the real frames
    inter: Tensor


class TemporalFusion(nn.Module):
    """The reference's network: stages 2 and 4, intra- and inter-frame attention, a classifier."""

    def __init__(
        self, backbone: str, embed_dim: int, num_classes: int, num_stripes: int = 1
    ) -> None:
        super().__init__()
        self.base = ResNet(backbone)
        self.local_conv_list = nn.ModuleList(
            nn.Sequential(nn.Conv2d(self.base.channels, embed_dim, 1), nn.BatchNorm2d(embed_dim))
            for _ in range(num_stripes)
        )
        frame = num_stripes * embed_dim  # numbers that describe a frame
        self.temporal_conv = nn.Sequential(nn.Conv1d(frame, 1, 1), nn.BatchNorm1d(1))
        layers: list[nn.Module] = []
        for inputs, outputs in ((2 * frame, 768), (768, 512), (512, 512), (512, 512)):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.relation_g = nn.Sequential(*layers)
        self.relation_f = nn.Sequential(nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 1))
        self.fc_list = nn.ModuleList(nn.Linear(embed_dim, num_classes) for _ in range(num_stripes))
        for module in self.base.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        for name, parameter in self.fc_list.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(parameter, std=0.001)
            else:
                nn.init.zeros_(parameter)

    def embed(self, maps: Tensor) -> Tensor:
        """Maps [N, channels, h, w] -> [N, S, C]: each stripe's mean, a linear layer, BatchNorm."""
        rows = maps.shape[2] // len(self.local_conv_list)
        parts = []
        for s, layer in enumerate(self.local_conv_list):
            pooled = functional.adaptive_avg_pool2d(maps[:, :, s * rows : (s + 1) * rows], 1)
            parts.append(layer(pooled).flatten(1))
        return torch.stack(parts, 1)

    def intra_frame(self, x: Tensor) -> Tensor:
        """Descriptors [B, T, SC] -> raw weights [B, T], each from its own frame."""
        return torch.sigmoid(torch.relu(self.temporal_conv(x.transpose(1, 2))[:, 0]))

    def inter_frame(self, x: Tensor) -> Tensor:
        """Descriptors [B, T, SC] -> raw weights [B, T], each from its relations to all T slots."""
        t = x.shape[1]
        of_j = x[:, None].expand(-1, t, -1, -1)
        of_i = x[:, :, None].expand(-1, -1, t, -1)
        pairs = self.relation_g(torch.cat([of_j, of_i], -1))  # [B, i, j, 512]
        return torch.sigmoid(torch.relu(self.relation_f(pairs.sum(2))[..., 0]))

    def forward(self, frames: Tensor, mask: Tensor) -> Output:
        """Apply to frames [B * T, 3, H, W], padded ones zero, and mask [B, T], 1 for real ones."""
        b, t = mask.shape
        maps = []
        x = self.base.stem(frames)
        for number in (1, 2, 3, 4):
            x = self.base.stage(number, x)
            maps.append(x)

        last = maps[3] * mask.to(maps[3].dtype).reshape(b * t, 1, 1, 1)
        intra = normalise(self.intra_frame(self.embed(last).reshape(b, t, -1)), mask)
        inter = normalise(self.inter_frame(self.embed(last).reshape(b, t, -1)), mask)
        weights = (intra + inter) / 2

        parts = []
        for stage in STAGES:
            of_tracklet = maps[stage - 1].unflatten(0, (b, t))
            scale = weights.to(of_tracklet.dtype)[:, :, None, None, None]
            fused = (of_tracklet * scale).sum(1)
            for number in range(stage + 1, 5):
                fused = self.base.stage(number, fused)
            parts.append(self.embed(fused))
        features = torch.stack(parts).mean(0)
        logits = torch.stack([fc(features[:, s]) for s, fc in enumerate(self.fc_list)], 1)
        return Output(features, logits, intra, inter)


def normalise(raw: Tensor, mask: Tensor) -> Tensor:
    """Weights [B, T] of the real frames, summing to 1 over them."""
    raw = raw * mask
    return raw / raw.sum(1, keepdim=True)


def smoothed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy with label smoothing 0.1, summed over stripes, mean over the batch."""
    stripes = logits.unbind(1)
    losses = [functional.cross_entropy(each, labels, label_smoothing=0.1) for each in stripes]
    return torch.stack(losses).sum()


def make_optimiser(
    model: TemporalFusion, base: float = 1e-4, new: float = 1e-4, classifier: float = 1e-3
) -> torch.optim.SGD:
    """Nesterov SGD, momentum 0.9, weight decay 5e-4 on everything; three learning rates."""
    rates = {"base": base, "fc_list": classifier}
    groups = [
        {"params": list(part.parameters()), "lr": rates.get(name, new)}
        for name, part in model.named_children()
    ]
    return torch.optim.SGD(groups, lr=new, momentum=0.9, nesterov=True, weight_decay=5e-4)
