// The kernels of greedy max-min in the simulator, in three orders of threads: segments around the edges of warps, tiles and blocks, against
// the formula in double.
#include <algorithm>
#include <cmath>
#include <vector>

#include "../token_pruning/token_diversity.cuh"
#include "check.h"
#include "launch.h"
#include "random.h"
#include "token_formulas.h"

namespace auxcore {

namespace token_diversity {
extern "C" void auxcore_diversity_norms(Arguments arguments);
extern "C" void auxcore_diversity_similarities(Arguments arguments);
extern "C" void auxcore_diversity_nearest(Arguments arguments);
extern "C" void auxcore_diversity_choose(Arguments arguments);
}  // namespace token_diversity

namespace {

using namespace token_diversity;

float random_value() { return float(int(test::next_random()) % 2001 - 1000) / 1024.0f; }

struct Selection {
  std::vector<int32_t> indices, offsets, slots, nan_counts;
};

Selection choose(const std::vector<float>& rows, int width, const std::vector<int32_t>& bounds, int count, int longest, int capacity) {
  const int tokens = int(rows.size()) / width, segments = int(bounds.size()) - 1;
  const auto size = [](int64_t elements) { return size_t(elements); };
  Selection selection = {std::vector<int32_t>(size(capacity), -7), std::vector<int32_t>(bounds.size(), -7),
      std::vector<int32_t>(size(tokens), -7), std::vector<int32_t>(size(segments), -7)};
  std::vector<double> scales(size(tokens), NAN);
  std::vector<float> nearest(size(tokens), NAN), similarities(size(tokens * longest), NAN);
  std::vector<int32_t> is_chosen(size(tokens), -7);
  const Arguments arguments = {rows.data(), bounds.data(), selection.indices.data(), selection.offsets.data(), selection.slots.data(),
      selection.nan_counts.data(), scales.data(), nearest.data(), is_chosen.data(), similarities.data(), tokens::kFloat32, tokens, width,
      segments, count, longest, capacity};
  const simt::Shape by_warps = {unsigned(tokens * tokens::kWarp + kThreads - 1) / kThreads, kThreads, 0};
  const unsigned row_tiles = unsigned((tokens + kTileTokens - 1) / kTileTokens + segments);
  simt::launch(auxcore_diversity_norms, by_warps, arguments);
  simt::launch(auxcore_diversity_similarities, {row_tiles * unsigned((longest + kTileTokens - 1) / kTileTokens), kThreads, 0}, arguments);
  simt::launch(auxcore_diversity_nearest, by_warps, arguments);
  simt::launch(auxcore_diversity_choose, {unsigned(segments), tokens::kRankThreads, 0}, arguments);
  return selection;
}

void the_most_diverse_are_kept(std::vector<float> rows, int width, const std::vector<int32_t>& bounds, int count) {
  int longest = 0, spoiled = 0;
  std::vector<int32_t> indices, offsets = {0}, slots(rows.size() / size_t(width), -1), nan_counts;
  for (size_t b = 0; b + 1 < bounds.size(); ++b) {
    longest = std::max(longest, bounds[b + 1] - bounds[b]);
    for (const int32_t token : test::most_diverse(rows, width, bounds[b], bounds[b + 1], count)) {
      slots[size_t(token)] = int32_t(indices.size());
      indices.push_back(token);
    }
    spoiled = 0;
    for (int32_t token = bounds[b]; token < bounds[b + 1]; ++token) {
      const auto row = rows.begin() + token * width;
      spoiled += !std::all_of(row, row + width, [](float x) { return std::isfinite(x); });
    }
    offsets.push_back(int32_t(indices.size()));
    nan_counts.push_back(spoiled);
  }
  const Selection selection = choose(rows, width, bounds, count, longest, int(indices.size()));
  CHECK(selection.indices == indices, "%d of %d tokens, width %d", count, bounds.back(), width);
  CHECK(selection.offsets == offsets && selection.slots == slots && selection.nan_counts == nan_counts);
}

void what_bounds_say_is_held_within_the_tokens() {
  std::vector<float> rows(20 * 3);
  std::generate(rows.begin(), rows.end(), random_value);
  for (const std::vector<int32_t>& bounds : {std::vector<int32_t>{0, 900, 3, -5, 1 << 30}, {-9, 20, 10, 20}, {7, 7}})
    for (const int longest : {1, 20})
      choose(rows, 3, bounds, 4, longest, 5);
}

}  // namespace
}  // namespace auxcore

int main() {
  using namespace auxcore;
  for (const uint32_t order : {0u, 1u, 12345u}) {
    simt::set_run_order(order);
    for (const std::vector<int32_t>& bounds : {std::vector<int32_t>{0, 1}, {0, 2}, {0, 5, 5, 70}, {0, 128, 131}, {0, 129}})
      for (const int count : {0, 1, 9, 999})
        for (const bool is_spoiled : {false, true}) {
          const int width = bounds.size() % 2 == 0 ? 17 : 9;
          std::vector<float> rows(size_t(bounds.back() * width));
          std::generate(rows.begin(), rows.end(), random_value);
          for (int token = 1; is_spoiled && token < bounds.back(); token += 3)
            rows[size_t(token * width + token % width)] = token % 2 == 0 ? NAN : -INFINITY;
          the_most_diverse_are_kept(rows, width, bounds, count);
        }
    // Equal tokens, opposite ones, and one of norm 0, which is similar to none.
    for (int count = 1; count <= 7; ++count)
      the_most_diverse_are_kept({1, 0, 2, 0, 0, 0, -1, 0, 1, 0, 0, 3, NAN, 0}, 2, {0, 7}, count);
    the_most_diverse_are_kept(std::vector<float>(1100 * 2, 1), 2, {0, 1100}, 3);
    what_bounds_say_is_held_within_the_tokens();
  }
  return test::result();
}
