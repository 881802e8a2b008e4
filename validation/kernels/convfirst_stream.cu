// Fused ConvFirst residual block for Hopper (sm_90a), C = 96, 128, 256: as convfirst_c64.cu, for weights that do not fit in
// shared memory.
//
// A block (one per SM, persistent) owns tiles of 64 * WARPGROUPS consecutive pixels of the flattened N*H*W index, so that
// images of any size fill it; consumer warpgroups of 64 pixels and a producer warpgroup: warp 0 streams the weights (1-D
// bulk copies of 64 * C bytes in the order of consumption, a ring of NS slots), warp 1 loads tile and halo rows by bulk
// tensor copies (slabs of SLAB channels, swizzled over their whole width) into X_BUFFERS buffers.
// Conv: wgmma m64n8k16 per group, k16 = two taps x 8 channels, A by ldmatrix; taps outside of the image read a zero row
// (an address select per lane and tap instead of masking data).
// PAIRS (W is even): even and odd pixels are loaded apart, and the rows of a fragment are the first pixels of eight pairs and then
// the second ones. The matrix of the pixels right of the first ones is that of the second ones, so that a row of the filter takes four
// matrices instead of six: a third less of what the convolution reads.
// Expansion and projection: hidden chunks of CHUNK. Of 32, P is double-buffered where registers allow it: silu(j+1) overlaps O(j);
// else a warpgroup does one after the other, and the other warpgroup's matrix instructions run under its silu.
// Of 64, a chunk is projected by halves of 32, each under the silu of the next.
// The epilogue overwrites the centre of the tile in place; every warpgroup has left its conv by then, because the weight
// ring (NS < items per tile) cannot run further ahead of the slowest warpgroup. Its bias and residual are read under the last product.
// With two buffers, a tile's is given back only after the next tile's conv: by then it has long been stored.
//
// TAIL (two warpgroups): what whole rounds of tiles leave is done in tiles of 64 pixels if there is at most one for each block. Both
// warpgroups convolve it, each takes every second hidden chunk, and each adds the other's sums to its half of the output channels.
// SPLIT > 1, for few pixels: a cluster of SPLIT blocks of one warpgroup shares a tile. Each convolves it, does its share of
// the hidden chunks, and lays its partial sums into its own shared memory (where the ring was); then each adds up a share
// of the output channels from all of them, in the order of their ranks.
//
// Conditions: LEAD + 64 * WARPGROUPS + TRAIL <= BOXES * 256 rows (PAIRS: 512); N*H*W < 2^31 - 2^15. Constants: KERNEL_NAME, CHANNELS,
// EXPANSION, WARPGROUPS, LEAD (rows before the tile: W + 1 rounded up to 8), TRAIL (rows after it: W + 1), SLAB (channels: 64 or 32),
// BOX_ROWS (of one bulk tensor copy), BOXES (of them for each slab), PAIRS, X_BUFFERS, CHUNK (32 or 64), RING_SLOTS, SPLIT, TAIL,
// SHARED_BYTES.
#include "hopper.cuh"
#include "specialisation.h"

namespace stream {
constexpr int C = CHANNELS, HID = EXPANSION * C, G = C / 8, HC = CHUNK, NWG = WARPGROUPS, BM = 64 * NWG;
constexpr int NCH = HID / HC / SPLIT;                        // hidden chunks of this block
constexpr int NS = RING_SLOTS, NX = X_BUFFERS;
constexpr int SLABS = C / SLAB, ROW = SLAB * 2, SG = SLAB / 8;                               // groups of a slab
// rows of the boxes; PAIRS: even pixels, then odd ones; then at least one row of zeros
constexpr int LROWS = BOXES * BOX_ROWS * (PAIRS ? 2 : 1), ODD = PAIRS ? (LROWS / 2 + 7) / 8 * 8 : 0, ZERO = PAIRS ? ODD + LROWS / 2 : LROWS;
constexpr int ROWS = (ZERO + 8) / 8 * 8, PART = ROWS * ROW, TILE = SLABS * PART;
constexpr int ITEM = C * HC * 2, ITEMS = 2 * NCH;
constexpr int OFF_TILE = 0, OFF_RING = NX * TILE, OFF_W1 = OFF_RING + NS * ITEM, OFF_BE = OFF_W1 + G * 1280;
constexpr int OFF_BP = OFF_BE + HID * 2, OFF_BAR = OFF_BP + C * 4;
constexpr int SMEM = OFF_BAR + 8 * (2 * NS + 4);
constexpr int BLOB = OFF_BAR - OFF_W1;                       // conv weights and biases, copied once
constexpr int PB = C == 256 && NWG == 2 ? 1 : 2;             // buffers of P: 128 + 64 + 16 registers leave room for one
constexpr int EB = C == 256 ? 4 : C / 16;    // of 16 columns: epilogue's loads at once
constexpr int FINISHED = G / SPLIT;                          // blocks of eight columns that a block of the cluster finishes
using Shares = Sums<SPLIT, FINISHED, 128>;
// the chunk after which the first half of the ring is done with, if that is enough for the sums
constexpr int EARLY = ITEMS % NS == 0 && NS % 4 == 0 && NS / 2 * ITEM >= BM * C * 4 ? NCH - NS / 4 : NCH;
static_assert(SMEM == SHARED_BYTES, "the launch reserves what the kernel lays out");
static_assert(LROWS >= LEAD + BM + TRAIL && BOX_ROWS <= 256 && !(PAIRS && (BOXES > 1 || LEAD % 2)), "rows of the boxes");
static_assert(NS < ITEMS || NWG == 1, "a warpgroup may reach its epilogue before another has left its conv");
static_assert(G % 4 == 0 && HID % (HC * SPLIT) == 0 && G % SPLIT == 0, "channels");
static_assert(!TAIL || (NWG == 2 && SPLIT == 1 && NX == 1 && NCH % 2 == 0 && NS * ITEM >= BM / 2 * C * 4), "sums lie where the ring was");
static_assert(SPLIT == 1 || (NWG == 1 && NS * ITEM >= BM * C * 4), "partial sums lie where the ring was");

// 16-byte chunk of a row under the swizzle over the row's width: rows of 128 bytes, or two rows of 64
__device__ __forceinline__ uint32_t swizzle(int r) { return SLAB == 64 ? (r & 7) * 16 : (r >> 1 & 3) * 16; }

using Ring = Position<NS>;
__device__ __forceinline__ void expand(float (&s)[HC / 2], const uint32_t (&a)[C / 16][4], uint64_t d) {
#pragma unroll
  for (int k = 0; k < C / 16; ++k) Wgmma<HC>::rs(s, a[k], d + k * (2 * HC / 8 * 128 >> 4), k > 0);
}
__device__ __forceinline__ void project(float (&o)[C / 2], const uint32_t (&p)[HC / 16][4], uint64_t d, int j) {
#pragma unroll
  for (int k = 0; k < HC / 16; ++k) Wgmma<C>::rs(o, p[k], d + k * (2 * C / 8 * 128 >> 4), (j > 0) | (k > 0));
}
#if CHUNK == 64
// half h of a 64 x 64 chunk of S -> A operand of half of the projection
template <int h> __device__ __forceinline__ void silu_half(const float (&s)[32], uint32_t (&p)[2][4], uint4 v) {
  const uint32_t b[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int k = 0; k < 2; ++k) silu_block(p[k], s + 16 * h + 8 * k, b[2 * k], b[2 * k + 1]);
}
__device__ __forceinline__ void project_half(float (&o)[C / 2], const uint32_t (&p)[2][4], uint64_t d, int h, int j) {
#pragma unroll
  for (int k = 0; k < 2; ++k) Wgmma<C>::rs(o, p[k], d + (2 * h + k) * (2 * C / 8 * 128 >> 4), (j > 0) | (h > 0) | (k > 0));
}
#endif
}  // namespace stream

extern "C" __global__ void __launch_bounds__(128 * (WARPGROUPS + 1), 1)
#if SPLIT > 1
__cluster_dims__(SPLIT, 1, 1)
#endif
KERNEL_NAME(const __grid_constant__ TensorMap x_map, const __grid_constant__ TensorMap y_map,
            const unsigned char* __restrict__ wstream, const uint4* __restrict__ blob, __half* __restrict__ y, int N, int H, int W) {
  using namespace stream;
  extern __shared__ __align__(1024) unsigned char smem[];
  const uint32_t sm = smem_u32(smem);
  const int tid = thread_index();
  const int wg = __shfl_sync(~0u, tid >> 7, 0), warp = (tid >> 5) & 3, lane = tid & 31, q = lane & 3;
  const int P = N * H * W, tiles = (P + BM - 1) / BM;
  const int rank = SPLIT > 1 ? blockIdx.x % SPLIT : 0, first = blockIdx.x / SPLIT, step = gridDim.x / SPLIT;
  // TAIL: what whole rounds of tiles leave is done in tiles of 64 pixels, if one for each block is enough
  const int whole = TAIL ? P / (BM * step) : 0, left = (P - whole * BM * step + 63) / 64, halves = TAIL && left <= step ? left : 0;
  const int my = halves ? whole + (first < halves) : (tiles - first + step - 1) / step;
  auto begin = [&](int n) { return halves && n == whole ? whole * BM * step + first * 64 : (first + n * step) * BM; };
  const uint32_t wfull = sm + OFF_BAR, wempty = wfull + 8 * NS, xfull = wempty + 8 * NS, xempty = xfull + 16;

  if (tid == 0) {
    for (int i = 0; i < NS; ++i) { mbar_init(wfull + 8 * i, 1); mbar_init(wempty + 8 * i, NWG); }
    for (int i = 0; i < NX; ++i) { mbar_init(xfull + 8 * i, 1); mbar_init(xempty + 8 * i, NWG); }
    mbar_init_fence();
  }
  __syncthreads();
  pdl_launch();

  if (wg == NWG) {  // ------------------------------------------------------------------------------ producers
#if WARPGROUPS == 3
    fewer_registers<32>();
#elif WARPGROUPS == 2
    fewer_registers<24>();
#endif
    if (warp == 0 && lane == 0) {
      Ring r = {0, 0};
      const int total = my * ITEMS;
      const unsigned char* from = wstream + rank * (ITEMS * ITEM);
      for (int n = 0, i = 0; n < total; ++n, r.next()) {
        mbar_wait(wempty + 8 * r.slot, r.phase ^ 1);
        mbar_expect(wfull + 8 * r.slot, ITEM);
        bulk_load(sm + OFF_RING + r.slot * ITEM, from + i * ITEM, ITEM, wfull + 8 * r.slot);
        if (++i == ITEMS) i = 0;
      }
    } else if (warp == 1 && lane == 0) {
      int b = 0;
      uint32_t phase = 1;
      for (int n = 0; n < 2 && n < my; ++n)
        for (int h = 0; h < SLABS; ++h)
#if PAIRS
          for (int odd = 0; odd < 2; ++odd) tma_prefetch3(&x_map, h * SLAB, odd, (begin(n) - LEAD) / 2);
#else
          for (int box = 0; box < BOXES; ++box) tma_prefetch2(&x_map, h * SLAB, begin(n) - LEAD + box * BOX_ROWS);
#endif
      pdl_wait();
      for (int n = 0; n < my; ++n) {
        mbar_wait(xempty + 8 * b, phase);
        mbar_expect(xfull + 8 * b, SLABS * LROWS * ROW);
#if PAIRS
        for (int h = 0; h < SLABS; ++h)
          for (int odd = 0; odd < 2; ++odd)
            tma_load3(sm + OFF_TILE + b * TILE + h * PART + odd * ODD * ROW, &x_map, h * SLAB, odd, (begin(n) - LEAD) / 2, xfull + 8 * b);
#else
        for (int h = 0; h < SLABS; ++h)
          for (int box = 0; box < BOXES; ++box)
            tma_load2(sm + OFF_TILE + b * TILE + h * PART + box * BOX_ROWS * ROW, &x_map, h * SLAB, begin(n) - LEAD + box * BOX_ROWS,
                      xfull + 8 * b);
#endif
        if (++b == NX) b = 0, phase ^= 1;
      }
    }
  } else {  // --------------------------------------------------------------------------------------- consumers
#if WARPGROUPS == 3
    more_registers<160>();
#elif WARPGROUPS == 2
    more_registers<240>();
#endif
    for (int i = tid; i < BLOB / 16; i += 128 * NWG) cp_async16(sm + OFF_W1 + i * 16, blob + i, true);
    for (int i = tid; i < NX * SLABS * (ROWS - ZERO) * (ROW / 16); i += 128 * NWG) {         // zero rows of the tile buffers
      int r = i / ((ROWS - ZERO) * (ROW / 16)), k = i % ((ROWS - ZERO) * (ROW / 16));
      *reinterpret_cast<uint4*>(smem + OFF_TILE + r * PART + ZERO * ROW + k * 16) = make_uint4(0, 0, 0, 0);
    }
    cp_async_commit();
    cp_async_wait<0>();
    fence_async_proxy();                                                          // wgmma reads the conv weights
    bar_sync(8, 128 * NWG);
    pdl_wait();                                                                  // y may be the previous grid's input
    const uint32_t be = sm + OFF_BE + rank * (NCH * HC * 2) + q * (HC / 8 * 4);
    const uint64_t dE = make_desc(sm + OFF_RING, HC / 8 * 128, 128), dP = make_desc(sm + OFF_RING, C / 8 * 128, 128);
    Ring rd = {0, 0};                                                            // first item of the current chunk
    int xb = 0;                                                                  // buffer of the tile
    uint32_t xphase = 0;
    auto acquire = [&](Ring r) { mbar_wait(wfull + 8 * r.slot, r.phase); return (uint64_t)(SPLIT > 1 ? __shfl_sync(~0u, r.slot * (ITEM >> 4), 0) : r.slot * (ITEM >> 4)); };
    auto release = [&](Ring r) { if ((tid & 127) == 0) mbar_arrive(wempty + 8 * r.slot); };
    int begins = first * BM;
    for (int n = 0; TAIL ? n < my : begins < P; ++n, begins += step * BM) {
      const uint32_t in = sm + OFF_TILE + xb * TILE;
      const bool half = TAIL && halves && n == whole;
      const int own = half ? 0 : wg * 64, m = own + warp * 16 + (lane & 15);     // ldmatrix: this lane's pixel
      const int start = half ? begin(n) : begins;
      uint32_t a[C / 16][4];
      {  // ---- grouped 3x3 conv, straight into the A operand
#if PAIRS
        // a matrix of eight rows is every second pixel: four of them, from the pixel before a pair's first to the one after its
        // second, are the taps beside both (rows 0-7 of a fragment: first pixels, 8-15: second ones); the middle two, the taps at both
        const int pair = start + own + warp * 16 + 2 * (lane & 7), yy = pair / W % H, xx = pair % W, dx = (lane >> 3) - 1;
        uint32_t la[3];
#pragma unroll
        for (int i = 0; i < 3; ++i) {
          const int dy = i - 1, at = LEAD + own + warp * 16 + 2 * (lane & 7) + dy * W + dx;
          const bool ok = (unsigned)(yy + dy) < (unsigned)H && (unsigned)(xx + dx) < (unsigned)W;
          const int r = ok ? (at >> 1) + (at & 1 ? ODD : 0) : ZERO;
          la[i] = in + r * ROW + swizzle(r);
        }
#else
        const int p = start + m, yy = p / W % H, xx = p % W, hi = lane >> 4;
        uint32_t la[5];
#pragma unroll
        for (int i = 0; i < 5; ++i) {                                            // taps (0|2,i), (1,0|1), (1,2)
          int dy = i < 3 ? (hi ? 1 : -1) : 0, dx = i < 3 ? i - 1 : i == 3 ? (hi ? 0 : -1) : 1;
          bool ok = (unsigned)(yy + dy) < (unsigned)H && (unsigned)(xx + dx) < (unsigned)W;
          int r = ok ? LEAD + m + dy * W + dx : LROWS;
          la[i] = in + r * ROW + swizzle(r);
        }
#endif
        mbar_wait(xfull + 8 * xb, xphase);
        // k16 = two taps of one group (the tenth tap is zero); four groups in flight
        const uint64_t dw = make_desc(sm + OFF_W1, 128, 128);
        uint32_t f[2][2][5][4];
        float d[2][2][4];
        auto fetch = [&](uint32_t (&f)[2][5][4], int gb) {
#pragma unroll
          for (int u = 0; u < 2; ++u) {
            const uint32_t c = (gb + u) % SG * 16, h = (gb + u) / SG * PART;
#if PAIRS
#pragma unroll
            for (int i = 0; i < 3; ++i) ldsm4(f[u][i], (la[i] ^ c) + h);
            f[u][3][0] = f[u][0][1]; f[u][3][1] = f[u][0][2];
            f[u][3][2] = f[u][1][1]; f[u][3][3] = f[u][1][2];
            f[u][4][0] = f[u][2][1]; f[u][4][1] = f[u][2][2];
#else
#pragma unroll
            for (int i = 0; i < 4; ++i) ldsm4(f[u][i], (la[i] ^ c) + h);
            ldsm2(f[u][4][0], f[u][4][1], (la[4] ^ c) + h);
#endif
            f[u][4][2] = f[u][4][3] = 0;
          }
        };
        auto take = [&](const float (&d)[2][4], int gb) {
#pragma unroll
          for (int u = 0; u < 2; ++u) {
            a[(gb + u) >> 1][(u & 1) * 2 + 0] = pack2(d[u][0], d[u][1]);
            a[(gb + u) >> 1][(u & 1) * 2 + 1] = pack2(d[u][2], d[u][3]);
          }
        };
        fetch(f[0], 0);
#pragma unroll
        for (int gb = 0; gb < G; gb += 2) {
          const int t = gb / 2 & 1;
          wgmma_fence();
#pragma unroll
          for (int i = 0; i < 5; ++i)
#pragma unroll
            for (int u = 0; u < 2; ++u) Wgmma<8>::rs(d[t][u], f[t][u][i], dw + (((gb + u) * 5 + i) * 256 >> 4), i > 0);
          wgmma_commit();
          if (gb > 0) {
            wgmma_wait<1>();
            take(d[t ^ 1], gb - 2);
          }
          if (gb + 2 < G) fetch(f[t ^ 1], gb + 2);
        }
        wgmma_wait<0>();
        take(d[G / 2 - 1 & 1], G - 2);
      }
#if X_BUFFERS == 2 && SPLIT == 1
      if (begins >= step * BM && (tid & 127) == 0) {                       // the tile before has long been stored: its buffer is free
        bulk_wait_read();
        mbar_arrive(xempty + 8 * (xb ^ 1));
      }
#endif
#if SPLIT == 1
      const int first_i = TAIL && half ? wg * (C / 32) : 0, last_i = TAIL && half ? C / 32 : C / 16;
      const int er = PAIRS ? (LEAD + own) / 2 + warp * 8 + (lane & 7) + (lane >> 3 & 1) * ODD : LEAD + m;
      const uint32_t ctr = in + er * ROW + (swizzle(er) ^ (lane >> 4) * 16);
      uint32_t rx[EB][4];
      uint4 bq[EB / 2];                                      // bias: half2, [q][C/8 blocks]
      auto centre = [&](int i) { return (ctr ^ (i % (SLAB / 16) * 32)) + (i + first_i) / (SLAB / 16) * PART; };
      auto residual = [&](int from) {                        // and bias, for EB times 16 columns
#pragma unroll
        for (int i = 0; i < EB / 2; ++i) bq[i] = lds128(sm + OFF_BP + q * (C / 2) + (from + 2 * i + first_i) * 8);
#pragma unroll
        for (int i = 0; i < EB; ++i) ldsm4(rx[i], centre(from + i));
      };
#else
      auto residual = [](int) {};
#endif
      // ---- inverted bottleneck
      float s[HC / 2], o[C / 2];
#if CHUNK == 64
      {
        uint32_t pr[2][2][4];
        Ring before = rd;
        uint64_t off = acquire(rd);
        wgmma_fence();
        expand(s, a, dE + off);
        wgmma_commit();
        uint4 bias[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) bias[h] = lds128(be + 16 * h);
        wgmma_wait<0>();
        release(rd);
#pragma unroll
        for (int j = 0; j < NCH; ++j) {
          Ring rp = rd; rp.next();                                               // P(j)
          rd = rp; rd.next();                                                    // E(j+1)
          silu_half<0>(s, pr[0], bias[0]);                             // the second half of P(j-1) may still run
          off = acquire(rp);
          wgmma_fence();
          project_half(o, pr[0], dP + off, 0, j);
          wgmma_commit();
          if (j > 0) {
            wgmma_wait<1>();
            release(before);
          }
          silu_half<1>(s, pr[1], bias[1]);                             // beside the first half of P(j)
          if (j + 1 < NCH) {
            const uint64_t next = acquire(rd);
            wgmma_fence();
            expand(s, a, dE + next);
            wgmma_commit();
          }
          wgmma_fence();
          project_half(o, pr[1], dP + off, 1, j);
          wgmma_commit();
          if (j + 1 < NCH) {
#pragma unroll
            for (int h = 0; h < 2; ++h) bias[h] = lds128(be + (j + 1) * (HC * 2) + 16 * h);
            wgmma_wait<1>();                                                     // S(j+1) and the first half of P(j)
            release(rd);
          } else {
            residual(0);
            wgmma_wait<0>();
            release(rp);
          }
          before = rp;
        }
      }
#else
      uint32_t pr[PB][HC / 16][4];
      if constexpr (PB == 1) {
        auto skip = [&]() {                                                      // the other warpgroup's chunk
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            acquire(rd);
            bar_sync(1 + wg, 128);                                               // or a warp could fall behind by a whole ring, and wait for ever
            release(rd);
            rd.next();
          }
        };
        const int every = TAIL && half ? 2 : 1;
        int j = TAIL && half ? wg : 0;
        if (TAIL && half && wg) skip();
        auto chunk = [&](int acc) {
          uint64_t off = acquire(rd);
          wgmma_fence();
          expand(s, a, dE + off);
          wgmma_commit();
          wgmma_wait<0>();
          release(rd);
          rd.next();
          silu_chunk<HC / 16>(s, pr[0], be + j * (HC * 2));
          off = acquire(rd);
          wgmma_fence();
          project(o, pr[0], dP + off, acc);
          wgmma_commit();
          wgmma_wait<0>();
          release(rd);
          rd.next();
        };
        chunk(0);            // apart: with a constant 0 the accumulators are not alive before it, beside the conv's registers
#pragma unroll 1
        for (j += every; j < NCH; j += every) {
          if (TAIL && half) skip();
          chunk(1);
        }
        if (TAIL && half && !wg) skip();
      } else {
        Ring prevp = rd;
        uint32_t bias[HC / 8];
        uint64_t off = acquire(rd);
        wgmma_fence();
        expand(s, a, dE + off);
        wgmma_commit();
        load_bias<HC / 16>(bias, be);
        wgmma_wait<0>();
        release(rd);
#pragma unroll          // fully: ptxas serialises the wgmmas if pr is carried around a rolled loop
        for (int j = 0; j < NCH; ++j) {
          Ring rp = rd; rp.next();                                               // P(j)
          rd = rp; rd.next();                                                    // E(j+1)
          silu_chunk<HC / 16>(s, pr[j & 1], bias);                               // O(j-1) may still run
          if (j + 1 < NCH) {
            off = acquire(rd);
            wgmma_fence();
            expand(s, a, dE + off);
            wgmma_commit();
          }
          off = acquire(rp);
          wgmma_fence();
          project(o, pr[j & 1], dP + off, j);
          wgmma_commit();
          if (j + 1 < NCH) {
            load_bias<HC / 16>(bias, be + (j + 1) * (HC * 2));
            wgmma_wait<1>();                                                     // S(j+1) and O(j-1) complete
            if (SPLIT > 1 && j == EARLY) cluster_arrive_relaxed();                  // this block no longer needs the first half of the ring
            if (j > 0) release(prevp);
            release(rd);
          } else {
            residual(0);
            wgmma_wait<0>();
            if (j > 0) release(prevp);
            release(rp);
          }
          prevp = rp;
        }
      }
#endif
#if SPLIT > 1
      // ---- partial sums of the cluster, where the ring was: to the blocks that finish them, then a share of the columns from every block
      const int tid = thread_index(), lane = tid & 31, warp = tid >> 5, rank = cluster_rank();   // anew: ptxas would keep (spill) what follows
      const Shares sums = {sm + OFF_RING + tid * 16, rank, 0};
      if (EARLY == NCH) { bar_sync(1, 128); cluster_arrive_relaxed(); }
      cluster_wait();
      sums.give(o);
      cluster_arrive();
      cluster_wait();
      sums.add(lane);
#pragma unroll 1
      for (int u = lane; u < Shares::UNITS; u += 32) {                           // 16 bytes of a pixel at a time
        const int of = u / FINISHED, i = u % FINISHED, b = rank * FINISHED + i;
        const int pixel = warp * 16 + of, r = PAIRS ? (LEAD + pixel) / 2 + (pixel & 1) * ODD : LEAD + pixel;
        const uint4 sum = sums.halves(lane, PAIRS ? (of >> 1) + (of & 1) * 8 : of, i);
        const uint4 x = lds128(in + b / SG * PART + r * ROW + (swizzle(r) ^ b % SG * 16));
        uint4 out;
#pragma unroll
        for (int v = 0; v < 4; ++v)                          // bias: half2, [q][C/8 blocks]
          (&out.x)[v] = add2(add2((&sum.x)[v], lds32(sm + OFF_BP + v * (C / 2) + b * 4)), (&x.x)[v]);
        if (start + pixel < P) *reinterpret_cast<uint4*>(y + (size_t)(start + pixel) * C + b * 8) = out;
      }
#else
#if TAIL
      if (half) {  // ---- each warpgroup adds the other's sums to its half of the columns; the ring is done with
        float* ex = reinterpret_cast<float*>(smem + OFF_RING) + (tid & 127);
        bar_sync(8, 128 * NWG);
#pragma unroll
        for (int i = 0; i < C / 4; ++i) ex[(wg * (C / 4) + i) * 128] = wg ? o[i] : o[C / 4 + i];
        bar_sync(8, 128 * NWG);
#pragma unroll
        for (int i = 0; i < C / 4; ++i) o[i] = (wg ? o[C / 4 + i] : o[i]) + ex[((wg ^ 1) * (C / 4) + i) * 128];
      }
#endif
      // ---- epilogue: + bias + residual in place (rows LEAD.. of the tile), then a TMA store for each slab
#pragma unroll
      for (int from = 0; from < C / 16; from += EB) {
        if (TAIL && from >= last_i) continue;
        if (from > 0 || PB == 1) residual(from);
#pragma unroll
        for (int i = 0; i < EB; ++i) {
          uint32_t ro[4];
#pragma unroll
          for (int h = 0; h < 4; ++h) {
            const uint32_t b = (&bq[i >> 1].x)[(i & 1) * 2 + (h >> 1)];
            ro[h] = add2(add2(pack2(o[8 * (from + i) + 2 * h], o[8 * (from + i) + 2 * h + 1]), b), rx[i][h]);
          }
          stsm4(centre(from + i), ro[0], ro[1], ro[2], ro[3]);
        }
      }
      fence_async_proxy();
      bar_sync(1 + wg, 128);
      if ((tid & 127) == 0) {
        for (int h = first_i * 16 / SLAB; h < (first_i + last_i) * 16 / SLAB; ++h)
#if PAIRS
          for (int odd = 0; odd < 2; ++odd)
            tma_store3(&y_map, h * SLAB, odd, (start + own) / 2, in + ((LEAD + own) / 2 + odd * ODD) * ROW + h * PART);
#else
          tma_store2(&y_map, h * SLAB, start + own, in + (LEAD + own) * ROW + h * PART);
#endif
        bulk_commit();
#if X_BUFFERS == 1 || SPLIT > 1
        bulk_wait_read();
        mbar_arrive(xempty + 8 * xb);
#endif
      }
      if (++xb == NX) xb = 0, xphase ^= 1;
#endif
    }
    if (SPLIT == 1 && (tid & 127) == 0) bulk_wait_all();
  }
#if SPLIT > 1
  // one tile for each cluster (the launch makes as many as there are tiles)
  __syncwarp();
  if (wg == NWG) {                                           // the consumers' two barriers, before and after the sums are given
    cluster_arrive_relaxed();
    cluster_wait();
    cluster_arrive_relaxed();
    cluster_wait();
  }
#endif
}
