// stress-32 [ROUNDS]: what only 32-bit programs do, without a C library. Exit code 0 if every result was right.
//
// Compiled with -m32 -ffreestanding -nostdlib.
#include <stddef.h>
#include <stdint.h>

enum { SYS_EXIT = 1, SYS_FORK = 2, SYS_WRITE = 4, SYS_WAITPID = 7, SYS_GETPID = 20, SYS_GETPPID = 64 };
enum { SYS_RT_SIGACTION = 174, SYS_MMAP2 = 192, SYS_SET_THREAD_AREA = 243, SIGSEGV = 11, AT_SYSINFO = 32 };

static long call_6(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    asm volatile("push %%ebp\n\tpush %[f]\n\tpop %%ebp\n\tint $0x80\n\tpop %%ebp"
                 : "=a"(result)
                 : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e), [f] "g"(f)
                 : "memory");
    return result;
}

static long call(long number, long a, long b, long c)
{
    long result;
    asm volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}

static _Noreturn void wrong(const char *what)
{
    size_t length = 0;
    while (what[length]) length++;
    call(SYS_WRITE, 2, (long)"stress-32: wrong: ", 18);
    call(SYS_WRITE, 2, (long)what, (long)length);
    call(SYS_WRITE, 2, (long)"\n", 1);
    for (;;) call(SYS_EXIT, 1, 0, 0);
}

static void check(int right, const char *what)
{
    if (!right) wrong(what);
}

void *memset(void *at, int byte, size_t count)
{
    void *start = at;
    asm volatile("rep stosb" : "+D"(at), "+c"(count) : "a"(byte) : "memory");
    return start;
}

// ---- System calls: INT 0x80, and the way that the vDSO has for this processor ---------------------------------------

static uint32_t fast_entry;

static void system_calls(void)
{
    long pid = call(SYS_GETPID, 0, 0, 0), found = SYS_GETPID;
    if (fast_entry) {
        asm volatile("call *%1" : "+a"(found) : "m"(fast_entry) : "memory", "cc");
        check(found == pid, "getpid by the vDSO");
    }
    check(call(9999, 0, 0, 0) == -38, "a system call that is none");
    long child = call(SYS_FORK, 0, 0, 0);
    if (child == 0) call(SYS_EXIT, call(SYS_GETPPID, 0, 0, 0) == pid ? 33 : 34, 0, 0);
    int status = 0;
    check(call(SYS_WAITPID, child, (long)&status, 0) == child && status == 33 << 8, "fork and wait");
}

// ---- Arithmetic that 64-bit code does not have, or does otherwise --------------------------------------------------

static uint32_t fibonacci(uint32_t n)
{
    uint32_t result;
    // A call by a register, with its argument on the stack.
    uint32_t (*volatile next)(uint32_t) = fibonacci;
    result = n < 2 ? n : next(n - 1) + next(n - 2);
    return result;
}

static void arithmetic(uint32_t round)
{
    uint64_t a = 0x123456789abcdefull * (round + 1), b = 0xfedcba987654321ull + round;
    uint32_t low, high;
    asm("mov %2, %0\n\tmov %3, %1\n\taddl %4, %0\n\tadcl %5, %1"
        : "=&r"(low), "=&r"(high)
        : "g"((uint32_t)a), "g"((uint32_t)(a >> 32)), "g"((uint32_t)b), "g"((uint32_t)(b >> 32)));
    check(((uint64_t)high << 32 | low) == a + b, "adc");
    asm("mull %3" : "=a"(low), "=d"(high) : "0"((uint32_t)a), "r"((uint32_t)b) : "cc");
    check(((uint64_t)high << 32 | low) == (uint64_t)(uint32_t)a * (uint32_t)b, "mul");
    asm("divl %4" : "=a"(low), "=d"(high) : "0"(low), "1"(high), "r"((uint32_t)b) : "cc");
    check(low == (uint32_t)a && high == 0, "div");

    // Decimal: 38 + 45 = 83, 83 - 45 = 38, 7 * 9 = 63, 63 / 7 = 9.
    uint32_t decimal = 0x38;
    asm("add $0x45, %%al\n\tdaa" : "+a"(decimal) : : "cc");
    check((decimal & 0xff) == 0x83, "daa");
    asm("sub $0x45, %%al\n\tdas" : "+a"(decimal) : : "cc");
    check((decimal & 0xff) == 0x38, "das");
    decimal = 63;
    asm("aam" : "+a"(decimal) : : "cc");
    check((decimal & 0xffff) == 0x603, "aam");
    asm("aad" : "+a"(decimal) : : "cc");
    check((decimal & 0xffff) == 63, "aad");
    decimal = 0x0108;
    asm("add $5, %%al\n\taaa" : "+a"(decimal) : : "cc");
    check((decimal & 0xffff) == 0x203, "aaa");

    // INC and DEC of one byte, which are prefixes elsewhere.
    low = 0x7fffffff;
    uint8_t overflow, carry;
    asm("stc\n\t.byte 0x40\n\tseto %1\n\tsetc %2" : "+a"(low), "=&q"(overflow), "=&q"(carry) : : "cc");
    check(low == 0x80000000 && overflow && carry, "inc of one byte");

    // All registers to the stack and back.
    uint32_t sum;
    asm volatile("push %%ebx\n\tmov $3, %%ebx\n\tmov $5, %%ecx\n\tmov $7, %%edx\n\tpusha\n\t"
                 "mov 16(%%esp), %%eax\n\tadd 24(%%esp), %%eax\n\tadd 20(%%esp), %%eax\n\tmov %%eax, 28(%%esp)\n\t"
                 "xor %%ebx, %%ebx\n\txor %%edx, %%edx\n\tpopa\n\tadd %%ebx, %%eax\n\tadd %%edx, %%eax\n\tpop %%ebx"
                 : "=a"(sum) : : "ecx", "edx", "cc", "memory");
    check(sum == 25, "pusha and popa");
    check(fibonacci(15) == 610, "calls by a register");
    uint32_t frame;
    asm volatile("push %%ebp\n\tmov %%esp, %%ebp\n\tmov %%esp, %%ecx\n\tenter $32, $3\n\tmov %%esp, %0\n\tleave\n\t"
                 "sub %%esp, %%ecx\n\tsub %%esp, %0\n\tadd %%ecx, %0\n\tpop %%ebp"
                 : "=&r"(frame) : : "ecx", "memory", "cc");
    check(frame == (uint32_t)-48, "enter and leave");
}

// ---- Addresses ------------------------------------------------------------------------------------------------------

static uint8_t bytes[4096], copies[4096];
static uint32_t words[4] = {0x11223344, 0x55667788, 0x99aabbcc, 0xddeeff00};

static void addresses(void)
{
    // They wrap at 4 GiB.
    uint32_t found, base = 0xfffff000, index = (uint32_t)&words[1] + 0x1000;
    asm("movl (%1,%2), %0" : "=r"(found) : "r"(base), "r"(index), "m"(words));
    check(found == words[1], "base and index wrap");
    base = 0x80000000, index = ((uint32_t)&words[2] - base) / 4;
    asm("movl (%1,%2,4), %0" : "=r"(found) : "r"(base + ((uint32_t)&words[2] & 3)), "r"(index), "m"(words));
    check(found == words[2], "a scaled index wraps");
    // Of 16 bits.
    base = 0x12348000, index = 0x56788001;
    asm("lea (%%bx,%%si), %0" : "=r"(found) : "b"(base), "S"(index));
    check(found == 1, "an address of 16 bits");
    // A segment with a base of its own.
    static struct { uint32_t number, base, limit, flags; } area = {~0u, (uint32_t)words, 15, 0x1 | 0x40};
    check(call(SYS_SET_THREAD_AREA, (long)&area, 0, 0) == 0, "set_thread_area");
    uint32_t selector = area.number * 8 + 3;
    asm volatile("movl %1, %%fs\n\tmovl %%fs:8, %0" : "=r"(found) : "r"(selector), "m"(words));
    check(found == words[2], "a segment's base");
    asm volatile("lsl %1, %0" : "=r"(found) : "r"(selector) : "cc");
    check(found == 15, "a segment's limit");
}

static void strings(uint32_t round)
{
    for (uint32_t n = 0; n < sizeof bytes; n++) bytes[n] = (uint8_t)(n * 7 + round);
    void *from = bytes + 1, *to = copies + 3;
    uint32_t count = 1000;
    asm volatile("rep movsl" : "+S"(from), "+D"(to), "+c"(count) : : "memory");
    check(count == 0 && from == bytes + 4001 && to == copies + 4003, "rep movsl");
    from = bytes + 1, to = copies + 3, count = 4001;
    asm volatile("repe cmpsb" : "+S"(from), "+D"(to), "+c"(count) : : "memory", "cc");
    check(count == 0 && from == bytes + 4002, "repe cmpsb");
    // Backwards, over itself.
    from = bytes + 99, to = bytes + 100, count = 100;
    asm volatile("std\n\trep movsb\n\tcld" : "+S"(from), "+D"(to), "+c"(count) : : "memory");
    check(bytes[100] == (uint8_t)(99 * 7 + round) && bytes[1] == (uint8_t)round, "rep movsb backwards");
    memset(copies, 0xee, sizeof copies);
    copies[777] = 0;
    to = copies, count = ~0u;
    asm volatile("repne scasb" : "+D"(to), "+c"(count) : "a"(0) : "cc", "memory");
    check(to == copies + 778, "repne scasb");
}

// ---- x87 ------------------------------------------------------------------------------------------------------------

static void floating(uint32_t round)
{
    int32_t number = (int32_t)round * 1000 + 7, result;
    uint16_t status;
    asm volatile("fninit\n\tfildl %1\n\tfld %%st(0)\n\tfmulp\n\tfsqrt\n\tfistpl %0" : "=m"(result) : "m"(number));
    check(result == number, "the root of a square");
    int32_t three = 3;
    asm volatile("fildl %1\n\tfidivl %2\n\tfimull %2\n\tfistpl %0" : "=m"(result) : "m"(number), "m"(three));
    check(result == number, "a third times three");
    asm volatile("fldz\n\tfld1\n\tfcompp\n\tfnstsw %%ax" : "=a"(status) : : "st");
    check((status & 0x4700) == 0, "one is more than zero");
    asm volatile("fildl %1\n\tfildl %2\n\tfprem\n\tfistpl %0\n\tfstp %%st(0)" : "=m"(result) : "m"(three), "m"(number));
    check(result == number % 3, "fprem");
    double half = 2.5;
    asm volatile("fldl %1\n\tfrndint\n\tfistpl %0" : "=m"(result) : "m"(half));
    check(result == 2, "half to even");
}

// ---- Signals --------------------------------------------------------------------------------------------------------

struct sigaction_32 {
    void (*handler)(int, void *, void *);
    uint32_t flags;
    void (*restorer)(void);
    uint32_t mask[2];
};

void restore_32(void);
asm(".globl restore_32\nrestore_32:\n\tmov $173, %eax\n\tint $0x80");
int load_32(uint32_t address);
asm(".globl load_32\nload_32:\n\tmov 4(%esp), %ecx\n\tmov (%ecx), %eax\n\tret\n"
    ".globl bound_32\nbound_32:\n\tmov 4(%esp), %eax\n\tmov $limits, %ecx\n\tbound %eax, (%ecx)\n\tret\n"
    "resume_32:\n\tmov $-7, %eax\n\tret");
int bound_32(int value);
extern const char resume_32[];
int32_t limits[2] = {-5, 10};
static uint32_t wanted, faults_wanted = 1;

static void on_fault(int signal, void *info, void *context)
{
    check(faults_wanted, "a fault");
    uint32_t *registers = (uint32_t *)context + 5; // gs fs es ds edi esi ebp esp ebx edx ecx eax trap error eip
    if (wanted) check(signal == SIGSEGV && ((uint32_t *)info)[3] == wanted, "the address of a fault");
    registers[14] = (uint32_t)resume_32;
}

static void faults(void)
{
    struct sigaction_32 action = {on_fault, 0x4 | 0x04000000, restore_32, {0, 0}};
    check(call_6(SYS_RT_SIGACTION, SIGSEGV, (long)&action, 0, 8, 0, 0) == 0, "rt_sigaction");
    long page = call_6(SYS_MMAP2, 0, 4096, 3, 0x22, -1, 0);
    check((uint32_t)page < 0xfffff000, "mmap2");
    *(volatile uint32_t *)page = 5;
    check(load_32((uint32_t)page) == 5, "a load");
    wanted = 0xfffffff0;
    check(load_32(wanted) == -7, "a load from the kernel's part");
    wanted = 8;
    check(load_32(wanted) == -7, "a load from nowhere");
    wanted = 0;
    check(bound_32(10) == 10, "a value within its bounds");
    check(bound_32(11) == -7, "a value out of bounds");
    faults_wanted = 0;
}

// ---- 64-bit code in the same program ---------------------------------------------------------------------------------

static void long_mode(uint32_t round)
{
    uint32_t low, high;
    asm volatile("ljmp $0x33, $1f\n1:\n\t"
                 ".byte 0x48, 0x89, 0xc2\n\t"       // mov rdx, rax
                 ".byte 0x48, 0xc1, 0xe2, 0x20\n\t" // shl rdx, 32
                 ".byte 0x48, 0x01, 0xd0\n\t"       // add rax, rdx
                 ".byte 0x48, 0xf7, 0xd0\n\t"       // not rax
                 ".byte 0x48, 0x89, 0xc2\n\t"       // mov rdx, rax
                 ".byte 0x48, 0xc1, 0xea, 0x20\n\t" // shr rdx, 32
                 ".byte 0xff, 0x2d, 0, 0, 0, 0\n\t" // jmp far [rip]
                 ".long 2f\n\t.word 0x23\n2:"
                 : "=a"(low), "=d"(high) : "a"(round) : "cc", "memory");
    check(low == ~round && high == ~round, "64-bit code between");
}

void main_32(uint32_t *stack)
{
    uint32_t count = stack[0], rounds = 0;
    for (const char *digit = count > 1 ? (const char *)stack[2] : "10"; *digit; digit++)
        rounds = rounds * 10 + (uint32_t)(*digit - '0');
    uint32_t *word = stack + count + 2;
    while (*word) word++;
    for (uint32_t *entry = word + 1; entry[0]; entry += 2)
        if (entry[0] == AT_SYSINFO) fast_entry = entry[1];
    faults();
    for (uint32_t round = 0; round < rounds; round++) {
        system_calls();
        arithmetic(round);
        addresses();
        strings(round);
        floating(round);
        long_mode(round);
    }
    call(SYS_EXIT, 0, 0, 0);
}

asm(".globl _start\n_start:\n\tmov %esp, %eax\n\tpush %eax\n\tcall main_32");
