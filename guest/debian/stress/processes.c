// Processes: fork with copies on write, exec, pipes.
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "stress.h"

#define PAGES 48

static volatile uint64_t untouched[2 * PAGE / 8]; // zero in every new program
static volatile uint64_t initialised[3] = {0x0123456789abcdef, 42, 7};

static uint64_t word(unsigned process, unsigned page, unsigned round)
{
    return mix((uint64_t)process << 40 | (uint64_t)page << 20 | round);
}

static void fork_again(unsigned process, unsigned rounds)
{
    volatile uint64_t *memory = pages(PAGES, 0);
    const unsigned step = PAGE / 8 + 1;
    for (unsigned page = 0; page < PAGES - 1; page++) memory[page * step] = word(process, page, 0);
    for (unsigned round = 0; round < rounds; round++) {
        int pid = fork();
        must(pid);
        // Each side sees what was there at the fork and what it has written itself.
        unsigned mine = pid ? round + 1 : round + 1000000;
        for (unsigned page = 0; page < PAGES - 1; page++) {
            uint64_t found = memory[page * step];
            check(found == word(process, page, round), "page %u holds %#lx after fork %u", page, found, round);
            if (pid || page % 2) memory[page * step] = word(process, page, mine);
        }
        for (unsigned page = 0; page < PAGES - 1; page++) {
            unsigned version = pid || page % 2 ? mine : round;
            check(memory[page * step] == word(process, page, version), "page %u lost a store", page);
        }
        if (pid == 0) _exit((int)(round & 0x7f));
        expect_exit(pid, (int)(round & 0x7f));
    }
}

void fork_storm(unsigned rounds)
{
    in_processes(processors() + 1, fork_again, rounds);
}

int exec_child(int argc, char **argv)
{
    const char *value = getenv("STRESS");
    if (argc != 4 || !value || strcmp(value, argv[2]) != 0) return 3;
    for (unsigned n = 0; n < sizeof untouched / sizeof *untouched; n++)
        if (untouched[n]) return 4;
    if (initialised[0] != 0x0123456789abcdef || initialised[1] != 42 || initialised[2] != 7) return 5;
    uint64_t answer = mix(strtoull(argv[2], NULL, 10));
    return write(STDOUT_FILENO, &answer, sizeof answer) == sizeof answer ? atoi(argv[3]) : 6;
}

// Starts this program anew with its standard output on a pipe.
static int start(int with_vfork, const int *ends, char **arguments, char **environment)
{
    int pid = with_vfork ? vfork() : fork();
    must(pid);
    if (pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        execve("/proc/self/exe", arguments, environment);
        _exit(126);
    }
    return pid;
}

static void exec_again(unsigned process, unsigned rounds)
{
    for (unsigned n = 0; n < sizeof untouched / sizeof *untouched; n++) untouched[n] = ~0ul;
    initialised[1] = 0;
    for (unsigned round = 0; round < rounds; round++) {
        int ends[2], code = (int)(round % 100) + 10;
        char number[24], setting[40], code_text[8];
        snprintf(number, sizeof number, "%u", process * 1000000 + round);
        snprintf(setting, sizeof setting, "STRESS=%s", number);
        snprintf(code_text, sizeof code_text, "%d", code);
        char *arguments[] = {"stress", "--child", number, code_text, NULL}, *environment[] = {setting, NULL};
        must(pipe(ends));
        int pid = start(round % 2, ends, arguments, environment);
        close(ends[1]);
        uint64_t answer = 0;
        long length = read(ends[0], &answer, sizeof answer);
        close(ends[0]);
        expect_exit(pid, code);
        check(length == sizeof answer && answer == mix(process * 1000000 + round), "the child of round %u said %#lx",
              round, answer);
    }
}

void exec_storm(unsigned rounds)
{
    in_processes(processors() + 1, exec_again, rounds);
}

// A ring of processes: a number goes round and each adds one.
void pipes(unsigned rounds)
{
    unsigned count = 2 * processors() + 2;
    int ends[count][2];
    for (unsigned n = 0; n < count; n++) must(pipe(ends[n]));
    int pids[count];
    for (unsigned n = 1; n < count; n++) {
        must(pids[n] = fork());
        if (pids[n] == 0) {
            for (unsigned round = 0; round < rounds; round++) {
                uint64_t number;
                check(read(ends[n - 1][0], &number, sizeof number) == sizeof number, "read: %m");
                check(number == (uint64_t)round * count + n, "process %u got %lu in round %u", n, number, round);
                number++;
                check(write(ends[n][1], &number, sizeof number) == sizeof number, "write: %m");
            }
            _exit(0);
        }
    }
    for (unsigned round = 0; round < rounds; round++) {
        uint64_t number = (uint64_t)round * count + 1;
        check(write(ends[0][1], &number, sizeof number) == sizeof number, "write: %m");
        check(read(ends[count - 1][0], &number, sizeof number) == sizeof number, "read: %m");
        check(number == (uint64_t)(round + 1) * count, "%lu came round in round %u", number, round);
    }
    for (unsigned n = 1; n < count; n++) expect_exit(pids[n], 0);
}
