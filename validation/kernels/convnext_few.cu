// Fused ConvNeXt residual block for Hopper (sm_90a), 128 and 256 channels, for few pixels: as convnext_wide.cu, with far more blocks for
// each pixel.
//
// The CLUSTER blocks of a cluster share a patch of 8x8 pixels. Each convolves C / CLUSTER channels (the rows of the patch are eight of the
// sixteen rows of mma.m16n8k16) and lays them into its shared memory as A operands of the expansion, 16 bytes for each lane; each then
// gets all channels from all blocks, two warpgroups half of them each, normalises them and keeps them in registers.
// Of the hidden channels each block has its part, in chunks of 128: a warpgroup expands 64 of them, hands them to the other after gelu,
// and projects all 128 to half of the output channels. The blocks' sums meet through distributed shared memory (Sums). Every weight of a
// block is read once, so the ring begins to fill before the grid before this one has ended.
//
// Conditions: an image of less than 2^31 bytes. Constants: KERNEL_NAME, CHANNELS, EXPANSION, RING_SLOTS, CLUSTER, REGISTERS (of a consumer), SHARED_BYTES.
#include "hopper.cuh"
#include "convnext.cuh"
#include "specialisation.h"

namespace few {
constexpr int C = CHANNELS, HID = EXPANSION * C, HC = 128, HH = HC / 2, NWG = 2, NS = RING_SLOTS, NCH = HID / CLUSTER / HC;
constexpr int CB = C / CLUSTER, KB = C / 16;                 // channels that this block convolves; blocks of sixteen of all channels
constexpr int PW = CB < 64 ? CB / 16 : 4;                    // pairs of channels that a warp convolves at once
constexpr int STAGES = CB < 64 ? 1 : 2, ROUNDS = CB > 64 ? CB / 64 : 1;
constexpr int STAGE = HALO_PLACE + FILTERS_PLACE;             // of 32 channels
constexpr int ITEM = 16384, KI = ITEM / 2 / HC, IC = C / KI, KP = ITEM / 2 / C, IP = HC / KP, ITEMS = NCH * (IC + IP);
constexpr int SHIFTED = HC * 128 * (NCH > 1 ? 2 : 1), OPERANDS = C * 128 > SHIFTED ? C * 128 : SHIFTED;   // P takes the place of A
constexpr int OFF_X = 0, OFF_RING = STAGES * STAGE, OFF_CONV = OFF_RING + NS * ITEM, OFF_A = OFF_CONV + CB * 128, OFF_STAT = OFF_A + OPERANDS;
constexpr int OFF_BD = OFF_STAT + 2 * NWG * 64 * 4, OFF_BE = OFF_BD + C * 4, OFF_BP = OFF_BE + HID * 2, OFF_BAR = OFF_BP + C * 2;
constexpr int SMEM = OFF_BAR + 8 * (2 * NS + 2 * STAGES);
using Shares = Sums<CLUSTER, C / 8 / CLUSTER, 128, NWG>;
constexpr int MINE = Shares::MINE;
// The sums take the place of the last chunk's weights of the expansion, which are as many bytes, where these do not span the ring's end and
// none of the projection's comes there
constexpr int LAST = (NCH - 1) * (IC + IP) % NS;
constexpr bool EARLY = LAST + IC <= NS && IC + IP <= NS;
constexpr int OFF_SUMS = OFF_RING + (EARLY ? LAST * ITEM : 0);
static_assert(IC * ITEM == 64 * C * 4, "as many bytes");
static_assert(SMEM == SHARED_BYTES, "the launch reserves what the kernel lays out");
static_assert(NS * ITEM >= 64 * C * 4, "the partial sums take the place of the ring");
static_assert(NS >= IC && NS >= IP && IP % 2 == 0, "the items of a product are in the ring at once");
static_assert(HID % (CLUSTER * HC) == 0 && CB % 16 == 0 && C / 8 % (CLUSTER * NWG) == 0, "whole shares");

using Ring = Position<NS>;
// The place of a lane's 16 bytes in a fragment of the convolution's results: the warp that writes words of it meets a bank twice at most
__device__ __forceinline__ int place_of(int lane, int warp) { return lane ^ (lane >> 3 | (warp & 1) << 2); }
template <int PAIRS> struct Channels { uint32_t v[PAIRS]; };
template <int PAIRS> __device__ __forceinline__ Channels<PAIRS> channels(uint32_t a) {
  Channels<PAIRS> c;
  if constexpr (PAIRS == 4) {
    const uint4 v = lds128(a);
    c.v[0] = v.x; c.v[1] = v.y; c.v[2] = v.z; c.v[3] = v.w;
  } else if constexpr (PAIRS == 2) {
    lds64(c.v[0], c.v[1], a);
  } else {
    c.v[0] = lds32(a);
  }
  return c;
}
}  // namespace few

extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(384, 1)
KERNEL_NAME(const __grid_constant__ TensorMap x_map, const unsigned char* __restrict__ wstream, const unsigned char* __restrict__ filters,
            const uint4* __restrict__ blob, const unsigned char* __restrict__ x, unsigned char* __restrict__ y, int N, int H, int W) {
  using namespace few;
  extern __shared__ __align__(1024) unsigned char smem[];
  const uint32_t sm = smem_u32(smem);
  const int tid = thread_index();
  const int wg = __shfl_sync(~0u, tid >> 7, 0), warp = __shfl_sync(~0u, (tid >> 5) & 3, 0), lane = tid & 31, q = lane & 3, g = lane >> 2;
  const int rank = (int)cluster_rank(), patch = blockIdx.x / CLUSTER, TX = (W + 7) / 8, TY = (H + 7) / 8;
  const int column0 = patch % TX * 8, row0 = patch / TX % TY * 8, image = patch / TX / TY;
  const uint32_t wfull = sm + OFF_BAR, wempty = wfull + 8 * NS, xfull = wempty + 8 * NS, xempty = xfull + 8 * STAGES;

  if (tid == 128 * NWG) {  // the producer
    for (int i = 0; i < NS; ++i) { mbar_init(wfull + 8 * i, 1); mbar_init(wempty + 8 * i, NWG); }
    for (int i = 0; i < STAGES; ++i) { mbar_init(xfull + 8 * i, 1); mbar_init(xempty + 8 * i, 128); }
    mbar_init_fence();
  }
  __syncthreads();
  pdl_launch();

  if (wg == NWG) {  // ------------------------------------------------------------------------------ producer
    fewer_registers<24>();
    const bool loads = warp == 0 && lane == 0;
    Ring r = {0, 0};
    int i = 0;
    auto load = [&](int slot) {
      mbar_expect(wfull + 8 * slot, ITEM);
      bulk_load(sm + OFF_RING + slot * ITEM, wstream + (size_t)(rank * ITEMS + i) * ITEM, ITEM, wfull + 8 * slot);
    };
    if (loads) {
      auto slab = [&](int round, int stage) { return rank * CB / 32 + round * STAGES + stage; };
      auto table = [&](int round, int stage) {
        mbar_expect(xfull + 8 * stage, HALO + FILTERS);
        bulk_load(sm + OFF_X + stage * STAGE + HALO_PLACE, filters + slab(round, stage) * FILTERS, FILTERS, xfull + 8 * stage);
      };
      auto pixels = [&](int round, int stage) {
        tma_load4(sm + OFF_X + stage * STAGE, &x_map, slab(round, stage) * 32, column0 - 3, row0 - 3, image, xfull + 8 * stage);
      };
      for (int stage = 0; stage < STAGES; ++stage) {
        table(0, stage);
        tma_prefetch4(&x_map, slab(0, stage) * 32, column0 - 3, row0 - 3, image);
      }
      for (; i < NS && i < ITEMS; ++i) load(i);
      pdl_wait();
      for (int stage = 0; stage < STAGES; ++stage) pixels(0, stage);
      for (int round = 1; round < ROUNDS; ++round)
        for (int stage = 0; stage < STAGES; ++stage) {
          mbar_wait(xempty + 8 * stage, (round & 1) ^ 1);
          table(round, stage);
          pixels(round, stage);
        }
    }
    __syncwarp();
    cluster_arrive_relaxed();
    cluster_wait();                                                                // no place comes back before it; racecheck needs it here
    if (loads)
      for (; i < ITEMS; ++i, r.next()) {
        mbar_wait(wempty + 8 * r.slot, r.phase);
        load(r.slot);
      }
    __syncwarp();
    Shares::attend();
  } else {  // -------------------------------------------------------------------------------------- consumers
    more_registers<REGISTERS>();
    for (int i = tid; i < (C * 6 + HID * 2) / 16; i += 128 * NWG) cp_async16(sm + OFF_BD + i * 16, blob + i, true);
    cp_async_commit();
    cp_async_wait<0>();
    bar_sync(8, 128 * NWG);
    pdl_wait();                                                                  // y may be the previous grid's input
    // ---- depthwise convolution of this block's channels, PW pairs of them in a warp at a time
    {
      const int r = row_of(g), pixel = r * 14 + q;
#pragma unroll
      for (int round = 0; round < ROUNDS; ++round) {
        const int in_block = CB < 64 ? (tid >> 5) * PW : ((round * 2 + wg) * 4 + warp) * 4;   // pair of channels
        const int in_slab = (rank * CB / 2 + in_block) % 16, octet = in_slab >> 2, stage = CB < 64 ? 0 : wg;
        const uint32_t at = sm + OFF_X + stage * STAGE, table = at + HALO_PLACE + in_slab * (7 * FILTER_BAND);
        const uint32_t near = table + near_of(q, g), far = table + far_of(q, g);
        uint32_t from[4];
        halo_rows(from, at, pixel, octet, in_slab & 3);
        float d[2 * PW][4] = {};
        mbar_wait(xfull + 8 * stage, round & 1);
#pragma unroll
        for (int ky = 0; ky < 7; ++ky) {
          Channels<PW> v[4];                                                     // inputs q, q+4, q+8, q+12
#pragma unroll
          for (int j = 0; j < 4; ++j) v[j] = j < 3 || q < 2 ? channels<PW>(from[(ky + 2 * j) & 3] + ky * 896 + j * 256) : Channels<PW>{};
#pragma unroll
          for (int c = 0; c < PW; ++c) {
            const uint32_t even[4] = {low_halves(v[0].v[c], v[1].v[c]), 0, low_halves(v[2].v[c], v[3].v[c]), 0};
            const uint32_t odd[4] = {high_halves(v[0].v[c], v[1].v[c]), 0, high_halves(v[2].v[c], v[3].v[c]), 0};
            uint32_t b[4];
            band(b, near, far, c * 7 + ky);
            mma16816(d[2 * c], even, b[0], b[1]);
            mma16816(d[2 * c + 1], odd, b[2], b[3]);
          }
        }
        if (ROUNDS > 1) mbar_arrive(xempty + 8 * stage);
#pragma unroll
        for (int c = 0; c < PW; ++c) {                                           // pixels 2q, 2q+1 of row r
          const int pair = in_block + c;
          const uint2 bias = lds64(sm + OFF_BD + (rank * CB + 2 * pair) * 4);
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int to = place_of((2 * q + i) * 4 + (pair & 3), r >> 1);
            sts32(sm + OFF_CONV + ((pair >> 3) * 4 + (r >> 1)) * 512 + to * 16 + ((r & 1) + (pair >> 2 & 1) * 2) * 4,
                  pack2(d[2 * c][i] + __uint_as_float(bias.x), d[2 * c + 1][i] + __uint_as_float(bias.y)));
          }
        }
      }
    }
    cluster_arrive();
    cluster_wait();
    // ---- this warpgroup's half of all channels, from all blocks; layer norm
    uint32_t a[KB][4];
    {
      constexpr int KH = KB / 2;
      const uint32_t mine = place_of(lane, warp) * 16 + warp * 512;
#pragma unroll
      for (int j = 0; j < KH; ++j) {                                             // not all from one block at a time
        const int k = wg * KH + (j + rank) % KH;
        const float4 v = lds_remote(map_rank(sm + OFF_CONV + k % (CB / 16) * 2048 + mine, k / (CB / 16)));
        a[j][0] = __float_as_uint(v.x); a[j][1] = __float_as_uint(v.y); a[j][2] = __float_as_uint(v.z); a[j][3] = __float_as_uint(v.w);
      }
      auto all = [&](float (&v)[2], uint32_t stat) {                             // of rows g, g + 8: over four lanes, over both warpgroups
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          v[i] += __shfl_xor_sync(~0u, v[i], 1);
          v[i] += __shfl_xor_sync(~0u, v[i], 2);
          if (q == 0) sts32(stat + (wg * 64 + warp * 16 + g + 8 * i) * 4, __float_as_uint(v[i]));
        }
        bar_sync(8, 128 * NWG);
#pragma unroll
        for (int i = 0; i < 2; ++i) v[i] += __uint_as_float(lds32(stat + ((wg ^ 1) * 64 + warp * 16 + g + 8 * i) * 4));
      };
      constexpr float share = 1.f / C;
      float mean[2] = {}, scale[2] = {};
#pragma unroll
      for (int j = 0; j < KH; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 v = unpack2(a[j][i]);
          mean[i & 1] += v.x + v.y;
        }
      all(mean, sm + OFF_STAT);
      mean[0] *= share;
      mean[1] *= share;
#pragma unroll
      for (int j = 0; j < KH; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 v = unpack2(a[j][i]);
          scale[i & 1] = fmaf(v.x - mean[i & 1], v.x - mean[i & 1], scale[i & 1]);
          scale[i & 1] = fmaf(v.y - mean[i & 1], v.y - mean[i & 1], scale[i & 1]);
        }
      all(scale, sm + OFF_STAT + NWG * 256);
#pragma unroll
      for (int i = 0; i < 2; ++i) scale[i] = rsqrtf(scale[i] * share + 1e-6f);
#pragma unroll
      for (int j = 0; j < KH; ++j) {
        uint32_t n[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 v = unpack2(a[j][i]);
          n[i] = pack2((v.x - mean[i & 1]) * scale[i & 1], (v.y - mean[i & 1]) * scale[i & 1]);
        }
        sts128(sm + OFF_A + (wg * KH + (j + rank) % KH) * 2048 + warp * 512 + lane * 16, n);
      }
    }
    bar_sync(8, 128 * NWG);
#pragma unroll
    for (int k = 0; k < KB; ++k) {
      const uint4 v = lds128(sm + OFF_A + k * 2048 + warp * 512 + lane * 16);
      a[k][0] = v.x; a[k][1] = v.y; a[k][2] = v.z; a[k][3] = v.w;
    }
    bar_sync(8, 128 * NWG);                                                      // P may take the place of A
    // ---- expansion to this warpgroup's hidden channels, projection to its columns
    const uint64_t dE = make_desc(sm + OFF_RING + wg * HH * 16, HC / 8 * 128, 128);
    const uint64_t dP = make_desc(sm + OFF_RING + wg * (C / 2) * 16, C / 8 * 128, 128);
    auto release = [&](Ring r, int items) {
      if (ITEMS > NS && (tid & 127) == 0)
        for (int i = 0; i < items; ++i, r.next()) mbar_arrive(wempty + 8 * r.slot);
    };
    Ring rd = {0, 0};
    float o[C / 4];
#pragma unroll          // fully: NVRTC 13.0 gives the registers of `a`, which would live around a rolled loop, to other values in it
    for (int j = 0; j < NCH; ++j) {
      float s[HH / 2];
      Ring r = rd;
#pragma unroll
      for (int i = 0; i < IC; ++i, r.next()) {
        const uint64_t off = item<ITEM>(wfull, r);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < KI / 16; ++k) Wgmma<HH>::rs(s, a[i * KI / 16 + k], dE + off + k * (2 * HC / 8 * 128 >> 4), i + k > 0);
        wgmma_commit();
      }
      const uint32_t be = sm + OFF_BE + q * (HC / 8 * 4) + (rank * NCH + j) * (HC * 2) + wg * (HH / 16 * 8);
      const uint32_t shared = sm + OFF_A + (j & 1) * (HC * 128) + warp * 512 + lane * 16;
      wgmma_wait<0>();
      release(rd, IC);
      if (EARLY && j == NCH - 1) cluster_arrive_relaxed();
      uint32_t p[HH / 16][4];
#pragma unroll
      for (int k = 0; k < HH / 16; ++k) {
        gelu_block(p[k], s + 8 * k, be + k * 8);
        sts128(shared + (wg * (HH / 16) + k) * 2048, p[k]);
      }
      auto project = [&](uint32_t (&p)[HH / 16][4], int whose, bool more) {
        uint64_t off[IP / 2];
        Ring t = r;
        t.next(whose * (IP / 2));
#pragma unroll
        for (int i = 0; i < IP / 2; ++i, t.next()) off[i] = item<ITEM>(wfull, t);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < HH / 16; ++k)
          Wgmma<C / 2>::rs(o, p[k], dP + off[k / (KP / 16)] + k % (KP / 16) * (2 * C / 8 * 128 >> 4), more | (k > 0));
        wgmma_commit();
      };
      project(p, wg, j > 0);
      bar_sync(8, 128 * NWG);
      uint32_t others[HH / 16][4];
#pragma unroll
      for (int k = 0; k < HH / 16; ++k) {
        const uint4 v = lds128(shared + ((wg ^ 1) * (HH / 16) + k) * 2048);
        others[k][0] = v.x; others[k][1] = v.y; others[k][2] = v.z; others[k][3] = v.w;
      }
      project(others, wg ^ 1, true);
      wgmma_wait<0>();
      release(r, IP);
      rd = r;
      rd.next(IP);
    }
    // ---- partial sums to the blocks that finish them; each a share of the columns
    const Shares sums = {sm + OFF_SUMS + (tid & 127) * 16, rank, wg};
    if (!EARLY) {
      bar_sync(8, 128 * NWG);
      cluster_arrive_relaxed();
    }
    cluster_wait();
    sums.give(o);
    cluster_arrive();
    uint4 xr[Shares::TURNS];
    size_t at[Shares::TURNS];                                                    // of 16 bytes of a pixel
    bool inside[Shares::TURNS];
#pragma unroll
    for (int turn = 0; turn < Shares::TURNS; ++turn) {
      const int u = turn * 32 + lane, pixel = warp * 16 + u / MINE, yy = row0 + (pixel >> 3), xx = column0 + (pixel & 7);
      at[turn] = ((((size_t)image * H + yy) * W + xx) * C + (sums.first() + u % MINE) * 8) * 2;
      inside[turn] = u < Shares::UNITS && yy < H && xx < W;
      if (inside[turn]) xr[turn] = ldg128(x + at[turn]);
    }
    cluster_wait();
    sums.add(lane);
#pragma unroll
    for (int turn = 0; turn < Shares::TURNS; ++turn) {
      const int u = turn * 32 + lane, i = u % MINE;
      if (!inside[turn]) continue;
      *reinterpret_cast<uint4*>(y + at[turn]) = sums.output(lane, u / MINE, i, sm + OFF_BP, xr[turn]);
    }
  }
}
