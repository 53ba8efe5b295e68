"""The structures of KV caches in native/cuda/include/auxcore.h, and the functions that take them."""

import ctypes as c

FORMATS = {"f32": 0, "bf16": 2, "q8_0": 4, "q4_0": 5, "kivi4": 6}


class KvElements(c.Structure):
    """auxcore_kv_elements."""

    _fields_ = [
        ("struct_size", c.c_uint32), ("format", c.c_int32), ("count", c.c_int64), ("scale", c.c_float), ("reserved", c.c_uint32),
        ("elements", c.c_uint64), ("stored", c.c_uint64),
    ]


class KvPlane(c.Structure):
    """auxcore_kv_plane."""

    _fields_ = [
        ("format", c.c_int32), ("scale_count", c.c_int32), ("first", c.c_uint64), ("outer_count", c.c_int64), ("outer_step", c.c_int64),
        ("head_step", c.c_int64), ("scales", c.c_uint64), ("residual", c.c_uint64), ("residual_positions", c.c_int32),
        ("reserved", c.c_uint32),
    ]


class KvCache(c.Structure):
    """auxcore_kv_cache."""

    _fields_ = [
        ("struct_size", c.c_uint32), ("batch", c.c_int32), ("kv_heads", c.c_int32), ("head_dim", c.c_int32), ("positions", c.c_int32),
        ("pages_are_of_heads", c.c_uint32), ("page_offsets", c.c_uint64), ("pages", c.c_uint64), ("page_count", c.c_int64),
        ("keys", KvPlane), ("values", KvPlane),
    ]


class KvAttention(c.Structure):
    """auxcore_kv_attention."""

    _fields_ = [
        ("struct_size", c.c_uint32), ("query_heads", c.c_int32), ("lengths_are_of_heads", c.c_uint32), ("sum_positions", c.c_int32),
        ("scale", c.c_double), ("query", c.c_uint64), ("lengths", c.c_uint64), ("host_lengths", c.POINTER(c.c_int32)),
        ("output", c.c_uint64), ("position_sums", c.c_uint64), ("workspace", c.c_uint64), ("workspace_bytes", c.c_int64),
    ]


class KvRows(c.Structure):
    """auxcore_kv_rows."""

    _fields_ = [
        ("first", c.c_uint64), ("step", c.c_int64), ("bias", c.c_uint64), ("norm", c.c_uint64), ("heads", c.c_int32),
        ("reserved", c.c_uint32),
    ]


class KvAppend(c.Structure):
    """auxcore_kv_append."""

    _fields_ = [
        ("struct_size", c.c_uint32), ("tokens", c.c_int32), ("type", c.c_int32), ("slots_are_of_heads", c.c_uint32), ("query", KvRows),
        ("keys", KvRows), ("values", KvRows), ("rotated_query", c.c_uint64), ("rotated_step", c.c_int64), ("sequences", c.c_uint64),
        ("slots", c.c_uint64), ("positions", c.c_uint64), ("norm_epsilon", c.c_double), ("rotated", c.c_int32),
        ("is_in_pairs", c.c_int32), ("frequencies", c.POINTER(c.c_double)),
    ]


class KvPredictLayer(c.Structure):
    """auxcore_kv_predict_layer."""

    _fields_ = [("cache", KvCache), ("keys", KvRows), ("values", KvRows)]


class KvPredict(c.Structure):
    """auxcore_kv_predict."""

    _fields_ = [
        ("struct_size", c.c_uint32), ("tokens", c.c_int32), ("type", c.c_int32), ("layer_count", c.c_int32),
        ("layers", c.POINTER(KvPredictLayer)), ("sequences", c.c_uint64), ("slots", c.c_uint64), ("positions", c.c_uint64),
        ("norm_epsilon", c.c_double), ("rotated", c.c_int32), ("is_in_pairs", c.c_int32), ("frequencies", c.POINTER(c.c_double)),
    ]


class KvWindow(c.Structure):
    """auxcore_kv_window."""

    _fields_ = [
        ("struct_size", c.c_uint32), ("heads", c.c_int32), ("group", c.c_int32), ("window", c.c_int32), ("positions", c.c_int32),
        ("causal", c.c_uint32), ("scale", c.c_double), ("logits", c.c_uint64), ("scores", c.c_uint64), ("workspace", c.c_uint64),
        ("workspace_bytes", c.c_int64),
    ]


class KvWindowProduct(c.Structure):
    """auxcore_kv_window_product."""

    _fields_ = [
        ("struct_size", c.c_uint32), ("heads", c.c_int32), ("group", c.c_int32), ("window", c.c_int32), ("positions", c.c_int32),
        ("causal", c.c_uint32), ("depth", c.c_int32), ("reserved", c.c_uint32), ("scale", c.c_double), ("queries", c.c_uint64),
        ("keys", c.c_uint64), ("key_step", c.c_int64), ("head_step", c.c_int64), ("scores", c.c_uint64), ("workspace", c.c_uint64),
        ("workspace_bytes", c.c_int64),
    ]


class KvEviction(c.Structure):
    """auxcore_kv_eviction."""

    _fields_ = [
        ("struct_size", c.c_uint32), ("rule", c.c_int32), ("count", c.c_int32), ("minimum", c.c_int32), ("maximum", c.c_int32),
        ("pool_width", c.c_int32), ("value", c.c_double), ("sinks", c.c_int32), ("recent", c.c_int32), ("head_floor", c.c_double),
        ("heads_share", c.c_uint32), ("reserved", c.c_uint32), ("score_positions", c.c_int32), ("number_positions", c.c_int32),
        ("scores", c.c_uint64), ("lengths", c.c_uint64), ("numbers", c.c_uint64), ("counts", c.c_uint64), ("workspace", c.c_uint64),
        ("workspace_bytes", c.c_int64),
    ]


STRUCTURES = {
    "auxcore_kv_elements": KvElements, "auxcore_kv_plane": KvPlane, "auxcore_kv_cache": KvCache, "auxcore_kv_attention": KvAttention,
    "auxcore_kv_rows": KvRows, "auxcore_kv_append": KvAppend, "auxcore_kv_predict_layer": KvPredictLayer,
    "auxcore_kv_predict": KvPredict, "auxcore_kv_window": KvWindow, "auxcore_kv_window_product": KvWindowProduct,
    "auxcore_kv_eviction": KvEviction,
}

_context, _stream, _cache, _bytes = c.c_uint64, c.c_void_p, c.POINTER(KvCache), c.POINTER(c.c_int64)
FUNCTIONS = {
    "auxcore_kv_quantise": [_context, _stream, c.POINTER(KvElements)],
    "auxcore_kv_dequantise": [_context, _stream, c.POINTER(KvElements)],
    "auxcore_kv_attention_workspace": [_cache, c.POINTER(KvAttention), _bytes],
    "auxcore_kv_decode_attention": [_context, _stream, _cache, c.POINTER(KvAttention)],
    "auxcore_kv_append_tokens": [_context, _stream, _cache, c.POINTER(KvAppend)],
    "auxcore_kv_predict_write": [_context, _stream, c.POINTER(KvPredict)],
    "auxcore_kv_window_workspace": [c.POINTER(KvWindow), _bytes],
    "auxcore_kv_window_scores": [_context, _stream, c.POINTER(KvWindow)],
    "auxcore_kv_window_product_workspace": [c.POINTER(KvWindowProduct), _bytes],
    "auxcore_kv_window_scores_of_product": [_context, _stream, c.POINTER(KvWindowProduct)],
    "auxcore_kv_evict_workspace": [c.c_int32, c.c_int32, c.c_int32, _bytes],
    "auxcore_kv_evict": [_context, _stream, _cache, c.POINTER(KvEviction)],
}


def contiguous_cache(format, row_bytes, keys, values, batch, kv_heads, head_dim, positions):
    """A cache [batch, kv_heads, positions, head_dim] at two addresses."""
    head = positions * row_bytes
    return KvCache(
        c.sizeof(KvCache), batch, kv_heads, head_dim, positions, 0, 0, 0, 0,
        *[KvPlane(FORMATS[format], 0, address, batch, kv_heads * head, head, 0) for address in (keys, values)])
