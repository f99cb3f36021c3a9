/* An image classifier as a C library: a BHViT that `bitvit bundle` has written for @TARGET@.
 *
 *     bitvit_model *model = bitvit_create(NULL);
 *     float logits[BITVIT_OUTPUTS];
 *     bitvit_logits_rgb(model, pixels, 1, logits);
 *     puts(bitvit_label(bitvit_best(logits)));
 *     bitvit_destroy(model);
 *
 * Any number of threads may call one model. After bitvit_create nothing is allocated, no file is opened and no thread is
 * started. Logits have the same bits for any number of threads and of images a call.
 *
 * After a fork the child must create a model of its own: threads do not come along.
 */
#ifndef BITVIT_MODEL_H
#define BITVIT_MODEL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef BITVIT_API
#define BITVIT_API __attribute__((visibility("default")))
#endif

enum {
    BITVIT_IMAGE_SIZE = @IMAGE_SIZE@, /* S: side of the planes that bitvit_logits takes */
    BITVIT_CROP_SIZE = @CROP_SIZE@,   /* side of the images that bitvit_logits_rgb takes */
    BITVIT_OUTPUTS = @OUTPUTS@        /* numbers that come out for an image: a logit for each class@POOLED@ */
};

typedef struct bitvit_model bitvit_model;

/* What a model is created with; zeros are the defaults. */
typedef struct bitvit_options {
    int threads;        /* that compute an image together, the caller's among them; default 1 */
    int callers;        /* calls that compute at the same time, in memory of their own; others wait; default 1 */
    const char *level;  /* the kernels to use, such as "@LEVEL@"; default the best that this processor can run */
    const void *weights; /* the bytes of weights.bin, on a boundary of 64 bytes, which must outlive the model; */
    size_t weights_bytes; /* default: those that are linked in, unless compiled with BITVIT_WEIGHTS_APART */
} bitvit_options;

/* An image where it lies. */
typedef struct bitvit_image {
    const void *pixels;     /* float32 [3][S][S] as of bitvit_logits; or the byte R of the first pixel, before G and B */
    ptrdiff_t row_bytes;    /* from one row, and from one pixel, to the next; 0 and 0 for floats */
    ptrdiff_t pixel_bytes;
} bitvit_image;

/* Returns a model, or NULL with errno:
 *     EINVAL   an option that makes no sense: a negative number, more than 1024 threads or callers, weights that are
 *              missing, of another size or not aligned
 *     ENOTSUP  this processor can run none of the levels, or not the one that was asked for, or there is no such level
 *     ENOMEM   no memory
 * If threads cannot be started, the model has fewer: see bitvit_threads. options may be NULL. */
BITVIT_API bitvit_model *bitvit_create(const bitvit_options *options);

/* Ends the threads and frees the memory. No call may be under way. NULL is allowed. */
BITVIT_API void bitvit_destroy(bitvit_model *model);

/* Logits of normalised images. planes: float32 [count][3][S][S], channels R, G, B. logits: float32
 * [count][BITVIT_OUTPUTS]. */
BITVIT_API void bitvit_logits(bitvit_model *model, const float *planes, size_t count, float *logits);

/* Logits of images of bytes [count][BITVIT_CROP_SIZE][BITVIT_CROP_SIZE][3], which are padded and normalised as the
 * model wants it. */
BITVIT_API void bitvit_logits_rgb(bitvit_model *model, const uint8_t *pixels, size_t count, float *logits);

/* The same of images of either kind, wherever they lie; all of one kind. alone: compute on the calling thread only. */
BITVIT_API void bitvit_run(bitvit_model *model, const bitvit_image *images, size_t count, int alone, float *logits);

/* The index of the greatest of BITVIT_OUTPUTS logits; of equal ones the first. */
BITVIT_API int bitvit_best(const float *logits);

/* The name of a class, UTF-8; its number if the model has no names, NULL if there is no such class. */
BITVIT_API const char *bitvit_label(int index);

/* The version of the bitvit that wrote the bundle. */
BITVIT_API const char *bitvit_version(void);

/* The level that a model uses, and the threads that compute an image together. */
BITVIT_API const char *bitvit_level(const bitvit_model *model);
BITVIT_API int bitvit_threads(const bitvit_model *model);

#ifdef __cplusplus
}
#endif

#endif
