"""Sites of torchvision's VisionTransformer, SwinTransformer (v1 and v2) and MaxVit."""

from torch import nn
from torchvision.models.maxvit import PartitionAttentionLayer
from torchvision.models.swin_transformer import SwinTransformerBlock, SwinTransformerBlockV2
from torchvision.models.vision_transformer import VisionTransformer

from tapadl.attach.convolution import convolutions_in, convolved_grid
from tapadl.attach.site import MeasuredGrid, Site

CUT_INTO_WINDOWS = (
    "torchvision's MaxVit cuts the map into windows before the residual branches off, which leaves no map "
    "to pool in front of the norm; timm's MaxxVit takes TAP"
)


def sites(part: nn.Module) -> list[Site]:
    """The sites of a torchvision model, or of a part of one; none where it is not known."""
    if isinstance(part, VisionTransformer):
        # A convolutional stem shows the grid at its end.
        grid = MeasuredGrid(convolutions_in(part.conv_proj)[-1], convolved_grid)
        return [
            Site(block, block.self_attention, block.ln_1, num_prefix_tokens=1, grid=grid)
            for block in part.encoder.layers
        ]
    if isinstance(part, SwinTransformerBlock):
        # In v2 the norm comes after the attention, which cuts the windows itself in both.
        norm = part.attn if isinstance(part, SwinTransformerBlockV2) else part.norm1
        return [Site(part, part.attn, norm, num_prefix_tokens=0, grid="NHWC")]
    if isinstance(part, PartitionAttentionLayer):
        norm, attention = part.attn_layer[0], part.attn_layer[1]
        return [Site(part, attention, norm, 0, "NHWC", refuses_tap=CUT_INTO_WINDOWS)]
    return []
