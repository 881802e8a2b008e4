// Fused ConvFirst residual block for Hopper (sm_90a), C = 128: as convfirst_c64.cu, for weights that do not fit in shared
// memory.
//
// A block (one per SM, persistent) owns tiles of 192 consecutive pixels of the flattened N*H*W index, so that images of
// any size fill it; three consumer warpgroups of 64 pixels and a producer warpgroup: warp 0 streams the weights (1-D bulk
// copies of 8 KB in the order of consumption, a ring of NS slots), warp 1 loads tile and halo rows by bulk tensor copies
// (128-byte swizzle) into two buffers.
// Conv: wgmma m64n8k16 per group, k16 = two taps x 8 channels, A by ldmatrix; taps outside of the image read a zero row
// (an address select per lane and tap instead of masking data).
// Expansion and projection: hidden chunks of 32, P double-buffered: silu(j+1) overlaps O(j).
// The epilogue overwrites the centre of the tile in place; every warpgroup has left its conv by then, because the weight
// ring (NS < items per tile) cannot run further ahead of the slowest warpgroup.
//
// Conditions: LEAD + 192 + TRAIL <= 256 rows of a box, hence W <= 31; N*H*W < 2^31. Constants: KERNEL_NAME, CHANNELS,
// EXPANSION, LEAD (rows before the tile: W + 1 rounded up to 8), TRAIL (rows after it: W + 1), RING_SLOTS, SHARED_BYTES.
#include "hopper.cuh"
#include "specialisation.h"

namespace stream {
constexpr int C = CHANNELS, HID = EXPANSION * C, G = C / 8, HC = 32, NCH = HID / HC, NWG = 3, BM = 64 * NWG, NH = C / 64;
constexpr int NS = RING_SLOTS;
constexpr int LROWS = LEAD + BM + TRAIL, ROWS = (LROWS + 8) / 8 * 8, HALF = ROWS * 128, TILE = NH * HALF;  // >= 1 zero row
constexpr int ITEM = C * HC * 2, ITEMS = 2 * NCH;
constexpr int OFF_TILE = 0, OFF_RING = 2 * TILE, OFF_W1 = OFF_RING + NS * ITEM, OFF_BE = OFF_W1 + G * 1280;
constexpr int OFF_BP = OFF_BE + HID * 2, OFF_BAR = OFF_BP + C * 4;
constexpr int SMEM = OFF_BAR + 8 * (2 * NS + 4);
constexpr int BLOB = OFF_BAR - OFF_W1;                       // conv weights and biases, copied once
static_assert(SMEM == SHARED_BYTES, "the launch reserves what the kernel lays out");
static_assert(NS < ITEMS, "a warpgroup may reach its epilogue before another has left its conv");

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
}  // namespace stream

extern "C" __global__ void __launch_bounds__(512, 1)
KERNEL_NAME(const __grid_constant__ TensorMap x_map, const __grid_constant__ TensorMap y_map,
            const unsigned char* __restrict__ wstream, const uint4* __restrict__ blob, int N, int H, int W) {
  using namespace stream;
  extern __shared__ __align__(1024) unsigned char smem[];
  const uint32_t sm = smem_u32(smem);
  int tid;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(tid));
  const int wg = __shfl_sync(~0u, tid >> 7, 0), warp = (tid >> 5) & 3, lane = tid & 31, q = lane & 3;
  const int P = N * H * W, tiles = (P + BM - 1) / BM;
  const uint32_t wfull = sm + OFF_BAR, wempty = wfull + 8 * NS, xfull = wempty + 8 * NS, xempty = xfull + 16;

  if (tid == 0) {
    for (int i = 0; i < NS; ++i) { mbar_init(wfull + 8 * i, 1); mbar_init(wempty + 8 * i, NWG); }
    for (int i = 0; i < 2; ++i) { mbar_init(xfull + 8 * i, 1); mbar_init(xempty + 8 * i, NWG); }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  pdl_launch();

  if (wg == NWG) {  // ------------------------------------------------------------------------------ producers
    asm volatile("setmaxnreg.dec.sync.aligned.u32 32;");
    if (warp == 0 && lane == 0) {
      Ring r = {0, 0};
      const int my = (tiles - (int)blockIdx.x + gridDim.x - 1) / gridDim.x;
      const int total = my * ITEMS;
      for (int n = 0, i = 0; n < total; ++n, r.next()) {
        mbar_wait(wempty + 8 * r.slot, r.phase ^ 1);
        mbar_expect(wfull + 8 * r.slot, ITEM);
        bulk_load(sm + OFF_RING + r.slot * ITEM, wstream + i * ITEM, ITEM, wfull + 8 * r.slot);
        if (++i == ITEMS) i = 0;
      }
    } else if (warp == 1 && lane == 0) {
      int n = 0;
      pdl_wait();
      for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x, ++n) {
        const int b = n & 1;
        mbar_wait(xempty + 8 * b, ((n >> 1) & 1) ^ 1);
        mbar_expect(xfull + 8 * b, NH * LROWS * 128);
        for (int h = 0; h < NH; ++h)
          tma_load2(sm + OFF_TILE + b * TILE + h * HALF, &x_map, h * 64, tile * BM - LEAD, xfull + 8 * b);
      }
    }
  } else {  // --------------------------------------------------------------------------------------- consumers
    asm volatile("setmaxnreg.inc.sync.aligned.u32 160;");
    for (int i = tid; i < BLOB / 16; i += 128 * NWG) cp_async16(sm + OFF_W1 + i * 16, blob + i, true);
    for (int i = tid; i < 2 * NH * (ROWS - LROWS) * 8; i += 128 * NWG) {        // zero rows of the tile buffers
      int r = i / ((ROWS - LROWS) * 8), k = i % ((ROWS - LROWS) * 8);
      *reinterpret_cast<uint4*>(smem + OFF_TILE + r * HALF + LROWS * 128 + k * 16) = make_uint4(0, 0, 0, 0);
    }
    cp_async_commit();
    cp_async_wait<0>();
    fence_async_proxy();                                                          // wgmma reads the conv weights
    bar_sync(8, 128 * NWG);
    pdl_wait();                                                                  // y may be the previous grid's input
    const int m = wg * 64 + warp * 16 + (lane & 15);                             // ldmatrix: this lane's pixel
    const uint32_t be = sm + OFF_BE + q * (HC / 8 * 4);
    const uint64_t dE = make_desc(sm + OFF_RING, HC / 8 * 128, 128), dP = make_desc(sm + OFF_RING, C / 8 * 128, 128);
    Ring rd = {0, 0};                                                            // first item of the current chunk
    int n = 0;                                                                   // tile count
    auto acquire = [&](Ring r) { mbar_wait(wfull + 8 * r.slot, r.phase); return (uint64_t)(r.slot * (ITEM >> 4)); };
    auto release = [&](Ring r) { if ((tid & 127) == 0) mbar_arrive(wempty + 8 * r.slot); };
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x, ++n) {
      const uint32_t in = sm + OFF_TILE + (n & 1) * TILE;
      uint32_t a[C / 16][4];
      {  // ---- grouped 3x3 conv, straight into the A operand
        const int p = tile * BM + m, yy = p / W % H, xx = p % W, hi = lane >> 4;
        uint32_t la[5];
#pragma unroll
        for (int i = 0; i < 5; ++i) {                                            // taps (0|2,i), (1,0|1), (1,2)
          int dy = i < 3 ? (hi ? 1 : -1) : 0, dx = i < 3 ? i - 1 : i == 3 ? (hi ? 0 : -1) : 1;
          bool ok = (unsigned)(yy + dy) < (unsigned)H && (unsigned)(xx + dx) < (unsigned)W;
          int r = ok ? LEAD + m + dy * W + dx : LROWS;
          la[i] = in + r * 128 + (r & 7) * 16;
        }
        mbar_wait(xfull + 8 * (n & 1), (n >> 1) & 1);
        // k16 = two taps of one group (the tenth tap is zero); four groups in flight
        const uint64_t dw = make_desc(sm + OFF_W1, 128, 128);
#pragma unroll
        for (int gb = 0; gb < G; gb += 4) {
          uint32_t f[4][5][4];
          float d[4][4];
#pragma unroll
          for (int u = 0; u < 4; ++u) {
            const uint32_t c = ((gb + u) & 7) * 16, h = (gb >> 3) * HALF;
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
      uint32_t pr[2][HC / 16][4];
      Ring prevp = rd;
      uint64_t off = acquire(rd);
      wgmma_fence();
      expand(s, a, dE + off);
      wgmma_commit();
      wgmma_wait<0>();
      release(rd);
#pragma unroll          // fully: ptxas serialises the wgmmas if pr is carried around a rolled loop
      for (int j = 0; j < NCH; ++j) {
        Ring rp = rd; rp.next();                                                 // P(j)
        rd = rp; rd.next();                                                      // E(j+1)
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
          wgmma_wait<1>();                                                       // S(j+1) and O(j-1) complete
          if (j > 0) release(prevp);
          release(rd);
        } else {
          wgmma_wait<0>();
          release(prevp);
          release(rp);
        }
        prevp = rp;
      }
      // ---- epilogue: + bias + residual in place (rows LEAD.. of the tile), then one TMA store per 64 channels
      const int r = LEAD + m;
      const uint32_t ctr = in + r * 128 + ((r & 7) ^ (lane >> 4)) * 16;
      uint4 bq;                                              // bias: half2, [q][C/8 blocks]
#pragma unroll
      for (int i = 0; i < C / 16; ++i) {
        uint32_t rx[4], ro[4], ad = (ctr ^ ((i & 3) * 32)) + (i >> 2) * HALF;
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
        for (int h = 0; h < NH; ++h) tma_store2(&y_map, h * 64, tile * BM + wg * 64, in + (LEAD + wg * 64) * 128 + h * HALF);
        bulk_commit();
        bulk_wait_read();
        mbar_arrive(xempty + 8 * (n & 1));
      }
    }
    if ((tid & 127) == 0) bulk_wait_all();
  }
}
