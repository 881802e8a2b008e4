// Fused ConvNeXt residual block for Hopper (sm_90a): fp16 in and out, fp32 accumulation, NHWC, stride 1, inference.
//
//   a = depthwise7x7(x, wd) + bd               C -> C, zero padding
//   n = (a - mean(a)) / sqrt(var(a) + eps)     over channels
//   h = gelu(n @ We + be)                      C -> eC
//   y = h @ Wp + bp + x                        eC -> C
// The norm's scale and shift are folded into We, be and the layer scale into Wp, bp.
//
// A block (one per SM, persistent) walks groups of GROUP patches of 8x8 pixels, in three roles:
// - one warpgroup convolves on the matrix unit. For one channel, eight neighbouring outputs of a row are a product of their
//   fourteen inputs (k16) with a banded matrix of the filter's row (n8); the sixteen rows of mma.m16n8k16 are the rows of two
//   patches, and seven such products, one for each row of the filter, accumulate in fp32. A lane reads eight channels of a
//   pixel at once and sorts them by channel with byte permutations; 32 channels of the two halo tiles are in shared memory at a
//   time, twice (bulk tensor copies with 64-byte swizzle, zeros outside of the image).
//   k = 2q, 2q+1, 2q+8, 2q+9 stand for the inputs q, q+4, q+8, q+12 of a lane (q = lane mod 4): no bank conflicts.
// - WARPGROUPS warpgroups take a patch each: layer norm in registers, then expansion, gelu and projection like attention
//   forward (chunks of CHUNK hidden channels), so that neither n nor h leaves the register file; x is read again for the sum.
// - a thread streams the weights through a ring shared by these warpgroups.
// Patches are handed over in SLOTS of [64 pixels][C] with rows of 2C+16 bytes (no bank conflicts).
//
// We, be and Wp are scaled for gelu2 (convnext.cuh).
// Conditions: C a multiple of 32, H, W >= 1. Constants: KERNEL_NAME, CHANNELS, EXPANSION, WARPGROUPS, CHUNK, GROUP (1, 2), SLOTS,
// RING_SLOTS, WIDE (the filter table in the pairs that the matrix instruction takes, if there is room), REGISTERS (of the expanding warpgroups), CONV_REGISTERS, SHARED_BYTES.
#include "hopper.cuh"
#include "convnext.cuh"
#include "specialisation.h"

namespace cn {
constexpr int C = CHANNELS, HID = EXPANSION * C, HC = CHUNK, NCH = HID / HC, NWG = WARPGROUPS, NS = RING_SLOTS, NG = GROUP;
constexpr int SLABS = C / 32;
constexpr int PITCH = 2 * C + 16, SLOT = 64 * PITCH;
constexpr int ITEM = C * HC * 2, ITEMS = 2 * NCH;
constexpr int ENTRIES = WIDE ? 11 : 13, ENTRY = WIDE ? 16 : 8;             // of the filter table: places of a band, bytes for two channels
constexpr int TABLE = C / 2 * 7 * ENTRIES * ENTRY;
constexpr int OFF_X = 0, OFF_RING = 2 * NG * HALO_PLACE, OFF_SLOT = OFF_RING + NS * ITEM, OFF_TABLE = OFF_SLOT + SLOTS * SLOT;
constexpr int OFF_BD = OFF_TABLE + TABLE, OFF_BE = OFF_BD + C * 4, OFF_BP = OFF_BE + HID * 2, OFF_BAR = OFF_BP + C * 2;
constexpr int SMEM = OFF_BAR + 8 * (2 * NS + 2 * SLOTS + 2);
constexpr int BLOB = OFF_BAR - OFF_TABLE;
static_assert(SMEM == SHARED_BYTES, "the launch reserves what the kernel lays out");
static_assert(BLOB % 16 == 0 && OFF_RING % 128 == 0, "copied in 16 bytes");

using Ring = Position<NS>;
}  // namespace cn

extern "C" __global__ void __launch_bounds__(128 * (WARPGROUPS + 2), 1)
KERNEL_NAME(const __grid_constant__ TensorMap x_map, const unsigned char* __restrict__ wstream, const uint4* __restrict__ blob,
            const unsigned char* __restrict__ x, unsigned char* __restrict__ y, int N, int H, int W) {
  using namespace cn;
  extern __shared__ __align__(1024) unsigned char smem[];
  const uint32_t sm = smem_u32(smem);
  const int tid = thread_index();
  const int wg = __shfl_sync(~0u, tid >> 7, 0), warp = (tid >> 5) & 3, lane = tid & 31, q = lane & 3, g = lane >> 2;
  const int TX = (W + 7) / 8, TY = (H + 7) / 8, patches = TX * TY * N, groups = (patches + NG - 1) / NG;
  const int mine = (groups - (int)blockIdx.x + (int)gridDim.x - 1) / (int)gridDim.x, count = mine * NG;   // patches of this block
  const uint32_t wfull = sm + OFF_BAR, wempty = wfull + 8 * NS, sfull = wempty + 8 * NS, sempty = sfull + 8 * SLOTS, xfull = sempty + 8 * SLOTS;

  if (tid == 0) {
    for (int i = 0; i < NS; ++i) { mbar_init(wfull + 8 * i, 1); mbar_init(wempty + 8 * i, NWG); }
    for (int i = 0; i < SLOTS; ++i) { mbar_init(sfull + 8 * i, 128); mbar_init(sempty + 8 * i, 128); }
    for (int i = 0; i < 2; ++i) mbar_init(xfull + 8 * i, 1);
    mbar_init_fence();
  }
  for (int i = tid; i < BLOB / 16; i += blockDim.x) cp_async16(sm + OFF_TABLE + i * 16, blob + i, true);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  pdl_launch();

  if (wg == NWG + 1) {  // ---------------------------------------------------------------------------- weights
    fewer_registers<24>();
    if (warp == 0 && lane == 0) {
      Ring r = {0, 0};
      const int total = (count + NWG - 1) / NWG * ITEMS;
      for (int n = 0, i = 0; n < total; ++n, r.next()) {
        mbar_wait(wempty + 8 * r.slot, r.phase ^ 1);
        mbar_expect(wfull + 8 * r.slot, ITEM);
        bulk_load(sm + OFF_RING + r.slot * ITEM, wstream + i * ITEM, ITEM, wfull + 8 * r.slot);
        if (++i == ITEMS) i = 0;
      }
    }
  } else if (wg == NWG) {  // ------------------------------------------------------------------------ convolution
    more_registers<CONV_REGISTERS>();
    auto load = [&](int group, int slab, int buffer) {                           // by one thread
      mbar_expect(xfull + 8 * buffer, NG * HALO);
#pragma unroll 1
      for (int p = 0; p < NG; ++p) {
        const int t = group * NG + p, tx = t % TX, ty = t / TX % TY, n = t / TX / TY;
        tma_load4(sm + OFF_X + (buffer * NG + p) * HALO_PLACE, &x_map, slab * 32, tx * 8 - 3, ty * 8 - 3, n, xfull + 8 * buffer);
      }
    };
    // the slabs of all groups in a row: loaded two ahead of the convolution
    int ahead = 0, group1 = blockIdx.x, slab1 = 0;
    const int total = mine * SLABS;
    auto load_next = [&]() {
      if (ahead >= total) return;
      load(group1, slab1, ahead & 1);
      ++ahead;
      if (++slab1 == SLABS) { slab1 = 0; group1 += gridDim.x; }
    };
    if ((tid & 127) == 0) {
      pdl_wait();
      load_next();
      load_next();
    }
    const int r = row_of(g), pixel = r * 14 + q;                                 // of patch 0; matrix row g + 8 is patch 1's
    const uint32_t near = sm + OFF_TABLE + warp * 4 * (7 * ENTRIES * ENTRY) + (WIDE ? (q - g + 7) * 16 : (max(q - g, -5) + 5) * 8);
    const int farther = (min(q - g + 8, 7) - max(q - g, -5)) * 8;
    int slot0 = 0, done = 0;                                                     // the group's first slot, slabs convolved
    uint32_t sphase = 0;
    for (int it = 0; it < mine; ++it) {
      uint32_t to[NG];                                                           // this lane's row in the slots
#pragma unroll
      for (int p = 0; p < NG; ++p) {
        const bool wraps = slot0 + p >= SLOTS;
        const int s = wraps ? slot0 + p - SLOTS : slot0 + p;
        mbar_wait(sempty + 8 * s, sphase ^ 1 ^ wraps);
        to[p] = sm + OFF_SLOT + s * SLOT + (r * 8 + 2 * q) * PITCH + warp * 16;
      }
#pragma unroll 1
      for (int slab = 0; slab < SLABS; ++slab, ++done) {
        const int buffer = done & 1;
        uint32_t from[4], entry = near + slab * 16 * (7 * ENTRIES * ENTRY);     // by input row: the swizzle turns with it
#pragma unroll
        for (int i = 0; i < 4; ++i)
          from[i] = sm + OFF_X + buffer * NG * HALO_PLACE + pixel * 64 + ((warp ^ ((pixel >> 1) + 7 * i)) & 3) * 16;
        float d[8][4] = {};
        mbar_wait(xfull + 8 * buffer, done >> 1 & 1);
#pragma unroll
        for (int ky = 0; ky < 7; ++ky) {
          uint4 v[2][4];                                                         // patches; inputs q, q+4, q+8, q+12
#pragma unroll
          for (int h = 0; h < 2; ++h)
#pragma unroll
            for (int j = 0; j < 4; ++j)
              v[h][j] = h < NG && (j < 3 || q < 2) ? lds128(from[(ky + 2 * j) & 3] + h * HALO_PLACE + ky * 896 + j * 256) : make_uint4(0, 0, 0, 0);
#pragma unroll
          for (int c = 0; c < 4; ++c) {                                          // pairs of channels
            uint32_t even[4], odd[4];
            uint4 b;
            if (WIDE) b = lds128(entry + (c * 7 + ky) * (ENTRIES * ENTRY));
            else {
              lds64(b.x, b.z, entry + (c * 7 + ky) * (ENTRIES * ENTRY));
              lds64(b.y, b.w, entry + farther + (c * 7 + ky) * (ENTRIES * ENTRY));
            }
#pragma unroll
            for (int h = 0; h < 2; ++h)
#pragma unroll
              for (int j = 0; j < 2; ++j) {
                even[2 * j + h] = low_halves((&v[h][2 * j].x)[c], (&v[h][2 * j + 1].x)[c]);
                odd[2 * j + h] = high_halves((&v[h][2 * j].x)[c], (&v[h][2 * j + 1].x)[c]);
              }
            mma16816(d[2 * c], even, b.x, b.y);
            mma16816(d[2 * c + 1], odd, b.z, b.w);
          }
        }
        bar_sync(9, 128);                                                        // all have read the halo tiles
        if ((tid & 127) == 0) load_next();
        const uint32_t bd = sm + OFF_BD + (slab * 32 + warp * 8) * 4;
        const uint4 bl = lds128(bd), bh = lds128(bd + 16);
        float bias[8];
#pragma unroll
        for (int c = 0; c < 4; ++c) { bias[c] = __uint_as_float((&bl.x)[c]); bias[c + 4] = __uint_as_float((&bh.x)[c]); }
#pragma unroll
        for (int i = 0; i < 2 * NG; ++i) {                                       // pixels 2q, 2q+1 of row g of the patches
          uint32_t v[4];
#pragma unroll
          for (int c = 0; c < 4; ++c) v[c] = pack2(d[2 * c][i] + bias[2 * c], d[2 * c + 1][i] + bias[2 * c + 1]);
          sts128(to[i >> 1] + (i & 1) * PITCH + slab * 64, v);
        }
      }
#pragma unroll
      for (int s = slot0; s < slot0 + NG; ++s) mbar_arrive(sfull + 8 * (s < SLOTS ? s : s - SLOTS));
      slot0 += NG;
      if (slot0 >= SLOTS) { slot0 -= SLOTS; sphase ^= 1; }
    }
  } else {  // ------------------------------------------------------------------- norm, expansion, gelu, projection
    more_registers<REGISTERS>();
    pdl_wait();                                                                  // y may be the previous grid's input
    const uint32_t be = sm + OFF_BE + q * (HC / 8 * 4);
    const uint64_t dE = make_desc(sm + OFF_RING, HC / 8 * 128, 128), dP = make_desc(sm + OFF_RING, C / 8 * 128, 128);
    Ring rd = {0, 0};
    int it = 0;
    auto acquire = [&] { return item<ITEM>(wfull, rd); };
    auto release = [&](int slot) { if ((tid & 127) == 0) mbar_arrive(wempty + 8 * slot); };
    const int rounds = (count + NWG - 1) / NWG;
    for (; it < rounds; ++it) {
      const int s = it * NWG + wg, slot = s % SLOTS;
      if (s >= count) {                                                          // no patch left: let the others have the weights
        for (int i = 0; i < ITEMS; ++i, rd.next()) {
          mbar_wait(wfull + 8 * rd.slot, rd.phase);
          bar_sync(1 + wg, 128);                                                 // or a warp could fall behind by a whole ring, and wait for ever
          release(rd.slot);
        }
        continue;
      }
      const uint32_t base = sm + OFF_SLOT + slot * SLOT + warp * 16 * PITCH;     // this warp's sixteen pixels
      const uint32_t own = base + (lane & 15) * PITCH + (lane >> 4) * 16;
      mbar_wait(sfull + 8 * slot, s / SLOTS & 1);
      uint32_t a[C / 16][4];
#pragma unroll
      for (int k = 0; k < C / 16; ++k) ldsm4(a[k], own + k * 32);
      normalise(a);
      float sx[HC / 2], o[C / 2];
      uint32_t p[HC / 16][4];
      uint64_t off = acquire();
      int eslot = rd.slot, pslot = 0;
      rd.next();
      // 16 bytes of x and y that are this lane's after the projection: where they lie, if inside of the image
      int row0 = 0, column0 = 0, n = 0;
      uint4 residual[C / 16];
      auto locate = [&]() {
        const int t = ((int)blockIdx.x + s / NG * (int)gridDim.x) * NG + s % NG;
        column0 = t % TX * 8;
        row0 = t / TX % TY * 8 + warp * 2;
        n = t / TX / TY;
      };
      auto spot = [&](int i, size_t& at) {
        const int v = i * 32 + lane, yy = row0 + (v / (C / 8) >> 3), xx = column0 + (v / (C / 8) & 7);
        at = ((((size_t)n * H + yy) * W + xx) * C + v % (C / 8) * 8) * 2;
        return yy < H && xx < W && n < N;
      };
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < C / 16; ++k) Wgmma<HC>::rs(sx, a[k], dE + off + k * (2 * HC / 8 * 128 >> 4), k > 0);
      wgmma_commit();
#pragma unroll
      for (int j = 0; j < NCH; ++j) {
        wgmma_wait<0>();
        release(eslot);
        if (j > 0) release(pslot);
        if (j == NCH - 1) {                                                      // x for the sum, in the registers of A
          locate();
#pragma unroll
          for (int i = 0; i < C / 16; ++i) {
            size_t at;
            residual[i] = spot(i, at) ? __ldg(reinterpret_cast<const uint4*>(x + at)) : make_uint4(0, 0, 0, 0);
          }
        }
#pragma unroll
        for (int k = 0; k < HC / 16; ++k) gelu_block(p[k], sx + 8 * k, be + j * (HC * 2) + k * 8);
        off = acquire();
        pslot = rd.slot;
        rd.next();
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < HC / 16; ++k) Wgmma<C>::rs(o, p[k], dP + off + k * (2 * C / 8 * 128 >> 4), j + k > 0);
        if (j + 1 < NCH) {
          off = acquire();
          eslot = rd.slot;
          rd.next();
          wgmma_fence();
#pragma unroll
          for (int k = 0; k < C / 16; ++k) Wgmma<HC>::rs(sx, a[k], dE + off + k * (2 * HC / 8 * 128 >> 4), k > 0);
        }
        wgmma_commit();
      }
      wgmma_wait<0>();
      release(pslot);
      // ---- epilogue: + bias, through the slot to rows of 16 bytes per lane, + x, out
#pragma unroll
      for (int i = 0; i < C / 16; ++i) {
        uint32_t b0, b1;
        lds64(b0, b1, sm + OFF_BP + q * (C / 2) + i * 8);                        // half2, [q][C/8 blocks]
        stsm4(own + i * 32, add2(pack2(o[8 * i + 0], o[8 * i + 1]), b0), add2(pack2(o[8 * i + 2], o[8 * i + 3]), b0),
              add2(pack2(o[8 * i + 4], o[8 * i + 5]), b1), add2(pack2(o[8 * i + 6], o[8 * i + 7]), b1));
      }
      __syncwarp();
#pragma unroll
      for (int i = 0; i < C / 16; ++i) {
        const int v = i * 32 + lane;
        size_t at;
        uint4 u = lds128(base + v / (C / 8) * PITCH + v % (C / 8) * 16);
        u.x = add2(u.x, residual[i].x); u.y = add2(u.y, residual[i].y); u.z = add2(u.z, residual[i].z); u.w = add2(u.w, residual[i].w);
        if (spot(i, at)) *reinterpret_cast<uint4*>(y + at) = u;
      }
      mbar_arrive(sempty + 8 * slot);
    }
  }
}
