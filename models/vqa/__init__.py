"""Questions about scenes: tokens of a frozen VGGT -> Perceiver -> Qwen3 with low-rank adapters -> answer."""
