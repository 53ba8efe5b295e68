// A device's primary context, and what was made in it.
#pragma once

#include <map>
#include <mutex>
#include <set>
#include <shared_mutex>

#include "driver.h"
#include "handles.h"

namespace auxcore {

/// Device code of one hot path, embedded in the library; empty where the library was built without.
struct Image {
  const char* path;
  const char* begin;
  const char* end;
};

/// What the images were compiled with; "none" where they are empty.
extern const char* const image_description;

/// Declares the embedded image of a path at namespace scope, as auxcore::image_PATH.
#define AUXCORE_DECLARE_IMAGE(path)                                                                       \
  extern "C" __attribute__((visibility("hidden"))) const char auxcore_image_##path##_begin[];             \
  extern "C" __attribute__((visibility("hidden"))) const char auxcore_image_##path##_end[];               \
  const ::auxcore::Image image_##path { #path, auxcore_image_##path##_begin, auxcore_image_##path##_end }

/// A kernel and the op that users know it by.
struct Kernel {
  const char* op;
  const Image* image;
  const char* name;
};

/// How many blocks of how many threads.
struct Grid {
  unsigned blocks;
  unsigned threads;
  unsigned shared_bytes = 0;
};

class Context final : public Object {
 public:
  Context(int ordinal, bool synchronous);

  const Context& owner() const noexcept override { return *this; }

  /// Makes the context this thread's current one for as long as it lives, and keeps it from being closed.
  class Scope {
   public:
    explicit Scope(Context& context);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    std::shared_lock<std::shared_mutex> open_;
  };

  /// Waits for calls under way and for the device, then frees everything.
  void close();

  /// The functions below are called inside a scope.
  void describe(auxcore_device& device) const;

  /// Who may free memory. Kernels follow addresses in what the library allocated for itself, so no caller may free that.
  enum class Owner { library, caller };

  CUdeviceptr allocate(std::size_t bytes, Owner owner = Owner::library);
  void free(CUdeviceptr address, Owner owner = Owner::library);
  CUstream create_stream();
  void destroy_stream(CUstream stream);

  /// Refuses streams of other contexts. Null is the legacy default stream, as are the driver's two reserved handles.
  void check_stream(CUstream stream) const;

  /// Refuses what is not device memory of this device from the first byte to the last.
  void check_device_memory(const char* what, uint64_t address, std::size_t bytes) const;

  bool is_capturing(CUstream stream) const;

  /// Arguments must have exactly the types of the kernel's parameters: the driver knows them only by their sizes.
  template <class... Arguments>
  void launch(const Kernel& kernel, Grid grid, CUstream stream, Arguments... arguments) {
    void* parameters[] = {&arguments...};
    launch_with(kernel, grid, stream, parameters);
  }

 private:
  CUfunction function(const Kernel& kernel);
  CUmodule module(const Image& image);
  void launch_with(const Kernel& kernel, Grid grid, CUstream stream, void** parameters);

  const int ordinal_;
  const bool synchronous_;
  CUdevice device_ = 0;
  CUcontext context_ = nullptr;

  std::shared_mutex open_;  // shared by calls, exclusive to close
  bool closed_ = false;

  std::mutex mutex_;  // of what follows
  std::map<const Image*, CUmodule> modules_;
  std::map<const Kernel*, CUfunction> functions_;
  std::map<CUdeviceptr, Owner> allocations_;
  std::set<CUstream> streams_;
};

}  // namespace auxcore
