/* Runs the steps that bitvit_program.c lists, by one thread or by a team. The kernels and the functions that share their
 * pieces out among threads are object files; here is what they need: memory, threads and a choice of the processor. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* RUSAGE_THREAD */
#endif

#include "bitvit_model.h"
#include "bitvit_program.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum {
    LINE = 64,        /* bytes of a cache line */
    MOST = 1024,      /* threads, and callers */
    MOST_RANGES = 8,  /* parts of a step's pieces, each of which some members of a team begin with */
    CHUNK = 64,       /* images that are described at once */
    MOST_REST = 64,   /* images that a team rests for */
    FIRST = 8, OFTEN = 64, SELDOM = 1024 /* shared images until one is computed alone */
};

/* Counters that a team shares, a cache line apart. */
enum { GATE, EPOCH, DONE, STALLED, CLAIMS };

/* An image as the first kernel wants it described, in the first line of the state. */
typedef struct {
    const void *pixels;
    int64_t row_bytes, pixel_bytes, crop, pad;
    const float *table;
} image_record;

/* A batch, whose images are computed whole by each member of a team. */
typedef struct {
    const image_record *images;
    int64_t count, output_at;
    float *logits;
    int64_t outputs;
} batch_job;

_Static_assert(sizeof(void *) == 8 && sizeof(image_record) == 48 && sizeof(batch_job) == 40, "records of int64_t");

/* The memory of one thread, zeros at first. */
typedef struct {
    char *state, *scratch;
    float *planes; /* float32 [3][S][S], where kernels read floats alone */
} workspace;

enum work { NOTHING, SHARE_IMAGE, SHARE_BATCH, STOP };

typedef struct {
    bitvit_model *model;
    int number;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t called;
    enum work work;
} helper;

/* A team pays where it takes less time than an image that is computed alone: not if a member has no core, nor for a small
 * network if cores are far apart. After two images in a row that took longer, the next 2 are computed alone, then 4, 8 … as
 * long as every image in between that is shared takes longer too. Until the time alone is known, an image counts for which
 * the leader waited long for a helper, or was taken off its own core. Where a team never rests, one image now and then tells
 * that time. */
typedef struct {
    int in_vain, length, left; /* the last image; the last rest, and what is left of it, in images */
    int together;              /* shared images since one was computed alone */
    double alone;              /* seconds of an image that was computed alone; 0 until it is known */
} rest_policy;

struct bitvit_model {
    const bitvit_program *program;
    const char *weights;
    int callers, helper_count;
    char *workspaces;       /* one a caller, of which the first is that of the team's leader; then one a helper */
    pthread_mutex_t lock;   /* of the next two */
    pthread_cond_t released;
    char *taken;            /* [callers] */
    helper *helpers;
    int64_t ranges;
    char *image_cells, *batch_cells;
    batch_job job;          /* that the batch's cells go with */
    rest_policy policy;     /* for whoever has the first workspace */
    void *memory;           /* that all of this lies in */
};

static size_t planes_bytes(void)
{
    return bitvit_floats_only ? sizeof(float) * 3 * BITVIT_IMAGE_SIZE * BITVIT_IMAGE_SIZE : 0;
}

static size_t to_lines(size_t bytes)
{
    return (bytes + LINE - 1) / LINE * LINE;
}

static size_t workspace_bytes(const bitvit_program *program)
{
    return program->state_bytes + program->scratch_bytes + to_lines(planes_bytes());
}

static workspace workspace_of(const bitvit_model *model, int number)
{
    const bitvit_program *program = model->program;
    char *at = model->workspaces + number * workspace_bytes(program);
    char *scratch = at + program->state_bytes;
    return (workspace){at, scratch, (float *)(scratch + program->scratch_bytes)};
}

static workspace helpers_workspace(const bitvit_model *model, int number)
{
    return workspace_of(model, model->callers + number);
}

/* ------------------------------------------------------------------------------------------------------ processor */
#if defined __x86_64__
#include <cpuid.h>

/* cpuid 1 ecx, 7 ebx; 7 ecx, 7 edx; 7.1 eax, 0x80000001 ecx; and the registers that the system saves. */
static void find_features(uint64_t has[BITVIT_NEEDS])
{
    unsigned a = 0, b = 0, c = 0, d = 0, saved = 0;
    memset(has, 0, BITVIT_NEEDS * sizeof *has);
    if (__get_cpuid(1, &a, &b, &c, &d)) {
        has[0] |= c;
        if (c & 1u << 27)
            __asm__("xgetbv" : "=a"(saved), "=d"(d) : "c"(0));
    }
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        has[0] |= (uint64_t)b << 32;
        has[1] |= c | (uint64_t)d << 32;
        if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d))
            has[2] |= a;
    }
    if (__get_cpuid(0x80000001u, &a, &b, &c, &d))
        has[2] |= (uint64_t)c << 32;
    has[3] = saved;
}
#elif defined __aarch64__
#include <sys/auxv.h>

/* What the kernel says of the processor. */
static void find_features(uint64_t has[BITVIT_NEEDS])
{
    memset(has, 0, BITVIT_NEEDS * sizeof *has);
    has[0] = getauxval(AT_HWCAP);
    has[1] = getauxval(AT_HWCAP2);
}
#else
#error "kernels of a bundle are for x86-64 or aarch64"
#endif

static const bitvit_program *choose_program(const char *name)
{
    uint64_t has[BITVIT_NEEDS];
    find_features(has);
    for (int i = 0; i < bitvit_program_count; i++) {
        const bitvit_program *program = &bitvit_programs[i];
        int lacks = 0;
        for (int k = 0; k < BITVIT_NEEDS; k++)
            lacks |= (program->needs[k] & ~has[k]) != 0;
        if (!lacks && (name == NULL || strcmp(name, program->name) == 0))
            return program;
    }
    return NULL;
}

/* ----------------------------------------------------------------------------------------------------------- team */
static int64_t as_int(const void *pointer)
{
    return (int64_t)(intptr_t)pointer;
}

static char *lingering(const bitvit_model *model, int number)
{
    return model->image_cells + LINE * (CLAIMS + model->ranges * model->program->step_count + number);
}

static void help(const helper *self, enum work work)
{
    const bitvit_model *model = self->model;
    const bitvit_program *program = model->program;
    const workspace own = helpers_workspace(model, self->number), leader = workspace_of(model, 0);
    int64_t steps = as_int(program->steps), weights = as_int(model->weights);
    if (work == SHARE_BATCH) {
        program->help_batch(steps, program->step_count, weights, as_int(own.state), as_int(own.scratch),
                            as_int(model->batch_cells), as_int(&model->job));
    } else {
        int64_t home = (self->number + 1) * model->ranges / (model->helper_count + 1);
        int64_t cell = (lingering(model, self->number) - model->image_cells) / LINE;
        program->help_image(steps, program->step_count, weights, as_int(leader.state), as_int(own.scratch),
                            as_int(model->image_cells), model->ranges, home, cell);
    }
}

static void *serve(void *argument)
{
    helper *self = argument;
    for (;;) {
        enum work work;
        pthread_mutex_lock(&self->lock);
        while (self->work == NOTHING)
            pthread_cond_wait(&self->called, &self->lock);
        work = self->work;
        self->work = NOTHING;
        pthread_mutex_unlock(&self->lock);
        if (work == STOP)
            return NULL;
        help(self, work);
    }
}

static void post(helper *to, enum work work)
{
    pthread_mutex_lock(&to->lock);
    to->work = work;
    pthread_cond_signal(&to->called);
    pthread_mutex_unlock(&to->lock);
}

/* Starts helpers, fewer than `wanted` if there are no more to be had; they get no signals. */
static void start_helpers(bitvit_model *model, int wanted)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    /* They read the count only when there is work. */
    for (; model->helper_count < wanted; model->helper_count++) {
        helper *next = &model->helpers[model->helper_count];
        next->model = model;
        next->number = model->helper_count;
        pthread_mutex_init(&next->lock, NULL);
        pthread_cond_init(&next->called, NULL);
        if (pthread_create(&next->thread, NULL, serve, next) != 0) {
            pthread_cond_destroy(&next->called);
            pthread_mutex_destroy(&next->lock);
            break;
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* How often this thread was taken off its core. */
static long interruptions(void)
{
    struct rusage used;
    return getrusage(RUSAGE_THREAD, &used) == 0 ? used.ru_nivcsw : 0;
}

static int is_resting(rest_policy *policy)
{
    if (policy->left == 0)
        return 0;
    policy->left--;
    return 1;
}

static void note_alone(rest_policy *policy, double took)
{
    /* An interruption can make one of them long. */
    policy->alone = policy->alone == 0 || took < 1.25 * policy->alone ? took : 1.25 * policy->alone;
    policy->together = 0;
}

static void note_shared(rest_policy *policy, double took, int disturbed)
{
    const int known = policy->alone > 0, in_vain = known ? took > policy->alone : disturbed;
    const int patience = !known ? FIRST : took > 0.75 * policy->alone ? OFTEN : SELDOM;
    if (!in_vain)
        policy->length = 0;
    else if (policy->in_vain)
        policy->length = policy->length == 0 ? 2 : policy->length < MOST_REST ? 2 * policy->length : MOST_REST;
    policy->in_vain = in_vain;
    policy->left = policy->length;
    if (++policy->together >= patience && policy->left == 0)
        policy->left = 1;
}

/* --------------------------------------------------------------------------------------------------------- images */
static image_record describe(const bitvit_image *image)
{
    image_record record = {image->pixels, image->row_bytes, image->pixel_bytes, 0, 0, NULL};
    if (image->pixel_bytes != 0) {
        record.crop = BITVIT_CROP_SIZE;
        record.pad = bitvit_pad;
        record.table = bitvit_table[0];
    }
    return record;
}

/* Bytes to float32 [3][S][S]: padded with black, normalised. */
static void normalise(const image_record *record, float *planes)
{
    const int side = BITVIT_IMAGE_SIZE, pad = bitvit_pad;
    for (int channel = 0; channel < 3; channel++)
        for (int y = 0; y < side; y++)
            for (int x = 0; x < side; x++) {
                int inside = y >= pad && y < side - pad && x >= pad && x < side - pad;
                const uint8_t *at = record->pixels;
                if (inside)
                    at += (y - pad) * record->row_bytes + (x - pad) * record->pixel_bytes + channel;
                planes[((size_t)channel * side + y) * side + x] = bitvit_table[channel][inside ? *at : 0];
            }
}

static void set_input(const workspace *own, const image_record *record)
{
    image_record stated = *record;
    if (bitvit_floats_only && record->table != NULL) {
        normalise(record, own->planes);
        stated = (image_record){own->planes, 0, 0, 0, 0, NULL};
    }
    memcpy(own->state, &stated, sizeof stated);
}

/* One image, by all members of the team; their leader is whoever has the first workspace. */
static void share(bitvit_model *model, const workspace *own)
{
    const bitvit_program *program = model->program;
    const int64_t cells = as_int(model->image_cells);
    const double start = seconds();
    const long before = interruptions();
    int64_t stalled;
    program->open_image(model->ranges * program->step_count, cells);
    /* A helper that still lingers after the last image takes part by itself. */
    for (int i = 0; i < model->helper_count; i++)
        if (__atomic_load_n((int64_t *)(void *)lingering(model, i), __ATOMIC_SEQ_CST) == 0)
            post(&model->helpers[i], SHARE_IMAGE);
    stalled = program->lead_image(as_int(program->steps), program->step_count, as_int(model->weights),
                                  as_int(own->state), as_int(own->scratch), cells, model->ranges);
    note_shared(&model->policy, seconds() - start, stalled != 0 || interruptions() != before);
}

/* One image; together: whether the team may take part. */
static void compute(bitvit_model *model, const workspace *own, int together, const image_record *record, float *logits)
{
    const bitvit_program *program = model->program;
    set_input(own, record);
    if (together && !is_resting(&model->policy)) {
        share(model, own);
    } else {
        const double start = together ? seconds() : 0;
        program->run_steps(as_int(program->steps), program->step_count, as_int(model->weights), as_int(own->state),
                           as_int(own->scratch));
        if (together)
            note_alone(&model->policy, seconds() - start);
    }
    memcpy(logits, own->state + 4 * program->output_at, BITVIT_OUTPUTS * sizeof *logits);
}

/* Whole images by each member of the team. */
static void compute_apart(bitvit_model *model, const workspace *own, const image_record *records, size_t count,
                          float *logits)
{
    const bitvit_program *program = model->program;
    model->job = (batch_job){records, (int64_t)count, program->output_at, logits, BITVIT_OUTPUTS};
    for (int i = 0; i < model->helper_count; i++)
        post(&model->helpers[i], SHARE_BATCH);
    program->lead_batch(as_int(program->steps), program->step_count, as_int(model->weights), as_int(own->state),
                        as_int(own->scratch), as_int(model->batch_cells), as_int(&model->job));
}

static int all_finite(const float *values, size_t count)
{
    int finite = 1;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        finite &= (bits & 0x7f800000u) != 0x7f800000u;
    }
    return finite;
}

/* What is not a number would stay in lanes that are multiplied by 0. */
static void forget(const bitvit_model *model, const workspace *own)
{
    memset(own->state, 0, model->program->state_bytes);
    memset(own->scratch, 0, model->program->scratch_bytes);
}

static void run(bitvit_model *model, const workspace *own, int together, const bitvit_image *images, size_t count,
                float *logits)
{
    image_record records[CHUNK];
    const size_t members = together ? (size_t)model->helper_count + 1 : 1;
    while (count > 0) {
        size_t now = count < CHUNK ? count : CHUNK, apart = together ? now / members * members : 0;
        for (size_t i = 0; i < now; i++)
            records[i] = describe(&images[i]);
        if (bitvit_floats_only && records[0].table != NULL)
            apart = 0; /* each image is normalised in the leader's memory */
        if (apart > 0)
            compute_apart(model, own, records, apart, logits);
        for (size_t i = apart; i < now; i++)
            compute(model, own, together, &records[i], logits + i * BITVIT_OUTPUTS);
        if (!all_finite(logits, now * BITVIT_OUTPUTS)) {
            forget(model, own);
            for (int i = 0; together && i < model->helper_count; i++) {
                const workspace theirs = helpers_workspace(model, i);
                forget(model, &theirs);
            }
        }
        images += now;
        logits += now * BITVIT_OUTPUTS;
        count -= now;
    }
}

/* A workspace that nobody uses, waiting for one if need be: the team's if it is free, unless the call is to be alone. */
static int take_workspace(bitvit_model *model, int alone)
{
    int found = -1;
    pthread_mutex_lock(&model->lock);
    while (found < 0) {
        for (int k = 0; k < model->callers && found < 0; k++) {
            int i = alone ? model->callers - 1 - k : k;
            if (!model->taken[i])
                found = i;
        }
        if (found < 0)
            pthread_cond_wait(&model->released, &model->lock);
    }
    model->taken[found] = 1;
    pthread_mutex_unlock(&model->lock);
    return found;
}

static void release_workspace(bitvit_model *model, int number)
{
    pthread_mutex_lock(&model->lock);
    model->taken[number] = 0;
    pthread_cond_signal(&model->released);
    pthread_mutex_unlock(&model->lock);
}

/* ------------------------------------------------------------------------------------------------------------ API */
#ifndef BITVIT_WEIGHTS_APART
#pragma GCC visibility push(hidden)
extern const char bitvit_weights[]; /* weights.S */
#pragma GCC visibility pop
#endif

/* The weights of weights.bin; NULL if there are none, or not as they should be. */
static const char *find_weights(const bitvit_options *options)
{
    if (options->weights != NULL) {
        int fits = options->weights_bytes == bitvit_weights_size && (uintptr_t)options->weights % LINE == 0;
        return fits ? options->weights : NULL;
    }
#ifdef BITVIT_WEIGHTS_APART
    return NULL;
#else
    return bitvit_weights;
#endif
}

static int in_range(int number)
{
    return number >= 0 && number <= MOST;
}

/* Memory for all that a model consists of, in one piece; NULL if there is none. */
static bitvit_model *allocate(const bitvit_program *program, int callers, int helpers, int64_t ranges)
{
    enum { MODEL, TAKEN, HELPERS, IMAGE_CELLS, BATCH_CELLS, WORKSPACES, PARTS };
    const size_t sizes[PARTS] = {
        [MODEL] = sizeof(bitvit_model),
        [TAKEN] = (size_t)callers,
        [HELPERS] = sizeof(helper) * (size_t)helpers,
        [IMAGE_CELLS] = LINE * (size_t)(CLAIMS + ranges * program->step_count + helpers),
        [BATCH_CELLS] = LINE * CLAIMS,
        [WORKSPACES] = workspace_bytes(program) * ((size_t)callers + (size_t)helpers),
    };
    size_t total = LINE;
    char *memory, *parts[PARTS];
    bitvit_model *model;
    for (int i = 0; i < PARTS; i++)
        total += to_lines(sizes[i]);
    memory = calloc(1, total);
    if (memory == NULL)
        return NULL;
    parts[0] = memory + (LINE - (uintptr_t)memory % LINE) % LINE;
    for (int i = 1; i < PARTS; i++)
        parts[i] = parts[i - 1] + to_lines(sizes[i - 1]);
    model = (bitvit_model *)(void *)parts[MODEL];
    model->program = program;
    model->callers = callers;
    model->ranges = ranges;
    model->taken = parts[TAKEN];
    model->helpers = (helper *)(void *)parts[HELPERS];
    model->image_cells = parts[IMAGE_CELLS];
    model->batch_cells = parts[BATCH_CELLS];
    model->workspaces = parts[WORKSPACES];
    model->memory = memory;
    return model;
}

static bitvit_model *fail(int reason)
{
    errno = reason;
    return NULL;
}

bitvit_model *bitvit_create(const bitvit_options *options)
{
    const bitvit_options defaults = {0, 0, NULL, NULL, 0}, *asked = options != NULL ? options : &defaults;
    const int threads = asked->threads == 0 ? 1 : asked->threads, callers = asked->callers == 0 ? 1 : asked->callers;
    const char *weights = find_weights(asked);
    const bitvit_program *program;
    bitvit_model *model;
    if (!in_range(threads) || !in_range(callers) || weights == NULL)
        return fail(EINVAL);
    program = choose_program(asked->level);
    if (program == NULL)
        return fail(ENOTSUP);
    model = allocate(program, callers, threads - 1, threads < MOST_RANGES ? threads : MOST_RANGES);
    if (model == NULL)
        return fail(ENOMEM);
    model->weights = weights + program->weights_at;
    pthread_mutex_init(&model->lock, NULL);
    pthread_cond_init(&model->released, NULL);
    start_helpers(model, threads - 1);
    return model;
}

void bitvit_destroy(bitvit_model *model)
{
    if (model == NULL)
        return;
    for (int i = 0; i < model->helper_count; i++) {
        post(&model->helpers[i], STOP);
        pthread_join(model->helpers[i].thread, NULL);
        pthread_cond_destroy(&model->helpers[i].called);
        pthread_mutex_destroy(&model->helpers[i].lock);
    }
    pthread_cond_destroy(&model->released);
    pthread_mutex_destroy(&model->lock);
    free(model->memory);
}

void bitvit_run(bitvit_model *model, const bitvit_image *images, size_t count, int alone, float *logits)
{
    const int number = take_workspace(model, alone);
    const workspace own = workspace_of(model, number);
    run(model, &own, !alone && number == 0 && model->helper_count > 0, images, count, logits);
    release_workspace(model, number);
}

/* Images that lie one behind the other. */
static void run_all(bitvit_model *model, const char *pixels, size_t image_bytes, ptrdiff_t row_bytes,
                    ptrdiff_t pixel_bytes, size_t count, float *logits)
{
    bitvit_image images[CHUNK];
    while (count > 0) {
        const size_t now = count < CHUNK ? count : CHUNK;
        for (size_t i = 0; i < now; i++)
            images[i] = (bitvit_image){pixels + i * image_bytes, row_bytes, pixel_bytes};
        bitvit_run(model, images, now, 0, logits);
        pixels += now * image_bytes;
        logits += now * BITVIT_OUTPUTS;
        count -= now;
    }
}

void bitvit_logits(bitvit_model *model, const float *planes, size_t count, float *logits)
{
    const size_t bytes = sizeof *planes * 3 * BITVIT_IMAGE_SIZE * BITVIT_IMAGE_SIZE;
    run_all(model, (const char *)planes, bytes, 0, 0, count, logits);
}

void bitvit_logits_rgb(bitvit_model *model, const uint8_t *pixels, size_t count, float *logits)
{
    const size_t row = 3 * BITVIT_CROP_SIZE;
    run_all(model, (const char *)pixels, row * BITVIT_CROP_SIZE, (ptrdiff_t)row, 3, count, logits);
}

int bitvit_best(const float *logits)
{
    int best = 0;
    for (int i = 1; i < BITVIT_OUTPUTS; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

const char *bitvit_label(int index)
{
    return index >= 0 && index < bitvit_label_count ? bitvit_labels[index] : NULL;
}

const char *bitvit_version(void)
{
    return bitvit_written_by;
}

const char *bitvit_level(const bitvit_model *model)
{
    return model->program->name;
}

int bitvit_threads(const bitvit_model *model)
{
    return model->helper_count + 1;
}
