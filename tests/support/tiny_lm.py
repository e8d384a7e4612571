"""Tiny random models whose prompts are read by a language model: Flux.2, HunyuanVideo, Lumina 2, HiDream, Sana."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLHunyuanVideo,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    HiDreamImagePipeline,
    HiDreamImageTransformer2DModel,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
)
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
)

from tests.support.tiny import VAE, WORDS
from tests.support.tiny_dit import _filled, _vae
from tests.support.tiny_texts import (
    CHAT,
    TEXT,
    clip_config,
    clip_tokenizer,
    qwen_fields,
    qwen_tokenizer,
    rope,
    t5_config,
    t5_tokenizer,
)

#: a conversation whose messages are lists of parts
_PARTS = "{% for m in messages %}{{ m.role }} {% for c in m.content %}{{ c.text }} {% endfor %}{% endfor %}"


def tiny_flux2(folder: Path, seed: int = 0) -> Any:
    """Flux.2 dev: its text is three layers of Mistral 3, the thirtieth among them."""
    torch.manual_seed(seed)
    tokenizer = _word_tokenizer()
    tokenizer.chat_template = _PARTS
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 30,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "model_type": "mistral",
    }
    eyes = {
        "model_type": "pixtral",
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = Mistral3Config(text_config=text, vision_config=eyes, spatial_merge_size=1)
    return Flux2Pipeline(
        transformer=_flux2_transformer(3 * 16, guided=True),
        text_encoder=Mistral3ForConditionalGeneration(config),
        tokenizer=tokenizer,
        vae=_flux2_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )


def tiny_flux2_klein(folder: Path, seed: int = 0) -> Any:
    """Flux.2 klein: Qwen 3 reads the prompt, and a negative one beside it."""
    torch.manual_seed(seed)
    tokenizer = qwen_tokenizer()
    tokenizer.chat_template = CHAT
    fields = {**qwen_fields(tokenizer), "num_hidden_layers": 27, "hidden_size": 16, "intermediate_size": 16}
    return Flux2KleinPipeline(
        transformer=_flux2_transformer(3 * 16, guided=False),
        text_encoder=Qwen3ForCausalLM(Qwen3Config(**fields, rope_parameters=rope({}))),
        tokenizer=tokenizer,
        vae=_flux2_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        is_distilled=False,
    )


def tiny_hunyuanvideo(folder: Path, seed: int = 0) -> Any:
    """HunyuanVideo: Llama reads the prompt, and CLIP for the pooled vector."""
    torch.manual_seed(seed)
    tokenizer, clip = _word_tokenizer(), clip_tokenizer(folder)
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        text_embed_dim=TEXT,
        pooled_projection_dim=16,
        rope_axes_dim=(4, 6, 6),
    )
    vae = AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4
    )
    return HunyuanVideoPipeline(
        text_encoder=LlamaModel(_llama_config(tokenizer)),
        tokenizer=tokenizer,
        transformer=_filled(transformer),
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=CLIPTextModel(clip_config(clip, 16)),
        tokenizer_2=clip,
    )


def tiny_lumina2(folder: Path, seed: int = 0) -> Any:
    """Lumina Image 2, whose pipeline takes for granted that a latent is 8 pixels wide."""
    torch.manual_seed(seed)
    tokenizer = _word_tokenizer()
    transformer = Lumina2Transformer2DModel(
        sample_size=16,
        in_channels=4,
        hidden_size=24,
        num_layers=3,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 4, 4),
        axes_lens=(300, 64, 64),
        cap_feat_dim=TEXT,
    )
    return Lumina2Pipeline(
        transformer=_filled(transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=6.0),
        vae=AutoencoderKL(**VAE, shift_factor=0.1),
        text_encoder=Gemma2Model(_gemma_config(tokenizer)),
        tokenizer=tokenizer,
    )


def tiny_hidream(folder: Path, seed: int = 0) -> Any:
    """HiDream-I1: two CLIPs, T5 and Llama, each of whose layers is read by a block of its own."""
    torch.manual_seed(seed)
    clip, words = clip_tokenizer(folder), _word_tokenizer()
    # the pipeline asks for more tokens than CLIP's usual 77
    longer = clip_config(clip, 16)
    longer.max_position_embeddings = 128
    transformer = HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        caption_channels=[TEXT, TEXT],
        text_emb_dim=32,
        num_routed_experts=2,
        axes_dims_rope=(4, 6, 6),
        max_resolution=(24, 24),
        llama_layers=[0, 1, 1],
    )
    return HiDreamImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(),
        text_encoder=CLIPTextModelWithProjection(longer),
        tokenizer=clip,
        text_encoder_2=CLIPTextModelWithProjection(longer),
        tokenizer_2=clip,
        text_encoder_3=T5EncoderModel(t5_config(T5Config, TEXT)),
        tokenizer_3=t5_tokenizer(),
        text_encoder_4=LlamaForCausalLM(_llama_config(words)),
        tokenizer_4=words,
        transformer=_filled(transformer),
    )


def tiny_sana(folder: Path, seed: int = 0) -> Any:
    """Sana, whose sampler is a DPM-Solver over flows."""
    torch.manual_seed(seed)
    tokenizer = _word_tokenizer()
    transformer = SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=TEXT,
        sample_size=16,
    )
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        upsample_block_type="interpolate",
        downsample_block_type="conv",
        scaling_factor=0.41407,
    )
    return SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=Gemma2Model(_gemma_config(tokenizer)),
        vae=vae,
        transformer=_filled(transformer),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


def _flux2_transformer(text: int, *, guided: bool) -> Any:
    return _filled(
        Flux2Transformer2DModel(
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=text,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=guided,
        )
    )


def _flux2_vae() -> Any:
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    )
    # as if it had been trained: the spread of the latents is in its buffers
    vae.bn.running_mean.normal_(std=0.1)
    vae.bn.running_var.uniform_(0.5, 1.5)
    return vae


def _llama_config(tokenizer: Any) -> LlamaConfig:
    return LlamaConfig(**_decoder_fields(tokenizer), pad_token_id=None)


def _gemma_config(tokenizer: Any) -> Gemma2Config:
    return Gemma2Config(**_decoder_fields(tokenizer), pad_token_id=0, query_pre_attn_scalar=8)


def _decoder_fields(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": TEXT,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 1024,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def _word_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each word and each sign between words; all words but `WORDS` are the same to it."""
    vocab = {word: number for number, word in enumerate(("<pad>", "<bos>", "<eos>", "<unk>", *WORDS))}
    model = Tokenizer(WordLevel(vocab, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    model.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=model,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=512,
    )
