"""Where the stages of known networks end, read from the definitions of the architectures.

The rule: the last block at each resolution, without the stem, the layers between stages, and the layers after the last block.
In networks of one resolution, the blocks at a quarter, half, three quarters and the end of the depth.
"""

from __future__ import annotations

from transformers.models.vit import modeling_vit


def numbered(path: str, *numbers: int) -> tuple[str, ...]:
    """Return ``path`` with each number at the place of the braces."""
    return tuple(path.format(number) for number in numbers)


FLAT = not hasattr(
    modeling_vit, "ViTEncoder"
)  # vision transformers of older releases have an encoder around their layers
_FOUR = numbered("stages.{}", 0, 1, 2, 3)
_THREE = numbered("stages.{}", 0, 1, 2)
_RESNET = numbered("layer{}", 1, 2, 3, 4)
_TWELVE = numbered("blocks.{}", 2, 5, 8, 11)
_MOBILE = numbered("blocks.{}", 0, 1, 2, 4, 6)

TIMM = {
    "resnet18": _RESNET,
    "resnest14d": _RESNET,
    "skresnet18": _RESNET,
    "legacy_seresnet18": _RESNET,
    "resnetv2_18": _FOUR,
    "regnetx_002": numbered("s{}", 1, 2, 3, 4),
    "densenet121": numbered("features.denseblock{}", 1, 2, 3, 4),
    "dla46_c": numbered("level{}", 2, 3, 4, 5),
    "ese_vovnet19b_dw": _FOUR,
    "cs3darknet_focus_s": _FOUR,
    "hgnetv2_b0": _FOUR,
    "selecsls42b": numbered("features.{}.conv6", 1, 3, 5),
    "hrnet_w18_small": numbered("incre_modules.{}", 0, 1, 2, 3),
    "mobilenetv2_100": _MOBILE,
    "efficientnet_b0": _MOBILE,
    "mobilenetv3_small_100": numbered("blocks.{}", 0, 1, 3, 4),
    "mobilenetv4_conv_small": numbered("blocks.{}", 0, 1, 2, 3),
    "ghostnet_100": numbered("blocks.{}", 0, 2, 4, 6, 8),
    "rexnet_100": numbered("features.{}", 0, 2, 4, 10, 15),
    "mobileone_s0": _FOUR,
    "repvit_m0_9": _FOUR,
    "starnet_s050": _FOUR,
    "convnext_atto": _FOUR,
    "inception_next_atto": _FOUR,
    "mambaout_femto": _FOUR,
    "edgenext_xx_small": _FOUR,
    "fastvit_t8": _FOUR,
    "efficientformerv2_s0": _FOUR,
    "swiftformer_xs": _FOUR,
    "poolformer_s12": _FOUR,
    "mobilevit_xxs": numbered("stages.{}", 0, 1, 2, 3, 4),
    "coatnet_pico_rw_224": _FOUR,
    "efficientvit_b0": _FOUR,
    "efficientvit_m0": _THREE,
    "shvit_s1": _THREE,
    "levit_128s": _THREE,
    "visformer_tiny": numbered("stage{}", 1, 2, 3),
    "pit_ti_224": numbered("transformers.{}", 0, 1, 2),
    "nest_tiny_jx": numbered("levels.{}", 0, 1, 2),
    "swin_tiny_patch4_window7_224": numbered("layers.{}", 0, 1, 2, 3),
    "swinv2_tiny_window8_256": numbered("layers.{}", 0, 1, 2, 3),
    "tiny_vit_5m_224": _FOUR,
    "gcvit_xxtiny": _FOUR,
    "mvitv2_tiny": _FOUR,
    "hiera_tiny_224": numbered("blocks.{}", 0, 2, 9, 11),
    "pvt_v2_b0": _FOUR,
    "twins_svt_small": ("blocks.0.1", "blocks.1.1", "blocks.2.9", "blocks.3.3"),
    "coat_lite_tiny": numbered("serial_blocks{}.1", 1, 2, 3, 4),
    "vit_tiny_patch16_224": _TWELVE,
    "deit_tiny_patch16_224": _TWELVE,
    "convit_tiny": _TWELVE,
    "eva02_tiny_patch14_224": _TWELVE,
    "xcit_nano_12_p16_224": _TWELVE,
    "cait_xxs24_224": numbered("blocks.{}", 5, 11, 17, 23),
    "resmlp_12_224": _TWELVE,
    "mixer_s32_224": numbered("blocks.{}", 1, 3, 5, 7),
    "gmlp_ti16_224": numbered("blocks.{}", 7, 14, 22, 29),
}

TORCHVISION = {
    "resnet18": _RESNET,
    "mobilenet_v2": numbered("features.{}", 1, 3, 6, 13, 17),
    "mobilenet_v3_small": numbered("features.{}", 1, 3, 8, 11),
    "efficientnet_b0": numbered("features.{}", 1, 2, 3, 5, 7),
    "mnasnet0_5": numbered("layers.{}", 8, 9, 11, 13),
    "shufflenet_v2_x0_5": ("stage2", "stage3", "stage4"),
    "squeezenet1_1": numbered("features.{}", 4, 7, 12),
    "googlenet": ("inception3b", "inception4e", "inception5b"),
    "regnet_y_400mf": numbered("trunk_output.block{}", 1, 2, 3, 4),
    "densenet121": numbered("features.denseblock{}", 1, 2, 3, 4),
    "convnext_tiny": numbered("features.{}", 1, 3, 5, 7),
    "swin_t": numbered("features.{}", 1, 3, 5, 7),
    "vgg11": numbered("features.{}", 1, 4, 9, 14, 19),
}

HUGGING_FACE = {  # of the small configs in `networks.py`
    "bert": numbered("bert.encoder.layer.{}", 0, 1, 2, 3),
    "distilbert": numbered("distilbert.transformer.layer.{}", 0, 1),
    "albert": numbered("albert.encoder.albert_layer_groups.0.albert_layers.0#{}", 0, 1, 2, 3),
    "gpt2": numbered("transformer.h.{}", 0, 1, 2, 3),
    "t5": (*numbered("encoder.block.{}", 0, 1), *numbered("decoder.block.{}", 0, 1)),
    "bart": (*numbered("model.encoder.layers.{}", 0, 1), *numbered("model.decoder.layers.{}", 0, 1)),
    "vit": numbered("vit.layers.{}" if FLAT else "vit.encoder.layer.{}", 0, 1, 2, 3),
    "swin": ("swin.encoder.layers.0.blocks.1", "swin.encoder.layers.1.blocks.1"),
    "convnext": numbered("convnext.encoder.stages.{}", 0, 1, 2, 3),
    "resnet": numbered("resnet.encoder.stages.{}", 0, 1, 2, 3),
    "segformer": numbered("segformer.stages.{}.blocks.1" if FLAT else "segformer.encoder.block.{}.1", 0, 1, 2, 3),
    "mobilenet_v2": numbered("mobilenet_v2.layer.{}", 1, 4, 11, 15),
    "wav2vec2": numbered("wav2vec2.encoder.layers.{}", 0, 1, 2, 3),
}

# Written after the search was, and compared with it once.

LATER_TIMM = {
    "dpn48b": ("features.conv2_3", "features.conv3_4", "features.conv4_6", "features.conv5_3"),
    "res2net50_14w_8s": _RESNET,
    "tresnet_m": numbered("body.layer{}", 1, 2, 3, 4),
    "eca_botnext26ts_256": _FOUR,
    "nf_regnet_b0": _FOUR,
    "inception_v3": ("Mixed_5d", "Mixed_6e", "Mixed_7c"),
    "lcnet_050": numbered("blocks.{}", 0, 1, 2, 4, 5),
    "mixnet_s": numbered("blocks.{}", 0, 1, 2, 4, 5),
    "repghostnet_050": numbered("blocks.{}", 0, 2, 4, 6, 8),
    "rdnet_tiny": numbered("dense_stages.{}", 0, 1, 5, 6),
    "efficientformer_l1": _FOUR,
    "focalnet_tiny_srf": numbered("layers.{}", 0, 1, 2, 3),
    "davit_tiny": _FOUR,
    "nextvit_small": _FOUR,
    "swinv2_cr_tiny_ns_224": _FOUR,
    "volo_d1_224": ("network.0.3", "network.4.1"),
    "tnt_s_legacy_patch16_224": _TWELVE,
    "vit_srelpos_small_patch16_224": _TWELVE,
    "convmixer_768_32": numbered("blocks.{}", 7, 15, 23, 31),
    "sequencer2d_s": numbered("stages.{}", 0, 3),
}

LATER_TORCHVISION = {
    "resnext50_32x4d": _RESNET,
    "mobilenet_v3_large": numbered("features.{}", 1, 3, 6, 12, 15),
    "efficientnet_v2_s": numbered("features.{}", 1, 2, 3, 5, 6),
    "swin_v2_t": numbered("features.{}", 1, 3, 5, 7),
    "alexnet": numbered("features.{}", 1, 4, 11),
}

LATER_HUGGING_FACE = {
    "roberta": numbered("roberta.encoder.layer.{}", 0, 1, 2, 3),
    "electra": numbered("electra.encoder.layer.{}", 0, 1, 2, 3),
    "llama": numbered("model.layers.{}", 0, 1, 2, 3),
    "opt": numbered("model.decoder.layers.{}", 0, 1, 2, 3),
    "mamba": numbered("backbone.layers.{}", 0, 1, 2, 3),
    "regnet": numbered("regnet.encoder.stages.{}", 0, 1, 2, 3),
    "whisper": (*numbered("model.encoder.layers.{}", 0, 1), *numbered("model.decoder.layers.{}", 0, 1)),
}
