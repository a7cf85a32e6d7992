// Threads on the same words: locked instructions, the order of stores, locks, thread-local storage.
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "stress.h"

// ---- Locked instructions --------------------------------------------------------------------------------------------

static struct {
    // Each in a cache line of its own, but for `odd`, which lies in two lines and in two pages.
    _Alignas(64) uint64_t added, incremented, exchanged, bits, compared;
    _Alignas(64) uint8_t byte;
    _Alignas(64) uint16_t half;
    _Alignas(64) uint32_t spin;
    uint64_t guarded[2];
    _Alignas(64) unsigned __int128 pair;
    char *odd;
} shared;

static void lock_bit(void)
{
    uint8_t taken;
    do asm volatile("lock btsl $5, %0" : "+m"(shared.spin), "=@ccc"(taken) : : "memory");
    while (taken && (usleep(0), 1));
}

static void lock_exchange(void)
{
    uint32_t value;
    do {
        value = 1 << 5;
        asm volatile("xchgl %0, %1" : "+r"(value), "+m"(shared.spin) : : "memory");
    } while (value && (usleep(0), 1));
}

static void add_with_all(unsigned thread, unsigned rounds)
{
    for (uint64_t round = 0; round < rounds; round++) {
        uint64_t one = 1, old;
        asm volatile("lock addq %1, %0" : "+m"(shared.added) : "r"(one));
        asm volatile("lock incq %0" : "+m"(shared.incremented));
        asm volatile("lock xaddq %0, %1" : "+r"(one), "+m"(shared.exchanged));
        asm volatile("lock subb $1, %0" : "+m"(shared.byte));
        asm volatile("lock addw $3, %0" : "+m"(shared.half));
        asm volatile("lock xorq %1, %0" : "+m"(shared.bits) : "r"(1ul << thread));
        old = *(volatile uint64_t *)&shared.compared;
        uint8_t done;
        do {
            uint64_t new = old + 2;
            asm volatile("lock cmpxchgq %3, %1" : "+a"(old), "+m"(shared.compared), "=@ccz"(done) : "r"(new));
        } while (!done);
        // Both halves go together, or neither.
        uint64_t low = 0, high = 0;
        do {
            uint64_t new_low = low + 1, new_high = high + 3;
            asm volatile("lock cmpxchg16b %0"
                         : "+m"(shared.pair), "+a"(low), "+d"(high), "=@ccz"(done)
                         : "b"(new_low), "c"(new_high));
            check(high == 3 * low, "halves of 16 bytes differ: %lu and %lu", low, high);
        } while (!done);
        // Such locks stop all processors, and a host may throttle them.
        if (round % 512 == 0) {
            asm volatile("lock addq $1, %0" : "+m"(*(uint64_t *)(shared.odd + 60)));
            asm volatile("lock addq $1, %0" : "+m"(*(uint64_t *)(shared.odd + PAGE - 3)));
        }
        if (round % 8 == 0) {
            if (round % 16) lock_bit();
            else lock_exchange();
            uint64_t first = shared.guarded[0]++, second = shared.guarded[1]++;
            check(first == second, "a lock let two in");
            *(volatile uint32_t *)&shared.spin = 0;
        }
    }
}

void atomics(unsigned rounds)
{
    unsigned count = processors() + 1;
    rounds &= ~511u;
    shared.odd = pages(2, 0);
    in_threads(count, add_with_all, rounds);
    uint64_t all = (uint64_t)count * rounds;
    check(shared.added == all, "lock add: %lu of %lu", shared.added, all);
    check(shared.incremented == all, "lock inc: %lu of %lu", shared.incremented, all);
    check(shared.exchanged == all, "lock xadd: %lu of %lu", shared.exchanged, all);
    check(shared.byte == (uint8_t)-all, "lock sub of a byte: %u", shared.byte);
    check(shared.half == (uint16_t)(3 * all), "lock add of two bytes: %u", shared.half);
    check(shared.bits == 0, "lock xor: %#lx", shared.bits);
    check(shared.compared == 2 * all, "lock cmpxchg: %lu of %lu", shared.compared, 2 * all);
    check((uint64_t)shared.pair == all, "lock cmpxchg16b: %lu of %lu", (uint64_t)shared.pair, all);
    check(shared.guarded[0] == all / 8 && shared.guarded[1] == all / 8, "locks: %lu", shared.guarded[0]);
    uint64_t odd;
    memcpy(&odd, shared.odd + 60, 8);
    check(odd == all / 512, "lock add over two cache lines: %lu of %lu", odd, all / 512);
    memcpy(&odd, shared.odd + PAGE - 3, 8);
    check(odd == all / 512, "lock add over two pages: %lu of %lu", odd, all / 512);
}

// ---- Order ----------------------------------------------------------------------------------------------------------

static _Alignas(64) volatile uint64_t message[8 * 8];
static _Alignas(64) volatile uint64_t flag;
static struct { _Alignas(64) volatile uint64_t word; } sides[2];
static volatile uint64_t seen[2];
static pthread_barrier_t barrier;

// Stores are seen in their order: who sees the flag sees what was written before.
static void pass_messages(unsigned thread, unsigned rounds)
{
    if (thread == 0) {
        for (uint64_t round = 1; round <= rounds * 100ul; round++) {
            for (unsigned n = 0; n < 8; n++) message[8 * n] = round;
            flag = round;
        }
        return;
    }
    uint64_t found = 0;
    for (unsigned tries = 0; found != rounds * 100ul; tries++) {
        found = flag;
        for (unsigned n = 0; n < 8; n++) {
            uint64_t word = message[8 * n];
            check(word >= found, "word %u is %lu, but the flag was %lu", n, word, found);
        }
        if (tries % 10000 == 0) usleep(0);
    }
}

// Each stores to its side and, after a fence, looks at the other: not both see nothing.
static void look_aside(unsigned thread, unsigned rounds)
{
    for (unsigned round = 0; round < rounds; round++) {
        uint64_t one = 1;
        sides[thread].word = 0;
        pthread_barrier_wait(&barrier);
        if (round % 2) {
            sides[thread].word = 1;
            asm volatile("mfence" : : : "memory");
        } else {
            asm volatile("xchgq %0, %1" : "+r"(one), "+m"(sides[thread].word) : : "memory");
        }
        seen[thread] = sides[!thread].word;
        pthread_barrier_wait(&barrier);
        check(seen[0] || seen[1], "two stores before two fences were seen by neither");
        pthread_barrier_wait(&barrier);
    }
}

void ordering(unsigned rounds)
{
    in_threads(2, pass_messages, rounds);
    pthread_barrier_init(&barrier, NULL, 2);
    in_threads(2, look_aside, rounds);
}

// ---- Threads that come and go ---------------------------------------------------------------------------------------

static _Thread_local uint64_t own = 77;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turned = PTHREAD_COND_INITIALIZER;
static unsigned turn;
static uint64_t total;

static void take_turns(unsigned thread, unsigned rounds)
{
    unsigned count = processors() + 1;
    check(own == 77, "thread-local storage begins with %lu", own);
    for (unsigned round = 0; round < rounds; round++) {
        pthread_mutex_lock(&mutex);
        while (turn % count != thread) pthread_cond_wait(&turned, &mutex);
        own += thread + 1;
        total++;
        turn++;
        pthread_cond_broadcast(&turned);
        pthread_mutex_unlock(&mutex);
    }
    check(own == 77 + (uint64_t)rounds * (thread + 1), "thread-local storage ends with %lu", own);
}

void threads(unsigned rounds)
{
    for (unsigned round = 0; round < rounds; round++) {
        total = turn = 0;
        in_threads(processors() + 1, take_turns, 4);
        check(total == 4ul * (processors() + 1), "%lu turns", total);
    }
}
