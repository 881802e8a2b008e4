// Fused ConvNeXt residual block for Hopper (sm_90a): fp16 in and out, fp32 accumulation, NHWC, stride 1, inference.
//
//   a = depthwise7x7(x, wd) + bd               C -> C, zero padding
//   n = (a - mean(a)) / sqrt(var(a) + eps)     over channels
//   h = gelu(n @ We + be)                      C -> eC
//   y = h @ Wp + bp + x                        eC -> C
// The norm's scale and shift are folded into We, be and the layer scale into Wp, bp.
//
// A block (one per SM, persistent) walks tiles of 8 x 16*ROWS pixels, a run of them that follow each other in the images, so that
// tiles with few patches (at the edges) are shared out evenly. In roles:
// - One warpgroup convolves on the matrix unit. For one channel, an octet (eight neighbouring outputs of a row) is a product of
//   its fourteen inputs (k16) with a banded matrix of the filter's row (n8). The sixteen rows of mma.m16n8k16 are octets of the
//   tile, and each of them accumulates ROWS octets one below the other, so that a row of inputs serves up to ROWS rows of outputs.
//   32 channels of the halo tile are in shared memory at a time (bulk tensor copy with 64-byte swizzle, zeros outside of the
//   image); warps bring eight channels each from pixels of eight channels to planes of one channel (ldmatrix transposed,
//   stmatrix), from which ldmatrix reads A as it is. Of B a lane needs one pair of weights: the other is zero.
// - WARPGROUPS warpgroups take a patch (eight octets) each: layer norm in registers, then expansion, gelu and projection like
//   attention forward (chunks of CHUNK hidden channels, the next one expanded before gelu), so that neither n nor h leaves the
//   register file; x is read again for the sum.
// - Weights: RESIDENT, there is room for them all; else they stream through a ring.
// Patches are handed over in SLOTS of [C][64 pixels], which ldmatrix reads transposed; y leaves through the same place. Octets
// change places by channel and slot, 16-byte pieces of y by pixel: no bank conflicts, no padding.
//
// We, be and Wp are scaled for gelu2 (convnext.cuh).
// Conditions: C = 64 or 128, at least two chunks, H, W >= 1. Constants: KERNEL_NAME, CHANNELS, EXPANSION, WARPGROUPS, CHUNK,
// ROWS (1, 2), OCTETS (side by side in a patch: 1, 2), SLOTS, RING_SLOTS, RESIDENT, CLUSTER (blocks that share streamed weights),
// REGISTERS (of the expanding warpgroups), CONV_REGISTERS, SHARED_BYTES.
#include "hopper.cuh"
#include "convnext.cuh"
#include "specialisation.h"


namespace cn {
constexpr int C = CHANNELS, HID = EXPANSION * C, HC = CHUNK, NCH = HID / HC, NWG = WARPGROUPS, NS = RING_SLOTS;
constexpr int R = ROWS, CH = 8 / R, XB = 2 * R, PC = OCTETS, PX = XB / PC;             // a tile: 8 rows of XB octets, PX x PC patches
constexpr int SLABS = C / 32, COLS = 8 * XB + 6, BLOCKS = XB + 1;          // a halo tile: 14 rows of COLS pixels, 32 channels of them
constexpr int LOAD = 14 * COLS * 64, RAW = (LOAD + 128 + 511) / 512 * 512;
constexpr int LINE = R == 1 ? 48 : 80, PLANE = 14 * LINE + 16;             // a channel of it, in bytes
constexpr int COLUMN = 128, SLOT = C * COLUMN;                             // a patch: channels of 64 pixels, then pixels of C channels
constexpr int ITEM = C * HC * 2, ITEMS = 2 * NCH, SHARE = ITEM / CLUSTER;
constexpr int BAND = 8 * 16, TABLE = C / 4 * 7 * BAND;                     // a row of four channels' filters: eight pairs of weights each
constexpr int OFF_X = 0, OFF_RING = RAW, OFF_PLANE = OFF_RING + NS * ITEM, OFF_SLOT = OFF_PLANE + 32 * PLANE;
constexpr int OFF_TABLE = OFF_SLOT + SLOTS * SLOT;
constexpr int OFF_BD = OFF_TABLE + TABLE, OFF_BE = OFF_BD + C * 16, OFF_BP = OFF_BE + HID * 2, OFF_BAR = OFF_BP + C * 2;
constexpr int OFF_HEAD = (OFF_BAR + 8 * (2 * NS + 2 * SLOTS + 1) + 15) / 16 * 16, SMEM = OFF_HEAD + 16 * SLOTS;
// by how much octets change places in a slot. A store reaches eight octets, and no two of them may lie in the same banks; where patches
// are two octets wide and ROWS is 1, these are four octets of each of two patches below each other, whose slots follow each other
__device__ __forceinline__ int turned(int slot) { return R == 1 && PC == 2 ? slot << 2 & 4 : slot & 7; }
constexpr int BLOB = OFF_BAR - OFF_TABLE;
static_assert(SMEM == SHARED_BYTES, "the launch reserves what the kernel lays out");
static_assert(C % 64 == 0 && 256 % C == 0 && OFF_SLOT % 256 == 0, "a warp's 16 bytes a lane are a part of a patch's row; pieces change places by bits of the address");
static_assert(BLOB % 16 == 0 && OFF_RING % 128 == 0, "copied in 16 bytes");
static_assert(!RESIDENT || NS == ITEMS, "resident: a place for every item");
static_assert(NCH > 1, "a chunk is expanded while the one before is projected");

constexpr int THREADS = 128 * (NWG + 2 - RESIDENT), LAUNCHED = 65536 / THREADS / 8 * 8;   // registers of a thread at launch
static_assert(NWG * REGISTERS + CONV_REGISTERS + (RESIDENT ? 0 : 24) <= THREADS / 128 * LAUNCHED, "more would be waited for for ever");
template <int COUNT> __device__ __forceinline__ void set_registers() {
  if constexpr (COUNT > LAUNCHED) more_registers<COUNT>();
  if constexpr (COUNT < LAUNCHED) fewer_registers<COUNT>();
}
using Ring = Position<NS>;
}  // namespace cn

extern "C" __global__ void
#if CLUSTER > 1
__cluster_dims__(CLUSTER, 1, 1)
#endif
__launch_bounds__(128 * (WARPGROUPS + 2 - RESIDENT), 1)
KERNEL_NAME(const __grid_constant__ TensorMap x_map, const unsigned char* __restrict__ wstream, const uint4* __restrict__ blob,
            const unsigned char* __restrict__ x, unsigned char* __restrict__ y, int N, int H, int W) {
  using namespace cn;
  extern __shared__ __align__(1024) unsigned char smem[];
  const uint32_t sm = smem_u32(smem);
  const int tid = thread_index();
  const int wg = __shfl_sync(~0u, tid >> 7, 0), warp = (tid >> 5) & 3, lane = tid & 31, q = lane & 3, g = lane >> 2;
  const int TX = (W + 8 * XB - 1) / (8 * XB), TY = (H + 7) / 8, tiles = TX * TY * N;
  const int across = (W + 8 * PC - 1) / (8 * PC), down = (H + 8 / PC - 1) / (8 / PC);   // patches of an image
  const int rank = blockIdx.x % CLUSTER;                                         // of a cluster, whose blocks take equally many weights
  const uint32_t wfull = sm + OFF_BAR, wempty = wfull + 8 * NS, sfull = wempty + 8 * NS, sempty = sfull + 8 * SLOTS, xfull = sempty + 8 * SLOTS;

  if (tid == 0) {
    for (int i = 0; i < NS; ++i) { mbar_init(wfull + 8 * i, 1); mbar_init(wempty + 8 * i, NWG * CLUSTER); }
    for (int i = 0; i < SLOTS; ++i) { mbar_init(sfull + 8 * i, 128); mbar_init(sempty + 8 * i, 128); }
    mbar_init(xfull, 1);
    mbar_init_fence();
  }
  for (int i = tid; i < BLOB / 16; i += blockDim.x) cp_async16(sm + OFF_TABLE + i * 16, blob + i, true);
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  if (CLUSTER > 1) { cluster_arrive(); cluster_wait(); }
  pdl_launch();
  auto patches_x = [&](int tx) { return min(PX, across - tx * PX); };            // of a tile, inside of the image
  auto patches_y = [&](int ty) { return min(PC, down - ty * PC); };
  const int share = tiles / (int)gridDim.x, longer = tiles % (int)gridDim.x;     // tiles of a block, blocks that take one more
  auto first_of = [&](int block) { return block * share + min(block, longer); };
  auto patches_before = [&](int t) {                                             // those of a tile come before those of the next tile
    const int tx = t % TX, ty = t / TX % TY;
    return t / TX / TY * (across * down) + ty * PC * across + tx * PX * patches_y(ty);
  };
  auto patches_of = [&](int block) { return patches_before(first_of(block + 1)) - patches_before(first_of(block)); };
  const int first = first_of(blockIdx.x), mine = first_of(blockIdx.x + 1) - first, count = patches_of(blockIdx.x);
  int most = count;
  for (int i = 1; i < CLUSTER; ++i) most = max(most, patches_of(blockIdx.x - rank + (rank + i) % CLUSTER));
  const int rounds = (most + NWG - 1) / NWG;

  if (!RESIDENT && wg == NWG + 1) {  // ---------------------------------------------------------------------------- weights
    set_registers<24>();
    if (warp == 0 && lane == 0) {
      Ring r = {0, 0};
      const int total = rounds * ITEMS;
      for (int n = 0, i = 0; n < total; ++n, r.next()) {
        mbar_wait(wempty + 8 * r.slot, r.phase ^ 1);
        mbar_expect(wfull + 8 * r.slot, ITEM);
        if (CLUSTER > 1)
          bulk_load_multicast(sm + OFF_RING + r.slot * ITEM + rank * SHARE, wstream + i * ITEM + rank * SHARE, SHARE, wfull + 8 * r.slot, (1 << CLUSTER) - 1);
        else
          bulk_load(sm + OFF_RING + r.slot * ITEM, wstream + i * ITEM, ITEM, wfull + 8 * r.slot);
        if (++i == ITEMS) i = 0;
      }
    }
  } else if (wg == NWG) {  // ------------------------------------------------------------------------ convolution
    set_registers<CONV_REGISTERS>();
    const int thread = tid & 127;
    if (RESIDENT && thread == 0)
      for (int i = 0; i < ITEMS; ++i) {
        mbar_expect(wfull + 8 * i, ITEM);
        bulk_load(sm + OFF_RING + i * ITEM, wstream + i * ITEM, ITEM, wfull + 8 * i);
      }
    struct Place {                                                               // of a tile
      int x, y, n;
      __device__ __forceinline__ void next(int TX, int TY) {
        if (++x == TX) { x = 0; if (++y == TY) { y = 0; ++n; } }
      }
    };
    const Place start = {first % TX, first / TX % TY, first / TX / TY};
    // the slabs of all tiles in a row, loaded ahead of the convolution
    Place tile1 = start;
    int slab1 = 0, left = mine * SLABS;
    auto load_next = [&]() {                                                     // by one thread
      if (--left < 0) return;
      mbar_expect(xfull, LOAD);
      tma_load4(sm + OFF_X, &x_map, slab1 * 32, tile1.x * (8 * XB) - 3, tile1.y * 8 - 3, tile1.n, xfull);
      if (++slab1 == SLABS) { slab1 = 0; tile1.next(TX, TY); }
    };
    if (thread == 0) {
      if (mine > 0)
        for (int slab = 0; slab < SLABS; ++slab) tma_prefetch4(&x_map, slab * 32, start.x * (8 * XB) - 3, start.y * 8 - 3, start.n);
      pdl_wait();
      load_next();
    }
    const int eight = lane & 7, quarter = lane >> 3;
    auto octet_of = [](int m) { return R == 1 ? m >> 3 : m & 3; };               // of row m of the matrix instruction
    auto row_of_m = [](int m) { return R == 1 ? m & 7 : (m >> 2 & 1) * 4 + (m >> 3) * 2; };         // and its first row
    const uint32_t planes = sm + OFF_PLANE + warp * 8 * PLANE;
    const uint32_t from = sm + OFF_X + (quarter * COLS + eight) * 64 + ((warp ^ ((quarter * COLS + eight) >> 1)) & 3) * 16;
    const uint32_t into = planes + eight * PLANE + quarter * LINE;
    const int m = (quarter & 1) * 8 + eight;
    const uint32_t rows = planes + row_of_m(m) * LINE + (octet_of(m) + (quarter >> 1)) * 16;
    // of B a lane has the weights at distances 2q-g and 2q-g+1 or, if these are before the filter, 8 more; the other two are zero
    const uint32_t weights = sm + OFF_TABLE + warp * 14 * BAND + (2 * q - g + 1 & 7) * 16;
    const bool upper = 2 * q - g < -1;
    const uint32_t biases = sm + OFF_BD + warp * 8 * 16;
    int slot0 = 0, done = 0;                                                     // the tile's first slot, slabs convolved
    uint32_t sphase = 0;
    Place tile = start;
    for (int i = 0; i < mine; ++i, tile.next(TX, TY)) {
      const int vx = patches_x(tile.x), valid = vx * patches_y(tile.y);
      uint32_t to[2];                                                            // where this lane's outputs go
      bool inside[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = row_of_m(g + 8 * h), x = octet_of(g + 8 * h);
        const int px = x / PC, py = PC == 2 ? row >> 2 : 0, s = slot0 + py * vx + px;
        inside[h] = px < vx && py * vx < valid;
        const int place = PC == 2 ? (x & 1) * 4 + (row & 3) : row, slot = s < SLOTS ? s : s - SLOTS;
        to[h] = sm + OFF_SLOT + slot * SLOT + (place ^ turned(slot)) * 16 + q * 4 + warp * 8 * COLUMN;
      }
#pragma unroll 1
      for (int slab = 0; slab < SLABS; ++slab, ++done) {
        mbar_wait(xfull, done & 1);
        // ---- pixels of eight channels to channels of eight pixels
        uint32_t v[2][BLOCKS][4];
        auto take = [&](int y) {                                                 // four rows
#pragma unroll
          for (int b = 0; b < BLOCKS; ++b) ldsm4_transposed(v[y / 4 % 2][b], from + (y * COLS + b * 8) * 64);
        };
        auto put = [&](int y) {
#pragma unroll
          for (int i = 0; i < 4; ++i) v[y / 4 % 2][BLOCKS - 1][i] = q == 3 ? 0 : v[y / 4 % 2][BLOCKS - 1][i];   // outside of the halo tile
#pragma unroll
          for (int b = 0; b < BLOCKS; ++b) {
            const uint32_t(&u)[4] = v[y / 4 % 2][b];
            stsm4(into + y * LINE + b * 16, u[0], u[1], u[2], u[3]);
          }
        };
        uint32_t last[BLOCKS][2];                                                // two rows
        take(0);
        take(4);
        put(0);
        take(8);
        put(4);
#pragma unroll
        for (int b = 0; b < BLOCKS; ++b) ldsm2_transposed(last[b], from + (12 * COLS + b * 8) * 64);
        put(8);
#pragma unroll
        for (int i = 0; i < 2; ++i) last[BLOCKS - 1][i] = q == 3 ? 0 : last[BLOCKS - 1][i];
#pragma unroll
        for (int b = 0; b < BLOCKS; ++b) stsm2(into + 12 * LINE + b * 16, last[b][0], last[b][1]);
        bar_sync(9, 128);                                                        // all have read the halo tile
        if (thread == 0) load_next();
        if (slab == 0) {                                                         // the tile's slots
#pragma unroll
          for (int v = 0; v < XB; ++v) {
            const bool wraps = slot0 + v >= SLOTS;
            if (v < valid) mbar_wait(sempty + 8 * (wraps ? slot0 + v - SLOTS : slot0 + v), sphase ^ 1 ^ wraps);
          }
          if (thread < valid) {                                                 // where in the images a slot's patch begins, what of them is left there
            const int v = thread, s = slot0 + v, py = PC == 2 && v >= vx;
            const int row = tile.y * 8 + py * (8 / PC), column = tile.x * (8 * XB) + (v - py * vx) * (8 * PC);
            const uint32_t head[4] = {(uint32_t)((tile.n * H + row) * W + column), (uint32_t)(H - row), (uint32_t)(W - column), 0};
            sts128(sm + OFF_HEAD + 16 * (s < SLOTS ? s : s - SLOTS), head);
          }
        }
#pragma unroll 1
        for (int c0 = 0; c0 < 8; c0 += CH) {
          float d[CH][R][4];
          uint32_t w[R][CH];                                                     // rows of the filters, the last R of them
#pragma unroll
          for (int y = 0; y < R + 6; ++y) {
            if (y < 7)
#pragma unroll
              for (int c = 0; c < CH; c += 4) {
                const uint4 v = lds128(weights + ((slab * 8 + (c0 + c) / 4) * 7 + y) * BAND);
#pragma unroll
                for (int e = 0; e < 4; ++e) w[y % R][c + e] = (&v.x)[e];
              }
            uint32_t a[CH][4];
#pragma unroll
            for (int c = 0; c < CH; ++c) ldsm4(a[c], rows + (c0 + c) * PLANE + y * LINE);
#pragma unroll
            for (int i = 0; i < R; ++i)
              if (y - i >= 0 && y - i < 7)
#pragma unroll
                for (int c = 0; c < CH; ++c) {
                  const uint32_t v = w[(y - i) % R][c];
                  if (y == i) {                                                  // the bias, four times
                    const uint4 b = lds128(biases + (slab * 32 + c0 + c) * 16);
#pragma unroll
                    for (int e = 0; e < 4; ++e) d[c][i][e] = __uint_as_float((&b.x)[e]);
                  }
                  mma16816(d[c][i], a[c], upper ? 0 : v, upper ? v : 0);
                }
          }
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const uint32_t into = (to[h] ^ c0 * 16) + (slab * 32 + c0) * COLUMN;  // c0 is a multiple of CH: the place changes by c ^ i
#pragma unroll
            for (int c = 0; c < CH; ++c)
#pragma unroll
              for (int i = 0; i < R; ++i) sts32_if(inside[h], (into ^ (c ^ i) * 16) + c * COLUMN, pack2(d[c][i][2 * h], d[c][i][2 * h + 1]));
          }
        }
        __syncwarp();                                                            // before the planes are written again
      }
#pragma unroll
      for (int v = 0; v < XB; ++v) {
        const int s = slot0 + v;
        if (v < valid) mbar_arrive(sfull + 8 * (s < SLOTS ? s : s - SLOTS));
      }
      slot0 += valid;
      if (slot0 >= SLOTS) { slot0 -= SLOTS; sphase ^= 1; }
    }
  } else {  // ------------------------------------------------------------------- norm, expansion, gelu, projection
    set_registers<REGISTERS>();
    pdl_wait();                                                                  // y may be the previous grid's input
    const uint32_t be = sm + OFF_BE + q * (HC / 8 * 4);
    const uint64_t dE = make_desc(sm + OFF_RING, HC / 8 * 128, 128), dP = make_desc(sm + OFF_RING, C / 8 * 128, 128);
    Ring rd = {0, 0};
    int it = 0, eplace[2], pplace[2];                                            // places of items that are worked on
    // an item's place in descriptors: uniform, yet opaque, or ptxas keeps (spills) the descriptors of all items
    uint64_t dbase = 0;
    auto acquire = [&](int item, int& place) {
      place = RESIDENT ? item : rd.slot;
      if (RESIDENT) return dbase + item * (ITEM >> 4);
      mbar_wait(wfull + 8 * place, rd.phase);
      rd.next();
      return (uint64_t)__shfl_sync(~0u, place * (ITEM >> 4), 0);
    };
    auto release = [&](int place) {
      if (RESIDENT) return;
      if (CLUSTER > 1) {
        if (warp == 0 && lane < CLUSTER) mbar_arrive_remote(map_rank(wempty + 8 * place, lane));
      } else if ((tid & 127) == 0) mbar_arrive(wempty + 8 * place);
    };
    const uint32_t column = sm + OFF_SLOT + (lane >> 4) * 8 * COLUMN + (lane & 7) * COLUMN + (warp * 2 + (lane >> 3 & 1) ^ lane & 7) * 16;
    if (RESIDENT)
      for (int i = 0; i < ITEMS; ++i) mbar_wait(wfull + 8 * i, 0);
    const int own = (count - wg + NWG - 1) / NWG;                                 // patches of this warpgroup
    int slot = wg;
    uint32_t sphase = 0;
    for (; it < own; ++it) {
      const uint32_t base = sm + OFF_SLOT + slot * SLOT + warp * 16 * (2 * C);   // this warp's sixteen pixels
      mbar_wait(sfull + 8 * slot, sphase);
      dbase = RESIDENT ? (uint64_t)__shfl_sync(~0u, 0, 0) : 0;
      uint32_t a[C / 16][4];
#pragma unroll
      for (int k = 0; k < C / 16; ++k) ldsm4_transposed(a[k], (column ^ turned(slot) * 16) + slot * SLOT + k * 16 * COLUMN);
      bar_sync(1 + wg, 128);                                                     // before rows of y take the place of the columns
      normalise_by_matrix(a, lane);
      float sx[2][HC / 2], o[C / 2];
      uint32_t p[2][HC / 16][4];
      // 16 bytes of x and y that are this lane's after the projection: where they lie, if inside of the image
      size_t first_at = 0;
      int rows_left = 0, columns_left = 0;
      uint4 residual[C / 16];
      auto locate = [&]() {
        const uint4 head = lds128(sm + OFF_HEAD + 16 * slot);
        const int row = (PC == 2 ? warp & 1 : warp) * 2, column = (PC == 2 ? (warp >> 1) * 8 : 0) + lane / (C / 8);
        first_at = ((size_t)(head.x + row * W + column) * C + lane % (C / 8) * 8) * 2;
        rows_left = head.y - row;
        columns_left = head.z - column;
      };
      auto spot = [&](int i, size_t& at) {
        const int yy = i * (256 / C) / 8, xx = i * (256 / C) % 8;
        at = first_at + yy * ((size_t)W * C * 2) + xx * C * 2;
        return yy < rows_left && xx < columns_left;
      };
      auto expand = [&](int j) {
        const uint64_t off = acquire(j < 2 ? j : 2 * j - 1, eplace[j & 1]);      // the next chunk's expansion before this one's projection
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < C / 16; ++k) Wgmma<HC>::rs(sx[j & 1], a[k], dE + off + k * (2 * HC / 8 * 128 >> 4), k > 0);
      };
      expand(0);
      wgmma_commit();
#pragma unroll
      for (int j = 0; j < NCH; ++j) {
        uint32_t bias[HC / 16][2];
#pragma unroll
        for (int k = 0; k < HC / 16; ++k) lds64(bias[k][0], bias[k][1], be + j * (HC * 2) + k * 8);
        if (j + 1 < NCH) {
          expand(j + 1);
          wgmma_commit();
        }
        if (j == 0 || j == NCH - 1) wgmma_wait<1>();
        else wgmma_wait<2>();
        release(eplace[j & 1]);
        if (j > 1) release(pplace[j & 1]);
        if (j == NCH - 1) {                                                      // x for the sum, in the registers of A
          locate();
#pragma unroll
          for (int i = 0; i < C / 16; ++i) {
            size_t at;
            residual[i] = spot(i, at) ? __ldg(reinterpret_cast<const uint4*>(x + at)) : make_uint4(0, 0, 0, 0);
          }
        }
        const uint64_t off = acquire(j < NCH - 1 ? 2 * j + 2 : 2 * j + 1, pplace[j & 1]);
        float(&s_)[HC / 2] = sx[j & 1];
        uint32_t(&p_)[HC / 16][4] = p[j & 1];
#pragma unroll
        for (int k = 0; k < HC / 16; ++k) gelu_block(p_[k], s_ + 8 * k, bias[k][0], bias[k][1]);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < HC / 16; ++k) Wgmma<C>::rs(o, p_[k], dP + off + k * (2 * C / 8 * 128 >> 4), j + k > 0);
        wgmma_commit();
      }
      uint32_t bp[C / 16][2];
#pragma unroll
      for (int i = 0; i < C / 16; ++i) lds64(bp[i][0], bp[i][1], sm + OFF_BP + q * (C / 2) + i * 8);   // half2, [q][C/8 blocks]
      wgmma_wait<0>();
      release(pplace[NCH & 1]);
      release(pplace[(NCH - 1) & 1]);
      // ---- epilogue: + bias, through the slot to rows of 16 bytes per lane, + x, out
      const int pixel = lane / (C / 8), piece = lane % (C / 8);
      const uint32_t in = base + (lane & 15) * (2 * C) + (lane >> 4 ^ lane & 7) * 16, out = base + pixel * (2 * C) + (piece ^ pixel) * 16;
#pragma unroll
      for (int i = 0; i < C / 16; ++i)
        stsm4(in ^ i * 32, add2(pack2(o[8 * i + 0], o[8 * i + 1]), bp[i][0]), add2(pack2(o[8 * i + 2], o[8 * i + 3]), bp[i][0]),
              add2(pack2(o[8 * i + 4], o[8 * i + 5]), bp[i][1]), add2(pack2(o[8 * i + 6], o[8 * i + 7]), bp[i][1]));
      locate();                                                                  // again, rather than held
      __syncwarp();
#pragma unroll
      for (int i = 0; i < C / 16; ++i) {
        size_t at;
        uint4 u = lds128(out + i * 512 ^ i * (256 / C) % 8 * 16);
        u.x = add2(u.x, residual[i].x); u.y = add2(u.y, residual[i].y); u.z = add2(u.z, residual[i].z); u.w = add2(u.w, residual[i].w);
        if (spot(i, at)) *reinterpret_cast<uint4*>(y + at) = u;
      }
      mbar_arrive(sempty + 8 * slot);
      slot += NWG;
      if (slot >= SLOTS) { slot -= SLOTS; sphase ^= 1; }
    }
    for (; it < rounds && !RESIDENT; ++it)                                       // let the others have the weights
      for (int i = 0; i < ITEMS; ++i, rd.next()) {
        mbar_wait(wfull + 8 * rd.slot, rd.phase);
        bar_sync(1 + wg, 128);                                                   // or a warp could fall behind by a whole ring, and wait for ever
        release(rd.slot);
      }
  }
  if (CLUSTER > 1) { __syncwarp(); cluster_arrive(); cluster_wait(); }            // others may still write here
}
