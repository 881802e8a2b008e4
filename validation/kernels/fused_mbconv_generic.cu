// Fused FusedMBConv block for any channels that are multiples of 8, any image, stride 1 or 2, fp16 or bf16, sm_80 and later.
//
//   h = silu(conv3x3(x, We) + be)              C -> eC, zero padding
//   y = h @ Wp + bp (+ x)                      eC -> C'; + x where STRIDE is 1 and C' is C
//
// Tile and halo of the input, all channels, lie in shared memory by cp.async. The convolution is a product with K = 9 taps x C, whose
// A rows are the pixels shifted by the tap. For each chunk of hidden channels: S = A . We; P = silu(S + be); O += P . Wp.
// The residual is the centre of the tile. C and eC are padded with zero weights to multiples of 16 and HIDDEN_CHUNK.
//
// Constants: those of convfirst_generic.cu without SLAB_GROUPS, and STRIDE, RESIDUAL.
#include "specialisation.h"
#define KERNEL 3
#define PROJECTS 1
#define CONV_BYTES 0
#define SLAB_GROUPS 1
#define EXPAND_DEPTH (9 * ((CHANNELS + 15) / 16))
#include "ampere.cuh"

namespace generic {
constexpr int PITCH_Y = GO * 16 + (GO % 2 ? 0 : 16);  // where the output does not take the place of the input
constexpr int X_BYTES = larger(HALO_PIXELS * PITCH_X, RESIDUAL ? 0 : PIXELS * PITCH_Y), P_ALL = P_BUFFERS * M * PITCH_P;
constexpr int GROUP_BYTES = INPUT_BUFFERS * X_BYTES + P_ALL;
static_assert(WEIGHT_BYTES + WARP_GROUPS * GROUP_BYTES == SHARED_BYTES, "the launch reserves what the kernel lays out");
static_assert(!RESIDUAL || (STRIDE == 1 && C == CO), "the residual is the tile's centre");
}  // namespace generic

extern "C" __global__ void __launch_bounds__(32 * WARPS_M * WARPS_N * WARP_GROUPS, BLOCKS_PER_MULTIPROCESSOR)
KERNEL_NAME(const Element* __restrict__ x, Element* __restrict__ y, const uint4* __restrict__ weights, const float* __restrict__ expand_b,
            const float* __restrict__ project_b, float4* __restrict__ partial, unsigned* __restrict__ arrived, int N, int H, int W) {
  using namespace generic;
  extern __shared__ __align__(16) unsigned char smem[];
  const Place at;
  const uint32_t inputs = smem_u32(smem) + WEIGHT_BYTES + at.group * GROUP_BYTES, p_shared = inputs + INPUT_BUFFERS * X_BYTES;
  const int OH = (H - 1) / STRIDE + 1, OW = (W - 1) / STRIDE + 1;
  const int tiles = N * tiles_of_image(OH, OW), step = gridDim.x * WARP_GROUPS;
  const int first = NCH * blockIdx.z / HIDDEN_SPLITS, chunks = NCH * (blockIdx.z + 1) / HIDDEN_SPLITS - first;

  int tile = blockIdx.x * WARP_GROUPS + at.group, turn = 0;
  auto ask = [&](int t, int buffer) {
    if (t < tiles) load_input<2 * KA>(at, inputs + buffer * X_BYTES, PITCH_X, x, Tile(t, OH, OW), H, W, 0);
    cp_async_commit();
  };
  ask(tile, 0);
  Stream stream(weights, smem_u32(smem), first, chunks, (tiles - (int)blockIdx.x - 1) / (int)gridDim.x + 1);

#pragma unroll 1
  for (; tile < tiles; tile += step, ++turn) {
    const uint32_t input = inputs + turn % INPUT_BUFFERS * X_BYTES;
    cp_async_wait<0>();
    at.sync();
    if (INPUT_BUFFERS > 1) ask(tile + step, (turn + 1) % INPUT_BUFFERS);
    uint32_t a_at[MI];
#pragma unroll
    for (int i = 0; i < MI; ++i) a_at[i] = input + first_tap((at.wm * MI + i) * 16 + (at.lane & 15)) * PITCH_X + (at.lane >> 4) * 16;
    float o[MI][NO][4];
    clear<MI, NO>(o);
    bottleneck<Silu>(o, a_at, p_shared, expand_b + first * HC, stream, at, [](int k) {
      const int tap = k / KA;
      return (tap / 3 * HALO_COLUMNS + tap % 3) * PITCH_X + k % KA * 32;
    });
    if (FREE_RUNNING) at.sync();  // the output takes the place of the input, which neighbours read
    if (merge(o, partial, arrived, tile, at)) {
      if (RESIDUAL)
        finish<Residual::in_place>(o, input, [](int m) { return (first_tap(m) + HALO * HALO_COLUMNS + HALO) * PITCH_X; }, project_b, x, y,
                                   Tile(tile, OH, OW), OH, OW, at);
      else
        finish<Residual::none>(o, input, [](int m) { return m * PITCH_Y; }, project_b, x, y, Tile(tile, OH, OW), OH, OW, at);
    }
    if (INPUT_BUFFERS == 1) {
      at.sync();
      ask(tile + step, 0);
    }
  }
}
