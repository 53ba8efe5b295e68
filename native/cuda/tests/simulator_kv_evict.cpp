// The kernels of KvWindowScores and KvEvict in the simulator, in three orders of threads, against formulas: lengths around the edges of
// warps and blocks, every format's rows, pages, heads that share a budget.
#include "../device/device.cuh"
#include "../kv_approximation/kv_evict.cuh"
#include "../kv_approximation/kv_window_scores.cuh"

#include "check.h"
#include "kv_eviction_formulas.h"

namespace auxcore {

namespace kv_window_scores {
extern "C" void auxcore_kv_window_softmaxes(Arguments arguments);
extern "C" void auxcore_kv_window_means(Arguments arguments);
extern "C" void auxcore_kv_window_products(ProductArguments arguments);
extern "C" void auxcore_kv_window_shares(ProductArguments arguments);
extern "C" void auxcore_kv_window_collect(ProductArguments arguments);
}  // namespace kv_window_scores

namespace kv_evict {
extern "C" void auxcore_kv_evict_rank(Arguments arguments);
extern "C" void auxcore_kv_evict_share(Arguments arguments);
extern "C" void auxcore_kv_evict_move(Arguments arguments);
}  // namespace kv_evict

namespace {

using namespace test;

std::vector<float> window_scores(const WindowCase& given) {
  using namespace kv_window_scores;
  const int rows = given.group * given.window;
  std::vector<float> scores(std::size_t(given.heads * given.positions) + 2, -7.0f);
  std::vector<RowSoftmax> softmaxes(std::size_t(given.heads * rows), RowSoftmax{NAN, NAN});
  Arguments arguments = {given.logits.data(), scores.data() + 1, softmaxes.data(), float(given.scale * 1.4426950408889634), rows,
      given.window, given.positions, given.causal};
  simt::launch(auxcore_kv_window_softmaxes, {unsigned(given.heads * rows), kThreads, 0}, arguments);
  const int blocks = given.heads * ((given.positions + kThreads - 1) / kThreads);
  simt::launch(auxcore_kv_window_means, {unsigned(blocks), kThreads, 0}, arguments);
  CHECK(scores.front() == -7.0f && scores.back() == -7.0f, "writes beyond the scores");
  return {scores.begin() + 1, scores.end() - 1};
}

void window_scores_agree() {
  for (const bool causal : {false, true}) {
    for (const int positions : {5, 31, 32, 33, 255, 256, 257, 300, 513})
      for (const int window : {1, 5}) {
        const WindowCase given(2, positions % 3 + 1, window, positions, causal);
        given.check(window_scores(given));
      }
    WindowCase odd(2, 1, 2, 40, causal);  // what is no number shows, in its head
    for (const float bad : {NAN, HUGE_VALF}) {
      odd.logits[80 + 3] = bad;
      const std::vector<float> scores = window_scores(odd);
      CHECK(std::none_of(scores.begin(), scores.begin() + 40, [](float x) { return std::isnan(x); }));
      CHECK(std::all_of(scores.begin() + 40, scores.end() - 1, [](float x) { return std::isnan(x); }));
    }
    std::fill(odd.logits.begin() + 80, odd.logits.begin() + 120, -HUGE_VALF);
    CHECK(std::isnan(window_scores(odd)[40]), "a row of nothing");
  }
}

std::vector<float> window_product_scores(const WindowProductCase& given) {
  using namespace kv_window_scores;
  const WindowCase& scored = given.scored;
  const int rows = scored.group * scored.window, key_tiles = (scored.positions + kTileKeys - 1) / kTileKeys;
  std::vector<float> scores(std::size_t(scored.heads * scored.positions) + 2, -7.0f);
  std::vector<float> weights(std::size_t(scored.heads * rows * scored.positions), NAN);
  std::vector<TilePart> parts(std::size_t(scored.heads * rows * key_tiles), TilePart{NAN, NAN});
  ProductArguments arguments = {given.queries.data(), given.keys.data(), scores.data() + 1, weights.data(), parts.data(),
      int64_t(given.key_step), int64_t(given.head_step), float(scored.scale * 1.4426950408889634), scored.heads, rows, scored.window,
      scored.positions, given.depth, scored.causal, key_tiles};
  const int row_tiles = (rows + kTileRows - 1) / kTileRows, blocks = (scored.positions + kThreads - 1) / kThreads;
  simt::launch(auxcore_kv_window_products, {unsigned(scored.heads * key_tiles * row_tiles), kProductThreads, 0}, arguments);
  const int shares = (scored.heads * rows + kRowsOfBlock - 1) / kRowsOfBlock;
  simt::launch(auxcore_kv_window_shares, {unsigned(shares), kRowsOfBlock * 32, 0}, arguments);
  simt::launch(auxcore_kv_window_collect, {unsigned(scored.heads * blocks), kThreads, 0}, arguments);
  CHECK(scores.front() == -7.0f && scores.back() == -7.0f, "writes beyond the scores");
  return {scores.begin() + 1, scores.end() - 1};
}

void window_product_scores_agree() {
  for (const bool causal : {false, true}) {
    // Around a tile of keys and of rows, a block's positions, and the elements that a tile takes at a time.
    for (const auto& [group, window, positions, depth] : {std::tuple(1, 1, 1, 1), {3, 1, 63, 15}, {1, 5, 64, 16}, {2, 5, 65, 17},
             {9, 7, 66, 8}, {16, 4, 130, 4}, {5, 13, 257, 33}}) {
      const WindowProductCase given(2, group, window, positions, depth, causal);
      given.scored.check(window_product_scores(given));
    }
    // What is no number in a row that sees it, or a row of nothing, makes NaN of all scores of its head, and of no other's.
    for (const float bad : {NAN, HUGE_VALF}) {
      WindowProductCase odd(2, 1, 2, 70, 4, causal);
      odd.queries[8] = 1;
      odd.keys[odd.head_step] = bad;
      const std::vector<float> scores = window_product_scores(odd);
      CHECK(std::none_of(scores.begin(), scores.begin() + 70, [](float x) { return std::isnan(x); }));
      CHECK(std::all_of(scores.begin() + 70, scores.end(), [](float x) { return std::isnan(x); }));
    }
    WindowProductCase none(2, 1, 2, 70, 1, causal);
    none.queries.assign(4, 1);
    for (std::size_t key = 0; key < 64; ++key)  // a tile of -infinity counts nothing, unless all are like it
      none.keys[none.head_step + key * none.key_step] = -HUGE_VALF;
    none.multiply();
    none.scored.check(window_product_scores(none));
    for (std::size_t key = 64; key < 70; ++key)
      none.keys[none.head_step + key * none.key_step] = -HUGE_VALF;
    const std::vector<float> scores = window_product_scores(none);
    CHECK(std::none_of(scores.begin(), scores.begin() + 70, [](float x) { return std::isnan(x); }));
    CHECK(std::all_of(scores.begin() + 70, scores.end(), [](float x) { return std::isnan(x); }));
  }
}

tokens::Budget budget(const EvictionCase& given, double part, bool is_limited) {
  return {part * given.value, given.rule, int32_t(part * given.value), is_limited ? given.minimum : 0,
      is_limited ? given.maximum : INT32_MAX};
}

/// In pages of so many positions, or contiguous. Has the numbers that move with rows, or not.
void evicts(const EvictionCase& given, int page, bool pages_are_of_heads, bool has_numbers) {
  using namespace kv_evict;
  const AttentionCase& cache = given.cache;
  const std::vector<std::vector<int>> kept = given.kept();
  const auto paged = [&](const std::vector<uint8_t>& rows, int format) {
    return PagedRows(cache, rows, format, page == 0 ? cache.capacity : page, pages_are_of_heads);
  };
  PagedRows keys = paged(cache.keys, cache.key_format), values = paged(cache.values, cache.value_format);
  if (page == 0)
    keys.bytes = cache.keys, values.bytes = cache.values;
  const int64_t held = pages_are_of_heads ? 1 : cache.kv_heads, positions = page == 0 ? cache.capacity : page;
  const float scale = 1;
  const auto plane = [&](std::vector<uint8_t>& bytes, int format) {
    const auto row = int64_t(cache.row_bytes(format));
    return kv::Plane{reinterpret_cast<uint64_t>(bytes.data()), held * positions * row, pages_are_of_heads ? 0 : positions * row, &scale,
        format == AUXCORE_KV_E4M3 ? 1 : 0, format, int32_t(row), page == 0 ? cache.batch : int32_t(keys.pages.size())};
  };
  std::vector<int32_t> lengths = cache.lengths, numbers = given.numbers;
  const std::size_t heads = lengths.size(), count = heads * std::size_t(cache.capacity);
  std::vector<float> means(count, -HUGE_VALF);
  std::vector<int32_t> indices(count, -7);
  std::vector<uint8_t> always(count, 0xff);
  std::vector<Head> of_heads(heads, Head{-7, -7, -7, -7});
  Arguments arguments = {};
  arguments.cache = {plane(keys.bytes, cache.key_format), plane(values.bytes, cache.value_format),
      page == 0 ? nullptr : keys.offsets.data(), page == 0 ? nullptr : keys.pages.data(), page == 0 ? 0 : int32_t(keys.pages.size()),
      cache.batch, cache.kv_heads, cache.head_dim, int32_t(positions), pages_are_of_heads};
  arguments.scores = given.scores.data();
  arguments.lengths = lengths.data();
  arguments.numbers = has_numbers ? numbers.data() : nullptr;
  arguments.counts = given.counts.empty() ? nullptr : given.counts.data();
  arguments.means = means.data();
  arguments.indices = indices.data();
  arguments.always = always.data();
  arguments.heads = of_heads.data();
  arguments.budget = budget(given, 1, true);
  arguments.own = budget(given, given.floor, false);
  arguments.head_floor = given.floor;
  arguments.score_positions = cache.capacity;
  arguments.number_positions = has_numbers ? cache.capacity : 0;
  arguments.pool_width = given.pool_width;
  arguments.sinks = given.sinks;
  arguments.recent = given.recent;
  arguments.heads_share = given.shares();
  const auto access = [](int row) { return row % 16 == 0 ? 16 : row % 8 == 0 ? 8 : row % 4 == 0 ? 4 : 2; };
  arguments.key_bytes = access(arguments.cache.keys.row_bytes);
  arguments.value_bytes = access(arguments.cache.values.row_bytes);
  simt::launch(auxcore_kv_evict_rank, {unsigned(heads), tokens::kRankThreads, 0}, arguments);
  if (given.shares())
    simt::launch(auxcore_kv_evict_share, {unsigned(cache.batch), tokens::kRankThreads, 0}, arguments);
  const int parts = columns_of(arguments.cache.keys) + columns_of(arguments.cache.values) + 1;
  simt::launch(auxcore_kv_evict_move, {unsigned(heads) * unsigned(parts), kMoveThreads, 0}, arguments);

  for (std::size_t head = 0; head < heads; ++head) {
    CHECK(lengths[head] == int32_t(kept[head].size()), "rule %d, head %zu keeps %d, not %zu", given.rule, head, lengths[head],
        kept[head].size());
    for (std::size_t i = 0; i < std::size_t(cache.capacity); ++i) {
      const std::size_t at = head * std::size_t(cache.capacity);
      const std::size_t from = at + (has_numbers && i < kept[head].size() ? std::size_t(kept[head][i]) : i);
      if (numbers[at + i] != given.numbers[from]) {
        CHECK(false, "rule %d, head %zu: number %zu is %d, not %d", given.rule, head, i, numbers[at + i], given.numbers[from]);
        return;
      }
    }
  }
  const auto check = [&](const char* name, const PagedRows& actual, const std::vector<uint8_t>& before, int format) {
    const std::vector<uint8_t> after = EvictionCase::moved(before, cache.row_bytes(format), cache.capacity, kept);
    CHECK(actual.bytes == (page == 0 ? after : paged(after, format).bytes), "%s in format %d, pages of %d, rule %d", name, format, page,
        given.rule);
  };
  check("keys", keys, cache.keys, cache.key_format);
  check("values", values, cache.values, cache.value_format);
}

void evictions_agree() {
  for (int i = 0; i < 6; ++i) {  // each format, of rows that take each width of access
    const int format = kStoredFormats[i], other = kStoredFormats[(i + 1) % 6];
    EvictionCase given({1, 2, 2, i % 2 == 0 ? 64 : 96, 70, format, other, {70, 33}, uint32_t(i)}, AUXCORE_BUDGET_RATIO, 0.6);
    given.pool_width = 2 * (i % 3) + 1;
    given.sinks = i % 3;
    given.recent = i % 4 * 9;
    evicts(given, 0, false, i % 2 == 0);
    if (i % 2 == 0)
      evicts(given, 16, i % 4 == 0, true);
  }
  // More rows than a block has under way at once; rows of 8 bytes, 2 at a time, are 16 lanes.
  EvictionCase tall({1, 1, 1, 8, 700, AUXCORE_KV_E4M3, AUXCORE_KV_F32, {700}}, AUXCORE_BUDGET_RATIO, 0.9);
  tall.pool_width = 5;
  evicts(tall, 0, false, true);
  // Heads with counts of their own: none, some, more than there are; shared, what one cannot keep goes to others.
  for (const double floor : {-1.0, 0.0, 0.3, 1.0}) {
    EvictionCase each({2, 3, 3, 8, 50, AUXCORE_KV_F32, AUXCORE_KV_BF16, {50, 20, 33, 32, 47, 12}}, AUXCORE_BUDGET_COUNT, 0);
    each.counts = {7, 30, 0, INT32_MAX, INT32_MAX, 11};  // beyond 32 bits together
    each.floor = floor;
    each.pool_width = 3;
    each.recent = floor == 0 ? 2 : 0;
    evicts(each, floor == 0.3 ? 16 : 0, floor == 0.3, true);
  }
  for (const int32_t rule : {AUXCORE_BUDGET_COUNT, AUXCORE_BUDGET_RATIO, AUXCORE_BUDGET_THRESHOLD}) {
    EvictionCase given({2, 3, 3, 8, 50, AUXCORE_KV_F32, AUXCORE_KV_BF16, {50, 0, 1, 32, 47, 12}}, rule,
        rule == AUXCORE_BUDGET_COUNT ? 12 : 0.25);
    given.minimum = 3;
    given.maximum = 40;
    given.sinks = 1;
    given.recent = 2;
    evicts(given, 0, false, false);
    if (rule == AUXCORE_BUDGET_THRESHOLD)
      continue;
    given.pool_width = 3;
    for (const double floor : {0.0, 0.25, 1.0}) {
      given.floor = floor;
      evicts(given, floor == 0.25 ? 16 : 0, floor == 0.25, true);
    }
  }
}

}  // namespace
}  // namespace auxcore

int main() {
  for (const uint32_t order : {0u, 1u, 4711u}) {
    simt::set_run_order(order);
    auxcore::window_scores_agree();
    auxcore::window_product_scores_agree();
    auxcore::evictions_agree();
  }
  return auxcore::test::result();
}
