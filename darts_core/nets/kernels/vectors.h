// What the kernels share: vectors as wide as the machine's, read and written wherever they lie.

#pragma once

#include <cstdint>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

#ifdef _WIN32
#define EXPORT extern "C" __declspec(dllexport)
#else
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace {

typedef int64_t i64;

template <class T> constexpr int lanes() { return VECTOR_BYTES / sizeof(T); }
// Through a packed struct: one unaligned instruction, where memcpy would take two halves by way of the stack.
template <class V> struct __attribute__((packed, may_alias)) Anywhere { V v; };
template <class V> inline V load(const void* p) { return ((const Anywhere<V>*)p)->v; }
template <class V> inline void store(void* p, V v) { ((Anywhere<V>*)p)->v = v; }

}  // namespace
