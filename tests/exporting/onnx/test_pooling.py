import torch
from torch import nn

import lissom
from lissom.running.plan import one_target


class ChannelsLast(nn.Module):
    """A mean over images that lie in memory with their channels last, as ConvNeXt's do."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.fc = nn.Linear(8, 8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.norm = nn.LayerNorm(8)

    def forward(self, x):
        x = self.fc(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.norm(self.pool(x).flatten(1))


def test_a_mean_over_channels_last_is_a_mean_in_the_file(tmp_path):
    import onnx

    torch.manual_seed(0)
    model = ChannelsLast().eval()
    x = torch.randn(3, 3, 8, 8)
    path = tmp_path / "model.onnx"
    lissom.export(model, "onnxruntime", path, (3, 8, 8))
    kinds = {node.op_type for node in onnx.load(str(path)).graph.node}
    assert not kinds & {"Gather", "GatherND"}  # of single values, where code sets strides
    answers = one_target("onnxruntime").load(path, 1)([x.numpy()])[0]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(answers), model(x), atol=1e-5, rtol=0)
