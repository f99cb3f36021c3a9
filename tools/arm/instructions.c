/* A plugin of qemu 9 and later: how often each block of instructions was executed. tools/arm/count builds and reads it.

   At the end, file OUT gets a line for each block: address (hexadecimal), instructions, times. */
#include <glib.h>
#include <inttypes.h>
#include <qemu-plugin.h>
#include <stdio.h>

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

typedef struct {
    uint64_t address;
    size_t instructions;
    qemu_plugin_u64 times;
} Block;

static GHashTable *blocks; /* by address and length: code that was replaced is another block */
static GMutex lock;
static char *out;

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    uint64_t address = qemu_plugin_tb_vaddr(tb), instructions = qemu_plugin_tb_n_insns(tb);
    gpointer key = (gpointer)(address * 131 + instructions);
    g_mutex_lock(&lock);
    Block *block = g_hash_table_lookup(blocks, key);
    if (!block) {
        block = g_new0(Block, 1);
        block->address = address;
        block->instructions = instructions;
        block->times = qemu_plugin_scoreboard_u64(qemu_plugin_scoreboard_new(sizeof(uint64_t)));
        g_hash_table_insert(blocks, key, block);
    }
    g_mutex_unlock(&lock);
    qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(tb, QEMU_PLUGIN_INLINE_ADD_U64, block->times, 1);
}

static void on_end(qemu_plugin_id_t id, void *nothing) {
    FILE *file = fopen(out, "w");
    GHashTableIter each;
    gpointer block;
    g_hash_table_iter_init(&each, blocks);
    while (g_hash_table_iter_next(&each, NULL, &block)) {
        Block *b = block;
        fprintf(file, "%" PRIx64 " %zu %" PRIu64 "\n", b->address, b->instructions, qemu_plugin_u64_sum(b->times));
    }
    fclose(file);
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv) {
    if (argc != 1 || !g_str_has_prefix(argv[0], "out=")) return 1;
    out = g_strdup(argv[0] + 4);
    blocks = g_hash_table_new(NULL, NULL);
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_atexit_cb(id, on_end, NULL);
    return 0;
}
