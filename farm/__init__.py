"""Farm: a LoRA-aware render farm for diffusion models."""
