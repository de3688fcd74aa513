"""Networks for masks with random weights, saved as their real folders are: plumbing, no quality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "the", "dog", *"abcdefghijklmnopqrstuvwxyz"]


def square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def sam3(folder: Path) -> Path:
    import transformers as t
    from tiny_latent import tokenizer

    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48}
    backbone = {
        **small, "num_hidden_layers": 2, "image_size": 56, "patch_size": 14, "window_size": 2,
        "global_attn_indexes": [1], "pretrain_image_size": 56, "model_type": "sam3_vit_model",
    }  # fmt: skip
    config = t.Sam3Config(
        vision_config={
            "backbone_config": backbone, "fpn_hidden_size": 32, "model_type": "sam3_vision_model",
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        text_config={
            **small, "vocab_size": 49408, "num_hidden_layers": 2, "max_position_embeddings": 32, "projection_dim": 32,
            "model_type": "clip_text_model", "eos_token_id": 49407, "bos_token_id": 49406, "pad_token_id": 49407,
        },
        geometry_encoder_config={**small, "num_layers": 1},
        detr_encoder_config={**small, "num_layers": 1},
        detr_decoder_config={**small, "num_layers": 2, "num_queries": 6},
        mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
    )  # fmt: skip
    t.Sam3Model(config).save_pretrained(folder)
    t.Sam3ImageProcessor(size={"height": 56, "width": 56}, mask_size={"height": 16, "width": 16}).save_pretrained(
        folder
    )
    tokenizer().save_pretrained(folder)
    return folder


def sam2(folder: Path) -> Path:
    import transformers as t

    torch.manual_seed(0)
    backbone = {
        "hidden_size": 16, "num_attention_heads": 1, "image_size": [64, 64], "patch_kernel_size": [7, 7],
        "patch_stride": [4, 4], "patch_padding": [3, 3], "query_stride": [2, 2], "num_query_pool_stages": 3,
        "window_positional_embedding_background_size": [4, 4], "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [16, 32, 64, 128], "num_attention_heads_per_stage": [1, 2, 2, 2],
        "window_size_per_stage": [8, 4, 14, 7], "global_attention_blocks": [3], "model_type": "sam2_hiera_det_model",
    }  # fmt: skip
    config = t.Sam2Config(
        vision_config={
            "backbone_config": backbone, "backbone_channel_list": [128, 64, 32, 16], "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]], "model_type": "sam2_vision_model",
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 64, "patch_size": 16},
        mask_decoder_config={
            "hidden_size": 32, "mlp_dim": 48, "num_attention_heads": 2, "iou_head_hidden_dim": 32,
        },
    )  # fmt: skip
    t.Sam2Model(config).save_pretrained(folder)
    t.Sam2ImageProcessor(size={"height": 64, "width": 64}, mask_size={"height": 16, "width": 16}).save_pretrained(
        folder
    )
    return folder


def grounding_dino(folder: Path) -> Path:
    import transformers as t

    torch.manual_seed(0)
    backbone = t.SwinConfig(
        image_size=64, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    text = t.BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=64,
    )  # fmt: skip
    config = t.GroundingDinoConfig(
        backbone_config=backbone, text_config=text, num_queries=8, encoder_layers=1, encoder_ffn_dim=48,
        encoder_attention_heads=2, decoder_layers=2, decoder_ffn_dim=48, decoder_attention_heads=2, d_model=32,
        max_text_len=32,
    )  # fmt: skip
    t.GroundingDinoForObjectDetection(config).save_pretrained(folder)
    t.GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    t.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def clipseg(folder: Path) -> Path:
    import transformers as t
    from tiny_latent import tokenizer

    torch.manual_seed(0)
    small: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
    }
    config = t.CLIPSegConfig(
        text_config={**small, "vocab_size": 49408, "eos_token_id": 49407, "bos_token_id": 49406, "pad_token_id": 49407},
        vision_config={**small, "image_size": 64, "patch_size": 16},
        projection_dim=32, extract_layers=[0, 1, 2], reduce_dim=16, decoder_intermediate_size=32,
    )  # fmt: skip
    t.CLIPSegForImageSegmentation(config).save_pretrained(folder)
    t.ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def vitmatte(folder: Path) -> Path:
    import transformers as t

    torch.manual_seed(0)
    backbone = t.VitDetConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=64, pretrain_image_size=32,
        patch_size=16, num_channels=4, window_block_indices=[0], out_features=["stage2"], residual_block_indices=[],
        use_relative_position_embeddings=True, window_size=4,
    )  # fmt: skip
    config = t.VitMatteConfig(
        backbone_config=backbone, hidden_size=32, convstream_hidden_sizes=[8, 8, 8], fusion_hidden_sizes=[16, 16, 8, 8]
    )
    t.VitMatteForImageMatting(config).save_pretrained(folder)
    t.VitMatteImageProcessor().save_pretrained(folder)
    return folder
