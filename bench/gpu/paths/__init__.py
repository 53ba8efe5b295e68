"""The hot paths. A new one is a file here and its entry in this list."""

from paths import ema

CASES = [*ema.CASES]
