/* What bitvit_program.c, which is generated, tells bitvit_model.c of a model. */
#ifndef BITVIT_PROGRAM_H
#define BITVIT_PROGRAM_H

#include <stddef.h>
#include <stdint.h>

#pragma GCC visibility push(hidden)

enum { BITVIT_NEEDS = 4 };

/* A kernel computes one piece of a step. The arenas are made of units of 4 bytes: weights are read, state holds the
 * activations of one image, scratch is one thread's working memory. */
typedef void bitvit_kernel(int64_t piece, const void *arguments, const void *weights, void *state, void *scratch);

/* A step of the network: all of its pieces must be computed before the next step begins. */
typedef struct bitvit_step {
    bitvit_kernel *kernel;
    const int64_t *arguments;
    int64_t pieces;
} bitvit_step;

/* Scheduling functions take addresses and counts as int64_t: see bitvit_model.c. */
typedef void bitvit_run_steps(int64_t, int64_t, int64_t, int64_t, int64_t);
typedef void bitvit_open_image(int64_t, int64_t);
typedef int64_t bitvit_lead_image(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t);
typedef void bitvit_help_image(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t);
typedef void bitvit_batch(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t);

/* The model for one kind of processor. */
typedef struct bitvit_program {
    const char *name;
    uint64_t needs[BITVIT_NEEDS]; /* features of the processor, as `find_features` in bitvit_model.c gathers them */
    const bitvit_step *steps;
    int64_t step_count;
    size_t weights_at, weights_bytes; /* in weights.bin; a multiple of 64 */
    size_t state_bytes, scratch_bytes; /* multiples of 64 */
    int64_t output_at; /* where the logits are in the state, in units */
    bitvit_run_steps *run_steps;
    bitvit_open_image *open_image;
    bitvit_lead_image *lead_image;
    bitvit_help_image *help_image;
    bitvit_batch *lead_batch, *help_batch;
} bitvit_program;

/* The most demanding first. */
extern const bitvit_program bitvit_programs[];
extern const int bitvit_program_count;

extern const size_t bitvit_weights_size;  /* of weights.bin */
extern const int bitvit_pad;              /* black pixels on each side of an image of bytes */
extern const int bitvit_floats_only;      /* whether kernels read floats alone: bytes are normalised before */
extern const float bitvit_table[3][256];  /* what becomes of a byte of R, G, B */
extern const char *const bitvit_labels[]; /* one a class */
extern const int bitvit_label_count;
extern const char bitvit_written_by[];    /* a version */

#pragma GCC visibility pop

#endif
