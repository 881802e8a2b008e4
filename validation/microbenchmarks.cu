// What a machine sustains, one figure at a time. Every kernel is grid-stride and has no shared memory; the host chooses grid and sizes.
extern "C" {

// Sums 16-byte words, `passes` times over the same buffer; the result is written only if it is one that cannot be, so nothing is elided.
__global__ void read_words(const uint4* __restrict__ x, size_t words, int passes, unsigned* sink) {
  uint4 sum = make_uint4(0, 0, 0, 0);
  const size_t step = (size_t)gridDim.x * blockDim.x;
  for (int pass = 0; pass < passes; ++pass) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (; i + 3 * step < words; i += 4 * step) {
      uint4 a, b, c, d;
      // volatile: a second pass must not be served from registers; .cg: from L2, past L1
      asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(a.x), "=r"(a.y), "=r"(a.z), "=r"(a.w) : "l"(x + i));
      asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(b.x), "=r"(b.y), "=r"(b.z), "=r"(b.w) : "l"(x + i + step));
      asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(c.x), "=r"(c.y), "=r"(c.z), "=r"(c.w) : "l"(x + i + 2 * step));
      asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(d.x), "=r"(d.y), "=r"(d.z), "=r"(d.w) : "l"(x + i + 3 * step));
      sum.x += a.x ^ b.x ^ c.x ^ d.x;
      sum.y += a.y ^ b.y ^ c.y ^ d.y;
      sum.z += a.z ^ b.z ^ c.z ^ d.z;
      sum.w += a.w ^ b.w ^ c.w ^ d.w;
    }
  }
  if ((sum.x ^ sum.y ^ sum.z ^ sum.w) == 0x9e3779b9u && passes < 0) *sink = sum.x;
}

__global__ void write_words(uint4* __restrict__ y, size_t words, unsigned value) {
  const size_t step = (size_t)gridDim.x * blockDim.x;
  const uint4 word = make_uint4(value, value, value, value);
  for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < words; i += step) y[i] = word;
}

__global__ void copy_words(const uint4* __restrict__ x, uint4* __restrict__ y, size_t words) {
  const size_t step = (size_t)gridDim.x * blockDim.x;
  size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
  for (; i + 3 * step < words; i += 4 * step) {
    const uint4 a = x[i], b = x[i + step], c = x[i + 2 * step], d = x[i + 3 * step];
    y[i] = a;
    y[i + step] = b;
    y[i + 2 * step] = c;
    y[i + 3 * step] = d;
  }
  for (; i < words; i += step) y[i] = x[i];
}

// Eight independent chains per thread, 8 · 32 operations per turn: enough to hide the latency of each.
__global__ void fma_fp32(float* out, int turns) {
  float a[8];
  const float s = 1.0f + 1e-7f * threadIdx.x;
#pragma unroll
  for (int j = 0; j < 8; ++j) a[j] = j + threadIdx.x;
  for (int t = 0; t < turns; ++t)
#pragma unroll
    for (int u = 0; u < 32; ++u)
#pragma unroll
      for (int j = 0; j < 8; ++j) a[j] = fmaf(a[j], s, 0.5f);
  float sum = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) sum += a[j];
  if (turns < 0) out[threadIdx.x] = sum;
}

__global__ void fma_fp16x2(unsigned* out, int turns) {
  unsigned a[8];
  const unsigned s = 0x3c013c01u + (threadIdx.x & 1), b = 0x2e662e66u;
#pragma unroll
  for (int j = 0; j < 8; ++j) a[j] = 0x3c003c00u + j;
  for (int t = 0; t < turns; ++t)
#pragma unroll
    for (int u = 0; u < 32; ++u)
#pragma unroll
      for (int j = 0; j < 8; ++j) asm volatile("fma.rn.f16x2 %0, %0, %1, %2;" : "+r"(a[j]) : "r"(s), "r"(b));
  unsigned sum = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) sum ^= a[j];
  if (turns < 0) out[threadIdx.x] = sum;
}

__global__ void special_ex2(float* out, int turns) {
  float a[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) a[j] = 1e-3f * (j + threadIdx.x);
  for (int t = 0; t < turns; ++t)
#pragma unroll
    for (int u = 0; u < 32; ++u)
#pragma unroll
      for (int j = 0; j < 8; ++j) asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(a[j]));
  float sum = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) sum += a[j];
  if (turns < 0) out[threadIdx.x] = sum;
}

__global__ void special_tanh(float* out, int turns) {
  float a[8];
#pragma unroll
  for (int j = 0; j < 8; ++j) a[j] = 1e-3f * (j + threadIdx.x);
  for (int t = 0; t < turns; ++t)
#pragma unroll
    for (int u = 0; u < 32; ++u)
#pragma unroll
      for (int j = 0; j < 8; ++j) asm volatile("tanh.approx.f32 %0, %0;" : "+f"(a[j]));
  float sum = 0;
#pragma unroll
  for (int j = 0; j < 8; ++j) sum += a[j];
  if (turns < 0) out[threadIdx.x] = sum;
}

__global__ void nothing() {}
}
