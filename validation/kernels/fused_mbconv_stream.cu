// Fused FusedMBConv residual block for Hopper (sm_90a): fp16 in and out, fp32 accumulation, NHWC, stride 1, inference.
//
//   h = silu(conv3x3(x, w1) + b1)              C -> eC, full convolution, zero padding
//   y = h @ Wp + bp + x                        eC -> C
//
// A block (one per SM, persistent) owns tiles of 64*NWG consecutive pixels of the flattened N*H*W index, so that images of
// any size fill it; NWG consumer warpgroups of 64 pixels and a producer warpgroup: warp 0 streams the weights (16 KB items in
// the order of consumption through a ring), warp 1 loads tile and halo rows by bulk tensor copies (128-byte swizzle).
// Organised like attention forward: for a chunk of HC hidden channels the convolution accumulates in registers over nine
// taps x C input channels, silu turns the accumulators into the A operand of the projection, and h never leaves the registers.
// A of the convolution comes from registers: ldmatrix reads the tile at the tap's shift, and a pixel whose tap lies outside
// of the image reads a zero row (an address select per lane and tap), so no pixel is padding and no matrix row is wasted.
// Fragments of the next item are read while the matrix unit works on this one.
// Every weight is used for the pixels of CLUSTER blocks: each block fetches its share of an item and multicasts it.
// SPLIT: for small batches the blocks of a cluster share one tile and each takes its part of the hidden channels; the
// partial sums meet through distributed shared memory.
//
// W1, b1 are multiplied by 1/2, because silu(2h) = h + h*tanh(h).
// Conditions: C of 64, 128, 256; N*H*W < 2^31. Constants: KERNEL_NAME, CHANNELS, EXPANSION, WARPGROUPS, CHUNK (hidden channels
// at a time), BATCH (input channels whose fragments are read at a time), LEAD (rows before the tile: W + 1 rounded up to 8), BOX and BOXES (rows of a bulk copy; together at least LEAD +
// 64*NWG + W + 1), BUFFERS (tiles in flight), RING_SLOTS, CLUSTER, SPLIT, REGISTERS (of a consumer), SHARED_BYTES.
#include "fused_mbconv.cuh"

namespace fmb {
constexpr int BM = 64 * NWG, MYHID = SPLIT ? HID / CLUSTER : HID, NCH = MYHID / HC;
constexpr int ITEM = 16384;
constexpr int KI = ITEM / 2 / HC, IC = 9 * C / KI;           // convolution: input channels of an item, items of a chunk
constexpr int KB = BATCH, BPI = KI / KB;                     // channels whose fragments are read together, batches of an item
constexpr int KP = ITEM / 2 / C, IP = HC / KP;               // projection: hidden channels of an item, items of a chunk
constexpr int ITEMS = NCH * (IC + IP);
constexpr int SHARES = SPLIT ? 1 : CLUSTER, SHARE = ITEM / SHARES;
constexpr int OFF_TILE = 0, OFF_RING = BUFFERS * TILE, OFF_BE = OFF_RING + NS * ITEM;
constexpr int OFF_BP = OFF_BE + HID * 2, OFF_BAR = OFF_BP + C * 2;
constexpr int SMEM = OFF_BAR + 8 * (2 * NS + 3 * BUFFERS);
constexpr int FINISHED = C / 8 / CLUSTER;          // blocks of eight columns that a block of a cluster finishes
using Shares = Sums<CLUSTER, FINISHED, 128 * NWG>;
// whether the tile, and what the ring holds of the last convolution, make room for the sums before the last projection
constexpr bool EARLY = BM * C * 4 <= BUFFERS * TILE + (ITEMS % NS == 0 ? (NS - IP) * ITEM : 0);
static_assert(SMEM <= SHARED_BYTES, "the launch reserves what the kernel lays out");
static_assert(!SPLIT || (BM * C * 4 <= OFF_BE && C / 8 % CLUSTER == 0 && 32 % FINISHED == 0), "the partial sums take the place of tile and ring");
static_assert(KI % 16 == 0 && KP % 16 == 0 && C % KI == 0 && 64 % KI == 0, "items hold whole k-steps of one slab");
}  // namespace fmb

extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(128 * (WARPGROUPS + 1), 1)
KERNEL_NAME(const __grid_constant__ TensorMap x_map, const __grid_constant__ TensorMap y_map,
            const unsigned char* __restrict__ wstream, const uint4* __restrict__ blob,
            const unsigned char* __restrict__ x, unsigned char* __restrict__ y, int N, int H, int W) {
  using namespace fmb;
  extern __shared__ __align__(1024) unsigned char smem[];
  const uint32_t sm = smem_u32(smem);
  const int tid = thread_index();
  const int wg = __shfl_sync(~0u, tid >> 7, 0), warp = (tid >> 5) & 3, lane = tid & 31, q = lane & 3;
  const int P = N * H * W, tiles = (P + BM - 1) / BM;
  const uint32_t wfull = sm + OFF_BAR, wempty = wfull + 8 * NS, xfull = wempty + 8 * NS, xempty = xfull + 8 * BUFFERS, left = xempty + 8 * BUFFERS;
  const int rank = CLUSTER > 1 ? (int)cluster_rank() : 0;
  // all blocks of a cluster take equally many tiles (beyond the last one: zeros in, nothing out)
  const int first = SPLIT ? blockIdx.x / CLUSTER : blockIdx.x - rank, step = SPLIT ? tiles : gridDim.x, own = SPLIT ? 0 : rank;

  if (tid == 0) {
    for (int i = 0; i < NS; ++i) { mbar_init(wfull + 8 * i, 1); mbar_init(wempty + 8 * i, NWG * SHARES); }
    for (int i = 0; i < BUFFERS; ++i) { mbar_init(xfull + 8 * i, 1); mbar_init(xempty + 8 * i, NWG); mbar_init(left + 8 * i, NWG); }
    mbar_init_fence();
  }
  if (CLUSTER > 1) { cluster_arrive(); cluster_wait(); } else __syncthreads();
  pdl_launch();

  if (wg == NWG) {  // ------------------------------------------------------------------------------ producers
    fewer_registers<24>();
    if (warp == 0 && lane == 0) {
      Ring r = {0, 0};
      const unsigned char* src = wstream + (SPLIT ? (size_t)rank * ITEMS * ITEM : (size_t)rank * SHARE);
      for (int tile = first; tile < tiles; tile += step)
        for (int i = 0; i < ITEMS; ++i, r.next()) {
          mbar_wait(wempty + 8 * r.slot, r.phase ^ 1);
          mbar_expect(wfull + 8 * r.slot, ITEM);
          if (SHARES > 1)
            bulk_load_multicast(sm + OFF_RING + r.slot * ITEM + rank * SHARE, src + (size_t)i * ITEM, SHARE, wfull + 8 * r.slot, (1 << CLUSTER) - 1);
          else
            bulk_load(sm + OFF_RING + r.slot * ITEM, src + (size_t)i * ITEM, ITEM, wfull + 8 * r.slot);
        }
    } else if (warp == 1 && lane == 0) {
      int n = 0;
      pdl_wait();
      for (int tile = first + own; tile - own < tiles; tile += step, ++n) {
        const int b = n % BUFFERS;
        mbar_wait(xempty + 8 * b, (n / BUFFERS & 1) ^ 1);
        mbar_expect(xfull + 8 * b, NH * LROWS * 128);
        for (int h = 0; h < NH; ++h)
          for (int i = 0; i < BOXES; ++i)
            tma_load2(sm + OFF_TILE + b * TILE + h * HALF + i * BOX * 128, &x_map, h * 64, tile * BM - LEAD + i * BOX, xfull + 8 * b);
      }
    }
    if (SPLIT) {
      __syncwarp();
      Shares::attend();
    }
  } else {  // --------------------------------------------------------------------------------------- consumers
    more_registers<REGISTERS>();
    fetch_biases<BUFFERS>(smem + OFF_TILE, sm + OFF_BE, blob, tid);
    pdl_wait();                                                                  // y may be the previous grid's input
    const int m = wg * 64 + warp * 16 + (lane & 15);                             // ldmatrix: this lane's pixel
    const uint32_t be = sm + OFF_BE + q * (HC / 8 * 4) + (SPLIT ? rank * MYHID * 2 : 0);
    const uint64_t dC = make_desc(sm + OFF_RING, HC / 8 * 128, 128), dP = make_desc(sm + OFF_RING, C / 8 * 128, 128);
    Ring rd = {0, 0};
    auto acquire = [&] { return item<ITEM>(wfull, rd); };
    auto release = [&](int slot) {
      if (SHARES > 1) {
        if ((tid & 127) < SHARES) mbar_arrive_remote(map_rank(wempty + 8 * slot, tid & 127));
      } else if ((tid & 127) == 0) mbar_arrive(wempty + 8 * slot);
    };
    int n = 0;
    for (int tile = first + own; tile - own < tiles; tile += step, ++n) {
      const int b = n % BUFFERS;
      const uint32_t in = sm + OFF_TILE + b * TILE;
      uint32_t inside = taps_inside(tile * BM + m, H, W);
      mbar_wait(xfull + 8 * b, n / BUFFERS & 1);
      float o[C / 2];
#pragma unroll 1
      for (int j = 0; j < NCH; ++j) {
        float s[HC / 2];
        uint32_t f[2][KB / 16][4], at = 0;
        auto fragments = [&](uint32_t (&a)[KB / 16][4], int i) {                 // batch i: tap, then input channels
          const int t = i / (C / KB), c = i % (C / KB) * KB;
          if (c == 0) {
            asm volatile("" : "+r"(inside));                                     // else ptxas keeps (spills) every address
            at = tap_address(in, inside, t, m, W, lane);
          }
#pragma unroll
          for (int k = 0; k < KB / 16; ++k) ldsm4(a[k], (at ^ ((c + 16 * k) % 64 * 2)) + (c + 16 * k) / 64 * HALF);
        };
        fragments(f[0], 0);
        int before = 0;
        uint64_t off = 0;
#pragma unroll
        for (int i = 0; i < IC * BPI; ++i) {
          if (i % BPI == 0) off = acquire();
          wgmma_fence();
#pragma unroll
          for (int k = 0; k < KB / 16; ++k)
            Wgmma<HC>::rs(s, f[i & 1][k], dC + off + (i % BPI * (KB / 16) + k) * (2 * HC / 8 * 128 >> 4), i + k > 0);
          wgmma_commit();
          if (i > 0) {
            wgmma_wait<1>();                                                     // batch i-1 is done
            if (i % BPI == 0) release(before);
          }
          if (i % BPI == BPI - 1) {
            before = rd.slot;
            rd.next();
          }
          if (i + 1 < IC * BPI) fragments(f[(i + 1) & 1], i + 1);
        }
        wgmma_wait<0>();
        release(before);
        if (j == NCH - 1 && (tid & 127) == 0) mbar_arrive(left + 8 * b);
        if (SPLIT && EARLY && j == NCH - 1) cluster_arrive_relaxed();               // this block no longer needs what the sums take the place of
        // ---- silu and projection, an item at a time
        const int slot = rd.slot;
        uint32_t p[HC / 16][4];
#pragma unroll
        for (int i = 0; i < IP; ++i) {
#pragma unroll
          for (int k = i * KP / 16; k < (i + 1) * KP / 16; ++k) silu_block(p[k], s + 8 * k, be + j * (HC * 2) + k * 8);
          off = acquire();
          wgmma_fence();
#pragma unroll
          for (int k = 0; k < KP / 16; ++k) Wgmma<C>::rs(o, p[i * KP / 16 + k], dP + off + k * (2 * C / 8 * 128 >> 4), (j > 0) | (i + k > 0));
          wgmma_commit();
          rd.next();
        }
        wgmma_wait<0>();
#pragma unroll
        for (int i = 0; i < IP; ++i) release(slot + i < NS ? slot + i : slot + i - NS);
      }
      if (SPLIT) {  // ---- partial sums in place of tile and ring; each block of the cluster finishes its share of the columns
        const int tid = thread_index(), lane = tid & 31, rank = cluster_rank();   // anew: ptxas would keep (spill) what follows
        const Shares sums = {sm + tid * 16, rank, 0};
        if (!EARLY) {
          bar_sync(8, 128 * NWG);
          cluster_arrive_relaxed();
        }
        cluster_wait();
        sums.give(o);
        cluster_arrive();
        cluster_wait();
        sums.add(lane);
        constexpr int AHEAD = Shares::TURNS < 4 ? Shares::TURNS : 4;             // 16 bytes of a pixel at a time: loads before the first use
#pragma unroll 1
        for (int from = lane; from < Shares::UNITS; from += AHEAD * 32) {
          uint4 xr[AHEAD];
          const int row = from / FINISHED, i = from % FINISHED, pixel = tile * BM + (tid >> 5) * 16 + row;
          constexpr int ROWS_OF = 32 / FINISHED;
#pragma unroll
          for (int h = 0; h < AHEAD; ++h)
            if (pixel + h * ROWS_OF < P) xr[h] = ldg128(x + ((size_t)(pixel + h * ROWS_OF) * (C / 8) + rank * FINISHED + i) * 16);
#pragma unroll
          for (int h = 0; h < AHEAD; ++h) {
            if (pixel + h * ROWS_OF >= P) continue;
            *reinterpret_cast<uint4*>(y + ((size_t)(pixel + h * ROWS_OF) * (C / 8) + rank * FINISHED + i) * 16) =
                sums.output(lane, row + h * ROWS_OF, i, sm + OFF_BP, xr[h]);
          }
        }
        break;                                                                   // one tile for each cluster
      } else {
        // ---- epilogue: + bias + residual in place (rows LEAD.. of the tile, once every warpgroup has left its convolution),
        // then one bulk store per 64 channels
        mbar_wait(left + 8 * b, n / BUFFERS & 1);
        const int r = LEAD + m;
        const uint32_t ctr = in + r * 128 + ((r & 7) ^ (lane >> 4)) * 16;
        uint4 bq;                                            // bias: half2, [q][C/8 blocks]
#pragma unroll
        for (int i = 0; i < C / 16; ++i) {
          uint32_t rx[4], ro[4], ad = (ctr ^ ((i & 3) * 32)) + (i >> 2) * HALF;
          if ((i & 1) == 0) bq = lds128(sm + OFF_BP + q * (C / 2) + i * 8);
          ldsm4(rx, ad);
#pragma unroll
          for (int h = 0; h < 4; ++h) {
            const uint32_t bias = (&bq.x)[(i & 1) * 2 + (h >> 1)];
            ro[h] = add2(add2(pack2(o[8 * i + 2 * h], o[8 * i + 2 * h + 1]), bias), rx[h]);
          }
          stsm4(ad, ro[0], ro[1], ro[2], ro[3]);
        }
        fence_async_proxy();
        bar_sync(1 + wg, 128);
        if ((tid & 127) == 0) {
          for (int h = 0; h < NH; ++h) tma_store2(&y_map, h * 64, tile * BM + wg * 64, in + (LEAD + wg * 64) * 128 + h * HALF);
          bulk_commit();
          bulk_wait_read();
          mbar_arrive(xempty + 8 * b);
        }
      }
    }
    if (!SPLIT && (tid & 127) == 0) bulk_wait_all();
  }
  if (CLUSTER > 1 && !SPLIT) { __syncwarp(); cluster_arrive(); cluster_wait(); }  // others may still write here
}
