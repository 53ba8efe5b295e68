// AdamWUpdate and GradientNorm: what a table keeps on the device, the launches, and the C ABI. The formulas and the kernels are in
// adamw_update.cu and gradient_norm.cu.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <optional>
#include <utility>

#include "adamw_tensors.h"

namespace auxcore::adamw {
namespace {

AUXCORE_DECLARE_IMAGE(adamw);
const Kernel kUpdate{"AdamWUpdate", &image_adamw, "auxcore_adamw_update"};
const Kernel kSetSettings{"AdamWUpdate", &image_adamw, "auxcore_adamw_set_settings"};
const Kernel kSetDecays{"AdamWUpdate", &image_adamw, "auxcore_adamw_set_decays"};
const Kernel kNormChunks{"GradientNorm", &image_adamw, "auxcore_adamw_norm_chunks"};
const Kernel kNormFold{"GradientNorm", &image_adamw, "auxcore_adamw_norm_fold"};

// As EmaUpdate's (ema/ema_update.cpp).
ema::Step step_of(double decay) {
  const float weight = static_cast<float>(1.0 - decay);
  if (decay == 1)
    return {ema::kKeep, 0};
  if (decay == 0)
    return {ema::kCopy, 0};
  return weight < 0.5f ? ema::Step{ema::kFromAverage, weight} : ema::Step{ema::kFromSource, -static_cast<float>(decay)};
}

Settings as_read_by_kernels(const auxcore_adamw_settings& s) {
  return {s.gradient_scale, s.penalty, s.weight1, s.weight2, s.epsilon, s.step_size, s.shrinkage};
}

void check(const auxcore_adamw_settings& s, int i) {
  for (const double value : {s.gradient_scale, double{s.penalty}, double{s.weight1}, double{s.weight2}, double{s.epsilon},
           double{s.step_size}, double{s.shrinkage}})
    if (!std::isfinite(value))
      fail(AUXCORE_E_ARGUMENT, "settings[%d] has %g, which is not finite", i, value);
}

unsigned blocks_for(std::size_t warps) { return static_cast<unsigned>((warps + kThreads / kWarp - 1) / (kThreads / kWarp)); }

/// Device memory that grows and is freed in the end; its owner serialises the calls.
class Memory {
 public:
  CUdeviceptr address() const { return address_; }

  /// After this, `bytes` fit; what was there is lost if it had to grow. Frees the old memory only once the new is there.
  void reserve(Context& context, std::size_t bytes) {
    if (bytes <= bytes_)
      return;
    const CUdeviceptr grown = context.allocate(bytes);
    const CUdeviceptr old = std::exchange(address_, grown);
    bytes_ = bytes;
    context.free(old);
  }

  bool holds(std::size_t bytes) const { return bytes <= bytes_; }

  void release(Context& context) {
    bytes_ = 0;
    context.free(std::exchange(address_, 0));
  }

 private:
  CUdeviceptr address_ = 0;
  std::size_t bytes_ = 0;
};

/// Behind an auxcore_adamw_table. Its device memory goes with the context, unless it is destroyed before.
class Table final : public Object {
 public:
  Table(std::shared_ptr<Context> context, int average_count)
      : context_(std::move(context)), average_count_(average_count), tensors_(average_count) {
    small_.reserve(*context_, kSmallBytes);
  }

  const Context& owner() const noexcept override { return *context_; }
  Context& context() const { return *context_; }
  bool has_averages() const { return average_count_ > 0; }

  void set(CUstream stream, const auxcore_adamw_settings* settings, int count, const double* decays) {
    const std::lock_guard lock(mutex_);
    require_open();
    if (count < 1)
      fail(AUXCORE_E_ARGUMENT, "%d settings; there is at least one", count);
    for (int i = 0; i < count; ++i)
      check(settings[i], i);
    for (int k = 0; k < average_count_; ++k)
      if (!(decays[k] >= 0 && decays[k] <= 1))  // NaN too
        fail(AUXCORE_E_ARGUMENT, "decays[%d] is %g, not within [0, 1]", k, decays[k]);

    std::vector<auxcore_adamw_settings> new_settings(settings, settings + count);
    std::vector<double> new_decays(decays, average_count_ > 0 ? decays + average_count_ : decays);
    const bool same_settings = settings_ && settings_->size() == new_settings.size() &&
        std::memcmp(settings_->data(), new_settings.data(), new_settings.size() * sizeof new_settings[0]) == 0;
    const bool same_decays = decays_ == new_decays;
    if (same_settings && same_decays)
      return;
    // Recorded, the new ones would be written by each replay, and nobody could replay with others.
    if (context_->is_capturing(stream))
      fail(AUXCORE_E_ARGUMENT, "the stream is capturing: set settings and decays before the capture, and between replays");
    if (!same_settings)
      write_settings(stream, std::move(new_settings));
    if (!same_decays)
      write_decays(stream, std::move(new_decays));
  }

  void update(CUstream stream, const auxcore_adamw_tensors* given, uint32_t flags) {
    const std::lock_guard lock(mutex_);
    require_open();
    if ((flags & ~AUXCORE_ADAMW_CLIPPED) != 0)
      fail(AUXCORE_E_ARGUMENT, "flags are 0x%x", flags);
    const bool clipped = (flags & AUXCORE_ADAMW_CLIPPED) != 0;
    if (clipped && !has_norm_)
      fail(AUXCORE_E_ARGUMENT, "a clipped update, and no norm before");
    if (!settings_)
      fail(AUXCORE_E_ARGUMENT, "no settings were set");
    take(given, stream);
    if (greatest_settings_ >= static_cast<int>(settings_->size()))
      fail(AUXCORE_E_ARGUMENT, "a parameter follows settings[%d]; there are %zu", greatest_settings_, settings_->size());
    if (piece_count_ == 0)
      return;
    context_->launch(kUpdate, Grid{blocks_for(piece_count_), kThreads}, stream, pieces_.address(),
        CUdeviceptr{pieces_.address() + piece_count_ * sizeof(Piece)}, settings_memory_.address(), decays_address(),
        clipped ? norm_address() : CUdeviceptr{0}, piece_count_, int32_t{average_count_});
  }

  void norm(CUstream stream, const auxcore_adamw_tensors* given, double scale, double greatest, bool skip) {
    const std::lock_guard lock(mutex_);
    require_open();
    if (!(std::isfinite(scale) && scale >= 0))
      fail(AUXCORE_E_ARGUMENT, "scale is %g; it is finite and not negative", scale);
    if (!(std::isfinite(greatest) && greatest >= 0))
      fail(AUXCORE_E_ARGUMENT, "greatest is %g; it is finite and not negative", greatest);
    take(given, stream);
    if (!has_chunks_)
      make_chunks(stream);
    if (chunk_count_ > 0)
      context_->launch(kNormChunks, Grid{blocks_for(chunk_count_), kThreads}, stream, chunks_.address(), sums_address(), counts_address(),
          chunk_count_);
    context_->launch(kNormFold, Grid{1, kFinalSums}, stream, sums_address(), counts_address(), norm_address(), chunk_count_, scale,
        greatest, int32_t{skip});
    has_norm_ = true;
  }

  void read_norm(CUstream stream, double* sum_of_squares, int64_t* non_finite) {
    const std::lock_guard lock(mutex_);
    require_open();
    if (!has_norm_)
      fail(AUXCORE_E_ARGUMENT, "there was no norm before");
    if (context_->is_capturing(stream))
      fail(AUXCORE_E_ARGUMENT, "the stream is capturing: read the norm after a replay");
    AUXCORE_CUDA(cuMemcpyDtoHAsync_v2, &found_, norm_address(), sizeof found_, stream);
    AUXCORE_CUDA(cuStreamSynchronize, stream);
    *sum_of_squares = found_.sum_of_squares;
    *non_finite = static_cast<int64_t>(found_.non_finite);
  }

  void destroy() {
    const std::lock_guard lock(mutex_);
    require_open();
    FirstFailure failure;
    for (Memory* memory : {&pieces_, &chunks_, &settings_memory_, &small_})
      failure.attempt([&] { memory->release(*context_); });
    failure.rethrow();
  }

 private:
  // One block of memory holds the norm and the steps of the averages.
  static constexpr std::size_t kDecaysAt = sizeof(Norm), kSmallBytes = kDecaysAt + sizeof(Decays);

  CUdeviceptr norm_address() const { return small_.address(); }
  CUdeviceptr decays_address() const { return small_.address() + kDecaysAt; }
  // Behind the chunks: their sums, then their counts.
  CUdeviceptr sums_address() const { return chunks_.address() + chunk_count_ * sizeof(Chunk); }
  CUdeviceptr counts_address() const { return sums_address() + chunk_count_ * sizeof(double); }

  // A call that found the handle may come after the one that destroyed the table.
  void require_open() const {
    if (small_.address() == 0)
      fail(AUXCORE_E_HANDLE, "the table was destroyed");
  }

  void write_settings(CUstream stream, std::vector<auxcore_adamw_settings> settings) {
    settings_.reset();
    settings_memory_.reserve(*context_, settings.size() * sizeof(Settings));
    for (std::size_t from = 0; from < settings.size(); from += kSettingsPerLaunch) {
      SettingsBatch values = {};
      const std::size_t count = std::min<std::size_t>(kSettingsPerLaunch, settings.size() - from);
      for (std::size_t i = 0; i < count; ++i) {
        const Settings one = as_read_by_kernels(settings[from + i]);
        std::memcpy(values.word + i * kSettingsWords, &one, sizeof one);
      }
      context_->launch(kSetSettings, Grid{1, kSettingsPerLaunch * kSettingsWords}, stream,
          CUdeviceptr{settings_memory_.address() + from * sizeof(Settings)}, values, static_cast<int32_t>(count) * kSettingsWords);
    }
    settings_ = std::move(settings);
  }

  void write_decays(CUstream stream, std::vector<double> decays) {
    decays_.reset();
    Decays values = {};
    for (int k = 0; k < average_count_; ++k)
      values.step[k] = step_of(decays[static_cast<std::size_t>(k)]);
    context_->launch(kSetDecays, Grid{1, kMostAverages}, stream, decays_address(), values, int32_t{average_count_});
    decays_ = std::move(decays);
  }

  // Everything that can fail comes before the first change, but for the growing of memory that nothing uses yet.
  void take(const auxcore_adamw_tensors* given, CUstream stream) {
    if (given == nullptr) {
      if (!built_)
        fail(AUXCORE_E_ARGUMENT, "tensors is NULL, and there was no call with tensors before");
      return;
    }
    Tensors tensors(*given, average_count_);
    if (built_ && tensors == tensors_)
      return;
    tensors.check(*context_);
    if (context_->is_capturing(stream))
      fail(AUXCORE_E_ARGUMENT, "the stream is capturing: make one call with these tensors before the capture");

    const Tensors::Pieces cut = tensors.pieces();
    built_ = has_chunks_ = false;
    upload(pieces_, stream, cut.pieces, cut.averages, 0);
    piece_count_ = static_cast<uint32_t>(cut.pieces.size());
    tensors_ = std::move(tensors);
    greatest_settings_ = tensors_.greatest_settings();
    built_ = true;
  }

  void make_chunks(CUstream stream) {
    if (context_->is_capturing(stream))
      fail(AUXCORE_E_ARGUMENT, "the stream is capturing: take one norm of these tensors before the capture");
    const std::vector<Chunk> chunks = tensors_.chunks();
    upload(chunks_, stream, chunks, std::vector<uint64_t>(), chunks.size() * (sizeof(double) + sizeof(uint32_t)));
    chunk_count_ = static_cast<uint32_t>(chunks.size());
    has_chunks_ = true;
  }

  /// Two arrays, one behind the other, and room for more. Graphs and launches under way may still read the old ones: waits for the stream.
  template <class First, class Second>
  void upload(Memory& memory, CUstream stream, const std::vector<First>& first, const std::vector<Second>& second, std::size_t more) {
    const std::size_t first_bytes = first.size() * sizeof(First), second_bytes = second.size() * sizeof(Second);
    memory.reserve(*context_, std::max<std::size_t>(first_bytes + second_bytes + more, 1));
    if (first_bytes > 0)
      AUXCORE_CUDA(cuMemcpyHtoDAsync_v2, memory.address(), first.data(), first_bytes, stream);
    if (second_bytes > 0)
      AUXCORE_CUDA(cuMemcpyHtoDAsync_v2, memory.address() + first_bytes, second.data(), second_bytes, stream);
    AUXCORE_CUDA(cuStreamSynchronize, stream);  // the host's copies go when this returns
  }

  const std::shared_ptr<Context> context_;
  const int average_count_;

  std::mutex mutex_;  // of what follows
  Memory pieces_;     // and behind them the addresses of their averages
  Memory chunks_, settings_memory_, small_;
  std::optional<std::vector<auxcore_adamw_settings>> settings_;  // what the device has, or will have when the stream gets there
  std::optional<std::vector<double>> decays_;

  bool built_ = false;  // pieces_ from tensors_
  Tensors tensors_;
  int greatest_settings_ = -1;
  uint32_t piece_count_ = 0;
  bool has_chunks_ = false;
  uint32_t chunk_count_ = 0;
  bool has_norm_ = false;
  Norm found_ = {};  // where its copy lands: a copy whose wait failed still comes
};

template <class Body>
auxcore_status with_table(const char* function, auxcore_adamw_table handle, void* stream, Body&& body) noexcept {
  return guarded(function, [&] {
    const std::shared_ptr<Table> table = require<Table>(handle, "AdamW table");
    const Context::Scope scope(table->context());
    table->context().check_stream(static_cast<CUstream>(stream));
    body(*table, static_cast<CUstream>(stream));
  });
}

}  // namespace
}  // namespace auxcore::adamw

using namespace auxcore;

extern "C" {

auxcore_status auxcore_adamw_create(auxcore_context context, int32_t average_count, auxcore_adamw_table* table) {
  return guarded(__func__, [&] {
    const std::shared_ptr<Context> opened = require<Context>(context, "context");
    if (table == nullptr)
      fail(AUXCORE_E_ARGUMENT, "table is NULL");
    if (average_count < 0 || average_count > adamw::kMostAverages)
      fail(AUXCORE_E_ARGUMENT, "average_count is %d, not within 0 and %d", average_count, adamw::kMostAverages);
    const Context::Scope scope(*opened);
    const auto created = std::make_shared<adamw::Table>(opened, average_count);
    try {
      *table = handles::add(created);
    } catch (...) {
      created->destroy();
      throw;
    }
  });
}

auxcore_status auxcore_adamw_destroy(auxcore_adamw_table table) {
  return adamw::with_table(__func__, table, nullptr, [&](adamw::Table& destroyed, CUstream) {
    handles::remove(table);
    destroyed.destroy();
  });
}

auxcore_status auxcore_adamw_set(
    auxcore_adamw_table table, void* stream, const auxcore_adamw_settings* settings, int32_t count, const double* decays) {
  return adamw::with_table(__func__, table, stream, [&](adamw::Table& changed, CUstream on) {
    if (settings == nullptr)
      fail(AUXCORE_E_ARGUMENT, "settings is NULL");
    if (decays == nullptr && changed.has_averages())
      fail(AUXCORE_E_ARGUMENT, "decays is NULL");
    changed.set(on, settings, count, decays);
  });
}

auxcore_status auxcore_adamw_update(auxcore_adamw_table table, void* stream, const auxcore_adamw_tensors* tensors, uint32_t flags) {
  return adamw::with_table(__func__, table, stream, [&](adamw::Table& updated, CUstream on) { updated.update(on, tensors, flags); });
}

auxcore_status auxcore_adamw_norm(auxcore_adamw_table table, void* stream, const auxcore_adamw_tensors* tensors, double scale,
    double greatest, int32_t skip) {
  return adamw::with_table(
      __func__, table, stream, [&](adamw::Table& asked, CUstream on) { asked.norm(on, tensors, scale, greatest, skip != 0); });
}

auxcore_status auxcore_adamw_read_norm(auxcore_adamw_table table, void* stream, double* sum_of_squares, int64_t* non_finite) {
  return adamw::with_table(__func__, table, stream, [&](adamw::Table& asked, CUstream on) {
    if (sum_of_squares == nullptr || non_finite == nullptr)
      fail(AUXCORE_E_ARGUMENT, "sum_of_squares or non_finite is NULL");
    asked.read_norm(on, sum_of_squares, non_finite);
  });
}

}  // extern "C"
