// Fused FusedMBConv residual block for Hopper (sm_90a), for few pixels: as fused_mbconv_stream.cu, with far more blocks for each pixel.
//
//   h = silu(conv3x3(x, w1) + b1)              C -> eC, full convolution, zero padding
//   y = h @ Wp + bp + x                        eC -> C
//
// A tile is 64 consecutive pixels of the flattened N*H*W index. The CLUSTER blocks of a cluster share it, each with its part of the
// hidden channels, and the warpgroups of a block share the block's part: each takes every WARPGROUPS-th item of the convolution's
// K (64 input channels of one tap). Their sums meet in shared memory; each turns all of them into the A operand of the projection
// by silu, and projects into its part of the output channels. The blocks' sums meet through distributed shared memory, added up in
// the order of the ranks. Every weight of a block is read once and used once, so the ring begins to fill before the grid before this
// one has ended.
//
// W1, b1 are multiplied by 1/2, because silu(2h) = h + h*tanh(h).
// Conditions: C of 64, 128, 256; N*H*W < 2^31. Constants: KERNEL_NAME, CHANNELS, EXPANSION, WARPGROUPS, CHUNK (hidden channels at a
// time), LEAD (rows before the tile: W + 1 rounded up to 8), BOX and BOXES (rows of a bulk copy; together at least LEAD + 64 + W + 1),
// RING_SLOTS, CLUSTER, SHARED_BYTES.
#include "fused_mbconv.cuh"

namespace fmb {
constexpr int BM = 64, NC = C / NWG, MYHID = HID / CLUSTER, NCH = MYHID / HC;
constexpr int ITEM = 64 * HC * 2;
constexpr int IC = (9 * NH + NWG - 1) / NWG * NWG;           // items of a chunk's convolution, as many for each warpgroup
constexpr int KP = ITEM / 2 / C, IP = HC / KP;               // projection: hidden channels of an item, items of a chunk
constexpr int ITEMS = NCH * (IC + IP);
constexpr int EXCHANGE = NWG * BM * HC * 4;                  // sums of the warpgroups: in place of the tile once it is not needed
constexpr bool OVER = NCH == 1 && EXCHANGE <= TILE;
constexpr int OFF_TILE = 0, OFF_RING = TILE, OFF_EX = OVER ? OFF_TILE : OFF_RING + NS * ITEM;
constexpr int OFF_BE = OFF_RING + NS * ITEM + (OVER ? 0 : EXCHANGE), OFF_BP = OFF_BE + HID * 2, OFF_BAR = OFF_BP + C * 2;
constexpr int SMEM = OFF_BAR + 8 * (2 * NS + 1);
using Shares = Sums<CLUSTER, C / 8 / CLUSTER, 128, NWG>;
constexpr int MINE = Shares::MINE;
// The sums take the place of the ring's first items of the last convolution, where none of the projection's lies among them
constexpr int PLACES = (BM * C * 4 + ITEM - 1) / ITEM;
__host__ __device__ constexpr bool early() {
  for (int i = ITEMS - IP; i < ITEMS; ++i)
    if (i % NS < PLACES) return false;
  return ITEMS >= NS && PLACES <= NS;
}
constexpr bool EARLY = early();
constexpr int OFF_SUMS = EARLY ? OFF_RING : OFF_TILE;
static_assert(SMEM == SHARED_BYTES, "the launch reserves what the kernel lays out");
static_assert(BM * C * 4 <= OFF_BE - OFF_SUMS && C % (8 * CLUSTER) == 0 && NWG == 2, "the partial sums take the place of tile and ring");
static_assert(KP % 16 == 0 && HC % KP == 0 && MYHID % HC == 0 && HID % CLUSTER == 0 && NS >= NWG, "whole items");
}  // namespace fmb

extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(128 * WARPGROUPS + 32, 1)
KERNEL_NAME(const __grid_constant__ TensorMap x_map, const unsigned char* __restrict__ wstream, const uint4* __restrict__ blob,
            const unsigned char* __restrict__ x, unsigned char* __restrict__ y, int N, int H, int W) {
  using namespace fmb;
  extern __shared__ __align__(1024) unsigned char smem[];
  const uint32_t sm = smem_u32(smem);
  const int tid = thread_index();
  const int wg = __shfl_sync(~0u, tid >> 7, 0), warp = (tid >> 5) & 3, lane = tid & 31, q = lane & 3;
  const int P = N * H * W, tile = blockIdx.x / CLUSTER, rank = CLUSTER > 1 ? (int)cluster_rank() : 0;
  const uint32_t wfull = sm + OFF_BAR, wempty = wfull + 8 * NS, xfull = wempty + 8 * NS;

  if (tid == 128 * NWG) {  // the producer: a thread of the last warp
    for (int i = 0; i < NS; ++i) { mbar_init(wfull + 8 * i, 1); mbar_init(wempty + 8 * i, NWG); }
    mbar_init(xfull, 1);
    mbar_init_fence();
  }
  __syncthreads();
  pdl_launch();

  if (wg == NWG) {
    if (lane == 0) {
      const unsigned char* src = wstream + (size_t)rank * ITEMS * ITEM;
      auto load = [&](int i, int slot) {
        mbar_expect(wfull + 8 * slot, ITEM);
        bulk_load(sm + OFF_RING + slot * ITEM, src + (size_t)i * ITEM, ITEM, wfull + 8 * slot);
      };
      int i = 0;
      for (; i < NS && i < ITEMS; ++i) load(i, i);
      for (int h = 0; h < NH; ++h)
        for (int b = 0; b < BOXES; ++b) tma_prefetch2(&x_map, h * 64, tile * BM - LEAD + b * BOX);
      pdl_wait();
      mbar_expect(xfull, NH * LROWS * 128);
      for (int h = 0; h < NH; ++h)
        for (int b = 0; b < BOXES; ++b)
          tma_load2(sm + OFF_TILE + h * HALF + b * BOX * 128, &x_map, h * 64, tile * BM - LEAD + b * BOX, xfull);
      Ring r = {0, 0};
      for (; i < ITEMS; ++i, r.next(1)) {
        mbar_wait(wempty + 8 * r.slot, r.phase);
        load(i, r.slot);
      }
    }
    __syncwarp();
    Shares::attend();
  } else {
    fetch_biases<1>(smem + OFF_TILE, sm + OFF_BE, blob, tid);
    const int m = warp * 16 + (lane & 15);                                       // ldmatrix: this lane's pixel
    const uint32_t be = sm + OFF_BE + q * (HC / 8 * 4) + rank * MYHID * 2;
    const uint64_t dC = make_desc(sm + OFF_RING, HC / 8 * 128, 128), dP = make_desc(sm + OFF_RING + wg * NC * 16, C / 8 * 128, 128);
    const uint32_t inside = taps_inside(tile * BM + m, H, W);
    auto fragments = [&](uint32_t (&a)[4][4], int i) {                           // item i: tap, then slab of 64 input channels
      const int t = i / NH, h = i % NH;                                          // beyond the last tap: zeros, with weights of zero
      const uint32_t at = tap_address(sm + OFF_TILE + h * HALF, inside, t, m, W, lane);
#pragma unroll
      for (int k = 0; k < 4; ++k) ldsm4(a[k], at ^ (k * 32));
    };
    Ring rd = {0, 0};                                                            // the first item of the chunk's convolution
    auto release = [&](int slot, int times) {
      if ((tid & 127) == 0) mbar_arrive(wempty + 8 * slot, times);
    };
    mbar_wait(xfull, 0);
    float o[NC / 2];
#pragma unroll 1
    for (int j = 0; j < NCH; ++j) {
      float s[HC / 2];
      {
        uint32_t f[2][4][4];
        Ring r = rd;
        r.next(wg);
        fragments(f[0], wg);
        int before = 0;
#pragma unroll
        for (int i = 0; i < IC / NWG; ++i) {
          const uint64_t off = item<ITEM>(wfull, r);
          wgmma_fence();
#pragma unroll
          for (int k = 0; k < 4; ++k) Wgmma<HC>::rs(s, f[i & 1][k], dC + off + k * (2 * HC / 8 * 128 >> 4), i + k > 0);
          wgmma_commit();
          if (i > 0) {
            wgmma_wait<1>();                                                     // the item before is done
            release(before, NWG);
          }
          before = r.slot;
          r.next(NWG);
          if (i + 1 < IC / NWG) fragments(f[(i + 1) & 1], (i + 1) * NWG + wg);
        }
        wgmma_wait<0>();
        release(before, NWG);
        rd.next(IC % NS);
        if (IC / NS & 1) rd.phase ^= 1;
      }
      // ---- the warpgroups' sums; each has all of them in the end
      if (NWG > 1) {
        float4* ex = reinterpret_cast<float4*>(smem + OFF_EX) + (tid & 127);
        bar_sync(8, 128 * NWG);                                                  // nobody reads the tile, or the last chunk's sums
        if (EARLY && j == NCH - 1) cluster_arrive_relaxed();                        // nor the last convolution's weights
#pragma unroll
        for (int i = 0; i < HC / 8; ++i) ex[(wg * (HC / 8) + i) * 128] = make_float4(s[4 * i], s[4 * i + 1], s[4 * i + 2], s[4 * i + 3]);
        bar_sync(8, 128 * NWG);
#pragma unroll
        for (int other = 1; other < NWG; ++other) {
          const int from = (wg + other) % NWG;
#pragma unroll
          for (int i = 0; i < HC / 8; ++i) {
            const float4 v = ex[(from * (HC / 8) + i) * 128];
            s[4 * i] += v.x; s[4 * i + 1] += v.y; s[4 * i + 2] += v.z; s[4 * i + 3] += v.w;
          }
        }
      }
      uint32_t p[HC / 16][4];
#pragma unroll
      for (int k = 0; k < HC / 16; ++k) silu_block(p[k], s + 8 * k, be + j * (HC * 2) + k * 8);
      // ---- projection into this warpgroup's columns
      uint64_t off[IP];
      Ring r = rd;
#pragma unroll
      for (int i = 0; i < IP; ++i, r.next(1)) off[i] = item<ITEM>(wfull, r);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < HC / 16; ++k)
        Wgmma<NC>::rs(o, p[k], dP + off[k / (KP / 16)] + k % (KP / 16) * (2 * C / 8 * 128 >> 4), (j > 0) | (k > 0));
      wgmma_commit();
      wgmma_wait<0>();
#pragma unroll
      for (int i = 0; i < IP; ++i, rd.next(1)) release(rd.slot, 1);
    }
    // ---- partial sums to the blocks that finish them; each a share of the columns
    const Shares sums = {sm + OFF_SUMS + (tid & 127) * 16, rank, wg};
    if (!EARLY) {
      bar_sync(8, 128 * NWG);
      cluster_arrive_relaxed();
    }
    cluster_wait();
    sums.give(o);
    pdl_wait();                                                                  // y may be the previous grid's input
    cluster_arrive();
    uint4 xr[Shares::TURNS];
    size_t at[Shares::TURNS];                                                    // of 16 bytes of a pixel
    bool there[Shares::TURNS];
#pragma unroll
    for (int turn = 0; turn < Shares::TURNS; ++turn) {
      const int u = turn * 32 + lane, pixel = tile * BM + warp * 16 + u / MINE;
      at[turn] = (size_t)pixel * (C * 2) + (sums.first() + u % MINE) * 16;
      there[turn] = u < Shares::UNITS && pixel < P && sums.finishes();
      if (there[turn]) xr[turn] = ldg128(x + at[turn]);
    }
    cluster_wait();
    if (sums.finishes()) sums.add(lane);
#pragma unroll
    for (int turn = 0; turn < Shares::TURNS; ++turn) {
      const int u = turn * 32 + lane, i = u % MINE;
      if (!there[turn]) continue;
      *reinterpret_cast<uint4*>(y + at[turn]) = sums.output(lane, u / MINE, i, sm + OFF_BP, xr[turn]);
    }
  }
}
