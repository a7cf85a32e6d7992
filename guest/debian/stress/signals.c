// Signals: timers that interrupt code with values in all registers; faults whose handlers mend the registers.
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>

#include "stress.h"

// Laid out as code.S has it.
struct image {
    uint64_t general[16]; // by number; RCX and RSP are unused
    uint8_t x87[16];
    uint64_t flags;
    uint64_t unused, masks[7], red_near;
    uint64_t integer, red_far, unused2[2];
    uint8_t vectors[32][64];
};
_Static_assert(offsetof(struct image, vectors) == 0x100, "code.S");

void hold(const struct image *in, struct image *out, uint64_t loops, unsigned level);

static _Thread_local volatile unsigned taken;

// Leaves nothing as it was, as far as the ABI lets it.
static void spoil(void)
{
    asm volatile("fninit\n\tfldpi\n\tfldpi\n\tfstp %%st(0)\n\tfstp %%st(0)\n\tstc\n\t"
                 "pcmpeqd %%xmm0, %%xmm0\n\tpcmpeqd %%xmm7, %%xmm7\n\tpcmpeqd %%xmm15, %%xmm15"
                 : : : "xmm0", "xmm7", "xmm15", "cc");
    if (__builtin_cpu_supports("avx")) asm volatile("vzeroall");
}

static void on_timer(int signal, siginfo_t *info, void *context)
{
    uint64_t flags;
    asm volatile("pushfq\n\tpop %0" : "=r"(flags));
    check(!(flags & 1 << 10), "a handler began with the direction flag set");
    (void)signal, (void)info, (void)context;
    spoil();
    taken++;
}

static void fill(struct image *image, uint64_t seed)
{
    for (uint64_t *at = (uint64_t *)image; at != (uint64_t *)(image + 1); at++) *at = seed = mix(seed + 1);
    // A finite number for the x87, and CF, PF, AF, ZF, SF, DF and OF.
    image->x87[9] = 0x40;
    image->x87[7] |= 0x80;
    image->flags = (seed & 0xcd5) | 0x202;
}

static void hold_registers(unsigned thread, unsigned rounds)
{
    static const int NUMBERS[] = {0, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    unsigned level = __builtin_cpu_supports("avx512bw") ? 2 : __builtin_cpu_supports("avx") ? 1 : 0;
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGRTMIN};
    event._sigev_un._tid = (int)syscall(SYS_gettid);
    must(timer_create(CLOCK_MONOTONIC, &event, &timer));
    struct itimerspec often = {{0, 1000000 + thread * 100000}, {0, 1000000}};
    must(timer_settime(timer, 0, &often, NULL));
    struct image in, out;
    for (unsigned round = 0; round < rounds; round++) {
        unsigned use = round % (level + 1), width = 16u << use, count = use == 2 ? 32 : 16;
        fill(&in, (uint64_t)thread << 32 | round);
        unsigned before = taken;
        do hold(&in, &out, 100000, use);
        while (taken == before);
        for (unsigned n = 0; n < sizeof NUMBERS / sizeof *NUMBERS; n++)
            check(in.general[NUMBERS[n]] == out.general[NUMBERS[n]], "register %d changed from %#lx to %#lx",
                  NUMBERS[n], in.general[NUMBERS[n]], out.general[NUMBERS[n]]);
        for (unsigned n = 0; n < count; n++)
            check(memcmp(in.vectors[n], out.vectors[n], width) == 0, "vector register %u changed (%u bytes)", n, width);
        check(use < 2 || memcmp(in.masks, out.masks, sizeof in.masks) == 0, "a mask register changed");
        check((in.flags ^ out.flags) % 0x1000 == 0, "flags changed from %#lx to %#lx", in.flags, out.flags);
        check(memcmp(in.x87, out.x87, 10) == 0, "an x87 register changed");
        check(out.integer == in.general[0], "the x87 stack changed: %#lx, not %#lx", out.integer, in.general[0]);
        check(out.red_near == in.general[0] && out.red_far == in.general[15], "the red zone changed");
    }
    must(timer_delete(timer));
}

void signals(unsigned rounds)
{
    struct sigaction action = {.sa_sigaction = on_timer, .sa_flags = SA_SIGINFO | SA_RESTART};
    must(sigaction(SIGRTMIN, &action, NULL));
    in_threads(processors() + 1, hold_registers, rounds);
}

// ---- Faults ---------------------------------------------------------------------------------------------------------

extern const char trap_divide[], trap_divide_after[], trap_undefined[], trap_undefined_after[];
extern const char trap_breakpoint_after[], trap_general[], trap_general_after[];
int run_traps(void);

static const struct {
    int signal, code;
    const char *at, *after;
} TRAPS[] = {
    {SIGFPE, FPE_INTDIV, trap_divide, trap_divide_after},
    {SIGILL, ILL_ILLOPN, trap_undefined, trap_undefined_after},
    {SIGTRAP, SI_KERNEL, trap_breakpoint_after, trap_breakpoint_after},
    {SIGSEGV, SI_KERNEL, trap_general, trap_general_after},
};
#define TRAP_COUNT (int)(sizeof TRAPS / sizeof *TRAPS)

static volatile sig_atomic_t depth;
static sigjmp_buf back;

static void on_trap(int signal, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    int number = (int)registers[REG_RBX];
    check(number < TRAP_COUNT, "signal %d after the last trap", signal);
    check(signal == TRAPS[number].signal, "trap %d came as signal %d", number, signal);
    check(info->si_code == TRAPS[number].code, "trap %d has code %d", number, info->si_code);
    check(registers[REG_RIP] == (greg_t)TRAPS[number].at, "trap %d at %#llx", number, registers[REG_RIP]);
    spoil();
    registers[REG_RIP] = (greg_t)TRAPS[number].after;
    registers[REG_RBX]++;
}

// On a stack of its own, and again from within itself.
static void on_nested(int signal, siginfo_t *info, void *context)
{
    (void)info, (void)context;
    if (++depth < 8) must(raise(signal));
}

static void on_jump(int signal, siginfo_t *info, void *context)
{
    (void)context;
    siglongjmp(back, signal == SIGBUS ? info->si_code : 1000 + info->si_code);
}

static void catch(int signal, void (*handler)(int, siginfo_t *, void *), int flags)
{
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};
    must(sigaction(signal, &action, NULL));
}

void traps(unsigned rounds)
{
    static char stack[1 << 16];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    must(sigaltstack(&alternate, NULL));
    catch(SIGUSR1, on_nested, SA_ONSTACK | SA_NODEFER);
    catch(SIGBUS, on_jump, 0);
    int file = memfd_create("short", 0);
    must(file);
    must(ftruncate(file, 100));
    volatile char *beyond = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, file, 0);
    check(beyond != MAP_FAILED, "mmap: %m");
    char *read_only = pages(2, 0);
    must(mprotect(read_only + PAGE, PAGE, PROT_READ));
    for (unsigned round = 0; round < rounds; round++) {
        for (int n = 0; n < TRAP_COUNT; n++) catch(TRAPS[n].signal, on_trap, 0);
        int count = run_traps();
        check(count == TRAP_COUNT, "%d of %d traps", count, TRAP_COUNT);

        depth = 0;
        must(raise(SIGUSR1));
        check(depth == 8, "%d nested signals", depth);

        int code = sigsetjmp(back, 1);
        if (code == 0) code = beyond[PAGE] - 5000;
        check(code == BUS_ADRERR, "beyond the end of a file: %d", code);

        // A store over two pages that fails on the second leaves the first alone.
        catch(SIGSEGV, on_jump, 0);
        memset(read_only, (int)round, PAGE);
        code = sigsetjmp(back, 1);
        if (code == 0) *(volatile uint64_t *)(read_only + PAGE - 4) = ~0ul, code = -1;
        check(code == 1000 + SEGV_ACCERR, "a store into a read-only page: %d", code);
        check(read_only[PAGE - 1] == (char)round && read_only[PAGE - 4] == (char)round, "half a store was done");
        // The kernel's own copies end at the same place.
        int ends[2];
        must(pipe(ends));
        long written = write(ends[1], "abcdefgh", 8);
        check(written == 8, "write: %m");
        written = read(ends[0], read_only + PAGE, 8);
        check(written == -1 && errno == EFAULT, "read into a read-only page: %ld", written);
        close(ends[0]);
        close(ends[1]);
    }
}
