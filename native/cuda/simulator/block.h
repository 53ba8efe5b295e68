// One block at work: its threads, its warps, its shared memory. Internal to the simulator.
#pragma once

#include "fiber.h"
#include "launch.h"
#include "thread.h"

#include <deque>
#include <memory>
#include <vector>

namespace simt {

/// Whether this host thread is inside of a kernel.
bool in_kernel();

/// Called by a CUDA thread that cannot go on: run() throws IllegalAddress.
[[noreturn]] void abandon(const void* address);

constexpr unsigned kWarpLanes = 32;
constexpr unsigned kMostThreads = 1024;
constexpr int kPoison = 0xcb;

enum class State : uint8_t { kReady, kAtBarrier, kInCollective, kExited };

/// Lanes that meet in one warp collective.
struct Rendezvous {
  Collective kind = Collective::kSynchronize;
  uint32_t mask = 0;
  uint32_t arrived = 0;
  uint32_t inside = 0;  ///< arrived and not left; the rendezvous is free for others when none is
  WarpValues values{};
  char tag = 0;
};

struct Warp {
  uint32_t alive = 0;
  Rendezvous rendezvous[kWarpLanes];
};

class Block;

/// A CUDA thread. It belongs to the host thread and serves one block after another, so that its stack is made once.
struct Thread {
  Thread();

  Fiber fiber;
  Block* block = nullptr;
  unsigned number = 0;
  Position position;
  State state = State::kExited;
  std::source_location where;  ///< of what it waits for
  unsigned barriers = 0;       ///< that it has arrived at

  struct PendingCopy {
    AsyncCopy copy;
    unsigned group;
  };
  std::deque<PendingCopy> copies;
  unsigned committed_groups = 0;
};

class Block {
 public:
  Block(const char* kernel, const Shape& shape, const Body& body);
  ~Block();
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  void run(const Extent& index);

  // By the threads of the block.
  void work(Thread& self);
  void synchronize(Thread& self, const std::source_location& where);
  WarpValues meet(Thread& self, Collective kind, uint32_t mask, uint32_t value, const std::source_location& where);
  void* shared_array(const void* key, size_t bytes, size_t alignment);
  void* dynamic_shared() const { return dynamic_; }

  [[noreturn]] __attribute__((format(printf, 4, 5))) void fail(
      const Thread* thread, const std::source_location* where, const char* format, ...) const;

 private:
  struct SharedArray {
    const void* key;
    void* memory;
  };

  void prepare(const Extent& index);
  void free_shared();
  bool run_ready_threads();
  bool release_barrier();
  [[noreturn]] void report_deadlock() const;
  void exit(Thread& self);
  void wait(Thread& self, State state, const std::source_location& where);
  Rendezvous& join(Thread& self, Collective kind, uint32_t mask, const std::source_location& where);
  uint32_t existing_lanes(unsigned warp) const;

  const char* kernel_;
  Shape shape_;
  const Body& body_;
  Extent index_;
  unsigned thread_count_;
  std::vector<unsigned> order_;
  std::vector<Warp> warps_;
  std::vector<SharedArray> shared_;
  void* dynamic_ = nullptr;

  // One tag for both would order each thread's start after the others' ends, and hide races between threads that never meet.
  char started_ = 0;
  char ended_ = 0;
  // Two in turn: a thread may arrive at the next barrier before another has left this one.
  char barrier_[2] = {};
};

}  // namespace simt
