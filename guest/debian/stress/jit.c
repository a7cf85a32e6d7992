// Code that a program writes and runs, as a JIT compiler does.
#include <linux/membarrier.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "stress.h"

#define FUNCTIONS 64
#define SPACING 64

typedef uint32_t function(uint32_t);

static uint32_t call(const void *code, uint32_t argument)
{
    function *callee;
    memcpy(&callee, &code, sizeof callee);
    return callee(argument);
}

// mov eax, value; ret; and a NOP of two bytes: eight in all.
static uint64_t constant(uint32_t value)
{
    return 0xb8 | (uint64_t)value << 8 | 0x9066c3ul << 40;
}

static void put_constant(void *at, uint32_t value)
{
    uint64_t code = constant(value);
    memcpy(at, &code, sizeof code);
}

// Many functions in two pages: one changes, its neighbours do not.
static void neighbours(char *code, unsigned round)
{
    uint32_t values[FUNCTIONS];
    for (unsigned n = 0; n < FUNCTIONS; n++) put_constant(code + n * SPACING, values[n] = n * 1000 + round);
    for (unsigned time = 0; time < 2 * FUNCTIONS; time++) {
        unsigned changed = (unsigned)(mix(time + round) % FUNCTIONS), other = (changed + time) % FUNCTIONS;
        // Once whole, once the last byte of the number only.
        if (time % 2) put_constant(code + changed * SPACING, values[changed] = (uint32_t)mix(time));
        else code[changed * SPACING + 4] ^= 0x55, values[changed] ^= 0x55000000;
        check(call(code + changed * SPACING, 0) == values[changed], "a changed function is as it was");
        check(call(code + other * SPACING, 0) == values[other], "a function changed by itself");
    }
}

// An instruction in two pages, of which either part changes.
static void crossing(char *code, unsigned round)
{
    for (unsigned before = 1; before < 5; before++) {
        char *at = code + PAGE - before;
        put_constant(at, round);
        check(call(at, 0) == round, "a function over two pages");
        at[1] = 0x12;
        check(call(at, 0) == ((round & ~0xffu) | 0x12), "its first byte changed");
        at[4] = 0x34;
        check(call(at, 0) == ((round & 0xffff00) | 0x34000012), "its last byte changed");
    }
}

// Code that writes the instruction behind the store, with a jump between and without.
static void itself(char *code, unsigned round)
{
    // mov [1f + 1], edi; (jmp 1f;) 1: mov eax, 0; ret
    static const uint8_t WITHOUT[] = {0x89, 0x3d, 1, 0, 0, 0, 0xb8, 0, 0, 0, 0, 0xc3};
    static const uint8_t WITH[] = {0x89, 0x3d, 3, 0, 0, 0, 0xeb, 0, 0xb8, 0, 0, 0, 0, 0xc3};
    memcpy(code, WITHOUT, sizeof WITHOUT);
    memcpy(code + 128, WITH, sizeof WITH);
    for (uint32_t n = 0; n < 8; n++) {
        uint32_t value = (uint32_t)mix(n + round);
        check(call(code + 128, value) == value, "code that changes what it jumps to");
        check(call(code, value) == value, "code that changes what comes next");
    }
    // 1: inc byte [2f + 2]; 2: add eax, 0; dec edi; jnz 1b; ret
    static const uint8_t LOOP[] = {0x31, 0xc0, 0xfe, 0x05, 2, 0, 0, 0, 0x83, 0xc0, 0, 0xff, 0xcf, 0x75, 0xf3, 0xc3};
    memcpy(code + 256, LOOP, sizeof LOOP);
    uint32_t sum = call(code + 256, 100);
    check(sum == 5050, "a loop that changes itself came to %u", sum);
}

// The same code at two addresses, of which one is for writing; and a page that is now the one, now the other.
static void two_mappings(unsigned round)
{
    int file = memfd_create("code", 0);
    must(file);
    must(ftruncate(file, PAGE));
    char *writable = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    char *runnable = mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, file, 0);
    check(writable != MAP_FAILED && runnable != MAP_FAILED, "mmap: %m");
    for (uint32_t n = 0; n < 20; n++) {
        uint32_t value = n * 77 + round;
        if (n % 4 == 3) {
            uint64_t code = constant(value);
            check(pwrite(file, &code, sizeof code, 0) == sizeof code, "pwrite: %m");
        } else {
            put_constant(writable, value);
        }
        serialise();
        check(call(runnable, 0) == value, "code written at another address is as it was");
    }
    munmap(writable, PAGE);
    munmap(runnable, PAGE);
    close(file);
}

static void one_or_the_other(unsigned round)
{
    char *code = pages(1, 0);
    for (uint32_t n = 0; n < 10; n++) {
        must(mprotect(code, PAGE, PROT_READ | PROT_WRITE));
        put_constant(code + 8 * n, n + round);
        must(mprotect(code, PAGE, PROT_READ | PROT_EXEC));
        for (uint32_t other = 0; other <= n; other++)
            check(call(code + 8 * other, 0) == other + round, "function %u of a page that was writable", other);
    }
    munmap(code, PAGE);
}

// Other pages in the same place; code that comes by a system call; a child's copy.
static void replaced(char *code, unsigned round)
{
    int ends[2];
    must(pipe(ends));
    for (uint32_t n = 0; n < 6; n++) {
        uint64_t text = constant(n ^ round);
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
        check(mmap(code, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, flags, -1, 0) == code, "mmap: %m");
        put_constant(code, n);
        check(call(code, 0) == n, "code of a new page");
        check(write(ends[1], &text, 8) == 8 && read(ends[0], code, 8) == 8, "a pipe: %m");
        check(call(code, 0) == (n ^ round), "code that a system call has written");
    }
    close(ends[0]);
    close(ends[1]);
    put_constant(code, 1);
    check(call(code, 0) == 1, "code before a fork");
    int pid = fork();
    must(pid);
    if (pid == 0) {
        check(call(code, 0) == 1, "the child's code");
        put_constant(code, 2);
        check(call(code, 0) == 2, "the child's own code");
        _exit(0);
    }
    expect_exit(pid, 0);
    check(call(code, 0) == 1, "code after the child has changed its copy");
}

void jit(unsigned rounds)
{
    char *code = pages(2, PROT_EXEC);
    for (unsigned round = 0; round < rounds; round++) {
        neighbours(code, round);
        crossing(code, round);
        itself(code + (round % 2 ? 0 : PAGE - 5), round);
        two_mappings(round);
        one_or_the_other(round);
        replaced(code, round);
    }
}

// ---- Several threads ------------------------------------------------------------------------------------------------

static char *patched;
static atomic_uint next, published;
static atomic_uint asked, answered[64];
static atomic_bool done;

// Changes a function as a whole and waits until every thread has fetched it anew.
static void patch_at_once(unsigned thread, unsigned rounds)
{
    if (thread == 0) {
        for (unsigned round = 1; round <= rounds; round++) {
            next = round;
            *(volatile uint64_t *)patched = constant(round);
            must(syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0));
            published = round;
            if (round % 16 == 0) usleep(100);
        }
        done = 1;
        return;
    }
    while (!done) {
        uint32_t first = published, found = call(patched, 0), last = next;
        check(first <= found && found <= last, "patch %u ran between %u and %u", found, first, last);
    }
}

// Changes a function while nobody runs it; each thread serialises itself before it does again.
static void patch_in_turn(unsigned thread, unsigned rounds)
{
    for (unsigned round = 1; round <= rounds; round++) {
        if (thread == 0) {
            // In pieces, which is nobody's business.
            for (unsigned n = 0; n < 8; n++) patched[64 + n] = (char)(constant(round * 3) >> 8 * n);
            asked = round;
            for (unsigned n = 1; n <= processors(); n++)
                while (answered[n] != round) usleep(0);
        } else {
            while (asked != round) usleep(0);
            serialise();
            uint32_t found = call(patched + 64, 0);
            check(found == round * 3, "patch %u ran in round %u", found, round);
            answered[thread] = round;
        }
    }
}

void patch(unsigned rounds)
{
    patched = pages(1, PROT_EXEC);
    put_constant(patched, 0);
    must(syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0));
    in_threads(processors() + 1, patch_at_once, rounds);
    in_threads(processors() + 1, patch_in_turn, rounds);
}
