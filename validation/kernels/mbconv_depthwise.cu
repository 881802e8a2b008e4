// Fused MBConv block with a depthwise convolution for Hopper (sm_90a): fp16 or bf16, fp32 sums, NHWC, inference.
//
//   h = silu(x @ We + be)                      C -> eC, pointwise; zero outside of the image
//   g = silu(depthwise(h, w1) + b1)            KERNEL x KERNEL, stride 1 or 2, zero padding
//   g = g * gate                               with squeeze-and-excitation: sigmoid(W2 . silu(W1 . mean(g) + c1) + c2), by image
//   y = g @ Wp + bp (+ x)                      eC -> C'; + x where RESIDUAL
//
// Everything is transposed: the rows of the matrix instructions are channels, their columns pixels. A warpgroup owns 64 hidden
// channels for good, a thread two of them (g and g + 8 of a warp's sixteen), and walks down a strip of the image row by row:
//   S = We^T . x^T               A: weights, B: a row of pixels, both in shared memory. A thread's columns are 2 BLOCKS neighbours:
//                                pixels lie in shared memory in the order q, that is column q (2 BLOCKS) + 2 b + r at 8 b + 2 q + r
//   h = silu(S + be)             in fp32 registers; the columns beside a thread's own are the neighbour lane's
//   sums += w1 . h               a row of h is added to the KERNEL rows of sums that it reaches: no row of h is kept, none is
//                                computed twice, and the oldest row of sums is complete
//   g to shared memory, one panel of 64 channels from each warpgroup; one more warpgroup projects it, y^T = Wp^T . g^T, adds x
// and writes out; the same warpgroup fetches the rows of x.
// We, be, w1, b1 are multiplied by 1/2: with u = preactivation / 2, silu = u + u tanh(u).
//
// Rows of all strips follow each other in one sequence, of which every block has a part (ROWS of the output at most).
// Squeeze-and-excitation takes three launches: PASS 1 adds up g for each block and image, in registers; PASS 2, a block for each
// image, computes the gates from these sums, in a fixed order; PASS 3 everything again, multiplied by the gates. PASS 0: without.
//
// SPLIT 2, for more hidden channels than four warpgroups have: the two blocks of a cluster walk down the same rows, each with half of
// the hidden channels, and hand each other their part of the sums of the output's channels through distributed shared memory.
//
// Constants: KERNEL_NAME, BF16, CHANNELS, OUT_CHANNELS, KERNEL, STRIDE, RESIDUAL, SQUEEZED (0: none), BLOCKS (of eight columns of a strip),
// WARPGROUPS (of 64 hidden channels each), SPLIT, X_SLOTS, G_SLOTS (rows in shared memory), MASKED (0: every column of every strip lies in the
// image), OVERLAPS (whether there are several strips), FOLDED (whether the biases of both
// products are 16 more steps along k, against ones), REGISTERS, PROJECT_REGISTERS (of the threads of the two roles; 0: as launched), PASS, SHARED_BYTES.
#include "specialisation.h"
#include "hopper.cuh"

namespace depthwise {
constexpr int C = CHANNELS, CO = OUT_CHANNELS, K = KERNEL, S = STRIDE, PAD = K / 2, NWG = WARPGROUPS, HID = 64 * NWG;
constexpr int SW = 8 * BLOCKS, OWN = 2 * BLOCKS;                                     // columns of a strip, of a thread
constexpr int OC = S == 1 ? OWN : BLOCKS, BO = (OC + 1) / 2, SO = 8 * BO;            // of the output: a thread's, blocks of eight, a strip's places
constexpr int PENDING = S == 1 ? K - 1 : PAD;                                        // rows of sums that wait for more rows of h
// Rows of sums change places by name, where that does not cost the last registers (gates, filters of 25).
constexpr bool ROTATES = S == 1 && K == 3 && PASS != 3;
constexpr int TURNS = ROTATES ? PENDING : 1;
constexpr int KS = (C + 15) / 16, SLABS = (C + 63) / 64, MO = (CO + 63) / 64;        // k16 steps, 64 channels, m64 blocks
constexpr int XS = X_SLOTS, GS = G_SLOTS;
constexpr int ALL = HID * SPLIT;                                                     // hidden channels
constexpr int MINE = SPLIT == 1 ? MO : 1;                                             // m64 blocks of the output that this block finishes
constexpr int X_ROW = SLABS * SW * 128, G_ROW = NWG * SO * 128, PITCH_Y = MINE * 128 + 16;
constexpr int WE = (KS + FOLDED) * 2048, WP = NWG * 8192 + FOLDED * 2048, TABLE = (K * K + 2 + (SQUEEZED > 0)) * 64;            // of a warpgroup, of an m64 block, of a warp
constexpr int OFF_X = 0, OFF_G = OFF_X + XS * X_ROW, OFF_WE = OFF_G + (PASS == 1 ? 0 : GS * G_ROW), OFF_WP = OFF_WE + NWG * WE;
constexpr int OFF_TABLE = OFF_WP + (PASS == 1 ? 0 : MO * WP), OFF_ONES = OFF_TABLE + NWG * 4 * TABLE;
constexpr int ONES = FOLDED * (1 + MASKED) * SW * 32, OFF_Y = OFF_ONES + ONES;
constexpr int OFF_OTHER = OFF_Y + (PASS == 1 ? 0 : SO * PITCH_Y);                     // sums of the other block of the cluster
constexpr int OFF_BAR = OFF_OTHER + (SPLIT == 2 && PASS != 1 ? BO * 2048 : 0);
constexpr int SMEM = OFF_BAR + 8 * (2 * XS + 2 * GS + 3);
static_assert(SMEM <= SHARED_BYTES && (PASS == 1 || PASS == 2 || SMEM == SHARED_BYTES), "the launch reserves what the kernel lays out");
constexpr bool ADDS = RESIDUAL && PASS != 1;
// rows of x asked for before the one that is needed now, and how many of them are there for sure
constexpr int AHEAD = XS - (ADDS ? PAD + 1 : 1), READY = (AHEAD + 1) / 2 < GS + 1 ? (AHEAD + 1) / 2 : GS + 1;
static_assert(READY >= 1 && MO <= 2 && (!RESIDUAL || (S == 1 && C == CO)), "rows in flight");

__device__ __forceinline__ float2 lds_pair(uint32_t a) {                             // volatile: not kept in registers from row to row
  float2 v;
  asm volatile("ld.shared.v2.f32 {%0,%1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(a));
  return v;
}
constexpr int LAUNCHED = 65536 / (128 * NWG + 128) / 8 * 8;
constexpr bool SPARE = REGISTERS > LAUNCHED;                                         // PASS 1 projects nothing
template <int N> __device__ __forceinline__ void take() {
  if constexpr (N > LAUNCHED) more_registers<N>();
  else if constexpr (N > 0) fewer_registers<N>();
}
// A piece of one strip: output rows first .. last - 1 of image n
struct Piece {
  int n, strip, first, last, top, bottom;                                            // rows of h: top .. bottom, of which those from H on are none
  __device__ __forceinline__ Piece(int s, int end, int strips, int OH) {
    const int k = s / OH;
    first = s - k * OH;
    last = min(OH, first + end - s);
    n = k / strips;
    strip = k - n * strips;
    top = max(first * S - PAD, 0);
    bottom = (last - 1) * S + PAD;
  }
  __device__ __forceinline__ bool emits(int y) const { return S == 1 || !((y - PAD) & 1); }
  __device__ __forceinline__ bool wanted(int y) const { return emits(y) && y - PAD >= first * S; }
  // of the input: the last strip ends where the image does, if that is wide enough
  __device__ __forceinline__ int column(int W) const { return min(strip * (SW - 2 * PAD), max(W - SW + S - 1, 0) / S * S); }
  // columns of the output: from where the strip before ends
  __device__ __forceinline__ int left() const { return strip ? ((strip - 1) * (SW - 2 * PAD) + SW - 1 - PAD) / S + 1 : 0; }
  __device__ __forceinline__ int right(int W, int OW) const { return column(W) + SW >= W ? OW : (column(W) + SW - 1 - PAD) / S + 1; }
};
typedef float Row[2][OC];
typedef float Hidden[2][OWN + 2 * PAD];
// to = from + row KY of the filter times h
template <int KY, class From> __device__ __forceinline__ void add(Row& to, From from, const Hidden& h, uint32_t table) {
  float2 w[K];
#pragma unroll
  for (int k = 0; k < K; ++k) w[k] = lds_pair(table + (KY * K + k) * 64);
#pragma unroll
  for (int j = 0; j < OC; ++j)
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      float v = from(c, j);
#pragma unroll
      for (int k = 0; k < K; ++k) v = fmaf(h[c][j * S + k], c ? w[k].y : w[k].x, v);
      to[c][j] = v;
    }
}
// The rows of sums after the oldest one and before the one that starts anew
template <int I> struct Turn {
  static __device__ __forceinline__ void emitting(Row (&sums)[PENDING], int oldest, const Hidden& h, uint32_t table) {
    if constexpr (I < PENDING) {
      Row& one = sums[(oldest + I) % PENDING];
      add<K - 1 - I>(one, [&](int c, int j) { return one[c][j]; }, h, table);
      Turn<I + 1>::emitting(sums, oldest, h, table);
    }
  }
};
template <int I> struct Shift {                                                      // stride 2: rows of sums I .. PENDING - 1, which stay in place
  static __device__ __forceinline__ void emitting(Row (&sums)[PENDING], const Hidden& h, uint32_t table) {
    if constexpr (I < PENDING - 1) {
      add<K - 1 - S * (I + 1)>(sums[I], [&](int c, int j) { return sums[I + 1][c][j]; }, h, table);
      Shift<I + 1>::emitting(sums, h, table);
    } else {
      const float2 bias = lds_pair(table + K * K * 64);
      add<K - 1 - S * (I + 1)>(sums[I], [&](int c, int) { return c ? bias.y : bias.x; }, h, table);
    }
  }
  static __device__ __forceinline__ void between(Row (&sums)[PENDING], const Hidden& h, uint32_t table) {
    if constexpr (I < PENDING) {
      add<K - 2 - S * I>(sums[I], [&](int c, int j) { return sums[I][c][j]; }, h, table);
      Shift<I + 1>::between(sums, h, table);
    }
  }
};
}  // namespace depthwise

extern "C" __global__ void
#if SPLIT > 1 && PASS != 2
__cluster_dims__(SPLIT, 1, 1)
#endif
__launch_bounds__(128 * WARPGROUPS + 128, 1)
KERNEL_NAME(const Element* __restrict__ x, Element* __restrict__ y, const unsigned char* __restrict__ weights, const float* __restrict__ project_b,
#if SQUEEZED
            const Element* __restrict__ w1, const float* __restrict__ c1, const Element* __restrict__ w2, const float* __restrict__ c2,
            float* __restrict__ sums_of, float* __restrict__ gates_of,
#endif
            int N, int H, int W, int ROWS, int strips) {
  using namespace depthwise;
  extern __shared__ __align__(1024) unsigned char smem[];
#if PASS == 2
  // The gates of an image from the sums of its blocks, in a fixed order. w1, w2: [SQUEEZED][ALL], read along the hidden channels.
  constexpr int THREADS = 128 * NWG + 128;
  float *mean = reinterpret_cast<float*>(smem), *squeezed = mean + ALL;               // the mean times the pixels
  const int lane = threadIdx.x & 31, q = lane & 3, warp = threadIdx.x >> 5, n = blockIdx.x;
  const int OH = (H - 1) / S + 1, OW = (W - 1) / S + 1, from = n * strips * OH / ROWS, to = ((n + 1) * strips * OH - 1) / ROWS;
  pdl_launch();
  pdl_wait();
  for (int first = warp * 16; first < ALL; first += THREADS / 2) {                    // sixteen channels: four to a lane, eight lanes share the blocks
    const float* place = sums_of + (size_t)n * ALL + first + q * 4;
    float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
    for (int b = from + (lane >> 2); b <= to; b += 64) {
      float4 v[8];
#pragma unroll
      for (int u = 0; u < 8; ++u)
        v[u] = b + u * 8 <= to ? __ldcg(reinterpret_cast<const float4*>(place + (size_t)(b + u * 8) * ALL)) : make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll
      for (int u = 0; u < 8; ++u) sum.x += v[u].x, sum.y += v[u].y, sum.z += v[u].z, sum.w += v[u].w;
    }
#pragma unroll
    for (int d = 4; d < 32; d *= 2) {
      sum.x += __shfl_xor_sync(~0u, sum.x, d), sum.y += __shfl_xor_sync(~0u, sum.y, d);
      sum.z += __shfl_xor_sync(~0u, sum.z, d), sum.w += __shfl_xor_sync(~0u, sum.w, d);
    }
    if (lane < 4) *reinterpret_cast<float4*>(mean + first + q * 4) = sum;
  }
  __syncthreads();
  for (int k = warp; k < SQUEEZED; k += THREADS / 32) {
    float sum = 0.f;
#pragma unroll 8
    for (int c = lane; c < ALL; c += 32) sum = fmaf(widen(w1[k * ALL + c]), mean[c], sum);
#pragma unroll
    for (int d = 1; d < 32; d *= 2) sum += __shfl_xor_sync(~0u, sum, d);
    if (lane == 0) squeezed[k] = silu(0.5f * (sum / ((float)OH * OW) + c1[k]));
  }
  __syncthreads();
  for (int c = threadIdx.x; c < ALL; c += THREADS) {
    float sum = c2[c];
#pragma unroll 16
    for (int k = 0; k < SQUEEZED; ++k) sum = fmaf(widen(w2[k * ALL + c]), squeezed[k], sum);
    gates_of[(size_t)n * ALL + c] = 1.f / (1.f + __expf(-sum));
  }
#else
  const uint32_t sm = smem_u32(smem);
  const int tid = thread_index();
  const int wg = __shfl_sync(~0u, tid >> 7, 0), warp = __shfl_sync(~0u, tid >> 5, 0) & 3, lane = tid & 31, q = lane & 3;
  const int OH = (H - 1) / S + 1, OW = (W - 1) / S + 1;
  const int rank = SPLIT > 1 ? (int)cluster_rank() : 0;
  const int block = blockIdx.x / SPLIT, begin = block * ROWS, end = min(begin + ROWS, N * strips * OH);
  const uint32_t xfull = sm + OFF_BAR, xempty = xfull + 8 * XS, gfull = xempty + 8 * XS, gempty = gfull + 8 * GS, wfull = gempty + 8 * GS, ofull = wfull + 8, oempty = ofull + 8;

  if (tid == 0) {
    for (int i = 0; i < XS; ++i) { mbar_init(xfull + 8 * i, 128); mbar_init(xempty + 8 * i, 4 * NWG + (ADDS ? 128 : 0)); }
    for (int i = 0; i < GS; ++i) { mbar_init(gfull + 8 * i, 4 * NWG); mbar_init(gempty + 8 * i, 4); }
    mbar_init(wfull, 1);
    mbar_init(ofull, 128);
    mbar_init(oempty, 128);
    mbar_init_fence();
    constexpr int PART = NWG * WE, BACK = MO * WP, TABLES = NWG * 4 * TABLE;         // in this order in `weights`
    const unsigned char* part = weights + rank * (PART + TABLES + BACK);
    mbar_expect(wfull, PART + TABLES + (PASS == 1 ? 0 : BACK));
    bulk_load(sm + OFF_WE, part, PART, wfull);
    bulk_load(sm + OFF_TABLE, part + PART, TABLES, wfull);
    if (PASS != 1) bulk_load(sm + OFF_WP, part + PART + TABLES, BACK, wfull);
  }
  for (int i = tid; i < ONES / 4; i += 128 * NWG + 128) {                             // [panel][k8][blocks of eight columns][column][pairs along k]
    const int b = (i >> 5) % BLOCKS, n = i >> 2 & 7, column = (n >> 1) * OWN + 2 * b + (n & 1);
    const bool one = (i & 3) == 0 && (i >> 5) / BLOCKS % 2 == 0 && (i < SW * 8 || max(W - SW + S - 1, 0) / S * S + column < W);
    sts32(sm + OFF_ONES + i * 4, one ? (BF16 ? 0x3F80 : 0x3C00) : 0);
  }
  fence_async_proxy();
  if (SPLIT > 1) {
    cluster_arrive();
    cluster_wait();
  } else {
    __syncthreads();
  }
  pdl_launch();
  pdl_wait();                                                                        // x may be the previous grid's output, y its input

  if (wg < NWG) {  // ------------------------------------------------------------------------ expand, convolve
    take<PASS == 1 && SPARE ? REGISTERS + 8 : REGISTERS>();
    const uint64_t we = make_desc(sm + OFF_WE + wg * WE, 1024, 128), xd = make_desc(sm + OFF_X, 16, 1024) | (1ull << 62);
    const uint32_t table = sm + OFF_TABLE + (wg * 4 + warp) * TABLE + (lane >> 2) * 8;
    [[maybe_unused]] const uint32_t g_at = sm + OFF_G + wg * SO * 128 + ((lane >> 4) * 8 + (lane & 7)) * 128 + ((warp * 2 + (lane >> 3 & 1)) ^ (lane & 7)) * 16;
    Position<XS> xr = {0, 0};
    Position<GS> gr = {0, 0};
    mbar_wait(wfull, 0);
#if PASS == 1
    float sum[2] = {0.f, 0.f};
    auto leave = [&](int image) {                                                               // the sums of an image to memory
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        sum[c] += __shfl_xor_sync(~0u, sum[c], 1);
        sum[c] += __shfl_xor_sync(~0u, sum[c], 2);
        if (q == 0) sums_of[((size_t)(image + block) * SPLIT + rank) * HID + wg * 64 + warp * 16 + c * 8 + (lane >> 2)] = sum[c];
        sum[c] = 0.f;
      }
    };
#elif PASS == 3
    auto take_gates = [&](int n) {                                                   // this thread's two channels', in the half type, each twice
      const uint32_t own = table - sm - OFF_TABLE;                                   // all that is kept of who this thread is
      uint32_t gate[2];
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float one = __ldcg(gates_of + (size_t)n * ALL + rank * HID + own / TABLE * 16 + c * 8 + own % TABLE / 8);
        gate[c] = pack2(one, one);
      }
      __syncwarp();
      if (q == 0) sts64(table + (K * K + 2) * 64, gate[0], gate[1]);
      __syncwarp();
    };
#endif
    for (int at = begin; at < end;) {
      const Piece piece(at, end, strips, OH);
      // a one for every pixel of the image, which meets the bias: a panel for the last strip, if it is not full
      const uint64_t ones = make_desc(sm + OFF_ONES + (MASKED && piece.strip == strips - 1 ? SW * 32 : 0), SW * 16, 128);
      [[maybe_unused]] const int inside = MASKED ? W - piece.column(W) - q * OWN : OWN;          // of this lane's columns of h
      [[maybe_unused]] const int left = piece.left() - piece.column(W) / S - q * OC, right = piece.right(W, OW) - piece.column(W) / S - q * OC;
#if PASS == 3
      if (at == begin || (piece.strip == 0 && piece.first == 0)) take_gates(piece.n);   // another image
#endif
      at += piece.last - piece.first;
      const float2 bias = lds_pair(table + K * K * 64);
      Row sums[PENDING];
#pragma unroll
      for (int i = 0; i < PENDING; ++i)
#pragma unroll
        for (int j = 0; j < OC; ++j) sums[i][0][j] = bias.x, sums[i][1][j] = bias.y;
#pragma unroll 1
      for (int row = piece.top; row <= piece.bottom;) {
#pragma unroll
        for (int oldest = 0; oldest < TURNS; ++oldest) {                             // which row of sums: they change places, not registers
          const bool wanted = piece.wanted(row), real = row < H;
          float s[4 * BLOCKS];
          if (real) {
            mbar_wait(xfull + 8 * xr.slot, xr.phase);
            const uint64_t from = xd + __shfl_sync(~0u, xr.slot * (X_ROW >> 4), 0);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < KS; ++k) Wgmma<SW>::ss(s, we + k * (2048 >> 4), from + (k / 4 * SW * 128 + k % 4 * 32 >> 4), k > 0);
            if (FOLDED) Wgmma<SW>::ss(s, we + KS * (2048 >> 4), ones, 1);
            wgmma_commit();
            wgmma_wait<0>();
            if (lane == 0) mbar_arrive(xempty + 8 * xr.slot);
            xr.next();
          } else {
#pragma unroll
            for (int i = 0; i < 4 * BLOCKS; ++i) asm volatile("mov.f32 %0, 0f00000000;" : "=f"(s[i]));   // volatile: not for the other rows, too
          }
          if (PASS != 1 && wanted) mbar_wait(gempty + 8 * gr.slot, gr.phase ^ 1);
          // from here to the store without a branch, so that special functions and multiply-adds run side by side
          float2 be = make_float2(0.f, 0.f);
          if (!FOLDED) {
            be = lds_pair(table + (K * K + 1) * 64);
            if (!real) be.x = be.y = -1e4f;                                          // silu of which is 0
          }
          Hidden h;
#pragma unroll
          for (int j = 0; j < OWN; ++j)
#pragma unroll
            for (int c = 0; c < 2; ++c) h[c][PAD + j] = silu(FOLDED ? s[j / 2 * 4 + c * 2 + j % 2] : s[j / 2 * 4 + c * 2 + j % 2] + (c ? be.y : be.x));
          if (MASKED && !FOLDED && inside < OWN) {
#pragma unroll
            for (int j = 0; j < OWN; ++j)
              if (j >= inside) h[0][PAD + j] = h[1][PAD + j] = 0.f;
          }
#pragma unroll
          for (int i = 0; i < PAD; ++i)
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              const float before = __shfl_up_sync(~0u, h[c][OWN + i], 1, 4), after = __shfl_down_sync(~0u, h[c][PAD + i], 1, 4);
              h[c][i] = q > 0 ? before : 0.f;
              h[c][PAD + OWN + i] = q < 3 ? after : 0.f;
            }
          if (S == 2 && !piece.emits(row)) {
            Shift<0>::between(sums, h, table);
          } else {
            Row out;
            add<K - 1>(out, [&](int c, int j) { return sums[oldest][c][j]; }, h, table);
#pragma unroll
            for (int j = 0; j < OC; ++j)
#pragma unroll
              for (int c = 0; c < 2; ++c) out[c][j] = silu(out[c][j]);
            if constexpr (ROTATES) Turn<1>::emitting(sums, oldest, h, table);
#if PASS == 1
            if (wanted) {
#pragma unroll
              for (int j = 0; j < OC; ++j)
#pragma unroll
                for (int c = 0; c < 2; ++c)
                  if (!(MASKED || OVERLAPS) || (j >= left && j < right)) sum[c] += out[c][j];
            }
#else
            uint32_t g[2][2 * (BO / 2) + 2];
#pragma unroll
            for (int b = 0; b < BO; ++b)
#pragma unroll
              for (int c = 0; c < 2; ++c) g[c][b] = pack2(out[c][2 * b], 2 * b + 1 < OC ? out[c][2 * b + 1] : 0.f);
            if (wanted) {
#if PASS == 3
              const float2 gate = lds_pair(table + (K * K + 2) * 64);                // each twice, in the half type
#pragma unroll
              for (int b = 0; b < BO; ++b) {
                g[0][b] = mul2(g[0][b], __float_as_uint(gate.x));
                g[1][b] = mul2(g[1][b], __float_as_uint(gate.y));
              }
#endif
              const uint32_t to = g_at + gr.slot * G_ROW;
#pragma unroll
              for (int b = 0; b + 1 < BO; b += 2) stsm4_transposed(to + b * 1024, g[0][b], g[1][b], g[0][b + 1], g[1][b + 1]);
              if (BO % 2) stsm2_transposed(to + (BO - 1) * 1024, g[0][BO - 1], g[1][BO - 1]);
              fence_async_proxy();
              __syncwarp();
              if (lane == 0) mbar_arrive(gfull + 8 * gr.slot);
              gr.next();
            }
#endif
            if constexpr (ROTATES) {
              const float2 start = lds_pair(table + K * K * 64);
              add<0>(sums[oldest], [&](int c, int) { return c ? start.y : start.x; }, h, table);
            } else {
              Shift<0>::emitting(sums, h, table);
            }
          }
          if (++row > piece.bottom) break;
        }
      }
#if PASS == 1
      if (at == end || (piece.strip == strips - 1 && piece.last == OH)) leave(piece.n);  // no more of this image
#endif
    }
  } else {  // ------------------------------------------------------------------------------- fetch x; project
    take<PASS == 1 && SPARE ? PROJECT_REGISTERS - 8 * NWG : PROJECT_REGISTERS>();
    const int t = tid & 127;
    // ---- rows of x: this thread has 16 bytes of pixels t / CHUNKS, and every 128 / CHUNKS-th from there on
    constexpr int CHUNKS = SLABS * 8, STEP = 128 / CHUNKS, TIMES = (SW + STEP - 1) / STEP;
    static_assert(STEP % 8 == 0, "blocks of eight pixels");
    Position<XS> put = {0, 0}, show = {0, 0};
    Piece next(begin, end, strips, OH);                                              // and the row of it to ask for next
    int asked = begin, asked_row = next.top, rows_asked = 0, rows_shown = 0;
    const int place = t / CHUNKS, part = t % CHUNKS, own = (place >> 1 & 3) * OWN + (place >> 3) * 2 + (place & 1);
    const uint32_t x_to = sm + OFF_X + (part >> 3) * SW * 128 + place * 128 + ((part ^ place) & 7) * 16;
    auto ask = [&] {                                                                 // for one row, if there is one
      if (asked < end) {
        const int column = next.column(W) + own;
        const Element* from = x + (((size_t)next.n * H + asked_row) * W + column) * C + part * 8;
        const uint32_t to = x_to + put.slot * X_ROW;
        mbar_wait(xempty + 8 * put.slot, put.phase ^ 1);
        put.next();
        ++rows_asked;
#pragma unroll
        for (int i = 0; i < TIMES; ++i) {
          const int further = i * (STEP / 8) * 2;                                    // columns
          const bool in = column + further < W && part * 8 < C;
          if ((i + 1) * STEP <= SW || place + i * STEP < SW) cp_async16(to + i * STEP * 128, in ? from + further * C : x, in);
        }
        if (++asked_row > min(next.bottom, H - 1)) {
          asked += next.last - next.first;
          next = Piece(asked, end, strips, OH);
          asked_row = next.top;
        }
      }
      cp_async_commit();
    };
    auto publish = [&] {                                                             // the oldest row that was asked for
      cp_async_wait<AHEAD - READY>();
      if (rows_shown < rows_asked) {
        fence_async_proxy();
        mbar_arrive(xfull + 8 * show.slot);
        show.next();
        ++rows_shown;
      }
    };
#pragma unroll 1
    for (int i = 0; i < AHEAD; ++i) {
      ask();
      if (i >= AHEAD - READY) publish();
    }
    Position<GS> gr = {0, 0};
    Position<XS> xr = {0, 0};                                                        // of the row of x that is added
    [[maybe_unused]] const uint64_t gd = make_desc(sm + OFF_G, 16, 1024) | (1ull << 62), wp = make_desc(sm + OFF_WP, 1024, 128);
    // the block of the output's channels that comes first in d; with SPLIT it is this block's, and the other one the other block's
    const int first_m = SPLIT > 1 && MO == 2 ? rank : 0;
    [[maybe_unused]] const bool sends = SPLIT > 1 && (MO == 2 || rank == 1), finishes = SPLIT == 1 || MO == 2 || rank == 0;
    [[maybe_unused]] const uint32_t there = SPLIT > 1 ? map_rank(sm, rank ^ 1) - sm : 0;
    [[maybe_unused]] uint32_t turn = 0;
    // what this thread writes: 16 bytes of places t / PARTS, and every 128 / PARTS-th from there on
    constexpr int PARTS = MINE * 8, LEAP = 128 / PARTS, LEAPS = (SO + LEAP - 1) / LEAP;
    static_assert(LEAP % 8 == 0, "blocks of eight pixels");
    const int y_place = t / PARTS, y_part = t % PARTS, y_own = (y_place >> 3) * 2 + (y_place & 1), y_column = (y_place >> 1 & 3) * OC + y_own;
    const uint32_t y_from = sm + OFF_Y + y_place * PITCH_Y + y_part * 16;
    const uint32_t y_to = sm + OFF_Y + ((lane >> 4) * 8 + (lane & 7)) * PITCH_Y + warp * 32 + (lane >> 3 & 1) * 16;
    const uint32_t x_from = sm + OFF_X + (first_m + (y_part >> 3)) * SW * 128 + y_place * 128 + ((y_part ^ y_place) & 7) * 16;
    float bias[MINE][2];
#pragma unroll
    for (int m = 0; m < MINE; ++m)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int channel = (first_m + m) * 64 + warp * 16 + c * 8 + (lane >> 2);
        bias[m][c] = !FOLDED && channel < CO ? project_b[channel] : 0.f;
      }
    mbar_wait(wfull, 0);
    for (int at = begin; at < end;) {
      const Piece piece(at, end, strips, OH);
      at += piece.last - piece.first;
      const int left = piece.left(), right = piece.right(W, OW), first_column = piece.column(W) / S + y_column;
#pragma unroll 1
      for (int row = piece.top; row <= piece.bottom; ++row) {
        if (PASS == 1 || !piece.wanted(row)) {
          if (row < H) {
            ask();
            publish();
            if (ADDS && row < piece.first) {                                         // only a neighbour of the rows of this block
              if (lane == 0) mbar_arrive(xempty + 8 * xr.slot, 32);              // for its warp, which has read nothing of it
              xr.next();
            }
          }
          continue;
        }
        const int o = (row - PAD) / S;
        float d[MO][4 * BO];
        mbar_wait(gfull + 8 * gr.slot, gr.phase);
        const uint64_t from = gd + __shfl_sync(~0u, gr.slot * (G_ROW >> 4), 0);
        uint64_t matrix[MO];                                                         // opaque: or the descriptors of all steps are kept from row to row
#pragma unroll
        for (int m = 0; m < MO; ++m) matrix[m] = wp + __shfl_sync(~0u, (m ^ first_m) * (WP >> 4), 0);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4 * NWG; ++k)
#pragma unroll
          for (int m = 0; m < MO; ++m)
            Wgmma<SO>::ss(d[m], matrix[m] + (k * 2048 >> 4), from + (k / 4 * SO * 128 + k % 4 * 32 >> 4), k > 0);
#pragma unroll
        for (int m = 0; m < MO && FOLDED; ++m) Wgmma<SO>::ss(d[m], matrix[m] + (NWG * 8192 >> 4), make_desc(sm + OFF_ONES, SW * 16, 128), 1);
        wgmma_commit();
        if (row < H) {                                                               // under the product
          ask();
          publish();
        }
        wgmma_wait<0>();
        if (lane == 0) mbar_arrive(gempty + 8 * gr.slot);
        gr.next();
        if (SPLIT > 1) {
          turn ^= 1;
          if (sends) {
            mbar_acquire(oempty, turn);
#pragma unroll
            for (int b = 0; b < BO; ++b) sts_remote(sm + OFF_OTHER + there + (b * 128 + t) * 16, d[MO - 1] + 4 * b);
            mbar_release_remote(ofull + there);
          }
          if (finishes) {
            mbar_acquire(ofull, turn ^ 1);
#pragma unroll
            for (int b = 0; b < BO; ++b) {
              const uint4 v = lds128(sm + OFF_OTHER + (b * 128 + t) * 16);
              d[0][4 * b] += __uint_as_float(v.x), d[0][4 * b + 1] += __uint_as_float(v.y);
              d[0][4 * b + 2] += __uint_as_float(v.z), d[0][4 * b + 3] += __uint_as_float(v.w);
            }
            mbar_release_remote(oempty + there);
          }
        }
        if (!finishes) {
          if (ADDS) {
            mbar_arrive(xempty + 8 * xr.slot);
            xr.next();
          }
          continue;
        }
        bar_sync(1, 128);                                                            // the row before is written
#pragma unroll
        for (int m = 0; m < MINE; ++m) {
#pragma unroll
          for (int i = 0; i < 4 * BO && !FOLDED; ++i) d[m][i] += bias[m][i >> 1 & 1];
#pragma unroll
          for (int b = 0; b + 1 < BO; b += 2) {
            const float* v = d[m] + 4 * b;
            stsm4_transposed(y_to + b * 8 * PITCH_Y + m * 128, pack2(v[0], v[1]), pack2(v[2], v[3]), pack2(v[4], v[5]), pack2(v[6], v[7]));
          }
          if (BO % 2) {
            const float* v = d[m] + 4 * BO - 4;
            stsm2_transposed(y_to + (BO - 1) * 8 * PITCH_Y + m * 128, pack2(v[0], v[1]), pack2(v[2], v[3]));
          }
        }
        bar_sync(1, 128);
        Element* to = y + (((size_t)piece.n * OH + o) * OW + first_column) * CO + first_m * 64 + y_part * 8;
#pragma unroll
        for (int i = 0; i < LEAPS; ++i) {
          const int further = i * (LEAP / 8) * 2, column = first_column + further;
          if (y_own + further >= OC || column < left || column >= right || first_m * 64 + y_part * 8 >= CO) continue;
          uint4 v = lds128(y_from + i * LEAP * PITCH_Y);
          if (ADDS) {
            const uint4 r = lds128(x_from + xr.slot * X_ROW + i * LEAP * 128);
#pragma unroll
            for (int k = 0; k < 4; ++k) {
              Element2 s = __hadd2(*reinterpret_cast<const Element2*>(&(&v.x)[k]), *reinterpret_cast<const Element2*>(&(&r.x)[k]));
              (&v.x)[k] = *reinterpret_cast<uint32_t*>(&s);
            }
          }
          *reinterpret_cast<uint4*>(to + further * CO) = v;
        }
        if (ADDS) {
          mbar_arrive(xempty + 8 * xr.slot);
          xr.next();
        }
      }
      if (ADDS)                                                                      // rows below the last, which were only neighbours
        for (int row = piece.last; row <= min(piece.bottom, H - 1); ++row) {
          mbar_arrive(xempty + 8 * xr.slot);
          xr.next();
        }
    }
  }
  if (SPLIT > 1) {                                                                  // the other block may still write here
    cluster_arrive();
    cluster_wait();
  }
#endif
}
