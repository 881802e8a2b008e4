// What the MBConv kernels for Hopper with a convolution in groups of eight share: E of a group -> c + b1 (see mbconv_rows.cu).
#pragma once
#include "hopper.cuh"

typedef float Partial[12];                                                           // E of a group: [kx][pixel][two channels]
// of pixels 2i, 2i+1: one of the two neighbours is the lane's own, the other one shuffle away
template <class Activation> __device__ __forceinline__ void combine(uint32_t& lo, uint32_t& hi, const Partial& e, uint32_t b, Activation of) {
  const uint32_t left = __shfl_up_sync(~0u, pack2(e[2], e[3]), 4), right = __shfl_down_sync(~0u, pack2(e[8], e[9]), 4);
  lo = of(add2(add2(pack2(e[4] + e[10], e[5] + e[11]), b), left));
  hi = of(add2(add2(pack2(e[6] + e[0], e[7] + e[1]), b), right));
}
struct Gathered {                                                                    // the same in two parts: what needs E, whose registers are free then
  uint32_t lo, hi, left, right;
  __device__ __forceinline__ void take(const Partial& e, uint32_t b) {
    left = __shfl_up_sync(~0u, pack2(e[2], e[3]), 4);
    right = __shfl_down_sync(~0u, pack2(e[8], e[9]), 4);
    lo = add2(pack2(e[4] + e[10], e[5] + e[11]), b);
    hi = add2(pack2(e[6] + e[0], e[7] + e[1]), b);
  }
  __device__ __forceinline__ void finish(uint32_t& to_lo, uint32_t& to_hi) const {
    to_lo = silu_packed(add2(lo, left));
    to_hi = silu_packed(add2(hi, right));
  }
};
__device__ __forceinline__ void combine(uint32_t& lo, uint32_t& hi, const Partial& e, uint32_t b) {
  combine(lo, hi, e, b, [](uint32_t c) { return c; });
}
