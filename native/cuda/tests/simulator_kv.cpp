// The kernels of KV caches against their formulas in plain loops: lengths around a tile's and a block's edge, thread orders.
#include "../device/device.cuh"
#include "../kv_approximation/kv_decode_attention.cuh"
#include "../kv_approximation/kv_quantise.cuh"

#include "check.h"
#include "kv_formulas.h"

namespace auxcore {

namespace kv_quantise {
using Kernel = void (*)(Arguments);
extern "C" void auxcore_kv_quantise_f16(Arguments arguments);
extern "C" void auxcore_kv_quantise_bf16(Arguments arguments);
extern "C" void auxcore_kv_quantise_e4m3(Arguments arguments);
extern "C" void auxcore_kv_quantise_q8(Arguments arguments);
extern "C" void auxcore_kv_quantise_q4(Arguments arguments);
extern "C" void auxcore_kv_dequantise_f16(Arguments arguments);
extern "C" void auxcore_kv_dequantise_bf16(Arguments arguments);
extern "C" void auxcore_kv_dequantise_e4m3(Arguments arguments);
extern "C" void auxcore_kv_dequantise_q8(Arguments arguments);
extern "C" void auxcore_kv_dequantise_q4(Arguments arguments);
constexpr Kernel kQuantise[] = {nullptr, auxcore_kv_quantise_f16, auxcore_kv_quantise_bf16, auxcore_kv_quantise_e4m3,
    auxcore_kv_quantise_q8, auxcore_kv_quantise_q4};
constexpr Kernel kDequantise[] = {nullptr, auxcore_kv_dequantise_f16, auxcore_kv_dequantise_bf16, auxcore_kv_dequantise_e4m3,
    auxcore_kv_dequantise_q8, auxcore_kv_dequantise_q4};
}  // namespace kv_quantise

namespace kv_decode_attention {
extern "C" void auxcore_kv_decode_attention_1(Arguments arguments);
extern "C" void auxcore_kv_decode_attention_2(Arguments arguments);
extern "C" void auxcore_kv_decode_attention_4(Arguments arguments);
extern "C" void auxcore_kv_decode_attention_8(Arguments arguments);
extern "C" void auxcore_kv_decode_attention_merge(Arguments arguments);
}  // namespace kv_decode_attention

namespace {

using namespace test;

constexpr uint8_t kCanary = 0xa5;

/// Bytes between canaries, so many bytes beyond a multiple of 16.
class Placed {
 public:
  Placed(std::size_t bytes, std::size_t offset) : memory_((bytes + offset + 31) / 16 + 1), at_(16 + offset), bytes_(bytes) {
    std::memset(memory_.data(), kCanary, memory_.size() * 16);
  }

  uint8_t* data() { return reinterpret_cast<uint8_t*>(memory_.data()) + at_; }
  uint64_t address() { return reinterpret_cast<uint64_t>(data()); }
  bool is_intact() {
    const auto* const all = reinterpret_cast<const uint8_t*>(memory_.data());
    for (std::size_t i = 0; i < memory_.size() * 16; ++i)
      if ((i < at_ || i >= at_ + bytes_) && all[i] != kCanary)
        return false;
    return true;
  }

 private:
  struct alignas(16) Sixteen {
    uint8_t bytes[16];
  };
  std::vector<Sixteen> memory_;
  std::size_t at_, bytes_;
};

/// Groups of many magnitudes, some degenerate, some with NaN and infinity.
std::vector<float> samples(std::size_t count) {
  std::vector<float> x(count);
  uint32_t seed = 7;
  for (std::size_t i = 0; i < count; ++i) {
    seed = seed * 1664525u + 1013904223u;
    const auto group = static_cast<int>(i / 32);
    x[i] = std::ldexp(static_cast<float>(static_cast<int>(seed >> 8) - (1 << 23)), group * 7 % 61 - 53);
    if (group % 11 == 3)  // half of a step, of either sign, and a greatest whose mirror comes first
      x[i] = static_cast<float>(static_cast<int>(i % 9) - 4) * (i % 32 == 30 ? -127.0f : 0.5f);
    if (group % 11 == 5)
      x[i] = i % 2 == 0 ? 0.0f : -0.0f;
    if (group % 11 == 7)
      x[i] = i % 32 == 9 ? 1e-41f : 0;
    if (group % 13 == 9)
      x[i] = i % 3 == 0 ? 3e38f : -2e38f;
    if (group % 17 == 11 && i % 32 == 13)
      x[i] = group % 2 == 0 ? bits_as<float>(0xffa12345u) : -HUGE_VALF;
    if (group % 17 == 12)
      x[i] = static_cast<float>(static_cast<int>(i % 32) - 15) / 16.0f * 8;  // exact ties of q4_0
  }
  return x;
}

void quantise_agrees() {
  using namespace kv_quantise;
  for (const int format : {AUXCORE_KV_F16, AUXCORE_KV_BF16, AUXCORE_KV_E4M3, AUXCORE_KV_Q8_0, AUXCORE_KV_Q4_0})
    for (const std::size_t size : {1u, 3u, 4u, 5u, 127u, 128u, 129u, 1023u, 4095u, 4096u, 4101u})
      for (const std::size_t offset : {0u, 1u}) {
        const std::size_t count = is_grouped(format) ? (size % 300 + 1) * 32 : size;
        const float scale = format == AUXCORE_KV_E4M3 ? 0.37f : 1.0f;
        const std::size_t unit = is_grouped(format) ? 1 : group_bytes(format);
        const std::vector<float> x = samples(count);
        const std::vector<uint8_t> expected = stored(format, x, scale);
        Placed elements(count * 4, 4 * offset), bytes(expected.size(), unit * offset), back(count * 4, 4 * offset);
        std::memcpy(elements.data(), x.data(), count * 4);
        Arguments arguments = {elements.address(), bytes.address(), int64_t(count), scale, offset == 0};
        const simt::Shape shape = {unsigned((count + kTile - 1) / kTile), kThreads, 0};
        simt::launch(kQuantise[format], shape, arguments);
        for (std::size_t i = 0; i < expected.size(); ++i)
          if (bytes.data()[i] != expected[i]) {
            CHECK(false, "format %d, %zu elements: byte %zu is %d, not %d", format, count, i, bytes.data()[i], expected[i]);
            break;
          }
        arguments.elements = back.address();
        simt::launch(kDequantise[format], shape, arguments);
        for (std::size_t i = 0; i < count; ++i) {
          float value;
          std::memcpy(&value, back.data() + 4 * i, 4);
          const auto right = float(restored(format, expected.data(), i, scale));
          if (!(std::isnan(right) ? std::isnan(value) : bits_as<uint32_t>(value) == bits_as<uint32_t>(right) || (value == 0 && right == 0))) {
            CHECK(false, "format %d: element %zu is %g, not %g", format, i, double(value), double(right));
            break;
          }
        }
        CHECK(bytes.is_intact() && back.is_intact());
      }
}

/// Runs a case by the kernels for so many heads, with so many splits.
std::vector<float> attended(const AttentionCase& given, int splits, std::size_t offset) {
  using namespace kv_decode_attention;
  const int group = given.query_heads / given.kv_heads, head_blocks = (group + kMostHeads - 1) / kMostHeads;
  const int heads = (group + head_blocks - 1) / head_blocks, width = heads <= 1 ? 1 : heads <= 2 ? 2 : heads <= 4 ? 4 : 8;
  const auto unit = [&](int format) { return offset * (is_grouped(format) ? 2 : group_bytes(format)); };
  Placed keys(given.keys.size(), unit(given.key_format)), values(given.values.size(), unit(given.value_format));
  std::memcpy(keys.data(), given.keys.data(), given.keys.size());
  std::memcpy(values.data(), given.values.data(), given.values.size());
  const std::size_t rows = std::size_t(given.batch) * std::size_t(given.query_heads), d = std::size_t(given.head_dim);
  std::vector<float> output(rows * d, -7.0f), maxima(rows * std::size_t(splits), NAN), sums = maxima, partials(sums.size() * d, NAN);
  const auto row = [&](int format) { return int32_t(stored_bytes(format, d)); };
  const Arguments arguments = {given.query.data(), keys.data(), values.data(), given.lengths.data(), output.data(), maxima.data(),
      sums.data(), partials.data(), given.scale() * 1.4426950408889634, given.query_heads, given.kv_heads, heads, head_blocks,
      given.head_dim, given.capacity, splits, d <= 64 ? 8 : d <= 128 ? 16 : 32, given.key_format, given.value_format,
      row(given.key_format), row(given.value_format)};
  const Layout layout(row(given.key_format), row(given.value_format), given.head_dim, width);
  const simt::Shape shape = {
      unsigned(given.batch * given.kv_heads * head_blocks * splits), kThreads, std::size_t(layout.bytes)};
  simt::launch(width == 1   ? auxcore_kv_decode_attention_1
               : width == 2 ? auxcore_kv_decode_attention_2
               : width == 4 ? auxcore_kv_decode_attention_4
                            : auxcore_kv_decode_attention_8,
      shape, arguments);
  if (splits > 1)
    simt::launch(auxcore_kv_decode_attention_merge, {unsigned(rows), kMergeThreads, 0}, arguments);
  CHECK(keys.is_intact() && values.is_intact());
  return output;
}

void agrees(const AttentionCase& given, int splits, std::size_t offset) {
  const std::vector<float> actual = attended(given, splits, offset);
  const std::vector<double> expected = given.expected();
  for (std::size_t i = 0; i < expected.size(); ++i)
    if (!(std::fabs(double(actual[i]) - expected[i]) <= 5e-6)) {
      CHECK(false, "formats %d and %d, %d of %d heads of %d, capacity %d, %d splits, offset %zu: element %zu is %g, not %g",
          given.key_format, given.value_format, given.query_heads, given.kv_heads, given.head_dim, given.capacity, splits, offset, i,
          double(actual[i]), expected[i]);
      return;
    }
}

void attention_agrees() {
  // Every format with every size of heads; each group; lengths around a tile, a warp's turn and a split.
  int which = 0;
  for (const int format : kAttentionFormats)
    for (const int d : {8, 64, 80, 96, 128, 256}) {
      if (d % int(group_size(format)) != 0)
        continue;
      const int group = std::vector{1, 4, 7, 8, 2, 9}[std::size_t(which++ % 6)];
      const int other = kAttentionFormats[which % 5];
      const int value_format = d % int(group_size(other)) == 0 ? other : format;
      agrees({1, group, 1, d, 70, format, value_format, {67}}, 1, 0);
      agrees({1, group, 1, d, 39, value_format, format, {33}}, 2, std::size_t(which % 2));
    }
  for (const int group : {1, 4, 7, 8})
    for (const int length : {0, 1, 31, 32, 33, 127, 129, 160})
      agrees({1, group, 1, 64, 160, AUXCORE_KV_Q8_0, AUXCORE_KV_Q4_0, {length}}, length % 2 == 0 ? 3 : 1, 0);
  agrees({3, 6, 2, 64, 21, AUXCORE_KV_BF16, AUXCORE_KV_F32, {21, 0, 5}}, 1, 1);
  agrees({3, 6, 2, 64, 21, AUXCORE_KV_Q8_0, AUXCORE_KV_BF16, {-5, 1 << 30, 13}}, 2, 0);  // held within 0 and the capacity
}

void special_scores_are_defined() {
  AttentionCase given(1, 4, 1, 8, 300, AUXCORE_KV_F32, AUXCORE_KV_F32, {300});
  const auto key = [&](std::size_t position, float value) { std::memcpy(&given.keys[position * 32], &value, 4); };
  for (float& element : given.query)
    element = 1;
  for (std::size_t position = 0; position < 299; ++position)
    key(position, -HUGE_VALF);
  float value;
  std::memcpy(&value, &given.values[299 * 32], 4);
  for (const int splits : {1, 2})
    CHECK(attended(given, splits, 0)[0] == value, "the one finite score has all the weight");
  key(299, -HUGE_VALF);
  for (const int splits : {1, 2})
    CHECK(std::isnan(attended(given, splits, 0)[0]), "nothing has weight");
  for (const float special : {HUGE_VALF, NAN})
    for (const std::size_t position : {0u, 40u, 298u}) {
      for (std::size_t other = 0; other < 300; ++other)
        key(other, 0.25f);
      key(position, special);
      for (const int splits : {1, 2})
        CHECK(std::isnan(attended(given, splits, 0)[5]), "%g at %zu", double(special), position);
    }
}

}  // namespace
}  // namespace auxcore

int main() {
  using namespace auxcore;
  for (const uint32_t order : {0u, 1u, 4711u}) {
    simt::set_thread_order(order);
    quantise_agrees();
    attention_agrees();
    special_scores_are_defined();
  }
  return test::result();
}
