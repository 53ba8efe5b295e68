/* The whole C ABI of libauxcore, AuxCore's CUDA backend.
 *
 * Status. Every function that can fail returns one: 0 is success, a negative value is one of the codes below, a positive value is the CUDA
 * driver's own CUresult. auxcore_last_error() has the message. After a failure the outputs are as they were; where that cannot be, the
 * function says so.
 *
 * Contexts. Work happens in the device's primary context, which libtorch and the CUDA runtime use too. It is pushed and popped around each
 * call, so the calling thread's current context stays what it was.
 *
 * Streams. A stream is a CUstream of that context, or NULL for the legacy default stream, where TorchSharp works. Work is asynchronous:
 * the caller keeps all device memory alive until the stream has come to the end of it. No function but those that say so waits for the
 * device. Whether a non-NULL stream is one at all is left to the driver.
 *
 * Threads. Any thread may call anything at any time, the closing of a context included: calls under way end first. Two calls on one table
 * run one after the other.
 *
 * Handles are numbers that are never used twice. One that is 0, closed, or of another kind gives AUXCORE_E_HANDLE. Device addresses are
 * CUdeviceptr. Sizes are in bytes, counts in elements. */
#ifndef AUXCORE_H
#define AUXCORE_H

#include <stdint.h>

#if defined(_WIN32)
#  define AUXCORE_API __declspec(dllexport)
#else
#  define AUXCORE_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Callers pass the version that they were built for to auxcore_open, which takes exactly its own. */
#define AUXCORE_ABI_VERSION 1u

typedef int32_t auxcore_status;

enum {
  AUXCORE_OK = 0,
  AUXCORE_E_ARGUMENT = -1,  /* an argument is wrong; nothing was done */
  AUXCORE_E_HANDLE = -2,    /* a handle is 0, closed, or of another kind */
  AUXCORE_E_ABI = -3,       /* caller and library are of different versions */
  AUXCORE_E_NO_DRIVER = -4, /* no CUDA driver can be loaded */
  AUXCORE_E_NO_DEVICE = -5, /* the driver has no such device */
  AUXCORE_E_NO_IMAGE = -6,  /* the library was built without device code */
  AUXCORE_E_MEMORY = -7,    /* the host is out of memory */
  AUXCORE_E_INTERNAL = -8   /* a defect of the library; please report the message */
};

typedef uint64_t auxcore_context;
typedef uint64_t auxcore_ema_table;
typedef uint64_t auxcore_adamw_table;

/* Element types; the numbers are those of AuxCore.Interop.DType. */
typedef int32_t auxcore_dtype;

enum {
  AUXCORE_FLOAT32 = 0,
  AUXCORE_FLOAT16 = 2,
  AUXCORE_BFLOAT16 = 3,
  AUXCORE_UINT8 = 4
};

/* ---- library ---- */

AUXCORE_API uint32_t auxcore_abi_version(void);

/* The message of this thread's last failure, in UTF-8; empty if there was none. Valid until this thread's next call. Never NULL. */
AUXCORE_API const char* auxcore_last_error(void);

/* What the embedded device code was compiled with, such as "clang 19.1.7, PTX for sm_80 and later"; "none" where there is no device code.
 * Static. */
AUXCORE_API const char* auxcore_device_image(void);

/* The number of CUDA devices. AUXCORE_E_NO_DRIVER where no driver loads; 0 devices are AUXCORE_OK. */
AUXCORE_API auxcore_status auxcore_device_count(int32_t* count);

/* ---- context ---- */

/* Waits for the device after each launch, so that a fault is reported by the call that caused it. The environment variable AUXCORE_SYNC=1
 * asks for the same. */
#define AUXCORE_OPEN_SYNCHRONOUS 1u

/* Retains the device's primary context. */
AUXCORE_API auxcore_status auxcore_open(uint32_t abi_version, int32_t device, uint32_t flags, auxcore_context* context);

/* Waits for the context's work, then frees what was made through the context and not freed yet (tables, streams, memory) and releases the
 * primary context. What fails on the way is reported, and does not keep the rest from being freed. */
AUXCORE_API auxcore_status auxcore_close(auxcore_context context);

typedef struct auxcore_device {
  uint32_t struct_size; /* set by the caller: sizeof(auxcore_device) */
  int32_t ordinal;
  int32_t compute_major; /* compute capability */
  int32_t compute_minor;
  int32_t multiprocessors;
  int32_t driver_version; /* 12040 is CUDA 12.4 */
  int64_t memory_bytes;
  char name[128]; /* UTF-8, terminated */
} auxcore_device;

AUXCORE_API auxcore_status auxcore_describe_device(auxcore_context context, auxcore_device* device);

/* ---- memory ---- */

/* bytes is at least 1; the address is aligned to 256. The contents are undefined. */
AUXCORE_API auxcore_status auxcore_allocate(auxcore_context context, int64_t bytes, uint64_t* address);

/* Takes what auxcore_allocate gave, and 0. Waits for the device, as cuMemFree does. */
AUXCORE_API auxcore_status auxcore_free(auxcore_context context, uint64_t address);

/* Ordered on the stream, and complete when they return. After a failure the destination is undefined. */
AUXCORE_API auxcore_status auxcore_copy_to_device(
    auxcore_context context, void* stream, uint64_t destination, const void* source, int64_t bytes);
AUXCORE_API auxcore_status auxcore_copy_to_host(
    auxcore_context context, void* stream, void* destination, uint64_t source, int64_t bytes);

/* Asynchronous. The ranges must not overlap. */
AUXCORE_API auxcore_status auxcore_copy_on_device(
    auxcore_context context, void* stream, uint64_t destination, uint64_t source, int64_t bytes);

/* Asynchronous: every byte becomes value. */
AUXCORE_API auxcore_status auxcore_fill(auxcore_context context, void* stream, uint64_t destination, uint8_t value, int64_t bytes);

/* ---- streams ---- */

/* A stream that does not wait for the legacy default stream, nor that stream for it: auxcore_stream_wait orders them. */
AUXCORE_API auxcore_status auxcore_stream_create(auxcore_context context, void** stream);

/* Takes what auxcore_stream_create gave. Work that the stream still has runs to its end. */
AUXCORE_API auxcore_status auxcore_stream_destroy(auxcore_context context, void* stream);

/* Waits until the stream's work is done, and reports a fault in it. */
AUXCORE_API auxcore_status auxcore_stream_synchronize(auxcore_context context, void* stream);

/* Work given to `waiting` from now on runs after the work given to `awaited` up to now. Does not wait itself. */
AUXCORE_API auxcore_status auxcore_stream_wait(auxcore_context context, void* waiting, void* awaited);

/* ---- EmaUpdate: average <- fma(1 - decay, source - average, average), many tensors a launch (ema/ema_update.cu) ---- */

/* For each source average_count averages (1 to 64), each with a decay of its own. Decays are 1 at first: averages stay as they are.
 *
 * The table caches on the device where the tensors are. It is used by one stream at a time; a change of stream is the caller's to order
 * (auxcore_stream_wait). */
AUXCORE_API auxcore_status auxcore_ema_create(auxcore_context context, int32_t average_count, auxcore_ema_table* table);

/* Waits for the device, as cuMemFree does. */
AUXCORE_API auxcore_status auxcore_ema_destroy(auxcore_ema_table table);

/* The decays of the updates that follow on this stream, each within [0, 1]. Nothing is launched where they are what the table has.
 *
 * Updates read them from device memory. So a graph that captured an update replays with the decays that were set on its stream before the
 * replay. While the stream is capturing, decays that differ are refused. */
AUXCORE_API auxcore_status auxcore_ema_set_decays(auxcore_ema_table table, void* stream, const double* decays, int32_t count);

/* How averages in bfloat16 are rounded: AuxCore.Kernels.EmaRounding has the definition. */
enum {
  AUXCORE_ROUND_NEAREST = 0,    /* ties to even */
  AUXCORE_ROUND_STOCHASTIC = 1  /* up or down by random bits, a function of seed, step, tensor, element and average */
};

/* The rounding of the updates that follow on this stream; those of float32 averages need none. It is read from device memory and kept from
 * captures as the decays are. seed and step are ignored to the nearest. first_tensor is the number of the first tensor: 0, unless a group
 * is updated piece by piece. */
AUXCORE_API auxcore_status auxcore_ema_set_rounding(
    auxcore_ema_table table, void* stream, int32_t kind, uint64_t seed, int64_t step, int32_t first_tensor);

typedef struct auxcore_ema_tensors {
  uint32_t struct_size;       /* set by the caller: sizeof(auxcore_ema_tensors) */
  auxcore_dtype average_type; /* of all averages: AUXCORE_FLOAT32, or AUXCORE_BFLOAT16, for which a rounding must have been set */
  int64_t tensor_count;
  const uint64_t* addresses;         /* tensor_count rows: a source, then its averages; averages share memory with nothing */
  const int64_t* element_counts;     /* tensor_count: elements of the source and of each of its averages */
  const auxcore_dtype* source_types; /* tensor_count */
} auxcore_ema_tensors;

/* One update of every tensor, in one launch. The first call, and any call with other tensors than the last, checks the tensors and builds
 * the table anew; that is not possible while the stream is capturing, and invalidates graphs captured before. Calls with the same tensors
 * only compare. NULL stands for the tensors of the last call and compares nothing. */
AUXCORE_API auxcore_status auxcore_ema_update(auxcore_ema_table table, void* stream, const auxcore_ema_tensors* tensors);

/* ---- AdamWUpdate and GradientNorm: one step of many parameters, with averages, in one launch (adamw/adamw_update.cu) ---- */

/* For each parameter average_count averages (0 to 4), each with a decay of its own.
 *
 * The table caches on the device where the tensors are. It is used by one stream at a time; a change of stream is the caller's to order
 * (auxcore_stream_wait). */
AUXCORE_API auxcore_status auxcore_adamw_create(auxcore_context context, int32_t average_count, auxcore_adamw_table* table);

/* Waits for the device, as cuMemFree does. */
AUXCORE_API auxcore_status auxcore_adamw_destroy(auxcore_adamw_table table);

/* g <- gradient_scale * g; g <- fma(penalty, p, g); m <- fma(weight1, g, fma(-weight1, m, m));
 * v <- fma(weight2 * g, g, fma(-weight2, v, v)); p <- fma(-step_size, m / (sqrt(v) + epsilon), fma(-shrinkage, p, p)), all in float32, each
 * operation rounded to nearest. gradient_scale is rounded to float32 first, after a clip factor has been multiplied. */
typedef struct auxcore_adamw_settings {
  double gradient_scale;
  float penalty;
  float weight1;
  float weight2;
  float epsilon;
  float step_size;
  float shrinkage;
} auxcore_adamw_settings;

/* The settings and decays of the updates that follow on this stream: count settings (at least 1), and average_count decays within [0, 1].
 * Nothing is launched where they are what the table has.
 *
 * Updates read them from device memory. So a graph that captured an update replays with those that were set on its stream before the
 * replay. While the stream is capturing, others are refused, and so are more settings than ever before. */
AUXCORE_API auxcore_status auxcore_adamw_set(
    auxcore_adamw_table table, void* stream, const auxcore_adamw_settings* settings, int32_t count, const double* decays);

typedef struct auxcore_adamw_tensors {
  uint32_t struct_size; /* set by the caller: sizeof(auxcore_adamw_tensors) */
  uint32_t reserved;    /* 0 */
  int64_t tensor_count;
  /* tensor_count rows: parameter; its float32 master, or 0 where the parameter is float32 itself; gradient, or 0 where it has none and is
   * left alone; first moment; second moment; then average_count averages, or as many zeros. Gradients may share memory, all else may
   * not. */
  const uint64_t* addresses;
  const int64_t* element_counts;        /* tensor_count: elements of each of the row's tensors */
  const auxcore_dtype* parameter_types; /* tensor_count; masters, moments and averages are AUXCORE_FLOAT32 */
  const auxcore_dtype* gradient_types;  /* tensor_count; not looked at where there is no gradient */
  const int32_t* settings_of;           /* tensor_count: which of the settings a parameter follows */
} auxcore_adamw_tensors;

/* Takes the step only as far as the last auxcore_adamw_norm on the stream allows: scaled by its clip factor, or not at all. */
#define AUXCORE_ADAMW_CLIPPED 1u

/* One step of every parameter that has a gradient, in one launch. The first call, and any call of this or the next function with other
 * tensors than the last, checks the tensors and builds the table anew; that is not possible while the stream is capturing, and invalidates
 * graphs captured before. Calls with the same tensors only compare. NULL stands for the tensors of the last call and compares nothing. */
AUXCORE_API auxcore_status auxcore_adamw_update(
    auxcore_adamw_table table, void* stream, const auxcore_adamw_tensors* tensors, uint32_t flags);

/* The sum of squares of all gradients, formed in double in a fixed order (src/Kernels/AdamW/GradientNorm.cs), and from it the clip factor
 * min(1, greatest / (scale * norm + 1e-6)); a greatest of 0 asks for no clipping. Where an element is not finite, the factor is 1, and
 * skip says whether updates with AUXCORE_ADAMW_CLIPPED then do nothing. Asynchronous: nothing of it is waited for. */
AUXCORE_API auxcore_status auxcore_adamw_norm(auxcore_adamw_table table, void* stream, const auxcore_adamw_tensors* tensors, double scale,
    double greatest, int32_t skip);

/* What the last auxcore_adamw_norm on the stream found. Waits for the stream. */
AUXCORE_API auxcore_status auxcore_adamw_read_norm(
    auxcore_adamw_table table, void* stream, double* sum_of_squares, int64_t* non_finite);

/* ---- successor measures: IndicatorTd, IndicatorCalibration, PvnHead, TabularTd, SuccessorSweep, and more (successor_measure/) ----
 *
 * The formulas are in the C# files of the same names. Matrices are row-major; addresses are of device memory of the context's device, and
 * 0 leaves out an output that may be left out. What is written shares memory with nothing else. Nothing is allocated and nothing waits for
 * the device, but where it is said, so calls can be captured in graphs. Addresses are checked on each call; what indices in device memory
 * say is checked by auxcore_first_bad_index only, and wrong ones give NaN.
 *
 * Sets of states are given by features and thresholds, 1[feature + threshold > 0], or as bits: feature_type AUXCORE_UINT8, bit t mod 8 of
 * byte t / 8 of a row of (tasks + 7) / 8 bytes, and no thresholds. */

/* *first = the first place of count int32 indices that is not within [0, limit), or count. Waits for the device. */
AUXCORE_API auxcore_status auxcore_first_bad_index(
    auxcore_context context, void* stream, uint64_t indices, int32_t count, int32_t limit, int32_t* first);

typedef struct auxcore_indicator_td_batch {
  uint32_t struct_size; /* set by the caller: sizeof(auxcore_indicator_td_batch) */
  int32_t rows;
  int32_t tasks;
  uint32_t normalised;        /* 0 or 1 */
  double discount;            /* within [0, 1) */
  auxcore_dtype value_type;   /* of prediction and next_values: float32 or bfloat16 */
  auxcore_dtype feature_type; /* float32, bfloat16 or uint8 */
  uint64_t prediction;        /* [rows, tasks] */
  uint64_t next_values;       /* [rows, tasks]; a row that is done is not read */
  uint64_t done;              /* [rows], bytes */
  uint64_t features;          /* [rows, tasks], or bits */
  uint64_t thresholds;        /* [tasks], float32 */
  uint64_t gradient;          /* [rows, tasks], float32, or 0 */
  uint64_t loss;              /* one float64, or 0; it is summed from row_losses */
  uint64_t row_losses;        /* [rows], float64, or 0 */
  uint64_t active_counts;     /* [tasks], int32, or 0; -1 where a NaN was met */
  uint64_t mean_absolute_errors; /* [tasks], float32, or 0 */
} auxcore_indicator_td_batch;

/* Indicators, targets, errors, loss and gradient of one batch. */
AUXCORE_API auxcore_status auxcore_indicator_td(auxcore_context context, void* stream, const auxcore_indicator_td_batch* batch);

typedef struct auxcore_indicator_states {
  uint32_t struct_size; /* set by the caller: sizeof(auxcore_indicator_states) */
  int32_t rows;
  int32_t tasks;
  auxcore_dtype feature_type; /* float32 or bfloat16 */
  uint64_t features;          /* [rows, tasks] */
  uint64_t thresholds;        /* [tasks], float32 */
  uint64_t active_counts;     /* [tasks], int32, or 0; -1 where a NaN was met */
} auxcore_indicator_states;

/* Writes the exact thresholds: wanted states of each column, at least 1 and less than rows, are in the set, or fewer for ties. */
AUXCORE_API auxcore_status auxcore_indicator_quantile(
    auxcore_context context, void* stream, const auxcore_indicator_states* states, int32_t wanted);

/* Writes the indicators as bits. */
AUXCORE_API auxcore_status auxcore_indicator_pack(
    auxcore_context context, void* stream, const auxcore_indicator_states* states, uint64_t bits);

typedef struct auxcore_pinball {
  uint32_t struct_size; /* set by the caller: sizeof(auxcore_pinball) */
  uint32_t reserved;    /* 0 */
  double rate;          /* within (0, 1) */
  double learning_rate; /* at least 0; with 0 the thresholds stay */
  uint64_t bits;        /* or 0 */
  uint64_t gradient;    /* [tasks], float32, or 0 */
  uint64_t loss;        /* one float64, or 0; it is summed from task_losses */
  uint64_t task_losses; /* [tasks], float64, or 0 */
} auxcore_pinball;

/* One step on the pinball loss; bits and counts are those of the thresholds before it. */
AUXCORE_API auxcore_status auxcore_indicator_pinball(
    auxcore_context context, void* stream, const auxcore_indicator_states* states, const auxcore_pinball* step);

typedef struct auxcore_tabular_td_batch {
  uint32_t struct_size; /* set by the caller: sizeof(auxcore_tabular_td_batch) */
  int32_t states;
  int32_t transitions;  /* may be 0 */
  uint32_t counts_next; /* 0: the current state counts, 1: the next one */
  uint32_t normalised;  /* 0 or 1 */
  uint32_t reserved;    /* 0 */
  double step_size;     /* within [0, 1] */
  double discount;      /* within [0, 1) */
  uint64_t measure;     /* [states, states], float32, updated in place */
  uint64_t snapshot;    /* [states, states], float32, whose contents become undefined: next rows are read as before the batch; or 0 */
  uint64_t current;     /* [transitions], int32 */
  uint64_t next;        /* [transitions], int32 */
  uint64_t done;        /* [transitions], bytes */
} auxcore_tabular_td_batch;

/* Applies transitions one after the other. One whose current state is out of range is left out; one whose next state is makes the current
 * state's row NaN. */
AUXCORE_API auxcore_status auxcore_tabular_td(auxcore_context context, void* stream, const auxcore_tabular_td_batch* batch);

typedef struct auxcore_sweep {
  uint32_t struct_size; /* set by the caller: sizeof(auxcore_sweep) */
  int32_t states;
  int32_t entries;
  int32_t sweeps;        /* at least 1 */
  uint32_t in_place;     /* 0: Jacobi's order, 1: Gauss and Seidel's */
  uint32_t counts_next;  /* 0: E is I, 1: E is P */
  uint32_t normalised;   /* 0 or 1 */
  uint32_t reserved;     /* 0 */
  double discount;       /* within [0, 1) */
  uint64_t row_offsets;  /* [states + 1], int32; held within the entries */
  uint64_t columns;      /* [entries], int32; one out of range gives NaN */
  uint64_t values;       /* [entries], float32 */
  uint64_t measure;      /* [states, states], float32, updated in place */
  uint64_t scratch;      /* [states, states], float32, whose contents become undefined; 0 only in place without changes */
  uint64_t changes;      /* [states], float32, or 0: the largest change in each column in the last sweep */
} auxcore_sweep;

/* measure <- E + discount * P * measure, sweeps times. */
AUXCORE_API auxcore_status auxcore_successor_sweep(auxcore_context context, void* stream, const auxcore_sweep* sweep);

typedef struct auxcore_pvn {
  uint32_t struct_size; /* set by the caller: sizeof(auxcore_pvn) */
  int32_t features;
  int32_t actions;
  uint32_t reserved;         /* 0 */
  uint64_t current;          /* [rows, features], float32, as all that follow but the actions */
  uint64_t next;             /* [rows, features] */
  uint64_t weights;          /* [tasks, actions, features] */
  uint64_t target_mean;      /* [tasks, features] */
  uint64_t taken;            /* [rows], int32; a row whose action is out of range has a NaN loss and gradient */
  uint64_t feature_gradient; /* [rows, features], or 0 */
  uint64_t weight_gradient;  /* [tasks, actions, features], or 0 */
  uint64_t workspace;        /* aligned to 256 bytes */
  int64_t workspace_bytes;
} auxcore_pvn;

/* The bytes of workspace that auxcore_pvn_head needs. */
AUXCORE_API auxcore_status auxcore_pvn_head_workspace(int32_t rows, int32_t tasks, int32_t actions, int64_t* bytes);

/* Loss and gradients of the heads of one batch. Of the batch, value_type is float32, and prediction, next_values and gradient are 0. */
AUXCORE_API auxcore_status auxcore_pvn_head(
    auxcore_context context, void* stream, const auxcore_indicator_td_batch* batch, const auxcore_pvn* heads);

/* mean[t, f] = the mean over actions of weights[t, a, f]. */
AUXCORE_API auxcore_status auxcore_pvn_mean_over_actions(
    auxcore_context context, void* stream, uint64_t weights, int32_t tasks, int32_t actions, int32_t features, uint64_t mean);

/* ---- ForwardBackwardLoss (successor_measure/forward_backward_loss.cu) ---- */

enum {
  AUXCORE_FB_MEAN = 0,     /* the heads' targets become one: their mean, */
  AUXCORE_FB_MINIMUM = 1,  /* their minimum, */
  AUXCORE_FB_PENALISED = 2 /* their mean less penalty · the mean |difference| of all pairs of heads */
};

typedef struct auxcore_forward_backward {
  uint32_t struct_size; /* set by the caller: sizeof(auxcore_forward_backward) */
  auxcore_dtype type;   /* of the four inputs: float32 or bfloat16 */
  int32_t heads;        /* 1 to 16 */
  int32_t count;        /* transitions, at least 2 */
  int32_t dimension;    /* 1 to 65536 */
  int32_t target;       /* AUXCORE_FB_MEAN, … */
  uint32_t is_gram;     /* 1: from d x d matrices, where the target is the mean or the penalty 0; 0: from tiles of the n x n ones */
  uint32_t is_difference; /* 1: the diagonal part of the loss is of F · B less its target; 0: of F · B */
  double discount;        /* within [0, 1) */
  double penalty;         /* at least 0 */
  double diagonal_weight; /* at least 0 */
  double orthonormality;  /* at least 0; with the convention's factor */
  uint64_t forward;           /* [heads, count, dimension] */
  uint64_t backward;          /* [count, dimension] */
  uint64_t target_forward;    /* [heads, count, dimension]; rows that are done are not read */
  uint64_t target_backward;   /* [count, dimension] */
  uint64_t done;              /* [count], bytes */
  uint64_t forward_gradient;  /* [heads, count, dimension], float32 */
  uint64_t backward_gradient; /* [count, dimension], float32 */
  uint64_t loss;              /* four float64: off-diagonal, diagonal, orthonormality off-diagonal and diagonal */
  uint64_t workspace;         /* aligned to 256 bytes */
  int64_t workspace_bytes;
} auxcore_forward_backward;

/* The bytes of workspace that a batch needs; its addresses may be 0. */
AUXCORE_API auxcore_status auxcore_forward_backward_workspace(const auxcore_forward_backward* batch, int64_t* bytes);

/* Loss and gradients of one batch. */
AUXCORE_API auxcore_status auxcore_forward_backward_loss(
    auxcore_context context, void* stream, const auxcore_forward_backward* batch);

/* ---- InfoNceLoss (successor_measure/info_nce_loss.cu) ---- */

enum {
  AUXCORE_INFO_NCE_NEGATIVE_DISTANCE = 0,
  AUXCORE_INFO_NCE_NEGATIVE_SQUARED_DISTANCE = 1,
  AUXCORE_INFO_NCE_DOT = 2,
  AUXCORE_INFO_NCE_COSINE = 3
};

typedef struct auxcore_info_nce {
  uint32_t struct_size; /* set by the caller: sizeof(auxcore_info_nce) */
  auxcore_dtype type;   /* of queries and keys: float32 or bfloat16 */
  int32_t count;        /* pairs, at least 2 */
  int32_t dimension;    /* 1 to 65536 */
  int32_t similarity;   /* AUXCORE_INFO_NCE_NEGATIVE_DISTANCE, … */
  uint32_t is_symmetric;       /* 0 or 1 */
  uint32_t excludes_positives; /* 0 or 1 */
  uint32_t reserved;           /* 0 */
  double temperature;     /* above 0 */
  double penalty;         /* at least 0 */
  double distance_offset; /* at least 0 */
  uint64_t queries;        /* [count, dimension] */
  uint64_t keys;           /* [count, dimension] */
  uint64_t query_gradient; /* [count, dimension], float32 */
  uint64_t key_gradient;   /* [count, dimension], float32 */
  uint64_t loss;           /* two float64: contrast, penalty */
  uint64_t workspace;      /* aligned to 256 bytes */
  int64_t workspace_bytes;
} auxcore_info_nce;

/* The bytes of workspace that a batch needs; its addresses may be 0. */
AUXCORE_API auxcore_status auxcore_info_nce_workspace(const auxcore_info_nce* batch, int64_t* bytes);

/* Loss and gradients of one batch. */
AUXCORE_API auxcore_status auxcore_info_nce_loss(auxcore_context context, void* stream, const auxcore_info_nce* batch);

/* ---- KV caches: KvQuantise, KvDecodeAttention, … (kv_approximation/) ----
 *
 * The formulas are in the C# files of the same names. Nothing is allocated and nothing waits for the device; what is written shares memory
 * with nothing else. Calls can be captured in graphs, but where it is said. */

/* How elements are stored; the numbers are those of AuxCore.Kernels.KvFormat. Q8_0 and Q4_0 are llama.cpp's: groups of 32 elements in 34
 * and 18 bytes; KIVI-4 has groups of 32 in 20 bytes. Addresses are aligned to the elements, those of groups to 2 bytes, of KIVI-4 to 4. */
enum {
  AUXCORE_KV_F32 = 0,
  AUXCORE_KV_F16 = 1,
  AUXCORE_KV_BF16 = 2,
  AUXCORE_KV_E4M3 = 3,
  AUXCORE_KV_Q8_0 = 4,
  AUXCORE_KV_Q4_0 = 5,
  AUXCORE_KV_KIVI4 = 6
};

typedef struct auxcore_kv_elements {
  uint32_t struct_size; /* set by the caller: sizeof(auxcore_kv_elements) */
  int32_t format;       /* AUXCORE_KV_F32, … */
  int64_t count;        /* at least 0; a multiple of the format's groups */
  float scale;          /* of E4M3, what 1 stands for: finite and above 0; 1 for all others */
  uint32_t reserved;    /* 0 */
  uint64_t elements;    /* [count], float32 */
  uint64_t stored;      /* their bytes; here groups may be anywhere */
} auxcore_kv_elements;

/* stored <- elements. */
AUXCORE_API auxcore_status auxcore_kv_quantise(auxcore_context context, void* stream, const auxcore_kv_elements* elements);

/* elements <- stored. */
AUXCORE_API auxcore_status auxcore_kv_dequantise(auxcore_context context, void* stream, const auxcore_kv_elements* elements);

/* The keys, or the values, of a cache. The positions of a head within a sequence, or page, lie side by side. In KIVI-4 the latest are in
 * the residual, each at its position's remainder: of n positions all but the first n - W or, of keys, the multiple of 32 below. Those are
 * stored: values a row of groups each; keys in blocks of 32 positions, a group for each element of a head, one after the other, so that
 * positions is a multiple of 32. */
typedef struct auxcore_kv_plane {
  int32_t format;      /* AUXCORE_KV_F32, … */
  int32_t scale_count; /* of E4M3: 1, or kv_heads; 0 for all others */
  uint64_t first;      /* of the first element; addresses and steps are even, and those of F32 multiples of 4 */
  int64_t outer_count; /* sequences, or pages */
  int64_t outer_step;  /* bytes from one of them to the next */
  int64_t head_step;   /* bytes from one head to the next; not looked at where a page holds one head */
  uint64_t scales;     /* [scale_count], float32, finite and above 0; or 0 */
  uint64_t residual;   /* of KIVI-4: [batch, kv_heads, residual_positions, head_dim], float32; or 0 */
  int32_t residual_positions; /* of KIVI-4: W + 32; 0 for all others */
  uint32_t reserved;   /* 0 */
} auxcore_kv_plane;

/* The KV cache of one layer: contiguous, or in pages. What page tables say is held within the pool: a page that is none is read as page 0,
 * and not written. */
typedef struct auxcore_kv_cache {
  uint32_t struct_size; /* set by the caller: sizeof(auxcore_kv_cache) */
  int32_t batch;
  int32_t kv_heads;
  int32_t head_dim;     /* 8 to 256, a multiple of 8 and of the formats' groups */
  int32_t positions;    /* of a head that lie side by side: the capacity, or those of a page */
  uint32_t pages_are_of_heads; /* 0: a page holds all heads of a sequence; 1: one head, and each has a table of its own */
  uint64_t page_offsets; /* [batch + 1] or [batch * kv_heads + 1], int32: where each table begins in pages, and the end; 0: contiguous */
  uint64_t pages;        /* [page_count], int32; or 0 */
  int64_t page_count;
  auxcore_kv_plane keys;
  auxcore_kv_plane values;
} auxcore_kv_cache;

typedef struct auxcore_kv_attention {
  uint32_t struct_size; /* set by the caller: sizeof(auxcore_kv_attention) */
  int32_t query_heads;  /* a multiple of kv_heads */
  uint32_t lengths_are_of_heads; /* 0 or 1 */
  int32_t sum_positions; /* of position_sums; 0 where they are left out */
  double scale;         /* of the scores: finite */
  uint64_t query;       /* [batch, query_heads, head_dim], float32 */
  uint64_t lengths;     /* [batch] or [batch, kv_heads], int32: filled positions; held within what there is room for. Or 0 */
  const int32_t* host_lengths; /* the same in host memory, where lengths is 0: read before the call returns. Not while capturing */
  uint64_t output;      /* [batch, query_heads, head_dim], float32 */
  uint64_t position_sums; /* [batch, kv_heads, sum_positions], float32: the probabilities of a group's heads are added; or 0 */
  uint64_t workspace;   /* aligned to 256 bytes */
  int64_t workspace_bytes;
} auxcore_kv_attention;

/* The bytes of workspace that a call needs; addresses may be 0. They depend on sizes, not on lengths or formats. */
AUXCORE_API auxcore_status auxcore_kv_attention_workspace(
    const auxcore_kv_cache* cache, const auxcore_kv_attention* attention, int64_t* bytes);

/* Attention of one token of each sequence. */
AUXCORE_API auxcore_status auxcore_kv_decode_attention(
    auxcore_context context, void* stream, const auxcore_kv_cache* cache, const auxcore_kv_attention* attention);

/* ---- KvAppend (kv_approximation/kv_append.cu) ---- */

/* The heads of some tokens. Those of a token lie side by side. */
typedef struct auxcore_kv_rows {
  uint64_t first;   /* [tokens, heads, head_dim]; or 0 */
  int64_t step;     /* bytes from one token to the next */
  uint64_t bias;    /* [heads, head_dim], float32, added first; or 0 */
  uint64_t norm;    /* [head_dim], float32: weights of an RMS norm of each head; or 0 */
  int32_t heads;
  uint32_t reserved; /* 0 */
} auxcore_kv_rows;

typedef struct auxcore_kv_append {
  uint32_t struct_size; /* set by the caller: sizeof(auxcore_kv_append) */
  int32_t tokens;       /* may be 0 */
  auxcore_dtype type;   /* of queries, keys and values: float32, float16 or bfloat16 */
  uint32_t slots_are_of_heads; /* 0 or 1 */
  auxcore_kv_rows query;  /* heads: 0 where there are none, or a multiple of kv_heads */
  auxcore_kv_rows keys;   /* heads: kv_heads */
  auxcore_kv_rows values; /* likewise; norm is 0 */
  uint64_t rotated_query; /* [tokens, query heads, head_dim], float32, written; may be the query in its place */
  int64_t rotated_step;   /* bytes from one token to the next */
  uint64_t sequences;     /* [tokens], int32; 0: token t is of sequence t / (tokens / batch) */
  uint64_t slots;         /* [tokens] or [tokens, kv_heads], int32; a row that has no place in the cache is not written */
  uint64_t positions;     /* [tokens], int32, that rotations are by; 0 only where nothing is rotated */
  double norm_epsilon;    /* finite, at least 0 */
  int32_t rotated;        /* elements of a head, even; 0 for none */
  int32_t is_in_pairs;    /* 0: element i turns with i + rotated / 2; 1: 2 i with 2 i + 1 */
  const double* frequencies; /* [rotated / 2], in host memory: radians a position, at most 1024; read before the call returns */
} auxcore_kv_append;

/* Norm, rotation and storing of some tokens of one layer, in one launch, or two in KIVI-4. There the slots of a sequence's tokens follow
 * each other one by one, from call to call too. */
AUXCORE_API auxcore_status auxcore_kv_append_tokens(
    auxcore_context context, void* stream, const auxcore_kv_cache* cache, const auxcore_kv_append* append);

/* ---- KvPredictWrite (kv_approximation/kv_predict_write.cu) ---- */

/* One layer. kv_heads may differ from layer to layer, batch and head_dim may not. */
typedef struct auxcore_kv_predict_layer {
  auxcore_kv_cache cache;
  auxcore_kv_rows keys;   /* heads: kv_heads */
  auxcore_kv_rows values; /* likewise; norm is 0 */
} auxcore_kv_predict_layer;

/* Members that auxcore_kv_append has too are what they are there. */
typedef struct auxcore_kv_predict {
  uint32_t struct_size; /* set by the caller: sizeof(auxcore_kv_predict) */
  int32_t tokens;
  auxcore_dtype type;
  int32_t layer_count;  /* 0 to 1024 */
  const auxcore_kv_predict_layer* layers; /* [layer_count], in host memory: read before the call returns */
  uint64_t sequences;
  uint64_t slots;       /* [tokens], int32 */
  uint64_t positions;
  double norm_epsilon;
  int32_t rotated;
  int32_t is_in_pairs;
  const double* frequencies;
} auxcore_kv_predict;

/* Bias, norm, rotation and storing of some tokens in the caches of some layers: a launch for each twelve, and one more for each in
 * KIVI-4. Caches of layers share no memory, but may interleave in one pool. */
AUXCORE_API auxcore_status auxcore_kv_predict_write(auxcore_context context, void* stream, const auxcore_kv_predict* predict);

/* ---- KvWindowScores (kv_approximation/kv_window_scores.cu) ---- */

typedef struct auxcore_kv_window {
  uint32_t struct_size; /* set by the caller: sizeof(auxcore_kv_window) */
  int32_t heads;        /* of keys; may be 0 */
  int32_t group;        /* query heads that share one */
  int32_t window;       /* queries; no more than positions where causal */
  int32_t positions;    /* may be 0 */
  uint32_t causal;      /* 1: query w sees positions up to positions - window + w; 0: all */
  double scale;         /* of the logits: finite */
  uint64_t logits;      /* [heads, group, window, positions], float32 */
  uint64_t scores;      /* [heads, positions], float32, written: the mean of the rows' softmaxes */
  uint64_t workspace;   /* aligned to 256 bytes */
  int64_t workspace_bytes;
} auxcore_kv_window;

/* The bytes of workspace that scores need, 8 a row; addresses may be 0. */
AUXCORE_API auxcore_status auxcore_kv_window_workspace(const auxcore_kv_window* window, int64_t* bytes);

/* Two launches. */
AUXCORE_API auxcore_status auxcore_kv_window_scores(auxcore_context context, void* stream, const auxcore_kv_window* window);

typedef struct auxcore_kv_window_product {
  uint32_t struct_size; /* set by the caller: sizeof(auxcore_kv_window_product) */
  int32_t heads;        /* as above, as far as causal */
  int32_t group;
  int32_t window;
  int32_t positions;
  uint32_t causal;
  int32_t depth;        /* elements of a key */
  uint32_t reserved;    /* 0 */
  double scale;         /* of the products: finite */
  uint64_t queries;     /* [heads, group, window, depth], float32 */
  uint64_t keys;        /* [heads, positions, depth], float32, with these steps */
  int64_t key_step;     /* elements from one key to the next, at least 0 */
  int64_t head_step;    /* likewise */
  uint64_t scores;      /* [heads, positions], float32, written */
  uint64_t workspace;   /* aligned to 256 bytes */
  int64_t workspace_bytes;
} auxcore_kv_window_product;

/* The bytes of workspace that these need: 4 a logit, and 8 for each 64 of a row; addresses may be 0. */
AUXCORE_API auxcore_status auxcore_kv_window_product_workspace(const auxcore_kv_window_product* product, int64_t* bytes);

/* The same scores from queries and keys, which are read once. A row with a NaN makes all scores of its head NaN. Three launches. */
AUXCORE_API auxcore_status auxcore_kv_window_scores_of_product(
    auxcore_context context, void* stream, const auxcore_kv_window_product* product);

/* ---- KvEvict (kv_approximation/kv_evict.cu) ---- */

/* What is kept: TokenSelect's ranking (below) of each head's positions, by means of their scores. */
typedef struct auxcore_kv_eviction {
  uint32_t struct_size; /* set by the caller: sizeof(auxcore_kv_eviction) */
  int32_t rule;         /* AUXCORE_BUDGET_COUNT, ...: how many positions a head keeps, as of a segment of auxcore_token_select_batch */
  int32_t count;
  int32_t minimum;
  int32_t maximum;
  int32_t pool_width;   /* of the mean over scores, odd; 1 for none */
  double value;
  int32_t sinks;        /* first positions that are always kept */
  int32_t recent;       /* last positions that are; means do not reach into them */
  double head_floor;    /* what part of its budget a head keeps where heads share, within 0 and 1; else 0 */
  uint32_t heads_share; /* 1: those of a sequence share the sum of their budgets, counts or ratios; 0: each has its own */
  uint32_t reserved;    /* 0 */
  int32_t score_positions;
  int32_t number_positions; /* 0 where numbers are left out */
  uint64_t scores;      /* [batch, kv_heads, score_positions], float32 */
  uint64_t lengths;     /* [batch, kv_heads], int32: filled positions, held within what there is room for; becomes those kept */
  uint64_t numbers;     /* [batch, kv_heads, number_positions], int32: they move with the rows; or 0 */
  uint64_t counts;      /* [batch, kv_heads], int32: how many each head keeps, all where it has fewer, and the rule is
                         * a count of 0 without limits; or 0 */
  uint64_t workspace;   /* aligned to 256 bytes */
  int64_t workspace_bytes;
} auxcore_kv_eviction;

/* The bytes of workspace that a call needs. */
AUXCORE_API auxcore_status auxcore_kv_evict_workspace(int32_t batch, int32_t kv_heads, int32_t score_positions, int64_t* bytes);

/* Kept rows move to the beginning of their heads, in place and in their order: two launches; three where heads share. */
AUXCORE_API auxcore_status auxcore_kv_evict(
    auxcore_context context, void* stream, const auxcore_kv_cache* cache, const auxcore_kv_eviction* eviction);

/* ---- token pruning: TokenSelect, TokenCompact, TokenPool, TokenScores, TokenMerge, TokenDiversity, KeyRerotate (token_pruning/) ----
 *
 * The definitions are in the C# files of the same names. Addresses are of device memory of the context's device; tensors are contiguous
 * and row-major but where steps are given; 0 leaves out what may be left out. What is written shares memory with nothing else, but where it
 * is said. Nothing is allocated and nothing waits for the device, so calls can be captured in graphs. What device memory says (where
 * segments begin, indices, slots) is read by kernels only, and held within the tensors: wrong numbers give a result that means nothing.
 *
 * Segments are images or sequences whose tokens lie one after the other; bounds say where each begins, [segments + 1], ascending from 0 to
 * the number of tokens. A workspace is aligned to 256 bytes, and its contents become undefined. */

/* How many tokens of a segment are kept: AuxCore.Kernels.Budget has the definitions. */
enum {
  AUXCORE_BUDGET_COUNT = 1,     /* count, or all where a segment has fewer */
  AUXCORE_BUDGET_RATIO = 2,     /* value, within [0, 1] */
  AUXCORE_BUDGET_THRESHOLD = 3, /* value */
  AUXCORE_BUDGET_TOP_P = 4,     /* value, within [0, 1] */
  AUXCORE_BUDGET_OUTLIERS = 5   /* value, at least 0 */
};

typedef struct auxcore_token_select_batch {
  uint32_t struct_size;     /* set by the caller: sizeof(auxcore_token_select_batch) */
  auxcore_dtype score_type; /* float32, bfloat16 or float16 */
  int32_t tokens;
  int32_t segments;
  int32_t rule;           /* AUXCORE_BUDGET_COUNT, ... */
  int32_t count;
  int32_t minimum;        /* of each segment, at least 0 */
  int32_t maximum;        /* of each segment, at least the minimum */
  double value;
  int32_t index_capacity; /* indices beyond it are not written */
  uint32_t reserved;
  uint64_t scores;     /* [tokens] */
  uint64_t bounds;     /* [segments + 1], int32 */
  uint64_t always;     /* [tokens], bytes: what is kept whatever its score; or 0 */
  uint64_t indices;    /* [index_capacity], int32: kept tokens, ascending */
  uint64_t offsets;    /* [segments + 1], int32: where the kept tokens of each segment begin */
  uint64_t slots;      /* [tokens], int32: each token's place among the kept, or -1; or 0 */
  uint64_t nan_counts; /* [segments], int32, or 0 */
  uint64_t workspace;  /* not looked at where 0 bytes are needed */
  int64_t workspace_bytes;
} auxcore_token_select_batch;

/* The bytes of workspace that a selection needs: 16 a segment where there are several, and a number depends on scores or flags. */
AUXCORE_API auxcore_status auxcore_token_select_workspace(const auxcore_token_select_batch* batch, int64_t* bytes);

/* One launch; two where a workspace is needed. */
AUXCORE_API auxcore_status auxcore_token_select(auxcore_context context, void* stream, const auxcore_token_select_batch* batch);

typedef struct auxcore_token_selection {
  uint32_t struct_size; /* set by the caller: sizeof(auxcore_token_selection) */
  int32_t segments;
  uint64_t bounds;  /* [segments + 1], int32: of all tokens */
  uint64_t offsets; /* [segments + 1], int32: of the kept ones */
  uint64_t map;     /* [map_length], int32: indices; backwards slots */
  int32_t map_length;
  uint32_t reserved;
} auxcore_token_selection;

/* One tensor with rows of tokens. Steps are in bytes and not negative. */
typedef struct auxcore_token_rows {
  uint64_t source;
  uint64_t destination;
  int64_t row_bytes;
  int64_t source_tokens;
  int64_t destination_tokens;
  int64_t source_step;      /* from one token to the next */
  int64_t destination_step;
  int64_t sizes[3];         /* of the dimensions before a row that are not the tokens', 1 where there are fewer */
  int64_t source_steps[3];
  int64_t destination_steps[3];
  int32_t segment_dimension; /* which of the three counts segments, whose tokens then begin at place 0; -1: tokens of all lie in a row */
  uint32_t clears_rest;      /* 1: rows behind the kept ones become zero; 0: they stay */
} auxcore_token_rows;

/* Destination row j is source row indices[j], bit for bit; zeros where an index is none of the source's. All tensors in one launch, or as
 * few as 160 tensors of 8 kinds of geometry a launch allow. A destination may be its own source, with the same steps. */
AUXCORE_API auxcore_status auxcore_token_compact(auxcore_context context, void* stream, const auxcore_token_selection* selection,
    const auxcore_token_rows* tensors, int64_t tensor_count);

/* Destination row i is source row slots[i], and zeros where there is none; all of it is written. */
AUXCORE_API auxcore_status auxcore_token_compact_backward(auxcore_context context, void* stream, const auxcore_token_selection* selection,
    const auxcore_token_rows* tensors, int64_t tensor_count);

typedef struct auxcore_token_pool_batch {
  uint32_t struct_size; /* set by the caller: sizeof(auxcore_token_pool_batch) */
  auxcore_dtype type;   /* float32, bfloat16 or float16 */
  int32_t batch;
  int32_t height;  /* of the grid of tokens */
  int32_t width;
  int32_t channels;
  int32_t rows;    /* of the grid of cells: as many as windows cover the tokens */
  int32_t columns;
  int32_t window_height; /* 0: cells are a share of the grid, at most one a token */
  int32_t window_width;
  uint64_t source;
  uint64_t destination;
} auxcore_token_pool_batch;

/* source [batch, height, width, channels] -> destination [batch, rows, columns, channels] */
AUXCORE_API auxcore_status auxcore_token_pool(auxcore_context context, void* stream, const auxcore_token_pool_batch* batch);

/* source [batch, rows, columns, channels] -> destination [batch, height, width, channels] */
AUXCORE_API auxcore_status auxcore_token_pool_backward(auxcore_context context, void* stream, const auxcore_token_pool_batch* batch);

typedef struct auxcore_token_scores_batch {
  uint32_t struct_size; /* set by the caller: sizeof(auxcore_token_scores_batch) */
  auxcore_dtype type;   /* of queries and keys: float32, bfloat16 or float16 */
  int32_t batch;
  int32_t query_heads;  /* a multiple of key_heads: neighbours share a head of keys */
  int32_t key_heads;
  int32_t rows;         /* of queries */
  int32_t tokens;       /* keys */
  int32_t depth;        /* elements of a head, which lie side by side */
  float scale;
  uint32_t causal;      /* 1: row i sees keys up to tokens - rows + i; 0: all; with lengths, that of its sequence in place of tokens */
  int64_t query_steps[3]; /* in elements, from one sequence, head and row to the next */
  int64_t key_steps[3];
  uint64_t queries;
  uint64_t keys;
  uint64_t log_sum_exp;  /* [batch, query_heads, rows], float32, or 0: it is computed */
  uint64_t head_weights; /* [query_heads], float32, or 0: 1 / (query_heads * rows) */
  uint64_t lengths;      /* [batch], int32, or 0: keys of each sequence, from the first; those behind score 0, whatever they hold */
  uint64_t scores;       /* [batch, tokens], float32 */
  uint64_t workspace;
  int64_t workspace_bytes;
} auxcore_token_scores_batch;

/* The bytes of workspace that scores need; addresses may be 0. */
AUXCORE_API auxcore_status auxcore_token_scores_workspace(const auxcore_token_scores_batch* batch, int64_t* bytes);

/* Two launches where fewer than 24 rows share a head of keys; otherwise three, or two where log_sum_exp is given. */
AUXCORE_API auxcore_status auxcore_token_scores(auxcore_context context, void* stream, const auxcore_token_scores_batch* batch);

/* The keys of one layer: [batch, heads, tokens, depth]. Steps are in elements; those of a head lie side by side. */
typedef struct auxcore_key_layer {
  uint64_t keys;
  auxcore_dtype type; /* float32, bfloat16 or float16 */
  int32_t batch;
  int32_t heads;
  uint32_t reserved;
  int64_t batch_step;
  int64_t head_step;
  int64_t token_step;
} auxcore_key_layer;

typedef struct auxcore_key_rerotate_batch {
  uint32_t struct_size; /* set by the caller: sizeof(auxcore_key_rerotate_batch) */
  int32_t tokens;
  int32_t depth;
  int32_t rotated;      /* elements of a head, from the first: even, from 2 to 256 */
  uint32_t is_pairs;    /* 0: elements i and i + rotated / 2 are turned together; 1: 2 i and 2 i + 1 */
  int32_t rows;         /* of differences */
  uint64_t differences; /* [rows, tokens], int32: new position less old one */
  const double* frequencies; /* [rotated / 2], in host memory: radians a position */
  const int32_t* row_of;     /* [rotated / 2], in host memory: which row of differences a pair follows */
  const auxcore_key_layer* layers; /* layer_count, in host memory */
  int64_t layer_count;
} auxcore_key_rerotate_batch;

/* Turns keys in place: 48 layers a launch. Angles of 2^31 and more give NaN. */
AUXCORE_API auxcore_status auxcore_key_rerotate(auxcore_context context, void* stream, const auxcore_key_rerotate_batch* batch);

typedef struct auxcore_token_match_batch {
  uint32_t struct_size; /* set by the caller: sizeof(auxcore_token_match_batch) */
  auxcore_dtype type;   /* of the metric: float32, bfloat16 or float16 */
  int32_t tokens;
  int32_t depth;
  int32_t segments;
  int32_t merged;   /* bipartite matching: tokens of each segment that are merged away; fewer where there are not so many */
  int32_t protect;  /* bipartite matching: tokens at the beginning of each segment that are not merged away */
  uint32_t reserved;
  uint64_t metric;  /* [tokens, depth] */
  uint64_t bounds;  /* [segments + 1], int32 */
  uint64_t slots;   /* [tokens], int32, written; assignment: -1 is replaced */
  uint64_t offsets; /* [segments + 1], int32, written by bipartite matching: where the slots of a segment begin */
  uint64_t targets; /* assignment: [tokens], bytes: which tokens with a slot may be assigned to; or 0 for all */
  uint64_t workspace;
  int64_t workspace_bytes;
} auxcore_token_match_batch;

AUXCORE_API auxcore_status auxcore_token_match_workspace(int32_t tokens, int32_t segments, int64_t* bytes);

/* Slots by bipartite soft matching on cosines, in four launches. */
AUXCORE_API auxcore_status auxcore_token_match_bipartite(auxcore_context context, void* stream, const auxcore_token_match_batch* batch);

/* Gives tokens without a slot that of the most similar token of their segment that has one, in four launches. */
AUXCORE_API auxcore_status auxcore_token_match_assign(auxcore_context context, void* stream, const auxcore_token_match_batch* batch);

typedef struct auxcore_token_merge_batch {
  uint32_t struct_size; /* set by the caller: sizeof(auxcore_token_merge_batch) */
  auxcore_dtype type;   /* float32, bfloat16 or float16 */
  int32_t tokens;
  int32_t kept;
  int32_t width;
  uint32_t reserved;
  uint64_t source;
  uint64_t destination;
  uint64_t slots;        /* [tokens], int32; a token of a slot that is none goes nowhere */
  uint64_t sizes;        /* [tokens], float32, or 0: each is 1 */
  uint64_t merged_sizes; /* [kept], float32, or 0 */
  uint64_t workspace;
  int64_t workspace_bytes;
} auxcore_token_merge_batch;

AUXCORE_API auxcore_status auxcore_token_merge_workspace(int32_t tokens, int32_t kept, int64_t* bytes);

/* source [tokens, width] -> destination [kept, width]: means weighted by sizes. Two launches. */
AUXCORE_API auxcore_status auxcore_token_merge(auxcore_context context, void* stream, const auxcore_token_merge_batch* batch);

/* source [kept, width] -> destination [tokens, width]: a row's share of its slot's gradient. Two launches. */
AUXCORE_API auxcore_status auxcore_token_merge_backward(auxcore_context context, void* stream, const auxcore_token_merge_batch* batch);

typedef struct auxcore_token_diversity_batch {
  uint32_t struct_size; /* set by the caller: sizeof(auxcore_token_diversity_batch) */
  auxcore_dtype type;   /* float32, bfloat16 or float16 */
  int32_t tokens;
  int32_t width;
  int32_t segments;
  int32_t count;          /* kept of each segment; all where it has fewer */
  int32_t longest;        /* tokens of a segment beyond so many are not looked at; the workspace grows with it */
  int32_t index_capacity; /* of indices; no more are written */
  uint64_t source;        /* [tokens, width] */
  uint64_t bounds;        /* [segments + 1], int32 */
  uint64_t indices;       /* [index_capacity], int32, written: the kept tokens, ascending */
  uint64_t offsets;       /* [segments + 1], int32, written */
  uint64_t slots;         /* [tokens], int32, written: the place of each token among the kept, or -1; or 0 */
  uint64_t nan_counts;    /* [segments], int32, written: tokens that are not finite; or 0 */
  uint64_t workspace;
  int64_t workspace_bytes;
} auxcore_token_diversity_batch;

AUXCORE_API auxcore_status auxcore_token_diversity_workspace(int32_t tokens, int32_t longest, int64_t* bytes);

/* Greedy max-min over cosine distances: all similarities of a segment, then a block a segment that chooses. Four launches. */
AUXCORE_API auxcore_status auxcore_token_diversity(auxcore_context context, void* stream, const auxcore_token_diversity_batch* batch);

#ifdef __cplusplus
}
#endif
#endif
