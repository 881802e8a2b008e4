// Fused MBConv residual block for Hopper (sm_90a), fp16 in/out, fp32 accumulation, NHWC, inference, stride 1:
//
//   h = silu(x @ We + be)                      C -> eC, pointwise; zero outside the image
//   g = silu(grouped_conv3x3(h, w1) + b1)      eC -> eC, groups of 8 channels
//   y = g @ Wp + bp + x                        eC -> C
//
// The image is cut into vertical strips of 14 columns. A warp owns one row of a strip with a column more on either side: 16
// pixels, the M rows that a wgmma gives to a warp. So a convolution's shift by a row is another warp's registers and a shift
// by a column another lane's; the hidden tensor never lies in shared memory pixel by pixel.
//   S = x . We[chunk]            A (x) from registers, 64 pixels of four rows; silu -> h, packed as the A operand it is
//   h of a row to the two rows that need it, through shared memory in the lanes' own layout (8 bytes a lane and group)
//   E[kx] = sum over ky of h[row + ky] . w1[ky][kx]         n = 24: three kx of a group's 8 outputs; k16 = two rows of a group,
//                                                           then the third row of two groups, one of which meets zeros
//   c[x] = E[0][x-1] + E[1][x] + E[2][x+1]                  M rows i and i+8 of a lane are the pixels 2i and 2i+1: one of the
//                                                           two neighbours is the lane's own, the other one shuffle away
//   O += silu(c + b1) . Wp[chunk]                           A from registers
// be enters as 16 more rows of We, which an A operand with a column of ones meets: zeros where a pixel is outside of the image.
// We, be, w1, b1 are pre-multiplied by 1/2, because silu(2h) = h + h*tanh(h). The input channels of We and the output channels
// of Wp are permuted so that a lane reads and writes 16 contiguous bytes of a pixel.
//
// Rows of all strips follow each other in one sequence, which a block walks downwards. A step computes h of 4*WARPGROUPS
// consecutive rows and y of the rows one above them; the last two rows of h stay in shared memory for the next step: no row
// is computed twice within a block. OVERLAP says what of a warpgroup's work runs under other of it.
//   ORDER 0  weights resident; every warpgroup walks a range of its own
//   ORDER 1  weights streamed chunk by chunk by a producer warp; the warpgroups walk one range, each below the one before
//   ORDER 2  weights streamed; tiles of 4*WARPGROUPS rows whose first and last only serve their neighbours (no rows are kept,
//            x lies in shared memory: for channel counts where the other orders do not fit)
//   ORDER 3  weights resident; every warpgroup walks down a strip of its own, whose rows are a multiple of 4. The last row, which has
//            no row of h below it, needs no step: the block's warpgroups convolve and project those of their strips together in the end
// SPLIT > 1, for small batches: a cluster of so many blocks shares the rows, each with a part of the hidden channels, and adds up
// the partial sums through distributed shared memory.
//
// Conditions: stride 1, C a multiple of 32, chunks of CHUNK hidden channels divide eC / SPLIT; N*H*W < 2^31.
// Constants: KERNEL_NAME, CHANNELS, EXPANSION, ORDER, WARPGROUPS, CHUNK (hidden channels at a time), SLOTS (of the ring of
// weights), UNROLL (chunks; a multiple of SLOTS makes the slots known to the compiler), X_SHARED, OVERLAP, SPLIT, SHARED_BYTES.
#include "hopper.cuh"
#include "mbconv_strips.cuh"
#include "specialisation.h"

namespace rows {
constexpr int C = CHANNELS, HID = EXPANSION * C, HC = CHUNK, NCH = HID / HC / SPLIT, NP = HC / 16, NWG = WARPGROUPS, NS = SLOTS;
// OVERLAP within a warpgroup
constexpr bool PAIR_AHEAD = OVERLAP == 1;                                            // a pair of groups is convolved under the gathering of the pair before
constexpr bool PAIRS_TOGETHER = OVERLAP == 2;                                        // a chunk's two pairs are convolved at once
// as PAIR_AHEAD, by group; two groups' rows are handed on before the other two are activated; the next step's first expansion under bias and residual
constexpr bool GROUP_AHEAD = OVERLAP == 3;
constexpr bool LATER = X_SHARED && !GROUP_AHEAD;                                           // x is waited for at the beginning of its step
constexpr int AHEAD = PAIR_AHEAD || PAIRS_TOGETHER, XB = C >= 256 ? 4 : C / 16, DEEP = C / 16 > XB ? 2 : 1;
constexpr bool STRIPS = ORDER == 3, ALONE = ORDER == 0 || STRIPS, TILED = ORDER == 2, STREAMED = !ALONE;
constexpr bool UNROLLED = ALONE && UNROLL == HID / CHUNK / SPLIT;                      // entries of the rings of rows are known a step ahead
constexpr int CONSUMERS = 128 * NWG, RT = 4 * NWG;
constexpr int WEB = C * HC * 2, PAIR = 2688, BIAS = HC * 32, MID = BIAS + NP * PAIR;
constexpr int ITEM = 2 * WEB + MID;                                                  // one chunk's We | bias as 16 more rows of We | filters | Wp
constexpr bool QUARTERS = ORDER == 2;                                                // the ring's slots hold half a We or half a Wp
constexpr int SLOT = QUARTERS ? WEB / 2 : ITEM, FILTERS = QUARTERS ? 2 * MID : 0;
constexpr int ROW = HC * 32;                                                         // bytes of one row's chunk of h
// rows handed on: two within the step (double-buffered), two per chunk that the rows below read at once or a step later
constexpr int NEAR = STREAMED ? NS + 1 : NCH + 2, FAR = STREAMED ? NCH + NS + 1 : NCH + 2;
constexpr int EXCHANGE = TILED ? 2 * RT * ROW : NWG * 4 * ROW + (ALONE ? NWG * NEAR : (NWG - 1) * NEAR + FAR) * 2 * ROW;
constexpr int OFF_RING = 0, OFF_F = OFF_RING + NS * SLOT, OFF_EX = OFF_F + FILTERS, OFF_ZERO = OFF_EX + EXCHANGE;
constexpr int OFF_X = OFF_ZERO + ROW, OFF_B1 = OFF_X + (X_SHARED ? RT * (C / 16) * 512 : 0);
constexpr int OFF_BP = OFF_B1 + HID * 2, OFF_BAR = OFF_BP + C * 2;
constexpr int BIASES = OFF_BAR - OFF_B1;
constexpr int SMEM = OFF_BAR + 8 * (2 * NS + NWG * NEAR);
static_assert(SMEM == SHARED_BYTES, "the launch reserves what the kernel lays out");
static_assert(NS == NCH || STREAMED, "resident weights have a slot each");
static_assert(!(PAIRS_TOGETHER || GROUP_AHEAD) || (NP == 2 && !QUARTERS), "a chunk of two pairs of groups");
static_assert(!GROUP_AHEAD || SPLIT == 1, "the sums of a cluster pass through where the weights are");
static_assert(!STRIPS || (GROUP_AHEAD && NWG == 4 && NCH % NWG == 0), "a warp for each strip's last row, the chunks shared by the warpgroups");
static_assert((NWG - 1) * C * 256 <= EXCHANGE || !STRIPS, "where sums of last rows pass");
static_assert(SPLIT == 1 || C * CONSUMERS * 2 <= OFF_B1, "where the sums of a cluster pass");
static_assert(HID % (HC * SPLIT) == 0 && (C / 32) % SPLIT == 0 && C % 32 == 0 && ITEM % 16 == 0, "whole chunks");

using Ring = Position<NS>;
// E of a group -> A operand registers (pixels 2i, 2i+1) of silu(c + b1)
__device__ __forceinline__ void gather(uint32_t& lo, uint32_t& hi, const Partial& e, uint32_t b) {
  combine(lo, hi, e, b, silu_packed);
}
// two groups: k16 of two rows of one group, then of the third row of both
__device__ __forceinline__ void convolve(Partial (&e)[2], const uint32_t (&f)[2][4], const uint32_t (&h)[4], uint64_t d) {
  Wgmma<24>::rs(e[0], f[0], d, 0);
  Wgmma<24>::rs(e[1], f[1], d + (768 >> 4), 0);
  Wgmma<24>::rs(e[0], h, d + (1536 >> 4), 1);
  Wgmma<24>::rs(e[1], h, d + (1920 >> 4), 1);
}
__device__ __forceinline__ void cluster_sync() { cluster_arrive(); cluster_wait(); }
// o becomes the sum over the cluster, of the output channels of this rank; every block's partial sums pass through its shared memory
__device__ __forceinline__ void reduce(float (&o)[C / 2], uint32_t buffer, int tid, int rank) {
  bar_sync(8, CONSUMERS);                                                            // the last chunk's operands are no longer needed
#pragma unroll
  for (int i = 0; i < C / 8; ++i)
    sts128(buffer + (i * CONSUMERS + tid) * 16, o + 4 * i);
  cluster_sync();
  constexpr int PART = C / 8 / SPLIT;
#pragma unroll
  for (int i = 0; i < PART; ++i) {
    float4 sum = make_float4(0, 0, 0, 0);
    for (int other = 0; other < SPLIT; ++other) {                                    // in the same order everywhere: repeatable
      const float4 v = lds_remote(map_rank(buffer + ((rank * PART + i) * CONSUMERS + tid) * 16, other));
      sum.x += v.x; sum.y += v.y; sum.z += v.z; sum.w += v.w;
    }
    o[4 * i] = sum.x; o[4 * i + 1] = sum.y; o[4 * i + 2] = sum.z; o[4 * i + 3] = sum.w;
  }
}
}  // namespace rows

extern "C" __global__ void
#if SPLIT > 1
__cluster_dims__(SPLIT, 1, 1)
#endif
__launch_bounds__(ORDER == 0 || ORDER == 3 ? 128 * WARPGROUPS : 128 * WARPGROUPS + 128, 1)
KERNEL_NAME(const unsigned char* __restrict__ x, unsigned char* __restrict__ y, const unsigned char* __restrict__ stream,
            const uint4* __restrict__ biases, int N, int H, int W, int block_rows, int total, uint32_t reciprocal_rows, uint32_t reciprocal_strips) {
  using namespace rows;
  extern __shared__ __align__(1024) unsigned char smem[];
  const uint32_t sm = smem_u32(smem);
  const int tid = thread_index();
  const int wg = __shfl_sync(~0u, tid >> 7, 0), warp = __shfl_sync(~0u, tid >> 5, 0) & 3, lane = tid & 31, q = lane & 3;
  const int strips = (W + VALID - 1) / VALID;                                         // of an image; `total` rows in the sequence
  const uint32_t full = sm + OFF_BAR, empty = full + 8 * NS, handed = empty + 8 * NS;
  const Divisor by_rows = {H, reciprocal_rows}, by_strips = {strips, reciprocal_strips};
  // SPLIT blocks of a cluster share the rows; each has a part of the hidden channels, and of the output channels in the end
  const int rank = SPLIT > 1 ? (int)cluster_rank() : 0, block = (int)blockIdx.x / SPLIT, blocks = (int)gridDim.x / SPLIT;
  stream += (long)rank * NCH * ITEM;
  // this block's rows: outputs first .. last-1, steps of RT rows of h (ORDER 2: tiles)
  const int down = (max(H - 2, 1) + RT - 3) / (RT - 2);                               // ORDER 2: tiles of a strip
  const int first = block * block_rows, last = min(first + block_rows, total);
  const int above = first % H != 0;
  constexpr int STEP = ALONE ? 4 : RT;
  const int steps = STRIPS ? H / 4 : TILED ? (N * strips * down - block + blocks - 1) / blocks
                    : ALONE && SPLIT > 1 ? NWG                                       // one each: all of them meet in reduce
                          : (last - first + above + 1 + (ALONE ? 2 * (NWG - 1) : 0) + STEP - 1) / STEP;

  if (tid == 0) {
    for (int i = 0; i < NS; ++i) {
      mbar_init(full + 8 * i, 1);
      mbar_init(empty + 8 * i, NWG);
    }
    for (int i = 0; ORDER == 1 && i < NWG * NEAR; ++i) mbar_init(handed + 8 * i, 64);
    mbar_init_fence();
  }
  __syncthreads();
  pdl_launch();

  auto fill = [&](int slot, int chunk) {
    mbar_expect(full + 8 * slot, ITEM);
    bulk_load(sm + OFF_RING + slot * ITEM, stream + chunk * ITEM, ITEM, full + 8 * slot);
  };
  if (STREAMED && wg == NWG) {  // --------------------------------------------------------------------------- producer
    fewer_registers<24>();
    if (warp == 0 && lane == 0) {
      Ring r = {0, 1};
      int j = 0;
      for (int n = steps * NCH; n > 0; --n) {
        const unsigned char* item = stream + (long)j * ITEM;
        for (int part = 0; part < (QUARTERS ? 4 : 1); ++part, r.next()) {
          mbar_wait(empty + 8 * r.slot, r.phase);
          if (!QUARTERS) { fill(r.slot, j); continue; }
          const uint32_t bar = full + 8 * r.slot;                                    // We in two halves, the first with the filters; Wp in two
          mbar_expect(bar, SLOT + (part == 0 ? MID : 0));
          bulk_load(sm + OFF_RING + r.slot * SLOT, item + part * SLOT + (part < 2 ? 0 : MID), SLOT, bar);
          if (part == 0) bulk_load(sm + OFF_F + (steps * NCH - n & 1) * MID, item + WEB, MID, bar);
        }
        if (++j == NCH) j = 0;
      }
    }
  } else {  // -------------------------------------------------------------------------------------------- consumers
#if ORDER != 0 && ORDER != 3
    more_registers<WARPGROUPS == 3 ? 160 : 240>();
#endif
    if (!STREAMED && tid == 0)
      for (int i = 0; i < NS; ++i) fill(i, i);
    for (int i = tid; i < BIASES / 16; i += CONSUMERS) cp_async16(sm + OFF_B1 + i * 16, biases + i, true);
    cp_async_commit();
    for (int i = tid; i < ROW / 8; i += CONSUMERS) sts64(sm + OFF_ZERO + i * 8, 0, 0);
    cp_async_wait<0>();
    bar_sync(8, CONSUMERS);
    pdl_wait();                                                                      // x may be the previous grid's output

    // ---- this warpgroup's steps and first row (ALONE: a part of the block's range)
    int s0, mine = steps;
    int out_first = first, out_last = last;
    if (STRIPS) {
      s0 = (block * NWG + wg) * H;
    } else if (ALONE) {
      const int each = steps / NWG, more = steps % NWG;
      mine = each + (wg < more);
      s0 = first - above + 4 * (wg * each + min(wg, more)) - 2 * wg;
      if (wg > 0) out_first = s0 + 1;
      out_last = min(last, s0 + 4 * mine - 1);
    } else {
      s0 = first - above + 4 * wg;
    }
    s0 += warp;
    const int lx = 2 * (lane >> 2);                                                  // this lane's pixels: lx, lx + 1 of 16
    // this warp's row of h, walked down step by step: divisions for the first one alone
    int row = s0;
    Row here = locate(row, by_strips, by_rows, W);
    bool ok = row < total, out = false;                                              // is there such a row; TILED: is its row of y this block's
    [[maybe_unused]] auto enter = [&](int t) {                                       // TILED: of step t
      const int tile = block + t * blocks, w = 4 * wg + warp, k = tile / down, d = tile - k * down;
      const int yy = d * (RT - 2) + w, n = k / strips;
      ok = yy < H;
      out = ok && (w > 0 || d == 0) && (w < RT - 1 || yy == H - 1);
      here.y = ok ? yy : 0;
      here.left = (k - n * strips) * VALID - 1;
      here.pixel = (n * H + here.y) * W + here.left;
    };
    auto advance = [&](int t) {                                                      // to step t, from the one before
      if (TILED) return enter(t);
      if (STRIPS) {                                                                  // never into another strip; `ok` stays
        here.y += STEP;
        here.pixel += STEP * W;
        return;
      }
      here.advance(STEP, H, W);
      row += STEP;
      ok = row < total;
    };
    const uint32_t xs = sm + OFF_X + (4 * wg + warp) * (C / 16) * 512 + lane * 16;   // X_SHARED: [k16][lane][4 registers]
    typedef uint4 Raw[C / 16];                                                       // x of the next step as loaded
    auto load_x = [&](Raw& raw) {
      if (X_SHARED) {
        const bool in0 = ok && (unsigned)(here.left + lx) < (unsigned)W, in1 = ok && (unsigned)(here.left + lx + 1) < (unsigned)W;
        const unsigned char* p0 = (in0 ? x + (long)(here.pixel + lx) * (C * 2) : x) + q * 16;
        const unsigned char* p1 = (in1 ? x + (long)(here.pixel + lx + 1) * (C * 2) : x) + q * 16;
#pragma unroll
        for (int m = 0; m < C / 32; ++m)
#pragma unroll
          for (int i = 0; i < 4; ++i) {                                              // registers 2(i%2) of k16 2m + i/2
            const uint32_t d = xs + (2 * m + (i >> 1)) * 512 + (i & 1) * 8;
            cp_async4(d, p0 + m * 64 + i * 4, in0);
            cp_async4(d + 4, p1 + m * 64 + i * 4, in1);
          }
        cp_async_commit();
      } else {
        load_row<C>(raw, x, here, ok, W, lx, q);
      }
    };
    auto prefetch_x = [&] { prefetch_row<C>(x, here, ok, W, lx, q); };

    // ---- where rows are handed on
    const uint32_t ex = sm + OFF_EX;
    const uint32_t pairs = ex + wg * 4 * ROW;                                        // rows 0, 1 of the warpgroup, two buffers
    const uint32_t kept = ex + NWG * 4 * ROW;                                        // rows 2, 3 of every warpgroup, a ring each
    const int depth = ALONE || wg < NWG - 1 ? NEAR : FAR, up_wg = ALONE ? wg : wg == 0 ? NWG - 1 : wg - 1;
    const int up_depth = ALONE || up_wg < NWG - 1 ? NEAR : FAR;
    const bool later = ALONE || wg == 0;                                             // the rows above are those of the step before
    const uint32_t own_base = kept + wg * NEAR * 2 * ROW, up_base = kept + up_wg * NEAR * 2 * ROW;
    int own = 0, upper = later ? up_depth - NCH : 0;                                 // slots in the two rings
    uint32_t up_phase = 0, odd = 0;

    uint64_t de = make_desc(sm + OFF_RING, HC / 8 * 128, 128), dw = make_desc(sm + (QUARTERS ? OFF_F : OFF_RING + WEB) + BIAS, 384, 128);
    const uint64_t db = make_desc(sm + OFF_F, HC / 8 * 128, 128);
    uint64_t dp = make_desc(sm + OFF_RING + (QUARTERS ? 0 : WEB + MID), C / 8 * 128, 128);
    auto address = [&] {                                                             // anew for each chunk, or the compiler keeps all that follow from them
      if (UNROLL <= 4) return;
      const uint32_t ring = __shfl_sync(~0u, sm + OFF_RING >> 4, 0);
      de = (uint64_t)ring | make_desc(0, HC / 8 * 128, 128);
      dw = (uint64_t)(ring + (WEB + BIAS >> 4)) | make_desc(0, 384, 128);
      dp = (uint64_t)(ring + (WEB + MID >> 4)) | make_desc(0, C / 8 * 128, 128);
    };
    const uint32_t b1 = sm + OFF_B1 + rank * NCH * HC * 2 + q * (HC / 8 * 4);
    uint32_t xf[C / 16][4];
    uint32_t one[4] = {0, 0, 0, 0};                                                  // A operand of the bias: 1 for pixels in the image
    auto arrange_x = [&](Raw& raw) {                                                 // as loaded -> A operands
      const Inside inside(here, ok, W, lx);
      inside.ones(one, q);
      if (X_SHARED) cp_async_wait<0>();
      else inside.arrange(xf, raw);
    };
    auto offset = [&](int slot) { return (uint64_t)(slot * (SLOT >> 4)); };
    auto expand = [&](float (&s)[HC / 2], uint64_t d0, uint64_t d1, uint64_t d2) {                     // where We's two halves lie, and the bias
      auto wgmma = [&](const uint32_t (&a)[4], int k) {
        Wgmma<HC>::rs(s, a, (QUARTERS && k >= C / 32 ? d1 - (WEB / 2 >> 4) : d0) + k * (HC * 32 >> 4), k > 0);
      };
      if (X_SHARED) {                                                                // XB k16 at a time, two batches in flight
        uint32_t a[DEEP][XB][4];
#pragma unroll
        for (int k = 0; k < C / 16; k += XB) {
          if (k >= 2 * XB) wgmma_wait<1>();
#pragma unroll
          for (int i = 0; i < XB; ++i) {
            const uint4 v = lds128(xs + (k + i) * 512);
            uint32_t (&r)[4] = a[k / XB % DEEP][i];
            r[0] = v.x; r[1] = v.y; r[2] = v.z; r[3] = v.w;
          }
          wgmma_fence();
#pragma unroll
          for (int i = 0; i < XB; ++i) wgmma(a[k / XB % DEEP][i], k + i);
          if (k + XB == C / 16) Wgmma<HC>::rs(s, one, d2, 1);
          wgmma_commit();
        }
      } else {
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < C / 16; ++k) wgmma(xf[k], k);
        Wgmma<HC>::rs(s, one, d2, 1);
        wgmma_commit();
      }
    };
    constexpr int OUT = C / 32 / SPLIT;
    using Residual = Identity<C, OUT>;
    auto identity = [&](Residual& to, int back) {                                   // of the row of y so many rows above this warp's row of h
      const int rank = SPLIT > 1 ? (int)cluster_rank() : 0;                        // read again: not kept in a register
      Row r = here;
      bool put = out;
      if (!TILED) {
        put = STRIPS ? ok && (unsigned)(here.y - back) < (unsigned)H : row - back >= out_first && row - back < out_last;
        r.pixel -= back * W;
        if (!STRIPS && put && r.y < back) r = locate(row - back, by_strips, by_rows, W);          // in another strip
      }
      to.of(x, r, put, W, lx, q, rank * OUT);
    };
    auto put = [&](float (&o)[C / 2], Residual& id) {                               // with bias and identity
      const int rank = SPLIT > 1 ? (int)cluster_rank() : 0;
#pragma unroll
      for (int m0 = 0; m0 < OUT; m0 += Residual::AT_ONCE) {
        if (m0 > 0) id.fetch(x, m0);
        if (m0 == 0) {
          if (!GROUP_AHEAD) wgmma_wait<0>();
          if (SPLIT > 1) reduce(o, sm, tid, rank);
        }
        id.put(y, o, m0, sm + OFF_BP + rank * OUT * 64 + q * 16);
      }
    };
    Ring now = {0, 0};                                                               // of this chunk
    int prev = NS - 1, prev2 = NS - 2;                                               // slots of the chunks before (QUARTERS: of the last Wp's halves)
    float s_kept[HC / 2];
    if (mine > 0) {
      Raw raw;
      if (TILED) enter(0);
      load_x(raw);
      if (!LATER) arrange_x(raw);
      if (GROUP_AHEAD) {
        mbar_wait(full, 0);
        address();
        expand(s_kept, de, 0, de + (WEB >> 4));
        wgmma_wait<0>();
      }
    }
    for (int t = 0; t < mine; ++t) {
      Raw raw;
      bool cut, top;                                                                 // row of h below the output row, or above it, is outside
      if (TILED) enter(t);
      cut = TILED ? here.y == H - 1 : !STRIPS && here.y == 0;                        // TILED: of the third row, F[1]
      top = TILED ? here.y == 0 : (H == 1 || here.y == 1);                           // output row 0
      if (LATER) arrange_x(raw);
      uint32_t entry[NCH + 2];                                                       // UNROLLED: of the ring, from this step's first on
      if (UNROLLED) {
        int at = own;
#pragma unroll
        for (int i = 0; i < NCH + 2; ++i) {
          entry[i] = own_base + at * 2 * ROW;
          if (++at == NEAR) at = 0;
        }
        own = own + NCH >= NEAR ? own + NCH - NEAR : own + NCH;
      }
      float o[C / 2], s_anew[HC / 2];
      float (&s)[HC / 2] = GROUP_AHEAD ? s_kept : s_anew;
#pragma unroll 1
      for (int j0 = 0; j0 < NCH; j0 += UNROLL)
#pragma unroll
      for (int u = 0; u < UNROLL; ++u) {
        const int j = j0 + u;
        address();
        if (!QUARTERS && UNROLL % NS == 0) now.slot = u % NS;                        // known to the compiler
        // ---- expansion
        uint32_t h[NP][4];
        Ring second = now, third = now, fourth = now;                                // QUARTERS
        if (QUARTERS) { second.next(); third = second; third.next(); fourth = third; fourth.next(); }
        Ring after = QUARTERS ? fourth : now;                                        // the next chunk
        after.next();
        const uint64_t filters = odd * (MID >> 4);
        if (!(GROUP_AHEAD && j == 0)) {
          if (STREAMED || t == 0) mbar_wait(full + 8 * now.slot, now.phase);
          if (QUARTERS) mbar_wait(full + 8 * second.slot, second.phase);
          expand(s, de + offset(now.slot), de + offset(second.slot), QUARTERS ? db + filters : de + offset(now.slot) + (WEB >> 4));
        }
        if (!GROUP_AHEAD || j > 0) wgmma_wait<0>();
        const bool more = j == NCH - 1 && t + 1 < mine;
        if (j == NCH / 2) {
          advance(t + 1);
          if (t + 1 < mine) prefetch_x();
        }
        if (!GROUP_AHEAD && more) load_x(raw);
        // ---- h: to its neighbours, and as A operand
        uint32_t st;
        if (TILED) st = ex + (odd * RT + 4 * wg + warp) * ROW;
        else st = warp < 2 ? pairs + (odd * 2 + warp) * ROW : (UNROLLED ? entry[j] : own_base + own * 2 * ROW) + (warp - 2) * ROW;
        st += lane * 8;
        auto activate = [&](int from, int until) {
#pragma unroll
          for (int g = from; g < until; ++g) {
            const uint32_t lo = silu_packed(pack2(s[4 * g], s[4 * g + 1])), hi = silu_packed(pack2(s[4 * g + 2], s[4 * g + 3]));
            h[g >> 1][(g & 1) * 2] = lo;
            h[g >> 1][(g & 1) * 2 + 1] = hi;
            sts64(st + g * 256, lo, hi);
          }
        };
        auto zero = [&](int from, int until) {                                       // by loads: an instruction to skip, not four
          if (cut)
#pragma unroll
            for (int p = from; p < until; ++p) {
              const uint4 v = lds128(sm + OFF_ZERO + lane * 16);
              h[p][0] = v.x; h[p][1] = v.y; h[p][2] = v.z; h[p][3] = v.w;
            }
        };
        activate(0, GROUP_AHEAD ? 2 : HC / 8);                                       // GROUP_AHEAD: the others while the first two's rows come
        uint32_t b[HC / 8];
        auto fetch_biases = [&] {
#pragma unroll
          for (int i = 0; i < HC / 32; ++i) {
            const uint4 v = lds128(b1 + j * (HC * 2) + 16 * i);
            b[4 * i] = v.x; b[4 * i + 1] = v.y; b[4 * i + 2] = v.z; b[4 * i + 3] = v.w;
          }
        };
        if (GROUP_AHEAD) fetch_biases();                                             // so that the rows are the first to be read behind the barrier
        // ---- the two other rows
        uint32_t f0, f1;
        if (TILED) {
          const int w = 4 * wg + warp;
          f0 = top || w == 0 ? sm + OFF_ZERO : ex + (odd * RT + w - 1) * ROW;
          f1 = cut || w == RT - 1 ? sm + OFF_ZERO : ex + (odd * RT + w + 1) * ROW;
          bar_sync(8, CONSUMERS);
        } else {
          const uint32_t a0 = UNROLLED ? entry[j + 2] : up_base + upper * 2 * ROW, a1 = pairs + odd * 2 * ROW;
          f0 = warp < 2 ? a0 + warp * ROW : a1 + (warp - 2) * ROW;
          f1 = warp == 0 ? a0 + ROW : warp < 3 ? a1 + (warp - 1) * ROW : UNROLLED ? entry[j] : own_base + own * 2 * ROW;
          if (top) f0 = sm + OFF_ZERO;
          if (!GROUP_AHEAD) zero(0, NP);
          if (!ALONE && warp >= 2 && wg < NWG - 1) mbar_arrive(handed + 8 * (wg * NEAR + own));  // every lane for what it wrote
          bar_sync(1 + wg, 128);
          if (!later && warp < 2) mbar_wait(handed + 8 * (up_wg * NEAR + upper), up_phase);
        }
        f0 += lane * 8;
        f1 += lane * 8;
        if (STREAMED && (tid & 127) == 0) {                                          // what all four warps have left
          if (QUARTERS) {
            mbar_arrive(empty + 8 * now.slot);
            mbar_arrive(empty + 8 * second.slot);
            if (j + t > 0) { mbar_arrive(empty + 8 * prev2); mbar_arrive(empty + 8 * prev); }
          } else if (j + t > 0) {
            mbar_arrive(empty + 8 * prev);
          }
        }
        if (!GROUP_AHEAD) fetch_biases();
        // ---- convolution and projection, two groups at a time
        Partial e[1 + AHEAD][2];
        constexpr int FETCHED = GROUP_AHEAD ? 1 : !PAIR_AHEAD ? NP : 1 + AHEAD;
        uint32_t f[FETCHED][2][4], g[1 + AHEAD][4];
        auto fetch = [&](int p) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            lds64(f[p % FETCHED][i][0], f[p % FETCHED][i][1], f0 + (2 * p + i) * 256);
            lds64(f[p % FETCHED][i][2], f[p % FETCHED][i][3], f1 + (2 * p + i) * 256);
          }
        };
        auto start = [&](int p) {
          if (PAIR_AHEAD) fetch(p);
          wgmma_fence();
          convolve(e[p & AHEAD], f[p % FETCHED], h[p], dw + (QUARTERS ? filters : offset(now.slot)) + p * (PAIR >> 4));
          wgmma_commit();
        };
        if (!PAIR_AHEAD && !GROUP_AHEAD)
#pragma unroll
          for (int p = 0; p < NP; ++p) fetch(p);
        if (PAIRS_TOGETHER) {
          wgmma_fence();
#pragma unroll
          for (int p = 0; p < NP; ++p) convolve(e[p & AHEAD], f[p % FETCHED], h[p], dw + (QUARTERS ? filters : offset(now.slot)) + p * (PAIR >> 4));
          wgmma_commit();
          wgmma_wait<0>();
#pragma unroll
          for (int p = 0; p < NP; ++p)
#pragma unroll
            for (int i = 0; i < 2; ++i) gather(g[p & AHEAD][2 * i], g[p & AHEAD][2 * i + 1], e[p & AHEAD][i], b[2 * p + i]);
          wgmma_fence();
#pragma unroll
          for (int p = 0; p < NP; ++p) Wgmma<C>::rs(o, g[p & AHEAD], dp + offset(now.slot) + p * (C * 32 >> 4), (j > 0) | (p > 0));
          wgmma_commit();
        }
        if (GROUP_AHEAD) {
          auto fetch = [&](int i) {                                                  // of a group
            lds64(f[0][i & 1][0], f[0][i & 1][1], f0 + i * 256);
            lds64(f[0][i & 1][2], f[0][i & 1][3], f1 + i * 256);
          };
          auto begin = [&](int i) {                                                  // behind a fence of the group, or the projection, before it
            const uint64_t d = dw + offset(now.slot) + (i >> 1) * (PAIR >> 4);
            if (i % 2 == 0) wgmma_fence();
            Wgmma<24>::rs(e[0][i & 1], f[0][i & 1], d + ((i & 1) * 768 >> 4), 0);
            Wgmma<24>::rs(e[0][i & 1], h[i >> 1], d + (1536 + (i & 1) * 384 >> 4), 1);
            wgmma_commit();
          };
          auto finish = [&](int i) { gather(g[0][2 * (i & 1)], g[0][2 * (i & 1) + 1], e[0][i & 1], b[i]); };
          auto project = [&](int p) {
            wgmma_fence();
            Wgmma<C>::rs(o, g[0], dp + offset(now.slot) + p * (C * 32 >> 4), (j > 0) | (p > 0));
            wgmma_commit();
          };
          fetch(0);
          fetch(1);
          activate(2, 4);
          zero(0, NP);
          begin(0);
          begin(1);
          bar_sync(1 + wg, 128);                                                     // the other two groups' rows
          wgmma_wait<1>();
          fetch(2);
          finish(0);
          begin(2);
          wgmma_wait<1>();
          fetch(3);
          finish(1);
          project(0);
          if (more) load_x(raw);                                                     // into registers that the expansion has left
          begin(3);
          wgmma_wait<1>();                                                           // the projection, too: its operands are used again
          finish(2);
          wgmma_wait<0>();
          finish(3);
          project(1);
        }
        if (AHEAD && !PAIRS_TOGETHER) start(0);
#pragma unroll
        for (int p = 0; p < (PAIRS_TOGETHER || GROUP_AHEAD ? 0 : NP); ++p) {
          if (!AHEAD) start(p);
          if (AHEAD && p + 1 < NP) start(p + 1);
          if (AHEAD && p + 1 < NP) wgmma_wait<1>();                                  // pair p, and the projection of pair p-1
          else wgmma_wait<0>();
          if (QUARTERS && p == 0) mbar_wait(full + 8 * third.slot, third.phase);
          if (QUARTERS && p == NP / 2) mbar_wait(full + 8 * fourth.slot, fourth.phase);
#pragma unroll
          for (int i = 0; i < 2; ++i) gather(g[p & AHEAD][2 * i], g[p & AHEAD][2 * i + 1], e[p & AHEAD][i], b[2 * p + i]);
          wgmma_fence();
          Wgmma<C>::rs(o, g[p & AHEAD], dp + (!QUARTERS ? offset(now.slot) : p < NP / 2 ? offset(third.slot) : offset(fourth.slot) - (WEB / 2 >> 4)) + p * (C * 32 >> 4), (j > 0) | (p > 0));
          wgmma_commit();
        }
        prev2 = QUARTERS ? third.slot : prev;
        prev = QUARTERS ? fourth.slot : now.slot;
        now = after;
        odd ^= 1;
        if (!TILED && !UNROLLED) {
          if (++own == depth) own = 0;
          if (++upper == up_depth) { upper = 0; up_phase ^= 1; }
        }
      }
      // ---- the next step's first expansion under bias + residual, 16 bytes a lane
      if (GROUP_AHEAD) {
        arrange_x(raw);
        if (t + 1 < mine) {
          if (STREAMED) mbar_wait(full + 8 * now.slot, now.phase);
          address();
          expand(s, de + offset(now.slot), 0, de + offset(now.slot) + (WEB >> 4));
          wgmma_wait<1>();
        } else {
          wgmma_wait<0>();
        }
      }
      if (TILED) enter(t);
      Residual id;
      identity(id, STEP + 1);
      put(o, id);
      if (GROUP_AHEAD) wgmma_wait<0>();
      else if (!LATER) arrange_x(raw);
    }
    if (STRIPS) {  // the last rows of the strips: a warp each, two rows of h that are there, none below. The warpgroups take the chunks in turn
      const int strip = block * NWG + (tid >> 5 & 3);                                // this warp's
      float o[C / 2];
      Residual id;
      id.of(x, locate(strip * H + H - 1, by_strips, by_rows, W), wg == 0 && strip * H < total, W, lx, q, 0);
      const uint32_t last_step = kept + (tid >> 5 & 3) * NEAR * 2 * ROW + lane * 8;
      bar_sync(8, CONSUMERS);                                                        // every warpgroup has handed on its last step's rows
#pragma unroll 1
      for (int j = wg; j < NCH; j += NWG) {
        address();
        const uint32_t at = last_step + ((steps - 1) * NCH + j) % NEAR * 2 * ROW;
        uint32_t f[HC / 8][4], g[NP][4];
        Partial e[2];
#pragma unroll
        for (int i = 0; i < HC / 8; ++i) {
          lds64(f[i][0], f[i][1], at + i * 256);
          lds64(f[i][2], f[i][3], at + ROW + i * 256);
        }
        const uint4 v = lds128(b1 + j * (HC * 2));
        const uint32_t b[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int p = 0; p < NP; ++p) {
          wgmma_fence();
#pragma unroll
          for (int i = 0; i < 2; ++i) Wgmma<24>::rs(e[i], f[2 * p + i], dw + offset(j) + (p * PAIR + i * 768 >> 4), 0);
          wgmma_commit();
          wgmma_wait<0>();
#pragma unroll
          for (int i = 0; i < 2; ++i) gather(g[p][2 * i], g[p][2 * i + 1], e[i], b[2 * p + i]);
        }
        wgmma_fence();
#pragma unroll
        for (int p = 0; p < NP; ++p) Wgmma<C>::rs(o, g[p], dp + offset(j) + p * (C * 32 >> 4), (j >= NWG) | (p > 0));
        wgmma_commit();
        wgmma_wait<0>();
      }
      bar_sync(8, CONSUMERS);                                                        // the rows are read: their sums may lie there
      const uint32_t sums = ex + (tid & 127) * 16;
      if (wg > 0)
#pragma unroll
        for (int i = 0; i < C / 8; ++i) sts128(sums + ((wg - 1) * (C / 8) + i) * 2048, o + 4 * i);
      bar_sync(8, CONSUMERS);
      if (wg == 0) {
        for (int other = 0; other < NWG - 1; ++other)
#pragma unroll
          for (int i = 0; i < C / 8; ++i) {
            const uint4 v = lds128(sums + (other * (C / 8) + i) * 2048);
            o[4 * i] += __uint_as_float(v.x); o[4 * i + 1] += __uint_as_float(v.y);
            o[4 * i + 2] += __uint_as_float(v.z); o[4 * i + 3] += __uint_as_float(v.w);
          }
        id.put(y, o, 0, sm + OFF_BP + q * 16);
      }
    }
    if (SPLIT > 1) cluster_sync();                                                   // nobody leaves while others read its sums
  }
}
