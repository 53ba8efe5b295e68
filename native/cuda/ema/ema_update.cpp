// EmaUpdate: the table of what an update works on, kept on the device, and the launches. The formulas and the kernel are in ema_update.cu.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <limits>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "../library/context.h"
#include "ema_update.cuh"

namespace auxcore::ema {
namespace {

constexpr const char* kOp = "EmaUpdate";
constexpr int kMostAverages = 64;

AUXCORE_DECLARE_IMAGE(ema);
const Kernel kUpdate{kOp, &image_ema, "auxcore_ema_update"};
const Kernel kUpdateBFloat16{kOp, &image_ema, "auxcore_ema_update_bfloat16"};
const Kernel kSetSteps{kOp, &image_ema, "auxcore_ema_set_steps"};
const Kernel kSetRounding{kOp, &image_ema, "auxcore_ema_set_rounding"};

// The number of a block of eight elements is one word of the random generator's counter.
constexpr int64_t kMostRounded = int64_t{8} << 32;

static_assert(int{kNearest} == AUXCORE_ROUND_NEAREST && int{kStochastic} == AUXCORE_ROUND_STOCHASTIC);
static_assert(int{kFloat32} == AUXCORE_FLOAT32 && int{kFloat16} == AUXCORE_FLOAT16 && int{kBFloat16} == AUXCORE_BFLOAT16);

// The weight is formed in double: 1f - 0.9999f would be off by 1.7e-4 of itself.
Step step_of(double decay) {
  const float weight = static_cast<float>(1.0 - decay);
  if (decay == 1)
    return {kKeep, 0};
  if (decay == 0)
    return {kCopy, 0};
  return weight < 0.5f ? Step{kFromAverage, weight} : Step{kFromSource, -static_cast<float>(decay)};
}

/// What a caller says of its tensors, checked as far as the host can.
class Tensors {
 public:
  Tensors(const auxcore_ema_tensors& given, int average_count) : given_(given), columns_(average_count + 1) {
    if (given.struct_size != sizeof given)
      fail(AUXCORE_E_ABI, "tensors->struct_size is %u, not %zu", given.struct_size, sizeof given);
    if (given.average_type != AUXCORE_FLOAT32 && given.average_type != AUXCORE_BFLOAT16)
      fail(AUXCORE_E_ARGUMENT, "tensors->average_type is %d, not float32 or bfloat16", given.average_type);
    if (given.tensor_count < 0 || given.tensor_count > std::numeric_limits<int32_t>::max())
      fail(AUXCORE_E_ARGUMENT, "tensors->tensor_count is %lld", static_cast<long long>(given.tensor_count));
    if (given.tensor_count > 0 && (!given.addresses || !given.element_counts || !given.source_types))
      fail(AUXCORE_E_ARGUMENT, "tensors: addresses, element_counts or source_types is NULL");
  }

  std::size_t size() const { return static_cast<std::size_t>(given_.tensor_count); }
  std::size_t columns() const { return columns_; }
  uint64_t address(std::size_t tensor, std::size_t column) const { return given_.addresses[tensor * columns_ + column]; }
  const uint64_t* addresses() const { return given_.addresses; }
  const int64_t* counts() const { return given_.element_counts; }
  const auxcore_dtype* types() const { return given_.source_types; }
  auxcore_dtype average_type() const { return given_.average_type; }
  bool rounded() const { return given_.average_type == AUXCORE_BFLOAT16; }
  std::size_t element_bytes(std::size_t tensor, std::size_t column) const {
    return (column == 0 ? given_.source_types[tensor] : given_.average_type) == AUXCORE_FLOAT32 ? 4 : 2;
  }

  /// "sources[3]", "averages[0][3]": the words of the managed API.
  struct Name {
    char text[64];
  };
  Name name(std::size_t tensor, std::size_t column) const {
    Name name;
    if (column == 0)
      std::snprintf(name.text, sizeof name.text, "sources[%zu]", tensor);
    else
      std::snprintf(name.text, sizeof name.text, "averages[%zu][%zu]", column - 1, tensor);
    return name;
  }

 private:
  const auxcore_ema_tensors& given_;
  const std::size_t columns_;
};

void check_tensor(const Tensors& tensors, std::size_t i, const Context& context) {
  const int64_t count = tensors.counts()[i];
  const auxcore_dtype type = tensors.types()[i];
  if (type != AUXCORE_FLOAT32 && type != AUXCORE_FLOAT16 && type != AUXCORE_BFLOAT16)
    fail(AUXCORE_E_ARGUMENT, "sources[%zu]: type %d is not float32, float16 or bfloat16", i, type);
  if (count < 0 || count > std::numeric_limits<int64_t>::max() / 8)
    fail(AUXCORE_E_ARGUMENT, "sources[%zu]: %lld elements", i, static_cast<long long>(count));
  if (tensors.rounded() && count > kMostRounded)
    fail(AUXCORE_E_ARGUMENT, "averages[0][%zu]: %lld elements; bfloat16 averages have at most 2^35", i, static_cast<long long>(count));
  for (std::size_t column = 0; column < tensors.columns() && count > 0; ++column) {
    const std::size_t bytes = tensors.element_bytes(i, column);
    const uint64_t address = tensors.address(i, column);
    if (address % bytes != 0)
      fail(AUXCORE_E_ARGUMENT, "%s: 0x%llx is not aligned to its elements of %zu bytes", tensors.name(i, column).text,
          static_cast<unsigned long long>(address), bytes);
    context.check_device_memory(tensors.name(i, column).text, address, static_cast<std::size_t>(count) * bytes);
  }
}

// Sources may share memory, as tied weights do; an average shares its memory with nothing.
void check_overlap(const Tensors& tensors) {
  struct Range {
    uint64_t begin, end;
    std::size_t tensor, column;
  };
  std::vector<Range> ranges;
  ranges.reserve(tensors.size() * tensors.columns());
  for (std::size_t i = 0; i < tensors.size(); ++i)
    for (std::size_t column = 0; column < tensors.columns() && tensors.counts()[i] > 0; ++column) {
      const uint64_t begin = tensors.address(i, column);
      ranges.push_back({begin, begin + static_cast<uint64_t>(tensors.counts()[i]) * tensors.element_bytes(i, column), i, column});
    }
  std::sort(ranges.begin(), ranges.end(), [](const Range& left, const Range& right) { return left.begin < right.begin; });

  // Of what began before: the one that reaches furthest, and the average that does.
  const Range *furthest = nullptr, *average = nullptr;
  for (const Range& range : ranges) {
    const Range* other = range.column > 0 ? furthest : average;
    if (other != nullptr && range.begin < other->end)
      fail(AUXCORE_E_ARGUMENT, "%s overlaps %s", tensors.name(range.tensor, range.column).text,
          tensors.name(other->tensor, other->column).text);
    if (furthest == nullptr || range.end > furthest->end)
      furthest = &range;
    if (range.column > 0 && (average == nullptr || range.end > average->end))
      average = &range;
  }
}

/// The first element from which a kQuad of the source and of all averages can be accessed at once.
uint16_t head_of(const Tensors& tensors, std::size_t i) {
  for (uint16_t head = 0; head < kQuad; ++head) {
    bool aligned = true;
    for (std::size_t column = 0; column < tensors.columns() && aligned; ++column) {
      const std::size_t bytes = tensors.element_bytes(i, column);
      aligned = (tensors.address(i, column) + head * bytes) % (kQuad * bytes) == 0;
    }
    if (aligned)
      return head;
  }
  return kNoVectors;
}

/// Pieces, then the addresses of their averages, then, for averages in bfloat16, their positions: one block of memory, as the kernel reads
/// it.
struct Layout {
  std::vector<Piece> pieces;
  std::vector<uint64_t> averages;
  std::vector<Position> positions;

  std::size_t piece_bytes() const { return pieces.size() * sizeof(Piece); }
  std::size_t average_bytes() const { return averages.size() * sizeof(uint64_t); }
  std::size_t position_bytes() const { return positions.size() * sizeof(Position); }
};

uint64_t piece_elements(const Tensors& tensors) {
  uint64_t elements = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i)
    elements += static_cast<uint64_t>(tensors.counts()[i]);
  const uint64_t steps = elements / kWishedPieces / kPieceStep + 1;
  return std::clamp<uint64_t>(steps * kPieceStep, kLeastPiece, kMostPiece);
}

Layout cut(const Tensors& tensors) {
  const uint64_t usual = piece_elements(tensors);
  Layout layout;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const uint64_t count = static_cast<uint64_t>(tensors.counts()[i]);
    const uint16_t head = head_of(tensors, i);
    uint64_t at = 0;
    while (at < count) {
      // The first piece takes the head on top, so that those after it begin on a boundary.
      const uint16_t own_head = at == 0 || head == kNoVectors ? head : 0;
      const uint64_t whole = usual + (own_head == kNoVectors ? 0 : own_head);
      const uint32_t elements = static_cast<uint32_t>(std::min(count - at, whole));
      const bool vectors = own_head != kNoVectors && own_head < elements;
      layout.pieces.push_back({tensors.address(i, 0) + at * tensors.element_bytes(i, 0), elements,
          vectors ? own_head : kNoVectors, static_cast<uint16_t>(tensors.types()[i])});
      for (std::size_t column = 1; column < tensors.columns(); ++column)
        layout.averages.push_back(tensors.address(i, column) + at * tensors.element_bytes(i, column));
      if (tensors.rounded())
        layout.positions.push_back({at, static_cast<uint32_t>(i), 0});
      at += elements;
    }
  }
  if (layout.pieces.size() > static_cast<std::size_t>(std::numeric_limits<int32_t>::max()))
    fail(AUXCORE_E_ARGUMENT, "%zu pieces of tensors are more than one launch takes", layout.pieces.size());
  return layout;
}

/// Behind an auxcore_ema_table. Its device memory goes with the context, unless it is destroyed before.
class Table final : public Object {
 public:
  Table(std::shared_ptr<Context> context, int average_count)
      : context_(std::move(context)),
        average_count_(average_count),
        steps_(context_->allocate(average_count * sizeof(Step) + sizeof(Rounding))) {}

  const Context& owner() const noexcept override { return *context_; }
  Context& context() const { return *context_; }

  void set_decays(CUstream stream, const double* decays, int count) {
    const std::lock_guard lock(mutex_);
    require_open();
    if (count != average_count_)
      fail(AUXCORE_E_ARGUMENT, "%d decays for %d averages", count, average_count_);
    for (int i = 0; i < count; ++i)
      if (!(decays[i] >= 0 && decays[i] <= 1))  // NaN too
        fail(AUXCORE_E_ARGUMENT, "decays[%d] is %g, not within [0, 1]", i, decays[i]);
    write_steps(stream, std::vector<double>(decays, decays + count));
  }

  void set_rounding(CUstream stream, const Rounding& rounding) {
    const std::lock_guard lock(mutex_);
    require_open();
    if (rounding_ && std::memcmp(&*rounding_, &rounding, sizeof rounding) == 0)
      return;
    if (context_->is_capturing(stream))
      fail(AUXCORE_E_ARGUMENT, "the stream is capturing: set the rounding before the capture, and between replays");
    rounding_.reset();
    context_->launch(kSetRounding, Grid{1, kWarp}, stream, rounding_address(), rounding);
    rounding_ = rounding;
  }

  void update(CUstream stream, const auxcore_ema_tensors* given) {
    const std::lock_guard lock(mutex_);
    require_open();
    if (given != nullptr) {
      const Tensors tensors(*given, average_count_);
      if (tensors.rounded() && !rounding_)
        fail(AUXCORE_E_ARGUMENT, "averages are bfloat16, and no rounding was set");
      if (!is_current(tensors))
        rebuild(tensors, stream);
    } else if (!built_) {
      fail(AUXCORE_E_ARGUMENT, "tensors is NULL, and there was no update before");
    } else if (average_type_ == AUXCORE_BFLOAT16 && !rounding_) {
      fail(AUXCORE_E_ARGUMENT, "averages are bfloat16, and no rounding was set");
    }
    if (!decays_)
      write_steps(stream, std::vector<double>(average_count_, 1.0));
    if (piece_count_ == 0)
      return;
    const unsigned blocks = (piece_count_ + kThreads / kWarp - 1) / (kThreads / kWarp);
    if (average_type_ == AUXCORE_BFLOAT16)
      context_->launch(kUpdateBFloat16, Grid{blocks, kThreads}, stream, pieces_, averages_, positions_, steps_, rounding_address(),
          piece_count_, int32_t{average_count_});
    else
      context_->launch(kUpdate, Grid{blocks, kThreads}, stream, pieces_, averages_, steps_, piece_count_, int32_t{average_count_});
  }

  void destroy() {
    const std::lock_guard lock(mutex_);
    require_open();
    FirstFailure failure;
    failure.attempt([&] { context_->free(std::exchange(pieces_, 0)); });
    failure.attempt([&] { context_->free(std::exchange(steps_, 0)); });
    failure.rethrow();
  }

 private:
  // A call that found the handle may come after the one that destroyed the table.
  void require_open() const {
    if (steps_ == 0)
      fail(AUXCORE_E_HANDLE, "the table was destroyed");
  }

  // Behind the steps, in the same block.
  CUdeviceptr rounding_address() const { return steps_ + average_count_ * sizeof(Step); }

  void write_steps(CUstream stream, std::vector<double> decays) {
    if (decays_ == decays)
      return;
    // Recorded, the new decays would be written by each replay, and nobody could replay with others.
    if (context_->is_capturing(stream))
      fail(AUXCORE_E_ARGUMENT, "the stream is capturing: set decays before the capture, and between replays");
    decays_.reset();
    for (int from = 0; from < average_count_; from += kStepsPerLaunch) {
      Steps values = {};
      const int32_t count = std::min(kStepsPerLaunch, average_count_ - from);
      for (int32_t i = 0; i < count; ++i)
        values.step[i] = step_of(decays[from + i]);
      context_->launch(kSetSteps, Grid{1, kStepsPerLaunch}, stream, steps_ + from * sizeof(Step), values, count);
    }
    decays_ = std::move(decays);
  }

  bool is_current(const Tensors& tensors) const {
    const auto same = [](const auto& known, const auto* given, std::size_t count) {
      return known.size() == count && (count == 0 || std::memcmp(known.data(), given, count * sizeof *given) == 0);
    };
    return built_ && average_type_ == tensors.average_type() && same(counts_, tensors.counts(), tensors.size()) &&
           same(types_, tensors.types(), tensors.size()) && same(addresses_, tensors.addresses(), tensors.size() * tensors.columns());
  }

  // Everything that can fail comes before the first change.
  void rebuild(const Tensors& tensors, CUstream stream) {
    for (std::size_t i = 0; i < tensors.size(); ++i)
      check_tensor(tensors, i, *context_);
    check_overlap(tensors);
    if (context_->is_capturing(stream))
      fail(AUXCORE_E_ARGUMENT, "the stream is capturing: make one update with these tensors before the capture");

    std::vector<uint64_t> addresses(tensors.addresses(), tensors.addresses() + tensors.size() * tensors.columns());
    std::vector<int64_t> counts(tensors.counts(), tensors.counts() + tensors.size());
    std::vector<auxcore_dtype> types(tensors.types(), tensors.types() + tensors.size());
    const Layout layout = cut(tensors);
    CUdeviceptr pieces = 0;
    if (!layout.pieces.empty())
      pieces = upload(layout, stream);

    const CUdeviceptr old = std::exchange(pieces_, pieces);
    averages_ = pieces_ + layout.piece_bytes();
    positions_ = averages_ + layout.average_bytes();
    piece_count_ = static_cast<uint32_t>(layout.pieces.size());
    addresses_ = std::move(addresses);
    counts_ = std::move(counts);
    types_ = std::move(types);
    average_type_ = tensors.average_type();
    built_ = true;
    context_->free(old);
  }

  CUdeviceptr upload(const Layout& layout, CUstream stream) {
    const CUdeviceptr memory = context_->allocate(layout.piece_bytes() + layout.average_bytes() + layout.position_bytes());
    const CUdeviceptr averages = memory + layout.piece_bytes(), positions = averages + layout.average_bytes();
    try {
      AUXCORE_CUDA(cuMemcpyHtoDAsync_v2, memory, layout.pieces.data(), layout.piece_bytes(), stream);
      AUXCORE_CUDA(cuMemcpyHtoDAsync_v2, averages, layout.averages.data(), layout.average_bytes(), stream);
      if (!layout.positions.empty())
        AUXCORE_CUDA(cuMemcpyHtoDAsync_v2, positions, layout.positions.data(), layout.position_bytes(), stream);
      AUXCORE_CUDA(cuStreamSynchronize, stream);  // the host's copy goes when this returns
    } catch (...) {
      FirstFailure ignored;  // the first failure is the one to report
      ignored.attempt([&] { context_->free(memory); });
      throw;
    }
    return memory;
  }

  const std::shared_ptr<Context> context_;
  const int average_count_;

  std::mutex mutex_;  // of what follows
  CUdeviceptr steps_;
  CUdeviceptr pieces_ = 0;
  CUdeviceptr averages_ = 0;   // behind the pieces, in the same block
  CUdeviceptr positions_ = 0;  // behind these, for averages in bfloat16
  uint32_t piece_count_ = 0;
  std::optional<std::vector<double>> decays_;  // what the device has, or will have when the stream gets there
  std::optional<Rounding> rounding_;           // the same

  bool built_ = false;  // from the four below
  auxcore_dtype average_type_ = AUXCORE_FLOAT32;
  std::vector<uint64_t> addresses_;
  std::vector<int64_t> counts_;
  std::vector<auxcore_dtype> types_;
};

template <class Body>
auxcore_status with_table(const char* function, auxcore_ema_table handle, Body&& body) noexcept {
  return guarded(function, [&] {
    const std::shared_ptr<Table> table = require<Table>(handle, "EMA table");
    const Context::Scope scope(table->context());
    body(*table);
  });
}

}  // namespace
}  // namespace auxcore::ema

using namespace auxcore;

extern "C" {

auxcore_status auxcore_ema_create(auxcore_context context, int32_t average_count, auxcore_ema_table* table) {
  return guarded(__func__, [&] {
    const std::shared_ptr<Context> opened = require<Context>(context, "context");
    if (table == nullptr)
      fail(AUXCORE_E_ARGUMENT, "table is NULL");
    if (average_count < 1 || average_count > ema::kMostAverages)
      fail(AUXCORE_E_ARGUMENT, "average_count is %d, not within 1 and %d", average_count, ema::kMostAverages);
    const Context::Scope scope(*opened);
    const auto created = std::make_shared<ema::Table>(opened, average_count);
    try {
      *table = handles::add(created);
    } catch (...) {
      created->destroy();
      throw;
    }
  });
}

auxcore_status auxcore_ema_destroy(auxcore_ema_table table) {
  return ema::with_table(__func__, table, [&](ema::Table& destroyed) {
    handles::remove(table);
    destroyed.destroy();
  });
}

auxcore_status auxcore_ema_set_decays(auxcore_ema_table table, void* stream, const double* decays, int32_t count) {
  return ema::with_table(__func__, table, [&](ema::Table& changed) {
    if (decays == nullptr)
      fail(AUXCORE_E_ARGUMENT, "decays is NULL");
    changed.context().check_stream(static_cast<CUstream>(stream));
    changed.set_decays(static_cast<CUstream>(stream), decays, count);
  });
}

auxcore_status auxcore_ema_set_rounding(
    auxcore_ema_table table, void* stream, int32_t kind, uint64_t seed, int64_t step, int32_t first_tensor) {
  return ema::with_table(__func__, table, [&](ema::Table& changed) {
    if (kind != AUXCORE_ROUND_NEAREST && kind != AUXCORE_ROUND_STOCHASTIC)
      fail(AUXCORE_E_ARGUMENT, "kind is %d, no way of rounding", kind);
    if (step < 0)
      fail(AUXCORE_E_ARGUMENT, "step is %lld", static_cast<long long>(step));
    if (first_tensor < 0)
      fail(AUXCORE_E_ARGUMENT, "first_tensor is %d", first_tensor);
    changed.context().check_stream(static_cast<CUstream>(stream));
    changed.set_rounding(static_cast<CUstream>(stream),
        {seed, static_cast<uint64_t>(step), static_cast<uint32_t>(first_tensor), static_cast<ema::RoundingKind>(kind)});
  });
}

auxcore_status auxcore_ema_update(auxcore_ema_table table, void* stream, const auxcore_ema_tensors* tensors) {
  return ema::with_table(__func__, table, [&](ema::Table& updated) {
    updated.context().check_stream(static_cast<CUstream>(stream));
    updated.update(static_cast<CUstream>(stream), tensors);
  });
}

}  // extern "C"
