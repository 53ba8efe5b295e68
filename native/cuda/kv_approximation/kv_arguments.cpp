#include "kv_arguments.h"

#include <algorithm>
#include <limits>

namespace auxcore::kv {
namespace {

int64_t row_bytes_of(const auxcore_kv_cache& cache, const auxcore_kv_plane& plane) {
  return bytes_of("head_dim", plane.format, cache.head_dim);
}

/// Bytes between the first and the last of one sequence or page, both counted.
int64_t inner_extent(const char* name, const auxcore_kv_cache& cache, const auxcore_kv_plane& plane) {
  const int64_t heads = cache.pages_are_of_heads != 0 ? 0 : product(name, {cache.kv_heads - 1, plane.head_step});
  return sum(name, heads, product(name, {cache.positions, row_bytes_of(cache, plane)}));
}

int64_t extent(const char* name, const auxcore_kv_cache& cache, const auxcore_kv_plane& plane) {
  return sum(name, product(name, {plane.outer_count - 1, plane.outer_step}), inner_extent(name, cache, plane));
}

void check_residual(const char* name, const auxcore_kv_cache& cache, const auxcore_kv_plane& plane, bool takes_residual) {
  if (plane.reserved != 0)
    fail(AUXCORE_E_ARGUMENT, "%s.reserved is %u, not 0", name, plane.reserved);
  if (plane.format != AUXCORE_KV_KIVI4) {
    if (plane.residual != 0 || plane.residual_positions != 0)
      fail(AUXCORE_E_ARGUMENT, "%s.residual is there; only KIVI-4 has one", name);
    return;
  }
  if (!takes_residual)
    fail(AUXCORE_E_ARGUMENT, "%s.format: this op does not take KIVI-4", name);
  if (plane.residual_positions < kGroup)
    fail(AUXCORE_E_ARGUMENT, "%s.residual_positions is %d, below %d", name, plane.residual_positions, kGroup);
  if (&plane == &cache.keys && cache.positions % kGroup != 0)
    fail(AUXCORE_E_ARGUMENT, "positions is %d, not a multiple of %d, as keys in KIVI-4 have blocks", cache.positions, kGroup);
}

void check_plane(const char* name, const auxcore_kv_cache& cache, const auxcore_kv_plane& plane, bool takes_residual) {
  char label[64];
  std::snprintf(label, sizeof label, "%s.format", name);
  check_format(label, plane.format);
  check_residual(name, cache, plane, takes_residual);
  if (cache.head_dim % group_of(plane.format) != 0)
    fail(AUXCORE_E_ARGUMENT, "%s.format: head_dim %d is not a multiple of %d, its groups", name, cache.head_dim, group_of(plane.format));
  if (plane.outer_count < 1 || plane.outer_count > std::numeric_limits<int32_t>::max())
    fail(AUXCORE_E_ARGUMENT, "%s.outer_count is %lld", name, static_cast<long long>(plane.outer_count));
  if (cache.page_offsets == 0 && plane.outer_count != cache.batch)
    fail(AUXCORE_E_ARGUMENT, "%s.outer_count is %lld, but there are %d sequences", name, static_cast<long long>(plane.outer_count),
        cache.batch);
  const int unit = std::max(2, alignment_of(plane.format));
  for (const int64_t step : {plane.outer_step, plane.head_step})
    if (step < 0 || step % unit != 0)
      fail(AUXCORE_E_ARGUMENT, "%s: a step of %lld bytes is not a multiple of %d", name, static_cast<long long>(step), unit);
  if (plane.first % static_cast<unsigned>(unit) != 0)
    fail(AUXCORE_E_ARGUMENT, "%s.first: 0x%llx is not a multiple of %d", name, static_cast<unsigned long long>(plane.first), unit);
  const bool needs_scales = plane.format == AUXCORE_KV_E4M3;
  if (needs_scales ? plane.scale_count != 1 && plane.scale_count != cache.kv_heads : plane.scale_count != 0)
    fail(AUXCORE_E_ARGUMENT, "%s.scale_count is %d; %s", name, plane.scale_count,
        needs_scales ? "1 or kv_heads are needed" : "only E4M3 has scales");
}

Plane plane_of(const auxcore_kv_cache& cache, const auxcore_kv_plane& given) {
  Plane plane = {};
  plane.first = given.first;
  plane.outer_step = given.outer_step;
  plane.head_step = cache.pages_are_of_heads != 0 ? 0 : given.head_step;
  plane.scales = pointer<const float>(given.scales);
  plane.scale_count = given.scale_count;
  plane.format = given.format;
  plane.row_bytes = static_cast<int32_t>(row_bytes_of(cache, given));
  plane.outer_count = static_cast<int32_t>(given.outer_count);
  plane.ring = pointer<float>(given.residual);
  plane.ring_positions = given.residual_positions;
  return plane;
}

/// The rows of the first and the last head of the first and the last sequence or page. Where steps leave gaps, these may lie in memory of
/// which the ends of the whole say nothing.
void check_corners(const char* name, const auxcore_kv_cache& cache, const auxcore_kv_plane& plane, const Context& context) {
  const int64_t head = product(name, {cache.positions, row_bytes_of(cache, plane)});
  const int64_t heads = cache.pages_are_of_heads != 0 ? 1 : cache.kv_heads;
  const bool has_gaps = (heads > 1 && plane.head_step != head) || (plane.outer_count > 1 && plane.outer_step != heads * head);
  for (const int64_t outer : {int64_t{0}, plane.outer_count - 1})
    for (const int64_t of_head : {int64_t{0}, heads - 1})
      if (has_gaps) {
        const int64_t offset = outer * plane.outer_step + of_head * plane.head_step;  // within what was checked already
        context.check_device_memory(name, plane.first + static_cast<uint64_t>(offset), static_cast<std::size_t>(head));
      }
}

/// Rows of one plane that share memory with each other, or halves of one pool that share more than its pages.
void check_apart(const auxcore_kv_cache& cache) {
  for (const auto& [name, plane] : {std::pair("keys", &cache.keys), {"values", &cache.values}}) {
    const bool heads_overlap = cache.pages_are_of_heads == 0 && cache.kv_heads > 1 &&
                               plane->head_step < product(name, {cache.positions, row_bytes_of(cache, *plane)});
    if (heads_overlap || (plane->outer_count > 1 && plane->outer_step < inner_extent(name, cache, *plane)))
      fail(AUXCORE_E_ARGUMENT, "%s: steps are so short that rows overlap", name);
  }
}

/// Adds planes that are written. Halves of one pool interleave, and are one range.
void write_planes(const auxcore_kv_cache& cache, Memory& memory) {
  const uint64_t keys = cache.keys.first, values = cache.values.first;
  const int64_t key_bytes = extent("keys", cache, cache.keys), value_bytes = extent("values", cache, cache.values);
  if (keys >= values + static_cast<uint64_t>(value_bytes) || values >= keys + static_cast<uint64_t>(key_bytes)) {
    memory.write("keys", keys, key_bytes, 1);
    memory.write("values", values, value_bytes, 1);
    return;
  }
  const int64_t step = cache.keys.outer_step;
  int64_t apart = step == 0 ? 0 : static_cast<int64_t>(values - keys) % step;
  apart += apart < 0 ? step : 0;
  if (cache.values.outer_step != step || apart < inner_extent("keys", cache, cache.keys) ||
      apart + inner_extent("values", cache, cache.values) > step)
    fail(AUXCORE_E_ARGUMENT, "values overlaps keys");
  const uint64_t begin = std::min(keys, values);
  const uint64_t end = std::max(keys + static_cast<uint64_t>(key_bytes), values + static_cast<uint64_t>(value_bytes));
  memory.write("keys and values", begin, static_cast<int64_t>(end - begin), 1);
}

}  // namespace

void check_format(const char* name, int32_t format) {
  if (format < 0 || format >= kFormats)
    fail(AUXCORE_E_ARGUMENT, "%s is %d, none of AUXCORE_KV_F32, …", name, format);
}

int64_t product(const char* name, std::initializer_list<int64_t> factors) {
  int64_t result = 1;
  for (const int64_t factor : factors)
    if (__builtin_mul_overflow(result, factor, &result))
      fail(AUXCORE_E_ARGUMENT, "%s: more than 64 bits count", name);
  return result;
}

int64_t sum(const char* name, int64_t a, int64_t b) {
  int64_t result;
  if (__builtin_add_overflow(a, b, &result))
    fail(AUXCORE_E_ARGUMENT, "%s: more than 64 bits count", name);
  return result;
}

int64_t bytes_of(const char* name, int32_t format, int64_t elements) {
  const int group = group_of(format);
  if (elements % group != 0)
    fail(AUXCORE_E_ARGUMENT, "%s: %lld elements are not a multiple of %d, the format's groups", name, static_cast<long long>(elements),
        group);
  return product(name, {elements / group, group_bytes_of(format)});
}

void check_cache(const auxcore_kv_cache& cache, bool takes_residual) {
  check_struct_size("cache", cache.struct_size, sizeof cache);
  check_at_least_one("batch", cache.batch);
  check_at_least_one("kv_heads", cache.kv_heads);
  check_at_least_one("positions", cache.positions);
  if (cache.head_dim < kVector || cache.head_dim > kMostHeadDim || cache.head_dim % kVector != 0)
    fail(AUXCORE_E_ARGUMENT, "head_dim is %d; it may be a multiple of 8 up to 256", cache.head_dim);
  check_flag("pages_are_of_heads", cache.pages_are_of_heads);
  if (cache.page_offsets == 0 && (cache.pages_are_of_heads != 0 || cache.pages != 0 || cache.page_count != 0))
    fail(AUXCORE_E_ARGUMENT, "page_offsets is 0, but there are pages");
  if (cache.page_count < 0 || cache.page_count > std::numeric_limits<int32_t>::max())
    fail(AUXCORE_E_ARGUMENT, "page_count is %lld", static_cast<long long>(cache.page_count));
  check_plane("keys", cache, cache.keys, takes_residual);
  check_plane("values", cache, cache.values, takes_residual);
}

Cache cache_of(const auxcore_kv_cache& given, bool is_written, Memory& memory, const Context& context) {
  if (is_written) {
    check_apart(given);
    write_planes(given, memory);
  } else {
    memory.read("keys", given.keys.first, extent("keys", given, given.keys), 1);
    memory.read("values", given.values.first, extent("values", given, given.values), 1);
  }
  check_corners("keys", given, given.keys, context);
  check_corners("values", given, given.values, context);
  memory.read("keys.scales", given.keys.scales, given.keys.scale_count, 4);
  memory.read("values.scales", given.values.scales, given.values.scale_count, 4);
  for (const auto& [name, plane] : {std::pair("keys.residual", &given.keys), {"values.residual", &given.values}}) {
    const int64_t count = product(name, {given.batch, given.kv_heads, plane->residual_positions, given.head_dim});
    if (is_written && count > 0)
      memory.write(name, plane->residual, count, 4);
    else
      memory.read(name, plane->residual, count, 4);
  }
  if (given.page_offsets != 0) {
    const int64_t tables = product("batch", {given.batch, given.pages_are_of_heads != 0 ? given.kv_heads : 1});
    memory.read("page_offsets", given.page_offsets, tables + 1, 4);
    memory.read("pages", given.pages, given.page_count, 4);
  }
  Cache cache = {};
  cache.keys = plane_of(given, given.keys);
  cache.values = plane_of(given, given.values);
  cache.page_offsets = pointer<const int32_t>(given.page_offsets);
  cache.pages = pointer<const int32_t>(given.pages);
  cache.page_count = static_cast<int32_t>(given.page_count);
  cache.batch = given.batch;
  cache.kv_heads = given.kv_heads;
  cache.head_dim = given.head_dim;
  cache.positions = given.positions;
  cache.pages_are_of_heads = static_cast<int32_t>(given.pages_are_of_heads);
  return cache;
}

Stretches stretches_of(const char* name, const auxcore_kv_cache& cache, const auxcore_kv_plane& plane) {
  return {plane.first, plane.outer_step, plane.outer_count, inner_extent(name, cache, plane)};
}

bool may_overlap(const Stretches& a, const Stretches& b) {
  const auto end_of = [](const Stretches& all) { return all.first + static_cast<uint64_t>((all.count - 1) * all.step + all.bytes); };
  if (a.first >= end_of(b) || b.first >= end_of(a))
    return false;
  if (a.step != b.step || a.step == 0)
    return true;
  int64_t apart = static_cast<int64_t>(b.first - a.first) % a.step;
  apart += apart < 0 ? a.step : 0;
  return apart < a.bytes || apart > a.step - b.bytes;
}

}  // namespace auxcore::kv
