// Greedy max-min in double, for the tests of kernels and of C functions.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace auxcore::test {

inline double cosine(const std::vector<float>& rows, int width, int left, int right) {
  double dot = 0, own = 0, other = 0;
  for (int k = 0; k < width; ++k) {
    const double a = rows[static_cast<std::size_t>(left * width + k)], b = rows[static_cast<std::size_t>(right * width + k)];
    dot += a * b, own += a * a, other += b * b;
  }
  return own == 0 || other == 0 ? 0 : dot / std::sqrt(own * other);
}

/// What is kept of the tokens from first to last, ascending.
inline std::vector<int32_t> most_diverse(const std::vector<float>& rows, int width, int first, int last, int count) {
  std::vector<int32_t> left, spoiled, kept;
  for (int token = first; token < last; ++token) {
    const auto row = rows.begin() + token * width;
    const bool is_finite = std::all_of(row, row + width, [](float x) { return std::isfinite(x); });
    (is_finite ? left : spoiled).push_back(token);
  }
  const std::vector<int32_t> all = left;
  while (!left.empty() && static_cast<int>(kept.size()) < count) {
    double least = HUGE_VAL;
    std::size_t best = 0;
    for (std::size_t i = 0; i < left.size(); ++i) {
      double nearest = -HUGE_VAL;
      for (const int32_t other : kept.empty() ? all : kept)
        if (other != left[i])
          nearest = std::max(nearest, cosine(rows, width, left[i], other));
      if (nearest < least)
        least = nearest, best = i;
    }
    kept.push_back(left[best]);
    left.erase(left.begin() + static_cast<std::ptrdiff_t>(best));
  }
  for (const int32_t token : spoiled)
    if (static_cast<int>(kept.size()) < count)
      kept.push_back(token);
  std::sort(kept.begin(), kept.end());
  return kept;
}

}  // namespace auxcore::test
