"""The hot paths. A new one is a file here and its entry in this list."""

from paths import adamw, ema

CASES = [*ema.CASES, *adamw.CASES]
