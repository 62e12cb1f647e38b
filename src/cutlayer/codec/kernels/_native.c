/* The hot loops of the codec. `kernels.py` says what each function computes; `native.py` calls them.
 *
 * C99, no dependencies, no allocation, no state: the caller brings every buffer, with the sizes given
 * beside each function, and splits the work over threads by ranges of rows, segments or values.
 * Every function gives 0, a number that its comment names, or an error below 0. Results are the same
 * bit for bit on every machine and for every split: float32 operations in a fixed order (compile with
 * -ffp-contract=off, never with -ffast-math), all else integers, but for what an encoder alone chooses
 * by libm's functions (hazards).
 * `cutlayer_rans_decode`, `cutlayer_short_decode` and `cutlayer_read_hazards` read bytes from outside; they
 * check every read.
 *
 * Speed: plain loops that compilers vectorise, built twice on x86-64 (for AVX2 and for any machine);
 * the entropy coder and the first stages of the Hadamard transform have a second form in AVX2
 * intrinsics, chosen at run time; products are there in AVX-512 alone. Macros, for tests:
 * CUTLAYER_NO_CLONES builds the loops once; CUTLAYER_PLAIN leaves the intrinsics out as well.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__GLIBC__) && \
    !defined(CUTLAYER_PLAIN) && !defined(CUTLAYER_NO_CLONES)
#define CLONES __attribute__((target_clones("avx2", "default")))
#else
#define CLONES
#endif

#if defined(__GNUC__) && defined(__x86_64__) && !defined(CUTLAYER_PLAIN)
#define HAVE_AVX2 1
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2,popcnt")))
#define AVX512 __attribute__((target("avx512f")))
#endif

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

/* errors; `native.py` turns them into words */
enum {
    BAD_TABLE = -1, BAD_STATE = -2, TOO_SHORT = -3, TOO_LONG = -4, BAD_SYMBOL = -5, BAD_HAZARD = -6
};

enum { LANES = 32, FREQUENCY_BITS = 12, FREQUENCY_SUM = 1 << FREQUENCY_BITS };
enum { SKIPPED_ROW = -32768, MAGNITUDE = 0x7fffffff };
#define LOWEST_STATE ((uint32_t)1 << 16)

/* Extension modules must export this on some platforms; nothing imports this library as a module. */
EXPORT void *PyInit__native(void);
EXPORT void *PyInit__native(void) { return 0; }

/* Counts changes of the signatures below, so that an old build is not called with new arguments. */
EXPORT int64_t cutlayer_version(void) { return 3; }

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* |x| as an integer: for finite floats the same order as the magnitudes */
static inline int32_t magnitude_bits(float x)
{
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & MAGNITUDE;
}

static inline float from_bits(int32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline float magnitude(float x) { return from_bits(magnitude_bits(x)); }

/* Choices by masks rather than by branches, which keep GCC from vectorising: all bits set, or none. */
static inline int32_t mask_of(int32_t condition) { return -(condition != 0); }

static inline int32_t either(int32_t mask, int32_t one, int32_t other)
{
    return (one & mask) | (other & ~mask);
}

static inline float with_sign(float x, int32_t negative)
{
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return from_bits(bits ^ (mask_of(negative) & INT32_MIN));
}

static inline float or_zero(float x, int32_t condition)
{
    int32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return from_bits(bits & mask_of(condition));
}

/* ---- the mix: 32 random bits for an index and a seed -------------------------------------------- */

typedef struct { uint32_t first, second; } mix_key;

static inline uint32_t lowbias32(uint32_t x)
{
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

static mix_key mix_key_of(uint64_t seed)
{
    mix_key key;
    key.first = lowbias32((uint32_t)seed);
    key.second = lowbias32((uint32_t)(seed >> 32) + key.first);
    return key;
}

static inline uint32_t mix(uint32_t i, mix_key key)
{
    uint32_t x = i * 0x9e3779b9u + key.first;
    x = (x ^ x >> 16) * 0x7feb352du;
    x = ((x ^ x >> 15) + key.second) * 0x846ca68bu;
    return x ^ x >> 16;
}

/* ---- Top-K ------------------------------------------------------------------------------------- */

enum { BLOCK = 512, SAMPLE = 4096, SAMPLED_FROM = 32768 };

CLONES static void range_of(const uint32_t *keys, int64_t n, uint32_t *smallest, uint32_t *largest)
{
    /* keys are below 2^31: signed comparisons, which SSE2 has, give the same */
    int32_t low = MAGNITUDE, high = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t key = (int32_t)keys[i];
        low = key < low ? key : low;
        high = key > high ? key : high;
    }
    *smallest = (uint32_t)low;
    *largest = (uint32_t)high;
}

/* The k-th largest (k = 1..n) of `keys`, which are lost: a histogram of 256 bins over their range
 * says which bin it is in, and only that bin's keys stay. */
static uint32_t kth_largest(uint32_t *keys, int64_t n, int64_t k)
{
    for (;;) {
        uint32_t low, high, bin = 255;
        int64_t bins[256] = {0}, left = 0;
        int shift = 0;
        range_of(keys, n, &low, &high);
        if (low == high) return low;
        while ((high - low) >> shift > 255) shift++;
        for (int64_t i = 0; i < n; i++) bins[(keys[i] - low) >> shift]++;
        while (bins[bin] < k) k -= bins[bin--];
        for (int64_t i = 0; i < n; i++) {
            keys[left] = keys[i];
            left += (keys[i] - low) >> shift == bin;
        }
        n = left;
    }
}

/* Of a block: kept where the magnitude is above `high`; class 1 where it is within [low, high]. */
CLONES static int64_t classify(const float *restrict values, int64_t n, int32_t low, int32_t high,
                               uint8_t *restrict kept, uint8_t *restrict within)
{
    int32_t above = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t key = magnitude_bits(values[i]);
        uint8_t is_above = key > high;
        kept[i] = is_above;
        within[i] = (key >= low) ^ is_above;
        above += is_above;
    }
    return above;
}

/* One segment, given that the k-th largest magnitude lies within [low, high]. Says -1, with the marks
 * undone by the next try, where it does not. Scratch: 2 n numbers. */
static int top_k_within(const float *values, int64_t n, int64_t k, int32_t low, int32_t high,
                        uint8_t *kept, uint32_t *scratch)
{
    uint32_t *places = scratch, *keys = scratch + n;
    uint8_t within[BLOCK] = {0};
    int64_t above = 0, found = 0;
    for (int64_t first = 0; first < n; first += BLOCK) {
        int64_t size = least(BLOCK, n - first);
        above += classify(values + first, size, low, high, kept + first, within);
        for (int64_t i = 0; i < size; i += 8) {
            uint64_t eight;
            memcpy(&eight, within + i, 8);
            if (!eight) continue;
            for (int64_t j = i; j < least(i + 8, size); j++) {
                places[found] = (uint32_t)(first + j);
                keys[found] = (uint32_t)magnitude_bits(values[first + j]);
                found += within[j];
            }
        }
    }
    if (above >= k || above + found < k) return -1;
    int64_t ties = k - above;
    int32_t threshold = (int32_t)kth_largest(keys, found, ties);
    for (int64_t i = 0; i < found; i++)
        ties -= magnitude_bits(values[places[i]]) > threshold;
    for (int64_t i = 0; i < found; i++) {
        int32_t key = magnitude_bits(values[places[i]]);
        int equal = key == threshold && ties > 0;
        ties -= equal;
        kept[places[i]] = key > threshold || equal;
    }
    return 0;
}

/* A range that holds the k-th largest with near certainty: 5 standard deviations of the rank. */
static void bracket(const float *values, int64_t n, int64_t k, int32_t *low, int32_t *high,
                    uint32_t *scratch)
{
    int64_t stride = n / SAMPLE, rank = k * SAMPLE / n, spread = 1;
    mix_key key = mix_key_of(0);
    for (int64_t i = 0; i < SAMPLE; i++) /* one place in each stride, so that no column is favoured */
        scratch[i] = (uint32_t)magnitude_bits(
            values[i * stride + (int64_t)(mix((uint32_t)i, key) % (uint64_t)stride)]);
    while (spread * spread * n < 25 * rank * (n - k)) spread++;
    memcpy(scratch + SAMPLE, scratch, SAMPLE * sizeof *scratch);
    *low = rank + spread > SAMPLE ? 0 : (int32_t)kth_largest(scratch, SAMPLE, rank + spread);
    *high = rank - spread < 1 ? MAGNITUDE
                              : (int32_t)kth_largest(scratch + SAMPLE, SAMPLE, rank - spread);
}

/* Segments first..last - 1. `scratch` holds twice the largest segment's size. */
EXPORT int64_t cutlayer_top_k(const float *values, const int64_t *sizes, const int64_t *counts,
                           int64_t first, int64_t last, uint8_t *kept, uint32_t *scratch)
{
    int64_t start = 0;
    for (int64_t segment = 0; segment < first; segment++) start += sizes[segment];
    for (int64_t segment = first; segment < last; segment++) {
        int64_t n = sizes[segment], k = counts[segment];
        const float *x = values + start;
        uint8_t *marks = kept + start;
        start += n;
        if (k <= 0 || k >= n) {
            memset(marks, k > 0, (size_t)n);
            continue;
        }
        int32_t low = 0, high = MAGNITUDE;
        if (n >= SAMPLED_FROM) bracket(x, n, k, &low, &high, scratch);
        if (top_k_within(x, n, k, low, high, marks, scratch))
            top_k_within(x, n, k, 0, MAGNITUDE, marks, scratch);
    }
    return 0;
}

/* ---- stochastic levels ------------------------------------------------------------------------- */

/* The bits of the largest magnitude; those of a NaN are larger than infinity's. */
CLONES static int32_t largest_of(const float *restrict x, int64_t n)
{
    int32_t largest = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t key = magnitude_bits(x[i]);
        largest = key > largest ? key : largest;
    }
    return largest;
}
EXPORT int64_t cutlayer_largest(const float *values, int64_t first, int64_t last)
{
    return largest_of(values + first, last - first);
}

CLONES static void segment_extremes(const float *restrict x, const uint8_t *restrict kept, int64_t n,
                                    float *smallest, float *largest)
{
    int32_t low = MAGNITUDE, high = -1;
    for (int64_t i = 0; i < n; i++) {
        int32_t key = magnitude_bits(x[i]);
        int32_t mask = mask_of(kept[i]), at_least = either(mask, key, MAGNITUDE);
        int32_t at_most = either(mask, key, -1);
        low = at_least < low ? at_least : low;
        high = at_most > high ? at_most : high;
    }
    *smallest = high < 0 ? 0.0f : from_bits(low);
    *largest = high < 0 ? 0.0f : from_bits(high);
}

/* Segments first..last - 1. */
EXPORT int64_t cutlayer_extremes(const float *values, const uint8_t *kept, const int64_t *sizes,
                              int64_t first, int64_t last, float *smallest, float *largest)
{
    int64_t start = 0;
    for (int64_t segment = 0; segment < first; segment++) start += sizes[segment];
    for (int64_t segment = first; segment < last; start += sizes[segment++])
        segment_extremes(values + start, kept + start, sizes[segment], smallest + segment,
                         largest + segment);
    return 0;
}

CLONES static void levels_of(const float *restrict x, const uint8_t *restrict kept, int64_t n,
                             uint32_t index, mix_key key, float low, float span, float levels,
                             int16_t *restrict symbols)
{
    for (int64_t i = 0; i < n; i++) {
        float noise = (float)(int32_t)(mix(index + (uint32_t)i, key) >> 8) * 0x1p-24f;
        float at = (magnitude(x[i]) - low) / span * levels + noise;
        at = at > 0.0f ? at : 0.0f; /* also what is not kept, so that the conversion is defined */
        at = at < levels ? at : levels;
        int32_t symbol = (int32_t)at + 1;
        symbol = x[i] < 0.0f ? -symbol : symbol;
        symbols[i] = (int16_t)(kept[i] ? symbol : 0);
    }
}

/* Values first..last - 1. */
EXPORT int64_t cutlayer_quantise_levels(const float *values, const uint8_t *kept, const int64_t *sizes,
                                     int64_t segments, const float *smallest, const float *largest,
                                     int64_t levels, uint64_t seed, int64_t first, int64_t last,
                                     int16_t *symbols)
{
    mix_key key = mix_key_of(seed);
    int64_t start = 0;
    for (int64_t segment = 0; segment < segments; start += sizes[segment++]) {
        int64_t from = most(start, first), to = least(start + sizes[segment], last);
        float low = smallest[segment], span = largest[segment] - low;
        if (from < to)
            levels_of(values + from, kept + from, to - from, (uint32_t)from, key, low,
                      span != 0.0f ? span : 1.0f, (float)levels, symbols + from);
    }
    return 0;
}

/* At most 8 points stay in registers: comparisons of many symbols at once beat look-ups. */
CLONES static int32_t few_points(const int16_t *restrict symbols, int64_t n,
                                 const int32_t *restrict points, float *restrict values)
{
    int32_t p1 = points[0], p2 = points[1], p3 = points[2], p4 = points[3];
    int32_t p5 = points[4], p6 = points[5], p7 = points[6], p8 = points[7];
    int32_t largest = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t q = symbols[i], size = q < 0 ? -q : q;
        int32_t x = p1;
        x = either(mask_of(size > 1), p2, x);
        x = either(mask_of(size > 2), p3, x);
        x = either(mask_of(size > 3), p4, x);
        x = either(mask_of(size > 4), p5, x);
        x = either(mask_of(size > 5), p6, x);
        x = either(mask_of(size > 6), p7, x);
        x = either(mask_of(size > 7), p8, x);
        largest = size > largest ? size : largest;
        values[i] = with_sign(or_zero(from_bits(x), size), q < 0);
    }
    return largest;
}

static int32_t many_points(const int16_t *symbols, int64_t n, const float *points, int64_t count,
                           float *values)
{
    int32_t largest = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t q = symbols[i], size = q < 0 ? -q : q;
        float x = size && size <= count ? points[size - 1] : 0.0f;
        largest = size > largest ? size : largest;
        values[i] = q < 0 ? -x : x;
    }
    return largest;
}

/* Values first..last - 1. */
EXPORT int64_t cutlayer_dequantise_points(const int16_t *symbols, const int64_t *sizes,
                                          int64_t segments, const float *points, int64_t count,
                                          int64_t first, int64_t last, float *values)
{
    int64_t start = 0;
    for (int64_t segment = 0; segment < segments; start += sizes[segment++]) {
        int64_t from = most(start, first), to = least(start + sizes[segment], last);
        if (from >= to) continue;
        const float *row = points + segment * count;
        int32_t largest;
        if (count <= 8) {
            int32_t eight[8] = {0}; /* the bits of floats */
            memcpy(eight, row, (size_t)count * sizeof *row);
            largest = few_points(symbols + from, to - from, eight, values + from);
        } else {
            largest = many_points(symbols + from, to - from, row, count, values + from);
        }
        if (largest > count) return BAD_SYMBOL;
    }
    return 0;
}

/* ---- dead zone --------------------------------------------------------------------------------- */

/* Adds to moments: ones, their |x| / step in 1/4096, more, their |x| / step and levels in 1/4096.
 * n is at most BLOCK. */
CLONES static void dead_zone_block(const float *restrict x, int64_t n, float inverse, float rounding,
                                   int16_t *restrict symbols, int64_t *moments)
{
    const int32_t largest = 0x46fffe00; /* 32767.0 */
    int32_t ones = 0, ones_excess = 0, more = 0, more_excess = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t bits = magnitude_bits(magnitude(x[i]) * inverse);
        float size = from_bits(bits < largest ? bits : largest);
        int32_t level = (int32_t)(size + rounding);
        /* |x| / step - level is exact in float32, so the difference of the parts is its floor */
        int32_t excess = (int32_t)(size * 4096.0f) - level * 4096;
        int32_t one = mask_of(level == 1), above = mask_of(level > 1);
        ones -= one;
        more -= above;
        ones_excess += excess & one;
        more_excess += excess & above;
        symbols[i] = (int16_t)either(mask_of(x[i] < 0.0f), -level, level);
    }
    moments[0] += ones;
    moments[1] += ones_excess;
    moments[2] += more;
    moments[3] += more_excess;
}

EXPORT int64_t cutlayer_quantise_dead_zone(const float *values, int64_t n, float inverse, float rounding,
                                        int16_t *symbols, int64_t *moments)
{
    /* in blocks, so that 32-bit sums cannot overflow: an excess is within 4096 */
    for (int64_t first = 0; first < n; first += 8 * BLOCK)
        dead_zone_block(values + first, least(8 * BLOCK, n - first), inverse, rounding,
                        symbols + first, moments);
    return 0;
}

CLONES EXPORT int64_t cutlayer_dequantise_dead_zone(const int16_t *restrict symbols, int64_t n, float step,
                                                 float shift_one, float shift_more,
                                                 float *restrict values)
{
    int32_t one, more;
    memcpy(&one, &shift_one, sizeof one);
    memcpy(&more, &shift_more, sizeof more);
    for (int64_t i = 0; i < n; i++) {
        int32_t q = symbols[i], size = q < 0 ? -q : q;
        float shift = from_bits(either(mask_of(size > 1), more, one));
        values[i] = with_sign(or_zero(((float)size + shift) * step, size), q < 0);
    }
    return 0;
}

/* ---- Hadamard ---------------------------------------------------------------------------------- */

/* Stages h = 1, 2, 4 on each 8 of n values. */
CLONES static void three_stages(float *restrict x, int64_t n)
{
    for (int64_t i = 0; i + 8 <= n; i += 8) {
        float a[8], b[8];
        for (int j = 0; j < 8; j += 2) {
            a[j] = x[i + j] + x[i + j + 1];
            a[j + 1] = x[i + j] - x[i + j + 1];
        }
        for (int j = 0; j < 8; j += 4)
            for (int l = 0; l < 2; l++) {
                b[j + l] = a[j + l] + a[j + l + 2];
                b[j + l + 2] = a[j + l] - a[j + l + 2];
            }
        for (int l = 0; l < 4; l++) {
            x[i + l] = b[l] + b[l + 4];
            x[i + l + 4] = b[l] - b[l + 4];
        }
    }
}

#ifdef HAVE_AVX2
/* The same: each value's partner is moved to its place, and a - b is a + (-b) to the last bit. */
AVX2 static void three_stages_avx2(float *x, int64_t n)
{
    const __m256 ones = _mm256_setr_ps(0, -0.0f, 0, -0.0f, 0, -0.0f, 0, -0.0f);
    const __m256 twos = _mm256_setr_ps(0, 0, -0.0f, -0.0f, 0, 0, -0.0f, -0.0f);
    const __m256 fours = _mm256_setr_ps(0, 0, 0, 0, -0.0f, -0.0f, -0.0f, -0.0f);
    for (int64_t i = 0; i + 8 <= n; i += 8) {
        __m256 a = _mm256_loadu_ps(x + i);
        a = _mm256_add_ps(_mm256_permute_ps(a, 0xb1), _mm256_xor_ps(a, ones));
        a = _mm256_add_ps(_mm256_permute_ps(a, 0x4e), _mm256_xor_ps(a, twos));
        a = _mm256_add_ps(_mm256_permute2f128_ps(a, a, 1), _mm256_xor_ps(a, fours));
        _mm256_storeu_ps(x + i, a);
    }
}
#endif

CLONES static void one_stage(float *x, int64_t n, int64_t h)
{
    for (int64_t i = 0; i < n; i += 2 * h) {
        float *restrict low = x + i, *restrict high = x + i + h;
        for (int64_t j = 0; j < h; j++) {
            float a = low[j], b = high[j];
            low[j] = a + b;
            high[j] = a - b;
        }
    }
}

/* Stages h and 2 h at once, to go through the cache half as often. */
static inline void two_stages_of(float *x, int64_t n, const int64_t h)
{
    for (int64_t i = 0; i < n; i += 4 * h) {
        float *restrict p = x + i, *restrict q = p + h, *restrict r = q + h, *restrict s = r + h;
        for (int64_t j = 0; j < h; j++) {
            float a = p[j] + q[j], b = p[j] - q[j], c = r[j] + s[j], d = r[j] - s[j];
            p[j] = a + c;
            q[j] = b + d;
            r[j] = a - c;
            s[j] = b - d;
        }
    }
}

CLONES static void two_stages(float *x, int64_t n, int64_t h) { two_stages_of(x, n, h); }
CLONES static void two_stages_8(float *x, int64_t n) { two_stages_of(x, n, 8); } /* one vector each */

static void walsh_hadamard(float *x, int64_t n, int64_t block)
{
    int64_t h = 1;
    if (block >= 8) {
#ifdef HAVE_AVX2
        if (__builtin_cpu_supports("avx2"))
            three_stages_avx2(x, n);
        else
#endif
            three_stages(x, n);
        h = 8;
    }
    if (block >= 32) {
        two_stages_8(x, n);
        h = 32;
    }
    for (; 4 * h <= block; h *= 4) two_stages(x, n, h);
    for (; h < block; h *= 2) one_stage(x, n, h);
}

CLONES static void multiply(const float *restrict x, const float *restrict by, int64_t n,
                            float *restrict out)
{
    for (int64_t i = 0; i < n; i++) out[i] = x[i] * by[i];
}

CLONES static void multiply_in_place(float *restrict x, const float *restrict by, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] *= by[i];
}

CLONES static void scale_in_place(float *x, int64_t n, float by)
{
    for (int64_t i = 0; i < n; i++) x[i] *= by;
}

/* What a row is multiplied by, before the transform or, with the scale, after its inverse. */
static void signs_of(int64_t columns, float scale, int64_t inverse, float *signs)
{
    mix_key key = mix_key_of(0);
    for (int64_t c = 0; c < columns; c++)
        signs[c] = (mix((uint32_t)c, key) & 1 ? -1.0f : 1.0f) * (inverse ? scale : 1.0f);
}

static void forward_row(const float *x, int64_t columns, int64_t block, float scale,
                        const float *signs, float *y)
{
    multiply(x, signs, columns, y);
    walsh_hadamard(y, columns, block);
    scale_in_place(y, columns, scale);
}

static void inverse_row(float *x, int64_t columns, int64_t block, const float *signs)
{
    walsh_hadamard(x, columns, block);
    multiply_in_place(x, signs, columns);
}

/* `signs`: room for `columns` numbers. */
EXPORT int64_t cutlayer_hadamard(const float *values, int64_t rows, int64_t columns, int64_t block,
                              float scale, int64_t inverse, float *signs, float *out)
{
    signs_of(columns, scale, inverse, signs);
    for (int64_t row = 0; row < rows; row++) {
        const float *x = values + row * columns;
        float *y = out + row * columns;
        if (inverse) {
            memcpy(y, x, (size_t)columns * sizeof *y);
            inverse_row(y, columns, block, signs);
        } else {
            forward_row(x, columns, block, scale, signs, y);
        }
    }
    return 0;
}

/* ---- products with a basis --------------------------------------------------------------------- */

/* In AVX-512, with the sums of OpenBLAS's kernels for AVX2 on one thread, to the last bit: those are what
 * numpy takes on a processor that its OpenBLAS does not know, at less than half the speed, and a packet
 * does not depend on who multiplies. Read from results: an element is the sum, block by block of the inner
 * dimension, of a chain of fused products and sums; but for the elements of `in_pairs`, which are summed by
 * even and odd steps apart. `native.py` asks numpy once whether all of this is so. */

#ifdef HAVE_AVX2

enum { TILE_ROWS = 6, TILE_VECTORS = 4, VECTOR = 16, ROWS_AT_ONCE = 96 };
enum { INNER_BLOCK = 320, BLOCK_STEP = 8 };
#define UNROLLED _Pragma("GCC unroll 8")
#define INLINE __attribute__((always_inline))

typedef struct {
    const float *left, *right;
    float *out;
    int64_t left_stride, right_stride, out_stride, inner;
} product;

/* The next block of `left` steps, or of columns. */
static int64_t next_block(int64_t left)
{
    if (left >= 2 * INNER_BLOCK) return INNER_BLOCK;
    if (left <= INNER_BLOCK) return left;
    return (left / 2 + BLOCK_STEP - 1) / BLOCK_STEP * BLOCK_STEP;
}

/* Adds steps first..last - 1 of some rows and vectors of columns; `mask` says which of the last vector. */
AVX512 static inline INLINE void tile(const product *p, int64_t row, int64_t column, int64_t first,
                                      int64_t last, const int rows, const int vectors, __mmask16 mask)
{
    const float *left = p->left + row * p->left_stride, *right = p->right + column;
    float *out = p->out + row * p->out_stride + column;
    const int64_t left_stride = p->left_stride, right_stride = p->right_stride;
    __m512 sums[TILE_ROWS][TILE_VECTORS];
    UNROLLED for (int i = 0; i < rows; i++)
        UNROLLED for (int v = 0; v < vectors; v++) sums[i][v] = _mm512_setzero_ps();
    for (int64_t k = first; k < last; k++) {
        __m512 some[TILE_VECTORS];
        UNROLLED for (int v = 0; v < vectors; v++)
            some[v] = _mm512_maskz_loadu_ps(v + 1 < vectors ? 0xffff : mask,
                                            right + k * right_stride + v * VECTOR);
        UNROLLED for (int i = 0; i < rows; i++) {
            __m512 one = _mm512_set1_ps(left[i * left_stride + k]);
            UNROLLED for (int v = 0; v < vectors; v++)
                sums[i][v] = _mm512_fmadd_ps(one, some[v], sums[i][v]);
        }
    }
    UNROLLED for (int i = 0; i < rows; i++)
        UNROLLED for (int v = 0; v < vectors; v++) {
            __mmask16 which = v + 1 < vectors ? 0xffff : mask;
            float *to = out + i * p->out_stride + v * VECTOR;
            __m512 before = first ? _mm512_maskz_loadu_ps(which, to) : _mm512_setzero_ps();
            _mm512_mask_storeu_ps(to, which, _mm512_add_ps(before, sums[i][v]));
        }
}

#define TILES(name, rows)                                                                               \
    AVX512 static void name(const product *p, int64_t row, int64_t column, int64_t columns,             \
                            int64_t first, int64_t last)                                                \
    {                                                                                                   \
        __mmask16 mask = (__mmask16)(0xffff >> (VECTOR - 1 - (columns - 1) % VECTOR));                  \
        switch ((columns + VECTOR - 1) / VECTOR) {                                                      \
        case 4: tile(p, row, column, first, last, rows, 4, mask); break;                                \
        case 3: tile(p, row, column, first, last, rows, 3, mask); break;                                \
        case 2: tile(p, row, column, first, last, rows, 2, mask); break;                                \
        default: tile(p, row, column, first, last, rows, 1, mask);                                      \
        }                                                                                               \
    }
TILES(six_rows, TILE_ROWS)
TILES(one_row, 1)

/* Eight columns from either place. */
AVX512 static inline INLINE __m512 eights(const float *one, const float *other)
{
    __m512d low = _mm512_castps_pd(_mm512_castps256_ps512(_mm256_loadu_ps(one)));
    return _mm512_castpd_ps(_mm512_insertf64x4(low, _mm256_castps_pd(_mm256_loadu_ps(other)), 1));
}

/* Some rows of the eight columns from `one` on, and of those from `other` on: even and odd steps apart, as
 * long as there are eight in a block. */
AVX512 static inline INLINE void in_pairs(const product *p, int64_t row, int64_t one, int64_t other,
                                          const int rows)
{
    const float *left = p->left + row * p->left_stride, *right = p->right + one;
    const int64_t left_stride = p->left_stride, right_stride = p->right_stride, apart = other - one;
    __m512 whole[TILE_ROWS];
    UNROLLED for (int i = 0; i < rows; i++) whole[i] = _mm512_setzero_ps();
    for (int64_t k = 0, last; k < p->inner; k = last) {
        last = k + next_block(p->inner - k);
        __m512 even[TILE_ROWS], odd[TILE_ROWS];
        UNROLLED for (int i = 0; i < rows; i++) even[i] = odd[i] = _mm512_setzero_ps();
        for (; k + 8 <= last; k += 8)
            for (int64_t step = k; step < k + 8; step += 2) {
                const float *at = right + step * right_stride, *next = at + right_stride;
                __m512 x = eights(at, at + apart), y = eights(next, next + apart);
                UNROLLED for (int i = 0; i < rows; i++) {
                    const float *by = left + i * left_stride + step;
                    even[i] = _mm512_fmadd_ps(_mm512_set1_ps(by[0]), x, even[i]);
                    odd[i] = _mm512_fmadd_ps(_mm512_set1_ps(by[1]), y, odd[i]);
                }
            }
        for (; k < last; k++) {
            const float *at = right + k * right_stride;
            __m512 x = eights(at, at + apart);
            UNROLLED for (int i = 0; i < rows; i++)
                even[i] = _mm512_fmadd_ps(_mm512_set1_ps(left[i * left_stride + k]), x, even[i]);
        }
        UNROLLED for (int i = 0; i < rows; i++)
            whole[i] = _mm512_add_ps(whole[i], _mm512_add_ps(even[i], odd[i]));
    }
    UNROLLED for (int i = 0; i < rows; i++) {
        float *to = p->out + (row + i) * p->out_stride + one;
        __m512d high = _mm512_castps_pd(whole[i]);
        _mm256_storeu_ps(to, _mm512_castps512_ps256(whole[i]));
        _mm256_storeu_ps(to + apart, _mm256_castpd_ps(_mm512_extractf64x4_pd(high, 1)));
    }
}

AVX512 static void six_in_pairs(const product *p, int64_t row, int64_t one, int64_t other)
{
    in_pairs(p, row, one, other, 6);
}
AVX512 static void four_in_pairs(const product *p, int64_t row, int64_t one, int64_t other)
{
    in_pairs(p, row, one, other, 4);
}

/* Of a block of columns: the first and the last whole eight of every other six rows, or, where their number
 * is odd, the last one of the rows between; and all eights of what is left of twelve rows, four by four. */
static void paired_elements(const product *p, int64_t rows, int64_t first, int64_t size)
{
    int64_t count = size / 8, row = 0, last = first + 8 * count - 8;
    for (; row + 12 <= rows; row += 12) {
        if (count < 2) continue;
        six_in_pairs(p, row, first, count % 2 ? first : last);
        if (count % 2) six_in_pairs(p, row + 6, last, last);
    }
    if (first && row + 8 <= rows) row += 8;
    for (; row + 4 <= rows; row += 4)
        for (int64_t column = first; column <= last; column += 16)
            four_in_pairs(p, row, column, least(column + 8, last));
}

static void multiply_rows(const product *p, int64_t rows)
{
    enum { COLUMNS = TILE_VECTORS * VECTOR };
    for (int64_t k = 0, last; k < p->inner; k = last) {
        last = k + next_block(p->inner - k);
        for (int64_t column = 0; column < p->out_stride; column += COLUMNS) {
            int64_t columns = least(COLUMNS, p->out_stride - column), row = 0;
            for (; row + TILE_ROWS <= rows; row += TILE_ROWS)
                six_rows(p, row, column, columns, k, last);
            for (; row < rows; row++) one_row(p, row, column, columns, k, last);
        }
    }
    for (int64_t column = 0, size; column < p->out_stride; column += size) {
        size = next_block(p->out_stride - column);
        paired_elements(p, rows, column, size);
    }
}
#endif

/* Whether there is `cutlayer_product` on this processor. */
EXPORT int64_t cutlayer_multiplies(void)
{
#ifdef HAVE_AVX2
    return __builtin_cpu_supports("avx512f") != 0;
#else
    return 0;
#endif
}

CLONES static void less_mean(const float *restrict x, const float *restrict mean, int64_t n,
                             float *restrict out)
{
    for (int64_t i = 0; i < n; i++) out[i] = x[i] - mean[i];
}

CLONES static void add_mean(float *restrict x, const float *restrict mean, int64_t n)
{
    for (int64_t i = 0; i < n; i++) x[i] += mean[i];
}

/* (values - before) right + after, where either mean may be null. `values`: rows of `inner` numbers, `stride`
 * apart. `scratch`: room for 96 x (inner + 16). Two or more rows, columns and steps. */
EXPORT int64_t cutlayer_product(const float *values, int64_t stride, const float *before,
                                const float *right, const float *after, int64_t rows, int64_t inner,
                                int64_t columns, float *scratch, float *out)
{
#ifdef HAVE_AVX2
    for (int64_t from = 0; from < rows; from += ROWS_AT_ONCE, out += ROWS_AT_ONCE * columns) {
        int64_t some = least(ROWS_AT_ONCE, rows - from);
        product p = {values + from * stride, right, out, stride, columns, columns, inner};
        if (before) {
            p.left_stride = inner + VECTOR;
            for (int64_t i = 0; i < some; i++)
                less_mean(p.left + i * stride, before, inner, scratch + i * p.left_stride);
            p.left = scratch;
        }
        multiply_rows(&p, some);
        for (int64_t i = 0; after && i < some; i++) add_mean(out + i * columns, after, columns);
    }
    return 0;
#else
    (void)values, (void)stride, (void)before, (void)right, (void)after, (void)rows, (void)inner;
    (void)columns, (void)scratch, (void)out;
    return BAD_TABLE;
#endif
}

/* `out`: columns x rows, of the first `columns` of `stride`. */
EXPORT int64_t cutlayer_transposed(const float *values, int64_t rows, int64_t columns, int64_t stride,
                                   float *out)
{
    int64_t row = 0;
#ifdef HAVE_AVX2
    for (; row + 4 <= rows; row += 4) {
        const float *x = values + row * stride;
        int64_t c = 0;
        for (; c + 4 <= columns; c += 4) {
            __m128 p = _mm_loadu_ps(x + c), q = _mm_loadu_ps(x + stride + c);
            __m128 r = _mm_loadu_ps(x + 2 * stride + c), s = _mm_loadu_ps(x + 3 * stride + c);
            _MM_TRANSPOSE4_PS(p, q, r, s);
            _mm_storeu_ps(out + c * rows + row, p);
            _mm_storeu_ps(out + (c + 1) * rows + row, q);
            _mm_storeu_ps(out + (c + 2) * rows + row, r);
            _mm_storeu_ps(out + (c + 3) * rows + row, s);
        }
        for (; c < columns; c++)
            for (int64_t i = 0; i < 4; i++) out[c * rows + row + i] = x[i * stride + c];
    }
#endif
    for (; row < rows; row++)
        for (int64_t c = 0; c < columns; c++) out[c * rows + row] = values[row * stride + c];
    return 0;
}

/* ---- rows: a scale each ------------------------------------------------------------------------ */

CLONES static float largest_magnitude(const float *x, int64_t n)
{
    int32_t largest = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t key = magnitude_bits(x[i]);
        largest = key > largest ? key : largest;
    }
    return from_bits(largest);
}

/* rint(x * ratio), half to even: adding 1.5 * 2^23 leaves the integer in the low bits of the sum */
CLONES static void round_row(const float *restrict x, int64_t n, float ratio, int16_t *restrict q)
{
    for (int64_t i = 0; i < n; i++) {
        float shifted = x[i] * ratio + 12582912.0f;
        uint32_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        q[i] = (int16_t)(bits & 0xffff);
    }
}

CLONES static void four_levels_row(const float *restrict x, int64_t n, float half, int16_t *restrict q)
{
    for (int64_t i = 0; i < n; i++) {
        int32_t size = magnitude(x[i]) > half ? 2 : 1;
        q[i] = (int16_t)(x[i] < 0.0f ? -size : size);
    }
}

/* The transform of blocks above 1 comes first, a row at a time, while it is in the cache. `scratch`: room
 * for 2 x `columns` numbers. */
EXPORT int64_t cutlayer_quantise_rows(const float *values, int64_t rows, int64_t columns, int64_t bits,
                                   int64_t block, float unit, float *scratch, int16_t *symbols,
                                   float *scales)
{
    float largest_symbol = (float)((1 << (bits - 1)) - 1);
    float *signs = scratch, *turned = scratch + columns;
    if (block > 1) signs_of(columns, unit, 0, signs);
    for (int64_t row = 0; row < rows; row++) {
        const float *x = values + row * columns;
        if (block > 1) {
            forward_row(x, columns, block, unit, signs, turned);
            x = turned;
        }
        int16_t *q = symbols + row * columns;
        float scale = largest_magnitude(x, columns), ratio = 0.0f;
        /* not finite, or no scale at all: a row of zeros */
        if (scale > 0.0f) ratio = largest_symbol / scale;
        if (!(scale > 0.0f) || magnitude_bits(ratio) >= 0x7f800000) scale = ratio = 0.0f;
        scales[row] = scale;
        if (bits > 2)
            round_row(x, columns, ratio, q);
        else if (scale > 0.0f)
            four_levels_row(x, columns, scale * 0.5f, q);
        else
            for (int64_t i = 0; i < columns; i++) q[i] = 1;
    }
    return 0;
}

CLONES static void scale_row(const int16_t *restrict q, int64_t n, float scale, float *restrict x)
{
    for (int64_t i = 0; i < n; i++) x[i] = (float)q[i] * scale;
}

CLONES static void scale_halves_row(const int16_t *restrict q, int64_t n, float half, float *restrict x)
{
    for (int64_t i = 0; i < n; i++) {
        int32_t size = q[i] < 0 ? -q[i] : q[i];
        x[i] = with_sign(or_zero(((float)size - 0.5f) * half, size), q[i] < 0);
    }
}

/* The inverse transform of blocks above 1 comes last. `signs`: room for `columns` numbers. */
EXPORT int64_t cutlayer_dequantise_rows(const int16_t *symbols, const float *scales, int64_t rows,
                                     int64_t columns, int64_t bits, int64_t block, float unit,
                                     float *signs, float *values)
{
    float largest_symbol = (float)((1 << (bits - 1)) - 1);
    if (block > 1) signs_of(columns, unit, 1, signs);
    for (int64_t row = 0; row < rows; row++) {
        const int16_t *q = symbols + row * columns;
        float *x = values + row * columns;
        if (bits > 2)
            scale_row(q, columns, scales[row] / largest_symbol, x);
        else
            scale_halves_row(q, columns, scales[row] * 0.5f, x);
        if (block > 1) inverse_row(x, columns, block, signs);
    }
    return 0;
}

/* ---- sums and contexts ------------------------------------------------------------------------- */

CLONES static int64_t row_sums(const int16_t *restrict q, int64_t n, int32_t *restrict columns,
                               int32_t *restrict signs, int32_t *largest)
{
    int64_t total = 0;
    for (int64_t first = 0; first < n; first += BLOCK) { /* 32-bit sums of a block cannot overflow */
        int32_t sum = 0, high = *largest;
        int64_t last = least(first + BLOCK, n);
        for (int64_t c = first; c < last; c++) {
            int32_t size = q[c] < 0 ? -q[c] : q[c];
            columns[c] += size;
            signs[c] += (q[c] > 0) - (q[c] < 0);
            sum += size;
            high = size > high ? size : high;
        }
        total += sum;
        *largest = high;
    }
    return total;
}

/* Rows first..last - 1. Adds to `column_sums` and `signs`. `scratch`: room for 2 x columns. */
EXPORT int64_t cutlayer_sums(const int16_t *symbols, int64_t columns, int64_t first, int64_t last,
                             int64_t *row_sum, int64_t *column_sums, int64_t *signs,
                             int32_t *scratch)
{
    enum { ROWS = 32768 }; /* as many as 32-bit sums of up to 2^15 each can hold */
    int32_t largest = 0;
    for (int64_t from = first; from < last; from += ROWS) {
        memset(scratch, 0, 2 * (size_t)columns * sizeof *scratch);
        for (int64_t row = from; row < least(from + ROWS, last); row++)
            row_sum[row] = row_sums(symbols + row * columns, columns, scratch, scratch + columns,
                                    &largest);
        for (int64_t c = 0; c < columns; c++) {
            column_sums[c] += scratch[c];
            signs[c] += scratch[columns + c];
        }
    }
    return largest;
}

/* `ContextModel` without the frequencies */
typedef struct {
    const int16_t *row_scores, *column_scores, *column_tables;
    int64_t coded, classes;
} contexts;

/* Where in an array of tables the table of each column begins, for a row of this score. */
CLONES static void row_tables(const int16_t *restrict scores, const int16_t *restrict tables,
                              int64_t coded, int32_t score, int32_t top, int32_t table_size,
                              int32_t *restrict starts)
{
    for (int64_t c = 0; c < coded; c++) {
        int32_t at = score + scores[c];
        at = at < 0 ? 0 : at;
        at = at > top ? top : at;
        starts[c] = (tables[c] + at) * table_size;
    }
}

static inline void tables_of_row(const contexts *model, int64_t row, int32_t table_size, int32_t *known,
                                 int32_t *starts)
{
    int32_t score = model->row_scores[row];
    if (score == *known) return; /* the rows before had the same score */
    row_tables(model->column_scores, model->column_tables, model->coded, score,
               (int32_t)model->classes - 1, table_size, starts);
    *known = score;
}

/* Marks in `used` the tables that the rows need; an error where one would be none of `tables`.
 * `starts`: room for `coded`. */
EXPORT int64_t cutlayer_used_tables(const int16_t *row_scores, int64_t rows,
                                    const int16_t *column_scores, const int16_t *column_tables,
                                    int64_t coded, int64_t classes, int64_t tables, int32_t *starts,
                                    uint8_t *used)
{
    contexts model = {row_scores, column_scores, column_tables, coded, classes};
    uint8_t seen[65536 / 8] = {0};
    int32_t known = SKIPPED_ROW;
    if (classes < 1 || classes > tables) return BAD_TABLE;
    for (int64_t c = 0; c < coded; c++)
        if (column_tables[c] < 0 || column_tables[c] > tables - classes) return BAD_TABLE;
    for (int64_t row = 0; row < rows; row++) {
        uint32_t score = (uint16_t)row_scores[row];
        if (row_scores[row] == SKIPPED_ROW || seen[score >> 3] >> (score & 7) & 1) continue;
        seen[score >> 3] |= (uint8_t)(1u << (score & 7));
        tables_of_row(&model, row, 1, &known, starts);
        for (int64_t c = 0; c < coded; c++) used[starts[c]] = 1;
    }
    return 0;
}

/* Where in an array of tables each symbol is. */
CLONES static void symbol_places(const int16_t *restrict q, const int32_t *restrict starts,
                                 int64_t coded, int32_t reach, int32_t *restrict places)
{
    for (int64_t c = 0; c < coded; c++) {
        int32_t symbol = q[c];
        symbol = symbol < -reach ? -reach : symbol;
        symbol = symbol > reach ? reach : symbol;
        places[c] = starts[c] + symbol + reach;
    }
}

/* Rows first..last - 1 of `columns` symbols. `starts`: room for 2 x `coded`. `counts`: 4 zeroed copies of the tables, of which the sum
 * is the histogram: runs of one symbol would wait for each other on a single counter. */
EXPORT int64_t cutlayer_histogram(const int16_t *symbols, int64_t columns, int64_t first, int64_t last,
                               const int16_t *row_scores, const int16_t *column_scores,
                               const int16_t *column_tables, int64_t coded, int64_t classes,
                               int64_t reach, int64_t tables, int32_t *starts, uint32_t *counts)
{
    contexts model = {row_scores, column_scores, column_tables, coded, classes};
    int32_t size = (int32_t)(2 * reach + 1), known = SKIPPED_ROW, *places = starts + coded;
    uint32_t *second = counts + tables * size, *third = second + tables * size;
    uint32_t *fourth = third + tables * size;
    for (int64_t row = first; row < last; row++) {
        const int16_t *q = symbols + row * columns;
        if (row_scores[row] == SKIPPED_ROW) continue;
        tables_of_row(&model, row, size, &known, starts);
        symbol_places(q, starts, coded, (int32_t)reach, places);
        int64_t c = 0;
        for (; c + 4 <= coded; c += 4) {
            counts[places[c]]++;
            second[places[c + 1]]++;
            third[places[c + 2]]++;
            fourth[places[c + 3]]++;
        }
        for (; c < coded; c++) counts[places[c]]++;
    }
    return 0;
}

/* ---- rANS -------------------------------------------------------------------------------------- */

/* Of one symbol in one table. q = (x + one_more) * reciprocal >> (32 + shift) is x / frequency exactly
 * for x < frequency * 2^20, which is where the encoder divides:
 * with 2^(b-1) < f <= 2^b and k = 31 + b, either ceil(2^k / f) or, for x + 1, floor(2^k / f) is off by at
 * most f / 2 units, an error below 2^20 * f * f / 2 <= 2^k. */
typedef struct {
    uint32_t reciprocal;
    uint32_t packed; /* frequency: 13 bits, start: 12, shift: 4, one_more: 1 */
} coding;

static coding coding_of(uint32_t frequency, uint32_t start)
{
    coding c;
    uint32_t bits = 1, one_more = 0;
    uint64_t power, reciprocal;
    while ((1u << bits) < frequency) bits++;
    power = (uint64_t)1 << (31 + bits);
    reciprocal = frequency ? (power + frequency - 1) / frequency : 0;
    if (frequency == 1 || (reciprocal * frequency - power) * frequency > 1u << 23) {
        one_more = 1;
        reciprocal = frequency == 1 ? 0xffffffffu : reciprocal - 1;
    }
    c.reciprocal = (uint32_t)reciprocal;
    c.packed = frequency | (start & 4095) << 13 | (bits - 1) << 25 | one_more << 29;
    return c;
}

EXPORT int64_t cutlayer_encoder_tables(const uint16_t *frequencies, int64_t tables, int64_t size,
                                    coding *codings)
{
    for (int64_t table = 0; table < tables; table++) {
        uint32_t start = 0;
        for (int64_t symbol = 0; symbol < size; symbol++) {
            uint32_t frequency = frequencies[table * size + symbol] & 8191u;
            codings[table * size + symbol] = coding_of(frequency, start);
            start += frequency;
        }
    }
    return 0;
}

static inline uint8_t *encode_one(uint32_t *state, coding c, uint8_t *out)
{
    uint32_t x = *state, frequency = c.packed & 8191, start = c.packed >> 13 & 4095;
    uint32_t full = x >> 20 >= frequency;
    out[-2] = (uint8_t)x; /* kept only where the state is full */
    out[-1] = (uint8_t)(x >> 8);
    out -= 2 * full;
    x >>= 16 * full;
    uint64_t product = (uint64_t)(x + (c.packed >> 29)) * c.reciprocal;
    uint32_t quotient = (uint32_t)(product >> 32 >> (c.packed >> 25 & 15));
    *state = x + quotient * (FREQUENCY_SUM - frequency) + start;
    return out;
}

#ifdef HAVE_AVX2
/* For each set of 8 lanes (one bit each), in bytes: which lane's word comes at each place when those
 * of the set are moved to the end. */
static void gather_orders(uint64_t *orders)
{
    for (uint32_t set = 0; set < 256; set++) {
        uint64_t place = 8;
        orders[set] = 0;
        for (uint64_t lane = 8; lane-- > 0;)
            if (set >> lane & 1) orders[set] |= lane << 8 * --place;
    }
}

/* `encode_one` for 8 neighbouring lanes. Writes 16 bytes before `out`. */
AVX2 static inline uint8_t *encode_eight(uint32_t *states, const int32_t *places, const coding *codings,
                                         const uint64_t *orders, uint8_t *out)
{
    __m256i x = _mm256_loadu_si256((const __m256i *)states);
    __m256i place = _mm256_loadu_si256((const __m256i *)places);
    __m256i reciprocal = _mm256_i32gather_epi32((const int *)codings, place, 8);
    __m256i packed = _mm256_i32gather_epi32((const int *)codings + 1, place, 8);
    __m256i frequency = _mm256_and_si256(packed, _mm256_set1_epi32(8191));
    __m256i room = _mm256_cmpgt_epi32(frequency, _mm256_srli_epi32(x, 20));
    uint32_t full = 255u ^ (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(room));

    __m256i order = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(orders + full)));
    __m256i words = _mm256_and_si256(x, _mm256_set1_epi32(0xffff));
    words = _mm256_permutevar8x32_epi32(words, order);
    words = _mm256_permute4x64_epi64(_mm256_packus_epi32(words, words), 8);
    _mm_storeu_si128((__m128i *)(out - 16), _mm256_castsi256_si128(words));
    x = _mm256_blendv_epi8(_mm256_srli_epi32(x, 16), x, room);

    __m256i sum = _mm256_add_epi32(x, _mm256_srli_epi32(packed, 29));
    __m256i even = _mm256_srli_epi64(_mm256_mul_epu32(sum, reciprocal), 32);
    __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(sum, 32), _mm256_srli_epi64(reciprocal, 32));
    __m256i shift = _mm256_and_si256(_mm256_srli_epi32(packed, 25), _mm256_set1_epi32(15));
    __m256i quotient = _mm256_srlv_epi32(_mm256_blend_epi32(even, odd, 0xaa), shift);
    __m256i rest = _mm256_sub_epi32(_mm256_set1_epi32(FREQUENCY_SUM), frequency);
    __m256i start = _mm256_and_si256(_mm256_srli_epi32(packed, 13), _mm256_set1_epi32(4095));
    x = _mm256_add_epi32(x, _mm256_add_epi32(start, _mm256_mullo_epi32(quotient, rest)));
    _mm256_storeu_si256((__m256i *)states, x);
    return out - 2 * __builtin_popcount(full);
}

AVX2 static uint8_t *encode_row_avx2(uint32_t *states, int64_t place, const int32_t *places,
                                     int64_t coded, const coding *codings, const uint64_t *orders,
                                     uint8_t *out)
{
    int64_t c = coded;
    for (; c > 0 && (place % 8 || c < 8); c--)
        out = encode_one(states + --place % LANES, codings[places[c - 1]], out);
    for (; c >= 8; c -= 8) {
        place -= 8;
        out = encode_eight(states + place % LANES, places + c - 8, codings, orders, out);
    }
    for (; c > 0; c--)
        out = encode_one(states + --place % LANES, codings[places[c - 1]], out);
    return out;
}
#endif

/* The last symbol of the row is the chunk's place - 1. */
static uint8_t *encode_row(uint32_t *states, int64_t place, const int32_t *places, int64_t coded,
                           const coding *codings, uint8_t *out)
{
    for (int64_t c = coded - 1; c >= 0; c--)
        out = encode_one(states + --place % LANES, codings[places[c]], out);
    return out;
}

/* Rows first..last - 1, from the last symbol to the first. `code` holds 4 LANES bytes, and 2 for each coded
 * symbol; the code is at its end. Gives where it begins. `starts`: room for 2 x `coded`. */
EXPORT int64_t cutlayer_rans_encode(const int16_t *symbols, int64_t columns, int64_t first,
                                    int64_t last, const int16_t *row_scores,
                                    const int16_t *column_scores, const int16_t *column_tables,
                                    int64_t coded, int64_t classes, int64_t reach,
                                    const coding *codings, int32_t *starts, uint8_t *code,
                                    int64_t code_size)
{
    contexts model = {row_scores, column_scores, column_tables, coded, classes};
    uint32_t states[LANES];
    uint8_t *out = code + code_size;
    int32_t known = SKIPPED_ROW, *places = starts + coded;
    int64_t place = 0;
#ifdef HAVE_AVX2
    uint64_t orders[256];
    int avx2 = __builtin_cpu_supports("avx2");
    if (avx2) gather_orders(orders);
#endif
    for (int lane = 0; lane < LANES; lane++) states[lane] = LOWEST_STATE;
    for (int64_t row = first; row < last; row++) place += row_scores[row] == SKIPPED_ROW ? 0 : coded;
    for (int64_t row = last - 1; row >= first; row--) {
        const int16_t *q = symbols + row * columns;
        if (row_scores[row] == SKIPPED_ROW) continue;
        tables_of_row(&model, row, (int32_t)(2 * reach + 1), &known, starts);
        symbol_places(q, starts, coded, (int32_t)reach, places);
#ifdef HAVE_AVX2
        if (avx2)
            out = encode_row_avx2(states, place, places, coded, codings, orders, out);
        else
#endif
            out = encode_row(states, place, places, coded, codings, out);
        place -= coded;
    }
    for (int lane = LANES - 1; lane >= 0; lane--)
        for (int byte = 3; byte >= 0; byte--) *--out = (uint8_t)(states[lane] >> 8 * byte);
    return out - code;
}

/* What a slot of a table decodes to: frequency - 1: 12 bits, slot - start: 12, symbol: 8. Tables of more
 * symbols than 256 have the symbols apart, in `wide`. An error where a used table does not sum up. */
EXPORT int64_t cutlayer_decoder_tables(const uint16_t *frequencies, int64_t tables, int64_t size,
                                       const uint8_t *used, uint32_t *slots, uint16_t *wide)
{
    for (int64_t table = 0; table < tables; table++) {
        const uint16_t *row = frequencies + table * size;
        uint32_t *slot = slots + table * FREQUENCY_SUM;
        int64_t sum = 0;
        if (!used[table]) continue;
        for (int64_t symbol = 0; symbol < size; symbol++) sum += row[symbol];
        if (sum != FREQUENCY_SUM) return BAD_TABLE;
        for (int64_t symbol = 0; symbol < size; symbol++)
            for (uint32_t i = 0; i < row[symbol]; i++) {
                *slot++ = (row[symbol] - 1u) | i << 12 | (uint32_t)(symbol & 255) << 24;
                if (wide) wide[slot - 1 - slots] = (uint16_t)symbol;
            }
    }
    return 0;
}

typedef struct {
    uint32_t states[LANES];
    const uint8_t *next, *end; /* of the words */
    const uint32_t *slots;
    const uint16_t *wide;
    int32_t reach;
#ifdef HAVE_AVX2
    uint64_t orders[256];
#endif
} decoder;

static inline int decode_one(decoder *d, uint32_t *state, int32_t table, int16_t *symbol)
{
    uint32_t x = *state, place = (uint32_t)table + (x & (FREQUENCY_SUM - 1)), slot = d->slots[place];
    *symbol = (int16_t)((int32_t)(d->wide ? d->wide[place] : slot >> 24) - d->reach);
    x = ((slot & 4095) + 1) * (x >> FREQUENCY_BITS) + (slot >> 12 & 4095);
    if (x < LOWEST_STATE) { /* at least 16 here, so one word always brings the state back */
        if (d->end - d->next < 2) return TOO_SHORT;
        x = x << 16 | d->next[0] | (uint32_t)d->next[1] << 8;
        d->next += 2;
    }
    *state = x;
    return 0;
}

/* The first symbol of the row is the chunk's `place`. */
static int decode_row(decoder *d, int64_t place, const int32_t *starts, int64_t coded, int16_t *q)
{
    for (int64_t c = 0; c < coded; c++, place++)
        if (decode_one(d, d->states + place % LANES, starts[c], q + c)) return TOO_SHORT;
    return 0;
}

#ifdef HAVE_AVX2
/* For each set of 8 lanes, in bytes: which of the next words each lane of the set takes. */
static void spread_orders(uint64_t *orders)
{
    for (uint32_t set = 0; set < 256; set++) {
        uint64_t word = 0;
        orders[set] = 0;
        for (uint64_t lane = 0; lane < 8; lane++)
            if (set >> lane & 1) orders[set] |= word++ << 8 * lane;
    }
}

/* `decode_one` for 8 neighbouring lanes, tables that are not wide, and 16 bytes or more left. */
AVX2 static inline void decode_eight(decoder *d, uint32_t *states, const int32_t *starts, int16_t *q)
{
    const __m256i low_12 = _mm256_set1_epi32(4095), zero = _mm256_setzero_si256();
    __m256i x = _mm256_loadu_si256((const __m256i *)states);
    __m256i place = _mm256_add_epi32(_mm256_loadu_si256((const __m256i *)starts),
                                     _mm256_and_si256(x, low_12));
    __m256i slot = _mm256_i32gather_epi32((const int *)d->slots, place, 4);
    __m256i frequency = _mm256_sub_epi32(_mm256_and_si256(slot, low_12), _mm256_set1_epi32(-1));
    __m256i offset = _mm256_and_si256(_mm256_srli_epi32(slot, 12), low_12);
    x = _mm256_mullo_epi32(frequency, _mm256_srli_epi32(x, FREQUENCY_BITS));
    x = _mm256_add_epi32(x, offset);

    __m256i is_short = _mm256_cmpeq_epi32(_mm256_srli_epi32(x, 16), zero);
    uint32_t set = (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(is_short));
    __m256i order = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(d->orders + set)));
    __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)d->next));
    words = _mm256_permutevar8x32_epi32(words, order);
    words = _mm256_or_si256(_mm256_slli_epi32(x, 16), words);
    _mm256_storeu_si256((__m256i *)states, _mm256_blendv_epi8(x, words, is_short));
    d->next += 2 * __builtin_popcount(set);

    __m256i symbol = _mm256_sub_epi32(_mm256_srli_epi32(slot, 24), _mm256_set1_epi32(d->reach));
    symbol = _mm256_permute4x64_epi64(_mm256_packs_epi32(symbol, symbol), 8);
    _mm_storeu_si128((__m128i *)q, _mm256_castsi256_si128(symbol));
}

AVX2 static int decode_row_avx2(decoder *d, int64_t place, const int32_t *starts, int64_t coded,
                                int16_t *q)
{
    int64_t c = 0;
    for (; c < coded && place % 8; c++, place++)
        if (decode_one(d, d->states + place % LANES, starts[c], q + c)) return TOO_SHORT;
    for (; c + 8 <= coded && d->end - d->next >= 16; c += 8, place += 8)
        decode_eight(d, d->states + place % LANES, starts + c, q + c);
    return decode_row(d, place, starts + c, coded - c, q + c);
}
#endif

static int start_decoder(decoder *d, const uint8_t *code, int64_t code_size)
{
    if (code_size < 4 * LANES) return TOO_SHORT;
    if (code_size % 2) return TOO_LONG;
    d->next = code + 4 * LANES;
    d->end = code + code_size;
    for (int lane = 0; lane < LANES; lane++) {
        const uint8_t *b = code + 4 * lane;
        d->states[lane] = b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
        if (d->states[lane] < LOWEST_STATE) return BAD_STATE;
    }
    return 0;
}

/* Rows first..last - 1 of `columns` symbols, all of them written. `starts`: room for `coded`. The tables
 * are checked: `cutlayer_used_tables`, `cutlayer_decoder_tables`; `wide` may be null. */
EXPORT int64_t cutlayer_rans_decode(const uint8_t *code, int64_t code_size, int64_t columns,
                                    int64_t first, int64_t last, const int16_t *row_scores,
                                    const int16_t *column_scores, const int16_t *column_tables,
                                    int64_t coded, int64_t classes, int64_t reach,
                                    const uint32_t *slots, const uint16_t *wide, int32_t *starts,
                                    int16_t *symbols)
{
    contexts model = {row_scores, column_scores, column_tables, coded, classes};
    decoder d;
    int32_t known = SKIPPED_ROW, error = start_decoder(&d, code, code_size);
    int64_t place = 0;
    d.slots = slots;
    d.wide = wide;
    d.reach = (int32_t)reach;
#ifdef HAVE_AVX2
    int avx2 = !wide && __builtin_cpu_supports("avx2");
    if (avx2) spread_orders(d.orders);
#endif
    for (int64_t row = first; row < last && !error; row++) {
        int16_t *q = symbols + row * columns;
        int64_t width = row_scores[row] == SKIPPED_ROW ? 0 : coded;
        memset(q + width, 0, (size_t)(columns - width) * sizeof *q);
        if (!width) continue;
        tables_of_row(&model, row, FREQUENCY_SUM, &known, starts);
#ifdef HAVE_AVX2
        if (avx2)
            error = decode_row_avx2(&d, place, starts, coded, q);
        else
#endif
            error = decode_row(&d, place, starts, coded, q);
        place += coded;
    }
    if (error) return error;
    for (int lane = 0; lane < LANES; lane++)
        if (d.states[lane] != LOWEST_STATE) return BAD_STATE;
    return d.next == d.end ? 0 : TOO_LONG;
}

/* ---- packed symbols ---------------------------------------------------------------------------- */

static inline void pack_whole(const int16_t *restrict q, int64_t bytes, const int width,
                              uint16_t offset, uint8_t *restrict out)
{
    const int each = 8 / width;
    for (int64_t i = 0; i < bytes; i++) {
        uint32_t byte = 0;
        for (int j = 0; j < each; j++)
            byte |= ((uint16_t)(q[i * each + j] + offset) & ((1u << width) - 1)) << (j * width);
        out[i] = (uint8_t)byte;
    }
}

static inline void unpack_whole(const uint8_t *restrict data, int64_t bytes, const int width,
                                int16_t *restrict q)
{
    const int each = 8 / width;
    for (int64_t i = 0; i < bytes; i++)
        for (int j = 0; j < each; j++)
            q[i * each + j] = (int16_t)(data[i] >> (j * width) & ((1 << width) - 1));
}

CLONES static void pack_2(const int16_t *q, int64_t bytes, uint16_t offset, uint8_t *out)
{
    pack_whole(q, bytes, 2, offset, out);
}
CLONES static void pack_4(const int16_t *q, int64_t bytes, uint16_t offset, uint8_t *out)
{
    pack_whole(q, bytes, 4, offset, out);
}
CLONES static void pack_8(const int16_t *q, int64_t bytes, uint16_t offset, uint8_t *out)
{
    pack_whole(q, bytes, 8, offset, out);
}
CLONES static void unpack_2(const uint8_t *d, int64_t bytes, int16_t *q) { unpack_whole(d, bytes, 2, q); }
CLONES static void unpack_4(const uint8_t *d, int64_t bytes, int16_t *q) { unpack_whole(d, bytes, 4, q); }
CLONES static void unpack_8(const uint8_t *d, int64_t bytes, int16_t *q) { unpack_whole(d, bytes, 8, q); }

/* `out`: (n * width + 7) / 8 bytes. */
EXPORT int64_t cutlayer_pack(const int16_t *symbols, int64_t n, int64_t width, int64_t offset,
                             uint8_t *out)
{
    int64_t whole = width == 2 || width == 4 || width == 8 ? n * width / 8 : 0;
    if (width == 2) pack_2(symbols, whole, (uint16_t)offset, out);
    if (width == 4) pack_4(symbols, whole, (uint16_t)offset, out);
    if (width == 8) pack_8(symbols, whole, (uint16_t)offset, out);
    uint32_t held = 0, bits = 0;
    out += whole;
    for (int64_t i = whole * 8 / width; i < n; i++) {
        held |= ((uint16_t)(symbols[i] + offset) & ((1u << width) - 1)) << bits;
        for (bits += (uint32_t)width; bits >= 8; bits -= 8, held >>= 8) *out++ = (uint8_t)held;
    }
    if (bits) *out = (uint8_t)held;
    return 0;
}

/* `data`: (n * width + 7) / 8 bytes. */
EXPORT int64_t cutlayer_unpack(const uint8_t *data, int64_t n, int64_t width, int16_t *symbols)
{
    int64_t whole = width == 2 || width == 4 || width == 8 ? n * width / 8 : 0;
    if (width == 2) unpack_2(data, whole, symbols);
    if (width == 4) unpack_4(data, whole, symbols);
    if (width == 8) unpack_8(data, whole, symbols);
    uint32_t held = 0, bits = 0;
    data += whole;
    for (int64_t i = whole * 8 / width; i < n; i++) {
        for (; bits < (uint32_t)width; bits += 8) held |= (uint32_t)*data++ << bits;
        symbols[i] = (int16_t)(held & ((1u << width) - 1)); /* width 16: wraps, as every compiler does */
        held >>= width;
        bits -= (uint32_t)width;
    }
    return 0;
}

/* ---- hazards: side information of tables ------------------------------------------------------- */

/* Python's form gives the same, since libm's functions are the ones that the interpreter calls. */

enum { ONE = 1 << 24, PLACE = 1 << 16, FINEST = 1024, NUMBERS = 8, UNARY = 8, LONGEST = 30 };
enum { COUNTS = 1 << 12 };
static const int64_t MOST_SYMBOLS = (int64_t)1 << 40;
#define RANGE_LOW ((uint64_t)1 << 24)
#define RANGE_TOP ((uint64_t)1 << 32)

/* zeros and ones that a context has seen */
typedef struct { uint32_t seen[2]; } bit_context;
typedef struct { bit_context unary[UNARY], length[LONGEST], rest, sign; } number;

static inline uint64_t zeros_part(uint64_t range, const bit_context *context)
{
    uint64_t zeros = context->seen[0], ones = context->seen[1];
    return range * (2 * zeros + 1) / (2 * (zeros + ones) + 2);
}

static inline void count_bit(bit_context *context, int bit)
{
    if (++context->seen[bit] > COUNTS) {
        context->seen[bit]--;
        context->seen[0] >>= 1;
        context->seen[1] >>= 1;
    }
}

typedef struct {
    uint64_t low, range;
    uint8_t *code;
    int64_t size, carried; /* into the bytes before `code` */
} bit_writer;

static void shift_out(bit_writer *w)
{
    if (w->low >= RANGE_TOP) {
        int64_t at = w->size - 1;
        w->low -= RANGE_TOP;
        while (at >= 0 && w->code[at] == 255) w->code[at--] = 0;
        if (at >= 0) w->code[at]++;
        else w->carried++;
    }
    w->code[w->size++] = (uint8_t)(w->low >> 24);
    w->low = w->low << 8 & (RANGE_TOP - 1);
}

static void put_bit(bit_writer *w, int bit, bit_context *context)
{
    uint64_t bound = zeros_part(w->range, context);
    w->low += bit ? bound : 0;
    w->range = bit ? w->range - bound : bound;
    count_bit(context, bit);
    for (; w->range < RANGE_LOW; w->range <<= 8) shift_out(w);
}

/* The first `unary` steps (at most UNARY) have contexts of their own. */
static void put_number(bit_writer *w, number *n, int64_t size, int64_t unary)
{
    int64_t rest = size - unary + 1;
    for (int64_t i = 0; i < least(size, unary); i++) put_bit(w, 1, n->unary + i);
    if (size < unary) {
        put_bit(w, 0, n->unary + size);
    } else {
        int length = 0;
        while (rest >> (length + 1)) length++;
        for (int i = 0; i < length; i++) put_bit(w, 1, n->length + i);
        if (length < LONGEST) put_bit(w, 0, n->length + length);
        for (int i = length - 1; i >= 0; i--) put_bit(w, (int)(rest >> i & 1), &n->rest);
    }
}

static void put_signed(bit_writer *w, number *n, int64_t value, int64_t unary)
{
    put_number(w, n, value < 0 ? -value : value, unary);
    if (value) put_bit(w, value < 0, &n->sign);
}

typedef struct {
    const uint8_t *code;
    int64_t size, next;
    uint64_t range, value;
} bit_reader;

static int get_bit(bit_reader *r, bit_context *context)
{
    uint64_t bound = zeros_part(r->range, context);
    int bit = r->value >= bound;
    r->value -= bit ? bound : 0;
    r->range = bit ? r->range - bound : bound;
    count_bit(context, bit);
    for (; r->range < RANGE_LOW; r->range <<= 8) {
        r->value = r->value << 8 | (r->next < r->size ? r->code[r->next] : 0);
        r->next++;
    }
    return bit;
}

static int64_t get_signed(bit_reader *r, number *n)
{
    int64_t size = 0;
    while (size < UNARY && get_bit(r, n->unary + size)) size++;
    if (size == UNARY) {
        int64_t rest = 1;
        int length = 0;
        while (length < LONGEST && get_bit(r, n->length + length)) length++;
        for (int i = 0; i < length; i++) rest = rest << 1 | get_bit(r, &n->rest);
        size = rest - 1 + UNARY;
    }
    return size && get_bit(r, &n->sign) ? -size : size;
}

static int64_t hazard_of(int64_t cell, int64_t cells)
{
    int64_t place = cell * PLACE / cells;
    if (cell == 0 || cell == cells) return cell ? ONE : 0;
    return most(1, place * place * (3 * PLACE - 2 * place) >> 24);
}

static double hazard_bits(int64_t stay, int64_t go, int64_t value)
{
    double share = (double)value / ONE;
    return -(double)go * log2(share) - (double)stay * log2(1 - share);
}

static int64_t best_cell(int64_t stay, int64_t go, int64_t cells, int64_t predicted)
{
    if (!go || !stay) return go ? cells : 0;
    double share = (double)go / (double)(stay + go);
    double place = 0.5 - sin(asin(1 - 2 * share) / 3);
    int64_t cell = most(least((int64_t)rint(place * (double)cells), cells - 1), 1);
    if (cell != predicted && 0 < predicted && predicted < cells &&
        hazard_bits(stay, go, hazard_of(predicted, cells)) -
                hazard_bits(stay, go, hazard_of(cell, cells)) < 1.5)
        return predicted;
    return cell;
}

/* ceil(left * value / 2^24) for left up to 2^40, value up to 2^24 */
static int64_t part_of(int64_t left, int64_t value)
{
    return (left >> 24) * value + (((left & (ONE - 1)) * value + ONE - 1) >> 24);
}

static int64_t cells_of(int64_t left)
{
    int64_t root = 0;
    if (left >= (int64_t)FINEST * FINEST) return FINEST;
    root = (int64_t)sqrt((double)left);
    while (root * root > left) root--;
    while ((root + 1) * (root + 1) <= left) root++;
    return least(2 + root, FINEST);
}

/* One of `writer` and `reader` is there; `above[kind][j]`: how many magnitudes are at least j. */
static int64_t walk_hazards(const int64_t *above, bit_writer *writer, bit_reader *reader,
                            const int64_t *sizes, int64_t kinds, int64_t reach,
                            const int64_t *edges, int64_t groups, int64_t *places,
                            int64_t *hazards)
{
    number numbers[NUMBERS];
    memset(numbers, 0, sizeof numbers);
    memset(hazards, 0, (size_t)(kinds * reach) * sizeof *hazards);
    for (int64_t group = 0; group < groups; group++) places[group] = PLACE / 2;
    for (int64_t kind = 0; kind < kinds; kind++) {
        int64_t left = least(sizes[kind], MOST_SYMBOLS), *own = hazards + kind * reach;
        const int64_t *least_j = above ? above + kind * (reach + 1) : 0;
        for (int64_t group = 0; group < groups && edges[group] < reach && left; group++) {
            int64_t first = edges[group];
            int64_t last = group + 1 < groups ? least(edges[group + 1], reach) : reach;
            int64_t cells = cells_of(left), predicted = (places[group] * cells + PLACE / 2) / PLACE;
            number *n = numbers + least(group, NUMBERS - 1);
            int64_t cell, value;
            if (writer) {
                int64_t go = 0;
                for (int64_t j = first + 1; j <= last; j++) go += least_j[j];
                cell = best_cell(least_j[first] - least_j[last], go, cells, predicted);
                put_signed(writer, n, cell - predicted, UNARY);
            } else {
                cell = predicted + get_signed(reader, n);
                if (cell < 0 || cell > cells) return BAD_HAZARD;
            }
            places[group] = cell * PLACE / cells;
            value = hazard_of(cell, cells);
            for (int64_t j = first; j < last; j++) {
                own[j] = value;
                left = part_of(left, value);
            }
        }
    }
    return 0;
}

/* `state`: low and range of a writer, then 1 if the bytes before `code` are to be carried into. `code`:
 * room for 64 bytes a class and group. `places`: room for `groups`. Gives how many bytes it wrote. */
EXPORT int64_t cutlayer_write_hazards(const int64_t *above, const int64_t *sizes, int64_t kinds,
                                      int64_t reach, const int64_t *edges, int64_t groups,
                                      int64_t *places, int64_t *state, uint8_t *code,
                                      int64_t *hazards)
{
    bit_writer w = {(uint64_t)state[0], (uint64_t)state[1], code, 0, 0};
    walk_hazards(above, &w, 0, sizes, kinds, reach, edges, groups, places, hazards);
    state[0] = (int64_t)w.low;
    state[1] = (int64_t)w.range;
    state[2] = w.carried;
    return w.size;
}

/* `state`: next, range and value of a reader. */
EXPORT int64_t cutlayer_read_hazards(const uint8_t *code, int64_t size, const int64_t *sizes,
                                     int64_t kinds, int64_t reach, const int64_t *edges,
                                     int64_t groups, int64_t *places, int64_t *state,
                                     int64_t *hazards)
{
    bit_reader r = {code, size, state[0], (uint64_t)state[1], (uint64_t)state[2]};
    int64_t error = walk_hazards(0, 0, &r, sizes, kinds, reach, edges, groups, places, hazards);
    state[0] = r.next;
    state[1] = (int64_t)r.range;
    state[2] = (int64_t)r.value;
    return error;
}

/* `shares`: kinds x (reach + 1). */
EXPORT int64_t cutlayer_magnitude_shares(const int64_t *hazards, int64_t kinds, int64_t reach,
                                         int64_t *shares)
{
    for (int64_t kind = 0; kind < kinds; kind++) {
        int64_t left = ONE;
        for (int64_t j = 0; j < reach; j++) {
            int64_t value = *hazards++, on = 0;
            *shares = 0;
            if (left > 0 && value > 0) on = most(left * value >> 24, 1);
            if (left > 0 && value < ONE) *shares = most(left - on, 1);
            shares++;
            left = on;
        }
        *shares++ = left;
    }
    return 0;
}

/* Frequencies of each table of `size` weights. */
EXPORT int64_t cutlayer_twelve_bits(const int64_t *weights, int64_t tables, int64_t size,
                                    uint16_t *frequencies)
{
    enum { DROPPED = 32 - FREQUENCY_BITS };
    for (int64_t table = 0; table < tables; table++, weights += size, frequencies += size) {
        int64_t missing = FREQUENCY_SUM;
        for (int64_t i = 0; i < size; i++) {
            int64_t scaled = (weights[i] + ((int64_t)1 << (DROPPED - 1))) >> DROPPED;
            scaled = most(scaled, weights[i] > 0);
            frequencies[i] = (uint16_t)scaled;
            missing -= scaled;
        }
        while (missing) {
            int64_t largest = 0, given;
            for (int64_t i = 1; i < size; i++)
                if (frequencies[i] > frequencies[largest]) largest = i;
            given = most(missing, -(frequencies[largest] / 2));
            if (!given) return BAD_TABLE;
            frequencies[largest] = (uint16_t)(frequencies[largest] + given);
            missing -= given;
        }
    }
    return 0;
}

/* rANS with one state, `starts` of size + 1: see `ShortEncoder`. `words` in the order in which they come;
 * room for one a symbol. Gives how many. */
EXPORT int64_t cutlayer_short_encode(const int64_t *symbols, int64_t count, const int64_t *starts,
                                     int64_t *state, uint16_t *words)
{
    uint64_t x = (uint64_t)*state;
    int64_t found = 0;
    while (count-- > 0) {
        uint64_t start = (uint64_t)starts[symbols[count]];
        uint64_t frequency = (uint64_t)starts[symbols[count] + 1] - start;
        if (x >= frequency << (32 - FREQUENCY_BITS)) {
            words[found++] = (uint16_t)x;
            x >>= 16;
        }
        x += x / frequency * (FREQUENCY_SUM - frequency) + start;
    }
    *state = (int64_t)x;
    return found;
}

/* Takes words from `words` on; gives how many. */
EXPORT int64_t cutlayer_short_decode(const uint16_t *words, int64_t left, int64_t count,
                                     const int64_t *starts, int64_t size, int64_t *state,
                                     int64_t *symbols)
{
    uint64_t x = (uint64_t)*state;
    int64_t taken = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t slot = (int64_t)(x & (FREQUENCY_SUM - 1)), symbol = 0;
        while (symbol + 1 < size && starts[symbol + 1] <= slot) symbol++;
        symbols[i] = symbol;
        x = (uint64_t)(starts[symbol + 1] - starts[symbol]) * (x >> FREQUENCY_BITS) +
            (uint64_t)(slot - starts[symbol]);
        if (x < LOWEST_STATE) {
            if (taken == left) return TOO_SHORT;
            x = x << 16 | words[taken++];
        }
    }
    *state = (int64_t)x;
    return taken;
}

/* ---- two-way contexts: what an encoder chooses -------------------------------------------------- */

/* `two_way.py` and `tables.py` say what is computed; each step here is theirs, with the same libm and the
 * same order of sums (numpy's, pair by pair), so that the bytes are the same. */

enum { LARGEST_REACH = 62, SMALL_REACH = 16, LARGEST_CLASSES = 64, FINEST_CLASSES = 96, FEW = 8 };
enum { LARGEST_SCORE = 1 << 9, LARGEST_SPREAD = 128, LONG_SERIES = 2048, WIDEST = 2 * LARGEST_SPREAD };
enum { DEAD_COLUMN = -4 * LARGEST_SCORE, SIGN_ONE = 256, GROUPS = 11, SETS = 7 };
static const int64_t HAZARD_EDGES[GROUPS] = {0, 1, 2, 3, 4, 5, 6, 8, 12, 18, 30};

/* Rows of score SKIPPED_ROW and columns of DEAD_COLUMN are all zero. */
typedef struct {
    int64_t rows, columns;
    int16_t *row_scores, *column_scores, *skews, *column_tables;
} layout;

static double pairwise_sum(const double *x, int64_t n)
{
    double sums[8], all = 0;
    int64_t i = 8, half = n / 2 - n / 2 % 8;
    if (n > 128) return pairwise_sum(x, half) + pairwise_sum(x + half, n - half);
    if (n < 8) {
        for (i = 0; i < n; i++) all += x[i];
        return all;
    }
    memcpy(sums, x, sizeof sums);
    for (; i + 8 <= n; i += 8)
        for (int64_t j = 0; j < 8; j++) sums[j] += x[i + j];
    all = ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
    for (; i < n; i++) all += x[i];
    return all;
}

static double log_scale(double mean) { return -log2(log1p(1 / mean)); }

/* The smallest and the largest of n scores that are not `none`; (0, -1) where there is none. */
static void span_of(const int16_t *scores, int64_t n, int32_t none, int64_t *low, int64_t *high)
{
    *low = INT16_MAX;
    *high = INT16_MIN;
    for (int64_t i = 0; i < n; i++) {
        if (scores[i] == none) continue;
        *low = least(*low, scores[i]);
        *high = most(*high, scores[i]);
    }
    if (*low > *high) *low = 0, *high = -1;
}

static void set_tables(layout *l, int64_t classes)
{
    for (int64_t c = 0; c < l->columns; c++)
        l->column_tables[c] =
            (int16_t)(l->column_scores[c] == DEAD_COLUMN ? 0 : 1 + l->skews[c] * classes);
}

static void shift_columns(layout *l, int64_t by)
{
    for (int64_t c = 0; c < l->columns; c++)
        if (l->column_scores[c] != DEAD_COLUMN)
            l->column_scores[c] = (int16_t)(l->column_scores[c] - by);
}

/* `_based`: gives the number of classes. */
static int64_t base_layout(layout *l)
{
    int64_t low, high, low_column, high_column;
    span_of(l->row_scores, l->rows, SKIPPED_ROW, &low, &high);
    span_of(l->column_scores, l->columns, DEAD_COLUMN, &low_column, &high_column);
    high += high_column;
    low = most(low + low_column, high - FINEST_CLASSES + 1);
    shift_columns(l, low);
    set_tables(l, high - low + 1);
    return high - low + 1;
}

/* `_spread`: scores from scales, in place; those far below the largest are raised. */
static void score_scales(const double *scales, const int64_t *sums, int64_t n, int32_t none,
                         int16_t *scores)
{
    double largest = -INFINITY;
    for (int64_t i = 0; i < n; i++)
        if (sums[i] > 0 && scales[i] > largest) largest = scales[i];
    for (int64_t i = 0; i < n; i++) {
        double score = scales[i] < largest - LARGEST_SPREAD + 1 ? largest - LARGEST_SPREAD + 1 : scales[i];
        scores[i] = (int16_t)(sums[i] > 0 ? (int32_t)score : none);
    }
}

/* `_skews`. `scratch`: room for `columns`. */
static void skew_columns(const int64_t *sums, const int64_t *signs, int64_t columns, int64_t live,
                         int64_t rows, double *scratch, int16_t *skews)
{
    int64_t some = 0;
    for (int64_t c = 0; c < columns; c++) {
        double mean = (double)sums[c] / (double)rows, tilt = fabs((double)signs[c]), count, share;
        skews[c] = 0;
        if (sums[c] <= 0) continue;
        count = (double)rows * mean / (1 + mean);
        count = count < tilt ? tilt : count;
        share = tilt / count;
        int level = (share >= 0.2) + (share >= 0.5) + (share >= 0.8);
        if (!level || tilt * tilt < 2.25 * count) continue;
        scratch[some++] = count * (share * share) / (2 * 0.6931471805599453);
        skews[c] = (int16_t)(2 * level - (signs[c] > 0));
    }
    if (pairwise_sum(scratch, some) < (double)(2 * live + 10))
        memset(skews, 0, (size_t)columns * sizeof *skews);
}

/* `layout_of`: gives the number of classes; some symbol is not zero. `scratch`: room for as many numbers as
 * there are rows or columns. */
EXPORT int64_t cutlayer_layout(const int64_t *row_sums, int64_t rows, const int64_t *column_sums,
                               const int64_t *signs, int64_t columns, double *scratch,
                               int16_t *row_scores, int16_t *column_scores, int16_t *skews,
                               int16_t *column_tables)
{
    layout l = {rows, columns, row_scores, column_scores, skews, column_tables};
    int64_t live_rows = 0, live_columns = 0, total = 0;
    for (int64_t r = 0; r < rows; r++) live_rows += row_sums[r] > 0;
    for (int64_t c = 0; c < columns; c++) live_columns += column_sums[c] > 0;
    for (int64_t c = 0; c < columns; c++) total += column_sums[c];
    double cells = (double)(live_rows * live_columns), mean = (double)total / cells;
    double count = mean / (1 + mean) * sqrt(cells);
    double step = sqrt(12 / count) / (log1p(1 / mean) * 0.6931471805599453);
    double middle = log_scale((double)total / (double)live_columns / (double)live_rows);
    step = step < 0.25 ? 0.25 : step > 1.0 ? 1.0 : step;
    for (int64_t r = 0; r < rows; r++)
        if (row_sums[r] > 0)
            scratch[r] = rint((log_scale((double)row_sums[r] / (double)live_columns) - middle) / step);
    score_scales(scratch, row_sums, rows, SKIPPED_ROW, row_scores);
    for (int64_t c = 0; c < columns; c++)
        if (column_sums[c] > 0)
            scratch[c] = rint(log_scale((double)column_sums[c] / (double)live_rows) / step);
    score_scales(scratch, column_sums, columns, DEAD_COLUMN, column_scores);
    skew_columns(column_sums, signs, columns, live_columns, live_rows, scratch, skews);
    return base_layout(&l);
}

/* `_matching`, in place. */
static void match_sums(const int64_t *sums, int16_t *scores, int64_t n, int32_t none,
                       const int16_t *others, int64_t count, int32_t none_of_others,
                       const double *means, int64_t kinds)
{
    int64_t low, high, lowest, highest;
    double edges[WIDEST + 4], bins[WIDEST + 4] = {0}, terms[WIDEST + 4], before = 0;
    span_of(scores, n, none, &low, &high);
    span_of(others, count, none_of_others, &lowest, &highest);
    for (int64_t i = 0; i < count; i++)
        if (others[i] != none_of_others) bins[others[i] - lowest] += 1;
    for (int64_t at = 0; at <= high - low + 2; at++) {
        double expected;
        for (int64_t i = 0; i <= highest - lowest; i++)
            terms[i] = means[least(most(low - 1 + at + i + lowest, 0), kinds - 1)] * bins[i];
        expected = log(pairwise_sum(terms, highest - lowest + 1));
        if (at) edges[at - 1] = (expected + before) / 2;
        before = expected;
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t from = 0, to = high - low + 2;
        double value;
        if (scores[i] == none) continue;
        value = log((double)sums[i]);
        while (from < to) {
            int64_t middle = (from + to) / 2;
            if (edges[middle] < value) from = middle + 1;
            else to = middle;
        }
        scores[i] = (int16_t)(low - 1 + from);
    }
}

/* How often each set and class codes each symbol: `copies` histograms, the sum of which is at the first. */
static void add_copies(uint32_t *counts, int64_t copies, int64_t size)
{
    for (int64_t copy = 1; copy < copies; copy++)
        for (int64_t i = 0; i < size; i++) counts[i] += counts[copy * size + i];
}

/* `_fitted`: scores from the histogram of some rows; gives the number of classes. */
EXPORT int64_t cutlayer_refine(uint32_t *counts, int64_t copies, int64_t tables, int64_t kinds,
                               int64_t reach, const int64_t *row_sums, int64_t rows,
                               const int64_t *column_sums, int64_t columns, int16_t *row_scores,
                               int16_t *column_scores, int16_t *skews, int16_t *column_tables)
{
    layout l = {rows, columns, row_scores, column_scores, skews, column_tables};
    double means[FINEST_CLASSES], largest = 0;
    int64_t size = 2 * reach + 1;
    add_copies(counts, copies, tables * size);
    for (int64_t kind = 0; kind < kinds; kind++) {
        int64_t total = 0, seen = 0;
        double mean;
        for (int64_t table = 1 + kind; table < tables; table += kinds)
            for (int64_t i = 0; i < size; i++) {
                total += (int64_t)counts[table * size + i] * (i < reach ? reach - i : i - reach);
                seen += counts[table * size + i];
            }
        mean = ((double)total + 0.05) / ((double)seen + 0.3);
        mean = mean < 1e-9 ? 1e-9 : mean;
        largest = mean > largest ? mean : largest;
        means[kind] = largest * (1 + 1e-9 * (double)kind);
    }
    match_sums(row_sums, row_scores, rows, SKIPPED_ROW, column_scores, columns, DEAD_COLUMN, means,
               kinds);
    match_sums(column_sums, column_scores, columns, DEAD_COLUMN, row_scores, rows, SKIPPED_ROW,
               means, kinds);
    return base_layout(&l);
}

/* `_counted`, on the sum of all sets: the reach, and the lowest and the highest class to keep. */
static int64_t useful_classes(const uint32_t *counts, int64_t tables, int64_t kinds, int64_t reach,
                              int64_t largest, int64_t *low, int64_t *high)
{
    int64_t size = 2 * reach + 1, sizes[LARGEST_REACH + 1] = {0}, near = largest, beyond, rest, sum;
    int64_t nonzero[FINEST_CLASSES] = {0}, all[FINEST_CLASSES] = {0};
    for (int64_t table = 1; table < tables; table++)
        for (int64_t i = 0; i < size; i++) {
            int64_t count = counts[table * size + i], kind = (table - 1) % kinds;
            sizes[i < reach ? reach - i : i - reach] += count;
            all[kind] += count;
            nonzero[kind] += i == reach ? 0 : count;
        }
    if (largest > SMALL_REACH) {
        rest = 0;
        for (int64_t j = 1; j <= reach; j++) rest += sizes[j];
        near = 0;
        for (beyond = rest; beyond > rest >> 10; beyond -= sizes[++near]) {}
        near = most(near, SMALL_REACH);
    }
    *low = 0;
    for (sum = 0; *low < kinds && (sum += nonzero[*low]) <= FEW; ++*low) {}
    *low = *low < kinds ? *low : 0;
    *high = kinds - 1;
    for (sum = 0; *high >= 0 && (sum += all[*high]) <= FEW; --*high) {}
    *high = *high >= 0 ? *high : kinds - 1;
    *low = most(*low, *high - LARGEST_CLASSES + 1);
    *low = least(*low, *high);
    return near;
}

/* `_better_running` on the live values. `scratch`: room for 2 x 2 WIDEST. */
static double entropy_bits(const int64_t *values, int64_t n)
{
    int64_t low = values[0], high = values[0], some = 0, bins[2 * WIDEST] = {0};
    double terms[2 * WIDEST];
    for (int64_t i = 0; i < n; i++) low = least(low, values[i]), high = most(high, values[i]);
    for (int64_t i = 0; i < n; i++) bins[values[i] - low]++;
    for (int64_t i = 0; i <= high - low; i++)
        if (bins[i]) {
            double count = (double)bins[i];
            terms[some++] = count * log2((double)n / count);
        }
    return pairwise_sum(terms, some);
}

static int64_t table_of_series(const int64_t *counts, int64_t count, int64_t spread, bit_writer *w,
                               uint16_t *table)
{
    int64_t above[WIDEST + 2], edges[WIDEST + 1], places[WIDEST + 1], hazards[WIDEST + 1];
    int64_t shares[WIDEST + 2], sum = 0;
    for (int64_t j = spread; j >= 0; j--) above[j] = sum += counts[j];
    for (int64_t j = 0; j < spread; j++) edges[j] = j;
    walk_hazards(above, w, 0, &count, 1, spread, edges, spread, places, hazards);
    cutlayer_magnitude_shares(hazards, 1, spread, shares);
    for (int64_t j = 0; j <= spread; j++) shares[j] <<= 8;
    return cutlayer_twelve_bits(shares, 1, spread + 1, table);
}

/* `write_series` of n scores: their symbols, and the table of `sizes` symbols that codes them; gives how many
 * are coded. `some`: room for 2 n. */
static int64_t write_series(const int16_t *scores, int64_t n, int32_t none, bit_writer *w, int64_t *some,
                            int64_t *symbols, uint16_t *table, int64_t *table_size)
{
    int64_t live = 0, count = 0, low, high, low_step, high_step, spread, *steps = some + n;
    int64_t bins[WIDEST + 2] = {0}, running = 0;
    number own;
    memset(&own, 0, sizeof own);
    for (int64_t i = 0; i < n; i++) {
        if (scores[i] == none) continue;
        steps[live] = scores[i] - (live ? some[live - 1] : 0);
        some[live++] = scores[i];
        count = i + 1;
    }
    low = high = live ? some[0] : 0;
    low_step = high_step = live ? steps[0] : 0;
    for (int64_t i = 0; i < live; i++) {
        low = least(low, some[i]), high = most(high, some[i]);
        low_step = least(low_step, steps[i]), high_step = most(high_step, steps[i]);
    }
    if (live > 1 && high_step - low_step < 2 * LARGEST_SPREAD)
        running = entropy_bits(steps, live) < entropy_bits(some, live);
    if (running) some = steps, low = low_step, high = high_step;
    spread = high - low + 1;
    put_number(w, &own, n - count, 1);
    put_number(w, &own, running, 1);
    put_signed(w, &own, low, 1);
    put_number(w, &own, spread - 1, 1);
    for (int64_t i = 0; i < count; i++) {
        symbols[i] = scores[i] == none ? spread : *some++ - low;
        bins[symbols[i]]++;
    }
    table_of_series(bins, count, spread, w, table);
    *table_size = spread + 1;
    return count;
}

/* A long series by the code of many lanes; gives its size. `code`: 4 LANES bytes and 2 for each symbol; the
 * result is at its end. `places`: room for 2 x count. `zeros`: as many. */
static int64_t encode_long(const int64_t *symbols, int64_t count, const uint16_t *table, int64_t size,
                           int16_t *zeros, int16_t *narrow, int32_t *places, uint8_t *code)
{
    uint16_t odd[WIDEST + 3] = {0};
    coding codings[WIDEST + 3];
    int64_t width = size | 1, reach = (width - 1) / 2, room = 4 * LANES + 2 * count, begin;
    memcpy(odd, table, (size_t)size * sizeof *table);
    cutlayer_encoder_tables(odd, 1, width, codings);
    memset(zeros, 0, (size_t)count * sizeof *zeros);
    for (int64_t i = 0; i < count; i++) narrow[i] = (int16_t)(symbols[i] - reach);
    begin = cutlayer_rans_encode(narrow, count, 0, 1, zeros, zeros, zeros, count, 1, reach, codings,
                                 places, code, room);
    return room - begin;
}

/* `BitWriter.to_bytes`: gives the size. */
static int64_t end_bits(bit_writer *w)
{
    uint64_t end = w->low + w->range, value = w->low;
    for (int zeros = 32; zeros; zeros -= 8) {
        uint64_t rounded = ((w->low + ((uint64_t)1 << zeros) - 1) >> zeros) << zeros;
        if (rounded < end) {
            value = rounded;
            break;
        }
    }
    w->low = value;
    for (int i = 0; i < 4; i++) shift_out(w);
    while (w->size && !w->code[w->size - 1]) w->size--;
    return w->size;
}

/* Of each class, how many symbols it codes: `class_sizes`. */
static void class_sizes(const layout *l, int64_t classes, int64_t *sizes)
{
    int64_t low, high, low_column, high_column;
    int64_t rows[WIDEST + 4] = {0}, columns[WIDEST + 4] = {0};
    span_of(l->row_scores, l->rows, SKIPPED_ROW, &low, &high);
    span_of(l->column_scores, l->columns, DEAD_COLUMN, &low_column, &high_column);
    for (int64_t r = 0; r < l->rows; r++)
        if (l->row_scores[r] != SKIPPED_ROW) rows[l->row_scores[r] - low]++;
    for (int64_t c = 0; c < l->columns; c++)
        if (l->column_scores[c] != DEAD_COLUMN) columns[l->column_scores[c] - low_column]++;
    memset(sizes, 0, (size_t)classes * sizeof *sizes);
    for (int64_t i = 0; i <= high - low; i++)
        for (int64_t j = 0; j <= high_column - low_column; j++)
            sizes[least(most(low + low_column + i + j, 0), classes - 1)] += rows[i] * columns[j];
}

static int64_t majority_share(int64_t more, int64_t less)
{
    if (!less) return SIGN_ONE;
    return least(most((SIGN_ONE * more + (more + less) / 2) / (more + less), SIGN_ONE / 2),
                 SIGN_ONE - 1);
}

/* The frequencies of a class' symbols, `positive` / 256 of those that are not zero above it. */
static int64_t class_table(const int64_t *shares, int64_t reach, int64_t positive, uint16_t *table)
{
    int64_t weights[2 * LARGEST_REACH + 1];
    weights[reach] = shares[0] * SIGN_ONE;
    for (int64_t j = 1; j <= reach; j++) {
        weights[reach + j] = shares[j] * positive;
        weights[reach - j] = shares[j] * (SIGN_ONE - positive);
    }
    return cutlayer_twelve_bits(weights, 1, 2 * reach + 1, table);
}

/* `write_layout`: sections of scores at `out`; `sizes`: of the short code, then of each long series. */
static void write_layout(const layout *l, bit_writer *w, int64_t *numbers, uint8_t *out, int64_t *sizes)
{
    const int16_t *all[3] = {l->row_scores, l->column_scores, l->skews};
    const int32_t none[3] = {SKIPPED_ROW, DEAD_COLUMN, -1};
    int64_t entries[3] = {l->rows, l->columns, 0}, longest = most(l->rows, l->columns);
    int64_t counts[3], table_sizes[3], found = 0, state = LOWEST_STATE;
    int64_t *symbols[3] = {numbers, numbers + l->rows, numbers + l->rows + l->columns};
    int64_t *some = numbers + l->rows + 2 * l->columns;
    int16_t *skews = (int16_t *)(some + 2 * longest), *narrow = skews + longest;
    uint8_t *code = (uint8_t *)(narrow + longest);
    uint16_t tables[3][WIDEST + 2], words[3 * LONG_SERIES], word;
    for (int64_t c = 0; c < l->columns; c++)
        if (l->column_scores[c] != DEAD_COLUMN) skews[entries[2]++] = l->skews[c];
    all[2] = skews;
    for (int i = 0; i < 3; i++)
        counts[i] = write_series(all[i], entries[i], none[i], w, some, symbols[i], tables[i],
                                 table_sizes + i);
    for (int i = 2; i >= 0; i--) { /* the last first */
        int64_t starts[WIDEST + 3] = {0};
        for (int64_t j = 0; j < table_sizes[i]; j++) starts[j + 1] = starts[j] + tables[i][j];
        if (counts[i] <= LONG_SERIES)
            found += cutlayer_short_encode(symbols[i], counts[i], starts, &state, words + found);
    }
    sizes[0] = found || state != LOWEST_STATE ? 4 + 2 * found : 0;
    if (sizes[0]) {
        for (int byte = 0; byte < 4; byte++) *out++ = (uint8_t)((uint64_t)state >> 8 * byte);
        while (found) {
            word = words[--found];
            *out++ = (uint8_t)word;
            *out++ = (uint8_t)(word >> 8);
        }
    }
    for (int i = 0; i < 3; i++) {
        sizes[1 + i] = 0;
        if (counts[i] <= LONG_SERIES) continue;
        sizes[1 + i] = encode_long(symbols[i], counts[i], tables[i], table_sizes[i], (int16_t *)some,
                                   narrow, (int32_t *)(some + longest), code);
        memcpy(out, code + 4 * LANES + 2 * counts[i] - sizes[1 + i], (size_t)sizes[1 + i]);
        out += sizes[1 + i];
    }
}

/* All but the code: merges classes, writes scores and tables. `counts`: of all symbols, as `cutlayer_refine`
 * takes them. `numbers`: scratch of 8 (rows + columns) + 2^14. `out`: 2^17 + 2^14 bytes, 2 for each row and 4
 * for each column. `frequencies`: as large as one histogram. `found`: sizes of the short
 * scores, of the three long series and of the model, in the order in which they are in `out`; the classes, the
 * reach, and how many symbols are at or beyond it. */
EXPORT int64_t cutlayer_write_model(uint32_t *counts, int64_t copies, int64_t tables, int64_t kinds,
                                    int64_t reach, int64_t largest, int64_t rows, int64_t columns,
                                    int16_t *row_scores, int16_t *column_scores, int16_t *skews,
                                    int16_t *column_tables, int64_t *numbers, uint16_t *frequencies,
                                    uint8_t *out, int64_t *found)
{
    layout l = {rows, columns, row_scores, column_scores, skews, column_tables};
    enum { ROOM = LARGEST_CLASSES * (LARGEST_REACH + 1) };
    int64_t *magnitudes = numbers + 8 * (rows + columns) + 64, *above = magnitudes + ROOM;
    int64_t *hazards = above + ROOM, *shares = hazards + ROOM;
    int64_t positive[SETS] = {0}, negative[SETS] = {0}, sizes[LARGEST_CLASSES], places[GROUPS];
    int64_t majorities[1 + 3] = {SIGN_ONE / 2}, sets = (tables - 1) / kinds, size = 2 * reach + 1;
    int64_t low, high, near, classes, at_reach = 0, error = 0;
    bit_writer w = {0, RANGE_TOP, out, 0, 0};
    add_copies(counts, copies, tables * size);
    near = useful_classes(counts, tables, kinds, reach, largest, &low, &high);
    classes = high - low + 1;
    shift_columns(&l, low);
    set_tables(&l, classes);
    memset(magnitudes, 0, ROOM * sizeof *magnitudes);
    for (int64_t at = 1; at < tables; at++) {
        int64_t set = (at - 1) / kinds, kind = least(most((at - 1) % kinds, low), high) - low;
        for (int64_t i = 0; i < size; i++) {
            int64_t count = counts[at * size + i], magnitude = i < reach ? reach - i : i - reach;
            magnitudes[kind * (near + 1) + least(magnitude, near)] += count;
            at_reach += magnitude >= near ? count : 0;
            positive[set] += i > reach ? count : 0;
            negative[set] += i < reach ? count : 0;
        }
    }
    w.code = out + (1 << 14) + 2 * rows + 4 * columns;
    write_layout(&l, &w, numbers, out, found);
    number fresh;
    const int64_t three[3] = {classes - 1, near - 1, largest > near};
    for (int i = 0; i < 3; i++) {
        memset(&fresh, 0, sizeof fresh);
        put_number(&w, &fresh, three[i], 1);
    }
    class_sizes(&l, classes, sizes);
    for (int64_t kind = 0; kind < classes; kind++) {
        int64_t sum = 0, *own = magnitudes + kind * (near + 1);
        for (int64_t j = near; j >= 0; j--) above[kind * (near + 1) + j] = sum += own[j];
    }
    walk_hazards(above, &w, 0, sizes, classes, near, HAZARD_EDGES, GROUPS, places, hazards);
    for (int64_t level = 1; 2 * level < sets; level++) {
        majorities[level] = majority_share(positive[2 * level - 1] + negative[2 * level],
                                           negative[2 * level - 1] + positive[2 * level]);
        memset(&fresh, 0, sizeof fresh);
        put_number(&w, &fresh, majorities[level] - SIGN_ONE / 2, 1);
    }
    cutlayer_magnitude_shares(hazards, classes, near, shares);
    size = 2 * near + 1;
    memset(frequencies, 0, (size_t)size * sizeof *frequencies);
    frequencies[near] = FREQUENCY_SUM; /* of columns of zeros */
    for (int64_t set = 0; set < sets; set++) {
        int64_t share = majorities[(set + 1) / 2];
        share = set && set % 2 == 0 ? SIGN_ONE - share : share;
        for (int64_t kind = 0; kind < classes && !error; kind++)
            error = class_table(shares + kind * (near + 1), near, share,
                                frequencies + (1 + set * classes + kind) * size);
    }
    found[4] = end_bits(&w);
    memmove(out + found[0] + found[1] + found[2] + found[3], w.code, (size_t)found[4]);
    found[5] = classes;
    found[6] = near;
    found[7] = at_reach;
    return error;
}

CLONES static int32_t largest_symbol(const int16_t *symbols, int64_t n)
{
    int32_t largest = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t size = symbols[i] < 0 ? -symbols[i] : symbols[i];
        largest = size > largest ? size : largest;
    }
    return largest;
}

/* `write_excesses` of `count` symbols at or beyond the reach among n. `excesses`: room for `count`; `out`: 4
 * bytes and 3 for each. Gives how many it wrote. */
EXPORT int64_t cutlayer_write_excesses(const int16_t *symbols, int64_t n, int64_t reach, int64_t count,
                                       int64_t *excesses, uint8_t *out)
{
    int64_t found = 0, unary = 0, shorter, parameter = 0, bit = 0, begin;
    for (int64_t first = 0; first < n && found < count; first += BLOCK) {
        int64_t size = least(BLOCK, n - first);
        if (largest_symbol(symbols + first, size) < reach) continue;
        for (int64_t i = first; i < first + size && found < count; i++) {
            int64_t magnitude = symbols[i] < 0 ? -symbols[i] : symbols[i];
            if (magnitude >= reach) unary += excesses[found++] = magnitude - reach;
        }
    }
    for (;; parameter++, unary = shorter) {
        shorter = 0;
        for (int64_t i = 0; i < found; i++) shorter += excesses[i] >> (parameter + 1);
        if (unary - shorter <= found) break;
    }
    memset(out, 0, (size_t)(4 + 3 * count));
    out[0] = (uint8_t)parameter;
    for (int64_t i = 0; i < found; i++) {
        bit += excesses[i] >> parameter;
        out[1 + bit / 8] |= (uint8_t)(1 << bit % 8);
        bit++;
    }
    begin = 1 + (bit + 7) / 8;
    bit = 0;
    for (int64_t i = 0; i < found; i++)
        for (int64_t j = 0; j < parameter; j++, bit++)
            out[begin + bit / 8] |= (uint8_t)((excesses[i] >> j & 1) << bit % 8);
    return begin + (bit + 7) / 8;
}
