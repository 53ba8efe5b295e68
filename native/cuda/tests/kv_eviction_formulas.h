// KvWindowScores and KvEvict, plainly, for tests.
#pragma once

#include <tuple>

#include "check.h"
#include "kv_formulas.h"

namespace auxcore::test {

/// Means of softmaxes: [heads, positions] of logits [heads, group, window, positions].
struct WindowCase {
  int heads, group, window, positions;
  bool causal;
  double scale = 0.5;
  std::vector<float> logits;

  WindowCase(int heads_, int group_, int window_, int positions_, bool causal_)
      : heads(heads_), group(group_), window(window_), positions(positions_), causal(causal_),
        logits(static_cast<std::size_t>(heads * group * window * positions)) {
    uint32_t seed = static_cast<uint32_t>(positions);
    for (float& logit : logits) {
      seed = seed * 1664525u + 1013904223u;
      logit = static_cast<float>(seed >> 8 & 0xffff) / 1092.0f - 30;
    }
  }

  std::vector<double> expected() const {
    const auto columns = static_cast<std::size_t>(positions);
    std::vector<double> means(static_cast<std::size_t>(heads) * columns);
    for (int row = 0; row < heads * group * window; ++row) {
      const auto head = static_cast<std::size_t>(row / (group * window)), at = static_cast<std::size_t>(row) * columns;
      const auto seen = static_cast<std::size_t>(causal ? positions - window + row % window + 1 : positions);
      double total = 0;
      for (std::size_t i = 0; i < seen; ++i)
        total += std::exp(double{logits[at + i]} * scale);
      for (std::size_t i = 0; i < seen; ++i)
        means[head * columns + i] += std::exp(double{logits[at + i]} * scale) / total / (group * window);
    }
    return means;
  }

  void check(const std::vector<float>& scores) const {
    const std::vector<double> right = expected();
    for (std::size_t i = 0; i < right.size(); ++i)
      if (!(std::fabs(double{scores[i]} - right[i]) <= 1e-5 * *std::max_element(right.begin(), right.end()))) {
        CHECK(false, "%d heads, %d x %d rows, %d positions: score %zu is %g, not %g", heads, group, window, positions, i,
            double{scores[i]}, right[i]);
        return;
      }
  }
};

/// The same of queries [heads, group, window, depth] and keys [heads, positions, depth], which lie apart; between them there are NaN.
struct WindowProductCase {
  WindowCase scored;
  int depth;
  std::size_t key_step, head_step;
  std::vector<float> queries, keys;

  WindowProductCase(int heads, int group, int window, int positions, int depth_, bool causal)
      : scored(heads, group, window, positions, causal), depth(depth_), key_step(static_cast<std::size_t>(depth) + 3),
        head_step(static_cast<std::size_t>(positions) * key_step + 5),
        queries(static_cast<std::size_t>(heads * group * window * depth)), keys(static_cast<std::size_t>(heads) * head_step, NAN) {
    uint32_t seed = static_cast<uint32_t>(positions + depth);
    const auto next = [&] {
      seed = seed * 1664525u + 1013904223u;
      return static_cast<float>(seed >> 8 & 0xffff) / 16384.0f - 2;
    };
    std::generate(queries.begin(), queries.end(), next);
    for (std::size_t head = 0; head < static_cast<std::size_t>(heads); ++head)
      for (std::size_t key = 0; key < static_cast<std::size_t>(positions); ++key)
        std::generate_n(keys.begin() + static_cast<std::ptrdiff_t>(head * head_step + key * key_step), depth, next);
    multiply();
  }

  /// Makes the logits.
  void multiply() {
    const auto rows = static_cast<std::size_t>(scored.group * scored.window), columns = static_cast<std::size_t>(scored.positions);
    for (std::size_t i = 0; i < scored.logits.size(); ++i) {
      const std::size_t row = i / columns, key = row / rows * head_step + i % columns * key_step;
      double sum = 0;
      for (std::size_t k = 0; k < static_cast<std::size_t>(depth); ++k)
        sum += double{queries[row * static_cast<std::size_t>(depth) + k]} * double{keys[key + k]};
      scored.logits[i] = static_cast<float>(sum);
    }
  }
};

/// What is evicted from a cache, by a sort. Scores have ties, and NaN among them.
struct EvictionCase {
  AttentionCase cache;
  int32_t rule;
  double value;  // also the count
  int32_t minimum = 0, maximum = INT32_MAX, pool_width = 1, sinks = 0, recent = 0;
  double floor = -1;  // 0 and above: heads share
  std::vector<int32_t> counts;   // [batch, kv_heads]: how many each head keeps, with rule count and value 0; or empty
  std::vector<float> scores;     // [batch, kv_heads, capacity]
  std::vector<int32_t> numbers;  // likewise

  EvictionCase(AttentionCase cache_, int32_t rule_, double value_)
      : cache(std::move(cache_)), rule(rule_), value(value_), scores(cache.lengths.size() * static_cast<std::size_t>(cache.capacity)),
        numbers(scores.size()) {
    uint32_t seed = static_cast<uint32_t>(cache.capacity);
    for (std::size_t i = 0; i < scores.size(); ++i) {
      seed = seed * 1664525u + 1013904223u;
      const auto any = static_cast<int>(seed >> 8 & 0xffff);
      scores[i] = any % 37 == 0 ? NAN : static_cast<float>(any % 61 - 20) / 8.0f + static_cast<float>(i % 7);
      numbers[i] = static_cast<int32_t>(i) * 3;
    }
  }

  bool shares() const { return floor >= 0; }

  /// The places of what is kept of each head.
  std::vector<std::vector<int>> kept() const {
    const auto heads = static_cast<std::size_t>(cache.kv_heads), all = cache.lengths.size();
    std::vector<std::vector<int>> result(all);
    for (std::size_t first = 0; first < all; first += heads) {
      std::vector<Candidate> shared;
      int64_t total = 0;
      for (std::size_t head = first; head < first + heads; ++head) {
        std::vector<Candidate> own = candidates(head);
        if (!shares()) {
          for (const Candidate& one : best(own, count_of(own, value_of(head), minimum, maximum)))
            result[head].push_back(one.position);
          continue;
        }
        total += std::max(count_of(own, value_of(head), minimum, maximum), counts.empty() ? 0 : counts[head]);
        for (const Candidate& one : best(own, count_of(own, value_of(head) * floor, 0, INT32_MAX)))
          own[static_cast<std::size_t>(one.position)].is_always = true;
        shared.insert(shared.end(), own.begin(), own.end());
      }
      for (const Candidate& one : best(shared, total))
        result[one.head].push_back(one.position);
    }
    for (std::vector<int>& places : result)
      std::sort(places.begin(), places.end());
    return result;
  }

  /// Rows of so many bytes [batch, kv_heads, capacity] after the eviction.
  static std::vector<uint8_t> moved(const std::vector<uint8_t>& rows, std::size_t bytes, int capacity,
      const std::vector<std::vector<int>>& places) {
    std::vector<uint8_t> result = rows;
    for (std::size_t head = 0; head < places.size(); ++head)
      for (std::size_t i = 0; i < places[head].size(); ++i) {
        const std::size_t from = head * static_cast<std::size_t>(capacity) + static_cast<std::size_t>(places[head][i]);
        std::memcpy(&result[(head * static_cast<std::size_t>(capacity) + i) * bytes], &rows[from * bytes], bytes);
      }
    return result;
  }

 private:
  double value_of(std::size_t head) const { return counts.empty() ? value : counts[head]; }

  struct Candidate {
    std::size_t head;
    int position;
    float mean;
    bool is_always;
  };

  std::vector<Candidate> candidates(std::size_t head) const {
    const int length = cache.lengths[head], end = std::max(0, length - recent);
    const float* const own = &scores[head * static_cast<std::size_t>(cache.capacity)];
    std::vector<Candidate> all;
    for (int t = 0; t < length; ++t) {
      double sum = 0;
      for (int i = std::max(0, t - pool_width / 2); i < std::min(end, t + pool_width / 2 + 1); ++i)
        sum += double{own[i]};
      const float mean = pool_width == 1 || t >= end ? own[t] : static_cast<float>(sum / pool_width);
      all.push_back({head, t, mean, t < sinks || t >= end});
    }
    return all;
  }

  int count_of(const std::vector<Candidate>& all, double of, int least, int most) const {
    const auto length = static_cast<int>(all.size());
    int count = rule == AUXCORE_BUDGET_COUNT ? static_cast<int>(of) : static_cast<int>(std::floor(of * length + 0.5)), always = 0;
    if (rule == AUXCORE_BUDGET_THRESHOLD)
      count = static_cast<int>(
          std::count_if(all.begin(), all.end(), [&](const Candidate& one) { return one.is_always || one.mean >= static_cast<float>(of); }));
    for (const Candidate& one : all)
      always += one.is_always;
    return std::max(always, std::clamp(std::min(count, length), std::min(least, length), std::min(most, length)));
  }

  static std::vector<Candidate> best(std::vector<Candidate> all, int64_t count) {
    const auto rank = [](const Candidate& one) {  // what is less is kept first
      return std::tuple(!one.is_always, !one.is_always && std::isnan(one.mean),
          one.is_always || std::isnan(one.mean) ? 0.0f : -one.mean, one.head, one.position);
    };
    std::sort(all.begin(), all.end(), [&](const Candidate& a, const Candidate& b) { return rank(a) < rank(b); });
    const int64_t always = std::count_if(all.begin(), all.end(), [](const Candidate& one) { return one.is_always; });
    all.resize(static_cast<std::size_t>(std::min(static_cast<int64_t>(all.size()), std::max(count, always))));
    return all;
  }
};

}  // namespace auxcore::test
