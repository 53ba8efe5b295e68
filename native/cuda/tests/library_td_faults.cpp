// Every call that the functions of the successor measure and of KV caches make to the driver, made to fail once: the status is the
// driver's, and nothing leaks.
// Then random changes of their arguments, none of which may crash. Needs the stand-in.
#include <random>
#include <string>

#include "library_kv_evict.h"
#include "library_pairs.h"
#include "library_spoil.h"

using namespace auxcore::test;

namespace {

using Call = std::function<auxcore_status()>;

/// One good call of each function.
struct Scenario {
  Memory memory;
  auxcore_indicator_td_batch batch = td_batch(memory, 9, 40), head_batch = batch;
  auxcore_indicator_states states = indicator_states(batch);
  auxcore_pinball step = pinball(memory, batch);
  auxcore_tabular_td_batch tabular = tabular_batch(memory, 33, {1, 2, 1}, {2, 3, 4});
  auxcore_sweep sweep = ring_sweep(memory, 33);
  auxcore_pvn heads = pvn_heads(memory, head_batch, 17, 3);
  ForwardBackwardCase forward_backward = forward_backward_case(2, 20, 7, AUXCORE_FB_MINIMUM, true);
  auxcore_forward_backward pairs = on_device(memory, forward_backward, false, AUXCORE_FLOAT32);
  InfoNceCase info_nce = info_nce_case(20, 7, AUXCORE_INFO_NCE_NEGATIVE_DISTANCE, true, false);
  auxcore_info_nce contrast = on_device(memory, info_nce, AUXCORE_BFLOAT16);
  auxcore_kv_elements quantised = kv_elements(memory, AUXCORE_KV_Q4_0, pattern(96, 1));
  auxcore_kv_elements copied = kv_elements(memory, AUXCORE_KV_F32, pattern(96, 1));
  AttentionCase tokens{2, 4, 2, 64, 70, AUXCORE_KV_Q8_0, AUXCORE_KV_BF16, {70, 33}};
  AttentionCall attended{memory, tokens, 0, false, true}, paged{memory, tokens, 16};
  AppendCall appended{memory, paged, {3, 4}};
  PredictCall predicted{memory, {&attended, &paged}, {3, 4}};
  auxcore_kv_window scored = window_call(memory, {2, 2, 3, 40, true});
  auxcore_kv_window_product multiplied = window_product_call(memory, {2, 2, 3, 40, 4, true});
  EvictionCase eviction{{2, 4, 2, 64, 70, AUXCORE_KV_Q8_0, AUXCORE_KV_BF16, {70, 33, 12, 0}}, AUXCORE_BUDGET_RATIO, 0.5};
  EvictionCall evicted = sharing(memory, eviction);
  int32_t first = -7;

  static EvictionCall sharing(Memory& memory, const EvictionCase& given) {
    EvictionCall call(memory, given, 16);
    call.eviction.heads_share = 1;
    return call;
  }

  std::vector<Call> calls(auxcore_context on) {
    return {[=, this] { return auxcore_forward_backward_loss(on, nullptr, &pairs); },
        [=, this] { return auxcore_info_nce_loss(on, nullptr, &contrast); },
        [=, this] { return auxcore_kv_quantise(on, nullptr, &quantised); },
        [=, this] { return auxcore_kv_dequantise(on, nullptr, &quantised); },
        [=, this] { return auxcore_kv_quantise(on, nullptr, &copied); },
        [=, this] { return auxcore_kv_append_tokens(on, nullptr, &appended.cache, &appended.append); },
        [=, this] { return auxcore_kv_predict_write(on, nullptr, &predicted.predict); },
        [=, this] { return auxcore_kv_window_scores(on, nullptr, &scored); },
        [=, this] { return auxcore_kv_window_scores_of_product(on, nullptr, &multiplied); },
        [=, this] { return auxcore_kv_evict(on, nullptr, &evicted.cache, &evicted.eviction); },
        [=, this] { return auxcore_kv_decode_attention(on, nullptr, &attended.cache, &attended.attention); },
        [=, this] { return auxcore_kv_decode_attention(on, nullptr, &paged.cache, &paged.attention); },
        [=, this] { return auxcore_indicator_td(on, nullptr, &batch); },
        [=, this] { return auxcore_indicator_quantile(on, nullptr, &states, 3); },
        [=, this] { return auxcore_indicator_pack(on, nullptr, &states, step.bits); },
        [=, this] { return auxcore_indicator_pinball(on, nullptr, &states, &step); },
        [=, this] { return auxcore_tabular_td(on, nullptr, &tabular); },
        [=, this] { return auxcore_first_bad_index(on, nullptr, tabular.current, 3, 33, &first); },
        [=, this] { return auxcore_successor_sweep(on, nullptr, &sweep); },
        [=, this] { return auxcore_pvn_head(on, nullptr, &head_batch, &heads); },
        [=, this] { return auxcore_pvn_mean_over_actions(on, nullptr, heads.weights, 40, 3, 17, heads.target_mean); }};
  }
};

void every_call_may_fail(const Standin& standin) {
  Scenario scenario;
  scenario.paged.attention.lengths = 0;
  scenario.paged.attention.host_lengths = scenario.tokens.lengths.data();
  scenario.tabular.snapshot = scenario.memory.add(std::vector<float>(33 * 33));
  every_driver_call_may_fail(standin, [&](auxcore_context on) { return scenario.calls(on); });
}

// Addresses stay the device's or are refused, so kernels run on whatever memory the caller named; sizes are held by what that memory is.
void garbage_is_refused_or_computed_with(unsigned seed, int rounds) {
  std::mt19937_64 random(seed);
  Scenario good;
  int succeeded = 0, refused = 0;
  for (int round = 0; round < rounds && failures < 20; ++round) {
    auxcore_indicator_td_batch batch = good.batch, head_batch = good.head_batch;
    auxcore_indicator_states states = good.states;
    auxcore_pinball step = good.step;
    auxcore_tabular_td_batch tabular = good.tabular;
    auxcore_sweep sweep = good.sweep;
    auxcore_pvn heads = good.heads;
    auxcore_forward_backward pairs = good.pairs;
    auxcore_info_nce contrast = good.contrast;
    auxcore_kv_elements quantised = good.quantised, copied = good.copied;
    AttentionCall attended = good.attended, paged = good.paged;
    auxcore_kv_cache appended_to = good.appended.cache;
    auxcore_kv_append appended = good.appended.append;
    spoil(appended_to, random);
    spoil(appended, random);
    appended.frequencies = good.appended.frequencies.data();  // host memory is the caller's to vouch for, as lengths are
    std::vector<auxcore_kv_predict_layer> layers = good.predicted.layers;
    auxcore_kv_predict predicted = good.predicted.predict;
    spoil(layers[random() % 2], random);
    spoil(predicted, random);
    predicted.layers = layers.data();  // and so are layers, and how many
    predicted.layer_count = predicted.layer_count > 2 ? 2 : predicted.layer_count;
    predicted.frequencies = good.predicted.frequencies.data();
    auxcore_kv_window scored = good.scored;
    auxcore_kv_window_product multiplied = good.multiplied;
    EvictionCall evicted = good.evicted;
    spoil(scored, random);
    spoil(multiplied, random);
    spoil(evicted.cache, random);
    spoil(evicted.eviction, random);
    spoil(quantised, random);
    spoil(copied, random);
    spoil(attended.cache, random);
    spoil(attended.attention, random);
    spoil(paged.cache, random);
    spoil(paged.attention, random);
    attended.attention.host_lengths = paged.attention.host_lengths = nullptr;
    spoil(batch, random);
    spoil(pairs, random);
    spoil(contrast, random);
    spoil(head_batch, random);
    spoil(states, random);
    spoil(step, random);
    spoil(tabular, random);
    spoil(sweep, random);
    spoil(heads, random);
    sweep.sweeps = sweep.sweeps > 40 ? 40 : sweep.sweeps;  // a long wait shows nothing
    int32_t first = 0;
    for (const auxcore_status status :
        {auxcore_forward_backward_loss(context, nullptr, &pairs), auxcore_info_nce_loss(context, nullptr, &contrast),
            auxcore_kv_quantise(context, nullptr, &quantised), auxcore_kv_dequantise(context, nullptr, &copied),
            auxcore_kv_append_tokens(context, nullptr, &appended_to, &appended), auxcore_kv_predict_write(context, nullptr, &predicted),
            auxcore_kv_window_scores(context, nullptr, &scored), auxcore_kv_window_scores_of_product(context, nullptr, &multiplied),
            auxcore_kv_evict(context, nullptr, &evicted.cache, &evicted.eviction),
            auxcore_kv_decode_attention(context, nullptr, &attended.cache, &attended.attention),
            auxcore_kv_decode_attention(context, nullptr, &paged.cache, &paged.attention),
            auxcore_indicator_td(context, nullptr, &batch), auxcore_indicator_quantile(context, nullptr, &states, int32_t(random() % 12)),
            auxcore_indicator_pack(context, nullptr, &states, step.bits), auxcore_indicator_pinball(context, nullptr, &states, &step),
            auxcore_tabular_td(context, nullptr, &tabular),
            auxcore_first_bad_index(context, nullptr, tabular.current, tabular.transitions, tabular.states, &first),
            auxcore_successor_sweep(context, nullptr, &sweep), auxcore_pvn_head(context, nullptr, &head_batch, &heads),
            auxcore_pvn_mean_over_actions(context, nullptr, heads.weights, head_batch.tasks, heads.actions, heads.features,
            heads.target_mean)}) {
      CHECK(status <= 0, "seed %u, round %d: %s", seed, round, auxcore_last_error());
      CHECK(status != AUXCORE_E_INTERNAL && status != AUXCORE_E_MEMORY, "%s", auxcore_last_error());
      ++(status == AUXCORE_OK ? succeeded : refused);
    }
    OK(auxcore_stream_synchronize(context, nullptr));
  }
  std::printf("seed %u: %d calls succeeded, %d were refused\n", seed, succeeded, refused);
  CHECK(succeeded > rounds && refused > rounds);
}

}  // namespace

int main() {
  const Standin standin;
  open_or_skip();
  skip_without_device_code();
  every_call_may_fail(standin);
  for (const unsigned seed : {1u, 2u, 3u})
    garbage_is_refused_or_computed_with(seed, 100);
  OK(auxcore_close(context));
  const auxcore_standin_state now = standin.state();
  CHECK(now.allocations == 0 && now.retained_contexts == 0 && now.modules == 0);
  return result();
}
