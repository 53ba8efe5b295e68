// The driver functions about modules, their kernels, and launches.
#include "fault.h"
#include "ptx.h"
#include "standin_state.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

using standin::call;
using standin::Driver;
using standin::fail;
using standin::Function;
using standin::Kind;
using standin::require;

namespace standin {
namespace {

constexpr uint32_t kFatBinary = 0xba55ed50;
constexpr unsigned kMostThreads = 1024;
constexpr unsigned kMostSharedBytes = 48 << 10;

/// extra of cuLaunchKernel: pairs of one of these and a value.
enum LaunchParameter : uintptr_t { kEnd = 0, kBuffer = 1, kBufferBytes = 2 };

void write_error_log(const std::string& text, unsigned count, const int* options, void** values) {
  char* log = nullptr;
  size_t room = 0;
  for (unsigned i = 0; i < count; ++i) {
    if (options[i] == CU_JIT_ERROR_LOG_BUFFER)
      log = static_cast<char*>(values[i]);
    if (options[i] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES)
      room = reinterpret_cast<uintptr_t>(values[i]);
  }
  if (log != nullptr && room > 0)
    std::snprintf(log, room, "%s", text.c_str());
}

void load_module(Driver& driver, CUmodule* module, const void* image, unsigned count, const int* options, void** values) {
  require(module != nullptr && image != nullptr, CUDA_ERROR_INVALID_VALUE);
  Context& context = driver.current();
  driver.forbid_while_capturing();
  uint32_t magic = 0;
  std::memcpy(&magic, image, strnlen(static_cast<const char*>(image), sizeof magic));
  std::string ptx;
  if (magic != kFatBinary) {
    ptx = static_cast<const char*>(image);
    if (const std::string wrong = what_is_wrong_with_ptx(ptx); !wrong.empty()) {
      write_error_log(wrong, count, options, values);
      fail(CUDA_ERROR_INVALID_PTX);
    }
  }
  *module = driver.modules.add(&context, std::move(ptx));
}

int blocks_per_multiprocessor(int threads) {
  return threads > int(kMostThreads) ? 0 : std::min(2048 / threads, 32);
}

std::vector<unsigned char> copy_parameters(const Function& function, void** parameters, void** extra) {
  std::vector<unsigned char> buffer(function.parameter_bytes);
  if (parameters != nullptr) {
    for (size_t i = 0; i < function.parameters.size(); ++i)
      std::memcpy(buffer.data() + function.parameters[i].offset, parameters[i], function.parameters[i].bytes);
    return buffer;
  }
  const void* given = nullptr;
  size_t bytes = 0;
  for (; extra != nullptr && reinterpret_cast<uintptr_t>(*extra) != kEnd; extra += 2) {
    if (reinterpret_cast<uintptr_t>(*extra) == kBuffer)
      given = extra[1];
    else if (reinterpret_cast<uintptr_t>(*extra) == kBufferBytes)
      bytes = *static_cast<const size_t*>(extra[1]);
    else
      fail(CUDA_ERROR_INVALID_VALUE);
  }
  require(bytes >= buffer.size() && (given != nullptr || buffer.empty()), CUDA_ERROR_INVALID_VALUE);
  std::copy_n(static_cast<const unsigned char*>(given), buffer.size(), buffer.begin());
  return buffer;
}

Operation launch_of(
    Driver& driver, const Function& function, const simt::Shape& shape, CUstream stream, std::vector<unsigned char> parameters) {
  if (const simt::Kernel* kernel = function.kernel)
    return [&driver, kernel, shape, parameters = std::move(parameters)] {
      ++driver.launches;
      const Memory::Open open(driver.memory);
      try {
        kernel->launch(shape, parameters.data());
      } catch (const simt::IllegalAddress&) {
        fail(CUDA_ERROR_ILLEGAL_ADDRESS);
      }
    };

  RecordedLaunch recorded{{{},
                           {shape.grid.x, shape.grid.y, shape.grid.z},
                           {shape.block.x, shape.block.y, shape.block.z},
                           uint32_t(shape.dynamic_shared_bytes),
                           uint32_t(parameters.size()),
                           reinterpret_cast<uint64_t>(stream)},
                          std::move(parameters)};
  std::snprintf(recorded.launch.kernel, sizeof recorded.launch.kernel, "%s", function.name.c_str());
  return [&driver, recorded] {
    driver.recorded = std::make_unique<RecordedLaunch>(recorded);
    ++driver.launches;
  };
}

}  // namespace
}  // namespace standin

CUDA_EXPORT CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned count, int* options, void** values) {
  return call(__func__, [&](Driver& driver) {
    require(count == 0 || (options != nullptr && values != nullptr), CUDA_ERROR_INVALID_VALUE);
    standin::load_module(driver, module, image, count, options, values);
  });
}

CUDA_EXPORT CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  return call(__func__, [&](Driver& driver) { standin::load_module(driver, module, image, 0, nullptr, nullptr); });
}

CUDA_EXPORT CUresult cuModuleUnload(CUmodule module) {
  return call(__func__, Kind::kFrees, [&](Driver& driver) {
    driver.drain(*driver.modules.get(module).context);
    driver.functions.remove_if([&](const Function& function) { return function.module == module; });
    driver.modules.remove(module);
  });
}

CUDA_EXPORT CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  return call(__func__, [&](Driver& driver) {
    require(function != nullptr && name != nullptr, CUDA_ERROR_INVALID_VALUE);
    const standin::Module& loaded = driver.modules.get(module);
    require(loaded.context == &driver.current(), CUDA_ERROR_INVALID_HANDLE);
    const simt::Kernel* kernel = simt::Kernel::find(name);
    std::vector<standin::Parameter> parameters;
    if (loaded.ptx.empty()) {
      require(kernel != nullptr, CUDA_ERROR_NOT_FOUND);
      for (const simt::Kernel::Parameter& parameter : kernel->parameters())
        parameters.push_back({parameter.offset, parameter.bytes});
    } else {
      auto entry = standin::parameters_of_entry(loaded.ptx, name);
      require(entry.has_value(), CUDA_ERROR_NOT_FOUND);
      parameters = std::move(*entry);
    }
    const size_t bytes = parameters.empty() ? 0 : parameters.back().offset + parameters.back().bytes;
    require(kernel == nullptr || kernel->parameter_bytes() == bytes, CUDA_ERROR_INVALID_PTX);
    *function = driver.functions.add(loaded.context, module, std::string(name), kernel, std::move(parameters), bytes);
  });
}

CUDA_EXPORT CUresult cuFuncGetAttribute(int* value, int which, CUfunction function) {
  return call(__func__, [&](Driver& driver) {
    require(value != nullptr && which >= 0, CUDA_ERROR_INVALID_VALUE);
    driver.functions.get(function);
    *value = which == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? int(standin::kMostThreads) : which == CU_FUNC_ATTRIBUTE_NUM_REGS ? 32 : 0;
  });
}

CUDA_EXPORT CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction function, int threads, size_t) {
  return call(__func__, [&](Driver& driver) {
    require(blocks != nullptr && threads > 0, CUDA_ERROR_INVALID_VALUE);
    driver.functions.get(function);
    *blocks = standin::blocks_per_multiprocessor(threads);
  });
}

/// The largest block that the shared memory it asks for leaves room for.
CUDA_EXPORT CUresult cuOccupancyMaxPotentialBlockSize(int* least_grid, int* threads, CUfunction function,
    size_t (*shared_bytes_of)(int threads), size_t shared_bytes, int most_threads) {
  return call(__func__, [&](Driver& driver) {
    require(least_grid != nullptr && threads != nullptr && most_threads >= 0, CUDA_ERROR_INVALID_VALUE);
    driver.functions.get(function);
    int most = most_threads == 0 ? int(standin::kMostThreads) : std::min(most_threads, int(standin::kMostThreads));
    while (most > 1 && (shared_bytes_of != nullptr ? shared_bytes_of(most) : shared_bytes) > standin::kMostSharedBytes)
      most -= most > 32 ? 32 : most - 1;
    *threads = most;
    *least_grid = standin::kMultiprocessors * standin::blocks_per_multiprocessor(most);
  });
}

CUDA_EXPORT CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
    unsigned block_y, unsigned block_z, unsigned shared_bytes, CUstream stream, void** parameters, void** extra) {
  return call(__func__, [&](Driver& driver) {
    const Function& launched = driver.functions.get(function);
    standin::Stream& target = driver.stream(stream);
    require(launched.context == target.context, CUDA_ERROR_INVALID_HANDLE);
    const simt::Shape shape{{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes};
    require(shape.grid.volume() > 0 && shape.block.volume() > 0 && shape.block.volume() <= standin::kMostThreads, CUDA_ERROR_INVALID_VALUE);
    require(shared_bytes <= standin::kMostSharedBytes, CUDA_ERROR_INVALID_VALUE);
    driver.submit(target, standin::launch_of(driver, launched, shape, stream, standin::copy_parameters(launched, parameters, extra)));
  });
}
