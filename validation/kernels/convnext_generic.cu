// Fused ConvNeXt block for any channels that are a multiple of 8, any image, fp16 or bf16, sm_80 and later.
//
//   a = depthwise_conv7x7(x, w1) + b1          C -> C, zero padding
//   n = (a - mean(a)) / sqrt(var(a) + 1e-6)    over the channels of a pixel; its scale and shift are folded into We and be
//   h = gelu(n @ We + be)                      C -> eC
//   y = h @ Wp + bp + x                        eC -> C; the layer scale is folded into Wp and bp
//
//   1. conv: slabs of SLAB_GROUPS blocks of eight channels, tile and halo by cp.async. Depthwise filters run as diagonal ones in
//      groups of eight channels, mma with k16 = two taps x 8 channels: 25 instructions for 16 pixels x 8 channels, where the
//      49 x 128 multiply-adds of the plain pipe take 49 clocks of a multiprocessor and their operands more.
//   2. layer norm in shared memory, eight lanes to a pixel, in fp32 from the rounded convolution, two passes.
//   3. for each chunk of hidden channels: S = A . We; P = gelu(S + be); O += P . Wp.
//   4. epilogue: + bias + residual, which is read again from global memory (the tile just read it: it is in a cache).
//
// Constants: those of convfirst_generic.cu.
#include "specialisation.h"
#define KERNEL 7
#define STRIDE 1
#define PROJECTS 1
#define CONV_BYTES 0
#define EXPAND_DEPTH ((CHANNELS + 15) / 16)
#include "ampere.cuh"

namespace generic {
constexpr int A_BYTES = M * PITCH_X, P_ALL = P_BUFFERS * M * PITCH_P;
constexpr int GROUP_BYTES = A_BYTES + P_ALL + INPUT_BUFFERS * SLAB_BYTES;
static_assert(WEIGHT_BYTES + WARP_GROUPS * GROUP_BYTES == SHARED_BYTES, "the launch reserves what the kernel lays out");
constexpr float EPSILON = 1e-6f;

__device__ __forceinline__ float sum_of_eight_lanes(float v) {
#pragma unroll
  for (int d = 1; d < 8; d *= 2) v += __shfl_xor_sync(~0u, v, d);
  return v;
}
// Each pixel of A to mean 0 and variance 1, in place. A lane has every eighth block of eight channels.
__device__ __forceinline__ void normalise(uint32_t a_shared, const Place& at) {
  for (int m = at.warp * 4 + (at.lane >> 3); m < M; m += WARPS * 4) {
    const uint32_t row = a_shared + m * PITCH_X;
    float sum = 0.f;
    for (int g = at.lane & 7; g < G; g += 8) {
      const uint4 v = lds128(row + g * 16);
      const float2 a = unpack2(v.x), b = unpack2(v.y), c = unpack2(v.z), d = unpack2(v.w);
      sum += ((a.x + a.y) + (b.x + b.y)) + ((c.x + c.y) + (d.x + d.y));
    }
    const float mean = sum_of_eight_lanes(sum) * (1.f / C);
    float squares = 0.f;
    for (int g = at.lane & 7; g < G; g += 8) {
      const uint4 v = lds128(row + g * 16);
      const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float2 a = unpack2(w[k]);
        squares = fmaf(a.x - mean, a.x - mean, squares);
        squares = fmaf(a.y - mean, a.y - mean, squares);
      }
    }
    const float scale = rsqrtf(sum_of_eight_lanes(squares) * (1.f / C) + EPSILON), shift = -mean * scale;
    for (int g = at.lane & 7; g < G; g += 8) {
      const uint4 v = lds128(row + g * 16);
      uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float2 a = unpack2(w[k]);
        w[k] = pack2(fmaf(a.x, scale, shift), fmaf(a.y, scale, shift));
      }
      sts128(row + g * 16, w);
    }
  }
}
}  // namespace generic

extern "C" __global__ void __launch_bounds__(32 * WARPS_M * WARPS_N * WARP_GROUPS, BLOCKS_PER_MULTIPROCESSOR)
KERNEL_NAME(const Element* __restrict__ x, Element* __restrict__ y, const uint4* __restrict__ weights, const uint32_t* __restrict__ filters,
            const float* __restrict__ conv_b, const float* __restrict__ expand_b, const float* __restrict__ project_b,
            float4* __restrict__ partial, unsigned* __restrict__ arrived, int N, int H, int W) {
  using namespace generic;
  extern __shared__ __align__(16) unsigned char smem[];
  const Place at;
  const uint32_t a_shared = smem_u32(smem) + WEIGHT_BYTES + at.group * GROUP_BYTES, p_shared = a_shared + A_BYTES;
  const uint32_t slabs = p_shared + P_ALL;
  const int tiles = N * tiles_of_image(H, W), step = gridDim.x * WARP_GROUPS;
  const int first = NCH * blockIdx.z / HIDDEN_SPLITS, chunks = NCH * (blockIdx.z + 1) / HIDDEN_SPLITS - first;

  int tile = blockIdx.x * WARP_GROUPS + at.group, turn = 0;
  if (tile < tiles) load_input<SG>(at, slabs, PITCH_S, x, Tile(tile, H, W), H, W, 0);
  cp_async_commit();
  Stream stream(weights, smem_u32(smem), first, chunks, (tiles - (int)blockIdx.x - 1) / (int)gridDim.x + 1);
  if (C % 16) {  // the padding of the last k16
    for (int m = at.thread; m < M; m += THREADS) sts128(a_shared + m * PITCH_X + C * 2, {0, 0, 0, 0});
  }
  uint32_t a_at[MI];
#pragma unroll
  for (int i = 0; i < MI; ++i) a_at[i] = a_shared + ((at.wm * MI + i) * 16 + (at.lane & 15)) * PITCH_X + (at.lane >> 4) * 16;

#pragma unroll 1
  for (; tile < tiles; tile += step) {
    convolve_input(at, slabs, a_shared, x, filters, [conv_b](int c) { return __ldg(reinterpret_cast<const float2*>(conv_b + c)); },
                   turn, tile, tile + step < tiles ? tile + step : -1, H, W);
    normalise(a_shared, at);
    at.sync();
    float o[MI][NO][4];
    clear<MI, NO>(o);
    bottleneck<Gelu>(o, a_at, p_shared, expand_b + first * HC, stream, at, [](int k) { return k * 32; });
    if (merge(o, partial, arrived, tile, at))
      finish<Residual::from_input>(o, a_shared, [](int m) { return m * PITCH_X; }, project_b, x, y, Tile(tile, H, W), H, W, at);
  }
}
