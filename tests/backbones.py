"""The networks of the coverage sweep: every CNN of torchvision, and each CNN family of timm by its small members."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

TIMM = [
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet10t",
    "resnet26d",
    "resnetblur18",
    "resnetaa34d",
    "seresnet18",
    "ecaresnet26t",
    "resnext26ts",
    "seresnext26d_32x4d",
    "gcresnext26ts",
    "wide_resnet50_2",
    "resnetrs50",
    "ecaresnetlight",
    "test_resnet",
    "resnetv2_18",
    "resnetv2_34d",
    "resnetv2_50d_evos",
    "resnetv2_50d_frn",
    "resnetv2_50d_gn",
    "legacy_seresnet18",
    "legacy_seresnext26_32x4d",
    "legacy_senet154",
    "vgg11",
    "vgg11_bn",
    "vgg16_bn",
    "densenet121",
    "densenetblur121d",
    "dla34",
    "dla46_c",
    "dla46x_c",
    "dla60_res2net",
    "dla60_res2next",
    "dpn48b",
    "dpn68",
    "dpn68b",
    "res2net50_14w_8s",
    "res2next50",
    "res2net50d",
    "regnetx_002",
    "regnety_002",
    "regnetv_040",
    "regnetz_005",
    "regnetz_040",
    "regnetz_b16",
    "regnety_004",
    "mobilenetv2_050",
    "mobilenetv2_110d",
    "mobilenetv3_small_050",
    "mobilenetv3_large_075",
    "mobilenetv4_conv_small_035",
    "mobilenetv4_hybrid_medium",
    "mobilenetv5_base",
    "mobilenet_edgetpu_100",
    "mobilenet_edgetpu_v2_xs",
    "mobilenetv1_100",
    "lcnet_050",
    "lcnetv2_small",
    "fbnetc_100",
    "fbnetv3_b",
    "mnasnet_small",
    "semnasnet_050",
    "spnasnet_100",
    "efficientnet_b0",
    "efficientnet_es",
    "efficientnet_lite0",
    "efficientnet_cc_b0_4e",
    "efficientnet_b0_g8_gn",
    "efficientnetv2_rw_t",
    "tf_efficientnetv2_b0",
    "tf_efficientnet_b0",
    "test_efficientnet_evos",
    "mixnet_s",
    "tf_mixnet_s",
    "tinynet_e",
    "efficientnet_b3_gn",
    "efficientnet_x_b3",
    "ghostnet_050",
    "ghostnetv2_100",
    "ghostnetv3_050",
    "hardcorenas_a",
    "convnext_atto",
    "convnext_tiny",
    "convnext_femto_ols",
    "convnextv2_atto",
    "convnextv2_tiny",
    "convnext_zepto_rms",
    "repvgg_a0",
    "repghostnet_050",
    "mobileone_s0",
    "mobileone_s1",
    "gernet_s",
    "cspresnet50",
    "cspresnext50",
    "cspdarknet53",
    "darknet17",
    "darknet53",
    "cs3darknet_focus_s",
    "cs3sedarknet_l",
    "cs3edgenet_x",
    "sedarknet21",
    "cspnext_tiny",
    "ese_vovnet19b_slim_dw",
    "ese_vovnet19b_slim",
    "eca_vovnet39b",
    "vovnet39a",
    "hrnet_w18_small",
    "hrnet_w18_ssld",
    "hgnetv2_b0",
    "hgnet_tiny",
    "hgnetv2_b3",
    "inception_v3",
    "inception_v4",
    "inception_resnet_v2",
    "legacy_xception",
    "xception41",
    "xception41p",
    "nasnetalarge",
    "pnasnet5large",
    "inception_next_atto",
    "dm_nfnet_f0",
    "nfnet_l0",
    "eca_nfnet_l0",
    "nf_resnet26",
    "nf_regnet_b0",
    "nf_ecaresnet26",
    "nf_seresnet26",
    "test_nfnet",
    "rexnet_100",
    "rexnetr_100",
    "selecsls42",
    "selecsls42b",
    "skresnet18",
    "skresnet34",
    "skresnext50_32x4d",
    "resnest14d",
    "resnest50d_4s2x40d",
    "tresnet_m",
    "tresnet_v2_l",
    "edgenext_xx_small",
    "edgenext_small_rw",
    "fastvit_t8",
    "fastvit_mci0",
    "starnet_s050",
    "starnet_s1",
    "repvit_m1",
    "repvit_m0_9",
    "halonet_h1",
    "eca_botnext26ts_256",
    "eca_halonext26ts",
    "lambda_resnet26t",
    "bat_resnext26ts",
    "gcresnet33ts",
    "seresnet33ts",
    "mobilevit_xxs",
    "mobilevitv2_050",
    "fasternet_t0",
    "mambaout_femto",
    "test_mambaout",
    "rdnet_tiny",
    "convmixer_768_32",
    "poolformer_s12",
    "poolformerv2_s12",
    "convformer_s18",
    "caformer_s18",
    "efficientformer_l1",
    "efficientformerv2_s0",
    "efficientvit_b0",
    "efficientvit_l1",
    "efficientvit_m0",
    "focalnet_tiny_srf",
    "levit_128s",
    "levit_conv_128s",
    "coatnet_nano_rw_224",
    "test_coatnet",
    "coatnext_nano_rw_224",
    "nextvit_small",
    "swiftformer_xs",
    "shvit_s1",
    "iformer_t",
    "lowformer_b0",
    "visformer_tiny",
    "tiny_vit_5m_224",
]

TORCHVISION_FAMILIES_LEFT_OUT = ("vit_", "swin", "maxvit")

SAMPLE = [
    "timm:resnet18",
    "timm:vgg11_bn",
    "timm:mobilenetv2_050",
    "timm:mobilenetv3_small_050",
    "timm:efficientnet_b0",
    "timm:convnext_atto",
    "timm:densenet121",
    "timm:regnetx_002",
    "timm:dla46_c",
    "timm:res2next50",
    "timm:hrnet_w18_small",
    "timm:ghostnet_050",
    "timm:mobileone_s0",
    "timm:repvgg_a0",
    "timm:nf_regnet_b0",
    "timm:test_nfnet",
    "timm:rexnet_100",
    "timm:skresnet18",
    "timm:resnest14d",
    "timm:starnet_s050",
    "timm:repvit_m1",
    "timm:mobilevitv2_050",
    "timm:test_mambaout",
    "timm:poolformer_s12",
    "timm:legacy_seresnet18",
    "torchvision:resnet18",
    "torchvision:googlenet",
    "torchvision:squeezenet1_1",
    "torchvision:shufflenet_v2_x0_5",
    "torchvision:mobilenet_v3_small",
]


def torchvision_names() -> list[str]:
    """torchvision's 68 classification CNNs."""
    from torchvision import models

    listed: list[str] = models.list_models(module=models)
    return [name for name in listed if not name.startswith(TORCHVISION_FAMILIES_LEFT_OUT)]


def sweep_names() -> list[str]:
    """Every network of the sweep that the installed timm and torchvision have, as `library:name`."""
    import timm

    known = set(timm.list_models())
    return [f"timm:{name}" for name in TIMM if name in known] + [
        f"torchvision:{n}" for n in torchvision_names()
    ]


def make(source: str, device: str = "meta", **arguments: Any) -> nn.Module:
    """The network, without pretrained weights."""
    library, name = source.split(":")
    if library == "timm":
        import timm

        with torch.device(device):
            model: nn.Module = timm.create_model(name, **arguments)
        return model
    from torchvision import models

    if name in ("googlenet", "inception_v3"):
        arguments.setdefault("init_weights", False)
    if name.startswith("regnet"):  # its constructor reads numbers
        network: nn.Module = models.get_model(name, weights=None, **arguments)
        return network.to(device)
    with torch.device(device):
        network = models.get_model(name, weights=None, **arguments)
    return network


def size_of(source: str, model: nn.Module) -> tuple[int, int, int]:
    """The input size that the network was made for."""
    config = getattr(model, "default_cfg", None)
    if config is not None:
        channels, height, width = config["input_size"]
        return (channels, height, width)
    return (3, 299, 299) if source == "torchvision:inception_v3" else (3, 224, 224)
