// Fused MBConv block for any channels that are multiples of 8, any image, stride 1 or 2, fp16 or bf16, sm_80 and later.
//
//   h = silu(x @ We + be)                      C -> eC
//   g = silu(conv(h, w1) + b1)                 eC -> eC, groups of 8 channels or depthwise, KERNEL x KERNEL, zero padding
//   g = g * gate                               with squeeze-and-excitation: sigmoid(W2 . silu(W1 . mean(g) + c1) + c2), by image
//   y = g @ Wp + bp (+ x)                      eC -> C'; + x where STRIDE is 1 and C' is C
//
// Tile and halo of the input, all channels, lie in shared memory by cp.async. For each chunk of hidden channels: the expansion of tile
// and halo, M_HALO x chunk, to shared memory, zero outside of the image; the convolution from there by mma (k16 = two taps x 8
// channels; depthwise filters as diagonal ones), M x chunk; the projection. The residual is the centre of the tile.
//
// With squeeze-and-excitation a global mean stands between, and there are three launches of this source. PASS 1 does all but the
// projection and stores the sums of each tile; PASS 2, a block for each image, adds them in the order of the tiles and computes the
// image's gates. PASS 3 computes the hidden tensor again, multiplied by the gates, and goes on. Computing it again reads the input
// once more, N H W C elements; to keep it in memory would write and read 2 e C N H W. PASS 0: without.
//
// Constants: those of convfirst_generic.cu without SLAB_GROUPS, and KERNEL, STRIDE, RESIDUAL, M16_HALO (per warp), SQUEEZED (0: none),
// PASS.
#include "specialisation.h"
#define PROJECTS (PASS != 1)
#define CONV_BYTES (HIDDEN_CHUNK / 8 * (KERNEL * KERNEL / 2 * 256 + 128) + HIDDEN_CHUNK * 4)
#define SLAB_GROUPS 1
#define EXPAND_DEPTH ((CHANNELS + 15) / 16)
#include "ampere.cuh"

namespace generic {
constexpr int MH = M16_HALO, PADDED_HIDDEN = NCH * HC;
constexpr int PITCH_Y = GO * 16 + (GO % 2 ? 0 : 16);  // where the output does not take the place of the input
constexpr int X_BYTES = larger(HALO_PIXELS * PITCH_X, RESIDUAL ? 0 : PIXELS * PITCH_Y);
constexpr int H_BYTES = HALO_PIXELS * PITCH_P;
constexpr int G_BYTES = M * PITCH_P;
constexpr int GROUP_BYTES = INPUT_BUFFERS * X_BYTES + H_BYTES + G_BYTES;
static_assert(WEIGHT_BYTES + WARP_GROUPS * GROUP_BYTES == SHARED_BYTES, "the launch reserves what the kernel lays out");
static_assert(!RESIDUAL || (STRIDE == 1 && C == CO), "the residual is the tile's centre");
static_assert(MH * WM * 16 >= HALO_PIXELS && WARPS * HC * 4 <= G_BYTES, "tile");

// The expansion of chunk j of tile and halo into `hidden`, by the warps of a group. Bit 2 i + half of `inside`: whether row 8 half + lane / 4
// of this warp's m16 tile i lies in the image.
__device__ __forceinline__ void expand_halo(const uint32_t (&a_at)[MH], uint32_t hidden, unsigned inside, const float* bias, Stream& stream,
                                            const Place& at, int j) {
  float s[MH][NE][4];
  start_from<MH, NE>(s, bias + j * HC + at.wn * NE * 8, at.lane);
  expand<MH>(s, a_at, stream, at, j, [](int k) { return k * 32; });
#pragma unroll
  for (int i = 0; i < MH; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int p = (at.wm * MH + i) * 16 + half * 8 + (at.lane >> 2);
      const bool in = inside >> (2 * i + half) & 1;
      const uint32_t to = hidden + p * PITCH_P + at.wn * NE * 16 + (at.lane & 3) * 4;
      if (p < HALO_PIXELS) {
#pragma unroll
        for (int b = 0; b < NE; ++b) sts32(to + b * 16, in ? pack2(Silu::of(s[i][b][2 * half]), Silu::of(s[i][b][2 * half + 1])) : 0u);
      }
    }
}

// The convolution of a chunk, from `hidden` into `to`: each warp has neighbouring m16 tiles of a few groups. `item`: filters, then biases.
// With PASS 1 the sums over the tile's pixels go to `to` instead, as [warp][HC] in fp32; with PASS 3 results are multiplied by the gates.
__device__ __forceinline__ void convolve_hidden(uint32_t hidden, uint32_t to, uint32_t item, const float* gates, const Tile& tile, int OH, int OW,
                                                const Place& at) {
  constexpr int T = tiles_at_once(HC / 8), SETS = M / 16 / T, JOBS = HC / 8 * SETS;
  const int q = at.lane & 3, begin = at.warp * JOBS / WARPS, end = (at.warp + 1) * JOBS / WARPS;
  if (PASS == 1) {
    for (int c = at.lane; c < HC; c += 32) sts32(to + (at.warp * HC + c) * 4, 0u);
    __syncwarp();
  }
#pragma unroll 1
  for (int i = begin; i < end;) {
    const int g = i / SETS, stop = (g + 1) * SETS < end ? (g + 1) * SETS : end;
    const uint32_t w = item + g * FILTER_BYTES;
    const uint2 start = lds64(item + HC / 8 * FILTER_BYTES + (g * 8 + q * 2) * 4);
    float2 gate = make_float2(1.f, 1.f), sum = make_float2(0.f, 0.f);
    if (PASS == 3) gate = __ldg(reinterpret_cast<const float2*>(gates + g * 8 + q * 2));
#pragma unroll 1
    for (; i < stop; ++i) {
      const int first = i % SETS * T * 16;
      float d[T][4];
      uint32_t from[T];
#pragma unroll
      for (int t = 0; t < T; ++t) {
        d[t][0] = d[t][2] = __uint_as_float(start.x), d[t][1] = d[t][3] = __uint_as_float(start.y);
        from[t] = hidden + first_tap(first + t * 16 + (at.lane & 15)) * PITCH_P + g * 16;
      }
      convolve<PITCH_P, T>(d, from, [w](int b) { return lds64(w + b); }, [w](int b) { return lds32(w + b); }, at.lane);
#pragma unroll
      for (int t = 0; t < T; ++t)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int m = first + t * 16 + half * 8 + (at.lane >> 2);
          const float a = Silu::of(d[t][2 * half]), b = Silu::of(d[t][2 * half + 1]);
          if (PASS != 1) {
            sts32(to + m * PITCH_P + g * 16 + q * 4, pack2(a * gate.x, b * gate.y));
          } else if (m < PIXELS && tile.y + m / TILE_COLUMNS < OH && tile.x + m % TILE_COLUMNS < OW) {
            sum.x += a, sum.y += b;
          }
        }
    }
    if (PASS == 1) {
#pragma unroll
      for (int d = 4; d < 32; d *= 2) sum.x += __shfl_xor_sync(~0u, sum.x, d), sum.y += __shfl_xor_sync(~0u, sum.y, d);
      if (at.lane < 4) {
        sts32(to + (at.warp * HC + g * 8 + q * 2) * 4, __float_as_uint(sum.x));
        sts32(to + (at.warp * HC + g * 8 + q * 2 + 1) * 4, __float_as_uint(sum.y));
      }
    }
  }
}

}  // namespace generic

extern "C" __global__ void __launch_bounds__(32 * WARPS_M * WARPS_N * WARP_GROUPS, BLOCKS_PER_MULTIPROCESSOR)
KERNEL_NAME(const Element* __restrict__ x, Element* __restrict__ y, const uint4* __restrict__ weights, const float* __restrict__ expand_b,
            const float* __restrict__ project_b,
#if SQUEEZED
            const Element* __restrict__ w1, const float* __restrict__ c1, const Element* __restrict__ w2, const float* __restrict__ c2,
            float* __restrict__ sums, float* __restrict__ all_gates,
#endif
            float4* __restrict__ partial, unsigned* __restrict__ arrived, int N, int H, int W) {
  using namespace generic;
  extern __shared__ __align__(16) unsigned char smem[];
#if PASS == 2
  // Four channels to a thread, and a part of the tiles: [parts][PADDED_HIDDEN], added in the order of the parts. W1 is
  // [SQUEEZED][PADDED_HIDDEN], W2 the same transposed back: both are read along the hidden channels.
  constexpr int ALL = 32 * WARPS_M * WARPS_N * WARP_GROUPS, QUADS = PADDED_HIDDEN / 4, PARTS = larger(ALL / QUADS, 1);
  float *mean = reinterpret_cast<float*>(smem), *squeezed = mean + PARTS * PADDED_HIDDEN;
  const int thread = threadIdx.x, lane = thread & 31, image = blockIdx.x;
  const int OH = (H - 1) / STRIDE + 1, OW = (W - 1) / STRIDE + 1, of_image = tiles_of_image(OH, OW);
  for (int i = thread; i < PARTS * QUADS; i += ALL) {
    const float4* from = reinterpret_cast<const float4*>(sums) + (size_t)image * of_image * QUADS + i % QUADS;
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll 8
    for (int t = i / QUADS; t < of_image; t += PARTS) {
      const float4 v = __ldg(from + (size_t)t * QUADS);
      sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    reinterpret_cast<float4*>(mean)[i] = sum;
  }
  __syncthreads();
  for (int c = thread; c < PADDED_HIDDEN; c += ALL) {
    float sum = 0.f;
    for (int p = 0; p < PARTS; ++p) sum += mean[p * PADDED_HIDDEN + c];
    mean[c] = sum / ((float)OH * OW);
  }
  __syncthreads();
  for (int k = thread / 32; k < SQUEEZED; k += ALL / 32) {
    float sum = 0.f;
#pragma unroll 4
    for (int c = lane * 2; c < PADDED_HIDDEN; c += 64) {
      const float2 w = widen2(__ldg(reinterpret_cast<const Element2*>(w1 + (size_t)k * PADDED_HIDDEN + c)));
      sum = fmaf(w.x, mean[c], fmaf(w.y, mean[c + 1], sum));
    }
#pragma unroll
    for (int d = 1; d < 32; d *= 2) sum += __shfl_xor_sync(~0u, sum, d);
    if (lane == 0) squeezed[k] = Silu::of(sum + c1[k]);
  }
  __syncthreads();
  for (int c = thread * 2; c < PADDED_HIDDEN; c += ALL * 2) {
    float2 sum = *reinterpret_cast<const float2*>(c2 + c);
#pragma unroll 8
    for (int k = 0; k < SQUEEZED; ++k) {
      const float2 w = widen2(__ldg(reinterpret_cast<const Element2*>(w2 + (size_t)k * PADDED_HIDDEN + c)));
      sum.x = fmaf(w.x, squeezed[k], sum.x), sum.y = fmaf(w.y, squeezed[k], sum.y);
    }
    *reinterpret_cast<float2*>(all_gates + (size_t)image * PADDED_HIDDEN + c) =
        make_float2(1.f / (1.f + __expf(-sum.x)), 1.f / (1.f + __expf(-sum.y)));
  }
#else
  const Place at;
  const uint32_t inputs = smem_u32(smem) + WEIGHT_BYTES + at.group * GROUP_BYTES;
  const uint32_t hidden = inputs + INPUT_BUFFERS * X_BYTES, convolved = hidden + H_BYTES;
  const int OH = (H - 1) / STRIDE + 1, OW = (W - 1) / STRIDE + 1;
  const int of_image = tiles_of_image(OH, OW), tiles = N * of_image, step = gridDim.x * WARP_GROUPS;
  const int first = NCH * blockIdx.z / HIDDEN_SPLITS, chunks = NCH * (blockIdx.z + 1) / HIDDEN_SPLITS - first;

  int tile = blockIdx.x * WARP_GROUPS + at.group, turn = 0;
  auto ask = [&](int t, int buffer) {
    if (t < tiles) load_input<2 * KA>(at, inputs + buffer * X_BYTES, PITCH_X, x, Tile(t, OH, OW), H, W, 0);
    cp_async_commit();
  };
  ask(tile, 0);
  Stream stream(weights, smem_u32(smem), first, chunks, (tiles - (int)blockIdx.x - 1) / (int)gridDim.x + 1);
  [[maybe_unused]] const uint32_t row = (at.wm * MI * 16 + (at.lane & 15)) * PITCH_P + (at.lane >> 4) * 16;

#pragma unroll 1
  for (; tile < tiles; tile += step, ++turn) {
    const Tile here(tile, OH, OW);
    const uint32_t input = inputs + turn % INPUT_BUFFERS * X_BYTES;
    cp_async_wait<0>();
    at.sync();
    if (INPUT_BUFFERS > 1) ask(tile + step, (turn + 1) % INPUT_BUFFERS);
    uint32_t a_at[MH];
    unsigned inside = 0;
#pragma unroll
    for (int i = 0; i < MH; ++i) {
      const int mt = (at.wm * MH + i) * 16, p = mt + (at.lane & 15);
      a_at[i] = input + (p < HALO_PIXELS ? p : 0) * PITCH_X + (at.lane >> 4) * 16;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int r = mt + half * 8 + (at.lane >> 2);
        const int yy = here.y * STRIDE - HALO + r / HALO_COLUMNS, xx = here.x * STRIDE - HALO + r % HALO_COLUMNS;
        inside |= unsigned((unsigned)yy < (unsigned)H && (unsigned)xx < (unsigned)W) << (2 * i + half);
      }
    }
    const float* gates = nullptr;
#if SQUEEZED
    gates = all_gates + (size_t)here.n * PADDED_HIDDEN + first * HC;
#endif
    float o[MI][NO][4];
    if (PASS != 1) clear<MI, NO>(o);
#pragma unroll 1
    for (int j = 0; j < chunks; ++j) {
      expand_halo(a_at, hidden, inside, expand_b + first * HC, stream, at, j);
      const uint32_t item = stream.next(at, j, EI, true);
      convolve_hidden(hidden, convolved, item, gates + j * HC, here, OH, OW, at);
#if PASS == 1
      at.sync();
      for (int c = at.thread; c < HC; c += THREADS) {
        float sum = 0.f;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) sum += __uint_as_float(lds32(convolved + (w * HC + c) * 4));
        __stcg(sums + (size_t)tile * PADDED_HIDDEN + (first + j) * HC + c, sum);
      }
#else
      project(o, convolved + row, stream, at, j);
#endif
    }
#if PASS != 1
    if (merge(o, partial, arrived, tile, at)) {
      if (RESIDUAL)
        finish<Residual::in_place>(o, input, [](int m) { return (first_tap(m) + HALO * HALO_COLUMNS + HALO) * PITCH_X; }, project_b, x, y, here,
                                   OH, OW, at);
      else
        finish<Residual::none>(o, input, [](int m) { return m * PITCH_Y; }, project_b, x, y, here, OH, OW, at);
    }
#endif
    if (INPUT_BUFFERS == 1) {
      at.sync();
      ask(tile + step, 0);
    }
  }
#endif
}
