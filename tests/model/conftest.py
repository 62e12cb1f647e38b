"""One thread: tiny tensors gain nothing from more, and on a busy machine they lose much."""

import torch

torch.set_num_threads(1)
