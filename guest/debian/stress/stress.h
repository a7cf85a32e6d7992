// Jobs that load a guest's kernel and processor and check every result of their own.
#pragma once

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

// A job does its work `rounds` times over and returns only if all of it was right.
typedef void job(unsigned rounds);

job atomics, exec_storm, fork_storm, jit, ordering, patch, pipes, protect, signals, step, threads, traps;

// What an exec'd copy of this program does: answers on standard output.
int exec_child(int argc, char **argv);

// Ends the process, whichever thread or child finds it, with exit code 1.
#define wrong(...)                                             \
    do {                                                       \
        fprintf(stderr, "stress: %s:%d: ", __FILE__, __LINE__); \
        fprintf(stderr, __VA_ARGS__);                          \
        fputc('\n', stderr);                                   \
        _exit(1);                                              \
    } while (0)
#define check(condition, ...)                     \
    do {                                          \
        if (!(condition)) wrong(__VA_ARGS__);     \
    } while (0)
// For calls that have no business failing.
#define must(call) check((call) >= 0, "%s: %m", #call)

#define PAGE 4096ul

unsigned processors(void);
// Waits for a child, which must exit with `code`.
void expect_exit(int pid, int code);
// Does `work` in `count` processes at a time.
void in_processes(unsigned count, void (*work)(unsigned process, unsigned rounds), unsigned rounds);
// Does `work` in `count` threads at a time.
void in_threads(unsigned count, void (*work)(unsigned thread, unsigned rounds), unsigned rounds);
// Anonymous memory, readable and writable, with `protection` beside.
void *pages(unsigned long count, int protection);

static inline uint64_t mix(uint64_t value)
{
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
    value = (value ^ value >> 27) * 0x94d049bb133111eb;
    return value ^ value >> 31;
}

// Instructions are fetched anew after it.
static inline void serialise(void)
{
    unsigned a = 0, b, c = 0, d;
    asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d) : : "memory");
}
