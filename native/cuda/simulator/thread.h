// What the simulator offers a running CUDA thread; simt.h gives it CUDA's names. All of it concerns the thread that calls.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>

namespace simt {

struct Extent {
  unsigned x = 1, y = 1, z = 1;

  constexpr Extent() = default;
  constexpr Extent(unsigned x_, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  constexpr size_t volume() const { return size_t(x) * y * z; }
};

struct Position {
  Extent thread, block, block_extent, grid_extent;
};

const Position& position();

/// The block's barrier. Threads that wait at different places, or exit instead, are an error.
void synchronize_block(const std::source_location& where);

enum class Collective { kSynchronize, kExchange, kBallot };

/// The values that the lanes of one collective brought, by lane. Lanes outside the mask brought poison.
struct WarpValues {
  uint32_t value[32];
};

/// Waits for all lanes of the mask. Lanes that do not exist are left out; one that has exited is an error, as is another collective.
WarpValues synchronize_warp(Collective kind, uint32_t mask, uint32_t value, const std::source_location& where);

unsigned lane();

/// The block's shared array that key stands for: of exactly that size, poisoned when the block first asks for it.
void* shared_array(const void* key, size_t bytes, size_t alignment);

void* dynamic_shared();

/// A copy of 16 bytes into shared memory that is on its way.
struct AsyncCopy {
  void* shared;
  const void* global;
};

void begin_copy(const AsyncCopy& copy, const std::source_location& where);
void commit_copies();

/// Takes the oldest copy of a group that is not among the newest `pending` committed ones. The caller then makes it, so that the
/// sanitizers see it as the kernel's own.
bool take_landing_copy(unsigned pending, AsyncCopy& copy);

}  // namespace simt
