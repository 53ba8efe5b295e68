#include "adamw_tensors.h"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <tuple>

namespace auxcore::adamw {
namespace {

static_assert(int{kFloat32} == AUXCORE_FLOAT32 && int{kFloat16} == AUXCORE_FLOAT16 && int{kBFloat16} == AUXCORE_BFLOAT16);

bool is_float(auxcore_dtype type) { return type == AUXCORE_FLOAT32 || type == AUXCORE_FLOAT16 || type == AUXCORE_BFLOAT16; }

/// A tensor's bytes. What is written shares its memory with nothing.
struct Range {
  uint64_t begin, end;
  std::size_t tensor, column;
  bool written;
};

template <class T>
std::vector<T> copied(const T* from, std::size_t count) {
  return count == 0 ? std::vector<T>() : std::vector<T>(from, from + count);
}

}  // namespace

Tensors::Tensors(const auxcore_adamw_tensors& given, int average_count) : average_count_(average_count) {
  if (given.struct_size != sizeof given)
    fail(AUXCORE_E_ABI, "tensors->struct_size is %u, not %zu", given.struct_size, sizeof given);
  if (given.reserved != 0)
    fail(AUXCORE_E_ARGUMENT, "tensors->reserved is %u, not 0", given.reserved);
  if (given.tensor_count < 0 || given.tensor_count > std::numeric_limits<int32_t>::max())
    fail(AUXCORE_E_ARGUMENT, "tensors->tensor_count is %lld", static_cast<long long>(given.tensor_count));
  const std::size_t count = static_cast<std::size_t>(given.tensor_count);
  if (count > 0 &&
      (!given.addresses || !given.element_counts || !given.parameter_types || !given.gradient_types || !given.settings_of))
    fail(AUXCORE_E_ARGUMENT, "tensors: addresses, element_counts, parameter_types, gradient_types or settings_of is NULL");
  addresses_ = copied(given.addresses, count * columns());
  counts_ = copied(given.element_counts, count);
  parameter_types_ = copied(given.parameter_types, count);
  gradient_types_ = copied(given.gradient_types, count);
  settings_of_ = copied(given.settings_of, count);
}

void Tensors::check(const Context& context) const {
  for (std::size_t i = 0; i < size(); ++i) {
    check_row(i);
    for (std::size_t column = 0; column < columns(); ++column)
      if (is_there(i, column))
        check_memory(i, column, context);
  }
  check_overlap();
}

void Tensors::check_row(std::size_t i) const {
  if (!is_float(parameter_types_[i]))
    fail(AUXCORE_E_ARGUMENT, "parameters[%zu]: type %d is not float32, float16 or bfloat16", i, parameter_types_[i]);
  if (counts_[i] < 0 || counts_[i] > std::numeric_limits<int64_t>::max() / 8)
    fail(AUXCORE_E_ARGUMENT, "parameters[%zu]: %lld elements", i, static_cast<long long>(counts_[i]));
  if (counts_[i] == 0)
    return;
  if ((parameter_types_[i] == AUXCORE_FLOAT32) != (address(i, kMaster) == 0))
    fail(AUXCORE_E_ARGUMENT, "parameters[%zu]: %s", i,
        address(i, kMaster) == 0 ? "a 16-bit type needs a float32 master" : "a float32 parameter is its own master");
  if (address(i, kGradient) != 0 && !is_float(gradient_types_[i]))
    fail(AUXCORE_E_ARGUMENT, "gradients[%zu]: type %d is not float32, float16 or bfloat16", i, gradient_types_[i]);
  if (address(i, kGradient) != 0 && settings_of_[i] < 0)
    fail(AUXCORE_E_ARGUMENT, "settings_of[%zu] is %d", i, settings_of_[i]);
  for (std::size_t k = 1; k < static_cast<std::size_t>(average_count_); ++k)
    if ((address(i, kAverages + k) == 0) != (address(i, kAverages) == 0))
      fail(AUXCORE_E_ARGUMENT, "averages[%zu][%zu]: a parameter has all of its averages or none", k, i);
}

void Tensors::check_memory(std::size_t i, std::size_t column, const Context& context) const {
  const std::size_t bytes = element_bytes(i, column);
  if (address(i, column) % bytes != 0)
    fail(AUXCORE_E_ARGUMENT, "%s: 0x%llx is not aligned to its elements of %zu bytes", name(i, column).text,
        static_cast<unsigned long long>(address(i, column)), bytes);
  context.check_device_memory(name(i, column).text, address(i, column), count(i) * bytes);
}

void Tensors::check_overlap() const {
  std::vector<Range> ranges;
  ranges.reserve(size() * columns());
  for (std::size_t i = 0; i < size(); ++i)
    for (std::size_t column = 0; column < columns(); ++column)
      if (is_there(i, column))
        ranges.push_back(
            {address(i, column), address(i, column) + count(i) * element_bytes(i, column), i, column, column != kGradient});
  std::sort(ranges.begin(), ranges.end(), [](const Range& left, const Range& right) {
    return std::tie(left.begin, left.tensor, left.column) < std::tie(right.begin, right.tensor, right.column);
  });

  // Of what began before: the one that reaches furthest, and the written one that does.
  const Range *furthest = nullptr, *written = nullptr;
  for (const Range& range : ranges) {
    const Range* other = range.written ? furthest : written;
    if (other != nullptr && range.begin < other->end)
      fail(AUXCORE_E_ARGUMENT, "%s overlaps %s", name(range.tensor, range.column).text, name(other->tensor, other->column).text);
    if (furthest == nullptr || range.end > furthest->end)
      furthest = &range;
    if (range.written)
      written = &range;
  }
}

Tensors::Name Tensors::name(std::size_t tensor, std::size_t column) const {
  static constexpr const char* kNames[] = {"parameters", "masters", "gradients", "firstMoments", "secondMoments"};
  Name name;
  if (column < kAverages)
    std::snprintf(name.text, sizeof name.text, "%s[%zu]", kNames[column], tensor);
  else
    std::snprintf(name.text, sizeof name.text, "averages[%zu][%zu]", column - kAverages, tensor);
  return name;
}

std::size_t Tensors::element_bytes(std::size_t tensor, std::size_t column) const {
  const auxcore_dtype type = column == kParameter ? parameter_types_[tensor]
      : column == kGradient                       ? gradient_types_[tensor]
                                                  : auxcore_dtype{AUXCORE_FLOAT32};
  return type == AUXCORE_FLOAT32 ? 4 : 2;
}

bool Tensors::is_there(std::size_t tensor, std::size_t column) const {
  const bool may_miss = column == kMaster || column == kGradient || column >= kAverages;
  return counts_[tensor] > 0 && (!may_miss || address(tensor, column) != 0);
}

int Tensors::greatest_settings() const {
  int greatest = -1;
  for (std::size_t i = 0; i < size(); ++i)
    if (has_gradient(i))
      greatest = std::max(greatest, settings_of_[i]);
  return greatest;
}

/// The first element from which all tensors of the row can be accessed kQuad elements at a time.
uint16_t Tensors::head(std::size_t tensor) const {
  for (uint16_t head = 0; head < kQuad; ++head) {
    bool aligned = true;
    for (std::size_t column = 0; column < columns() && aligned; ++column) {
      const std::size_t bytes = element_bytes(tensor, column);
      aligned = !is_there(tensor, column) || (address(tensor, column) + head * bytes) % (kQuad * bytes) == 0;
    }
    if (aligned)
      return head;
  }
  return kNoVectors;
}

uint64_t Tensors::piece_elements() const {
  uint64_t elements = 0;
  for (std::size_t i = 0; i < size(); ++i)
    elements += has_gradient(i) ? count(i) : 0;
  const uint64_t steps = elements / kWishedPieces / kPieceStep + 1;
  return std::clamp<uint64_t>(steps * kPieceStep, kLeastPiece, kMostPiece);
}

Tensors::Pieces Tensors::pieces() const {
  const uint64_t usual = piece_elements();
  Pieces cut;
  for (std::size_t i = 0; i < size(); ++i) {
    if (!has_gradient(i))
      continue;
    const uint16_t first_head = head(i);
    const auto at_element = [&](std::size_t column, uint64_t element) {
      return address(i, column) == 0 ? 0 : address(i, column) + element * element_bytes(i, column);
    };
    for (uint64_t at = 0; at < count(i);) {
      // The first piece takes the head on top, so that those after it begin on a boundary.
      const uint16_t own_head = at == 0 || first_head == kNoVectors ? first_head : 0;
      const uint64_t whole = usual + (own_head == kNoVectors ? 0 : own_head);
      const uint32_t elements = static_cast<uint32_t>(std::min(count(i) - at, whole));
      cut.pieces.push_back({at_element(kParameter, at), at_element(kMaster, at), at_element(kGradient, at), at_element(kFirstMoment, at),
          at_element(kSecondMoment, at), elements, static_cast<uint32_t>(settings_of_[i]), own_head < elements ? own_head : kNoVectors,
          static_cast<uint8_t>(parameter_types_[i]), static_cast<uint8_t>(gradient_types_[i]), has_averages(i)});
      for (std::size_t column = kAverages; column < columns(); ++column)
        cut.averages.push_back(at_element(column, at));
      at += elements;
    }
  }
  if (cut.pieces.size() > static_cast<std::size_t>(std::numeric_limits<int32_t>::max()))
    fail(AUXCORE_E_ARGUMENT, "%zu pieces of tensors are more than one launch takes", cut.pieces.size());
  return cut;
}

std::vector<Chunk> Tensors::chunks() const {
  std::vector<Chunk> chunks;
  for (std::size_t i = 0; i < size(); ++i)
    for (uint64_t at = 0; has_gradient(i) && at < count(i); at += kChunkElements)
      chunks.push_back({address(i, kGradient) + at * element_bytes(i, kGradient),
          static_cast<uint32_t>(std::min<uint64_t>(count(i) - at, kChunkElements)), static_cast<uint32_t>(gradient_types_[i])});
  if (chunks.size() > static_cast<std::size_t>(std::numeric_limits<int32_t>::max()))
    fail(AUXCORE_E_ARGUMENT, "%zu chunks of gradients are more than one launch takes", chunks.size());
  return chunks;
}

}  // namespace auxcore::adamw
