// stress JOB [ROUNDS]: does one job; exit code 0 if every result was right.
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "stress.h"

static const struct {
    const char *name;
    job *run;
} JOBS[] = {
    {"atomics", atomics},   // locked instructions of many threads on the same words
    {"exec", exec_storm},   // fork, vfork and exec, with an answer through a pipe
    {"fork", fork_storm},   // fork, with copies on write on both sides
    {"jit", jit},           // code that is written, run and written again
    {"ordering", ordering}, // what one thread sees of another's stores
    {"patch", patch},       // code that one thread changes while others run it
    {"pipes", pipes},       // many processes that wait for each other
    {"protect", protect},   // mprotect, munmap and madvise under the feet of other threads
    {"signals", signals},   // timer signals into code that holds values in all registers
    {"step", step},         // ptrace: single steps, break points, watch points
    {"threads", threads},   // threads that come and go, with locks and thread-local storage
    {"traps", traps},       // faults of all kinds, with handlers that mend them
};

unsigned processors(void)
{
    return (unsigned)sysconf(_SC_NPROCESSORS_ONLN);
}

void expect_exit(int pid, int code)
{
    int status, found;
    do found = waitpid(pid, &status, 0);
    while (found < 0 && errno == EINTR);
    check(found == pid, "waitpid: %m");
    check(WIFEXITED(status) && WEXITSTATUS(status) == code, "a child ended with status %#x, not code %d", status,
          code);
}

void in_processes(unsigned count, void (*work)(unsigned, unsigned), unsigned rounds)
{
    int pids[count];
    for (unsigned n = 0; n < count; n++) {
        must(pids[n] = fork());
        if (pids[n] == 0) {
            work(n, rounds);
            _exit(0);
        }
    }
    for (unsigned n = 0; n < count; n++) expect_exit(pids[n], 0);
}

struct share {
    void (*work)(unsigned, unsigned);
    unsigned thread, rounds;
};

static void *run_share(void *argument)
{
    struct share *share = argument;
    share->work(share->thread, share->rounds);
    return NULL;
}

void in_threads(unsigned count, void (*work)(unsigned, unsigned), unsigned rounds)
{
    pthread_t ids[count];
    struct share shares[count];
    for (unsigned n = 0; n < count; n++) {
        shares[n] = (struct share){work, n, rounds};
        errno = pthread_create(&ids[n], NULL, run_share, &shares[n]);
        check(errno == 0, "pthread_create: %m");
    }
    for (unsigned n = 0; n < count; n++) pthread_join(ids[n], NULL);
}

void *pages(unsigned long count, int protection)
{
    void *memory = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE | protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    check(memory != MAP_FAILED, "mmap: %m");
    return memory;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--child") == 0) return exec_child(argc, argv);
    for (unsigned n = 0; argc > 1 && n < sizeof JOBS / sizeof *JOBS; n++) {
        if (strcmp(argv[1], JOBS[n].name) == 0) {
            JOBS[n].run(argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 10);
            return 0;
        }
    }
    fprintf(stderr, "usage: stress JOB [ROUNDS]; jobs:");
    for (unsigned n = 0; n < sizeof JOBS / sizeof *JOBS; n++) fprintf(stderr, " %s", JOBS[n].name);
    fprintf(stderr, "\n");
    return 2;
}
