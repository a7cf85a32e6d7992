// One thread changes protections and mappings while others touch the pages: each touch must do what the mapping
// says at that time, which is what a processor with stale translations gets wrong.
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "stress.h"

#define PAGES 12
#define SLOT(thread) (64 + 8 * (thread))

enum state { WRITABLE, READABLE, FORBIDDEN, UNMAPPED, STATES };

// What a page is at present. `version` is odd while it changes.
static struct {
    atomic_uint version;
    _Atomic enum state state;
    atomic_ulong word;
} present[PAGES];
static char *area;
static atomic_bool done;
static atomic_uint started;

// In code.S. They return 0, or the code of the signal that they got; the labels are the instructions that may fault.
int touch_load(const void *at, uint64_t *value);
int touch_store(void *at, uint64_t value);
extern const char touch_load_at[], touch_store_at[], touch_failed[];

static void on_fault(int signal, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    const char *rip = (const char *)registers[REG_RIP];
    check(signal == SIGSEGV && (rip == touch_load_at || rip == touch_store_at), "signal %d at %p", signal, rip);
    check(info->si_addr == (void *)registers[REG_RDI], "a fault at %p tells of %p", (void *)registers[REG_RDI],
          info->si_addr);
    check(!(registers[REG_ERR] & 2) == (rip == touch_load_at), "error code %#llx at %p", registers[REG_ERR], rip);
    registers[REG_RAX] = info->si_code;
    registers[REG_RIP] = (greg_t)touch_failed;
}

static int expected(enum state state, int store)
{
    switch (state) {
    case WRITABLE: return 0;
    case READABLE: return store ? SEGV_ACCERR : 0;
    case FORBIDDEN: return SEGV_ACCERR;
    default: return SEGV_MAPERR;
    }
}

static void check_touch(unsigned page, unsigned thread, uint64_t count)
{
    char *at = area + page * PAGE;
    unsigned before = present[page].version;
    enum state state = present[page].state;
    uint64_t word = present[page].word, found = 0, back = 0;
    int load = touch_load(at, &found);
    int store = touch_store(at + SLOT(thread), count);
    atomic_thread_fence(memory_order_seq_cst);
    int again = touch_load(at + SLOT(thread), &back);
    atomic_thread_fence(memory_order_seq_cst);
    if (before % 2 || present[page].version != before) return;
    check(load == expected(state, 0), "page %u in state %d: a load gave %d", page, state, load);
    check(store == expected(state, 1), "page %u in state %d: a store gave %d", page, state, store);
    check(again == expected(state, 0), "page %u in state %d: a second load gave %d", page, state, again);
    check(load || found == word, "page %u holds %#lx, not %#lx", page, found, word);
    check(store || back == count, "page %u: a store of %#lx was lost: %#lx", page, count, back);
}

static void change(unsigned page, uint64_t random)
{
    char *at = area + page * PAGE;
    enum state old = present[page].state, new = (enum state)(random % STATES);
    present[page].version++;
    if (old == UNMAPPED || random >> 8 & 1) {
        // Other memory in the same place, or the same memory emptied.
        if (old == WRITABLE && random >> 9 & 1) {
            must(madvise(at, PAGE, MADV_DONTNEED));
        } else {
            int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
            check(mmap(at, PAGE, PROT_READ | PROT_WRITE, flags, -1, 0) == at, "mmap: %m");
        }
        uint64_t found;
        check(touch_load(at, &found) == 0 && found == 0, "a new page holds %#lx", found);
        present[page].word = mix(random);
        check(touch_store(at, mix(random)) == 0, "a new page is not writable");
    }
    switch (new) {
    case WRITABLE: must(mprotect(at, PAGE, PROT_READ | PROT_WRITE)); break;
    case READABLE: must(mprotect(at, PAGE, PROT_READ)); break;
    case FORBIDDEN: must(mprotect(at, PAGE, PROT_NONE)); break;
    default: must(munmap(at, PAGE)); break;
    }
    present[page].state = new;
    present[page].version++;
    check_touch(page, 0, random);
}

static void touch_or_change(unsigned thread, unsigned rounds)
{
    uint64_t random = thread + 1;
    if (thread == 0) {
        while (started != processors()) usleep(1000);
        for (unsigned round = 0; round < rounds; round++) {
            random = mix(random + round);
            change(random >> 32 & 1 ? 0 : (random >> 40) % PAGES, random);
            if (round % 32 == 0) usleep(200);
        }
        done = 1;
        return;
    }
    started++;
    for (uint64_t count = 1; !done; count++) {
        // One page is much touched, all others now and then.
        check_touch(count % 4 ? 0 : (unsigned)(mix(count) % PAGES), thread, count);
        if (count % 4096 == 0) usleep(100);
    }
}

void protect(unsigned rounds)
{
    area = pages(PAGES, 0);
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    must(sigaction(SIGSEGV, &action, NULL));
    // One thread changes, as many as there are processors touch.
    in_threads(processors() + 1, touch_or_change, rounds);
}
