// The formats of KV caches and attention over them, plainly, for tests.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../include/auxcore.h"

namespace auxcore::test {

constexpr int kStoredFormats[] = {
    AUXCORE_KV_F32, AUXCORE_KV_F16, AUXCORE_KV_BF16, AUXCORE_KV_E4M3, AUXCORE_KV_Q8_0, AUXCORE_KV_Q4_0};
constexpr int kAttentionFormats[] = {AUXCORE_KV_F32, AUXCORE_KV_F16, AUXCORE_KV_BF16, AUXCORE_KV_Q8_0, AUXCORE_KV_Q4_0};

inline bool is_grouped(int format) { return format == AUXCORE_KV_Q8_0 || format == AUXCORE_KV_Q4_0 || format == AUXCORE_KV_KIVI4; }

inline std::size_t group_size(int format) { return is_grouped(format) ? 32 : 1; }

inline std::size_t group_bytes(int format) {
  constexpr std::size_t kBytes[] = {4, 2, 2, 1, 34, 18, 20};
  return kBytes[format];
}

inline std::size_t stored_bytes(int format, std::size_t elements) { return elements / group_size(format) * group_bytes(format); }

template <class To, class From>
To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

inline double of_half(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const double magnitude = exponent == 31 ? (mantissa != 0 ? NAN : HUGE_VAL)
                           : exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

/// The nearest, ties to even; a NaN keeps its upper payload.
inline uint16_t to_half(float x) {
  const auto bits = bits_as<uint32_t>(x);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  if (std::isnan(x))
    return static_cast<uint16_t>(sign | 0x7e00 | (bits >> 13 & 0x3ff));
  const double magnitude = std::fabs(double{x});
  if (magnitude >= 65520)
    return static_cast<uint16_t>(sign | 0x7c00);
  const int exponent = magnitude < 0x1p-14 ? -14 : std::ilogb(magnitude);
  const auto steps = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));  // 2048 is the next binade's 1024
  return static_cast<uint16_t>(sign | (steps + ((exponent + 14) << 10)));
}

inline uint16_t to_bfloat(float x) {
  const auto bits = bits_as<uint32_t>(x);
  return static_cast<uint16_t>(std::isnan(x) ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline double of_eighth(uint8_t bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  const double magnitude = (bits & 0x7f) == 0x7f ? NAN : exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return bits >= 0x80 ? -magnitude : magnitude;
}

inline uint8_t to_eighth(float x) {
  const int sign = std::signbit(x) ? 0x80 : 0;
  if (std::isnan(x))
    return static_cast<uint8_t>(sign | 0x7f);
  const double magnitude = std::min(std::fabs(double{x}), 448.0);
  const int exponent = magnitude < 0x1p-6 ? -6 : std::ilogb(magnitude);
  return static_cast<uint8_t>(sign | (static_cast<int>(std::nearbyint(std::ldexp(magnitude, 3 - exponent))) + ((exponent + 6) << 3)));
}

/// The greatest binary16 that is at most x, among the finite ones; found by trying.
inline uint16_t half_at_most(double x) {
  const auto of_order = [](int order) { return of_half(static_cast<uint16_t>(order < 0 ? 0x8000 | -order : order)); };
  int low = -0x7bff, high = 0x7bff;
  while (low < high) {
    const int middle = (low + high + 1) >> 1;
    if (of_order(middle) <= x)
      low = middle;
    else
      high = middle - 1;
  }
  return static_cast<uint16_t>(low < 0 ? 0x8000 | -low : low);
}

inline uint16_t half_at_least(double x) {
  const uint16_t bits = half_at_most(-x);
  return static_cast<uint16_t>(bits == 0 ? 0 : bits ^ 0x8000);
}

/// KIVI-4, with x[i * step].
inline void store_kivi(const float* x, std::size_t step, uint8_t* y) {
  float least = x[0], greatest = x[0];
  bool is_finite = true;
  for (std::size_t i = 0; i < 32; ++i) {
    least = std::min(least, x[i * step]);
    greatest = std::max(greatest, x[i * step]);
    is_finite = is_finite && std::isfinite(x[i * step]);
  }
  uint16_t halves[2] = {0xfe00, 0};
  if (is_finite) {
    halves[1] = half_at_most(double{least});
    halves[0] = half_at_least(double{(greatest - static_cast<float>(of_half(halves[1]))) / 15});
  }
  std::memcpy(y, halves, 4);
  const auto shift = static_cast<float>(of_half(halves[1])), s = static_cast<float>(of_half(halves[0]));
  const auto four = [&](std::size_t i) {
    if (!is_finite || halves[0] == 0)
      return 0;
    const volatile float product = (x[i * step] - shift) * (1 / s);  // rounded apart from what follows
    return static_cast<int>(std::clamp(std::floor(product + 0.5f), 0.0f, 15.0f));
  };
  for (std::size_t i = 0; i < 16; ++i)
    y[4 + i] = static_cast<uint8_t>(four(i) | four(16 + i) << 4);
}

inline void store_group(int format, const float* x, uint8_t* y) {
  if (format == AUXCORE_KV_KIVI4)
    return store_kivi(x, 1, y);
  float extreme = 0;
  bool is_finite = true;
  for (int i = 0; i < 32; ++i) {
    extreme = std::fabs(x[i]) > std::fabs(extreme) ? x[i] : extreme;
    is_finite = is_finite && std::isfinite(x[i]);
  }
  float d = format == AUXCORE_KV_Q8_0 ? std::fabs(extreme) / 127 : extreme / -8;
  if (std::fabs(d) >= 65520)
    d = std::copysign(65504.0f, d);
  const uint16_t scale = is_finite ? to_half(d) : 0x7e00;
  const float inverse = !is_finite || d == 0 || std::isinf(1 / d) ? 0 : 1 / d;
  std::memcpy(y, &scale, sizeof scale);
  const auto scaled = [&](int i) -> float {
    if (!is_finite)
      return 0;
    const volatile float product = x[i] * inverse;  // rounded apart from what follows
    return product;
  };
  const auto four = [&](int i) { return static_cast<int>(std::clamp(std::floor(scaled(i) + 8.5f), 0.0f, 15.0f)); };
  for (int i = 0; i < (format == AUXCORE_KV_Q8_0 ? 32 : 16); ++i)
    y[2 + i] = static_cast<uint8_t>(
        format == AUXCORE_KV_Q8_0 ? static_cast<int>(std::round(std::clamp(scaled(i), -127.0f, 127.0f))) : four(i) | four(16 + i) << 4);
}

inline void store(int format, const std::vector<float>& x, float scale, uint8_t* y) {
  for (std::size_t i = 0; i < x.size(); i += group_size(format), y += group_bytes(format)) {
    const uint16_t narrow = format == AUXCORE_KV_F16 ? to_half(x[i]) : to_bfloat(x[i]);
    if (is_grouped(format))
      store_group(format, &x[i], y);
    else if (format == AUXCORE_KV_F32)
      std::memcpy(y, &x[i], 4);
    else if (format == AUXCORE_KV_E4M3)
      *y = to_eighth(std::isnan(x[i]) ? x[i] : x[i] / scale);
    else
      std::memcpy(y, &narrow, 2);
  }
}

inline std::vector<uint8_t> stored(int format, const std::vector<float>& x, float scale = 1) {
  std::vector<uint8_t> y(stored_bytes(format, x.size()));
  store(format, x, scale, y.data());
  return y;
}

inline double restored(int format, const uint8_t* bytes, std::size_t i, float scale = 1) {
  const uint8_t* const group = bytes + i / group_size(format) * group_bytes(format);
  uint32_t word = 0;
  std::memcpy(&word, group, std::min<std::size_t>(4, group_bytes(format)));
  const auto half = static_cast<uint16_t>(word);
  const std::size_t e = i % 32;
  switch (format) {
    case AUXCORE_KV_F32:
      return double{bits_as<float>(word)};
    case AUXCORE_KV_F16:
      return of_half(half);
    case AUXCORE_KV_BF16:
      return double{bits_as<float>(uint32_t{half} << 16)};
    case AUXCORE_KV_E4M3:
      return of_eighth(*group) * double{scale};
    case AUXCORE_KV_Q8_0:
      return of_half(half) * static_cast<int8_t>(group[2 + e]);
    case AUXCORE_KV_KIVI4:
      return of_half(half) * (e < 16 ? group[4 + e] & 15 : group[e - 12] >> 4) + of_half(static_cast<uint16_t>(word >> 16));
    default:
      return of_half(half) * ((e < 16 ? group[2 + e] & 15 : group[e - 14] >> 4) - 8);
  }
}

/// A cache, queries, and attention as the formula has it. KIVI-4 keeps a ring of the latest, and NaN where nothing is to be read.
struct AttentionCase {
  int batch, query_heads, kv_heads, head_dim, capacity, key_format, value_format;
  std::vector<int32_t> lengths;  // [batch], or [batch, kv_heads]
  std::vector<float> query, key_scales, value_scales;
  std::vector<uint8_t> keys, values;
  std::vector<float> key_ring, value_ring;  // [batch, kv_heads, ring, head_dim]

  AttentionCase(int batch_, int query_heads_, int kv_heads_, int head_dim_, int capacity_, int key_format_, int value_format_,
      std::vector<int32_t> lengths_, uint32_t seed = 1)
      : batch(batch_),
        query_heads(query_heads_),
        kv_heads(kv_heads_),
        head_dim(head_dim_),
        capacity(capacity_),
        key_format(key_format_),
        value_format(value_format_),
        lengths(std::move(lengths_)) {
    const auto random = [&](std::size_t count) {
      std::vector<float> numbers(count);
      for (float& number : numbers) {
        seed = seed * 1664525u + 1013904223u;
        number = static_cast<float>(static_cast<int>(seed >> 8 & 0xffff) - 0x8000) / 16384.0f;
      }
      return numbers;
    };
    const auto size = [](int a, int b, int c, int d) {
      return static_cast<std::size_t>(a) * static_cast<std::size_t>(b) * static_cast<std::size_t>(c) * static_cast<std::size_t>(d);
    };
    query = random(size(batch, query_heads, head_dim, 1));
    const auto rows = [&](int format, std::vector<float>& latest) {
      const std::vector<float> x = random(size(batch, kv_heads, capacity, head_dim));
      return format == AUXCORE_KV_KIVI4 ? ringed(x, &latest == &key_ring, latest) : stored(format, x);
    };
    keys = rows(key_format, key_ring);
    values = rows(value_format, value_ring);
    for (int head = 0; head < kv_heads; ++head) {
      key_scales.push_back(key_format == AUXCORE_KV_E4M3 ? 0.25f * static_cast<float>(head + 2) : 1.0f);
      value_scales.push_back(value_format == AUXCORE_KV_E4M3 ? 0.5f * static_cast<float>(head + 1) : 1.0f);
    }
  }

  int length(std::size_t stored_head) const {
    return std::clamp(lengths[lengths_are_of_heads() ? stored_head : stored_head / static_cast<std::size_t>(kv_heads)], 0, capacity);
  }

  /// The latest positions that KIVI-4 never stores. Keys and values have as many for some sizes of heads, and not for others.
  int window(bool is_keys) const { return is_keys || head_dim % 64 == 32 ? 5 : 43; }
  int ring(bool is_keys) const { return window(is_keys) + 32; }

  /// How many positions of a head are not in the ring.
  int whole(int format, bool is_keys, std::size_t stored_head) const {
    const int left = std::max(0, length(stored_head) - window(is_keys));
    return format != AUXCORE_KV_KIVI4 ? length(stored_head) : is_keys ? left / 32 * 32 : left;
  }

  /// An element of a key or a value.
  double element(bool is_keys, std::size_t stored_head, std::size_t t, std::size_t i) const {
    const int format = is_keys ? key_format : value_format;
    const std::vector<uint8_t>& bytes = is_keys ? keys : values;
    const auto d = static_cast<std::size_t>(head_dim), row = stored_head * static_cast<std::size_t>(capacity) + t;
    if (static_cast<int>(t) >= whole(format, is_keys, stored_head))
      return double{(is_keys ? key_ring : value_ring)[ring_row(is_keys, stored_head, t) * d + i]};
    if (format == AUXCORE_KV_KIVI4 && is_keys)
      return restored(format, bytes.data(), (row - t % 32) * d + i * 32 + t % 32);
    const std::size_t kv_head = stored_head % static_cast<std::size_t>(kv_heads);
    return restored(format, bytes.data(), row * d + i, (is_keys ? key_scales : value_scales)[kv_head]);
  }

  double scale() const { return 1 / std::sqrt(head_dim); }
  std::size_t row_bytes(int format) const { return stored_bytes(format, static_cast<std::size_t>(head_dim)); }
  bool lengths_are_of_heads() const { return lengths.size() > static_cast<std::size_t>(batch); }

  /// The outputs; and the sums of probabilities [batch, kv_heads, capacity] that are added to.
  std::vector<double> expected(std::vector<double>* position_sums = nullptr) const {
    const auto d = static_cast<std::size_t>(head_dim), heads = static_cast<std::size_t>(kv_heads);
    const auto room = static_cast<std::size_t>(capacity);
    std::vector<double> output(query.size());
    for (std::size_t row = 0; row < query.size() / d; ++row) {
      const std::size_t b = row / static_cast<std::size_t>(query_heads), head = row % static_cast<std::size_t>(query_heads);
      const std::size_t kv_head = head / static_cast<std::size_t>(query_heads / kv_heads), stored_head = b * heads + kv_head;
      const auto count = static_cast<std::size_t>(length(stored_head));
      std::vector<double> scores(count);
      double greatest = -HUGE_VAL, total = 0;
      for (std::size_t t = 0; t < count; ++t) {
        for (std::size_t i = 0; i < d; ++i)
          scores[t] += double{query[row * d + i]} * element(true, stored_head, t, i) * scale();
        greatest = std::max(greatest, scores[t]);
      }
      for (double& score : scores)
        total += score = std::exp(score - greatest);
      for (std::size_t t = 0; t < count; ++t) {
        for (std::size_t i = 0; i < d; ++i)
          output[row * d + i] += scores[t] / total * element(false, stored_head, t, i);
        if (position_sums != nullptr)
          (*position_sums)[stored_head * room + t] += scores[t] / total;
      }
    }
    return output;
  }

 private:
  std::size_t ring_row(bool is_keys, std::size_t stored_head, std::size_t t) const {
    const auto rows = static_cast<std::size_t>(ring(is_keys));
    return stored_head * rows + t % rows;
  }

  /// The bytes of rows in KIVI-4, and the ring of the latest.
  std::vector<uint8_t> ringed(const std::vector<float>& x, bool is_keys, std::vector<float>& rows) const {
    const auto d = static_cast<std::size_t>(head_dim), room = static_cast<std::size_t>(capacity), all = x.size() / d / room;
    std::vector<uint8_t> bytes(stored_bytes(AUXCORE_KV_KIVI4, x.size()), 0xff);  // scales are NaN
    rows.assign(all * static_cast<std::size_t>(ring(is_keys)) * d, NAN);
    for (std::size_t head = 0; head < all; ++head) {
      const auto done = static_cast<std::size_t>(whole(AUXCORE_KV_KIVI4, is_keys, head)), end = static_cast<std::size_t>(length(head));
      for (std::size_t group = 0; group < done * d / 32; ++group) {
        const std::size_t first = head * room * d + (is_keys ? group / d * 32 * d + group % d : group * 32);
        store_kivi(&x[first], is_keys ? d : 1, &bytes[(head * room * d / 32 + group) * 20]);
      }
      for (std::size_t t = done; t < end; ++t)
        std::copy_n(&x[(head * room + t) * d], d, &rows[ring_row(is_keys, head, t) * d]);
    }
    return bytes;
  }
};

/// The keys or values of a case in pages of so many positions, in an order of their own; each head has pages of its own, or all share
/// theirs.
struct PagedRows {
  std::vector<uint8_t> bytes;
  std::vector<int32_t> offsets = {0}, pages;

  PagedRows(const AttentionCase& given, const std::vector<uint8_t>& rows, int format, int page, bool of_heads) {
    const int each = (given.capacity + page - 1) / page, heads = given.kv_heads, held = of_heads ? 1 : heads;
    const int tables = given.batch * (of_heads ? heads : 1), count = tables * each;
    const std::size_t row = given.row_bytes(format);
    bytes.assign(static_cast<std::size_t>(count * held * page) * row, 0xff);
    for (int table = 0; table < tables; ++table) {
      for (int i = 0; i < each; ++i) {
        const int at = (table * each + i) * 7 % count;  // another page for each, where 7 does not divide
        pages.push_back(count % 7 == 0 ? table * each + i : at);
        for (int head = 0; head < held; ++head)
          for (int t = 0; t < page && i * page + t < given.capacity; ++t) {
            const int from = (table * held + head) * given.capacity + i * page + t, to = (pages.back() * held + head) * page + t;
            std::memcpy(&bytes[static_cast<std::size_t>(to) * row], &rows[static_cast<std::size_t>(from) * row], row);
          }
      }
      offsets.push_back(static_cast<int32_t>(pages.size()));
    }
  }
};

}  // namespace auxcore::test
