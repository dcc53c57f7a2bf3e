/*
 * What the package does on a GPU beside the network: frames are resized, and logits become masks.
 *
 * Both do the arithmetic of the CPU (resize.py, tail.py) in the same order, without fused multiply
 * and add, so that a pixel is the same on every device. gcc compiles this file too, for the tests.
 * kernels.ptx is made of it by scripts/compile_kernels.py. A thread does one pixel.
 */

#ifndef KERNEL /* gcc has its own */
#define KERNEL extern "C" __global__
#endif
enum { AREA, HALVES, LINEAR }; /* of `resample` */
#define LARGEST 1e30f /* logits from here on are not finite, as in tail.py */
#define NO_CLASS 255

/*
 * One step of a resize: (source_height, source_width, 3) to (height, width, 3) uint8.
 *
 * Pixel x of a row is the sum of x_taps pixels from x_first[x] on, each times its weight
 * (x_weights[x * x_taps ...]); so are rows, of which the outermost are repeated. `first` and `next`:
 * where the first channel of a pixel is, and how far it is from one to the next: 0 and 1, or 2 and
 * -1 to reverse their order. kind: how OpenCV rounds; AREA, HALVES (2x2 averages) or LINEAR, whose
 * weights are whole numbers that sum to 2048.
 */
KERNEL void resample(
    const unsigned char *source, int source_width, int source_height, int first, int next,
    unsigned char *target, int width, int height,
    const int *x_first, const float *x_weights, int x_taps,
    const int *y_first, const float *y_weights, int y_taps, int kind)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x;
    int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height)
        return;
    const float *in_row = x_weights + (size_t)x * x_taps;
    const float *in_column = y_weights + (size_t)y * y_taps;
    float sums[3] = {0, 0, 0};
    int fixed[3] = {0, 0, 0};
    for (int j = 0; j < y_taps; j++) {
        int at = y_first[y] + j;
        at = at < 0 ? 0 : at < source_height ? at : source_height - 1;
        const unsigned char *pixel = source + ((size_t)at * source_width + x_first[x]) * 3 + first;
        float row[3] = {0, 0, 0};
        for (int i = 0; i < x_taps; i++, pixel += 3)
            for (int c = 0; c < 3; c++)
                row[c] += in_row[i] * pixel[c * next];
        for (int c = 0; c < 3; c++)
            if (kind == LINEAR)
                fixed[c] += ((int)in_column[j] * ((int)row[c] >> 4)) >> 16;
            else
                sums[c] += in_column[j] * row[c];
    }
    for (int c = 0; c < 3; c++) {
        int value = kind == LINEAR ? (fixed[c] + 2) >> 2
                  : kind == HALVES ? (int)(sums[c] + 0.5f)
                  : (int)rintf(sums[c]);
        target[((size_t)y * width + x) * 3 + c] = (unsigned char)value;
    }
}

/*
 * Logits (channels, rows, columns) to a mask (height, width) uint8 of any size: enlarged linearly,
 * the class of the largest one, the first of equals; NO_CLASS if one of them is not finite.
 *
 * The pixels of a row lie between logits x_cell[x] - 1 and x_cell[x], x_share[x] of the way, with
 * the edges repeated; so do those of a column. classes: (256) the mask's value of each channel.
 * confidence: (height, width) uint8 probability of the class, 255 = 1.0; or null.
 */
KERNEL void enlarge(
    const float *logits, int channels, int rows, int columns, const unsigned char *classes,
    unsigned char *mask, unsigned char *confidence, int width, int height,
    const int *x_cell, const float *x_share, const int *y_cell, const float *y_share)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x;
    int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height)
        return;
    int right = x_cell[x] < columns ? x_cell[x] : columns - 1;
    int left = x_cell[x] > 0 ? x_cell[x] - 1 : 0;
    int below = y_cell[y] < rows ? y_cell[y] : rows - 1;
    int above = y_cell[y] > 0 ? y_cell[y] - 1 : 0;
    size_t place = (size_t)y * width + x;
    float best = 0, sum = 0;
    int index = -1, finite = 1;
    for (int pass = 0; pass < (confidence ? 2 : 1); pass++)
        for (int c = 0; c < channels; c++) {
            const float *of = logits + (size_t)c * rows * columns;
            float a = of[(size_t)above * columns + left], b = of[(size_t)above * columns + right];
            float p = of[(size_t)below * columns + left], q = of[(size_t)below * columns + right];
            float upper = a + x_share[x] * (b - a);
            float lower = p + x_share[x] * (q - p);
            float value = y_share[y] * (lower - upper) + upper;
            if (pass) {
                sum += expf(value - best);
                continue;
            }
            finite &= fabsf(a) < LARGEST && fabsf(b) < LARGEST /* false for NaN */
                   && fabsf(p) < LARGEST && fabsf(q) < LARGEST;
            if (index < 0 || value > best) {
                best = value;
                index = c;
            }
        }
    mask[place] = finite ? classes[index] : NO_CLASS;
    if (confidence)
        confidence[place] = finite ? (unsigned char)(255 / sum + 0.5f) : 0;
}
