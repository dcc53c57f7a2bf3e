/*
 * What the package does on a GPU beside the network: frames are resized.
 *
 * It does the arithmetic of the CPU (resize.py) in the same order, without fused multiply and add,
 * so that a pixel is the same on every device. gcc compiles this file too, for the tests.
 * kernels.ptx is made of it by scripts/compile_kernels.py. A thread does one pixel.
 */

#ifndef KERNEL /* gcc has its own */
#define KERNEL extern "C" __global__
#endif
enum { AREA, HALVES, LINEAR }; /* of `resample` */

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
