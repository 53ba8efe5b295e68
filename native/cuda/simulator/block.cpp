#include "block.h"

#include "fault.h"
#include "sanitizers.h"

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <utility>

namespace simt {
namespace {

std::atomic<uint32_t> run_order{0};

/// The fibers of a host thread.
struct Host {
  Fiber fiber;
  std::vector<std::unique_ptr<Thread>> threads;
  Thread* running = nullptr;
  const void* illegal = nullptr;  ///< the address that a thread could not go on after
};

Host& host() {
  static thread_local Host own;
  return own;
}

Thread& self() { return *host().running; }

[[noreturn]] void serve_blocks() {
  Fiber::entered();
  for (;;) {
    Thread& thread = self();
    thread.block->work(thread);
    thread.fiber.switch_to(host().fiber);
  }
}

std::vector<unsigned> make_order(unsigned count, uint32_t order) {
  std::vector<unsigned> numbers(count);
  std::iota(numbers.begin(), numbers.end(), 0u);
  if (order == 1)
    return {numbers.rbegin(), numbers.rend()};
  uint64_t random = order;
  for (unsigned left = count; order > 1 && left > 1; --left) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    std::swap(numbers[left - 1], numbers[(random >> 33) % left]);
  }
  return numbers;
}

void* allocate_poisoned(size_t bytes, size_t alignment) {
  void* memory = nullptr;
  if (posix_memalign(&memory, alignment, bytes) != 0) {
    std::fprintf(stderr, "simulator: no memory for %zu bytes of shared memory\n", bytes);
    std::abort();
  }
  std::memset(memory, kPoison, bytes);
  return memory;
}

}  // namespace

void set_run_order(uint32_t order) { run_order = order; }

void run(const char* kernel, const Shape& shape, const Body& body) {
  Block block(kernel, shape, body);
  const Extent& grid = shape.grid;
  for (unsigned number : make_order(unsigned(grid.volume()), run_order))
    block.run({number % grid.x, number / grid.x % grid.y, number / grid.x / grid.y});
}

Thread::Thread() : fiber(serve_blocks) {}

Block::Block(const char* kernel, const Shape& shape, const Body& body)
    : kernel_(kernel), shape_(shape), body_(body), index_(0, 0, 0), thread_count_(unsigned(shape.block.volume())) {
  if (shape.block.volume() == 0 || shape.block.volume() > kMostThreads || shape.grid.volume() == 0)
    fail(nullptr, nullptr, "a grid of %zu blocks of %zu threads cannot be launched", shape.grid.volume(), shape.block.volume());
  order_ = make_order(thread_count_, run_order);
  warps_.resize((thread_count_ + kWarpLanes - 1) / kWarpLanes);
  while (host().threads.size() < thread_count_)
    host().threads.push_back(std::make_unique<Thread>());
}

Block::~Block() { free_shared(); }

void Block::run(const Extent& index) {
  prepare(index);
  release(started_);
  while (run_ready_threads() || (host().illegal == nullptr && release_barrier())) {
  }
  if (const void* address = std::exchange(host().illegal, nullptr)) {
    // The threads stand in the middle of the kernel, on stacks that nobody will go back to. What they did comes before what the host does.
    for (unsigned i = 0; i < thread_count_; ++i)
      host().threads[i]->fiber.release(ended_);
    acquire(ended_);
    host().threads.clear();
    throw IllegalAddress{address};
  }
  for (unsigned i = 0; i < thread_count_; ++i)
    if (host().threads[i]->state != State::kExited)
      report_deadlock();
  acquire(ended_);
  free_shared();
}

void Block::free_shared() {
  for (const SharedArray& array : shared_)
    std::free(array.memory);
  shared_.clear();
  std::free(dynamic_);
  dynamic_ = nullptr;
}

void Block::prepare(const Extent& index) {
  index_ = index;
  if (shape_.dynamic_shared_bytes > 0)
    dynamic_ = allocate_poisoned(shape_.dynamic_shared_bytes, 16);
  for (unsigned warp = 0; warp < warps_.size(); ++warp)
    warps_[warp].alive = existing_lanes(warp);
  const Extent& extent = shape_.block;
  for (unsigned i = 0; i < thread_count_; ++i) {
    Thread& thread = *host().threads[i];
    thread.block = this;
    thread.number = i;
    thread.position = {{i % extent.x, i / extent.x % extent.y, i / (extent.x * extent.y)}, index, extent, shape_.grid};
    thread.state = State::kReady;
    thread.barriers = 0;
    thread.copies.clear();
    thread.committed_groups = 0;
  }
}

bool Block::run_ready_threads() {
  bool any = false;
  for (unsigned number : order_) {
    Thread& thread = *host().threads[number];
    if (thread.state != State::kReady)
      continue;
    any = true;
    host().running = &thread;
    host().fiber.switch_to(thread.fiber);
    host().running = nullptr;
    if (host().illegal != nullptr)
      return false;
  }
  return any;
}

/// Called when no thread is ready. The barrier opens when all threads have arrived, at one and the same place.
bool Block::release_barrier() {
  const Thread* first = nullptr;
  unsigned waiting = 0, exited = 0;
  for (unsigned i = 0; i < thread_count_; ++i) {
    const Thread& thread = *host().threads[i];
    exited += thread.state == State::kExited;
    if (thread.state != State::kAtBarrier)
      continue;
    ++waiting;
    if (first == nullptr)
      first = &thread;
    else if (thread.where.line() != first->where.line() || std::strcmp(thread.where.file_name(), first->where.file_name()) != 0)
      fail(&thread, &thread.where, "divergent barrier: thread %u waits at line %u", first->number, unsigned(first->where.line()));
  }
  if (waiting == 0 || waiting + exited < thread_count_)
    return false;
  if (exited > 0)
    fail(first, &first->where, "divergent barrier: %u of %u threads exited instead of reaching it", exited, thread_count_);
  for (unsigned i = 0; i < thread_count_; ++i)
    host().threads[i]->state = State::kReady;
  return true;
}

void Block::report_deadlock() const {
  for (unsigned i = 0; i < thread_count_; ++i) {
    const Thread& thread = *host().threads[i];
    if (thread.state == State::kAtBarrier || thread.state == State::kInCollective)
      std::fprintf(stderr, "simulator: thread %u waits %s at %s:%u\n", i,
                   thread.state == State::kAtBarrier ? "for its block" : "for its warp", thread.where.file_name(),
                   unsigned(thread.where.line()));
  }
  fail(nullptr, nullptr, "deadlock: the threads above wait for others that will never come");
}

void Block::work(Thread& thread) {
  acquire(started_);
  body_.call(body_.closure);
  exit(thread);
  release(ended_);
}

void Block::exit(Thread& thread) {
  const unsigned lane = thread.number % kWarpLanes;
  Warp& warp = warps_[thread.number / kWarpLanes];
  warp.alive &= ~(1u << lane);
  thread.state = State::kExited;
  for (const Rendezvous& rendezvous : warp.rendezvous)
    if (rendezvous.inside != 0 && rendezvous.arrived != rendezvous.mask && (rendezvous.mask >> lane & 1u))
      fail(&thread, nullptr, "lane %u exited, but the mask 0x%08x of a warp collective that others wait in names it", lane,
           rendezvous.mask);
}

void Block::wait(Thread& thread, State state, const std::source_location& where) {
  thread.state = state;
  thread.where = where;
  thread.fiber.switch_to(host().fiber);
}

void Block::synchronize(Thread& thread, const std::source_location& where) {
  char& tag = barrier_[thread.barriers++ % 2];
  release(tag);
  wait(thread, State::kAtBarrier, where);
  acquire(tag);
}

uint32_t Block::existing_lanes(unsigned warp) const {
  const unsigned lanes = thread_count_ - warp * kWarpLanes;
  return lanes >= kWarpLanes ? 0xffffffffu : (1u << lanes) - 1;
}

/// The rendezvous that lanes of this mask already wait in, or a free one.
Rendezvous& Block::join(Thread& thread, Collective kind, uint32_t mask, const std::source_location& where) {
  Warp& warp = warps_[thread.number / kWarpLanes];
  Rendezvous* free = nullptr;
  for (Rendezvous& rendezvous : warp.rendezvous) {
    if (rendezvous.inside == 0)
      free = &rendezvous;
    else if (rendezvous.arrived == rendezvous.mask || (rendezvous.mask & mask) == 0)
      continue;
    else if (rendezvous.mask == mask && rendezvous.kind == kind)
      return rendezvous;
    else
      fail(&thread, &where, "lanes of a warp meet in different collectives: mask 0x%08x here, 0x%08x there", mask, rendezvous.mask);
  }
  // A lane is inside of one rendezvous at most, and this one is not yet inside of any.
  *free = {};
  free->kind = kind;
  free->mask = mask;
  std::memset(&free->values, kPoison, sizeof free->values);
  return *free;
}

WarpValues Block::meet(Thread& thread, Collective kind, uint32_t mask, uint32_t value, const std::source_location& where) {
  const unsigned own_lane = thread.number % kWarpLanes, warp_number = thread.number / kWarpLanes;
  const uint32_t own = 1u << own_lane;
  mask &= existing_lanes(warp_number);
  if (!(mask & own))
    fail(&thread, &where, "the mask 0x%08x of a warp collective does not name lane %u, which calls it", mask, own_lane);
  if (const uint32_t gone = mask & ~warps_[warp_number].alive)
    fail(&thread, &where, "the mask 0x%08x of a warp collective names lanes 0x%08x, which have exited", mask, gone);

  Rendezvous& rendezvous = join(thread, kind, mask, where);
  rendezvous.values.value[own_lane] = value;
  rendezvous.arrived |= own;
  rendezvous.inside |= own;
  // Only __syncwarp orders memory; exchanges do not.
  if (kind == Collective::kSynchronize)
    release(rendezvous.tag);
  if (rendezvous.arrived != mask) {
    wait(thread, State::kInCollective, where);
  } else {
    for (unsigned i = 0; i < kWarpLanes; ++i)
      if (mask & ~own & 1u << i)
        host().threads[warp_number * kWarpLanes + i]->state = State::kReady;
  }
  if (kind == Collective::kSynchronize)
    acquire(rendezvous.tag);
  const WarpValues values = rendezvous.values;
  rendezvous.inside &= ~own;
  return values;
}

void* Block::shared_array(const void* key, size_t bytes, size_t alignment) {
  for (const SharedArray& array : shared_)
    if (array.key == key)
      return array.memory;
  // The thread that happens to ask first does nothing that others would have to be ordered with.
  const Unchecked bookkeeping;
  shared_.push_back({key, allocate_poisoned(bytes, alignment)});
  return shared_.back().memory;
}

void Block::fail(const Thread* thread, const std::source_location* where, const char* format, ...) const {
  char message[256];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  std::fprintf(stderr, "simulator: %s (kernel %s, block %u,%u,%u", message, kernel_, index_.x, index_.y, index_.z);
  if (thread != nullptr)
    std::fprintf(stderr, ", thread %u", thread->number);
  if (where != nullptr)
    std::fprintf(stderr, ", %s:%u", where->file_name(), unsigned(where->line()));
  std::fprintf(stderr, ")\n");
  std::abort();
}

bool in_kernel() { return host().running != nullptr; }

void abandon(const void* address) {
  host().illegal = address;
  Thread& thread = self();
  for (;;)
    thread.fiber.switch_to(host().fiber);
}

const Position& position() { return self().position; }

unsigned lane() { return self().number % kWarpLanes; }

void synchronize_block(const std::source_location& where) { self().block->synchronize(self(), where); }

WarpValues synchronize_warp(Collective kind, uint32_t mask, uint32_t value, const std::source_location& where) {
  return self().block->meet(self(), kind, mask, value, where);
}

void* shared_array(const void* key, size_t bytes, size_t alignment) { return self().block->shared_array(key, bytes, alignment); }

void* dynamic_shared() { return self().block->dynamic_shared(); }

void begin_copy(const AsyncCopy& copy, const std::source_location& where) {
  Thread& thread = self();
  if ((reinterpret_cast<uintptr_t>(copy.shared) | reinterpret_cast<uintptr_t>(copy.global)) % 16 != 0)
    thread.block->fail(&thread, &where, "an asynchronous copy from %p to %p is not aligned to 16 bytes", copy.global, copy.shared);
  const Unchecked bookkeeping;
  thread.copies.push_back({copy, thread.committed_groups});
}

void commit_copies() { ++self().committed_groups; }

bool take_landing_copy(unsigned pending, AsyncCopy& copy) {
  Thread& thread = self();
  if (thread.copies.empty() || thread.copies.front().group + pending >= thread.committed_groups)
    return false;
  const Unchecked bookkeeping;
  copy = thread.copies.front().copy;
  thread.copies.pop_front();
  return true;
}

}  // namespace simt
