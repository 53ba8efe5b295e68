"""The hot paths. A new one is a file here and its entry in this list."""

from paths import adamw, ema, kv_approximation, kv_eviction, kv_writes, token_pruning

CASES = [
    *ema.CASES, *adamw.CASES, *kv_approximation.CASES, *kv_writes.CASES, *kv_eviction.CASES, *token_pruning.CASES]
