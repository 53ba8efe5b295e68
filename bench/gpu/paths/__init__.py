"""The hot paths. A new one is a file here and its entry in this list."""

from paths import adamw, ema, kv_approximation, token_pruning

CASES = [*ema.CASES, *adamw.CASES, *kv_approximation.CASES, *token_pruning.CASES]
