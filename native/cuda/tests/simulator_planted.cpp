// Kernels with one mistake each, and their correct twins. The first argument names the kernel; simulator.cmake says what each must do.
#include "../device/device.cuh"

#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

constexpr int kThreads = 64;

template <bool kCorrect>
__global__ void block_barrier(int* out) {
  AUXCORE_SHARED(int, values, kThreads);
  values[threadIdx.x] = int(threadIdx.x);
  if (kCorrect)
    __syncthreads();
  out[threadIdx.x] = values[(threadIdx.x + 32) % kThreads];
}

// The second phase of a loop overwrites what slow threads still read.
template <bool kCorrect>
__global__ void second_block_barrier(int* out) {
  AUXCORE_SHARED(int, values, kThreads);
  int sum = 0;
  for (int round = 0; round < 3; ++round) {
    values[threadIdx.x] = round;
    __syncthreads();
    sum += values[(threadIdx.x + 32) % kThreads];
    if (kCorrect)
      __syncthreads();
  }
  out[threadIdx.x] = sum;
}

template <bool kCorrect>
__global__ void warp_barrier(int* out) {
  AUXCORE_SHARED(int, values, kThreads);
  values[threadIdx.x] = int(threadIdx.x);
  if (kCorrect)
    __syncwarp();
  out[threadIdx.x] = values[threadIdx.x ^ 1];
}

// An exchange of values is no barrier for memory.
template <bool kCorrect>
__global__ void warp_exchange(int* out) {
  AUXCORE_SHARED(int, values, kThreads);
  values[threadIdx.x] = int(threadIdx.x);
  const int other = __shfl_xor_sync(0xffffffffu, int(threadIdx.x), 1);
  if (kCorrect)
    __syncwarp();
  out[threadIdx.x] = values[other];
}

template <bool kCorrect>
__global__ void shared_bounds(int* out) {
  AUXCORE_SHARED(int, array, kThreads);
  int* values = array;  // of an array UndefinedBehaviorSanitizer knows the bounds
  values[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = values[threadIdx.x + (kCorrect ? 0 : 1)];
}

template <bool kCorrect>
__global__ void dynamic_bounds(int* out) {
  AUXCORE_DYNAMIC_SHARED(int, values);
  values[threadIdx.x + (kCorrect ? 0 : 1)] = 1;
  out[threadIdx.x] = 1;
}

template <bool kCorrect>
__global__ void copy_has_landed(const float4* in, int* out) {
  AUXCORE_SHARED(float4, values, kThreads);
  auxcore::copy_async16(&values[threadIdx.x], &in[threadIdx.x]);
  auxcore::copy_async_commit();
  if (kCorrect)
    auxcore::copy_async_wait<0>();
  out[threadIdx.x] = values[threadIdx.x].x == 2;
}

template <bool kCorrect>
__global__ void uniform_barrier(int* out) {
  if (kCorrect || threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
  out[threadIdx.x] = 1;
}

template <bool kCorrect>
__global__ void barrier_of_all(int* out) {
  if (!kCorrect && threadIdx.x == 7)
    return;
  __syncthreads();
  out[threadIdx.x] = 1;
}

template <bool kCorrect>
__global__ void mask_of_the_living(int* out) {
  if (threadIdx.x % 32 == 7)
    return;
  out[threadIdx.x] = __shfl_sync(kCorrect ? ~(1u << 7) : 0xffffffffu, 1, 0);
}

template <bool kCorrect>
__global__ void mask_names_the_caller(int* out) {
  out[threadIdx.x] = __shfl_sync(kCorrect ? 0xffffffffu : 0xfffffffeu, 1, 2);
}

template <bool kCorrect>
__global__ void one_collective(int* out) {
  const unsigned odd = threadIdx.x % 2;
  out[threadIdx.x] = kCorrect || odd ? int(__ballot_sync(0xffffffffu, 1) & 1) : __shfl_sync(0xffffffffu, 1, 0);
}

template <bool kCorrect>
__global__ void everybody_comes(int* out) {
  if (!kCorrect && threadIdx.x == 0)
    __syncthreads();
  else
    __syncwarp();
  out[threadIdx.x] = 1;
}

template <bool kCorrect>
__global__ void aligned_copy(const float4* in, int* out) {
  AUXCORE_SHARED(float4, values, kThreads);
  auxcore::copy_async16(&values[threadIdx.x], reinterpret_cast<const char*>(&in[threadIdx.x]) + (kCorrect ? 0 : 4));
  out[threadIdx.x] = 1;
}

using Plain = void (*)(int*);
using Copying = void (*)(const float4*, int*);

struct Planted {
  const char* name;
  Plain wrong, right;
};

constexpr Planted kPlanted[] = {
    {"block_barrier", block_barrier<false>, block_barrier<true>},
    {"second_block_barrier", second_block_barrier<false>, second_block_barrier<true>},
    {"warp_barrier", warp_barrier<false>, warp_barrier<true>},
    {"warp_exchange", warp_exchange<false>, warp_exchange<true>},
    {"shared_bounds", shared_bounds<false>, shared_bounds<true>},
    {"dynamic_bounds", dynamic_bounds<false>, dynamic_bounds<true>},
    {"uniform_barrier", uniform_barrier<false>, uniform_barrier<true>},
    {"barrier_of_all", barrier_of_all<false>, barrier_of_all<true>},
    {"mask_of_the_living", mask_of_the_living<false>, mask_of_the_living<true>},
    {"mask_names_the_caller", mask_names_the_caller<false>, mask_names_the_caller<true>},
    {"one_collective", one_collective<false>, one_collective<true>},
    {"everybody_comes", everybody_comes<false>, everybody_comes<true>},
};

struct PlantedCopy {
  const char* name;
  Copying wrong, right;
};

constexpr PlantedCopy kPlantedCopies[] = {
    {"copy_has_landed", copy_has_landed<false>, copy_has_landed<true>},
    {"aligned_copy", aligned_copy<false>, aligned_copy<true>},
};

}  // namespace

int main(int count, char** arguments) {
  if (count != 4) {
    std::fprintf(stderr, "usage: %s KERNEL wrong|right THREAD_ORDER\n", arguments[0]);
    return 2;
  }
  // CTest takes a signal for a failure, whatever the test is to print.
  std::signal(SIGABRT, [](int) { _exit(3); });
  const bool wrong = std::strcmp(arguments[2], "wrong") == 0;
  simt::set_run_order(uint32_t(std::strtoul(arguments[3], nullptr, 10)));
  const simt::Shape shape{1, kThreads, kThreads * sizeof(int)};
  std::vector<float4> in(kThreads + 1, float4{2, 2, 2, 2});
  std::vector<int> out(kThreads);

  for (const Planted& planted : kPlanted)
    if (std::strcmp(planted.name, arguments[1]) == 0) {
      simt::launch(wrong ? planted.wrong : planted.right, shape, out.data());
      std::puts("ran to its end");
      return 0;
    }
  for (const PlantedCopy& planted : kPlantedCopies)
    if (std::strcmp(planted.name, arguments[1]) == 0) {
      simt::launch(wrong ? planted.wrong : planted.right, shape, in.data(), out.data());
      for (int value : out)
        if (value != 1) {
          std::puts("a result is wrong");
          return 1;
        }
      std::puts("ran to its end");
      return 0;
    }
  std::fprintf(stderr, "there is no kernel %s\n", arguments[1]);
  return 2;
}
