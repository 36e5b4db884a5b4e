"""The shape of the tiny model: the family's architecture, with every part of it (experts, DeepStack, M-RoPE) in use."""

from transformers import PreTrainedTokenizerFast, Qwen3VLMoeConfig

from harness.tiny_model import tokenizer as tokens

CONTEXT = 32768
MEAN = STD = [0.5, 0.5, 0.5]

PREPROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessorFast",
    "processor_class": "Qwen3VLProcessor",
    "size": {"shortest_edge": 65536, "longest_edge": 16777216},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": MEAN,
    "image_std": STD,
}
VIDEO_PREPROCESSOR = PREPROCESSOR | {
    "image_processor_type": None,
    "video_processor_type": "Qwen3VLVideoProcessor",
    "size": {"shortest_edge": 4096, "longest_edge": 25165824},
}
GENERATION = {"do_sample": False}


def build_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3VLMoeConfig:
    """Four layers on either side, two DeepStack taps, eight experts of which two serve a token."""
    token = tokenizer.convert_tokens_to_ids
    return Qwen3VLMoeConfig(
        architectures=["Qwen3VLMoeForConditionalGeneration"],
        text_config={
            "vocab_size": tokens.VOCABULARY,
            "hidden_size": 128,
            "intermediate_size": 256,
            "moe_intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "max_position_embeddings": CONTEXT,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
            "tie_word_embeddings": False,
            "eos_token_id": token(tokens.END_OF_TURN),
            "pad_token_id": token(tokens.END_OF_TEXT),
        },
        vision_config={
            "depth": 4,
            "hidden_size": 128,
            "num_heads": 4,
            "intermediate_size": 256,
            "out_hidden_size": 128,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [1, 2],
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=token(tokens.PICTURE),
        video_token_id=token(tokens.VIDEO),
        vision_start_token_id=token(tokens.VISION_START),
        vision_end_token_id=token(tokens.VISION_END),
        eos_token_id=token(tokens.END_OF_TURN),
        pad_token_id=token(tokens.END_OF_TEXT),
        tie_word_embeddings=False,
    )
