// Fused ConvFirst residual block for Hopper (sm_90a), C = 64: fp16 in and out, fp32 accumulation, NHWC, inference.
//
//   a = grouped_conv3x3(x, w1) + b1            C -> C, groups of 8 channels, zero padding, no activation
//   h = silu(a @ We + be)                      C -> eC
//   y = h @ Wp + bp + x                        eC -> C
//
// Organised like attention forward: a warpgroup owns 64 output pixels; the conv result is produced in the register layout
// of a wgmma A operand; the hidden dimension is walked in chunks,
//   S = a . We[:, chunk]   ->  P = silu(S) in registers   ->   O += P . Wp[chunk, :]
// so neither `a` nor `h` ever leaves the register file. The host packs every weight so that a linear copy into shared
// memory yields the operand layout (packing.py); We and be are multiplied by 1/2, because silu(2h) = h + h*tanh(h), and b1
// is folded into be, because no activation stands between.
//
// All weights are resident in shared memory, fetched in the order in which the first patch needs them. Four independent
// warpgroups per block (one block per SM, persistent; three where the weights leave no room for four) each own one
// 8x8-pixel patch at a time, double-buffer its 10x10 halo tile by bulk tensor copies and never wait for the others, so
// that the matrix unit, the special-function unit and shared memory are busy with warpgroups in different phases.
// Halo tile: one box of 10x10 pixels x 64 channels, zero-filled outside the image, rows of 128 bytes with the 128-byte
// swizzle. The swizzle is a function of the shared-memory address, so wgmma descriptors may start at any pixel: the A
// operand of a tap is the tile shifted by (ky*10 + kx) rows, with 8-pixel groups 10 rows apart.
// The filter is block-diagonal, two groups to a k16: an infinity in one group makes a NaN in its neighbour.
// A narrow product takes as long as its A operand takes to be read, so a view of the tile serves two rows of the filter at once: the
// upper view, which begins in the halo row above the patch, the first and the middle row, the lower one, two rows of pixels further
// down, the middle and the last. Of two patch rows that are neighbours (rows g and g + 8 of a thread's sums) the first takes its middle
// term from the second's row of the upper view, and the second from the first's row of the lower one; the others are of no use.
//
// Conditions: H, W <= 1016 (patch coordinates are 8 bits), N <= 32767. Constants: KERNEL_NAME, EXPANSION, WARPGROUPS,
// SHARED_BYTES.
#include "hopper.cuh"
#include "specialisation.h"

namespace c64 {
constexpr int C = 64, HID = EXPANSION * C, HC = 64, NCH = HID / HC, NWG = WARPGROUPS;
constexpr int PW = 10, PH = 10, LOAD_BYTES = PW * PH * C * 2, TILE_BYTES = (LOAD_BYTES + 1023) / 1024 * 1024;
constexpr int OFF_WE = 0, OFF_WP = OFF_WE + C * HID * 2;
constexpr int OFF_W1 = OFF_WP + C * HID * 2, W1_BYTES = (C / 16) * 9 * 512;
constexpr int OFF_BE = OFF_W1 + W1_BYTES, OFF_BP = OFF_BE + HID * 2;   // b1 is folded into be
constexpr int BLOB = OFF_BP + C * 4, OFF_TILE = (BLOB + 1023) / 1024 * 1024, OFF_BAR = OFF_TILE + NWG * 2 * TILE_BYTES;
constexpr int SMEM = OFF_BAR + (NWG * 2 + 3) * 8;
static_assert(SMEM == SHARED_BYTES, "the launch reserves what the kernel lays out");
constexpr int STEP_E = 2 * HC / 8 * 128 >> 4, STEP_P = 2 * C / 8 * 128 >> 4;  // per k16, in 16 B

__device__ __forceinline__ uint32_t px_off(int px, int chunk) { return px * 128 + ((chunk ^ px) & 7) * 16; }

// patch coordinates packed in one register: image << 16 | patch row << 8 | patch column
__device__ __forceinline__ uint32_t advance(uint32_t a, uint32_t d, int TX, int TY) {   // a + d in mixed radix
  a += d;
  if ((int)(a & 255) >= TX) a += 256 - TX;
  if ((int)(a >> 8 & 255) >= TY) a += (256 - TY) << 8;
  return a;
}
__device__ __forceinline__ uint32_t coord(int t, int TX, int TY) { return t / (TX * TY) << 16 | t / TX % TY << 8 | t % TX; }
__device__ __forceinline__ void expand(float (&s)[HC / 2], const uint32_t (&a)[C / 16][4], uint64_t de, int j) {
#pragma unroll
  for (int k = 0; k < C / 16; ++k) Wgmma<HC>::rs(s, a[k], de + j * (C * HC * 2 >> 4) + k * STEP_E, k > 0);
}
__device__ __forceinline__ void project(float (&o)[C / 2], const uint32_t (&p)[HC / 16][4], uint64_t dp, int j) {
#pragma unroll
  for (int k = 0; k < HC / 16; ++k) Wgmma<C>::rs(o, p[k], dp + j * (C * HC * 2 >> 4) + k * STEP_P, j + k > 0);
}
}  // namespace c64

extern "C" __global__ void __launch_bounds__(128 * WARPGROUPS, 1)
KERNEL_NAME(const __grid_constant__ TensorMap x_map, const __grid_constant__ TensorMap y_map, const uint4* __restrict__ blob,
            int N, int H, int W) {
  using namespace c64;
  extern __shared__ __align__(1024) unsigned char smem[];
  const uint32_t sm = smem_u32(smem);
  const int tid = thread_index();
  // through a shuffle: uniform for the compiler, too, which otherwise loops over the lanes at every bulk copy
  const int wg = __shfl_sync(~0u, tid >> 7, 0), warp = __shfl_sync(~0u, (tid >> 5) & 3, 0), lane = tid & 31, q = lane & 3;
  const int TX = (W + 7) >> 3, TY = (H + 7) >> 3, tiles = N * TX * TY, step = gridDim.x * NWG;
  const uint32_t tile0 = sm + OFF_TILE + wg * 2 * TILE_BYTES, full = sm + OFF_BAR + wg * 16;
  auto load = [&](uint32_t t, int buf) {
    mbar_expect(full + 8 * buf, LOAD_BYTES);
    tma_load4(tile0 + buf * TILE_BYTES, &x_map, 0, (t & 255) * 8 - 1, (t >> 8 & 255) * 8 - 1, t >> 16, full + 8 * buf);
  };

  // the weights, in the order in which the first patch needs them: filters and biases, expansion, projection
  const uint32_t wfull = sm + OFF_BAR + NWG * 16;
  if (tid == 0) {
    constexpr int FROM[3] = {OFF_W1, OFF_WE, OFF_WP}, BYTES[3] = {BLOB - OFF_W1, OFF_WP - OFF_WE, OFF_W1 - OFF_WP};
#pragma unroll
    for (int i = 0; i < 3; ++i) mbar_init(wfull + 8 * i, 1);
    mbar_init_fence();
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      mbar_expect(wfull + 8 * i, BYTES[i]);
      bulk_load(sm + FROM[i], reinterpret_cast<const unsigned char*>(blob) + FROM[i], BYTES[i], wfull + 8 * i);
    }
  }
  int tile = wg * gridDim.x + blockIdx.x;                                      // few patches go to as many multiprocessors as there are
  uint32_t cur = coord(tile, TX, TY), nxt = cur;
  const uint32_t inc = coord(step, TX, TY);
  if ((tid & 127) == 0) {
    mbar_init(full, 1);
    mbar_init(full + 8, 1);
    mbar_init_fence();
    if (tile < tiles) tma_prefetch4(&x_map, 0, (cur & 255) * 8 - 1, (cur >> 8 & 255) * 8 - 1, cur >> 16);
    pdl_wait();
    if (tile < tiles) load(cur, 0);
  }
  pdl_launch();
  __syncthreads();

  const uint64_t de = make_desc(sm + OFF_WE, HC / 8 * 128, 128);
  const uint64_t dp = make_desc(sm + OFF_WP, C / 8 * 128, 128);
  const uint32_t be = sm + OFF_BE + q * (HC / 8 * 4);                         // [chunk][q][8 blocks] half2
  // ldmatrix/stmatrix lane offset for the 16 output pixels of this warp (two patch rows) x two channel groups
  const uint32_t ctr = px_off((2 * warp + 1 + ((lane >> 3) & 1)) * PW + (lane & 7) + 1, lane >> 4);

  for (int it = 0; tile < tiles; tile += step, ++it, cur = nxt) {
    const int buf = it & 1;
    const uint32_t in = tile0 + buf * TILE_BYTES;
    if (it == 0) mbar_wait(wfull, 0);
    mbar_wait(full + 8 * buf, (it >> 1) & 1);

    // ---- grouped 3x3 conv: result packed straight into the A operand of the expansion
    uint32_t a[4][4];
    {  // block-diagonal B (two groups per k16): two views x 3 columns of the filter x 4 group pairs of m64n32k16
      float c[2][2][16];                                  // of two group pairs in turn: of the views, by row of the filter
      const uint64_t dw = make_desc(sm + OFF_W1, 6 * 128, 128);                 // [group pair][kx][k8][ky][n8]
      const uint64_t dt = make_desc(in, 16, PW * 128) | (1ull << 62);           // view = the halo tile, shifted
      auto convolve = [&](int k) {
        wgmma_fence();
#pragma unroll
        for (int kx = 0; kx < 3; ++kx)
#pragma unroll
          for (int v = 0; v < 2; ++v)                     // upper, lower; the first column overwrites
            Wgmma<32>::ss(c[k & 1][v], dt + ((k * 32 + (2 * v * PW + kx) * 128) >> 4), dw + (((k * 3 + kx) * 6 + v) * 256 >> 4), kx > 0);
        wgmma_commit();
      };
      auto take = [&](int k) {
#pragma unroll
        for (int n = 0; n < 2; ++n) {                     // groups: a block of eight columns for each of the two rows of the filter
          const float *top = c[k & 1][0] + 4 * n, *low = c[k & 1][1] + 4 * n;
          a[k][2 * n] = pack2(top[0] + low[8] + top[10], top[1] + low[9] + top[11]);
          a[k][2 * n + 1] = pack2(top[2] + low[10] + low[0], top[3] + low[11] + low[1]);
        }
      };
      convolve(0);
#pragma unroll
      for (int k = 0; k < C / 16; ++k) {
        if (k + 1 < C / 16) {
          convolve(k + 1);
          wgmma_wait<1>();
        } else {
          wgmma_wait<0>();
        }
        take(k);
      }
    }
    // ---- inverted bottleneck, hidden dimension in chunks of 64
    float o[C / 2];
    float s[HC / 2];
    uint32_t p[HC / 16][4];
    if (it == 0) mbar_wait(wfull + 8, 0);
    wgmma_fence();
    expand(s, a, de, 0);
    wgmma_commit();
    // all conv reads of this tile are done (the epilogue may overwrite its centre) and all stores from the other buffer
    // have been read out (the next tile may be loaded into it)
    if (lane == 0) bulk_wait_read();
    bar_sync(1 + wg, 128);
    nxt = advance(cur, inc, TX, TY);
    if ((tid & 127) == 0 && tile + step < tiles) load(nxt, buf ^ 1);
#pragma unroll
    for (int j = 0; j < NCH; ++j) {
      wgmma_wait<0>();
      silu_chunk<HC / 16>(s, p, be + j * (HC * 2));
      if (j == 0 && it == 0) mbar_wait(wfull + 16, 0);
      wgmma_fence();
      project(o, p, dp, j);
      if (j + 1 < NCH) expand(s, a, de, j + 1);
      wgmma_commit();
    }
    // residual and bias are read under the last projection
    uint4 bq[2];                                           // half2, [q][C/8 blocks]
    uint32_t rx[4][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) bq[i] = lds128(sm + OFF_BP + q * (C / 2) + i * 16);
#pragma unroll
    for (int i = 0; i < 4; ++i) ldsm4(rx[i], in + (ctr ^ (i * 32)));
    wgmma_wait<0>();

    // ---- epilogue: + bias + residual (tile centre), staged in place, then one TMA store per patch row
#pragma unroll
    for (int i = 0; i < 4; ++i) {                                              // two groups of 8 output channels
      uint32_t ro[4];
#pragma unroll
      for (int h = 0; h < 4; ++h) {
        const uint32_t b = (&bq[i >> 1].x)[(i & 1) * 2 + (h >> 1)];
        ro[h] = add2(add2(pack2(o[8 * i + 2 * h], o[8 * i + 2 * h + 1]), b), rx[i][h]);
      }
      stsm4(in + (ctr ^ (i * 32)), ro[0], ro[1], ro[2], ro[3]);
    }
    fence_async_proxy();
    __syncwarp();
    if (lane == 0) {
#pragma unroll
      for (int i = 0; i < 2; ++i)
        tma_store4(&y_map, 0, (cur & 255) * 8, (cur >> 8 & 255) * 8 + 2 * warp + i, cur >> 16, in + ((2 * warp + i + 1) * PW + 1) * 128);
      bulk_commit();
    }
  }
  if (lane == 0) bulk_wait_read();                                             // whoever needs the grid's output waits for the grid
}
