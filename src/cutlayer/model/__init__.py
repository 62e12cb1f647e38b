"""Pretrained transformers cut in two, with one adapter row per device, in torch.

Knows how a Hugging Face model is split, loaded in parts, adapted with LoRA, described and written
in PEFT's format. Knows no round, no link and no data set.
"""
