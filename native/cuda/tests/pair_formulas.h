// The losses over pairs as their papers write them, in double and with n x n numbers: what the tests hold the kernels against.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace auxcore::test {

struct PairGradients {
  std::vector<double> first, second, loss;
};

/// A forward-backward batch. Values are those of pattern(), made small.
struct ForwardBackwardCase {
  int heads, n, d, target;  ///< target: AUXCORE_FB_MEAN, …
  bool is_difference;
  double discount = 0.9, penalty = 0.3, diagonal_weight = 1, orthonormality = 0.7;
  std::vector<float> f = {}, b = {}, f_bar = {}, b_bar = {};
  std::vector<uint8_t> done = {};

  double dot(const std::vector<float>& left, int i, const std::vector<float>& right, int j) const {
    double sum = 0;
    for (int k = 0; k < d; ++k)
      sum += double{left[std::size_t(i * d + k)]} * double{right[std::size_t(j * d + k)]};
    return sum;
  }

  double target_of(int i, int j) const {
    if (done[std::size_t(i)])
      return 0;
    double sum = 0, least = 0, disagreement = 0;
    for (int e = 0; e < heads; ++e) {
      const double own = dot(f_bar, e * n + i, b_bar, j);
      sum += own;
      least = e == 0 || own < least ? own : least;
      for (int other = 0; other < e; ++other)
        disagreement += std::fabs(own - dot(f_bar, other * n + i, b_bar, j)) / (heads * (heads - 1) / 2);
    }
    return discount * (target == 1 ? least : sum / heads - (target == 2 ? penalty * disagreement : 0));
  }

  PairGradients formula() const {
    PairGradients result{std::vector<double>(f.size()), std::vector<double>(b.size()), std::vector<double>(4)};
    const double pairs = n * (n - 1.0);
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j) {
        const double aim = target_of(i, j), together = dot(b, i, b, j);
        for (int e = 0; e < heads; ++e) {
          const double product = dot(f, e * n + i, b, j), difference = product - aim;
          const double slope = i == j ? -diagonal_weight / n : difference / pairs;
          if (i == j)
            result.loss[1] -= diagonal_weight * (is_difference ? difference : product) / n;
          else
            result.loss[0] += difference * difference / (2 * pairs);
          for (int k = 0; k < d; ++k) {
            result.first[std::size_t((e * n + i) * d + k)] += slope * double{b[std::size_t(j * d + k)]};
            result.second[std::size_t(j * d + k)] += slope * double{f[std::size_t((e * n + i) * d + k)]};
          }
        }
        const double slope = orthonormality * (i == j ? -2.0 / n : 2 * together / pairs);
        result.loss[i == j ? 3 : 2] += orthonormality * (i == j ? -together / n : together * together / (2 * pairs));
        for (int k = 0; k < d; ++k)
          result.second[std::size_t(i * d + k)] += slope * double{b[std::size_t(j * d + k)]};
      }
    return result;
  }
};

/// An InfoNCE batch.
struct InfoNceCase {
  int n, d, similarity;  ///< similarity: AUXCORE_INFO_NCE_NEGATIVE_DISTANCE, …
  bool is_symmetric, excludes_positives;
  double temperature = 1.5, penalty = 0.1, offset = 1e-3;
  std::vector<float> queries = {}, keys = {};

  double sum(const std::vector<float>& left, int i, const std::vector<float>& right, int j, bool of_squares) const {
    double total = 0;
    for (int k = 0; k < d; ++k) {
      const double a = double{left[std::size_t(i * d + k)]}, b = double{right[std::size_t(j * d + k)]};
      total += of_squares ? (a - b) * (a - b) : a * b;
    }
    return total;
  }

  double logit(int i, int j) const {
    const double dot = sum(queries, i, keys, j, false), square = sum(queries, i, keys, j, true);
    const double norms = std::sqrt(sum(queries, i, queries, i, false) * sum(keys, j, keys, j, false));
    const double value = similarity == 0 ? -std::sqrt(square + offset) : similarity == 1 ? -square : similarity == 2 ? dot : dot / norms;
    return value / temperature;
  }

  PairGradients formula() const {
    PairGradients result{std::vector<double>(queries.size()), std::vector<double>(keys.size()), std::vector<double>(2)};
    std::vector<double> rows(static_cast<std::size_t>(n)), columns(rows);
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) {
        rows[std::size_t(i)] += i == j && excludes_positives ? 0 : std::exp(logit(i, j));
        columns[std::size_t(i)] += i == j && excludes_positives ? 0 : std::exp(logit(j, i));
      }
      rows[std::size_t(i)] = std::log(rows[std::size_t(i)]);
      columns[std::size_t(i)] = std::log(columns[std::size_t(i)]);
      result.loss[0] += (rows[std::size_t(i)] - logit(i, i) + (is_symmetric ? columns[std::size_t(i)] - logit(i, i) : 0)) / n;
      result.loss[1] += penalty * rows[std::size_t(i)] * rows[std::size_t(i)] / n;
    }
    for (int i = 0; i < n; ++i)
      for (int j = 0; j < n; ++j)
        add_slopes(i, j, slope(i, j, rows[std::size_t(i)], columns[std::size_t(j)]) / (n * temperature), result);
    return result;
  }

  double slope(int i, int j, double row, double column) const {
    const bool is_in = i != j || !excludes_positives;
    return (is_in ? std::exp(logit(i, j) - row) * (1 + 2 * penalty * row) : 0) +
        (is_in && is_symmetric ? std::exp(logit(i, j) - column) : 0) - (i == j ? is_symmetric ? 2 : 1 : 0);
  }

  void add_slopes(int i, int j, double slope, PairGradients& result) const {
    const double root = std::sqrt(sum(queries, i, keys, j, true) + offset), dot = sum(queries, i, keys, j, false);
    const double a = std::sqrt(sum(queries, i, queries, i, false)), b = std::sqrt(sum(keys, j, keys, j, false)), cosine = dot / (a * b);
    for (int k = 0; k < d; ++k) {
      const double query = double{queries[std::size_t(i * d + k)]}, key = double{keys[std::size_t(j * d + k)]};
      const double apart = similarity == 0 ? 1 / root : 2;
      const double to_query = similarity < 2 ? apart * (key - query) : similarity == 2 ? key : (key / b - cosine * query / a) / a;
      const double to_key = similarity < 2 ? apart * (query - key) : similarity == 2 ? query : (query / a - cosine * key / b) / b;
      result.first[std::size_t(i * d + k)] += slope * to_query;
      result.second[std::size_t(j * d + k)] += slope * to_key;
    }
  }
};

/// The largest difference, relative to the largest expected magnitude; infinite where anything is NaN.
template <class T>
double distance(const std::vector<T>& actual, const std::vector<double>& expected) {
  double difference = 0, scale = 1e-30;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double apart = std::fabs(static_cast<double>(actual[i]) - expected[i]);
    difference = apart <= difference ? difference : apart;
    scale = std::fabs(expected[i]) > scale ? std::fabs(expected[i]) : scale;
  }
  return std::isnan(difference) ? HUGE_VAL : difference / scale;
}

}  // namespace auxcore::test
