// The kernels of merging in the simulator, in three orders of threads: segments around the edges of warps and tiles, candidates in chunks,
// against cosines in double; and sums of members, bit for bit.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "../token_pruning/token_merge.cuh"
#include "check.h"
#include "launch.h"
#include "random.h"

namespace auxcore {

namespace token_merge {
extern "C" void auxcore_match_norms(Match match);
extern "C" void auxcore_match_lists(Match match);
extern "C" void auxcore_match_nearest(Match match);
extern "C" void auxcore_match_assign(Match match);
extern "C" void auxcore_match_bipartite(Match match);
extern "C" void auxcore_merge_groups(Groups groups);
extern "C" void auxcore_merge_rows(Groups groups);
extern "C" void auxcore_merge_backward(Groups groups);
}  // namespace token_merge

namespace {

using namespace token_merge;

using test::next_random;

float random_value() { return float(int(next_random() % 2001) - 1000) / 1024.0f; }

std::vector<float> random_values(size_t count) {
  std::vector<float> values(count);
  std::generate(values.begin(), values.end(), random_value);
  return values;
}

/// A batch on the host, and what its kernels need.
class Matching {
 public:
  Matching(std::vector<float> metric, int depth, std::vector<int32_t> bounds, int chunks)
      : metric_(std::move(metric)), depth_(depth), bounds_(std::move(bounds)), tokens_(int32_t(metric_.size()) / depth),
        scales_(size(tokens_)), sources_(size(tokens_), -7), candidates_(size(tokens_), -7), counts_(2 * bounds_.size(), -7),
        similarities_(size(chunks * tokens_), -7), nearest_(size(chunks * tokens_), -7) {
    slots.assign(size(tokens_), -7);
    offsets.assign(bounds_.size(), -7);
    match = {metric_.data(), bounds_.data(), nullptr, slots.data(), offsets.data(), scales_.data(), sources_.data(), candidates_.data(),
        counts_.data(), similarities_.data(), nearest_.data(), tokens::kFloat32, tokens_, depth, segments(), chunks, 0, 0, 0};
  }

  int32_t segments() const { return int32_t(bounds_.size()) - 1; }
  const std::vector<int32_t>& bounds() const { return bounds_; }

  void run(bool is_bipartite) {
    match.is_bipartite = is_bipartite;
    const unsigned tiles = unsigned((tokens_ + kTileTokens - 1) / kTileTokens + segments());
    const simt::Shape by_segment = {unsigned(segments()), tokens::kRankThreads, 0};
    simt::launch(auxcore_match_norms, {unsigned(tokens_ * tokens::kWarp + kThreads - 1) / kThreads, kThreads, 0}, match);
    simt::launch(auxcore_match_lists, by_segment, match);
    simt::launch(auxcore_match_nearest, {tiles * unsigned(match.chunks), kThreads, 0}, match);
    simt::launch(is_bipartite ? auxcore_match_bipartite : auxcore_match_assign, by_segment, match);
  }

  double cosine(int32_t left, int32_t right) const {
    double dot = 0, own = 0, other = 0;
    for (int k = 0; k < depth_; ++k) {
      const double a = metric_[size(left * depth_ + k)], b = metric_[size(right * depth_ + k)];
      dot += a * b, own += a * a, other += b * b;
    }
    return dot / std::sqrt(own * other);
  }

  int32_t nearest_of(int32_t token, const std::vector<int32_t>& among) const {
    return *std::max_element(among.begin(), among.end(), [&](int32_t a, int32_t b) { return cosine(token, a) < cosine(token, b); });
  }

  static size_t size(int64_t count) { return size_t(count); }

  std::vector<int32_t> slots, offsets;
  Match match;

 private:
  std::vector<float> metric_;
  int depth_;
  std::vector<int32_t> bounds_;
  int32_t tokens_;
  std::vector<double> scales_;
  std::vector<int32_t> sources_, candidates_, counts_;
  std::vector<float> similarities_;
  std::vector<int32_t> nearest_;
};

void the_most_similar_pairs_are_merged(const std::vector<int32_t>& bounds, int depth, int chunks, int merged, int protect) {
  Matching given(random_values(size_t(bounds.back() * depth)), depth, bounds, chunks);
  given.match.merged = merged;
  given.match.protect = protect;
  given.run(true);
  std::vector<int32_t> expected(size_t(bounds.back()), -1), offsets = {0};
  int32_t slot = 0;
  for (size_t b = 0; b + 1 < bounds.size(); ++b) {
    std::vector<int32_t> sources, odd;
    for (int32_t token = bounds[b]; token < bounds[b + 1]; ++token)
      if ((token - bounds[b]) % 2 == 1)
        odd.push_back(token);
      else if (token - bounds[b] >= protect && bounds[b + 1] - bounds[b] > 1)
        sources.push_back(token);
    std::vector<double> best(expected.size());
    for (const int32_t token : sources)
      best[size_t(token)] = given.cosine(token, given.nearest_of(token, odd));
    std::sort(sources.begin(), sources.end(), [&](int32_t a, int32_t c) {
      const double first = best[size_t(a)], second = best[size_t(c)];
      return first > second || (first >= second && a < c);
    });
    sources.resize(std::min(sources.size(), size_t(merged)));
    for (int32_t token = bounds[b]; token < bounds[b + 1]; ++token)
      if (std::find(sources.begin(), sources.end(), token) == sources.end())
        expected[size_t(token)] = slot++;
    for (const int32_t token : sources)
      expected[size_t(token)] = expected[size_t(given.nearest_of(token, odd))];
    offsets.push_back(slot);
  }
  CHECK(given.slots == expected, "%d tokens, depth %d, %d chunks, %d merged", bounds.back(), depth, chunks, merged);
  CHECK(given.offsets == offsets);
}

void tokens_without_a_slot_get_that_of_the_nearest(const std::vector<int32_t>& bounds, int depth, int chunks, bool targeted) {
  Matching given(random_values(size_t(bounds.back() * depth)), depth, bounds, chunks);
  std::vector<uint8_t> targets(given.slots.size());
  for (size_t i = 0; i < given.slots.size(); ++i) {
    given.slots[i] = next_random() % 3 == 0 ? int32_t(i) * 10 : -1;
    targets[i] = next_random() % 2 == 0;
  }
  given.match.targets = targeted ? targets.data() : nullptr;
  std::vector<int32_t> expected = given.slots;
  for (size_t b = 0; b + 1 < bounds.size(); ++b) {
    std::vector<int32_t> kept;
    for (int32_t token = bounds[b]; token < bounds[b + 1]; ++token)
      if (given.slots[size_t(token)] >= 0 && (!targeted || targets[size_t(token)] != 0))
        kept.push_back(token);
    for (int32_t token = bounds[b]; token < bounds[b + 1] && !kept.empty(); ++token)
      if (given.slots[size_t(token)] < 0)
        expected[size_t(token)] = given.slots[size_t(given.nearest_of(token, kept))];
  }
  given.run(false);
  CHECK(given.slots == expected, "%d tokens, depth %d, %d chunks, targets %d", bounds.back(), depth, chunks, targeted);
}

/// Tokens 0 and 2 are as similar to 1 as to 3; 4 is zero, as similar to all; 6 is NaN, similar to none.
void ties_zero_and_nan_are_defined() {
  for (const int chunks : {1, 3}) {
    for (const int merged : {1, 4}) {
      Matching given({1, 0, 2, 0, 3, 0, 4, 0, 0, 0, -1, 0, NAN, 1}, 2, {0, 7}, chunks);
      given.match.merged = merged;
      given.run(true);
      CHECK(given.slots == (merged == 1 ? std::vector<int32_t>{0, 0, 1, 2, 3, 4, 5} : std::vector<int32_t>{0, 0, 0, 1, 0, 2, 0}));
    }
    Matching far({1e30f, 0, 1e30f, 1e-30f, 0, 1e-40f, 0, 1}, 2, {0, 4}, chunks);
    far.match.merged = 2;
    far.run(true);
    CHECK(far.slots == std::vector<int32_t>({0, 0, 1, 1}), "norms that float32 does not hold");
  }
}

void what_bounds_say_is_held_within_the_tokens() {
  for (const std::vector<int32_t>& bounds :
      {std::vector<int32_t>{0, 900, 3, -5, 1 << 30}, {-9, 20, 10, 20}, {7, 7}, {0, 200, 0, 200, 0, 200}})
    for (const bool is_bipartite : {false, true}) {
      const int tokens = bounds[1] == 200 ? 200 : 20;
      Matching given(random_values(size_t(tokens) * 3), 3, bounds, 2);
      given.match.merged = 3;
      given.slots.assign(size_t(tokens), -1);
      given.slots[2] = 1;
      given.run(is_bipartite);
    }
}

void slots_become_means_and_shares(int tokens, int kept, int width, bool sized) {
  const auto size = [](int count) { return size_t(count); };
  const std::vector<float> rows = random_values(size(tokens * width)), above = random_values(size(kept * width));
  std::vector<float> sizes(size(tokens), 1), merged(size(kept * width), -7), merged_sizes(size(kept), -7), spread(size(tokens * width), -7);
  std::vector<int32_t> slots(size(tokens)), order(size(tokens), -7), begins(size(kept + 1), -7);
  for (size_t i = 0; i < slots.size(); ++i) {
    const int32_t none[] = {-1, -9, kept, INT32_MAX};
    slots[i] = kept == 0 || next_random() % 5 == 0 ? none[next_random() % 4] : int32_t(next_random() % uint32_t(kept));
    if (sized)
      sizes[i] = float(1 + next_random() % 99) / 3;
  }
  Groups groups = {rows.data(), merged.data(), slots.data(), sized ? sizes.data() : nullptr, merged_sizes.data(), order.data(),
      begins.data(), tokens::kFloat32, tokens, kept, width};
  const simt::Shape places = {unsigned(std::max(tokens, kept + 1) + kThreads - 1) / kThreads, kThreads, 0};
  simt::launch(auxcore_merge_groups, places, groups);
  if (kept > 0)
    simt::launch(auxcore_merge_rows, {unsigned(kept), kThreads, 0}, groups);
  groups.source = above.data();
  groups.destination = spread.data();
  simt::launch(auxcore_merge_backward, {unsigned(tokens), kThreads, 0}, groups);

  std::vector<float> totals(size(kept)), means(size(kept * width));
  std::vector<int> members(size(kept));
  for (int i = 0; i < tokens; ++i) {
    const int32_t slot = slots[size(i)];
    if (slot < 0 || slot >= kept)
      continue;
    totals[size(slot)] += sizes[size(i)];
    const bool is_first = members[size(slot)]++ == 0;
    for (int k = 0; k < width; ++k) {
      float& sum = means[size(slot * width + k)];
      sum = is_first ? sizes[size(i)] * rows[size(i * width + k)] : std::fma(sizes[size(i)], rows[size(i * width + k)], sum);
    }
  }
  for (int i = 0; i < tokens; ++i) {
    const int32_t slot = slots[size(i)];
    const bool is_in = slot >= 0 && slot < kept;
    for (int k = 0; k < width; ++k) {
      if (is_in && members[size(slot)] == 1)
        CHECK(merged[size(slot * width + k)] == rows[size(i * width + k)], "one member is copied");
      CHECK(spread[size(i * width + k)] == (is_in ? sizes[size(i)] / totals[size(slot)] * above[size(slot * width + k)] : 0));
    }
  }
  for (int slot = 0; slot < kept; ++slot)
    for (int k = 0; k < width && members[size(slot)] != 1; ++k)
      CHECK(merged[size(slot * width + k)] == (members[size(slot)] == 0 ? 0 : means[size(slot * width + k)] / totals[size(slot)]));
  CHECK(merged_sizes == totals, "%d tokens into %d slots", tokens, kept);
}

}  // namespace
}  // namespace auxcore

int main() {
  using namespace auxcore;
  for (const uint32_t order : {0u, 1u, 12345u}) {
    simt::set_run_order(order);
    for (const std::vector<int32_t>& bounds : {std::vector<int32_t>{0, 1}, {0, 2}, {0, 5, 5, 70}, {0, 128, 131}, {0, 290}})
      for (const int chunks : {1, 3}) {
        const int depth = bounds.size() % 2 == 0 ? 17 : 9;
        the_most_similar_pairs_are_merged(bounds, depth, chunks, chunks == 1 ? 0 : 9999, 3);
        the_most_similar_pairs_are_merged(bounds, depth, chunks, 20, 0);
        tokens_without_a_slot_get_that_of_the_nearest(bounds, depth, chunks, chunks == 1);
      }
    ties_zero_and_nan_are_defined();
    what_bounds_say_is_held_within_the_tokens();
    for (const bool sized : {false, true}) {
      slots_become_means_and_shares(1, 1, 1, sized);
      slots_become_means_and_shares(9, 4, 5, sized);
      slots_become_means_and_shares(300, 40, 300, sized);
      slots_become_means_and_shares(3, 0, 7, sized);
      slots_become_means_and_shares(40, 300, 3, sized);
    }
  }
  return test::result();
}
