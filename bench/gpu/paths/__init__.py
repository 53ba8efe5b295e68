"""The hot paths. A new one is a file here and its entry in this list."""

from paths import adamw, ema, token_pruning

CASES = [*ema.CASES, *adamw.CASES, *token_pruning.CASES]
