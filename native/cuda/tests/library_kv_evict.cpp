// The C functions of KvWindowScores and KvEvict: against formulas, and what they refuse. Runs on the stand-in and on a device.
#include "library_kv_evict.h"

using namespace auxcore::test;

namespace {

void window_scores_agree() {
  Memory memory;
  for (const bool causal : {false, true}) {
    const WindowCase given(3, 2, 7, 1000, causal);
    const auxcore_kv_window window = window_call(memory, given);
    OK(auxcore_kv_window_scores(context, nullptr, &window));
    const std::vector<float> first = read<float>(window.scores, 3000);
    given.check(first);
    OK(auxcore_kv_window_scores(context, nullptr, &window));
    CHECK(read<float>(window.scores, 3000) == first, "repeated calls give the same bits");
  }
}

void window_scores_are_checked() {
  Memory memory;
  const auxcore_kv_window good = window_call(memory, {2, 2, 3, 40, true});
  using W = auxcore_kv_window;
  const auto wrong = [&](const char* text, auto change, auxcore_status status = AUXCORE_E_ARGUMENT) {
    W spoilt = good;
    change(spoilt);
    REFUSED(status, text, auxcore_kv_window_scores(context, nullptr, &spoilt));
  };
  REFUSED(AUXCORE_E_HANDLE, "no open context", auxcore_kv_window_scores(0, nullptr, &good));
  REFUSED(AUXCORE_E_ARGUMENT, "window is NULL", auxcore_kv_window_scores(context, nullptr, nullptr));
  wrong("window->struct_size is 4", [](W& w) { w.struct_size = 4; }, AUXCORE_E_ABI);
  wrong("heads is -1", [](W& w) { w.heads = -1; });
  wrong("group is 0", [](W& w) { w.group = 0; });
  wrong("window is 0", [](W& w) { w.window = 0; });
  wrong("positions is -1", [](W& w) { w.positions = -1; });
  wrong("causal is 2", [](W& w) { w.causal = 2; });
  wrong("window is 41, more than 40 positions", [](W& w) { w.window = 41; });
  wrong("more than", [](W& w) { w.heads = w.group = w.positions = INT32_MAX; });
  for (const double scale : {HUGE_VAL, std::nan("")})
    wrong("not finite", [=](W& w) { w.scale = scale; });
  wrong("logits: 0x0", [](W& w) { w.logits = 0; });
  wrong("scores: 0x0", [](W& w) { w.scores = 0; });
  wrong("overlaps", [](W& w) { w.scores = w.logits; });
  wrong("workspace: 95 bytes, 96 are needed", [](W& w) { w.workspace_bytes = 95; });
  wrong("is not aligned to 256", [](W& w) { w.workspace += 128; });
  wrong("workspace: 0x0", [](W& w) { w.workspace = 0; });
  CHECK(read<float>(good.scores, 80) == std::vector<float>(80, -7.0f), "what was refused was not done");
  int64_t bytes = -1;
  REFUSED(AUXCORE_E_ARGUMENT, "window or bytes is NULL", auxcore_kv_window_workspace(&good, nullptr));
  REFUSED(AUXCORE_E_ARGUMENT, "window or bytes is NULL", auxcore_kv_window_workspace(nullptr, &bytes));
  for (const bool has_heads : {false, true}) {
    W none = good;
    none.causal = 0;
    (has_heads ? none.positions : none.heads) = 0;
    OK(auxcore_kv_window_scores(context, nullptr, &none));
  }
}

void window_product_scores_agree() {
  Memory memory;
  for (const bool causal : {false, true}) {
    const WindowProductCase given(3, 2, 7, 1000, 24, causal);
    const auxcore_kv_window_product product = window_product_call(memory, given);
    OK(auxcore_kv_window_scores_of_product(context, nullptr, &product));
    const std::vector<float> first = read<float>(product.scores, 3000);
    given.scored.check(first);
    OK(auxcore_kv_window_scores_of_product(context, nullptr, &product));
    CHECK(read<float>(product.scores, 3000) == first, "repeated calls give the same bits");
  }
}

void window_products_are_checked() {
  Memory memory;
  const auxcore_kv_window_product good = window_product_call(memory, {2, 2, 3, 40, 4, true});
  using P = auxcore_kv_window_product;
  const auto wrong = [&](const char* text, auto change, auxcore_status status = AUXCORE_E_ARGUMENT) {
    P spoilt = good;
    change(spoilt);
    REFUSED(status, text, auxcore_kv_window_scores_of_product(context, nullptr, &spoilt));
  };
  REFUSED(AUXCORE_E_HANDLE, "no open context", auxcore_kv_window_scores_of_product(0, nullptr, &good));
  REFUSED(AUXCORE_E_ARGUMENT, "product is NULL", auxcore_kv_window_scores_of_product(context, nullptr, nullptr));
  wrong("product->struct_size is 4", [](P& p) { p.struct_size = 4; }, AUXCORE_E_ABI);
  wrong("heads is -1", [](P& p) { p.heads = -1; });
  wrong("group is 0", [](P& p) { p.group = 0; });
  wrong("window is 0", [](P& p) { p.window = 0; });
  wrong("positions is -1", [](P& p) { p.positions = -1; });
  wrong("causal is 2", [](P& p) { p.causal = 2; });
  wrong("window is 41, more than 40 positions", [](P& p) { p.window = 41; });
  wrong("depth is 0", [](P& p) { p.depth = 0; });
  wrong("reserved is 1", [](P& p) { p.reserved = 1; });
  wrong("key_step is -1", [](P& p) { p.key_step = -1; });
  wrong("head_step is -1", [](P& p) { p.head_step = -1; });
  wrong("more than", [](P& p) { p.head_step = INT64_MAX; });
  wrong("more than", [](P& p) { p.heads = p.group = p.positions = INT32_MAX; });
  for (const double scale : {HUGE_VAL, std::nan("")})
    wrong("not finite", [=](P& p) { p.scale = scale; });
  wrong("queries: 0x0", [](P& p) { p.queries = 0; });
  wrong("keys: 0x0", [](P& p) { p.keys = 0; });
  wrong("scores: 0x0", [](P& p) { p.scores = 0; });
  wrong("overlaps", [](P& p) { p.queries = p.scores; });
  wrong("overlaps", [](P& p) { p.scores = p.keys; });
  wrong("are needed", [](P& p) { --p.workspace_bytes; });
  wrong("is not aligned to 256", [](P& p) { p.workspace += 128; });
  wrong("workspace: 0x0", [](P& p) { p.workspace = 0; });
  CHECK(read<float>(good.scores, 80) == std::vector<float>(80, -7.0f), "what was refused was not done");
  int64_t bytes = -1;
  REFUSED(AUXCORE_E_ARGUMENT, "product or bytes is NULL", auxcore_kv_window_product_workspace(&good, nullptr));
  REFUSED(AUXCORE_E_ARGUMENT, "product or bytes is NULL", auxcore_kv_window_product_workspace(nullptr, &bytes));
  for (const bool has_heads : {false, true}) {
    P none = good;
    none.causal = 0;
    (has_heads ? none.positions : none.heads) = 0;
    OK(auxcore_kv_window_scores_of_product(context, nullptr, &none));
  }
}

void evicted(Memory& memory, const EvictionCase& given, int page, bool pages_are_of_heads) {
  const EvictionCall call(memory, given, page, pages_are_of_heads);
  OK(auxcore_kv_evict(context, nullptr, &call.cache, &call.eviction));
  const std::vector<std::vector<int>> kept = given.kept();
  const std::vector<int32_t> lengths = read<int32_t>(call.eviction.lengths, kept.size());
  const std::vector<int32_t> numbers = read<int32_t>(call.eviction.numbers, given.numbers.size());
  for (std::size_t head = 0; head < kept.size(); ++head) {
    CHECK(lengths[head] == static_cast<int32_t>(kept[head].size()), "head %zu keeps %d, not %zu", head, lengths[head], kept[head].size());
    const std::size_t at = head * static_cast<std::size_t>(given.cache.capacity);
    for (std::size_t i = 0; i < kept[head].size(); ++i)
      CHECK(numbers[at + i] == given.numbers[at + static_cast<std::size_t>(kept[head][i])], "head %zu, number %zu", head, i);
  }
  const auto check = [&](const auxcore_kv_plane& plane, const std::vector<uint8_t>& before) {
    const std::vector<uint8_t> after =
        EvictionCase::moved(before, given.cache.row_bytes(plane.format), given.cache.capacity, kept);
    const std::vector<uint8_t> right = page == 0 ? after : PagedRows(given.cache, after, plane.format, page, pages_are_of_heads).bytes;
    CHECK(read<uint8_t>(plane.first, right.size()) == right, "format %d, pages of %d", plane.format, page);
  };
  check(call.cache.keys, given.cache.keys);
  check(call.cache.values, given.cache.values);
}

void evictions_agree() {
  Memory memory;
  for (int i = 0; i < 6; ++i) {
    EvictionCase given({2, 4, 2, 128, 90, kStoredFormats[i], kStoredFormats[(i + 2) % 6], {90, 0, 41, 77}}, AUXCORE_BUDGET_RATIO, 0.5);
    given.pool_width = 5;
    given.sinks = i;
    given.recent = 16;
    evicted(memory, given, i % 2 == 0 ? 0 : 16, i % 4 == 1);
    given.floor = 0.2;
    evicted(memory, given, i % 2 == 0 ? 16 : 0, false);
  }
  for (const double floor : {-1.0, 0.0, 0.3}) {  // heads with counts of their own
    EvictionCase each({2, 4, 2, 64, 60, AUXCORE_KV_BF16, AUXCORE_KV_F32, {60, 33, 7, 48}}, AUXCORE_BUDGET_COUNT, 0);
    each.counts = {20, 3, 40, 0};
    each.floor = floor;
    evicted(memory, each, floor == 0 ? 16 : 0, floor == 0);
  }
  EvictionCase tall({1, 1, 1, 64, 3000, AUXCORE_KV_BF16, AUXCORE_KV_Q4_0, {3000}}, AUXCORE_BUDGET_COUNT, 1500);
  evicted(memory, tall, 0, false);
}

/// Lengths and pages that are none are held within the cache; a head that is shorter than the count keeps all.
void what_memory_says_is_held_within() {
  Memory memory;
  const EvictionCase given({1, 2, 2, 64, 32, AUXCORE_KV_F32, AUXCORE_KV_F32, {32, 32}}, AUXCORE_BUDGET_COUNT, 20);
  EvictionCall call(memory, given, 16);
  call.eviction.lengths = memory.add(std::vector<int32_t>{1 << 30, -5});
  OK(auxcore_kv_evict(context, nullptr, &call.cache, &call.eviction));
  CHECK(read<int32_t>(call.eviction.lengths, 2) == (std::vector<int32_t>{20, 0}));
  EvictionCall counted(memory, given, 16);
  counted.eviction.count = 0;
  counted.eviction.counts = memory.add(std::vector<int32_t>{-1, INT32_MAX});
  OK(auxcore_kv_evict(context, nullptr, &counted.cache, &counted.eviction));
  CHECK(read<int32_t>(counted.eviction.lengths, 2) == (std::vector<int32_t>{0, 32}));
  counted.eviction.lengths = memory.add(std::vector<int32_t>{32, 32});
  counted.eviction.counts = memory.add(std::vector<int32_t>{INT32_MAX, INT32_MAX});  // whose sum is beyond 32 bits
  counted.eviction.heads_share = 1;
  OK(auxcore_kv_evict(context, nullptr, &counted.cache, &counted.eviction));
  CHECK(read<int32_t>(counted.eviction.lengths, 2) == (std::vector<int32_t>{32, 32}));
  call.eviction.lengths = memory.add(std::vector<int32_t>{7, 32});
  call.cache.pages = memory.add(std::vector<int32_t>{1 << 20, -1});
  const std::vector<uint8_t> before = read<uint8_t>(call.cache.keys.first, given.cache.keys.size());
  OK(auxcore_kv_evict(context, nullptr, &call.cache, &call.eviction));
  CHECK(read<int32_t>(call.eviction.lengths, 2) == (std::vector<int32_t>{7, 20}));
  CHECK(read<uint8_t>(call.cache.keys.first, before.size()) == before, "pages that are none are not written");
}

void evicting_is_checked() {
  Memory memory;
  const EvictionCase given({2, 4, 2, 64, 32, AUXCORE_KV_BF16, AUXCORE_KV_Q8_0, {32, 5, 32, 7}}, AUXCORE_BUDGET_RATIO, 0.5);
  const EvictionCall good(memory, given);
  using C = auxcore_kv_cache;
  using E = auxcore_kv_eviction;
  const auto wrong = [&](const char* text, auto change, auxcore_status status = AUXCORE_E_ARGUMENT) {
    EvictionCall spoilt = good;
    change(spoilt.cache, spoilt.eviction);
    REFUSED(status, text, auxcore_kv_evict(context, nullptr, &spoilt.cache, &spoilt.eviction));
  };
  REFUSED(AUXCORE_E_HANDLE, "no open context", auxcore_kv_evict(0, nullptr, &good.cache, &good.eviction));
  REFUSED(AUXCORE_E_ARGUMENT, "cache or eviction is NULL", auxcore_kv_evict(context, nullptr, nullptr, &good.eviction));
  REFUSED(AUXCORE_E_ARGUMENT, "cache or eviction is NULL", auxcore_kv_evict(context, nullptr, &good.cache, nullptr));
  wrong("eviction->struct_size is 4", [](C&, E& e) { e.struct_size = 4; }, AUXCORE_E_ABI);
  wrong("cache->struct_size is 4", [](C& c, E&) { c.struct_size = 4; }, AUXCORE_E_ABI);
  for (const int rule : {0, 6})
    wrong("which is no budget", [=](C&, E& e) { e.rule = rule; });
  wrong("count is -1", [](C&, E& e) { e.rule = AUXCORE_BUDGET_COUNT, e.count = -1; });
  wrong("value is 1.5", [](C&, E& e) { e.value = 1.5; });
  wrong("minimum is -1", [](C&, E& e) { e.minimum = -1; });
  wrong("maximum is 3, below the minimum 4", [](C&, E& e) { e.minimum = 4, e.maximum = 3; });
  for (const int width : {0, 4, -1})
    wrong("pool_width is", [=](C&, E& e) { e.pool_width = width; });
  wrong("sinks is -1", [](C&, E& e) { e.sinks = -1; });
  wrong("recent is -1", [](C&, E& e) { e.recent = -1; });
  wrong("heads_share is 2", [](C&, E& e) { e.heads_share = 2; });
  wrong("reserved is 1", [](C&, E& e) { e.reserved = 1; });
  wrong("head_floor is 0.2", [](C&, E& e) { e.head_floor = 0.2; });
  for (const double floor : {-0.1, 1.1, std::nan("")})
    wrong("head_floor is", [=](C&, E& e) { e.heads_share = 1, e.head_floor = floor; });
  wrong("heads share a count or a ratio, not rule 3", [](C&, E& e) { e.heads_share = 1, e.rule = AUXCORE_BUDGET_THRESHOLD; });
  wrong("score_positions is -1", [](C&, E& e) { e.score_positions = -1; });
  wrong("number_positions is -1", [](C&, E& e) { e.number_positions = -1; });
  wrong("numbers and number_positions", [](C&, E& e) { e.numbers = 0; });
  wrong("numbers and number_positions", [](C&, E& e) { e.number_positions = 0; });
  wrong("kv_heads * score_positions is", [](C&, E& e) { e.score_positions = 1 << 30; });
  wrong("scores: 0x0", [](C&, E& e) { e.scores = 0; });
  wrong("lengths: 0x0", [](C&, E& e) { e.lengths = 0; });
  wrong("numbers: 0x4", [](C&, E& e) { e.numbers = 4; });
  wrong("keys: 0x0", [](C& c, E&) { c.keys.first = 0; });
  wrong("values overlaps keys", [](C& c, E&) { c.values.first = c.keys.first; });
  wrong("overlaps", [](C& c, E& e) { e.scores = c.keys.first; });
  wrong("overlaps", [](C&, E& e) { e.lengths = e.numbers; });
  const uint64_t counts = memory.add(std::vector<int32_t>{1, 1, 1, 1});
  wrong("counts: they say how many", [=](C&, E& e) { e.counts = counts; });  // beside a ratio
  const auto counted = [](E& e, uint64_t address) { e.rule = AUXCORE_BUDGET_COUNT, e.count = 0, e.counts = address; };
  wrong("counts: they say how many", [=](C&, E& e) { counted(e, counts), e.count = 1; });
  wrong("counts: they say how many", [=](C&, E& e) { counted(e, counts), e.minimum = 1; });
  wrong("counts: they say how many", [=](C&, E& e) { counted(e, counts), e.maximum = 9; });
  wrong("counts: 0x4", [=](C&, E& e) { counted(e, 4); });
  wrong("overlaps", [=](C&, E& e) { counted(e, e.lengths); });
  wrong("workspace: ", [](C&, E& e) { e.workspace_bytes -= 1; });
  wrong("is not aligned to 256", [](C&, E& e) { e.workspace += 128; });
  wrong("workspace: 0x0", [](C&, E& e) { e.workspace = 0; });
  CHECK(read<uint8_t>(good.cache.keys.first, given.cache.keys.size()) == given.cache.keys, "what was refused was not done");
  CHECK(read<int32_t>(good.eviction.lengths, 4) == given.cache.lengths);

  int64_t bytes = -1;
  REFUSED(AUXCORE_E_ARGUMENT, "bytes is NULL", auxcore_kv_evict_workspace(1, 1, 1, nullptr));
  REFUSED(AUXCORE_E_ARGUMENT, "batch is 0", auxcore_kv_evict_workspace(0, 1, 1, &bytes));
  REFUSED(AUXCORE_E_ARGUMENT, "kv_heads is 0", auxcore_kv_evict_workspace(1, 0, 1, &bytes));
  REFUSED(AUXCORE_E_ARGUMENT, "score_positions is -1", auxcore_kv_evict_workspace(1, 1, -1, &bytes));
  REFUSED(AUXCORE_E_ARGUMENT, "kv_heads * score_positions is", auxcore_kv_evict_workspace(1, 2, INT32_MAX, &bytes));
  CHECK(bytes == -1);
}

}  // namespace

int main() {
  open_or_skip();
  skip_without_device_code();
  window_scores_agree();
  window_scores_are_checked();
  window_product_scores_agree();
  window_products_are_checked();
  evictions_agree();
  what_memory_says_is_held_within();
  evicting_is_checked();
  OK(auxcore_close(context));
  return result();
}
