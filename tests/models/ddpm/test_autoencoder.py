"""Autoencoders of latent diffusion: names and numbers are those of the release, as diffusers reads
it."""

import pytest
import torch

from models.ddpm.autoencoder import Autoencoder, autoencoder_arguments

KL = {"channels": 32, "channel_mult": (1, 2), "num_res_blocks": 1, "z_channels": 4, "embed_dim": 4}
VQ = {"channels": 32, "channel_mult": (1, 2, 2), "num_res_blocks": 2, "attention": (2,),
      "z_channels": 3, "embed_dim": 3, "n_embed": 16}  # fmt: skip


def random(**arguments):
    torch.manual_seed(0)
    return Autoencoder(**arguments).eval()


def shapes(net):
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}


def test_names_of_the_release():
    names = set(shapes(random(**KL)))
    assert {
        "encoder.conv_in.weight", "encoder.down.0.block.0.norm1.weight",
        "encoder.down.0.downsample.conv.weight", "encoder.down.1.block.0.nin_shortcut.weight",
        "encoder.mid.block_1.conv1.weight", "encoder.mid.attn_1.q.weight",
        "encoder.norm_out.weight", "encoder.conv_out.weight", "decoder.conv_in.weight",
        "decoder.up.1.block.1.conv2.weight", "decoder.up.1.upsample.conv.weight",
        "decoder.up.0.block.0.nin_shortcut.weight", "decoder.conv_out.weight",
        "quant_conv.weight", "post_quant_conv.weight",
    } <= names  # fmt: skip
    assert "decoder.up.0.upsample.conv.weight" not in names
    assert "encoder.down.1.downsample.conv.weight" not in names
    assert {"quantize.embedding.weight", "encoder.down.2.attn.1.q.weight",
            "decoder.up.2.attn.2.proj_out.weight"} <= set(shapes(random(**VQ)))  # fmt: skip


@pytest.mark.parametrize("arguments", [KL, VQ], ids=["kl", "vq"])
def test_weights_say_what_they_are_of(arguments):
    net = random(**arguments)
    assert autoencoder_arguments(shapes(net)) == net.config
    broken = {k: v for k, v in shapes(net).items() if k != "post_quant_conv.weight"}
    with pytest.raises(ValueError, match="post_quant_conv.weight is missing"):
        autoencoder_arguments(broken)


def test_the_published_size():
    """Of kl-f8, which is Stable Diffusion's too: 83,653,863 parameters; on no memory."""
    with torch.device("meta"):
        kl = Autoencoder(channel_mult=(1, 2, 4, 4), z_channels=4, embed_dim=4)
    assert sum(p.numel() for p in kl.parameters()) == 83_653_863
    assert kl.factor == 8


def test_kl_is_what_diffusers_computes():
    diffusers = pytest.importorskip("diffusers")
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    net = random(**KL)
    theirs = diffusers.AutoencoderKL(
        block_out_channels=(32, 64), layers_per_block=1, latent_channels=4, norm_num_groups=32,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).eval()  # fmt: skip
    prefixed = {f"first_stage_model.{k}": v for k, v in net.state_dict().items()}
    converted = convert_ldm_vae_checkpoint(prefixed, theirs.config)
    theirs.load_state_dict(converted)
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    with torch.no_grad():
        posterior = theirs.encode(images).latent_dist
        mean, std = net.encode(images).chunk(2, 1)
        torch.testing.assert_close(mean, posterior.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(std, posterior.std, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(net.decode(mean), theirs.decode(mean).sample, rtol=1e-4,
                                   atol=1e-5)  # fmt: skip
    assert mean.shape == (2, 4, 8, 12) and mean.std() > 1e-3


def test_vq_decodes_the_nearest_of_its_table():
    net = random(**VQ)
    latents = torch.randn(2, 3, 4, 4)
    table = net.quantize.embedding.weight
    for b, i, j in ((0, 1, 2), (1, 3, 0)):
        distance = (table - latents[b, :, i, j]).square().sum(1)
        torch.testing.assert_close(net.quantize(latents)[b, :, i, j], table[distance.argmin()])
    with torch.no_grad():
        raw = net.encode(torch.rand(1, 3, 16, 16) * 2 - 1)
        assert raw.shape == (1, 3, 4, 4)
        assert torch.equal(net.decode(latents), net.decode(net.quantize(latents)))
