// Each primitive of the simulator against a plain loop, in three orders of threads.
#include "../device/device.cuh"

#include "check.h"

#include <atomic>
#include <thread>
#include <vector>

namespace {

constexpr uint32_t kOrders[] = {0, 1, 20250731};
constexpr unsigned kAll = 0xffffffffu;

__global__ void write_index(uint32_t* out) {
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] = block << 16 | threadIdx.z << 12 | threadIdx.y << 8 | threadIdx.x;
}

void every_thread_has_its_index() {
  std::vector<uint32_t> out(2 * 3 * 2 * 4 * 3 * 2, ~0u);
  simt::launch(write_index, {{2, 3, 2}, {4, 3, 2}, 0}, out.data());
  for (uint32_t block = 0, i = 0; block < 12; ++block)
    for (uint32_t z = 0; z < 2; ++z)
      for (uint32_t y = 0; y < 3; ++y)
        for (uint32_t x = 0; x < 4; ++x, ++i)
          CHECK(out[i] == (block << 16 | z << 12 | y << 8 | x), "at %u: %x", i, out[i]);
}

template <class T>
__global__ void shuffle(T* out, int argument) {
  const T own = T(threadIdx.x * 3 + 1);
  T* row = out + threadIdx.x * 4;
  row[0] = __shfl_sync(kAll, own, argument);
  row[1] = __shfl_xor_sync(kAll, own, argument);
  row[2] = __shfl_down_sync(kAll, own, unsigned(argument));
  row[3] = __shfl_up_sync(kAll, own, unsigned(argument));
}

template <class T>
void shuffles_take_the_lane_that_they_name() {
  for (int argument : {0, 1, 5, 16, 31}) {
    std::vector<T> out(96 * 4);
    simt::launch(shuffle<T>, {1, 96, 0}, out.data(), argument);
    for (int i = 0; i < 96; ++i) {
      const int lane = i % 32, base = i - lane;
      const int down = lane + argument < 32 ? lane + argument : lane, up = lane >= argument ? lane - argument : lane;
      const int from[] = {argument, lane ^ argument, down, up};
      for (int k = 0; k < 4; ++k)
        CHECK(out[i * 4 + k] == T((base + from[k]) * 3 + 1), "thread %d, shuffle %d, argument %d", i, k, argument);
    }
  }
}

__global__ void shuffle_halves(int* out) {
  // Two collectives of one warp under way at once.
  const unsigned mask = threadIdx.x % 32 < 16 ? 0x0000ffffu : 0xffff0000u;
  int sum = int(threadIdx.x);
  for (int with = 8; with > 0; with /= 2)
    sum += __shfl_xor_sync(mask, sum, with);
  out[threadIdx.x] = sum;
}

void lanes_of_a_mask_meet_without_the_others() {
  std::vector<int> out(64);
  simt::launch(shuffle_halves, {1, 64, 0}, out.data());
  for (int i = 0; i < 64; ++i) {
    const int first = i / 16 * 16;
    CHECK(out[i] == 16 * first + 120, "thread %d: %d", i, out[i]);
  }
}

__global__ void shuffle_outside(unsigned* out) {
  const unsigned mask = 0x0000000fu;
  if (threadIdx.x < 4)
    out[threadIdx.x] = __shfl_sync(mask, threadIdx.x, 4);
}

void a_lane_outside_the_mask_gives_poison() {
  std::vector<unsigned> out(4);
  simt::launch(shuffle_outside, {1, 32, 0}, out.data());
  for (unsigned value : out)
    CHECK(value == 0xcbcbcbcbu, "%x", value);
}

__global__ void ballot(unsigned* out, unsigned modulus) {
  out[threadIdx.x] = __ballot_sync(kAll, threadIdx.x % modulus == 0 ? int(threadIdx.x) + 1 : 0);
  out[blockDim.x + threadIdx.x] = unsigned(__popc(out[threadIdx.x]));
  out[2 * blockDim.x + threadIdx.x] = unsigned(__ffs(int(out[threadIdx.x])));
}

void ballots_name_the_lanes_that_hold() {
  for (unsigned threads : {32u, 64u, 40u}) {  // 40: a warp of 8 lanes
    std::vector<unsigned> out(3 * threads);
    simt::launch(ballot, {1, threads, 0}, out.data(), 3u);
    for (unsigned i = 0; i < threads; ++i) {
      unsigned expected = 0, count = 0, first = 0;
      for (unsigned lane = 0, other = i / 32 * 32; lane < 32 && other < threads; ++lane, ++other)
        if (other % 3 == 0) {
          expected |= 1u << lane;
          if (count++ == 0)
            first = lane + 1;
        }
      CHECK(out[i] == expected && out[threads + i] == count && out[2 * threads + i] == first, "thread %u of %u", i, threads);
    }
  }
}

template <class T>
__global__ void add(T* out) {
  const T before = atomicAdd(&out[threadIdx.x % 3], T(threadIdx.x));
  if (before < T(0))
    out[3] = before;
}

template <class T>
void atomic_additions_lose_nothing() {
  std::vector<T> out(4);
  simt::launch(add<T>, {4, 128, 0}, out.data());
  T expected[4] = {};
  for (int i = 0; i < 4 * 128; ++i)
    expected[i % 128 % 3] += T(i % 128);
  for (int i = 0; i < 4; ++i)
    CHECK(out[i] == expected[i], "at %d", i);
}

__global__ void reverse(const int* in, int* out) {
  AUXCORE_SHARED(int, fixed, 128);
  AUXCORE_DYNAMIC_SHARED(int, dynamic);
  const unsigned i = threadIdx.x, last = blockDim.x - 1;
  const int* block_in = in + blockIdx.x * blockDim.x;
  for (int round = 0; round < 3; ++round) {
    fixed[i] = block_in[i] + round;
    __syncthreads();
    dynamic[i] = fixed[last - i];
    __syncthreads();
  }
  out[blockIdx.x * blockDim.x + i] = dynamic[last - i] + dynamic[i];
}

void barriers_order_shared_memory() {
  constexpr int kThreads = 128, kBlocks = 3;
  std::vector<int> in(kThreads * kBlocks), out(in.size());
  for (size_t i = 0; i < in.size(); ++i)
    in[i] = int(i * 7 + 3);
  simt::launch(reverse, {kBlocks, kThreads, kThreads * sizeof(int)}, in.data(), out.data());
  for (int block = 0; block < kBlocks; ++block)
    for (int i = 0; i < kThreads; ++i) {
      const int* row = &in[size_t(block * kThreads)];
      CHECK(out[block * kThreads + i] == row[i] + row[kThreads - 1 - i] + 4, "block %d, thread %d", block, i);
    }
}

__global__ void neighbours(int* out) {
  AUXCORE_SHARED(int, values, 96);
  const unsigned i = threadIdx.x, left = i / 32 * 32 + (i + 31) % 32;
  values[i] = int(i);
  for (int round = 0; round < 4; ++round) {
    __syncwarp();
    const int next = values[left] + 1;
    __syncwarp();
    values[i] = next;
  }
  out[i] = values[i];
}

void warp_barriers_order_shared_memory() {
  std::vector<int> out(96);
  simt::launch(neighbours, {1, 96, 0}, out.data());
  for (int i = 0; i < 96; ++i)
    CHECK(out[i] == i / 32 * 32 + (i + 28) % 32 + 4, "thread %d: %d", i, out[i]);
}

__global__ void read_unwritten(uint32_t* out) {
  AUXCORE_SHARED(uint32_t, fixed, 4);
  AUXCORE_DYNAMIC_SHARED(uint32_t, dynamic);
  out[blockIdx.x * 2] = fixed[3];
  out[blockIdx.x * 2 + 1] = dynamic[1];
  __syncthreads();
  fixed[3] = dynamic[1] = 1;
}

void shared_memory_is_poison_for_each_block() {
  std::vector<uint32_t> out(6);
  simt::launch(read_unwritten, {3, 1, 8}, out.data());
  for (uint32_t value : out)
    CHECK(value == 0xcbcbcbcbu, "%x", value);
}

constexpr int kStages = 3;

__global__ void copy_in_stages(const float4* in, float* early, float* out) {
  AUXCORE_SHARED(float4, stage, kStages * 32);
  const unsigned i = threadIdx.x;
  for (int k = 0; k < kStages; ++k) {
    auxcore::copy_async16(&stage[k * 32 + i], &in[k * 32 + i]);
    auxcore::copy_async_commit();
  }
  auxcore::copy_async16(&stage[0], &in[0]);  // of no group yet: lands with none of the waits
  auxcore::copy_async_wait<kStages - 1>();
  early[i] = stage[32 + i].w;
  float sum = stage[i].w;
  auxcore::copy_async_wait<0>();
  for (int k = 1; k < kStages; ++k)
    sum += stage[k * 32 + i].w;
  out[i] = sum;
}

void asynchronous_copies_land_at_their_wait() {
  std::vector<float4> in(kStages * 32);
  for (size_t i = 0; i < in.size(); ++i)
    in[i] = {-1, -1, -1, float(i)};
  std::vector<float> early(32), out(32);
  simt::launch(copy_in_stages, {1, 32, 0}, in.data(), early.data(), out.data());
  for (int i = 0; i < 32; ++i) {
    CHECK(auxcore::as_bits(early[i]) == 0xcbcbcbcbu, "thread %d saw %g before the wait", i, double(early[i]));
    CHECK(out[i] == float(3 * i + 96), "thread %d: %g", i, double(out[i]));
  }
}

__global__ void first_to_write(int* out) {
  if (atomicAdd(&out[0], 1) == 0)
    out[1] = int(threadIdx.x);
}

void thread_orders_differ() {
  int first[3];
  for (int i = 0; i < 3; ++i) {
    int out[2] = {};
    simt::set_run_order(kOrders[i]);
    simt::launch(first_to_write, {1, 256, 0}, out);
    first[i] = out[1];
  }
  CHECK(first[0] == 0 && first[1] == 255 && first[2] != 0 && first[2] != 255, "%d, %d, %d", first[0], first[1], first[2]);
}

__global__ void sum_up(const int* in, int* out, int count) {
  int sum = 0;
  for (int i = int(threadIdx.x); i < count; i += int(blockDim.x))
    sum += in[i];
  for (int with = 16; with > 0; with /= 2)
    sum += __shfl_xor_sync(kAll, sum, with);
  if (threadIdx.x % 32 == 0)
    atomicAdd(out, sum);
}

void host_threads_launch_at_once() {
  constexpr int kCount = 1000;
  std::vector<int> in(kCount, 3);
  std::vector<std::thread> threads;
  std::atomic<int> right = 0;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int round = 0; round < 10; ++round) {
        int sum = 0;
        simt::launch(sum_up, {1, 64, 0}, in.data(), &sum, kCount);
        right += sum == 3 * kCount;
      }
    });
  for (std::thread& thread : threads)
    thread.join();
  CHECK(right == 40, "%d of 40", right.load());
}

}  // namespace

int main() {
  for (uint32_t order : kOrders) {
    simt::set_run_order(order);
    every_thread_has_its_index();
    shuffles_take_the_lane_that_they_name<int>();
    shuffles_take_the_lane_that_they_name<unsigned>();
    shuffles_take_the_lane_that_they_name<float>();
    lanes_of_a_mask_meet_without_the_others();
    a_lane_outside_the_mask_gives_poison();
    ballots_name_the_lanes_that_hold();
    atomic_additions_lose_nothing<int>();
    atomic_additions_lose_nothing<unsigned>();
    atomic_additions_lose_nothing<float>();
    barriers_order_shared_memory();
    warp_barriers_order_shared_memory();
    shared_memory_is_poison_for_each_block();
    asynchronous_copies_land_at_their_wait();
    host_threads_launch_at_once();
  }
  thread_orders_differ();
  return auxcore::test::result();
}
