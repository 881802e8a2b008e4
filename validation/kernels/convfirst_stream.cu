// Fused ConvFirst residual block for Hopper (sm_90a), C = 96, 128, 256: as convfirst_c64.cu, for weights that do not fit in
// shared memory.
//
// A block (one per SM, persistent) owns tiles of 64 * WARPGROUPS consecutive pixels of the flattened N*H*W index, so that
// images of any size fill it; consumer warpgroups of 64 pixels and a producer warpgroup: warp 0 streams the weights (1-D
// bulk copies of 64 * C bytes in the order of consumption, a ring of NS slots), warp 1 loads tile and halo rows by bulk
// tensor copies (slabs of SLAB channels, swizzled over their whole width) into X_BUFFERS buffers.
// Conv: wgmma m64n8k16 per group, k16 = two taps x 8 channels, A by ldmatrix; taps outside of the image read a zero row
// (an address select per lane and tap instead of masking data).
// Expansion and projection: hidden chunks of CHUNK. Of 32, P is double-buffered where registers allow it: silu(j+1) overlaps O(j);
// else a warpgroup does one after the other, and the other warpgroup's matrix instructions run under its silu.
// Of 64, a chunk is projected by halves of 32, each under the silu of the next.
// The epilogue overwrites the centre of the tile in place; every warpgroup has left its conv by then, because the weight
// ring (NS < items per tile) cannot run further ahead of the slowest warpgroup.
//
// SPLIT > 1, for few pixels: a cluster of SPLIT blocks of one warpgroup shares a tile. Each convolves it, does its share of
// the hidden chunks, and lays its partial sums into its own shared memory (where the ring was); then each adds up a share
// of the output channels from all of them, in the order of their ranks.
//
// Conditions: LEAD + 64 * WARPGROUPS + TRAIL <= BOXES * 256 rows; N*H*W < 2^31. Constants: KERNEL_NAME, CHANNELS, EXPANSION,
// WARPGROUPS, LEAD (rows before the tile: W + 1 rounded up to 8), TRAIL (rows after it: W + 1), SLAB (channels: 64 or 32),
// BOX_ROWS (of one bulk tensor copy), BOXES (of them for each slab), X_BUFFERS, CHUNK (32 or 64), RING_SLOTS, SPLIT, SHARED_BYTES.
#include "hopper.cuh"
#include "specialisation.h"

namespace stream {
constexpr int C = CHANNELS, HID = EXPANSION * C, G = C / 8, HC = CHUNK, NWG = WARPGROUPS, BM = 64 * NWG;
constexpr int NCH = HID / HC / SPLIT;                        // hidden chunks of this block
constexpr int NS = RING_SLOTS, NX = X_BUFFERS;
constexpr int SLABS = C / SLAB, ROW = SLAB * 2, SG = SLAB / 8;                               // groups of a slab
constexpr int LROWS = BOXES * BOX_ROWS, ROWS = (LROWS + 8) / 8 * 8, PART = ROWS * ROW, TILE = SLABS * PART;  // >= 1 zero row
constexpr int ITEM = C * HC * 2, ITEMS = 2 * NCH;
constexpr int OFF_TILE = 0, OFF_RING = NX * TILE, OFF_W1 = OFF_RING + NS * ITEM, OFF_BE = OFF_W1 + G * 1280;
constexpr int OFF_BP = OFF_BE + HID * 2, OFF_BAR = OFF_BP + C * 4;
constexpr int SMEM = OFF_BAR + 8 * (2 * NS + 4);
constexpr int BLOB = OFF_BAR - OFF_W1;                       // conv weights and biases, copied once
constexpr int PB = C == 256 && NWG == 2 ? 1 : 2;             // buffers of P: 128 + 64 + 16 registers leave room for one
constexpr int PITCH_O = C * 4 + 32;                          // partial sums in fp32
static_assert(SMEM == SHARED_BYTES, "the launch reserves what the kernel lays out");
static_assert(LROWS >= LEAD + BM + TRAIL && BOX_ROWS <= 256, "rows of the boxes");
static_assert(NS < ITEMS || NWG == 1, "a warpgroup may reach its epilogue before another has left its conv");
static_assert(G % 4 == 0 && HID % (HC * SPLIT) == 0 && G % SPLIT == 0, "channels");
static_assert(SPLIT == 1 || (NWG == 1 && NS * ITEM >= BM * PITCH_O), "partial sums lie where the ring was");

// 16-byte chunk of a row under the swizzle over the row's width: rows of 128 bytes, or two rows of 64
__device__ __forceinline__ uint32_t swizzle(int r) { return SLAB == 64 ? (r & 7) * 16 : (r >> 1 & 3) * 16; }

struct Ring {                                               // position in the weight ring
  int slot; uint32_t phase;
  __device__ __forceinline__ void next() { if (++slot == NS) { slot = 0; phase ^= 1; } }
};
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
template <int h> __device__ __forceinline__ void silu_half(const float (&s)[32], uint32_t (&p)[2][4], uint32_t bias_addr) {
  const uint4 v = lds128(bias_addr + 16 * h);
  const uint32_t b[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    p[k][0] = silu2(s[16 * h + 8 * k + 0], s[16 * h + 8 * k + 1], b[2 * k]);
    p[k][1] = silu2(s[16 * h + 8 * k + 2], s[16 * h + 8 * k + 3], b[2 * k]);
    p[k][2] = silu2(s[16 * h + 8 * k + 4], s[16 * h + 8 * k + 5], b[2 * k + 1]);
    p[k][3] = silu2(s[16 * h + 8 * k + 6], s[16 * h + 8 * k + 7], b[2 * k + 1]);
  }
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
  int tid;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(tid));
  const int wg = __shfl_sync(~0u, tid >> 7, 0), warp = (tid >> 5) & 3, lane = tid & 31, q = lane & 3;
  const int P = N * H * W, tiles = (P + BM - 1) / BM;
  const int rank = SPLIT > 1 ? blockIdx.x % SPLIT : 0, first = blockIdx.x / SPLIT, step = gridDim.x / SPLIT;
  const uint32_t wfull = sm + OFF_BAR, wempty = wfull + 8 * NS, xfull = wempty + 8 * NS, xempty = xfull + 16;

  if (tid == 0) {
    for (int i = 0; i < NS; ++i) { mbar_init(wfull + 8 * i, 1); mbar_init(wempty + 8 * i, NWG); }
    for (int i = 0; i < NX; ++i) { mbar_init(xfull + 8 * i, 1); mbar_init(xempty + 8 * i, NWG); }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  pdl_launch();

  if (wg == NWG) {  // ------------------------------------------------------------------------------ producers
#if WARPGROUPS > 1
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
#endif
    if (warp == 0 && lane == 0) {
      Ring r = {0, 0};
      const int my = (tiles - first + step - 1) / step;
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
      pdl_wait();
      for (int tile = first; tile < tiles; tile += step) {
        mbar_wait(xempty + 8 * b, phase);
        mbar_expect(xfull + 8 * b, SLABS * LROWS * ROW);
        for (int h = 0; h < SLABS; ++h)
          for (int box = 0; box < BOXES; ++box)
            tma_load2(sm + OFF_TILE + b * TILE + h * PART + box * BOX_ROWS * ROW, &x_map, h * SLAB, tile * BM - LEAD + box * BOX_ROWS,
                      xfull + 8 * b);
        if (++b == NX) b = 0, phase ^= 1;
      }
    }
  } else {  // --------------------------------------------------------------------------------------- consumers
#if WARPGROUPS == 3
    asm volatile("setmaxnreg.inc.sync.aligned.u32 160;");
#elif WARPGROUPS == 2
    asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
#endif
    for (int i = tid; i < BLOB / 16; i += 128 * NWG) cp_async16(sm + OFF_W1 + i * 16, blob + i, true);
    for (int i = tid; i < NX * SLABS * (ROWS - LROWS) * (ROW / 16); i += 128 * NWG) {        // zero rows of the tile buffers
      int r = i / ((ROWS - LROWS) * (ROW / 16)), k = i % ((ROWS - LROWS) * (ROW / 16));
      *reinterpret_cast<uint4*>(smem + OFF_TILE + r * PART + LROWS * ROW + k * 16) = make_uint4(0, 0, 0, 0);
    }
    cp_async_commit();
    cp_async_wait<0>();
    fence_async_proxy();                                                          // wgmma reads the conv weights
    bar_sync(8, 128 * NWG);
    pdl_wait();                                                                  // y may be the previous grid's input
    const int m = wg * 64 + warp * 16 + (lane & 15);                             // ldmatrix: this lane's pixel
    const uint32_t be = sm + OFF_BE + rank * (NCH * HC * 2) + q * (HC / 8 * 4);
    const uint64_t dE = make_desc(sm + OFF_RING, HC / 8 * 128, 128), dP = make_desc(sm + OFF_RING, C / 8 * 128, 128);
    Ring rd = {0, 0};                                                            // first item of the current chunk
    int xb = 0;                                                                  // buffer of the tile
    uint32_t xphase = 0;
    auto acquire = [&](Ring r) { mbar_wait(wfull + 8 * r.slot, r.phase); return (uint64_t)(r.slot * (ITEM >> 4)); };
    auto release = [&](Ring r) { if ((tid & 127) == 0) mbar_arrive(wempty + 8 * r.slot); };
    for (int tile = first; tile < tiles; tile += step) {
      const uint32_t in = sm + OFF_TILE + xb * TILE;
      uint32_t a[C / 16][4];
      {  // ---- grouped 3x3 conv, straight into the A operand
        const int p = tile * BM + m, yy = p / W % H, xx = p % W, hi = lane >> 4;
        uint32_t la[5];
#pragma unroll
        for (int i = 0; i < 5; ++i) {                                            // taps (0|2,i), (1,0|1), (1,2)
          int dy = i < 3 ? (hi ? 1 : -1) : 0, dx = i < 3 ? i - 1 : i == 3 ? (hi ? 0 : -1) : 1;
          bool ok = (unsigned)(yy + dy) < (unsigned)H && (unsigned)(xx + dx) < (unsigned)W;
          int r = ok ? LEAD + m + dy * W + dx : LROWS;
          la[i] = in + r * ROW + swizzle(r);
        }
        mbar_wait(xfull + 8 * xb, xphase);
        // k16 = two taps of one group (the tenth tap is zero); four groups in flight
        const uint64_t dw = make_desc(sm + OFF_W1, 128, 128);
#pragma unroll
        for (int gb = 0; gb < G; gb += 4) {
          uint32_t f[4][5][4];
          float d[4][4];
#pragma unroll
          for (int u = 0; u < 4; ++u) {
            const uint32_t c = (gb + u) % SG * 16, h = (gb + u) / SG * PART;
#pragma unroll
            for (int i = 0; i < 4; ++i) ldsm4(f[u][i], (la[i] ^ c) + h);
            ldsm2(f[u][4][0], f[u][4][1], (la[4] ^ c) + h);
            f[u][4][2] = f[u][4][3] = 0;
          }
          wgmma_fence();
#pragma unroll
          for (int i = 0; i < 5; ++i)
#pragma unroll
            for (int u = 0; u < 4; ++u) Wgmma<8>::rs(d[u], f[u][i], dw + (((gb + u) * 5 + i) * 256 >> 4), i > 0);
          wgmma_commit();
          wgmma_wait<0>();
#pragma unroll
          for (int u = 0; u < 4; ++u) {
            a[(gb + u) >> 1][(u & 1) * 2 + 0] = pack2(d[u][0], d[u][1]);
            a[(gb + u) >> 1][(u & 1) * 2 + 1] = pack2(d[u][2], d[u][3]);
          }
        }
      }
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
        wgmma_wait<0>();
        release(rd);
#pragma unroll
        for (int j = 0; j < NCH; ++j) {
          Ring rp = rd; rp.next();                                               // P(j)
          rd = rp; rd.next();                                                    // E(j+1)
          silu_half<0>(s, pr[0], be + j * (HC * 2));                             // the second half of P(j-1) may still run
          off = acquire(rp);
          wgmma_fence();
          project_half(o, pr[0], dP + off, 0, j);
          wgmma_commit();
          if (j > 0) {
            wgmma_wait<1>();
            release(before);
          }
          silu_half<1>(s, pr[1], be + j * (HC * 2));                             // beside the first half of P(j)
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
            wgmma_wait<1>();                                                     // S(j+1) and the first half of P(j)
            release(rd);
          } else {
            wgmma_wait<0>();
            release(rp);
          }
          before = rp;
        }
      }
#else
      uint32_t pr[PB][HC / 16][4];
      if constexpr (PB == 1) {
        auto chunk = [&](int j, int acc) {
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
        chunk(0, 0);         // apart: with a constant 0 the accumulators are not alive before it, beside the conv's registers
#pragma unroll 1
        for (int j = 1; j < NCH; ++j) chunk(j, 1);
      } else {
        Ring prevp = rd;
        uint64_t off = acquire(rd);
        wgmma_fence();
        expand(s, a, dE + off);
        wgmma_commit();
        wgmma_wait<0>();
        release(rd);
#pragma unroll          // fully: ptxas serialises the wgmmas if pr is carried around a rolled loop
        for (int j = 0; j < NCH; ++j) {
          Ring rp = rd; rp.next();                                               // P(j)
          rd = rp; rd.next();                                                    // E(j+1)
          silu_chunk<HC / 16>(s, pr[j & 1], be + j * (HC * 2));   // O(j-1) may still run
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
            wgmma_wait<1>();                                                     // S(j+1) and O(j-1) complete
            if (j > 0) release(prevp);
            release(rd);
          } else {
            wgmma_wait<0>();
            if (j > 0) release(prevp);
            release(rp);
          }
          prevp = rp;
        }
      }
#endif
#if SPLIT > 1
      // ---- partial sums of the cluster: this block's into its shared memory, then a share of the columns from every block
      const int row = warp * 16 + (lane >> 2);
#pragma unroll
      for (int b = 0; b < G; ++b) {
        float* to = reinterpret_cast<float*>(smem + OFF_RING + row * PITCH_O + (b * 8 + q * 2) * 4);
        *reinterpret_cast<float2*>(to) = make_float2(o[4 * b], o[4 * b + 1]);
        *reinterpret_cast<float2*>(reinterpret_cast<unsigned char*>(to) + 8 * PITCH_O) = make_float2(o[4 * b + 2], o[4 * b + 3]);
      }
#else
      // ---- epilogue: + bias + residual in place (rows LEAD.. of the tile), then a TMA store for each slab
      const int r = LEAD + m;
      const uint32_t ctr = in + r * ROW + (swizzle(r) ^ (lane >> 4) * 16);
      uint4 bq;                                              // bias: half2, [q][C/8 blocks]
#pragma unroll
      for (int i = 0; i < C / 16; ++i) {
        uint32_t rx[4], ro[4], ad = (ctr ^ (i % (SLAB / 16) * 32)) + i / (SLAB / 16) * PART;
        if ((i & 1) == 0) bq = lds128(sm + OFF_BP + q * (C / 2) + i * 8);
        ldsm4(rx, ad);
#pragma unroll
        for (int h = 0; h < 4; ++h) {
          const uint32_t b = (&bq.x)[(i & 1) * 2 + (h >> 1)];
          ro[h] = add2(add2(pack2(o[8 * i + 2 * h], o[8 * i + 2 * h + 1]), b), rx[h]);
        }
        stsm4(ad, ro[0], ro[1], ro[2], ro[3]);
      }
      fence_async_proxy();
      bar_sync(1 + wg, 128);
      if ((tid & 127) == 0) {
        for (int h = 0; h < SLABS; ++h) tma_store2(&y_map, h * SLAB, tile * BM + wg * 64, in + (LEAD + wg * 64) * ROW + h * PART);
        bulk_commit();
        bulk_wait_read();
        mbar_arrive(xempty + 8 * xb);
      }
      if (++xb == NX) xb = 0, xphase ^= 1;
#endif
    }
    if (SPLIT == 1 && (tid & 127) == 0) bulk_wait_all();
  }
#if SPLIT > 1
  // one tile for each cluster (the launch makes as many as there are tiles)
  __syncwarp();
  cluster_arrive();
  cluster_wait();
  if (wg < NWG) {
    constexpr int PARTS = G / SPLIT;                         // blocks of 8 columns
    for (int i = tid; i < BM * PARTS; i += 128) {
      const int pixel = i / PARTS, g = rank * PARTS + i % PARTS, at = first * BM + pixel;
      float sum[8] = {0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f, 0.f};
#pragma unroll
      for (int from = 0; from < SPLIT; ++from) {
        const uint32_t there = map_rank(sm + OFF_RING + pixel * PITCH_O + g * 32, from);
        const float4 lo = lds_remote(there), hi = lds_remote(there + 16);
        sum[0] += lo.x; sum[1] += lo.y; sum[2] += lo.z; sum[3] += lo.w;
        sum[4] += hi.x; sum[5] += hi.y; sum[6] += hi.z; sum[7] += hi.w;
      }
      const int r = LEAD + pixel;
      const uint4 x = lds128(sm + OFF_TILE + g / SG * PART + r * ROW + (swizzle(r) ^ g % SG * 16));
      uint32_t out[4];
#pragma unroll
      for (int v = 0; v < 4; ++v) {                           // bias: half2, [q][C/8 blocks]
        const uint32_t b = *reinterpret_cast<const uint32_t*>(smem + OFF_BP + v * (C / 2) + g * 4);
        out[v] = add2(add2(pack2(sum[2 * v], sum[2 * v + 1]), b), (&x.x)[v]);
      }
      if (at < P) *reinterpret_cast<uint4*>(y + (size_t)at * C + g * 8) = make_uint4(out[0], out[1], out[2], out[3]);
    }
  }
  cluster_arrive();                                          // nobody leaves while others read
  cluster_wait();
#endif
}
