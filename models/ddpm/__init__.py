"""Networks of DDPM and of layout-conditioned diffusion."""

from models.ddpm.base import BlockSequence, ConditionBlock, EmbedBlock
from models.ddpm.blocks import AttentionBlock, ResBlock
from models.ddpm.layout import LAYOUT_ATTENTION, LayoutAttention
from models.ddpm.regions import Layout
from models.ddpm.registry import ATTN_BLOCKS, RES_BLOCKS
from models.ddpm.transformer import SpatialTransformer
from models.ddpm.unet import UNet

__all__ = [
    "ATTN_BLOCKS",
    "LAYOUT_ATTENTION",
    "RES_BLOCKS",
    "AttentionBlock",
    "BlockSequence",
    "ConditionBlock",
    "EmbedBlock",
    "Layout",
    "LayoutAttention",
    "ResBlock",
    "SpatialTransformer",
    "UNet",
]
