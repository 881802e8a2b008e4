// Fused ConvNeXt residual block for Hopper (sm_90a), 256 channels: as convnext_patch.cu, for accumulators that leave no
// registers to a warpgroup of another role.
//
// A block owns tiles of two patches of 8x8 pixels. Two warpgroups first convolve both patches (each its slabs of 32 channels:
// the sixteen rows of mma.m16n8k16 are the rows of the two patches), then normalise one patch each in shared memory, then
// expand and project it like fused_mbconv_stream.cu: chunks of CHUNK hidden channels, A read again for every chunk, weights
// streamed through a ring by a producer warpgroup and multicast to the blocks of a cluster.
//
// Conditions: C a multiple of 128; an image of less than 2^31 bytes. Constants: KERNEL_NAME, CHANNELS, EXPANSION, CHUNK, BATCH (channels whose fragments are read
// at a time), RING_SLOTS, CLUSTER, REGISTERS (of a consumer), SHARED_BYTES.
#include "hopper.cuh"
#include "convnext.cuh"
#include "specialisation.h"

namespace cw {
constexpr int C = CHANNELS, HID = EXPANSION * C, HC = CHUNK, NWG = 2, BM = 128, NS = RING_SLOTS;
constexpr int NCH = HID / HC;
constexpr int SLABS = C / 32, STAGE = 2 * HALO_PLACE + FILTERS_PLACE;
constexpr int ROW = 2 * C + 16, SLOT = 64 * ROW;
constexpr int ITEM = 16384;
constexpr int KI = ITEM / 2 / HC, IC = C / KI, KB = BATCH, BPI = KI / KB;
constexpr int KP = ITEM / 2 / C, IP = HC / KP;
constexpr int ITEMS = NCH * (IC + IP), SHARE = ITEM / CLUSTER;
constexpr int OFF_X = 0, OFF_RING = 2 * STAGE, OFF_SLOT = OFF_RING + NS * ITEM, OFF_BD = OFF_SLOT + 2 * SLOT;
constexpr int OFF_BE = OFF_BD + C * 4, OFF_BP = OFF_BE + HID * 2, OFF_BAR = OFF_BP + C * 2;
constexpr int SMEM = OFF_BAR + 8 * (2 * NS + 4);
static_assert(SMEM == SHARED_BYTES, "the launch reserves what the kernel lays out");
static_assert(SLABS % 4 == 0 && KI % KB == 0 && KP % 16 == 0 && STAGE % 512 == 0, "items hold whole k-steps; the swizzle's period divides a stage");

using Ring = Position<NS>;
}  // namespace cw

extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(384, 1)
KERNEL_NAME(const __grid_constant__ TensorMap x_map, const unsigned char* __restrict__ wstream, const unsigned char* __restrict__ filters,
            const uint4* __restrict__ blob, const unsigned char* __restrict__ x, unsigned char* __restrict__ y, int N, int H, int W) {
  using namespace cw;
  extern __shared__ __align__(1024) unsigned char smem[];
  const uint32_t sm = smem_u32(smem);
  const int tid = thread_index();
  const int wg = __shfl_sync(~0u, tid >> 7, 0), warp = __shfl_sync(~0u, (tid >> 5) & 3, 0), lane = tid & 31, q = lane & 3, g = lane >> 2;
  const int TX = (W + 7) / 8, TY = (H + 7) / 8, tiles = (TX * TY * N + 1) / 2;
  const uint32_t wfull = sm + OFF_BAR, wempty = wfull + 8 * NS, xfull = wempty + 8 * NS, xempty = xfull + 16;
  const int rank = blockIdx.x % CLUSTER;                                         // of a cluster along x
  // all blocks of a cluster take equally many tiles (beyond the last one: zeros in, nothing out)
  const int first = blockIdx.x - rank, step = gridDim.x;

  if (tid == 0) {
    for (int i = 0; i < NS; ++i) { mbar_init(wfull + 8 * i, 1); mbar_init(wempty + 8 * i, NWG * CLUSTER); }
    for (int i = 0; i < 2; ++i) { mbar_init(xfull + 8 * i, 2); mbar_init(xempty + 8 * i, 128); }
    mbar_init_fence();
  }
  cluster_arrive();
  cluster_wait();
  pdl_launch();

  if (wg == NWG) {  // ------------------------------------------------------------------------------ producers
    fewer_registers<24>();
    if (warp == 0 && lane == 0) {
      Ring r = {0, 0};
      const unsigned char* src = wstream + rank * SHARE;
      for (int tile = first; tile < tiles; tile += step)
#pragma unroll 1
        for (int i = 0; i < ITEMS; ++i, r.next()) {
          mbar_wait(wempty + 8 * r.slot, r.phase ^ 1);
          mbar_expect(wfull + 8 * r.slot, ITEM);
          bulk_load_multicast(sm + OFF_RING + r.slot * ITEM + rank * SHARE, src + (size_t)i * ITEM, SHARE, wfull + 8 * r.slot, (1 << CLUSTER) - 1);
        }
    } else if ((warp == 1 || warp == 2) && lane == 0) {                          // a patch each
      int n = 0;
      pdl_wait();
      for (int tile = first + rank; tile - rank < tiles; tile += step) {
        const int t = tile * 2 + warp - 1, tx = t % TX, ty = t / TX % TY, image = t / TX / TY;
#pragma unroll 1
        for (int slab = 0; slab < SLABS; ++slab, ++n) {                          // to the two warpgroups in turn
          const int b = n & 1;
          mbar_wait(xempty + 8 * b, (n >> 1 & 1) ^ 1);
          mbar_expect(xfull + 8 * b, warp == 1 ? HALO + FILTERS : HALO);
          if (warp == 1) bulk_load(sm + OFF_X + b * STAGE + 2 * HALO_PLACE, filters + slab * FILTERS, FILTERS, xfull + 8 * b);
          tma_load4(sm + OFF_X + b * STAGE + (warp - 1) * HALO_PLACE, &x_map, slab * 32, tx * 8 - 3, ty * 8 - 3, image, xfull + 8 * b);
        }
      }
    }
  } else {  // --------------------------------------------------------------------------------------- consumers
    more_registers<REGISTERS>();
    for (int i = tid; i < (C * 6 + HID * 2) / 16; i += 128 * NWG) cp_async16(sm + OFF_BD + i * 16, blob + i, true);
    cp_async_commit();
    cp_async_wait<0>();
    bar_sync(8, 128 * NWG);
    pdl_wait();                                                                  // y may be the previous grid's input
    const uint64_t dE = make_desc(sm + OFF_RING, HC / 8 * 128, 128), dP = make_desc(sm + OFF_RING, C / 8 * 128, 128);
    const uint32_t row = sm + OFF_SLOT + (wg * 64 + warp * 16 + (lane & 15)) * ROW + (lane >> 4) * 16;   // of this lane for ldmatrix
    Ring rd = {0, 0};
    auto acquire = [&] { return item<ITEM>(wfull, rd); };
    auto release = [&](int slot) {
      if (const int l = lane_index(); warp == 0 && l < CLUSTER) mbar_arrive_remote(map_rank(wempty + 8 * slot, l));
    };
    auto more = [&](int tile) {                                                  // tile < tiles, reckoned anew
      const int columns = anew(W), rows = anew(H), images = anew(N);
      return 2 * (tile - rank) < (columns + 7) / 8 * ((rows + 7) / 8) * images;
    };
    for (int tile = first + rank; more(tile); tile += step) {
      // ---- depthwise convolution of both patches, 32 channels of them at a time
      {
        const int lane = lane_index(), q = lane & 3, g = lane >> 2;
        const int r = row_of(g), pixel = r * 14 + q;                             // of patch 0; matrix row g + 8 is patch 1's
        const uint32_t stage = sm + OFF_X + wg * STAGE;
        const uint32_t table = stage + 2 * HALO_PLACE + warp * 4 * (7 * FILTER_BAND);
        const uint32_t near = table + near_of(q, g), far = table + far_of(q, g);
        const uint32_t to = sm + OFF_SLOT + (r * 8 + 2 * q) * ROW + warp * 16;
#pragma unroll 1
        for (int slab = wg; slab < SLABS; slab += 2) {
          mbar_wait(xfull + 8 * wg, slab >> 1 & 1);                              // evenly many for each tile
          float d[8][4] = {};
          uint32_t from[4];
          halo_rows(from, stage, pixel, warp);
#pragma unroll
          for (int ky = 0; ky < 7; ++ky) {
            uint4 v[2][4];                                                       // patches; inputs q, q+4, q+8, q+12
#pragma unroll
            for (int h = 0; h < 2; ++h)
#pragma unroll
              for (int j = 0; j < 4; ++j)
                v[h][j] = j < 3 || q < 2 ? lds128(from[(ky + 2 * j) & 3] + h * HALO_PLACE + ky * 896 + j * 256) : make_uint4(0, 0, 0, 0);
#pragma unroll
            for (int c = 0; c < 4; ++c) {                                        // pairs of channels
              uint32_t even[4], odd[4], b[4];
#pragma unroll
              for (int h = 0; h < 2; ++h)
#pragma unroll
                for (int j = 0; j < 2; ++j) {
                  even[2 * j + h] = low_halves((&v[h][2 * j].x)[c], (&v[h][2 * j + 1].x)[c]);
                  odd[2 * j + h] = high_halves((&v[h][2 * j].x)[c], (&v[h][2 * j + 1].x)[c]);
                }
              band(b, near, far, c * 7 + ky);
              mma16816(d[2 * c], even, b[0], b[1]);
              mma16816(d[2 * c + 1], odd, b[2], b[3]);
            }
          }
          mbar_arrive(xempty + 8 * wg);
          const uint32_t bd = sm + OFF_BD + (slab * 32 + warp * 8) * 4;
          const uint4 bl = lds128(bd), bh = lds128(bd + 16);
          float bias[8];
#pragma unroll
          for (int c = 0; c < 4; ++c) { bias[c] = __uint_as_float((&bl.x)[c]); bias[c + 4] = __uint_as_float((&bh.x)[c]); }
#pragma unroll
          for (int i = 0; i < 4; ++i) {                                          // pixels 2q, 2q+1 of row g of the two patches
            uint32_t v[4];
#pragma unroll
            for (int c = 0; c < 4; ++c) v[c] = pack2(d[2 * c][i] + bias[2 * c], d[2 * c + 1][i] + bias[2 * c + 1]);
            sts128(to + (i >> 1) * SLOT + (i & 1) * ROW + slab * 64, v);
          }
        }
      }
      bar_sync(8, 128 * NWG);
      // ---- layer norm of this warp's pixels, in place
      normalise_in_place<C / 16>(row);
      __syncwarp();
      float o[C / 2] = {};                                                       // else ptxas holds its registers all the time
#pragma unroll 1
      for (int j = 0; j < NCH; ++j) {
        float s[HC / 2];
        uint32_t f[2][KB / 16][4];
        auto fragments = [&](uint32_t (&a)[KB / 16][4], int i) {
#pragma unroll
          for (int k = 0; k < KB / 16; ++k) ldsm4(a[k], row + (i * KB + 16 * k) * 2);
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
            Wgmma<HC>::rs(s, f[i & 1][k], dE + off + (i % BPI * (KB / 16) + k) * (2 * HC / 8 * 128 >> 4), i + k > 0);
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
        // ---- gelu and projection, an item at a time
        const int slot = rd.slot;
        const uint32_t be = sm + OFF_BE + (lane_index() & 3) * (HC / 8 * 4) + j * (HC * 2);
        uint32_t p[HC / 16][4];
#pragma unroll
        for (int i = 0; i < IP; ++i) {
#pragma unroll
          for (int k = i * KP / 16; k < (i + 1) * KP / 16; ++k) gelu_block(p[k], s + 8 * k, be + k * 8);
          off = acquire();
          wgmma_fence();
#pragma unroll
          for (int k = 0; k < KP / 16; ++k) Wgmma<C>::rs(o, p[i * KP / 16 + k], dP + off + k * (2 * C / 8 * 128 >> 4), 1);
          wgmma_commit();
          rd.next();
        }
        wgmma_wait<0>();
#pragma unroll
        for (int i = 0; i < IP; ++i) release(slot + i < NS ? slot + i : slot + i - NS);
      }
      // ---- + bias, through this warp's rows to 16 bytes for each lane, + x, out
      const int lane = lane_index(), q = lane & 3;
#pragma unroll
      for (int i = 0; i < C / 16; ++i) {
        uint32_t b0, b1;
        lds64(b0, b1, sm + OFF_BP + q * (C / 2) + i * 8);                      // half2, [q][C/8 blocks]
        stsm4(row + i * 32, add2(pack2(o[8 * i + 0], o[8 * i + 1]), b0), add2(pack2(o[8 * i + 2], o[8 * i + 3]), b0),
              add2(pack2(o[8 * i + 4], o[8 * i + 5]), b1), add2(pack2(o[8 * i + 6], o[8 * i + 7]), b1));
      }
      __syncwarp();
      const int columns = anew(W), rows = anew(H);                             // likewise
      const int across = (columns + 7) / 8, down = (rows + 7) / 8;
      const int t = tile * 2 + wg, row0 = t / across % down * 8 + warp * 2, column0 = t % across * 8, n = t / across / down;
      const size_t image = (size_t)n * H * W * C * 2;
#pragma unroll 1
      for (int part = 0; part < 4; ++part) {                                   // 16 bytes at a time: loads before the first use
        uint4 xr[C / 64];
        int at[C / 64];
#pragma unroll
        for (int i = 0; i < C / 64; ++i) {
          const int v = (part * (C / 64) + i) * 32 + lane, yy = row0 + (v / (C / 8) >> 3), xx = column0 + (v / (C / 8) & 7);
          at[i] = yy < H && xx < W && n < N ? ((yy * W + xx) * C + v % (C / 8) * 8) * 2 : -1;
          if (at[i] >= 0) xr[i] = __ldg(reinterpret_cast<const uint4*>(x + image + at[i]));
        }
#pragma unroll
        for (int i = 0; i < C / 64; ++i) {
          const int v = (part * (C / 64) + i) * 32 + lane;
          uint4 u = lds128(sm + OFF_SLOT + (wg * 64 + warp * 16 + v / (C / 8)) * ROW + v % (C / 8) * 16);
          u.x = add2(u.x, xr[i].x); u.y = add2(u.y, xr[i].y); u.z = add2(u.z, xr[i].z); u.w = add2(u.w, xr[i].w);
          if (at[i] >= 0) *reinterpret_cast<uint4*>(y + image + at[i]) = u;
        }
      }
      bar_sync(8, 128 * NWG);                                                    // both slots may be written again
    }
  }
  __syncwarp();
  cluster_arrive();                                                              // others may still write here
  cluster_wait();
}
