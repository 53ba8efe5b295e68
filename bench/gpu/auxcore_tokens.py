"""The structures of token pruning in native/cuda/include/auxcore.h, and calls of it that change nothing but the stream."""

import ctypes as c

DTYPES = {"float32": 0, "float16": 2, "bfloat16": 3}
COUNT = 1  # AUXCORE_BUDGET_COUNT


class TokenSelectBatch(c.Structure):
    """auxcore_token_select_batch."""

    _fields_ = [
        ("struct_size", c.c_uint32), ("score_type", c.c_int32), ("tokens", c.c_int32), ("segments", c.c_int32), ("rule", c.c_int32),
        ("count", c.c_int32), ("minimum", c.c_int32), ("maximum", c.c_int32), ("value", c.c_double), ("index_capacity", c.c_int32),
        ("reserved", c.c_uint32), ("scores", c.c_uint64), ("bounds", c.c_uint64), ("always", c.c_uint64), ("indices", c.c_uint64),
        ("offsets", c.c_uint64), ("slots", c.c_uint64), ("nan_counts", c.c_uint64), ("workspace", c.c_uint64),
        ("workspace_bytes", c.c_int64),
    ]


class TokenSelection(c.Structure):
    """auxcore_token_selection."""

    _fields_ = [
        ("struct_size", c.c_uint32), ("segments", c.c_int32), ("bounds", c.c_uint64), ("offsets", c.c_uint64), ("map", c.c_uint64),
        ("map_length", c.c_int32), ("reserved", c.c_uint32),
    ]


class TokenRows(c.Structure):
    """auxcore_token_rows."""

    _fields_ = [
        ("source", c.c_uint64), ("destination", c.c_uint64), ("row_bytes", c.c_int64), ("source_tokens", c.c_int64),
        ("destination_tokens", c.c_int64), ("source_step", c.c_int64), ("destination_step", c.c_int64), ("sizes", c.c_int64 * 3),
        ("source_steps", c.c_int64 * 3), ("destination_steps", c.c_int64 * 3), ("segment_dimension", c.c_int32),
        ("clears_rest", c.c_uint32),
    ]


class TokenPoolBatch(c.Structure):
    """auxcore_token_pool_batch."""

    _fields_ = [
        ("struct_size", c.c_uint32), ("type", c.c_int32), ("batch", c.c_int32), ("height", c.c_int32), ("width", c.c_int32),
        ("channels", c.c_int32), ("rows", c.c_int32), ("columns", c.c_int32), ("window_height", c.c_int32), ("window_width", c.c_int32),
        ("source", c.c_uint64), ("destination", c.c_uint64),
    ]


class TokenScoresBatch(c.Structure):
    """auxcore_token_scores_batch."""

    _fields_ = [
        ("struct_size", c.c_uint32), ("type", c.c_int32), ("batch", c.c_int32), ("query_heads", c.c_int32), ("key_heads", c.c_int32),
        ("rows", c.c_int32), ("tokens", c.c_int32), ("depth", c.c_int32), ("scale", c.c_float), ("causal", c.c_uint32),
        ("query_steps", c.c_int64 * 3), ("key_steps", c.c_int64 * 3), ("queries", c.c_uint64), ("keys", c.c_uint64),
        ("log_sum_exp", c.c_uint64), ("head_weights", c.c_uint64), ("scores", c.c_uint64), ("workspace", c.c_uint64),
        ("workspace_bytes", c.c_int64),
    ]


STRUCTURES = {
    "auxcore_token_select_batch": TokenSelectBatch, "auxcore_token_selection": TokenSelection, "auxcore_token_rows": TokenRows,
    "auxcore_token_pool_batch": TokenPoolBatch, "auxcore_token_scores_batch": TokenScoresBatch,
}

_context, _stream = c.c_uint64, c.c_void_p
FUNCTIONS = {
    "auxcore_token_select": [_context, _stream, c.POINTER(TokenSelectBatch)],
    "auxcore_token_compact": [_context, _stream, c.POINTER(TokenSelection), c.POINTER(TokenRows), c.c_int64],
    "auxcore_token_pool": [_context, _stream, c.POINTER(TokenPoolBatch)],
    "auxcore_token_scores_workspace": [c.POINTER(TokenScoresBatch), c.POINTER(c.c_int64)],
    "auxcore_token_scores": [_context, _stream, c.POINTER(TokenScoresBatch)],
}


def rows_of(source, destination, row_bytes, source_tokens, destination_tokens, heads=1):
    """A tensor [heads, tokens, row] and where its kept rows go."""
    one = (c.c_int64 * 3)(heads, 1, 1)
    return TokenRows(
        source, destination, row_bytes, source_tokens, destination_tokens, row_bytes, row_bytes, one,
        (c.c_int64 * 3)(source_tokens * row_bytes, 0, 0), (c.c_int64 * 3)(destination_tokens * row_bytes, 0, 0), -1, 0)
