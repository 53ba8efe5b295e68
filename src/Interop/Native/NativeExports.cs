namespace AuxCore.Interop;

/// <summary>Every function that <see cref="Native"/> imports: a library that lacks one is refused by name, before the first call.</summary>
internal static class NativeExports
{
    public static ReadOnlySpan<string> Names => All;

    private static readonly string[] All =
    [
        "auxcore_abi_version", "auxcore_last_error", "auxcore_device_image", "auxcore_device_count",
        "auxcore_open", "auxcore_close", "auxcore_describe_device",
        "auxcore_allocate", "auxcore_free", "auxcore_copy_to_device", "auxcore_copy_to_host", "auxcore_copy_on_device", "auxcore_fill",
        "auxcore_stream_create", "auxcore_stream_destroy", "auxcore_stream_synchronize", "auxcore_stream_wait",
        "auxcore_ema_create", "auxcore_ema_destroy", "auxcore_ema_set_decays", "auxcore_ema_set_rounding", "auxcore_ema_update",
        "auxcore_adamw_create", "auxcore_adamw_destroy", "auxcore_adamw_set", "auxcore_adamw_update", "auxcore_adamw_norm",
        "auxcore_adamw_read_norm",
        "auxcore_indicator_td", "auxcore_indicator_quantile", "auxcore_indicator_pack", "auxcore_indicator_pinball",
        "auxcore_tabular_td", "auxcore_first_bad_index", "auxcore_successor_sweep",
        "auxcore_pvn_head", "auxcore_pvn_head_workspace", "auxcore_pvn_mean_over_actions",
        "auxcore_forward_backward_loss", "auxcore_forward_backward_workspace", "auxcore_info_nce_loss", "auxcore_info_nce_workspace",
        "auxcore_kv_quantise", "auxcore_kv_dequantise", "auxcore_kv_decode_attention", "auxcore_kv_attention_workspace",
        "auxcore_kv_append_tokens", "auxcore_kv_predict_write",
        "auxcore_kv_window_scores", "auxcore_kv_window_workspace", "auxcore_kv_window_scores_of_product",
        "auxcore_kv_window_product_workspace", "auxcore_kv_evict", "auxcore_kv_evict_workspace",
        "auxcore_token_select", "auxcore_token_select_workspace", "auxcore_token_compact", "auxcore_token_compact_backward",
        "auxcore_token_pool", "auxcore_token_pool_backward", "auxcore_token_scores", "auxcore_token_scores_workspace",
        "auxcore_token_match_bipartite", "auxcore_token_match_assign", "auxcore_token_match_workspace",
        "auxcore_token_merge", "auxcore_token_merge_backward", "auxcore_token_merge_workspace",
        "auxcore_token_diversity", "auxcore_token_diversity_workspace",
        "auxcore_key_rerotate",
    ];
}
