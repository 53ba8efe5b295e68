// The arithmetic of EmaUpdate, one element at a time.
#pragma once

#include "../device/device.cuh"
#include "ema_update.cuh"

namespace auxcore::ema {

// The operations of src/Kernels/Ema/EmaUpdate.Cpu.cs in their order, so all backends give the same bits.
__device__ __forceinline__ float update(Step step, float e, float p) {
  const float mixed = fmaf(step.coefficient, p - e, step.rule == kFromSource ? p : e);
  return step.rule == kCopy ? p : p == e ? e : mixed;
}

}  // namespace auxcore::ema
