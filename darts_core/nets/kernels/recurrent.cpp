// What stands between the matrix products of a mixed recurrent cell, forward and back; T is float or double.
//
// `nets/recurrent_fast.py` walks a sequence and leaves the products to PyTorch. Each function here makes one pass over
// rows of n units where PyTorch's own calls make ten: gates, functions, their weighted sum, the highway and the sum over
// states at once, and on the way back the gradients of all of them with the weights' sums.
//
// sigmoid(u) = 1 / (1 + e) and tanh(u) = (1 - e^2) / (1 + e^2) share e = exp(-u). Tensors are dense; rows of `both` hold
// [c of the K nodes fed, h of them]; `weights` is (K, 5): tanh, relu, sigmoid, identity, and their sum q.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "vectors.h"

namespace {

enum { TANH, RELU, SIGMOID, IDENTITY, MASS, FUNCTIONS };

template <class T> struct Lanes;
template <> struct Lanes<float> {
  static constexpr int L = lanes<float>();
  typedef float V __attribute__((vector_size(VECTOR_BYTES)));
  typedef int32_t I __attribute__((vector_size(VECTOR_BYTES)));
  static constexpr float magic = 12582912.0f, largest = 40.0f;  // 1.5 * 2^23; exp(2 * largest) is finite
  static constexpr int bias = 127, shift = 23;
};
template <> struct Lanes<double> {
  static constexpr int L = lanes<double>();
  typedef double V __attribute__((vector_size(VECTOR_BYTES)));
  typedef int64_t I __attribute__((vector_size(VECTOR_BYTES)));
  static constexpr double magic = 6755399441055744.0, largest = 340.0;  // 1.5 * 2^52
  static constexpr int bias = 1023, shift = 52;
};
template <class T> inline typename Lanes<T>::V all(T x) { return x - (typename Lanes<T>::V){}; }
template <class T> inline T sum(typename Lanes<T>::V v) {
  T s = 0;
  for (int k = 0; k < Lanes<T>::L; ++k) s += v[k];
  return s;
}

// exp(x) for |x| <= largest: 2^k * exp(r) with |r| <= ln(2) / 2, exp(r) by its series.
template <class T> inline typename Lanes<T>::V exponential(typename Lanes<T>::V x) {
  typedef typename Lanes<T>::V V;
  typedef typename Lanes<T>::I I;
  const V magic = all<T>(Lanes<T>::magic);
  V turned = x * (T)1.4426950408889634074 + magic;
  V k = turned - magic;
  V r = x - k * (T)0.693145751953125;  // the upper digits of ln(2): k times them is exact
  r = r - k * (T)1.42860682030941723212e-6;
  V p;
  if (sizeof(T) == 4) {
    p = all<T>((T)(1.0 / 5040));
    for (int d = 720, n = 6; n >= 1; d /= n, --n) p = p * r + (T)(1.0 / d);
    p = p * r + (T)1;
  } else {
    double d = 6227020800.0;  // 13!
    p = all<T>((T)(1 / d));
    for (int n = 13; n >= 1; --n) { d /= n; p = p * r + (T)(1 / d); }
  }
  I bits = ((I)turned - (I)magic + Lanes<T>::bias) << Lanes<T>::shift;
  return p * (V)bits;
}
template <class T> inline typename Lanes<T>::V held(typename Lanes<T>::V u) {  // within +-largest; NaN stays NaN
  const typename Lanes<T>::V most = all<T>(Lanes<T>::largest);
  u = u > most ? most : u;
  return u < -most ? -most : u;
}
template <class T> inline typename Lanes<T>::V sigmoid(typename Lanes<T>::V u) {
  return (T)1 / ((T)1 + exponential<T>(-held<T>(u)));
}
template <class T> struct Values {
  typename Lanes<T>::V tanh, relu, sigmoid;
  explicit Values(typename Lanes<T>::V u) {
    typedef typename Lanes<T>::V V;
    V e = exponential<T>(-held<T>(u)), e2 = e * e;
    sigmoid = (T)1 / ((T)1 + e);
    tanh = ((T)1 - e2) / ((T)1 + e2);
    relu = u < (T)0 ? (V){} : u;
  }
};

// One vector of the end of a row that is shorter than a vector goes through a buffer.
template <class T, class F> inline void over(i64 n, F body) {
  i64 i = 0;
  for (; i + Lanes<T>::L <= n; i += Lanes<T>::L) body(i, Lanes<T>::L);
  if (i < n) body(i, (int)(n - i));
}
template <class T> inline typename Lanes<T>::V some(const T* p, int count) {
  if (count == Lanes<T>::L) return load<typename Lanes<T>::V>(p);
  typename Lanes<T>::V v = {};
  memcpy((void*)&v, p, count * sizeof(T));
  return v;
}
template <class T> inline void put(T* p, typename Lanes<T>::V v, int count) {
  if (count == Lanes<T>::L) store<typename Lanes<T>::V>(p, v);
  else memcpy(p, (const void*)&v, count * sizeof(T));
}

// gates (B, 2n) = [c, h] become [sigmoid(c), tanh(h)]; out (B, n) = s + sigmoid(c) * (tanh(h) - s).
template <class T> void enter(i64 B, i64 n, T* gates, const T* s, T* out) {
  for (i64 b = 0; b < B; ++b, gates += 2 * n, s += n, out += n)
    over<T>(n, [&](i64 i, int k) {
      auto g = sigmoid<T>(some<T>(gates + i, k));
      auto f = Values<T>(some<T>(gates + n + i, k)).tanh;
      auto state = some<T>(s + i, k);
      put<T>(gates + i, g, k);
      put<T>(gates + n + i, f, k);
      put<T>(out + i, state + g * (f - state), k);
    });
}

// From a gradient d (B, n) behind `enter`: gates become the gradients of [c, h], out that of s by way of the highway.
template <class T> void enter_back(i64 B, i64 n, T* gates, const T* s, const T* d, T* out) {
  for (i64 b = 0; b < B; ++b, gates += 2 * n, s += n, d += n, out += n)
    over<T>(n, [&](i64 i, int k) {
      auto g = some<T>(gates + i, k), f = some<T>(gates + n + i, k), grad = some<T>(d + i, k);
      auto dm = grad * g;
      put<T>(out + i, grad - dm, k);
      put<T>(gates + i, (f - some<T>(s + i, k)) * dm * ((T)1 - g), k);
      put<T>(gates + n + i, dm * ((T)1 - f * f), k);
    });
}

// both (B, 2Kn): c becomes sigmoid(c); total (B, pitch) (+)= q s + g (sum_k w_k f_k(h) - q s), per node fed.
template <class T> void feed(i64 B, i64 n, i64 K, T* both, const T* s, const T* weights, T* total, i64 pitch, int add) {
  for (i64 b = 0; b < B; ++b, both += 2 * K * n, s += n, total += pitch)
    for (i64 node = 0; node < K; ++node) {
      const T* w = weights + node * FUNCTIONS;
      T *c = both + node * n, *h = both + (K + node) * n, *out = total + node * n;
      over<T>(n, [&](i64 i, int k) {
        auto g = sigmoid<T>(some<T>(c + i, k)), u = some<T>(h + i, k);
        Values<T> f(u);
        auto m = w[TANH] * f.tanh + w[RELU] * f.relu + w[SIGMOID] * f.sigmoid + w[IDENTITY] * u;
        auto past = w[MASS] * some<T>(s + i, k);
        auto part = past + g * (m - past);
        put<T>(c + i, g, k);
        put<T>(out + i, add ? some<T>(out + i, k) + part : part, k);
      });
    }
}

// From the gradients d (B, pitch) of the nodes fed: `both` becomes the gradients of [c, h], out (B, n) that of s by way
// of the highways, sums (K, 5) += those of the weights, where wanted (in the fifth column that of the mass).
template <class T>
void feed_back(i64 B, i64 n, i64 K, T* both, const T* s, const T* weights, const T* d, i64 pitch, T* out, double* sums) {
  typedef typename Lanes<T>::V V;
  std::vector<V> parts(sums ? K * FUNCTIONS : 0);
  for (i64 b = 0; b < B; ++b, both += 2 * K * n, s += n, d += pitch, out += n) {
    for (i64 node = 0; node < K; ++node) {
      const T* w = weights + node * FUNCTIONS;
      T *c = both + node * n, *h = both + (K + node) * n;
      const T* grad = d + node * n;
      V of[FUNCTIONS] = {};
      over<T>(n, [&](i64 i, int k) {
        V D = some<T>(grad + i, k), g = some<T>(c + i, k), u = some<T>(h + i, k), state = some<T>(s + i, k);
        Values<T> f(u);
        V dm = D * g, past = D - dm, mass = w[MASS] * state;
        V m = w[TANH] * f.tanh + w[RELU] * f.relu + w[SIGMOID] * f.sigmoid + w[IDENTITY] * u;
        V step = u > (T)0 ? all<T>(w[RELU]) : (V){};
        V slope = w[TANH] * ((T)1 - f.tanh * f.tanh) + step + w[SIGMOID] * (f.sigmoid - f.sigmoid * f.sigmoid) + w[IDENTITY];
        if (sums) {
          of[TANH] += dm * f.tanh;
          of[RELU] += dm * f.relu;
          of[SIGMOID] += dm * f.sigmoid;
          of[IDENTITY] += dm * u;
          of[MASS] += past * state;
        }
        put<T>(c + i, (m - mass) * dm * ((T)1 - g), k);
        put<T>(h + i, dm * slope, k);
        V through = past * w[MASS];
        put<T>(out + i, node ? some<T>(out + i, k) + through : through, k);
      });
      for (int o = 0; sums && o < FUNCTIONS; ++o) parts[node * FUNCTIONS + o] += of[o];
    }
    if (sums && (b % 16 == 15 || b == B - 1))  // short sums in T, long ones in double
      for (i64 o = 0; o < K * FUNCTIONS; ++o) { sums[o] += sum<T>(parts[o]); parts[o] = (V){}; }
  }
}

// Batch norm of x (B, pitch) over its rows into y (B, n), y * mask into `dropped` where there is a mask, the reciprocal
// deviations into scale (n); mean (B, n) (+)= y / N where it is given.
template <class T>
void normalise(i64 B, i64 n, const T* x, i64 pitch, const T* mask, T* y, T* dropped, T* scale, T* mean, int add, T share) {
  typedef typename Lanes<T>::V V;
  std::vector<T> middle(n), spread(n);
  for (i64 b = 0; b < B; ++b)
    over<T>(n, [&](i64 i, int k) { put<T>(&middle[i], some<T>(&middle[i], k) + some<T>(x + b * pitch + i, k), k); });
  for (i64 i = 0; i < n; ++i) middle[i] /= (T)B;
  for (i64 b = 0; b < B; ++b)
    over<T>(n, [&](i64 i, int k) {
      V away = some<T>(x + b * pitch + i, k) - some<T>(&middle[i], k);
      put<T>(&spread[i], some<T>(&spread[i], k) + away * away, k);
    });
  for (i64 i = 0; i < n; ++i) scale[i] = B == 1 ? 0 : 1 / std::sqrt(spread[i] / (T)B + (T)1e-5);
  for (i64 b = 0; b < B; ++b)
    over<T>(n, [&](i64 i, int k) {
      V value = (some<T>(x + b * pitch + i, k) - some<T>(&middle[i], k)) * some<T>(scale + i, k);
      put<T>(y + b * n + i, value, k);
      if (mask) put<T>(dropped + b * n + i, value * some<T>(mask + b * n + i, k), k);
      if (mean) put<T>(mean + b * n + i, add ? some<T>(mean + b * n + i, k) + share * value : share * value, k);
    });
}

// The gradient before `normalise`, into out (B, pitch), from the one behind it, which is share * `even` (B, n; the mean
// of the nodes) + `own` (the highways) + `product` * mask (the matrices), each where it is given.
template <class T>
void normalise_back(i64 B, i64 n, const T* own, const T* product, const T* mask, const T* even, T share, const T* y,
                    const T* scale, T* out, i64 pitch) {
  typedef typename Lanes<T>::V V;
  std::vector<T> first(n), inner(n);
  auto joined = [&](i64 b, i64 i, int k) {
    V g = own ? some<T>(own + b * n + i, k) : (V){};
    if (product) {
      V p = some<T>(product + b * n + i, k);
      g += mask ? p * some<T>(mask + b * n + i, k) : p;
    }
    return even ? g + share * some<T>(even + b * n + i, k) : g;
  };
  for (i64 b = 0; b < B; ++b)
    over<T>(n, [&](i64 i, int k) {
      V g = joined(b, i, k);
      put<T>(&first[i], some<T>(&first[i], k) + g, k);
      put<T>(&inner[i], some<T>(&inner[i], k) + g * some<T>(y + b * n + i, k), k);
    });
  for (i64 i = 0; i < n; ++i) { first[i] /= (T)B; inner[i] /= (T)B; }
  for (i64 b = 0; b < B; ++b)
    over<T>(n, [&](i64 i, int k) {
      V g = joined(b, i, k) - some<T>(&first[i], k) - some<T>(y + b * n + i, k) * some<T>(&inner[i], k);
      put<T>(out + b * pitch + i, g * some<T>(scale + i, k), k);
    });
}

}  // namespace

EXPORT void recurrent_enter(int wide, i64 B, i64 n, void* gates, const void* s, void* out) {
  if (wide) enter<double>(B, n, (double*)gates, (const double*)s, (double*)out);
  else enter<float>(B, n, (float*)gates, (const float*)s, (float*)out);
}
EXPORT void recurrent_enter_back(int wide, i64 B, i64 n, void* gates, const void* s, const void* d, void* out) {
  if (wide) enter_back<double>(B, n, (double*)gates, (const double*)s, (const double*)d, (double*)out);
  else enter_back<float>(B, n, (float*)gates, (const float*)s, (const float*)d, (float*)out);
}
EXPORT void recurrent_feed(int wide, i64 B, i64 n, i64 K, void* both, const void* s, const void* weights, void* total,
                           i64 pitch, int add) {
  if (wide) feed<double>(B, n, K, (double*)both, (const double*)s, (const double*)weights, (double*)total, pitch, add);
  else feed<float>(B, n, K, (float*)both, (const float*)s, (const float*)weights, (float*)total, pitch, add);
}
EXPORT void recurrent_feed_back(int wide, i64 B, i64 n, i64 K, void* both, const void* s, const void* weights,
                                const void* d, i64 pitch, void* out, double* sums) {
  if (wide)
    feed_back<double>(B, n, K, (double*)both, (const double*)s, (const double*)weights, (const double*)d, pitch,
                      (double*)out, sums);
  else
    feed_back<float>(B, n, K, (float*)both, (const float*)s, (const float*)weights, (const float*)d, pitch, (float*)out,
                     sums);
}
EXPORT void recurrent_normalise(int wide, i64 B, i64 n, const void* x, i64 pitch, const void* mask, void* y,
                                void* dropped, void* scale, void* mean, int add, double share) {
  if (wide)
    normalise<double>(B, n, (const double*)x, pitch, (const double*)mask, (double*)y, (double*)dropped, (double*)scale,
                      (double*)mean, add, share);
  else
    normalise<float>(B, n, (const float*)x, pitch, (const float*)mask, (float*)y, (float*)dropped, (float*)scale,
                     (float*)mean, add, (float)share);
}
EXPORT void recurrent_normalise_back(int wide, i64 B, i64 n, const void* own, const void* product, const void* mask,
                                     const void* even, double share, const void* y, const void* scale, void* out,
                                     i64 pitch) {
  if (wide)
    normalise_back<double>(B, n, (const double*)own, (const double*)product, (const double*)mask, (const double*)even, share,
                           (const double*)y, (const double*)scale, (double*)out, pitch);
  else
    normalise_back<float>(B, n, (const float*)own, (const float*)product, (const float*)mask, (const float*)even,
                          (float)share, (const float*)y, (const float*)scale, (float*)out, pitch);
}
