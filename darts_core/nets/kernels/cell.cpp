// A whole mixed cell, forward and backward, on the CPU. Images lie (N, H, W, C); T is float or double.
//
// What is fused, all of it exact:
// - ReLU, padding, depthwise and 1x1 convolution and the sums of the batch norm behind them, one sample at a time, so that
//   everything between the input and the output of a separable convolution stays in the cache. The backward pass computes
//   the depthwise output again instead of keeping it.
// - Batch norm is never applied: it is a scale and a shift per channel, so a node is one weighted sum of raw maps, and
//   the gradients of mix and batch norm come out of the sums of (gradient * raw map).
// - Operations that leave one state share its ReLU, its padded copy and its pools.
//
// Any channel count and size: rows are walked as flat vectors, and the weights repeat with the period lcm(C, lanes).
// Work is split over samples; sums are joined in the order of the threads, so a number of threads gives the same bits.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <numeric>
#include <thread>
#include <vector>
#ifndef _WIN32
#include <unistd.h>
#endif

#include "vectors.h"

namespace {

template <class T> struct IndexOf { typedef int32_t t; };
template <> struct IndexOf<double> { typedef int64_t t; };

template <class T, int N> struct Vec {
  typedef T v __attribute__((vector_size(N * sizeof(T)), aligned(sizeof(T)), may_alias));
};

inline i64 up(i64 n, i64 step) { return (n + step - 1) / step * step; }

// ---- threads: a pool of our own, so that no second OpenMP runtime enters the process

class Pool {
 public:
  static void run(int threads, const std::function<void(int)>& work) {
    if (threads <= 1) { work(0); return; }
    static std::mutex one;
    std::lock_guard<std::mutex> hold(one);
    Pool& pool = here();
    pool.grow(threads - 1);
    {
      std::lock_guard<std::mutex> lock(pool.mutex_);
      pool.work_ = &work;
      pool.wanted_ = threads - 1;
      pool.left_.store(threads - 1, std::memory_order_relaxed);
      pool.round_.fetch_add(1, std::memory_order_release);
    }
    pool.wake_.notify_all();
    work(0);
    for (int spin = 0; pool.left_.load(std::memory_order_acquire) != 0; ++spin)
      if (spin > 4000) std::this_thread::yield();
  }

 private:
  static Pool& here() {  // a forked child starts with a pool of its own: threads do not survive a fork
    static Pool* pool = nullptr;
#ifndef _WIN32
    static pid_t owner = 0;
    if (owner != getpid()) { pool = nullptr; owner = getpid(); }
#endif
    if (!pool) pool = new Pool;
    return *pool;
  }
  void grow(int count) {
    for (; started_ < count; ++started_) std::thread(&Pool::loop, this, started_, round_.load()).detach();
  }
  void loop(int index, unsigned seen) {
    for (;;) {
      for (int spin = 0; spin < 20000 && round_.load(std::memory_order_acquire) == seen; ++spin) {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#endif
      }
      const std::function<void(int)>* work = nullptr;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return round_.load() != seen; });
        seen = round_.load();
        if (index < wanted_) work = work_;
      }
      if (!work) continue;
      (*work)(index + 1);
      left_.fetch_sub(1, std::memory_order_release);
    }
  }
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<unsigned> round_{0};
  std::atomic<int> left_{0};
  const std::function<void(int)>* work_ = nullptr;
  int wanted_ = 0, started_ = 0;
};

// Memory of one thread that stays for the next call; every piece begins on a cache line.
class Arena {
 public:
  template <class T> T* take(i64 count) {
    size_t bytes = up(count * (i64)sizeof(T) + 256, 64);  // vectors may read and write a little past the end
    if (block_ == blocks_.size() || used_ + bytes > blocks_[block_].size()) {
      if (block_ < blocks_.size()) ++block_;
      while (block_ < blocks_.size() && blocks_[block_].size() < bytes + 64) ++block_;
      if (block_ == blocks_.size()) blocks_.emplace_back(std::max<size_t>(bytes + 64, 1 << 20));
      used_ = 0;
    }
    char* start = blocks_[block_].data() + used_;
    char* aligned = (char*)(((uintptr_t)start + 63) & ~(uintptr_t)63);
    used_ += bytes + (aligned - start);
    return (T*)aligned;
  }
  template <class T> T* zeros(i64 count) {
    T* p = take<T>(count);
    memset((void*)p, 0, count * sizeof(T) + 128);
    return p;
  }
  void reset() { block_ = 0; used_ = 0; }
  std::pair<size_t, size_t> mark() const { return {block_, used_}; }
  void release(std::pair<size_t, size_t> mark) { block_ = mark.first, used_ = mark.second; }

 private:
  struct Block {
    explicit Block(size_t n) : n_(n), p_((char*)malloc(n)) { if (!p_) abort(); }
    Block(Block&& o) noexcept : n_(o.n_), p_(o.p_) { o.p_ = nullptr; }
    ~Block() { free(p_); }
    size_t size() const { return n_; }
    char* data() { return p_; }
    size_t n_;
    char* p_;
  };
  std::vector<Block> blocks_;
  size_t block_ = 0, used_ = 0;
};
Arena& arena() { static thread_local Arena a; return a; }

// ---- how the channels of a row lie in vectors

struct Lay {
  i64 C;
  int L, nv;  // lanes of a vector; vectors after which the channels repeat
  i64 CL;     // nv * L = lcm(C, L)
};
template <class T> Lay lay(i64 C) {
  int L = lanes<T>();
  i64 CL = std::lcm(C, (i64)L);
  return Lay{C, L, (int)(CL / L), CL};
}

// out[row][f] (+)= sum over t of we[t][f % CL] * x[row * step + f + off[t]], in blocks of R rows and Q vectors
template <class T, int R, int Q, bool ADD>
inline void tap_block(const T* x, i64 step, const i64* off, int nt, const T* we, i64 CL, T* out, i64 pitch) {
  typedef typename Vec<T, lanes<T>()>::v V;
  V a[R][Q];
  for (int r = 0; r < R; ++r)
    for (int q = 0; q < Q; ++q) a[r][q] = ADD ? load<V>(out + r * pitch + q * CL) : V{};
  for (int t = 0; t < nt; ++t) {
    V w = load<V>(we + t * lanes<T>());
    const T* p = x + off[t];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int q = 0; q < Q; ++q) a[r][q] += w * load<V>(p + r * step + q * CL);
  }
  for (int r = 0; r < R; ++r)
    for (int q = 0; q < Q; ++q) store<V>(out + r * pitch + q * CL, a[r][q]);
}
template <class T, int Q, bool ADD>
inline void tap_column(const T* x, i64 step, const i64* off, int nt, const T* we, i64 CL, T* out, i64 pitch, i64 rows) {
  constexpr int R = 8 / Q;
  i64 r = 0;
  for (; r + R <= rows; r += R) tap_block<T, R, Q, ADD>(x + r * step, step, off, nt, we, CL, out + r * pitch, pitch);
  if (R > 1)
    for (; r < rows; ++r) tap_block<T, 1, Q, ADD>(x + r * step, step, off, nt, we, CL, out + r * pitch, pitch);
}
// The same over `width` numbers of each of `rows` rows; `pitch` of `out` is a multiple of the lanes.
template <class T, bool ADD>
void taps(const T* x, i64 step, const i64* off, int nt, const T* we, const Lay& l, T* out, i64 pitch, i64 rows,
          i64 width) {
  i64 vectors = (width + l.L - 1) / l.L;
  for (int v = 0; v < l.nv && v < vectors; ++v) {
    i64 count = (vectors - v + l.nv - 1) / l.nv;
    const T* xs = x + v * l.L;
    T* o = out + v * l.L;
    const T* w = we + (i64)v * nt * l.L;
    i64 s = 0;
    for (; s + 8 <= count; s += 8) tap_column<T, 8, ADD>(xs + s * l.CL, step, off, nt, w, l.CL, o + s * l.CL, pitch, rows);
    if (s + 4 <= count) { tap_column<T, 4, ADD>(xs + s * l.CL, step, off, nt, w, l.CL, o + s * l.CL, pitch, rows); s += 4; }
    if (s + 2 <= count) { tap_column<T, 2, ADD>(xs + s * l.CL, step, off, nt, w, l.CL, o + s * l.CL, pitch, rows); s += 2; }
    if (s < count) tap_column<T, 1, ADD>(xs + s * l.CL, step, off, nt, w, l.CL, o + s * l.CL, pitch, rows);
  }
}

// gw[v][t][lane] += sum over rows and s of g[row][f] * x[row * step + f + ry[t / K] + cx[t % K]]; g is 0 past its width
template <class T, int K, int D0, int DN>
void tap_gradient_rows(const T* x, i64 step, const i64* ry, const i64* cx, const T* g, i64 gstep, const Lay& l, T* gw,
                       i64 rows, i64 width) {
  typedef typename Vec<T, lanes<T>()>::v V;
  i64 vectors = (width + l.L - 1) / l.L;
  i64 c[K];
  for (int i = 0; i < K; ++i) c[i] = cx[i];
  for (int v = 0; v < l.nv && v < vectors; ++v) {
    V a[DN * K];
    T* w = gw + ((i64)v * K * K + D0 * K) * l.L;
    for (int t = 0; t < DN * K; ++t) a[t] = load<V>(w + t * l.L);
    for (i64 r = 0; r < rows; ++r) {
      const T* base = x + r * step;
      const T* gr = g + r * gstep;
      for (i64 f = (i64)v * l.L; f < vectors * l.L; f += l.CL) {
        V gv = load<V>(gr + f);
#pragma GCC unroll 5
        for (int d = 0; d < DN; ++d) {
          const T* row = base + ry[D0 + d] + f;
#pragma GCC unroll 5
          for (int i = 0; i < K; ++i) a[d * K + i] += gv * load<V>(row + c[i]);
        }
      }
    }
    for (int t = 0; t < DN * K; ++t) store<V>(w + t * l.L, a[t]);
  }
}
template <class T>
void tap_gradient(int K, const T* x, i64 step, const i64* ry, const i64* cx, const T* g, i64 gstep, const Lay& l, T* gw,
                  i64 rows, i64 width) {
  if (K == 3) {
    tap_gradient_rows<T, 3, 0, 3>(x, step, ry, cx, g, gstep, l, gw, rows, width);
    return;
  }
#if VECTOR_BYTES == 64
  tap_gradient_rows<T, 5, 0, 5>(x, step, ry, cx, g, gstep, l, gw, rows, width);
#else
  tap_gradient_rows<T, 5, 0, 2>(x, step, ry, cx, g, gstep, l, gw, rows, width);
  tap_gradient_rows<T, 5, 2, 2>(x, step, ry, cx, g, gstep, l, gw, rows, width);
  tap_gradient_rows<T, 5, 4, 1>(x, step, ry, cx, g, gstep, l, gw, rows, width);
#endif
}

// ---- products with small matrices: y[p][o] = sum over c of d[p][c] * m[c][o]

template <class T, int VL, int OV, int PB>
inline void product_block(const T* d, i64 ldd, const T* m, i64 ldm, T* y, i64 ldy, i64 inner) {
  typedef typename Vec<T, VL>::v V;
  V a[PB][OV];
  for (int p = 0; p < PB; ++p)
    for (int o = 0; o < OV; ++o) a[p][o] = V{};
  for (i64 c = 0; c < inner; ++c) {
    V row[OV];
#pragma GCC unroll 4
    for (int o = 0; o < OV; ++o) row[o] = load<V>(m + c * ldm + o * VL);
#pragma GCC unroll 12
    for (int p = 0; p < PB; ++p)
#pragma GCC unroll 4
      for (int o = 0; o < OV; ++o) a[p][o] += row[o] * d[p * ldd + c];
  }
  for (int p = 0; p < PB; ++p)
    for (int o = 0; o < OV; ++o) store<V>(y + p * ldy + o * VL, a[p][o]);
}
template <class T, int VL, int OV>
void product_columns(const T* d, i64 ldd, const T* m, i64 ldm, T* y, i64 ldy, i64 inner, i64 np) {
  constexpr int most = VECTOR_BYTES == 64 ? 24 : 10;
  constexpr int PB = OV == 1 ? (VECTOR_BYTES == 64 ? 8 : 8) : (most / OV >= 8 ? 8 : (most / OV >= 6 ? 6 : (most / OV >= 4 ? 4 : 2)));
  i64 p = 0;
  for (; p + PB <= np; p += PB) product_block<T, VL, OV, PB>(d + p * ldd, ldd, m, ldm, y + p * ldy, ldy, inner);
  for (; p + 2 <= np; p += 2) product_block<T, VL, OV, 2>(d + p * ldd, ldd, m, ldm, y + p * ldy, ldy, inner);
  for (; p < np; ++p) product_block<T, VL, OV, 1>(d + p * ldd, ldd, m, ldm, y + p * ldy, ldy, inner);
}
template <class T>
void product(const T* d, i64 ldd, const T* m, i64 ldm, T* y, i64 ldy, i64 inner, i64 outer, i64 np) {
  constexpr int L = lanes<T>();
  i64 o = 0;
  for (; o + 4 * L <= outer; o += 4 * L) product_columns<T, L, 4>(d, ldd, m + o, ldm, y + o, ldy, inner, np);
  if (o + 2 * L <= outer) { product_columns<T, L, 2>(d, ldd, m + o, ldm, y + o, ldy, inner, np); o += 2 * L; }
  if (o + L <= outer) { product_columns<T, L, 1>(d, ldd, m + o, ldm, y + o, ldy, inner, np); o += L; }
  if (L > 8 && o + 8 <= outer) { product_columns<T, (L > 8 ? 8 : 1), 1>(d, ldd, m + o, ldm, y + o, ldy, inner, np); o += 8; }
  if (L > 4 && o + 4 <= outer) { product_columns<T, (L > 4 ? 4 : 1), 1>(d, ldd, m + o, ldm, y + o, ldy, inner, np); o += 4; }
  if (L > 2 && o + 2 <= outer) { product_columns<T, (L > 2 ? 2 : 1), 1>(d, ldd, m + o, ldm, y + o, ldy, inner, np); o += 2; }
  for (; o < outer; ++o) product_columns<T, 1, 1>(d, ldd, m + o, ldm, y + o, ldy, inner, np);
}

// gm[c][o] += sum over p of d[p][c] * g[p][o]
template <class T, int VL, int OV, int CB>
inline void outer_block(const T* d, i64 ldd, const T* g, i64 ldg, T* gm, i64 ldm, i64 np) {
  typedef typename Vec<T, VL>::v V;
  V a[CB][OV];
  for (int i = 0; i < CB; ++i)
    for (int o = 0; o < OV; ++o) a[i][o] = load<V>(gm + i * ldm + o * VL);
  for (i64 p = 0; p < np; ++p) {
    V row[OV];
#pragma GCC unroll 4
    for (int o = 0; o < OV; ++o) row[o] = load<V>(g + p * ldg + o * VL);
#pragma GCC unroll 16
    for (int i = 0; i < CB; ++i)
#pragma GCC unroll 4
      for (int o = 0; o < OV; ++o) a[i][o] += row[o] * d[p * ldd + i];
  }
  for (int i = 0; i < CB; ++i)
    for (int o = 0; o < OV; ++o) store<V>(gm + i * ldm + o * VL, a[i][o]);
}
template <class T, int VL, int OV>
void outer_columns(const T* d, i64 ldd, const T* g, i64 ldg, T* gm, i64 ldm, i64 inner, i64 np) {
  constexpr int CB = VECTOR_BYTES == 64 ? (OV == 1 ? 16 : (OV == 2 ? 8 : 4)) : (OV == 1 ? 8 : (OV == 2 ? 4 : 2));
  i64 c = 0;
  for (; c + CB <= inner; c += CB) outer_block<T, VL, OV, CB>(d + c, ldd, g, ldg, gm + c * ldm, ldm, np);
  if (CB > 8 && c + 8 <= inner) { outer_block<T, VL, OV, (CB > 8 ? 8 : 1)>(d + c, ldd, g, ldg, gm + c * ldm, ldm, np); c += 8; }
  if (CB > 4 && c + 4 <= inner) { outer_block<T, VL, OV, (CB > 4 ? 4 : 1)>(d + c, ldd, g, ldg, gm + c * ldm, ldm, np); c += 4; }
  for (; c < inner; ++c) outer_block<T, VL, OV, 1>(d + c, ldd, g, ldg, gm + c * ldm, ldm, np);
}
template <class T>
void outer(const T* d, i64 ldd, const T* g, i64 ldg, T* gm, i64 ldm, i64 inner, i64 columns, i64 np) {
  constexpr int L = lanes<T>();
  i64 o = 0;
  for (; o + 4 * L <= columns; o += 4 * L) outer_columns<T, L, 4>(d, ldd, g + o, ldg, gm + o, ldm, inner, np);
  if (o + 2 * L <= columns) { outer_columns<T, L, 2>(d, ldd, g + o, ldg, gm + o, ldm, inner, np); o += 2 * L; }
  if (o + L <= columns) { outer_columns<T, L, 1>(d, ldd, g + o, ldg, gm + o, ldm, inner, np); o += L; }
  if (L > 8 && o + 8 <= columns) { outer_columns<T, (L > 8 ? 8 : 1), 1>(d, ldd, g + o, ldg, gm + o, ldm, inner, np); o += 8; }
  if (L > 4 && o + 4 <= columns) { outer_columns<T, (L > 4 ? 4 : 1), 1>(d, ldd, g + o, ldg, gm + o, ldm, inner, np); o += 4; }
  for (; o < columns; ++o) outer_columns<T, 1, 1>(d, ldd, g + o, ldg, gm + o, ldm, inner, np);
}

// ---- flat walks over (positions, C) with coefficients per channel

constexpr i64 CHUNK = 4096;  // numbers that stay in the first cache while every vector of the period is visited

// sum[lane] += y, and sum2[lane] += y * z, lanes 0 to CL - 1
template <class T> void sums(const T* y, const T* z, i64 count, const Lay& l, double* sum, double* sum2) {
  typedef typename Vec<T, lanes<T>()>::v V;
  i64 chunk = std::max(CHUNK / l.CL, (i64)1) * l.CL, whole = count / l.CL * l.CL;
  for (i64 b = 0; b < whole; b += chunk) {
    i64 e = std::min(whole, b + chunk);
    for (int v = 0; v < l.nv; ++v) {
      V a0 = V{}, a1 = V{}, q0 = V{}, q1 = V{};
      i64 f = b + (i64)v * l.L;
      for (; f + l.CL < e; f += 2 * l.CL) {
        V y0 = load<V>(y + f), y1 = load<V>(y + f + l.CL);
        a0 += y0;
        a1 += y1;
        q0 += y0 * load<V>(z + f);
        q1 += y1 * load<V>(z + f + l.CL);
      }
      if (f < e) { V y0 = load<V>(y + f); a0 += y0; q0 += y0 * load<V>(z + f); }
      a0 += a1;
      q0 += q1;
      double* s = sum + v * l.L;
      double* s2 = sum2 + v * l.L;
      for (int i = 0; i < l.L; ++i) { s[i] += (double)a0[i]; s2[i] += (double)q0[i]; }
    }
  }
  for (i64 f = whole; f < count; ++f) { sum[f - whole] += (double)y[f]; sum2[f - whole] += (double)y[f] * (double)z[f]; }
}

// dot[lane] += y * z
template <class T> void dots(const T* y, const T* z, i64 count, const Lay& l, double* dot) {
  typedef typename Vec<T, lanes<T>()>::v V;
  i64 chunk = std::max(CHUNK / l.CL, (i64)1) * l.CL, whole = count / l.CL * l.CL;
  for (i64 b = 0; b < whole; b += chunk) {
    i64 e = std::min(whole, b + chunk);
    for (int v = 0; v < l.nv; ++v) {
      V q0 = V{}, q1 = V{};
      i64 f = b + (i64)v * l.L;
      for (; f + l.CL < e; f += 2 * l.CL) {
        q0 += load<V>(y + f) * load<V>(z + f);
        q1 += load<V>(y + f + l.CL) * load<V>(z + f + l.CL);
      }
      if (f < e) q0 += load<V>(y + f) * load<V>(z + f);
      q0 += q1;
      double* s = dot + v * l.L;
      for (int i = 0; i < l.L; ++i) s[i] += (double)q0[i];
    }
  }
  for (i64 f = whole; f < count; ++f) dot[f - whole] += (double)y[f] * (double)z[f];
}

// out = shift + sum over k of a[k] * t[k]; a[k] and shift have CL lanes each
template <class T, int Q>
inline void weigh_block(int n, const T* const* t, const T* a, i64 CL, const T* shift, T* out, i64 f) {
  typedef typename Vec<T, lanes<T>()>::v V;
  V o[Q], s = load<V>(shift);
  for (int q = 0; q < Q; ++q) o[q] = s;
  for (int k = 0; k < n; ++k) {
    V w = load<V>(a + k * CL);
    const T* p = t[k] + f;
#pragma GCC unroll 8
    for (int q = 0; q < Q; ++q) o[q] += w * load<V>(p + q * CL);
  }
  for (int q = 0; q < Q; ++q) store<V>(out + f + q * CL, o[q]);
}
template <class T> void weigh(int n, const T* const* t, const T* a, const T* shift, T* out, i64 count, const Lay& l) {
  i64 chunk = std::max(CHUNK / l.CL, (i64)1) * l.CL, whole = count / l.CL * l.CL;
  for (i64 b = 0; b < whole; b += chunk) {
    i64 e = std::min(whole, b + chunk);
    for (int v = 0; v < l.nv; ++v) {
      i64 f = b + (i64)v * l.L;
      const T* av = a + v * l.L;
      for (; f + 3 * l.CL < e; f += 4 * l.CL) weigh_block<T, 4>(n, t, av, l.CL, shift + v * l.L, out, f);
      for (; f < e; f += l.CL) weigh_block<T, 1>(n, t, av, l.CL, shift + v * l.L, out, f);
    }
  }
  for (i64 f = whole; f < count; ++f) {
    T o = shift[f - whole];
    for (int k = 0; k < n; ++k) o += a[k * l.CL + f - whole] * t[k][f];
    out[f] = o;
  }
}

// out = max(0, scale * x + shift) per row of the image
template <class T> void scaled_relu(const T* x, const T* scale, const T* shift, T* out, i64 count, const Lay& l) {
  typedef typename Vec<T, lanes<T>()>::v V;
  i64 whole = count / l.CL * l.CL;
  for (int v = 0; v < l.nv; ++v) {
    V s = load<V>(scale + v * l.L), b = load<V>(shift + v * l.L);
    for (i64 f = (i64)v * l.L; f < whole; f += l.CL) {
      V y = s * load<V>(x + f) + b;
      store<V>(out + f, y > V{} ? y : V{});
    }
  }
  for (i64 f = whole; f < count; ++f) {
    T y = scale[f - whole] * x[f] + shift[f - whole];
    out[f] = y > 0 ? y : 0;
  }
}
template <class T> inline void relu(const T* x, T* out, i64 count) {
  for (i64 f = 0; f < count; ++f) out[f] = x[f] > 0 ? x[f] : 0;
}

// ---- 3x3 pools: values, the tap of the largest (first wins), and the way back

template <class T, int VL>
void pool_columns(const T* x, i64 C, i64 H, i64 W, i64 S, i64 Ho, i64 Wo, T* mx, uint8_t* ix, T* av) {
  typedef typename Vec<T, VL>::v V;
  typedef typename IndexOf<T>::t I;
  typedef typename Vec<I, VL>::v IV;
  typedef typename Vec<uint8_t, VL>::v BV;
  for (i64 h = 0; h < Ho; ++h) {
    i64 y0 = std::max((i64)0, h * S - 1), y1 = std::min(H - 1, h * S + 1);
    for (i64 w = 0; w < Wo; ++w) {
      i64 x0 = std::max((i64)0, w * S - 1), x1 = std::min(W - 1, w * S + 1), o = (h * Wo + w) * C;
      V m = V{} - (T)INFINITY, a = V{};
      IV id = IV{};
      for (i64 yy = y0; yy <= y1; ++yy)
        for (i64 xx = x0; xx <= x1; ++xx) {
          V v = load<V>(x + (yy * W + xx) * C);
          IV larger = (IV)(v > m);
          m = v > m ? v : m;
          id = larger ? (IV{} + (I)((yy - h * S + 1) * 3 + xx - w * S + 1)) : id;
          a += v;
        }
      store<V>(mx + o, m);
      store<V>(av + o, a * ((T)1 / (T)((y1 - y0 + 1) * (x1 - x0 + 1))));
      store(ix + o, __builtin_convertvector(id, BV));
    }
  }
}
template <class T, int VL>
void pool_back_columns(const T* gm, const uint8_t* ix, const T* ga, i64 C, i64 H, i64 W, i64 S, i64 Ho, i64 Wo, T* gx) {
  typedef typename Vec<T, VL>::v V;
  typedef typename IndexOf<T>::t I;
  typedef typename Vec<I, VL>::v IV;
  typedef typename Vec<uint8_t, VL>::v BV;
  for (i64 h = 0; h < Ho; ++h) {
    i64 y0 = std::max((i64)0, h * S - 1), y1 = std::min(H - 1, h * S + 1);
    for (i64 w = 0; w < Wo; ++w) {
      i64 x0 = std::max((i64)0, w * S - 1), x1 = std::min(W - 1, w * S + 1), o = (h * Wo + w) * C;
      V a = load<V>(ga + o) * ((T)1 / (T)((y1 - y0 + 1) * (x1 - x0 + 1))), g = load<V>(gm + o);
      IV id = __builtin_convertvector(load<BV>(ix + o), IV);
      for (i64 yy = y0; yy <= y1; ++yy)
        for (i64 xx = x0; xx <= x1; ++xx) {
          T* p = gx + (yy * W + xx) * C;
          IV here = id == (IV{} + (I)((yy - h * S + 1) * 3 + xx - w * S + 1));
          store<V>(p, load<V>(p) + a + (here ? g : V{}));
        }
    }
  }
}
#define EACH_COLUMN(FUNCTION, ...)                                       \
  i64 c = 0;                                                             \
  for (; c + lanes<T>() <= C; c += lanes<T>()) FUNCTION<T, lanes<T>()>(__VA_ARGS__); \
  if (lanes<T>() > 8)                                                    \
    for (; c + 8 <= C; c += 8) FUNCTION<T, (lanes<T>() > 8 ? 8 : 1)>(__VA_ARGS__); \
  if (lanes<T>() > 4)                                                    \
    for (; c + 4 <= C; c += 4) FUNCTION<T, (lanes<T>() > 4 ? 4 : 1)>(__VA_ARGS__); \
  for (; c < C; ++c) FUNCTION<T, 1>(__VA_ARGS__);
template <class T> void pool(const T* x, i64 C, i64 H, i64 W, i64 S, i64 Ho, i64 Wo, T* mx, uint8_t* ix, T* av) {
  EACH_COLUMN(pool_columns, x + c, C, H, W, S, Ho, Wo, mx + c, ix + c, av + c)
}
template <class T>
void pool_back(const T* gm, const uint8_t* ix, const T* ga, i64 C, i64 H, i64 W, i64 S, i64 Ho, i64 Wo, T* gx) {
  EACH_COLUMN(pool_back_columns, gm + c, ix + c, ga + c, C, H, W, S, Ho, Wo, gx + c)
}

// ---- the plan of a cell, as Python sends it

enum Kind { MAX_POOL = 0, AVG_POOL = 1, SKIP = 2, REDUCE = 3, SEP3 = 4, SEP5 = 5, DIL3 = 6, DIL5 = 7 };

struct Item {  // one operation on one edge
  i64 source, node, edge, column, kind;
  i64 weight[4];             // offsets in the cell's weights: depthwise, pointwise (twice for separable ones)
  i64 first = -1, map = -1;  // offsets of raw maps in the saved numbers: of the first half, of the whole
  i64 first_bn = -1, bn = -1;  // offsets of mean and inverse deviation, (2, C) doubles
  bool separable() const { return kind >= SEP3; }
  bool twice() const { return kind == SEP3 || kind == SEP5; }
  int K() const { return kind == SEP3 || kind == DIL3 ? 3 : 5; }
  int D() const { return kind >= DIL3 ? 2 : 1; }
};
struct Input {  // how an input of the cell is brought to its channels: 1x1 convolution, or factorised reduction
  i64 H, W, C, halves, weight[2];
};
struct Source {
  bool pools = false;
  i64 mx = -1, av = -1, ix = -1, max_bn = -1, avg_bn = -1;
  std::vector<int> items;
};

template <class T> struct Cell {
  i64 N, C, nodes, stride, edges, columns, weights;
  Input in[2];
  std::vector<i64> outputs;
  std::vector<Item> items;
  std::vector<Source> sources;
  std::vector<i64> state;  // offsets of the states in the saved numbers
  i64 H, W, Ho, Wo, saved = 0, kept = 0;
  i64 input_bn[2];
  Lay l;

  explicit Cell(const i64* p) {
    N = *p++, C = *p++, nodes = *p++, stride = *p++, edges = *p++, columns = *p++, weights = *p++;
    for (Input& i : in) i = Input{p[0], p[1], p[2], p[3], {p[4], p[5]}}, p += 6;
    outputs.resize(*p++);
    for (i64& o : outputs) o = *p++;
    items.resize(*p++);
    for (Item& i : items) {
      i.source = p[0], i.node = p[1], i.edge = p[2], i.column = p[3], i.kind = p[4];
      for (int k = 0; k < 4; ++k) i.weight[k] = p[5 + k];
      p += 9;
    }
    l = lay<T>(C);
    H = in[1].H, W = in[1].W, Ho = (H - 1) / stride + 1, Wo = (W - 1) / stride + 1;
    auto number = [&](i64 n) { i64 at = saved; saved += up(n, 16) + 16; return at; };  // a vector may reach past the end
    auto norm = [&] { i64 at = kept; kept += 2 * C; return at; };
    for (i64 j = 0; j < 2 + nodes; ++j) state.push_back(number(j < 2 ? N * H * W * C : out_size()));
    for (i64& b : input_bn) b = norm();
    sources.resize(2 + nodes);
    for (size_t k = 0; k < items.size(); ++k) {
      Item& i = items[k];
      Source& s = sources[i.source];
      s.items.push_back((int)k);
      if (i.kind <= AVG_POOL) {
        if (!s.pools) {
          s.pools = true;
          s.mx = number(out_size()), s.av = number(out_size());
          s.ix = number((out_size() + (i64)sizeof(T) - 1) / (i64)sizeof(T));
          s.max_bn = norm(), s.avg_bn = norm();
        }
        i.map = i.kind == MAX_POOL ? s.mx : s.av;
        i.bn = i.kind == MAX_POOL ? s.max_bn : s.avg_bn;
      } else if (i.kind == SKIP) {
        i.map = state[i.source];
      } else {
        if (i.twice()) i.first = number(out_size()), i.first_bn = norm();
        i.map = number(out_size()), i.bn = norm();
      }
    }
  }
  i64 out_size() const { return N * Ho * Wo * C; }
  i64 height(i64 j) const { return j < 2 ? H : Ho; }
  i64 width(i64 j) const { return j < 2 ? W : Wo; }
  i64 step(i64 j) const { return j < 2 ? stride : 1; }
};

// ---- weights as the kernels want them

struct Taps {
  std::vector<i64> off;
  int n() const { return (int)off.size(); }
};

// How padded images lie. Stride 2 keeps even and odd columns apart, so that a row of the output is one flat walk.
struct Padded {
  i64 pad, S, C, H, W, pitch, half, size;
  Padded(i64 pad, i64 S, i64 C, i64 H, i64 W, int L) : pad(pad), S(S), C(C), H(H), W(W) {
    i64 columns = S == 1 ? W + 2 * pad : (W + 2 * pad + 1) / 2;
    i64 useful = S == 1 ? W * C : (W + 1) / 2 * C;
    half = up(std::max(columns * C, useful + L + pad * C), 16);
    pitch = S * half;
    size = (H + 2 * pad + 1) * pitch + L;
  }
  i64 row(i64 r) const { return (r + pad) * pitch; }
  i64 column(i64 c) const { i64 e = c + pad; return S == 1 ? e * C : (e % 2) * half + e / 2 * C; }
};

template <class T> struct Conv {  // one depthwise and pointwise pair, packed
  int K, D;
  T *we, *m, *wf, *mt;  // taps [v][t][L], matrix [c][o], taps of the way back, matrix [o][c]
  std::vector<i64> ry, cx, off;
  std::vector<Taps> back;  // stride 1: one list; stride 2: one per phase of the input (row, column)
  std::vector<T*> back_we;
};

template <class T> T* spread_taps(const T* w, const std::vector<int>& which, int KK, const Lay& l) {
  T* out = arena().take<T>((i64)l.nv * which.size() * l.L);
  for (int v = 0; v < l.nv; ++v)
    for (size_t t = 0; t < which.size(); ++t)
      for (int i = 0; i < l.L; ++i) out[(v * which.size() + t) * l.L + i] = w[((v * l.L + i) % l.C) * KK + which[t]];
  return out;
}

template <class T>
Conv<T> pack(const T* depthwise, const T* pointwise, int K, int D, const Padded& x, const Padded* g, const Lay& l) {
  Conv<T> c;
  c.K = K, c.D = D;
  i64 C = l.C, p = D * (K - 1) / 2;
  std::vector<int> all(K * K);
  std::iota(all.begin(), all.end(), 0);
  c.we = spread_taps(depthwise, all, K * K, l);
  for (int k = 0; k < K; ++k) c.ry.push_back(x.row(k * D - p)), c.cx.push_back(x.column(k * D - p));
  for (int t : all) c.off.push_back(c.ry[t / K] + c.cx[t % K]);
  c.m = arena().take<T>(C * C);
  for (i64 o = 0; o < C; ++o)
    for (i64 i = 0; i < C; ++i) c.m[i * C + o] = pointwise[o * C + i];
  if (!g) return c;
  c.mt = const_cast<T*>(pointwise);
  for (i64 a = 0; a < x.S; ++a)
    for (i64 b = 0; b < x.S; ++b) {
      std::vector<int> which;
      Taps taps;
      for (int t : all) {
        i64 dy = a + p - t / K * D, dx = b + p - t % K * D;
        if (dy % x.S || dx % x.S) continue;
        which.push_back(t);
        taps.off.push_back(g->row(dy / x.S) + g->column(dx / x.S));
      }
      c.back.push_back(taps);
      c.back_we.push_back(spread_taps(depthwise, which, K * K, l));
    }
  return c;
}

// Copy rows of a sample into the middle of a padded image whose border is zero.
template <class T> void fill_relu(const T* x, const Padded& p, T* out) {
  for (i64 h = 0; h < p.H; ++h) {
    T* row = out + p.row(h);
    const T* from = x + h * p.W * p.C;
    if (p.S == 1) relu(from, row + p.column(0), p.W * p.C);
    else
      for (i64 w = 0; w < p.W; ++w) relu(from + w * p.C, row + p.column(w), p.C);
  }
}
template <class T> void fill(const T* x, const Padded& p, T* out) {
  for (i64 h = 0; h < p.H; ++h) memcpy(out + p.row(h) + p.column(0), x + h * p.W * p.C, p.W * p.C * sizeof(T));
}
// Rows of `pitch` numbers become rows of `width`.
template <class T> void compact(T* x, i64 pitch, i64 width, i64 rows) {
  if (pitch == width) return;
  for (i64 r = 1; r < rows; ++r) memmove(x + r * width, x + r * pitch, width * sizeof(T));
}

// Per-thread sums of doubles over lanes, joined into channels in the order of the threads.
struct Sums {
  int threads;
  i64 rows, CL, C;
  std::vector<double> data;
  Sums(int threads, i64 rows, const Lay& l) : threads(threads), rows(rows), CL(l.CL), C(l.C), data(threads * (rows * l.CL + 16)) {}
  double* at(int t, i64 row) { return data.data() + t * (rows * CL + 16) + row * CL; }
  std::vector<double> channels(i64 row) {
    std::vector<double> found(C, 0.0);
    for (int t = 0; t < threads; ++t)
      for (i64 i = 0; i < CL; ++i) found[i % C] += at(t, row)[i];
    return found;
  }
};

template <class T> T* spread(const std::vector<double>& a, const Lay& l) {
  T* out = arena().take<T>(l.CL);
  for (i64 i = 0; i < l.CL; ++i) out[i] = (T)a[i % l.C];
  return out;
}

// Mean and 1 / deviation per channel from sums over n values.
void moments(Sums& s, i64 row, double n, double* out) {
  std::vector<double> a = s.channels(row), b = s.channels(row + 1);
  for (i64 c = 0; c < s.C; ++c) {
    double mean = a[c] / n, variance = std::max(0.0, b[c] / n - mean * mean);
    out[c] = mean;
    out[s.C + c] = 1 / std::sqrt(variance + 1e-5);
  }
}

// The rows that a 1x1 convolution of a cell's input or of a factorised reduction sees: ReLU, every second pixel, shifted.
template <class T>
void gather_relu(const T* x, i64 H, i64 W, i64 C, i64 S, i64 shift, i64 Ho, i64 Wo, T* out) {
  if (S == 1) { relu(x, out, H * W * C); return; }
  for (i64 h = 0; h < Ho; ++h)
    for (i64 w = 0; w < Wo; ++w) {
      i64 y = h * S + shift, z = w * S + shift;
      T* to = out + (h * Wo + w) * C;
      if (y < H && z < W) relu(x + (y * W + z) * C, to, C);
      else memset((void*)to, 0, C * sizeof(T));
    }
}
template <class T> T* transposed(const T* w, i64 rows, i64 columns) {  // (rows, columns) -> (columns, rows)
  T* out = arena().take<T>(rows * columns);
  for (i64 r = 0; r < rows; ++r)
    for (i64 c = 0; c < columns; ++c) out[c * rows + r] = w[r * columns + c];
  return out;
}

struct Halves {  // output channels of the one or two 1x1 convolutions of a reduction
  i64 count, from[2], size[2];
  Halves(i64 C, bool two) : count(two ? 2 : 1), from{0, two ? C / 2 : C}, size{two ? C / 2 : C, C - C / 2} {}
};

// ---- forward

template <class T>
void forward(const i64* plan, int threads, const T* const s[2], const T* theta, const T* mix, T* saved, double* kept,
             T* out) {
  arena().reset();
  Cell<T> cell(plan);
  const i64 N = cell.N, C = cell.C;
  const Lay l = cell.l;
  threads = (int)std::max((i64)1, std::min((i64)threads, N));
  auto range = [&](int t) { return std::pair<i64, i64>(N * t / threads, N * (t + 1) / threads); };

  {  // both inputs to the cell's channels, normalised in place
    Sums stats(threads, 4, l);
    T* m[2][2] = {};
    for (int j = 0; j < 2; ++j) {
      Halves h(C, cell.in[j].halves);
      for (int k = 0; k < h.count; ++k) m[j][k] = transposed(theta + cell.in[j].weight[k], h.size[k], cell.in[j].C);
    }
    i64 np = cell.H * cell.W;
    Pool::run(threads, [&](int t) {
      auto [b, e] = range(t);
      if (t) arena().reset();
      T* rows = arena().take<T>(np * std::max(cell.in[0].C, cell.in[1].C));
      for (int j = 0; j < 2; ++j) {
        const Input& in = cell.in[j];
        Halves h(C, in.halves);
        for (i64 n = b; n < e; ++n) {
          T* y = saved + cell.state[j] + n * np * C;
          for (int k = 0; k < h.count; ++k) {
            gather_relu(s[j] + n * in.H * in.W * in.C, in.H, in.W, in.C, in.halves ? 2 : 1, (i64)k, cell.H, cell.W, rows);
            product(rows, in.C, m[j][k], h.size[k], y + h.from[k], C, in.C, h.size[k], np);
          }
          sums(y, y, np * C, l, stats.at(t, 2 * j), stats.at(t, 2 * j + 1));
        }
      }
    });
    T *scale[2], *shift[2];
    for (int j = 0; j < 2; ++j) {
      double* bn = kept + cell.input_bn[j];
      moments(stats, 2 * j, (double)(N * np), bn);
      std::vector<double> a(C), c(C);
      for (i64 i = 0; i < C; ++i) a[i] = bn[C + i], c[i] = -bn[i] * bn[C + i];
      scale[j] = spread<T>(a, l), shift[j] = spread<T>(c, l);
    }
    Pool::run(threads, [&](int t) {
      auto [b, e] = range(t);
      for (int j = 0; j < 2; ++j) {
        T* y = saved + cell.state[j] + b * np * C;
        const T* terms[1] = {y};
        weigh(1, terms, scale[j], shift[j], y, (e - b) * np * C, l);
      }
    });
  }

  auto source = [&](i64 j) {
    const Source& from = cell.sources[j];
    if (from.items.empty()) return;
    const auto mark = arena().mark();
    const i64 H = cell.height(j), W = cell.width(j), S = cell.step(j), Ho = cell.Ho, Wo = cell.Wo, np = Ho * Wo;
    const i64 pitch = up(Wo * C, l.L);
    Padded px(4, S, C, H, W, l.L), pz(2, 1, C, Ho, Wo, l.L);
    std::vector<Conv<T>> first(from.items.size()), second(from.items.size());
    for (size_t k = 0; k < from.items.size(); ++k) {
      const Item& i = cell.items[from.items[k]];
      if (!i.separable()) continue;
      first[k] = pack(theta + i.weight[0], theta + i.weight[1], i.K(), i.D(), px, (const Padded*)nullptr, l);
      if (i.twice()) second[k] = pack(theta + i.weight[2], theta + i.weight[3], i.K(), 1, pz, (const Padded*)nullptr, l);
    }
    const i64 rows = 2 * (i64)from.items.size();
    Sums stats(threads, rows + 4, l), again(threads, rows, l);
    bool separable = false;
    std::vector<T*> halves(2 * from.items.size());
    for (size_t k = 0; k < from.items.size(); ++k) {
      const Item& i = cell.items[from.items[k]];
      separable |= i.separable();
      Halves h(C, true);
      for (int q = 0; i.kind == REDUCE && q < 2; ++q) halves[2 * k + q] = transposed(theta + i.weight[q], h.size[q], C);
    }
    Pool::run(threads, [&](int t) {
      auto [b, e] = range(t);
      if (t) arena().reset();
      T* xp = arena().zeros<T>(px.size);
      T* dd = arena().take<T>(Ho * pitch);
      T* gathered = arena().take<T>(np * C);
      for (i64 n = b; n < e; ++n) {
        const T* x = saved + cell.state[j] + n * H * W * C;
        if (separable) fill_relu(x, px, xp);
        for (size_t k = 0; k < from.items.size(); ++k) {
          const Item& i = cell.items[from.items[k]];
          if (i.separable()) {
            T* y = saved + (i.twice() ? i.first : i.map) + n * np * C;
            taps<T, false>(xp, S * px.pitch, first[k].off.data(), i.K() * i.K(), first[k].we, l, dd, pitch, Ho, Wo * C);
            compact(dd, pitch, Wo * C, Ho);
            product(dd, C, first[k].m, C, y, C, C, C, np);
            sums(y, y, np * C, l, stats.at(t, 2 * k), stats.at(t, 2 * k + 1));
          } else if (i.kind == REDUCE) {
            T* y = saved + i.map + n * np * C;
            Halves h(C, true);
            for (int q = 0; q < 2; ++q) {
              gather_relu(x, H, W, C, S, (i64)q, Ho, Wo, gathered);
              product(gathered, C, halves[2 * k + q], h.size[q], y + h.from[q], C, C, h.size[q], np);
            }
            sums(y, y, np * C, l, stats.at(t, 2 * k), stats.at(t, 2 * k + 1));
          }
        }
        if (from.pools) {
          T *mx = saved + from.mx + n * np * C, *av = saved + from.av + n * np * C;
          pool(x, C, H, W, S, Ho, Wo, mx, (uint8_t*)(saved + from.ix) + n * np * C, av);
          sums(mx, mx, np * C, l, stats.at(t, rows), stats.at(t, rows + 1));
          sums(av, av, np * C, l, stats.at(t, rows + 2), stats.at(t, rows + 3));
        }
      }
    });
    const double count = (double)(N * np);
    if (from.pools) moments(stats, rows, count, kept + from.max_bn), moments(stats, rows + 2, count, kept + from.avg_bn);
    bool twice = false;
    std::vector<T*> scale(from.items.size()), shift(from.items.size());
    for (size_t k = 0; k < from.items.size(); ++k) {
      const Item& i = cell.items[from.items[k]];
      if (i.kind < REDUCE) continue;
      double* bn = kept + (i.twice() ? i.first_bn : i.bn);
      moments(stats, 2 * k, count, bn);
      if (!i.twice()) continue;
      twice = true;
      std::vector<double> a(C), c(C);
      for (i64 q = 0; q < C; ++q) a[q] = bn[C + q], c[q] = -bn[q] * bn[C + q];
      scale[k] = spread<T>(a, l), shift[k] = spread<T>(c, l);
    }
    if (!twice) { arena().release(mark); return; }
    Pool::run(threads, [&](int t) {
      auto [b, e] = range(t);
      if (t) arena().reset();
      T* zp = arena().zeros<T>(pz.size);
      T* dd = arena().take<T>(Ho * pitch);
      for (i64 n = b; n < e; ++n)
        for (size_t k = 0; k < from.items.size(); ++k) {
          const Item& i = cell.items[from.items[k]];
          if (!i.twice()) continue;
          const T* z = saved + i.first + n * np * C;
          T* y = saved + i.map + n * np * C;
          for (i64 h = 0; h < Ho; ++h)
            scaled_relu(z + h * Wo * C, scale[k], shift[k], zp + pz.row(h) + pz.column(0), Wo * C, l);
          taps<T, false>(zp, pz.pitch, second[k].off.data(), i.K() * i.K(), second[k].we, l, dd, pitch, Ho, Wo * C);
          compact(dd, pitch, Wo * C, Ho);
          product(dd, C, second[k].m, C, y, C, C, C, np);
          sums(y, y, np * C, l, again.at(t, 2 * k), again.at(t, 2 * k + 1));
        }
    });
    for (size_t k = 0; k < from.items.size(); ++k) {
      const Item& i = cell.items[from.items[k]];
      if (i.twice()) moments(again, 2 * k, count, kept + i.bn);
    }
    arena().release(mark);
  };

  const i64 np = cell.Ho * cell.Wo;
  i64 done = 0;
  for (i64 node = 0; node < cell.nodes; ++node) {
    for (; done < 2 + node; ++done) source(done);
    std::vector<const T*> maps;
    std::vector<const Item*> into;
    for (const Item& i : cell.items)
      if (i.node == node) into.push_back(&i), maps.push_back(saved + i.map);
    T* a = arena().take<T>(std::max((i64)1, (i64)into.size() * l.CL));
    std::vector<double> constant(C, 0.0);
    for (size_t k = 0; k < into.size(); ++k) {
      const Item& i = *into[k];
      double w = (double)mix[i.edge * cell.columns + i.column];
      for (i64 q = 0; q < l.CL; ++q) a[k * l.CL + q] = (T)(i.kind == SKIP ? w : w * kept[i.bn + C + q % C]);
      for (i64 q = 0; q < C && i.kind != SKIP; ++q) constant[q] -= w * kept[i.bn + C + q] * kept[i.bn + q];
    }
    T* shift = spread<T>(constant, l);
    T* x = saved + cell.state[2 + node];
    Pool::run(threads, [&](int t) {
      auto [b, e] = range(t);
      std::vector<const T*> mine(maps);
      for (const T*& p : mine) p += b * np * C;
      weigh((int)mine.size(), mine.data(), a, shift, x + b * np * C, (e - b) * np * C, l);
    });
  }
  const i64 O = (i64)cell.outputs.size();
  Pool::run(threads, [&](int t) {
    auto [b, e] = range(t);
    for (i64 p = b * np; p < e * np; ++p)
      for (i64 k = 0; k < O; ++k) memcpy(out + (p * O + k) * C, saved + cell.state[cell.outputs[k]] + p * C, C * sizeof(T));
  });
}

// ---- backward

struct BackScale {  // gradient of a raw map: a * gradient + b * map + c, per channel
  std::vector<double> a, b, c;
};
BackScale back_scale(double w, const double* bn, const std::vector<double>& dot, const std::vector<double>& sum,
                             double n) {
  size_t C = dot.size();
  BackScale s{std::vector<double>(C), std::vector<double>(C), std::vector<double>(C)};
  for (size_t q = 0; q < C; ++q) {
    double mean = bn[q], inverse = bn[C + q];
    s.a[q] = w * inverse;
    s.b[q] = -s.a[q] * inverse * (inverse * (dot[q] - mean * sum[q]) / n);
    s.c[q] = -s.a[q] * sum[q] / n - s.b[q] * mean;
  }
  return s;
}

template <class T>
void backward_scale(const T* g, const T* y, const T* a, const T* b, const T* c, T* out, i64 count, const Lay& l) {
  typedef typename Vec<T, lanes<T>()>::v V;
  i64 whole = count / l.CL * l.CL;
  for (int v = 0; v < l.nv; ++v) {
    V av = load<V>(a + v * l.L), bv = load<V>(b + v * l.L), cv = load<V>(c + v * l.L);
    for (i64 f = (i64)v * l.L; f < whole; f += l.CL) store<V>(out + f, av * load<V>(g + f) + bv * load<V>(y + f) + cv);
  }
  for (i64 f = whole; f < count; ++f) out[f] = a[f - whole] * g[f] + b[f - whole] * y[f] + c[f - whole];
}
// out = g where scale * z + shift > 0, else 0
template <class T>
void masked(const T* g, const T* z, const T* scale, const T* shift, T* out, i64 count, const Lay& l) {
  typedef typename Vec<T, lanes<T>()>::v V;
  i64 whole = count / l.CL * l.CL;
  for (int v = 0; v < l.nv; ++v) {
    V s = load<V>(scale + v * l.L), b = load<V>(shift + v * l.L);
    for (i64 f = (i64)v * l.L; f < whole; f += l.CL) {
      V y = s * load<V>(z + f) + b;
      store<V>(out + f, y > V{} ? load<V>(g + f) : V{});
    }
  }
  for (i64 f = whole; f < count; ++f) out[f] = scale[f - whole] * z[f] + shift[f - whole] > 0 ? g[f] : 0;
}
// One 1x1 convolution behind `gather_relu`: its weight gradient as (inner, columns), and the gradient of x, added where
// `add`. `one` and `two` hold (Ho * Wo, inner) each.
template <class T>
void reduce_back(const T* x, i64 H, i64 W, i64 inner, i64 S, i64 shift, i64 Ho, i64 Wo, const T* gy, i64 C,
                 const Halves& h, int q, const T* weight, T* gw, T* gx, bool add, T* one, T* two) {
  const i64 np = Ho * Wo;
  gather_relu(x, H, W, inner, S, shift, Ho, Wo, one);
  if (gw) outer(one, inner, gy + h.from[q], C, gw, h.size[q], inner, h.size[q], np);
  if (!gx) return;
  product(gy + h.from[q], C, weight, inner, two, inner, h.size[q], inner, np);
  for (i64 p = 0; p < np; ++p) {
    i64 y = p / Wo * S + shift, z = p % Wo * S + shift;
    if (y >= H || z >= W) continue;
    T* to = gx + (y * W + z) * inner;
    const T *from = two + p * inner, *mask = one + p * inner;
    if (add) for (i64 c = 0; c < inner; ++c) to[c] += mask[c] > 0 ? from[c] : 0;
    else for (i64 c = 0; c < inner; ++c) to[c] = mask[c] > 0 ? from[c] : 0;
  }
}

// needs: bit 0 weights, bit 1 mix, bits 2 and 3 the inputs
template <class T>
void backward(const i64* plan, int threads, const T* const s[2], const T* theta, const T* mix, const T* saved,
              const double* kept, const T* gout, int needs, T* const gs[2], T* gtheta, T* gmix) {
  arena().reset();
  Cell<T> cell(plan);
  const i64 N = cell.N, C = cell.C;
  const Lay l = cell.l;
  threads = (int)std::max((i64)1, std::min((i64)threads, N));
  const bool need_weights = needs & 1, need_inputs = (needs & 12) || need_weights;
  auto range = [&](int t) { return std::pair<i64, i64>(N * t / threads, N * (t + 1) / threads); };
  const i64 np = cell.Ho * cell.Wo;
  const double count = (double)(N * np);

  // gradients of the states, beginning with what comes from outside
  std::vector<T*> G(2 + cell.nodes);
  const i64 O = (i64)cell.outputs.size();
  for (i64 j = 0; j < 2 + cell.nodes; ++j) {
    i64 size = N * cell.height(j) * cell.width(j);
    G[j] = arena().take<T>(size * C);
    bool begun = false;
    for (i64 k = 0; k < O; ++k)
      if (cell.outputs[k] == j) {
        for (i64 p = 0; p < size; ++p) {
          const T* from = gout + (p * O + k) * C;
          T* to = G[j] + p * C;
          for (i64 q = 0; q < C; ++q) to[q] = begun ? to[q] + from[q] : from[q];
        }
        begun = true;
      }
    if (!begun) memset((void*)G[j], 0, size * C * sizeof(T));
  }
  std::vector<T*> mine(threads);  // gradients of the weights, per thread, in the kernels' own order
  std::vector<i64> at(cell.items.size() * 4, -1);
  std::vector<i64> input_at(4, -1);
  i64 private_size = 0;
  auto reserve = [&](i64 n) { i64 place = private_size; private_size += up(n, 16) + 16; return place; };
  if (need_weights) {
    for (size_t k = 0; k < cell.items.size(); ++k) {
      const Item& i = cell.items[k];
      for (int q = 0; q < 4 && i.separable() && (q < 2 || i.twice()); ++q)
        at[4 * k + q] = reserve(q % 2 ? C * C : (i64)i.K() * i.K() * l.CL);
      for (int q = 0; q < 2 && i.kind == REDUCE; ++q) at[4 * k + q] = reserve(C * C);
    }
    for (int j = 0; j < 2; ++j)
      for (int q = 0; q < 2; ++q) input_at[2 * j + q] = reserve(cell.in[j].C * C);
    for (T*& m : mine) m = arena().zeros<T>(private_size);
  }

  std::vector<BackScale> scales(cell.items.size());
  auto node = [&](i64 which) {
    std::vector<int> into;
    for (size_t k = 0; k < cell.items.size(); ++k)
      if (cell.items[k].node == which) into.push_back((int)k);
    Sums found(threads, (i64)into.size() + 1, l);
    const T* g = G[2 + which];
    const T* ones = g;
    Pool::run(threads, [&](int t) {
      auto [b, e] = range(t);
      i64 size = (e - b) * np * C, block = std::max((i64)4096 / l.CL, (i64)1) * l.CL;
      std::vector<double> unused(l.CL);
      for (i64 f = 0; f < size; f += block) {  // the gradient stays in the first cache for all maps
        i64 m = std::min(block, size - f);
        for (size_t k = 0; k < into.size(); ++k)
          dots(g + b * np * C + f, saved + cell.items[into[k]].map + b * np * C + f, m, l, found.at(t, (i64)k));
        sums(g + b * np * C + f, ones + b * np * C + f, m, l, found.at(t, (i64)into.size()), unused.data());
      }
    });
    std::vector<double> sum = found.channels((i64)into.size());
    for (size_t k = 0; k < into.size(); ++k) {
      const Item& i = cell.items[into[k]];
      double w = (double)mix[i.edge * cell.columns + i.column], total = 0;
      std::vector<double> dot = found.channels((i64)k);
      if (i.kind == SKIP) {
        for (double d : dot) total += d;
      } else {
        const double* bn = kept + i.bn;
        for (i64 q = 0; q < C; ++q) total += bn[C + q] * (dot[q] - bn[q] * sum[q]);
        scales[into[k]] = back_scale(w, bn, dot, sum, count);
      }
      if (gmix) gmix[i.edge * cell.columns + i.column] = (T)total;
    }
  };

  auto source = [&](i64 j) {
    const Source& from = cell.sources[j];
    const bool need_x = j >= 2 || need_inputs;
    if (from.items.empty() || (!need_x && !need_weights)) return;
    const auto mark = arena().mark();
    const i64 H = cell.height(j), W = cell.width(j), S = cell.step(j), Ho = cell.Ho, Wo = cell.Wo, pitch = up(Wo * C, l.L);
    Padded px(4, S, C, H, W, l.L), pg(4, 1, C, Ho, Wo, l.L), pz(2, 1, C, Ho, Wo, l.L);
    const size_t K = from.items.size();
    std::vector<Conv<T>> first(K), second(K);
    std::vector<T*> A(K), B(K), Q(K), G1(K), scale(K), shift(K);
    std::vector<i64> mine_at(K);
    bool separable = false, twice = false;
    for (size_t k = 0; k < K; ++k) {
      const Item& i = cell.items[from.items[k]];
      if (i.kind == SKIP) continue;
      const BackScale& c = scales[from.items[k]];
      A[k] = spread<T>(c.a, l), B[k] = spread<T>(c.b, l), Q[k] = spread<T>(c.c, l);
      if (!i.separable()) continue;
      separable = true;
      first[k] = pack(theta + i.weight[0], theta + i.weight[1], i.K(), i.D(), px, &pg, l);
      if (!i.twice()) continue;
      twice = true;
      second[k] = pack(theta + i.weight[2], theta + i.weight[3], i.K(), 1, pz, &pz, l);
      const double* bn = kept + i.first_bn;
      std::vector<double> a(C), b(C);
      for (i64 q = 0; q < C; ++q) a[q] = bn[C + q], b[q] = -bn[q] * bn[C + q];
      scale[k] = spread<T>(a, l), shift[k] = spread<T>(b, l);
      G1[k] = arena().take<T>(cell.out_size());
    }
    if (twice) {  // the second halves: gradients of the normalised first halves, masked by their ReLU, and their sums
      Sums stats(threads, 2 * (i64)K, l);
      Pool::run(threads, [&](int t) {
        auto [b, e] = range(t);
        if (t) arena().reset();
        T *zp = arena().zeros<T>(pz.size), *gp = arena().zeros<T>(pz.size);
        T *dd = arena().take<T>(Ho * pitch), *gy = arena().take<T>(np * C), *gz = arena().take<T>(Ho * pitch);
        for (i64 n = b; n < e; ++n)
          for (size_t k = 0; k < K; ++k) {
            const Item& i = cell.items[from.items[k]];
            if (!i.twice()) continue;
            const Conv<T>& c = second[k];
            const T* z = saved + i.first + n * np * C;
            backward_scale(G[2 + i.node] + n * np * C, saved + i.map + n * np * C, A[k], B[k], Q[k], gy, np * C, l);
            if (need_weights) {
              for (i64 h = 0; h < Ho; ++h)
                scaled_relu(z + h * Wo * C, scale[k], shift[k], zp + pz.row(h) + pz.column(0), Wo * C, l);
              taps<T, false>(zp, pz.pitch, c.off.data(), c.K * c.K, c.we, l, dd, pitch, Ho, Wo * C);
              compact(dd, pitch, Wo * C, Ho);
              outer(dd, C, gy, C, mine[t] + at[4 * from.items[k] + 3], C, C, C, np);
            }
            product(gy, C, c.mt, C, dd, C, C, C, np);
            fill(dd, pz, gp);
            if (need_weights)
              tap_gradient(c.K, zp, pz.pitch, c.ry.data(), c.cx.data(), gp + pz.row(0) + pz.column(0), pz.pitch, l,
                           mine[t] + at[4 * from.items[k] + 2], Ho, Wo * C);
            taps<T, false>(gp, pz.pitch, c.back[0].off.data(), c.back[0].n(), c.back_we[0], l, gz, pitch, Ho, Wo * C);
            compact(gz, pitch, Wo * C, Ho);
            masked(gz, z, scale[k], shift[k], G1[k] + n * np * C, np * C, l);
            sums(G1[k] + n * np * C, z, np * C, l, stats.at(t, 2 * k), stats.at(t, 2 * k + 1));
          }
      });
      for (size_t k = 0; k < K; ++k) {
        const Item& i = cell.items[from.items[k]];
        if (!i.twice()) continue;
        BackScale c = back_scale(1.0, kept + i.first_bn, stats.channels(2 * k + 1), stats.channels(2 * k), count);
        A[k] = spread<T>(c.a, l), B[k] = spread<T>(c.b, l), Q[k] = spread<T>(c.c, l);
      }
    }
    // pools and identity: the gradients of all edges meet in one sum each
    std::vector<const T*> weighted[3];
    std::vector<T> weights[3];
    std::vector<double> own[2] = {std::vector<double>(C, 0.0), std::vector<double>(C, 0.0)}, constant[2] = {own[0], own[0]};
    for (size_t k = 0; k < K; ++k) {
      const Item& i = cell.items[from.items[k]];
      if (i.kind > SKIP) continue;
      weighted[i.kind].push_back(G[2 + i.node]);
      double w = (double)mix[i.edge * cell.columns + i.column];
      for (i64 q = 0; q < l.CL; ++q) weights[i.kind].push_back(i.kind == SKIP ? (T)w : A[k][q]);
      if (i.kind == SKIP) continue;
      const BackScale& c = scales[from.items[k]];
      for (i64 q = 0; q < C; ++q) own[i.kind][q] += c.b[q], constant[i.kind][q] += c.c[q];
    }
    T* shifts[2];
    for (int p = 0; p < 2; ++p) {
      shifts[p] = spread<T>(constant[p], l);
      if (!from.pools) continue;
      weighted[p].push_back(saved + (p ? from.av : from.mx));
      for (i64 q = 0; q < l.CL; ++q) weights[p].push_back((T)own[p][q % C]);
    }
    T* nothing = arena().zeros<T>(l.CL);

    Pool::run(threads, [&](int t) {
      auto [b, e] = range(t);
      if (t) arena().reset();
      T *xp = arena().zeros<T>(px.size), *gp = arena().zeros<T>(pg.size);
      T *dd = arena().take<T>(Ho * pitch), *gy = arena().take<T>(np * C);
      const i64 phase = up((W + S - 1) / S * C, l.L), gpitch = S * phase;
      T* sum = arena().take<T>(H * gpitch + gpitch);
      T *one = arena().take<T>(np * C), *two = arena().take<T>(np * C);
      auto weighing = [&](int p, i64 n, const T* shift, T* out) {
        std::vector<const T*> terms(weighted[p]);
        for (const T*& term : terms) term += n * np * C;
        weigh((int)terms.size(), terms.data(), weights[p].data(), shift, out, np * C, l);
      };
      for (i64 n = b; n < e; ++n) {
        const T* x = saved + cell.state[j] + n * H * W * C;
        T* gx = G[j] + n * H * W * C;
        if (separable && need_weights) fill_relu(x, px, xp);
        if (separable && need_x) memset((void*)sum, 0, H * gpitch * sizeof(T));
        for (size_t k = 0; k < K; ++k) {
          const Item& i = cell.items[from.items[k]];
          if (!i.separable()) continue;
          const Conv<T>& c = first[k];
          const T* g = i.twice() ? G1[k] : G[2 + i.node];
          backward_scale(g + n * np * C, saved + (i.twice() ? i.first : i.map) + n * np * C, A[k], B[k], Q[k], gy, np * C, l);
          if (need_weights) {
            taps<T, false>(xp, S * px.pitch, c.off.data(), c.K * c.K, c.we, l, dd, pitch, Ho, Wo * C);
            compact(dd, pitch, Wo * C, Ho);
            outer(dd, C, gy, C, mine[t] + at[4 * from.items[k] + 1], C, C, C, np);
          }
          product(gy, C, c.mt, C, dd, C, C, C, np);
          fill(dd, pg, gp);
          if (need_weights)
            tap_gradient(c.K, xp, S * px.pitch, c.ry.data(), c.cx.data(), gp + pg.row(0) + pg.column(0), pg.pitch, l,
                         mine[t] + at[4 * from.items[k]], Ho, Wo * C);
          if (!need_x) continue;
          for (i64 a = 0; a < S; ++a)
            for (i64 o = 0; o < S; ++o)
              taps<T, true>(gp, pg.pitch, c.back[a * S + o].off.data(), c.back[a * S + o].n(), c.back_we[a * S + o], l,
                            sum + a * gpitch + o * phase, S * gpitch, (H - a + S - 1) / S, (W - o + S - 1) / S * C);
        }
        if (separable && need_x)  // behind the shared ReLU
          for (i64 h = 0; h < H; ++h) {
            if (S == 1) {
              const T *r = sum + h * gpitch, *xx = x + h * W * C;
              T* to = gx + h * W * C;
              for (i64 f = 0; f < W * C; ++f) to[f] += xx[f] > 0 ? r[f] : 0;
            } else
              for (i64 w = 0; w < W; ++w) {
                const T *r = sum + h * gpitch + w % 2 * phase + w / 2 * C, *xx = x + (h * W + w) * C;
                T* to = gx + (h * W + w) * C;
                for (i64 q = 0; q < C; ++q) to[q] += xx[q] > 0 ? r[q] : 0;
              }
          }
        if (need_x && !weighted[SKIP].empty()) {
          weighing(SKIP, n, nothing, one);
          for (i64 f = 0; f < np * C; ++f) gx[f] += one[f];
        }
        if (need_x && from.pools) {
          weighing(0, n, shifts[0], one);
          weighing(1, n, shifts[1], two);
          pool_back(one, (const uint8_t*)(saved + from.ix) + n * np * C, two, C, H, W, S, Ho, Wo, gx);
        }
        for (size_t k = 0; k < K; ++k) {
          const Item& i = cell.items[from.items[k]];
          if (i.kind != REDUCE) continue;
          backward_scale(G[2 + i.node] + n * np * C, saved + i.map + n * np * C, A[k], B[k], Q[k], gy, np * C, l);
          Halves h(C, true);
          for (int q = 0; q < 2; ++q)
            reduce_back(x, H, W, C, S, (i64)q, Ho, Wo, gy, C, h, q, theta + i.weight[q],
                        need_weights ? mine[t] + at[4 * from.items[k] + q] : (T*)nullptr, need_x ? gx : (T*)nullptr, true,
                        one, two);
        }
      }
    });
    arena().release(mark);
  };

  for (i64 which = cell.nodes - 1; which >= 0; --which) {
    source(2 + which);
    node(which);
  }
  source(1);
  source(0);

  if (need_inputs) {  // through the batch norm and the 1x1 convolution of both inputs
    const i64 ni = cell.H * cell.W;
    Sums stats(threads, 4, l);
    Pool::run(threads, [&](int t) {
      auto [b, e] = range(t);
      for (int j = 0; j < 2; ++j)
        sums(G[j] + b * ni * C, saved + cell.state[j] + b * ni * C, (e - b) * ni * C, l, stats.at(t, 2 * j), stats.at(t, 2 * j + 1));
    });
    T *A[2], *B[2], *Q[2];
    for (int j = 0; j < 2; ++j) {  // the state is the normalised map: mean 0, deviation 1, up to the scale outside
      const double* bn = kept + cell.input_bn[j];
      std::vector<double> sum = stats.channels(2 * j), dot = stats.channels(2 * j + 1), a(C), c(C), d(C);
      for (i64 q = 0; q < C; ++q) {
        a[q] = bn[C + q];
        c[q] = -a[q] * dot[q] / (double)(N * ni);
        d[q] = -a[q] * sum[q] / (double)(N * ni);
      }
      A[j] = spread<T>(a, l), B[j] = spread<T>(c, l), Q[j] = spread<T>(d, l);
    }
    Pool::run(threads, [&](int t) {
      auto [b, e] = range(t);
      if (t) arena().reset();
      i64 widest = std::max(cell.in[0].C, cell.in[1].C);
      T *gy = arena().take<T>(ni * C), *one = arena().take<T>(ni * widest), *two = arena().take<T>(ni * widest);
      for (int j = 0; j < 2; ++j) {
        const Input& in = cell.in[j];
        const bool need = needs & (4 << j);
        if (!need && !need_weights) continue;
        Halves h(C, in.halves);
        for (i64 n = b; n < e; ++n) {
          T* gx = need ? gs[j] + n * in.H * in.W * in.C : nullptr;
          if (gx && in.halves) memset((void*)gx, 0, in.H * in.W * in.C * sizeof(T));
          backward_scale(G[j] + n * ni * C, saved + cell.state[j] + n * ni * C, A[j], B[j], Q[j], gy, ni * C, l);
          for (int q = 0; q < h.count; ++q)
            reduce_back(s[j] + n * in.H * in.W * in.C, in.H, in.W, in.C, in.halves ? (i64)2 : (i64)1, (i64)q, cell.H,
                        cell.W, gy, C, h, q, theta + in.weight[q], need_weights ? mine[t] + input_at[2 * j + q] : (T*)nullptr,
                        gx, in.halves != 0, one, two);
        }
      }
    });
  }

  if (!need_weights) return;
  memset((void*)gtheta, 0, cell.weights * sizeof(T));
  auto matrix = [&](i64 from, i64 to, i64 inner, i64 columns) {  // (inner, columns) -> (columns, inner)
    for (int t = 0; t < threads; ++t)
      for (i64 c = 0; c < inner; ++c)
        for (i64 o = 0; o < columns; ++o) gtheta[to + o * inner + c] += mine[t][from + c * columns + o];
  };
  for (size_t k = 0; k < cell.items.size(); ++k) {
    const Item& i = cell.items[k];
    for (int q = 0; q < 4 && i.separable() && (q < 2 || i.twice()); ++q) {
      i64 from = at[4 * k + q], to = i.weight[q], KK = i.K() * i.K();
      if (q % 2) { matrix(from, to, C, C); continue; }
      for (int t = 0; t < threads; ++t)
        for (int v = 0; v < l.nv; ++v)
          for (i64 tap = 0; tap < KK; ++tap)
            for (int lane = 0; lane < l.L; ++lane)
              gtheta[to + ((v * l.L + lane) % C) * KK + tap] += mine[t][from + (v * KK + tap) * l.L + lane];
    }
    Halves h(C, true);
    for (int q = 0; q < 2 && i.kind == REDUCE; ++q) matrix(at[4 * k + q], i.weight[q], C, h.size[q]);
  }
  for (int j = 0; j < 2; ++j) {
    Halves h(C, cell.in[j].halves);
    for (int q = 0; q < h.count; ++q) matrix(input_at[2 * j + q], cell.in[j].weight[q], cell.in[j].C, h.size[q]);
  }
}

// Numbers of one net in each array.
template <class T> struct Strides {
  i64 s[2], theta, mix, saved, kept, out;
  explicit Strides(const i64* plan) {
    Cell<T> cell(plan);
    for (int j = 0; j < 2; ++j) s[j] = cell.N * cell.in[j].H * cell.in[j].W * cell.in[j].C;
    theta = cell.weights, mix = cell.edges * cell.columns, saved = cell.saved, kept = cell.kept;
    out = cell.out_size() * (i64)cell.outputs.size();
  }
};

// ---- all cells of several nets of one form, their arrays one behind the other

// work(cell, net) for every cell of every net, a net's cells in order. A thread takes the next cell of the next net, so
// that threads wait for one another at the very end alone, however many nets there are, and a core that is busy
// elsewhere holds nobody up. A cell is computed by one thread: its numbers depend neither on its neighbours nor on the
// threads.
template <class Work> void each(i64 cells, i64 nets, int threads, const Work& work) {
  std::vector<std::atomic<i64>> done(nets);
  for (auto& d : done) d.store(0);
  std::atomic<i64> next{0};
  Pool::run((int)std::min((i64)threads, nets), [&](int) {
    for (i64 t = next.fetch_add(1); t < nets * cells; t = next.fetch_add(1)) {
      const i64 k = t % nets, c = t / nets;
      for (int spin = 0; done[k].load(std::memory_order_acquire) != c; ++spin)
        if (spin > 4000) std::this_thread::yield();
      work(c, k);
      done[k].store(c + 1, std::memory_order_release);
    }
  });
}

// A cell sees the outputs of the two before it, the first two see `stem`. `theta` holds the weights of all cells of a net
// in a row of `row` numbers, those of cell i from `at[i]`.
template <class T> struct Nets {
  i64 cells, nets, row;
  const i64* const* plans;
  const i64* at;
  std::vector<Strides<T>> by;
  const T *stem, *theta;
  const T* const* mix;
  T* const* saved;
  double* const* kept;
  T* const* out;

  Nets(i64 cells, i64 nets, i64 row, const i64* const* plans, const i64* at, const void* stem, const void* theta,
       void* const* mix, void* const* saved, void* const* kept, void* const* out)
      : cells(cells), nets(nets), row(row), plans(plans), at(at), stem((const T*)stem), theta((const T*)theta),
        mix((const T* const*)mix), saved((T* const*)saved), kept((double* const*)kept), out((T* const*)out) {
    for (i64 i = 0; i < cells; ++i) by.emplace_back(plans[i]);
  }
  // Input j of cell i.
  const T* input(i64 i, int j, i64 k) const {
    const i64 from = i - 2 + j;
    return (from < 0 ? stem : out[from]) + k * by[i].s[j];
  }
  void forward(int threads) const {
    each(cells, nets, threads, [&](i64 i, i64 k) {
      const Strides<T>& b = by[i];
      const T* s[2] = {input(i, 0, k), input(i, 1, k)};
      ::forward<T>(plans[i], 1, s, theta + k * row + at[i], mix[i] + k * b.mix, saved[i] + k * b.saved,
                   kept[i] + k * b.kept, out[i] + k * b.out);
    });
  }
  // gs[2 * i + j]: place for the gradient of input j of cell i; that of the stem is left in gs[0]. needs: bit 0 weights,
  // bit 1 mix, bit 2 the stem
  void backward(int threads, const T* gout, int needs, T* const* gs, T* gtheta, T* const* gmix) const {
    each(cells, nets, threads, [&](i64 c, i64 k) {
      const i64 i = cells - 1 - c;
      const Strides<T>& b = by[i];
      const bool first = (needs & 4) || i >= 2, second = (needs & 4) || i >= 1;
      auto add = [&](T* to, const T* from, i64 count) { for (i64 f = 0; f < count; ++f) to[f] += from[f]; };
      const T* slope = gout + k * b.out;
      if (i + 1 < cells) {  // what comes back from the next two cells
        T* to = gs[2 * i + 3] + k * b.out;
        if (i + 2 < cells) add(to, gs[2 * i + 4] + k * b.out, b.out);
        slope = to;
      }
      const T* s[2] = {input(i, 0, k), input(i, 1, k)};
      T* g[2] = {first ? gs[2 * i] + k * b.s[0] : nullptr, second ? gs[2 * i + 1] + k * b.s[1] : nullptr};
      ::backward<T>(plans[i], 1, s, theta + k * row + at[i], mix[i] + k * b.mix, saved[i] + k * b.saved,
                    kept[i] + k * b.kept, slope, (needs & 3) | (first ? 4 : 0) | (second ? 8 : 0), g,
                    gtheta ? gtheta + k * row + at[i] : nullptr, gmix[i] ? gmix[i] + k * b.mix : nullptr);
      if (i || !(needs & 4)) return;
      add(g[0], g[1], b.s[0]);
      if (cells > 1) add(g[0], gs[2] + k * b.s[0], b.s[0]);
    });
  }
};

}  // namespace

// Numbers (float or double) and doubles that a forward pass leaves for the backward pass.
EXPORT void cell_sizes(const i64* plan, int wide, i64* sizes) {
  if (wide) { Cell<double> cell(plan); sizes[0] = cell.saved, sizes[1] = cell.kept; }
  else { Cell<float> cell(plan); sizes[0] = cell.saved, sizes[1] = cell.kept; }
}
EXPORT void cell_forward(const i64* plan, int wide, int threads, const void* const* s, const void* theta, const void* mix,
                         void* saved, double* kept, void* out) {
  if (wide) forward(plan, threads, (const double* const*)s, (const double*)theta, (const double*)mix, (double*)saved, kept, (double*)out);
  else forward(plan, threads, (const float* const*)s, (const float*)theta, (const float*)mix, (float*)saved, kept, (float*)out);
}
EXPORT void cell_backward(const i64* plan, int wide, int threads, const void* const* s, const void* theta, const void* mix,
                          const void* saved, const double* kept, const void* gout, int needs, void* const* gs,
                          void* gtheta, void* gmix) {
  if (wide)
    backward(plan, threads, (const double* const*)s, (const double*)theta, (const double*)mix, (const double*)saved, kept,
             (const double*)gout, needs, (double* const*)gs, (double*)gtheta, (double*)gmix);
  else
    backward(plan, threads, (const float* const*)s, (const float*)theta, (const float*)mix, (const float*)saved, kept,
             (const float*)gout, needs, (float* const*)gs, (float*)gtheta, (float*)gmix);
}
EXPORT void nets_forward(i64 cells, i64 nets, i64 row, const i64* const* plans, const i64* at, int wide, int threads,
                         const void* stem, const void* theta, void* const* mix, void* const* saved, void* const* kept,
                         void* const* out) {
  if (wide) Nets<double>(cells, nets, row, plans, at, stem, theta, mix, saved, kept, out).forward(threads);
  else Nets<float>(cells, nets, row, plans, at, stem, theta, mix, saved, kept, out).forward(threads);
}
EXPORT void nets_backward(i64 cells, i64 nets, i64 row, const i64* const* plans, const i64* at, int wide, int threads,
                          const void* stem, const void* theta, void* const* mix, void* const* saved, void* const* kept,
                          void* const* out, const void* gout, int needs, void* const* gs, void* gtheta, void* const* gmix) {
  if (wide)
    Nets<double>(cells, nets, row, plans, at, stem, theta, mix, saved, kept, out)
        .backward(threads, (const double*)gout, needs, (double* const*)gs, (double*)gtheta, (double* const*)gmix);
  else
    Nets<float>(cells, nets, row, plans, at, stem, theta, mix, saved, kept, out)
        .backward(threads, (const float*)gout, needs, (float* const*)gs, (float*)gtheta, (float* const*)gmix);
}
