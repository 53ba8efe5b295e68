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
extern "C" void auxcore_kv_quantise_kivi(Arguments arguments);
extern "C" void auxcore_kv_dequantise_f16(Arguments arguments);
extern "C" void auxcore_kv_dequantise_bf16(Arguments arguments);
extern "C" void auxcore_kv_dequantise_e4m3(Arguments arguments);
extern "C" void auxcore_kv_dequantise_q8(Arguments arguments);
extern "C" void auxcore_kv_dequantise_q4(Arguments arguments);
extern "C" void auxcore_kv_dequantise_kivi(Arguments arguments);
constexpr Kernel kQuantise[] = {nullptr, auxcore_kv_quantise_f16, auxcore_kv_quantise_bf16, auxcore_kv_quantise_e4m3,
    auxcore_kv_quantise_q8, auxcore_kv_quantise_q4, auxcore_kv_quantise_kivi};
constexpr Kernel kDequantise[] = {nullptr, auxcore_kv_dequantise_f16, auxcore_kv_dequantise_bf16, auxcore_kv_dequantise_e4m3,
    auxcore_kv_dequantise_q8, auxcore_kv_dequantise_q4, auxcore_kv_dequantise_kivi};
}  // namespace kv_quantise

namespace kv_decode_attention {
extern "C" void auxcore_kv_decode_attention_1(Arguments arguments);
extern "C" void auxcore_kv_decode_attention_2(Arguments arguments);
extern "C" void auxcore_kv_decode_attention_4(Arguments arguments);
extern "C" void auxcore_kv_decode_attention_8(Arguments arguments);
extern "C" void auxcore_kv_decode_attention_merge(Arguments arguments);
extern "C" void auxcore_kv_decode_attention_sums(Arguments arguments);
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
    if (group % 13 == 4)  // far from zero, and all but constant
      x[i] = 1000.3f + static_cast<float>(i % 3 == 0) * 0x1p-10f;
    if (group % 13 == 6)  // constant: one that binary16 has, and ones that it does not
      x[i] = std::vector{-2.5f, 1e-9f, -1e-9f, 70000.0f, -70000.0f}[i / 416 % 5];
    if (group % 17 == 11 && i % 32 == 13)
      x[i] = group % 2 == 0 ? bits_as<float>(0xffa12345u) : -HUGE_VALF;
    if (group % 17 == 12)
      x[i] = static_cast<float>(static_cast<int>(i % 32) - 15) / 16.0f * 8;  // exact ties of q4_0
  }
  return x;
}

void quantise_agrees() {
  using namespace kv_quantise;
  for (const int format : {AUXCORE_KV_F16, AUXCORE_KV_BF16, AUXCORE_KV_E4M3, AUXCORE_KV_Q8_0, AUXCORE_KV_Q4_0, AUXCORE_KV_KIVI4})
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
          const bool is_right = std::isnan(right) ? std::isnan(value) : value == right;
          if (!is_right) {
            CHECK(false, "format %d: element %zu is %g, not %g", format, i, double(value), double(right));
            break;
          }
        }
        CHECK(bytes.is_intact() && back.is_intact());
      }
}

/// How a case is run.
struct Way {
  int splits = 1;
  std::size_t offset = 0;  ///< of the cache from 16 bytes, in elements
  int page = 0;            ///< positions of a page; 0 for a contiguous cache
  bool pages_are_of_heads = false;
};

/// Runs a case by the kernels. position_sums: [batch, kv_heads, capacity], or none.
std::vector<float> attended(const AttentionCase& given, const Way& way, std::vector<float>* position_sums = nullptr) {
  using namespace kv_decode_attention;
  const int group = given.query_heads / given.kv_heads, head_blocks = (group + kMostHeads - 1) / kMostHeads;
  const int heads = (group + head_blocks - 1) / head_blocks, width = heads <= 1 ? 1 : heads <= 2 ? 2 : heads <= 4 ? 4 : 8;
  const auto place = [&](const std::vector<uint8_t>& bytes, int format) {
    Placed placed(bytes.size(), way.offset * std::size_t(std::max(2, kv::alignment_of(format))));
    std::memcpy(placed.data(), bytes.data(), bytes.size());
    return placed;
  };
  const bool is_paged = way.page != 0;
  const int page = is_paged ? way.page : given.capacity;
  const PagedRows paged_keys(given, given.keys, given.key_format, page, way.pages_are_of_heads);
  const PagedRows paged_values(given, given.values, given.value_format, page, way.pages_are_of_heads);
  Placed keys = place(is_paged ? paged_keys.bytes : given.keys, given.key_format);
  Placed values = place(is_paged ? paged_values.bytes : given.values, given.value_format);
  const auto plane = [&](Placed& rows, int format, const std::vector<float>& scales, const std::vector<float>& ring) {
    const auto row = int64_t(given.row_bytes(format));
    const int held = way.pages_are_of_heads ? 1 : given.kv_heads;
    return kv::Plane{rows.address(), held * page * row, way.pages_are_of_heads ? 0 : page * row, scales.data(),
        format == AUXCORE_KV_E4M3 ? int32_t(scales.size()) : 0, format, int32_t(row),
        is_paged ? int32_t(paged_keys.pages.size()) : given.batch, ring.empty() ? nullptr : const_cast<float*>(ring.data()),
        ring.empty() ? 0 : given.ring(&ring == &given.key_ring)};
  };
  const std::size_t rows = std::size_t(given.batch) * std::size_t(given.query_heads), d = std::size_t(given.head_dim);
  std::vector<float> output(rows * d, -7.0f), maxima(rows * std::size_t(way.splits), NAN), sums = maxima, partials(sums.size() * d, NAN);
  std::vector<float> scores(rows * std::size_t(given.capacity), NAN), totals(rows * 2, NAN);
  Arguments arguments = {};
  arguments.cache = {plane(keys, given.key_format, given.key_scales, given.key_ring),
      plane(values, given.value_format, given.value_scales, given.value_ring),
      is_paged ? paged_keys.offsets.data() : nullptr, is_paged ? paged_keys.pages.data() : nullptr, int32_t(paged_keys.pages.size()),
      given.batch, given.kv_heads, given.head_dim, page, way.pages_are_of_heads};
  arguments.query = given.query.data();
  arguments.lengths = given.lengths.data();
  arguments.output = output.data();
  arguments.maxima = maxima.data();
  arguments.sums = sums.data();
  arguments.partials = partials.data();
  if (position_sums != nullptr) {
    arguments.scores = scores.data();
    arguments.totals = totals.data();
    arguments.position_sums = position_sums->data();
    arguments.sum_positions = given.capacity;
  }
  arguments.factor = given.scale() * 1.4426950408889634;
  arguments.lengths_are_of_heads = given.lengths_are_of_heads();
  arguments.query_heads = given.query_heads;
  arguments.heads = heads;
  arguments.head_blocks = head_blocks;
  arguments.splits = way.splits;
  arguments.lanes = d <= 64 ? 8 : d <= 128 ? 16 : 32;
  const Layout layout(arguments.cache, width);
  CHECK(layout.bytes <= 48 * 1024, "%d bytes of shared memory", layout.bytes);
  const simt::Shape shape = {
      unsigned(given.batch * given.kv_heads * head_blocks * way.splits), kThreads, std::size_t(layout.bytes)};
  simt::launch(width == 1   ? auxcore_kv_decode_attention_1
               : width == 2 ? auxcore_kv_decode_attention_2
               : width == 4 ? auxcore_kv_decode_attention_4
                            : auxcore_kv_decode_attention_8,
      shape, arguments);
  if (way.splits > 1)
    simt::launch(auxcore_kv_decode_attention_merge, {unsigned(rows), kMergeThreads, 0}, arguments);
  if (position_sums != nullptr) {
    const int blocks = given.batch * given.kv_heads * ((given.capacity + kSumThreads - 1) / kSumThreads);
    simt::launch(auxcore_kv_decode_attention_sums, {unsigned(blocks), kSumThreads, 0}, arguments);
  }
  CHECK(keys.is_intact() && values.is_intact());
  return output;
}

void agrees(const AttentionCase& given, const Way& way, bool has_sums = false) {
  const std::size_t positions = std::size_t(given.batch) * std::size_t(given.kv_heads) * std::size_t(given.capacity);
  std::vector<float> sums(positions, 0.5f);
  std::vector<double> expected_sums(positions, 0.5);
  const std::vector<float> actual = attended(given, way, has_sums ? &sums : nullptr);
  const std::vector<double> expected = given.expected(&expected_sums);
  for (std::size_t i = 0; i < expected.size(); ++i)
    if (!(std::fabs(double(actual[i]) - expected[i]) <= 5e-6)) {
      CHECK(false, "formats %d and %d, %d of %d heads of %d, capacity %d, %d splits, offset %zu, pages of %d: element %zu is %g, not %g",
          given.key_format, given.value_format, given.query_heads, given.kv_heads, given.head_dim, given.capacity, way.splits, way.offset,
          way.page, i, double(actual[i]), expected[i]);
      return;
    }
  for (std::size_t i = 0; has_sums && i < positions; ++i)
    if (!(std::fabs(double(sums[i]) - expected_sums[i]) <= 2e-6)) {
      CHECK(false, "the sum of position %zu is %g, not %g", i, double(sums[i]), expected_sums[i]);
      return;
    }
}

void attention_agrees() {
  // Every format with every size of heads; each group; lengths around a tile, a warp's turn and a split.
  int which = 0;
  for (const int format : kStoredFormats)
    for (const int d : {8, 64, 80, 96, 128, 256}) {
      if (d % int(group_size(format)) != 0)
        continue;
      const int group = std::vector{1, 4, 7, 8, 2, 9}[std::size_t(which++ % 6)];
      const int other = kStoredFormats[which % 6];
      const int value_format = d % int(group_size(other)) == 0 ? other : format;
      agrees({1, group, 1, d, 70, format, value_format, {67}}, {});
      agrees({1, group, 1, d, 39, value_format, format, {33}}, {2, std::size_t(which % 2)});
    }
  for (const int group : {1, 4, 7, 8})
    for (const int length : {0, 1, 31, 32, 33, 127, 129, 160})
      agrees({1, group, 1, 64, 160, AUXCORE_KV_Q8_0, AUXCORE_KV_Q4_0, {length}}, {length % 2 == 0 ? 3 : 1}, group == 7);
  agrees({3, 6, 2, 64, 21, AUXCORE_KV_BF16, AUXCORE_KV_F32, {21, 0, 5}}, {1, 1});
  agrees({3, 6, 2, 64, 21, AUXCORE_KV_Q8_0, AUXCORE_KV_BF16, {-5, 1 << 30, 13}}, {2});  // held within 0 and the capacity
}

void pages_and_ragged_heads_agree() {
  for (const int format : kStoredFormats)
    for (const bool of_heads : {false, true})
      for (const int page : {1, 5, 16, 48}) {
        const AttentionCase ragged(2, 6, 2, 64, 53, format, AUXCORE_KV_Q8_0, {53, 0, 17, 33});
        agrees(ragged, {page % 2 + 1, 0, page, of_heads}, page == 16);
        agrees({2, 2, 2, 32, 70, AUXCORE_KV_Q4_0, format, {70, 49}}, {2, 1, page, of_heads});
      }
}

void rings_agree() {
  // Lengths around the window, a block that leaves it, and the ring's own length; each format beside KIVI-4, of keys or of values.
  int which = 0;
  for (const int length : {0, 1, 5, 6, 32, 36, 37, 38, 43, 44, 69, 70, 74, 75, 76, 101, 160})
    for (const auto& [keys, values] : {std::pair<int, int>(AUXCORE_KV_KIVI4, AUXCORE_KV_KIVI4),
             {AUXCORE_KV_KIVI4, kStoredFormats[which % 6]}, {kStoredFormats[which % 6], AUXCORE_KV_KIVI4}}) {
      const int group = std::vector{1, 4, 7, 8, 2, 9}[std::size_t(which % 6)];
      const int d = std::vector{32, 64, 96, 128, 256}[std::size_t(which % 5)];
      ++which;
      agrees({1, group, 1, d, 160, keys, values, {length}}, {1 + which % 3, std::size_t(which % 2)}, which % 4 == 0);
    }
  for (const int value_format : {AUXCORE_KV_KIVI4, AUXCORE_KV_F32, AUXCORE_KV_BF16, AUXCORE_KV_Q8_0})  // the narrowest tiles
    agrees({1, 8, 1, 256, 64, AUXCORE_KV_KIVI4, value_format, {64}}, {2});
  for (const bool of_heads : {false, true})
    for (const int page : {32, 64}) {
      agrees({2, 6, 2, 64, 192, AUXCORE_KV_KIVI4, AUXCORE_KV_KIVI4, {192, 0, 71, 133}}, {page / 32, 0, page, of_heads}, true);
      agrees({2, 2, 2, 32, 128, AUXCORE_KV_Q8_0, AUXCORE_KV_KIVI4, {128, 49}}, {2, 1, page / 2 + 1, of_heads});
    }
  const AttentionCase given(1, 4, 1, 64, 640, AUXCORE_KV_KIVI4, AUXCORE_KV_KIVI4, {610});
  CHECK(attended(given, {3}) == attended(given, {3, 0, 64}), "pages give the bits of a contiguous cache");
}

void page_tables_of_garbage_lead_nowhere() {
  for (const auto& [page, of_heads] : {std::pair(16, false), {16, true}}) {
    AttentionCase given(1, 2, 2, 32, 64, AUXCORE_KV_BF16, AUXCORE_KV_BF16, {64});
    std::vector<float> output(64);
    std::vector<int32_t> pages = {-1, 1 << 30, 3, 0}, offsets = {-7, 1 << 30, -(1 << 30)};
    kv_decode_attention::Arguments arguments = {};
    const auto plane = [&](std::vector<uint8_t>& rows) {
      return kv::Plane{reinterpret_cast<uint64_t>(rows.data()), (of_heads ? 1 : 2) * page * 64, of_heads ? 0 : page * 64, nullptr, 0,
          AUXCORE_KV_BF16, 64, of_heads ? 8 : 4};
    };
    arguments.cache = {plane(given.keys), plane(given.values), offsets.data(), pages.data(), 4, 1, 2, 32, page, of_heads};
    arguments.query = given.query.data();
    arguments.lengths = given.lengths.data();
    arguments.output = output.data();
    arguments.query_heads = 2;
    arguments.heads = arguments.head_blocks = arguments.splits = 1;
    arguments.lanes = 8;
    const kv_decode_attention::Layout layout(arguments.cache, 1);
    simt::launch(kv_decode_attention::auxcore_kv_decode_attention_1, {2, kv_decode_attention::kThreads, size_t(layout.bytes)}, arguments);
    CHECK(std::isfinite(output[0]));
  }
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
    CHECK(attended(given, {splits})[0] == value, "the one finite score has all the weight");
  key(299, -HUGE_VALF);
  for (const int splits : {1, 2})
    CHECK(std::isnan(attended(given, {splits})[0]), "nothing has weight");
  for (const float special : {HUGE_VALF, NAN})
    for (const std::size_t position : {0u, 40u, 298u}) {
      for (std::size_t other = 0; other < 300; ++other)
        key(other, 0.25f);
      key(position, special);
      for (const int splits : {1, 2})
        CHECK(std::isnan(attended(given, {splits})[5]), "%g at %zu", double(special), position);
    }
}

}  // namespace
}  // namespace auxcore

int main() {
  using namespace auxcore;
  for (const uint32_t order : {0u, 1u, 4711u}) {
    simt::set_run_order(order);
    quantise_agrees();
    attention_agrees();
    pages_and_ragged_heads_agree();
    rings_agree();
    page_tables_of_garbage_lead_nowhere();
    special_scores_are_defined();
  }
  return test::result();
}
