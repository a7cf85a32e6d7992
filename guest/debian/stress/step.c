// ptrace: a child goes by single steps, to break points in its code and in debug registers, and to watch points.
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "stress.h"

#define STEPS 64

void stepped(void);
extern const char stepped_end[], stepped_loop[], stepped_store[], stepped_copy[], step_source[], step_word[];

static int traced_child(void)
{
    int pid = fork();
    must(pid);
    if (pid == 0) {
        must(ptrace(PTRACE_TRACEME, 0, 0, 0));
        raise(SIGSTOP);
        stepped();
        _exit(memcmp(step_source + 6, "source", 6) == 0 ? 17 : 18);
    }
    return pid;
}

static struct user_regs_struct await(int pid, int signal, const char *what)
{
    int status;
    struct user_regs_struct registers;
    check(waitpid(pid, &status, 0) == pid, "waitpid: %m");
    check(WIFSTOPPED(status) && WSTOPSIG(status) == signal, "%s: the child is in status %#x", what, status);
    must(ptrace(PTRACE_GETREGS, pid, 0, &registers));
    return registers;
}

static struct user_regs_struct go(int pid, int request)
{
    must(ptrace(request, pid, 0, 0));
    return await(pid, SIGTRAP, request == PTRACE_CONT ? "to go on" : "to step");
}

// Lets the child run to `address` by a break point in its code, and takes that away.
static struct user_regs_struct run_to(int pid, const char *address)
{
    long word = ptrace(PTRACE_PEEKTEXT, pid, address, 0);
    must(ptrace(PTRACE_POKETEXT, pid, address, (word & ~0xfful) | 0xcc));
    struct user_regs_struct registers = go(pid, PTRACE_CONT);
    check(registers.rip == (uint64_t)address + 1, "a break point at %p stopped at %#llx", address, registers.rip);
    must(ptrace(PTRACE_POKETEXT, pid, address, word));
    registers.rip--;
    must(ptrace(PTRACE_SETREGS, pid, 0, &registers));
    return registers;
}

static void set_debug(int pid, int number, uint64_t value)
{
    must(ptrace(PTRACE_POKEUSER, pid, offsetof(struct user, u_debugreg) + 8ul * (unsigned)number, value));
}

static void finish(int pid)
{
    must(ptrace(PTRACE_CONT, pid, 0, 0));
    expect_exit(pid, 17);
}

static void single_steps(void)
{
    int pid = traced_child();
    await(pid, SIGSTOP, "to stop");
    run_to(pid, (const char *)stepped);
    unsigned copies = 0, loops = 0, steps = 0;
    struct user_regs_struct registers;
    do {
        registers = go(pid, PTRACE_SINGLESTEP);
        loops += registers.rip == (uint64_t)stepped_loop;
        copies += registers.rip == (uint64_t)stepped_copy;
        steps++;
    } while (registers.rip != (uint64_t)stepped_end && steps < 1000);
    check(steps == STEPS && loops == 10 && copies == 6, "%u steps, %u loops, %u copies", steps, loops, copies);
    check(registers.rax == (uint64_t)pid || registers.r8 == (uint64_t)pid, "the child's getpid was not done");
    check(registers.rdx == 56 && registers.rsi == (uint64_t)step_source + 6, "rdx %llu", registers.rdx);
    check((registers.eflags & 0x40) != 0, "flags %#llx", registers.eflags);
    finish(pid);
}

static void debug_registers(void)
{
    int pid = traced_child();
    await(pid, SIGSTOP, "to stop");
    // 0: execution of the loop; 1: stores of 8 bytes to the word.
    set_debug(pid, 0, (uint64_t)stepped_loop);
    set_debug(pid, 1, (uint64_t)step_word);
    set_debug(pid, 7, 0x5 | 0x9ul << 20);
    for (unsigned n = 0; n < 10; n++) {
        struct user_regs_struct registers = go(pid, PTRACE_CONT);
        check(registers.rip == (uint64_t)stepped_loop && registers.rcx == 10 - n, "break %u at %#llx, rcx %llu", n,
              registers.rip, registers.rcx);
    }
    struct user_regs_struct registers = go(pid, PTRACE_CONT);
    check(registers.rip > (uint64_t)stepped_store && registers.rip <= (uint64_t)stepped_store + 8,
          "a watch point stopped at %#llx", registers.rip);
    check(ptrace(PTRACE_PEEKDATA, pid, step_word, 0) == 56, "the watched store was not done");
    set_debug(pid, 7, 0);
    run_to(pid, stepped_end);
    finish(pid);
}

static void step_again(unsigned process, unsigned rounds)
{
    (void)process;
    for (unsigned round = 0; round < rounds; round++) {
        single_steps();
        debug_registers();
    }
}

void step(unsigned rounds)
{
    in_processes(processors(), step_again, rounds);
}
