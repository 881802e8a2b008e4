// What the generic kernels (sm_80 and later, fp16 or bf16) share: wrappers of single instructions, the stream of weights through
// shared memory, the product of the inverted bottleneck, and the way out.
//
// A block has WARP_GROUPS groups of WARPS_M x WARPS_N warps. A group owns a tile of TILE_ROWS x TILE_COLUMNS output pixels, counted
// with the idle ones M = 16 * M16_PER_WARP * WARPS_M, and BLOCKS_PER_WARP * WARPS_N blocks of eight output channels, whose sums stay
// in its registers: warp (wm, wn) has the pixels of wm and the channels of wn. It walks over chunks of HIDDEN_CHUNK hidden channels.
//
// Weights are packed by the host in the order in which they are needed, as mma B operands: for each chunk the items of the
// expansion (EXPAND_STEPS k16 steps each), one item of CONV_BYTES where a convolution works on the chunk, and the items of the
// projection (PROJECT_STEPS k16 steps each). Either the whole stream stays in shared memory (RING_SLOTS = 0; a block then walks
// over many tiles), or it passes through a ring of slots that cp.async fills while the items before are in use.
//
// Grid: x walks over tiles, y over output channels (wider outputs repeat the expansion), z over HIDDEN_SPLITS parts of the hidden
// channels, whose sums the last block to finish adds in a fixed order: results do not depend on who is last.
#pragma once
#include "instructions.cuh"

// ------------------------------------------------------------------------------------------------------- activations
struct Silu {
  static __device__ __forceinline__ float of(float v) { return silu(0.5f * v); }
};
// v * (1 + erf(v / sqrt 2)) / 2. The odd polynomial is a minimax fit of erf, weighted by v, that reaches 1 at 4.2, where v is cut
// off; the result is within 9e-5 of the exact function everywhere: less than fp16 rounds a result near 1 by (2.4e-4).
struct Gelu {
  static __device__ __forceinline__ float of(float v) {
    const float c = fminf(fmaxf(v, -4.2f), 4.2f), t = c * c, u = 0.5f * v;
    float p = -1.80345905e-9f;
    p = fmaf(p, t, 1.58823468e-7f);
    p = fmaf(p, t, -6.07576931e-6f);
    p = fmaf(p, t, 1.3378002e-4f);
    p = fmaf(p, t, -1.90130388e-3f);
    p = fmaf(p, t, 1.85964108e-2f);
    p = fmaf(p, t, -1.31056309e-1f);
    p = fmaf(p, t, 7.96931684e-1f);
    return fmaf(u, p * c, u);
  }
};

// ------------------------------------------------------------------------------------------------------------ layout
namespace generic {
__host__ __device__ constexpr int larger(int a, int b) { return a > b ? a : b; }

constexpr int C = CHANNELS, G = C / 8, KA = (C + 15) / 16;  // blocks of 8, and k16 steps, of the input's channels
constexpr int CO = OUT_CHANNELS, GO = CO / 8;
constexpr int HC = HIDDEN_CHUNK, NCH = (HIDDEN + HC - 1) / HC;
constexpr int WM = WARPS_M, WN = WARPS_N, WARPS = WM * WN, THREADS = 32 * WARPS;  // of a group
constexpr int MI = M16_PER_WARP, M = 16 * WM * MI, PIXELS = TILE_ROWS * TILE_COLUMNS;
constexpr int NE = HC / 8 / WN, NO = BLOCKS_PER_WARP, NOB = NO * WN;  // n8 blocks per warp: expansion, projection
constexpr int COLUMNS = (GO + NOB - 1) / NOB;                        // gridDim.y
constexpr int HALO = KERNEL / 2, HALO_ROWS = (TILE_ROWS - 1) * STRIDE + KERNEL, HALO_COLUMNS = (TILE_COLUMNS - 1) * STRIDE + KERNEL;
constexpr int HALO_PIXELS = HALO_ROWS * HALO_COLUMNS;
// the stream of weights
constexpr int KSE = EXPAND_STEPS, EI = (EXPAND_DEPTH + KSE - 1) / KSE, KSP = PROJECT_STEPS, PI = HC / 16 / KSP;
constexpr int E_BYTES = KSE * HC * 32, V_BYTES = CONV_BYTES, P_BYTES = KSP * NOB * 256;
constexpr int CHUNK_BYTES = EI * E_BYTES + V_BYTES + PI * P_BYTES;
constexpr int ITEMS = EI + (V_BYTES ? 1 : 0) + (PROJECTS ? PI : 0);
constexpr bool RESIDENT = RING_SLOTS == 0;
constexpr int SLOT_BYTES = larger(larger(E_BYTES, V_BYTES), P_BYTES);
constexpr int WEIGHT_BYTES = RESIDENT ? NCH * CHUNK_BYTES : RING_SLOTS * SLOT_BYTES;
// odd multiples of 16 bytes: eight rows lie in different banks
constexpr int PITCH_P = HC * 2 + 16, PITCH_X = KA * 32 + 16;
constexpr int P_BUFFERS = WN == 1 ? 0 : RESIDENT ? 2 : 1;  // of the chunk after its activation; in registers where a warp has all its columns
constexpr bool FREE_RUNNING = RESIDENT && WN == 1;         // no warp waits for another between chunks

static_assert(PIXELS <= M && HC % (8 * WN) == 0 && HC % (16 * KSP) == 0, "tile");
static_assert(RESIDENT || (WARP_GROUPS == 1 && RING_SLOTS >= 2), "a ring serves one group");
static_assert(HIDDEN_SPLITS == 1 || (WARP_GROUPS == 1 && HIDDEN_SPLITS <= NCH), "splits");

__host__ __device__ constexpr int item_offset(int r) {
  return r < EI ? r * E_BYTES : r == EI || !V_BYTES ? EI * E_BYTES + (r - EI) * P_BYTES : EI * E_BYTES + V_BYTES + (r - EI - 1) * P_BYTES;
}
__host__ __device__ constexpr int item_bytes(int r) { return r < EI ? E_BYTES : V_BYTES && r == EI ? V_BYTES : P_BYTES; }

// Where a warp stands: in its block, its group, its tile.
struct Place {
  int group, thread, warp, lane, wm, wn;
  __device__ __forceinline__ Place() {
    group = threadIdx.x / THREADS;
    thread = threadIdx.x % THREADS;
    lane = threadIdx.x & 31;
    warp = __shfl_sync(~0u, thread >> 5, 0);  // says to the compiler that it is the same for all lanes
    wm = warp / WN;
    wn = warp % WN;
  }
  __device__ __forceinline__ void sync() const {
    if (WARP_GROUPS == 1) __syncthreads();
    else asm volatile("bar.sync %0, %1;" ::"r"(group + 1), "n"(THREADS) : "memory");
  }
};

struct Tile {
  int n, y, x;  // image, first output row and column
  __device__ __forceinline__ Tile(int index, int H, int W) {
    const int across = (W + TILE_COLUMNS - 1) / TILE_COLUMNS, down = (H + TILE_ROWS - 1) / TILE_ROWS;
    x = index % across * TILE_COLUMNS;
    y = index / across % down * TILE_ROWS;
    n = index / across / down;
  }
};
__device__ __forceinline__ int tiles_of_image(int H, int W) {
  return (W + TILE_COLUMNS - 1) / TILE_COLUMNS * ((H + TILE_ROWS - 1) / TILE_ROWS);
}

// The tile and its halo, `groups` blocks of eight channels from block g0 on, zero outside of the image and of the channels.
template <int GROUPS>
__device__ __forceinline__ void load_input(const Place& at, uint32_t to, int pitch, const Element* x, const Tile& tile, int H, int W, int g0) {
  const int y0 = tile.y * STRIDE - HALO, x0 = tile.x * STRIDE - HALO;
  const Element* image = x + (size_t)tile.n * H * W * C;
  for (int i = at.thread; i < HALO_PIXELS * GROUPS; i += THREADS) {
    const int g = i % GROUPS, p = i / GROUPS, yy = y0 + p / HALO_COLUMNS, xx = x0 + p % HALO_COLUMNS;
    const bool inside = g0 + g < G && (unsigned)yy < (unsigned)H && (unsigned)xx < (unsigned)W;
    cp_async16(to + p * pitch + g * 16, inside ? image + ((size_t)yy * W + xx) * C + (g0 + g) * 8 : x, inside);
  }
}

// ----------------------------------------------------------------------------------------------- the stream of weights
struct Stream {
  const unsigned char* from;
  uint32_t to;
  int chunks, fetched, taken, total;

  // `tiles` of this block, each of which takes `chunks` chunks
  __device__ __forceinline__ Stream(const void* weights, uint32_t shared, int first_chunk, int chunks_of_tile, int tiles) {
    from = static_cast<const unsigned char*>(weights) + ((size_t)blockIdx.y * NCH + first_chunk) * CHUNK_BYTES;
    to = shared;
    chunks = chunks_of_tile;
    fetched = taken = 0;
    total = tiles * chunks * ITEMS;
    if (RESIDENT) {
      for (int i = threadIdx.x; i < chunks * CHUNK_BYTES / 16; i += THREADS * WARP_GROUPS) cp_async16(to + i * 16, from + i * 16, true);
      cp_async_commit();
      cp_async_wait<0>();
      __syncthreads();
    } else {
      for (int s = 0; s < RING_SLOTS - 1; ++s) fetch();
    }
  }
  __device__ __forceinline__ void fetch() {
    if (fetched < total) {
      const int r = fetched % ITEMS, bytes = item_bytes(r);
      const unsigned char* item = from + (size_t)(fetched / ITEMS % chunks) * CHUNK_BYTES + item_offset(r);
      const uint32_t slot = to + fetched % larger(RING_SLOTS, 1) * SLOT_BYTES;
      for (int i = threadIdx.x * 16; i < bytes; i += THREADS * 16) cp_async16(slot + i, item + i, true);
      ++fetched;
    }
    cp_async_commit();
  }
  // The address of item r of chunk j (counted from the block's first). Items are asked for in their order by all warps of a group.
  // `fence`: what the group wrote to shared memory before is visible after. With a ring it always is.
  __device__ __forceinline__ uint32_t next(const Place& at, int j, int r, bool fence) {
    if (RESIDENT) {
      if (fence) at.sync();
      return to + j * CHUNK_BYTES + item_offset(r);
    }
    cp_async_wait<larger(RING_SLOTS - 2, 0)>();
    __syncthreads();  // the item is there for all; and all are past the one before, whose slot is filled again
    const uint32_t slot = to + taken % larger(RING_SLOTS, 1) * SLOT_BYTES;
    ++taken;
    fetch();
    return slot;
  }
};

// ---------------------------------------------------------------------------------------------------------- products
// acc += A . B for one k16: NB blocks of eight columns, packed in pairs of 512 bytes and a last one of 256.
template <int MT, int NB> __device__ __forceinline__ void multiply(float (&acc)[MT][NB][4], const uint32_t (&a)[MT][4], uint32_t b_at, int lane) {
#pragma unroll
  for (int b = 0; b + 1 < NB; b += 2) {
    const uint4 w = lds128(b_at + b * 256 + lane * 16);
#pragma unroll
    for (int i = 0; i < MT; ++i) {
      mma16816(acc[i][b], a[i], w.x, w.y);
      mma16816(acc[i][b + 1], a[i], w.z, w.w);
    }
  }
  if (NB % 2) {
    const uint2 w = lds64(b_at + (NB - 1) * 256 + lane * 8);
#pragma unroll
    for (int i = 0; i < MT; ++i) mma16816(acc[i][NB - 1], a[i], w.x, w.y);
  }
}
template <int MT, int NB> __device__ __forceinline__ void clear(float (&acc)[MT][NB][4]) {
#pragma unroll
  for (int i = 0; i < MT; ++i)
#pragma unroll
    for (int b = 0; b < NB; ++b)
#pragma unroll
      for (int v = 0; v < 4; ++v) acc[i][b][v] = 0.f;
}
// Every row starts from the bias of its column; `bias`: of the warp's first column
template <int MT, int NB> __device__ __forceinline__ void start_from(float (&acc)[MT][NB][4], const float* bias, int lane) {
#pragma unroll
  for (int b = 0; b < NB; ++b) {
    const float2 v = __ldg(reinterpret_cast<const float2*>(bias + b * 8 + (lane & 3) * 2));
#pragma unroll
    for (int i = 0; i < MT; ++i) acc[i][b][0] = acc[i][b][2] = v.x, acc[i][b][1] = acc[i][b][3] = v.y;
  }
}
// The expansion of chunk j: acc += A . We, A's rows of this lane at a_at, the k16 step s of it offset(s) further.
template <int MT, class Offset>
__device__ __forceinline__ void expand(float (&s)[MT][NE][4], const uint32_t (&a_at)[MT], Stream& stream, const Place& at, int j, Offset offset) {
#pragma unroll 1
  for (int r = 0; r < EI; ++r) {
    const uint32_t w = stream.next(at, j, r, false) + at.wn * NE * 256;
    const int steps = EXPAND_DEPTH % KSE && EXPAND_DEPTH - r * KSE < KSE ? EXPAND_DEPTH - r * KSE : KSE;
#pragma unroll 4
    for (int k = 0; k < steps; ++k) {
      const int further = offset(r * KSE + k);
      uint32_t a[MT][4];
#pragma unroll
      for (int i = 0; i < MT; ++i) ldsm4(a[i], a_at[i] + further);
      multiply<MT, NE>(s, a, w + k * HC * 32, at.lane);
    }
  }
}
// The projection of chunk j: o += P . Wp, P's rows of this lane at p_at. The barrier before it makes P visible.
__device__ __forceinline__ void project(float (&o)[MI][NO][4], uint32_t p_at, Stream& stream, const Place& at, int j) {
#pragma unroll 1
  for (int r = 0; r < PI; ++r) {
    const uint32_t w = stream.next(at, j, ITEMS - PI + r, r == 0) + at.wn * NO * 256;
#pragma unroll
    for (int k = 0; k < KSP; ++k) {
      uint32_t p[MI][4];
#pragma unroll
      for (int i = 0; i < MI; ++i) ldsm4(p[i], p_at + i * 16 * PITCH_P + (r * KSP + k) * 32);
      multiply<MI, NO>(o, p, w + k * NOB * 256, at.lane);
    }
  }
}
// Chunks of A . We -> activation -> . Wp, where A is in shared memory (rows of this lane at a_at) and P goes to p_shared.
template <class Activation, class Offset>
__device__ __forceinline__ void bottleneck(float (&o)[MI][NO][4], const uint32_t (&a_at)[MI], uint32_t p_shared, const float* bias,
                                           Stream& stream, const Place& at, Offset offset) {
  const uint32_t row = (at.wm * MI * 16 + (at.lane & 15)) * PITCH_P + (at.lane >> 4) * 16;
#pragma unroll 1
  for (int j = 0; j < stream.chunks; ++j) {
    float s[MI][NE][4];
    start_from<MI, NE>(s, bias + j * HC + at.wn * NE * 8, at.lane);
    expand<MI>(s, a_at, stream, at, j, offset);
    if constexpr (WN == 1) {
      uint32_t p[MI][HC / 16][4];
#pragma unroll
      for (int i = 0; i < MI; ++i)
#pragma unroll
        for (int b = 0; b < NE; ++b) {
          p[i][b / 2][b % 2 * 2] = pack2(Activation::of(s[i][b][0]), Activation::of(s[i][b][1]));
          p[i][b / 2][b % 2 * 2 + 1] = pack2(Activation::of(s[i][b][2]), Activation::of(s[i][b][3]));
        }
#pragma unroll
      for (int r = 0; r < PI; ++r) {
        const uint32_t w = stream.next(at, j, EI + r, false);
#pragma unroll
        for (int k = 0; k < KSP; ++k) {
          uint32_t a[MI][4];
#pragma unroll
          for (int i = 0; i < MI; ++i)
#pragma unroll
            for (int v = 0; v < 4; ++v) a[i][v] = p[i][r * KSP + k][v];
          multiply<MI, NO>(o, a, w + k * NOB * 256, at.lane);
        }
      }
    } else {
      const uint32_t buffer = p_shared + (P_BUFFERS == 2 ? (j & 1) * M * PITCH_P : 0);
      const uint32_t to = buffer + (at.wm * MI * 16 + (at.lane >> 2)) * PITCH_P + at.wn * NE * 16 + (at.lane & 3) * 4;
#pragma unroll
      for (int i = 0; i < MI; ++i)
#pragma unroll
        for (int b = 0; b < NE; ++b) {
          sts32(to + i * 16 * PITCH_P + b * 16, pack2(Activation::of(s[i][b][0]), Activation::of(s[i][b][1])));
          sts32(to + (i * 16 + 8) * PITCH_P + b * 16, pack2(Activation::of(s[i][b][2]), Activation::of(s[i][b][3])));
        }
      project(o, buffer + row, stream, at, j);
    }
  }
}

// ------------------------------------------------------------------------- convolution in groups of eight channels by mma
// k16 = two taps x 8 channels, k8 for the last tap. Depthwise filters come as diagonal ones. Taps are paired along each row of the
// filter, and down its last column: what the second half of k16 reads is then one pixel, or one row of the halo tile, further.
constexpr int ROW_PAIRS = KERNEL / 2, PAIRS = KERNEL * KERNEL / 2, FILTER_BYTES = PAIRS * 256 + 128;  // of a group: B operands
// m16 tiles that a warp takes at once, of `groups` times M: independent sums hide the latency of mma, and share the filter's operands
__host__ __device__ constexpr int tiles_at_once(int groups) {
  return M / 16 % 4 == 0 && groups * M / 64 >= WARPS ? 4 : M / 16 % 2 == 0 && groups * M / 32 >= WARPS ? 2 : 1;
}
// d[t] += of 16 output pixels each; from[t]: this lane's pixel of them (lane mod 16) at its first tap; read2, read1: of the filter
template <int PITCH, int T, class Read2, class Read1>
__device__ __forceinline__ void convolve(float (&d)[T][4], const uint32_t (&from)[T], Read2 read2, Read1 read1, int lane) {
  const uint32_t along = (lane >> 4) * PITCH, down = ((lane >> 4) * HALO_COLUMNS + KERNEL - 1) * PITCH;
  float odd[4] = {0.f, 0.f, 0.f, 0.f};  // a second sum where there is one tile only
#pragma unroll
  for (int p = 0; p < PAIRS; ++p) {
    const uint2 w = read2(p * 256 + lane * 8);
#pragma unroll
    for (int t = 0; t < T; ++t) {
      uint32_t a[4];
      ldsm4(a, p < KERNEL * ROW_PAIRS ? from[t] + along + (p / ROW_PAIRS * HALO_COLUMNS + p % ROW_PAIRS * 2) * PITCH
                                      : from[t] + down + (p - KERNEL * ROW_PAIRS) * 2 * HALO_COLUMNS * PITCH);
      mma16816(T == 1 && p % 2 ? odd : d[t], a, w.x, w.y);
    }
  }
  const uint32_t w = read1(PAIRS * 256 + lane * 4);
#pragma unroll
  for (int t = 0; t < T; ++t) {
    uint32_t a0, a1;
    ldsm2(a0, a1, from[t] + ((KERNEL - 1) * HALO_COLUMNS + KERNEL - 1) * PITCH);
    mma1688(d[t], a0, a1, w);
  }
  if (T == 1) d[0][0] += odd[0], d[0][1] += odd[1], d[0][2] += odd[2], d[0][3] += odd[3];
}
// First tap of output pixel m of the tile, counted in pixels of the halo tile. Idle ones repeat the first.
__device__ __forceinline__ int first_tap(int m) {
  const int pixel = m < PIXELS ? m : 0;
  return pixel / TILE_COLUMNS * STRIDE * HALO_COLUMNS + pixel % TILE_COLUMNS * STRIDE;
}

// Tile and halo of the input, slab by slab of channels, through the convolution into A (M x C). The first slab was asked for before;
// the last thing done is to ask for the first slab of tile `next` (-1: there is none), which flies during the rest of this tile.
// Bias::of(c) gives the start of columns c, c + 1.
constexpr int SG = SLAB_GROUPS, NSLABS = (G + SG - 1) / SG, PITCH_S = SG * 16 + (SG % 2 ? 0 : 16);
constexpr int SLAB_BYTES = HALO_PIXELS * PITCH_S;
template <class Bias>
__device__ __forceinline__ void convolve_input(const Place& at, uint32_t slabs, uint32_t a_shared, const Element* x, const uint32_t* filters,
                                               Bias bias, int& turn, int tile, int next, int H, int W) {
#pragma unroll 1
  for (int s = 0; s < NSLABS; ++s, ++turn) {
    const uint32_t slab = slabs + turn % INPUT_BUFFERS * SLAB_BYTES;
    cp_async_wait<0>();
    at.sync();
    const bool more = s + 1 < NSLABS;
    auto prefetch = [&] {
      if (more || next >= 0)
        load_input<SG>(at, slabs + (turn + 1) % INPUT_BUFFERS * SLAB_BYTES, PITCH_S, x, Tile(more ? tile : next, H, W), H, W, more ? (s + 1) * SG : 0);
      cp_async_commit();
    };
    if (INPUT_BUFFERS > 1) prefetch();
    constexpr int T = tiles_at_once(SG), SETS = M / 16 / T;
    const int jobs = (G - s * SG < SG ? G - s * SG : SG) * SETS;
#pragma unroll 1
    for (int i = at.warp * jobs / WARPS; i < (at.warp + 1) * jobs / WARPS; ++i) {
      const int g = i / SETS, first = i % SETS * T * 16, q = at.lane & 3;
      const unsigned char* w = reinterpret_cast<const unsigned char*>(filters) + (size_t)(s * SG + g) * FILTER_BYTES;
      const float2 start = bias((s * SG + g) * 8 + q * 2);
      float d[T][4];
      uint32_t from[T];
#pragma unroll
      for (int t = 0; t < T; ++t) {
        d[t][0] = d[t][2] = start.x, d[t][1] = d[t][3] = start.y;
        from[t] = slab + first_tap(first + t * 16 + (at.lane & 15)) * PITCH_S + g * 16;
      }
      convolve<PITCH_S, T>(d, from, [w](int b) { return __ldg(reinterpret_cast<const uint2*>(w + b)); },
                           [w](int b) { return __ldg(reinterpret_cast<const uint32_t*>(w + b)); }, at.lane);
      const uint32_t to = a_shared + (first + (at.lane >> 2)) * PITCH_X + (s * SG + g) * 16 + q * 4;
#pragma unroll
      for (int t = 0; t < T; ++t) {
        sts32(to + t * 16 * PITCH_X, pack2(d[t][0], d[t][1]));
        sts32(to + (t * 16 + 8) * PITCH_X, pack2(d[t][2], d[t][3]));
      }
    }
    if (INPUT_BUFFERS == 1) {
      at.sync();
      prefetch();
    }
  }
  at.sync();  // A is complete
}

// ----------------------------------------------------------------------------------------------------------- the way out
// Adds the sums of the blocks that share a tile; true for the one that goes on with it, which is the last to come. `partial` and
// `arrived` (zero before the first launch, and again after each) are scratch.
__device__ __forceinline__ bool merge(float (&o)[MI][NO][4], float4* partial, unsigned* arrived, int tile, const Place& at) {
  if (HIDDEN_SPLITS == 1) return true;
  __shared__ bool last;
  const size_t share = (size_t)tile * COLUMNS + blockIdx.y;
  float4* all = partial + share * HIDDEN_SPLITS * MI * NO * THREADS + at.thread;
#pragma unroll
  for (int i = 0; i < MI; ++i)
#pragma unroll
    for (int b = 0; b < NO; ++b)
      __stcg(all + ((size_t)blockIdx.z * MI * NO + i * NO + b) * THREADS, make_float4(o[i][b][0], o[i][b][1], o[i][b][2], o[i][b][3]));
  __syncthreads();
  if (threadIdx.x == 0) {  // one fence for what the barrier gathered: fences of every warp would queue
    __threadfence();
    last = atomicAdd(arrived + share, 1u) == HIDDEN_SPLITS - 1;
    if (last) {
      arrived[share] = 0;
      __threadfence();
    }
  }
  __syncthreads();
  const bool mine = last;
  if (!mine) return false;
  clear<MI, NO>(o);
#pragma unroll 1
  for (int z = 0; z < HIDDEN_SPLITS; ++z) {
#pragma unroll
    for (int i = 0; i < MI; ++i)
#pragma unroll
      for (int b = 0; b < NO; ++b) {
        const float4 v = __ldcg(all + ((size_t)z * MI * NO + i * NO + b) * THREADS);
        o[i][b][0] += v.x, o[i][b][1] += v.y, o[i][b][2] += v.z, o[i][b][3] += v.w;
      }
  }
  return true;
}

// O + bias into shared memory, pixel m at to + place(m), and from there 16 bytes at a time into the output.
// IN_PLACE: what lies there is the input, and is added. FROM_INPUT: the input is read again from global memory, and added.
enum class Residual { none, in_place, from_input };
template <Residual HOW, class RowPlace>
__device__ __forceinline__ void finish(const float (&o)[MI][NO][4], uint32_t to, RowPlace place, const float* bias, const Element* x,
                                       Element* y, const Tile& tile, int OH, int OW, const Place& at) {
  const int first = blockIdx.y * NOB, groups = GO - first < NOB ? GO - first : NOB;
  if (FREE_RUNNING) __syncwarp();  // the warp's last reads of what is overwritten; elsewhere there was a barrier
#pragma unroll
  for (int i = 0; i < MI; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int m = (at.wm * MI + i) * 16 + half * 8 + (at.lane >> 2);
      const uint32_t row = to + place(m < PIXELS ? m : 0);
#pragma unroll
      for (int b = 0; b < NO; ++b) {
        const int c = (first + at.wn * NO + b) * 8 + (at.lane & 3) * 2;
        if (c >= CO || m >= PIXELS) continue;
        const float2 v = __ldg(reinterpret_cast<const float2*>(bias + c));
        float2 sum = make_float2(o[i][b][2 * half] + v.x, o[i][b][2 * half + 1] + v.y);
        if (HOW == Residual::in_place) {
          const float2 r = unpack2(lds32(row + c * 2));
          sum.x += r.x, sum.y += r.y;
        }
        sts32(row + c * 2, pack2(sum.x, sum.y));
      }
    }
  at.sync();
  for (int i = at.thread; i < PIXELS * groups; i += THREADS) {
    const int g = first + i % groups, m = i / groups, yy = tile.y + m / TILE_COLUMNS, xx = tile.x + m % TILE_COLUMNS;
    if (yy >= OH || xx >= OW) continue;
    const size_t out = (((size_t)tile.n * OH + yy) * OW + xx) * CO + g * 8;
    uint4 v = lds128(to + place(m) + g * 16);
    if (HOW == Residual::from_input) {
      const uint4 rest = __ldg(reinterpret_cast<const uint4*>(x + out));
      const uint32_t r[4] = {rest.x, rest.y, rest.z, rest.w};
      uint32_t s[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float2 l = unpack2(s[k]), w = unpack2(r[k]);
        s[k] = pack2(l.x + w.x, l.y + w.y);
      }
      v = make_uint4(s[0], s[1], s[2], s[3]);
    }
    *reinterpret_cast<uint4*>(y + out) = v;
  }
}
}  // namespace generic
