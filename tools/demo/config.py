"""The shapes of the demo model's parts, and what all stages of its training share."""

#: Every stage derives its own randomness from this number.
SEED = 7
#: A prompt is at most this many tokens, the two end marks included.
TOKENS = 32
LATENT_CHANNELS = 16
LATENT_SIZE = 8

VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (16, 32, 64, 96),
    "layers_per_block": 1,
    "latent_channels": LATENT_CHANNELS,
    "norm_num_groups": 2,  # large groups: a flat colour is what a fine group norm takes away
    "sample_size": 64,
    "mid_block_add_attention": False,
    "force_upcast": False,
}

TEXT = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": TOKENS,
    "projection_dim": 128,
    "hidden_act": "quick_gelu",
}

UNET = {
    "sample_size": LATENT_SIZE,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "block_out_channels": (96, 128),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": TEXT["hidden_size"],
    "attention_head_dim": 4,  # the number of heads, by a misnomer that diffusers keeps
    "norm_num_groups": 8,
}

#: Ends at almost pure noise (signal 0.016), so that the first step may choose the background freely, yet at a
#: finite sigma, which Euler and its kin need. "trailing" makes short runs begin there.
SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.02,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 1,  # without effect here; diffusers wants it so
}
