// Fused ConvFirst residual block for any channels that are a multiple of 8, any image, fp16 or bf16, sm_80 and later.
//
//   a = grouped_conv3x3(x, w1) + b1            C -> C, groups of 8 channels, zero padding, no activation
//   h = silu(a @ We + be)                      C -> eC
//   y = h @ Wp + bp + x                        eC -> C
//
//   1. conv: slabs of SLAB_GROUPS groups, tile and halo by cp.async, mma with k16 = two taps x 8 channels; the result goes to shared
//      memory as the A operand, M x C. The next tile's first slab is on its way while this tile goes on.
//   2. for each chunk of hidden channels: S = A . We; P = silu(S + be); O += P . Wp.
//   3. epilogue: + bias + residual, which is read again from global memory (the tile just read it: it is in a cache).
// b1 is folded into be. C and eC are padded with zero weights to multiples of 16 and HIDDEN_CHUNK.
//
// Constants: KERNEL_NAME, BF16, CHANNELS, OUT_CHANNELS (the same), HIDDEN, TILE_ROWS, TILE_COLUMNS, WARPS_M, WARPS_N, M16_PER_WARP,
// BLOCKS_PER_WARP, HIDDEN_CHUNK, EXPAND_STEPS, PROJECT_STEPS, RING_SLOTS, WARP_GROUPS, HIDDEN_SPLITS, INPUT_BUFFERS, SLAB_GROUPS,
// BLOCKS_PER_MULTIPROCESSOR (for the compiler's registers), SHARED_BYTES.
#include "specialisation.h"
#define KERNEL 3
#define STRIDE 1
#define PROJECTS 1
#define CONV_BYTES 0
#define EXPAND_DEPTH ((CHANNELS + 15) / 16)
#include "ampere.cuh"

namespace generic {
constexpr int A_BYTES = M * PITCH_X, P_ALL = P_BUFFERS * M * PITCH_P;
constexpr int GROUP_BYTES = A_BYTES + P_ALL + INPUT_BUFFERS * SLAB_BYTES;
static_assert(WEIGHT_BYTES + WARP_GROUPS * GROUP_BYTES == SHARED_BYTES, "the launch reserves what the kernel lays out");
}  // namespace generic

extern "C" __global__ void __launch_bounds__(32 * WARPS_M * WARPS_N * WARP_GROUPS, BLOCKS_PER_MULTIPROCESSOR)
KERNEL_NAME(const Element* __restrict__ x, Element* __restrict__ y, const uint4* __restrict__ weights, const uint32_t* __restrict__ filters,
            const float* __restrict__ expand_b, const float* __restrict__ project_b, float4* __restrict__ partial,
            unsigned* __restrict__ arrived, int N, int H, int W) {
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
    convolve_input(at, slabs, a_shared, x, filters, [](int) { return make_float2(0.f, 0.f); }, turn, tile,
                   tile + step < tiles ? tile + step : -1, H, W);
    float o[MI][NO][4];
    clear<MI, NO>(o);
    bottleneck<Silu>(o, a_at, p_shared, expand_b + first * HC, stream, at, [](int k) { return k * 32; });
    if (merge(o, partial, arrived, tile, at))
      finish<Residual::from_input>(o, a_shared, [](int m) { return m * PITCH_X; }, project_b, x, y, Tile(tile, H, W), H, W, at);
  }
}
