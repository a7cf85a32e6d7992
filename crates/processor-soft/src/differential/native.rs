//! Runs one instruction natively, from a given state to the state after it or at its fault.
//!
//! Code and data lie at the same linear addresses as in the guest, so that the very same bytes run. Every
//! run ends in a signal: the INT3 behind the instruction, or the instruction's own fault. The handler sends
//! the thread to the exit stub, which saves all registers.

use std::cell::Cell;
use std::sync::Once;

use super::state::{Outcome, State};

/// Two pages of code.
pub const CODE: u64 = 0x7010_0000;
/// Two pages of data, writable; a third one read-only; nothing behind.
pub const DATA: u64 = 0x7000_0000;
pub const PAGE: usize = 4096;
/// What entry and exit stubs share with this module.
const EXCHANGE: u64 = 0x1357_0000;
const EXCHANGE_SIZE: usize = 16 * PAGE;

const HOST_RSP: usize = 0x0;
const TARGET: usize = 0x8;
const RFLAGS: usize = 0x10;
const MXCSR: usize = 0x18;
const GENERAL: usize = 0x40;
const AREA: usize = 0x1000;

std::arch::global_asm!(
    ".global bodhi_differential_enter",
    "bodhi_differential_enter:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [{x} + 0x0], rsp",
    "mov eax, -1",
    "mov edx, -1",
    "xrstor64 [{x} + 0x1000]",
    "push qword ptr [{x} + 0x10]",
    "popfq",
    "mov rax, [{x} + 0x40]",
    "mov rcx, [{x} + 0x48]",
    "mov rdx, [{x} + 0x50]",
    "mov rbx, [{x} + 0x58]",
    "mov rsp, [{x} + 0x60]",
    "mov rbp, [{x} + 0x68]",
    "mov rsi, [{x} + 0x70]",
    "mov rdi, [{x} + 0x78]",
    "mov r8, [{x} + 0x80]",
    "mov r9, [{x} + 0x88]",
    "mov r10, [{x} + 0x90]",
    "mov r11, [{x} + 0x98]",
    "mov r12, [{x} + 0xa0]",
    "mov r13, [{x} + 0xa8]",
    "mov r14, [{x} + 0xb0]",
    "mov r15, [{x} + 0xb8]",
    "jmp qword ptr [{x} + 0x8]",
    ".global bodhi_differential_exit",
    "bodhi_differential_exit:",
    "mov [{x} + 0x40], rax",
    "mov [{x} + 0x48], rcx",
    "mov [{x} + 0x50], rdx",
    "mov [{x} + 0x58], rbx",
    "mov [{x} + 0x60], rsp",
    "mov [{x} + 0x68], rbp",
    "mov [{x} + 0x70], rsi",
    "mov [{x} + 0x78], rdi",
    "mov [{x} + 0x80], r8",
    "mov [{x} + 0x88], r9",
    "mov [{x} + 0x90], r10",
    "mov [{x} + 0x98], r11",
    "mov [{x} + 0xa0], r12",
    "mov [{x} + 0xa8], r13",
    "mov [{x} + 0xb0], r14",
    "mov [{x} + 0xb8], r15",
    "mov rsp, [{x} + 0x0]",
    "pushfq",
    "pop qword ptr [{x} + 0x10]",
    "cld",
    "mov eax, -1",
    "mov edx, -1",
    "xsave64 [{x} + 0x1000]",
    "fninit",
    "ldmxcsr [{x} + 0x18]",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
    x = const EXCHANGE,
);

unsafe extern "C" {
    fn bodhi_differential_enter();
    fn bodhi_differential_exit();
}

thread_local! {
    static RUNNING: Cell<bool> = const { Cell::new(false) };
    static FAULT: Cell<(i64, i64, u64, u64)> = const { Cell::new((0, 0, 0, 0)) };
}

extern "C" fn on_signal(signal: libc::c_int, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    if !RUNNING.get() {
        // A fault of the test itself: let it end the process.
        // SAFETY: resets the disposition; returning runs the faulting instruction again.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    }
    // SAFETY: the kernel passes a valid `ucontext_t` to an SA_SIGINFO handler.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    FAULT.set((
        registers[libc::REG_TRAPNO as usize],
        registers[libc::REG_ERR as usize],
        registers[libc::REG_CR2 as usize] as u64,
        registers[libc::REG_RIP as usize] as u64,
    ));
    registers[libc::REG_RIP as usize] = bodhi_differential_exit as *const () as i64;
}

fn map(at: u64, size: usize, protection: libc::c_int) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: FIXED_NOREPLACE touches no existing mapping.
    let got = unsafe { libc::mmap(at as *mut libc::c_void, size, protection, flags, -1, 0) };
    assert_eq!(got as u64, at, "address {at:#x} is taken");
}

/// The host's processor as an oracle. One at a time in a process, on the thread that made it.
pub struct Native(());

impl Native {
    /// Maps the fixed pages and installs the signal handlers.
    pub fn new() -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            map(CODE, 2 * PAGE, libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC);
            map(DATA, 3 * PAGE, libc::PROT_READ | libc::PROT_WRITE);
            map(EXCHANGE, EXCHANGE_SIZE, libc::PROT_READ | libc::PROT_WRITE);
            // Touched, so that it is present.
            slice(DATA, 3 * PAGE)[2 * PAGE] = 1;
            slice(DATA, 3 * PAGE)[2 * PAGE] = 0;
            // SAFETY: the third page was mapped just now.
            unsafe { libc::mprotect((DATA as usize + 2 * PAGE) as *mut _, PAGE, libc::PROT_READ) };
            // SAFETY: an all-zero sigaction is a valid value to fill in.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP] {
                // SAFETY: the handler is async-signal-safe: it touches thread-locals without destructors.
                unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) };
            }
        });
        let stack = Box::leak(vec![0_u8; 256 << 10].into_boxed_slice());
        let alternate = libc::stack_t { ss_sp: stack.as_mut_ptr().cast(), ss_flags: 0, ss_size: stack.len() };
        // SAFETY: the stack is leaked and thus outlives the thread.
        unsafe { libc::sigaltstack(&alternate, std::ptr::null_mut()) };
        Self(())
    }

    /// Fills the code pages with INT3 and puts `code` at `rip`.
    pub fn set_code(&mut self, rip: u64, code: &[u8]) {
        let pages = slice(CODE, 2 * PAGE);
        pages.fill(0xcc);
        let at = (rip - CODE) as usize;
        pages[at..at + code.len()].copy_from_slice(code);
    }

    /// The writable data pages.
    pub fn data(&mut self) -> &mut [u8] {
        slice(DATA, 2 * PAGE)
    }

    /// Runs from `state` until the first signal.
    pub fn run(&mut self, state: &State) -> (State, Outcome) {
        let exchange = slice(EXCHANGE, EXCHANGE_SIZE);
        let put = |exchange: &mut [u8], at: usize, value: u64| {
            exchange[at..at + 8].copy_from_slice(&value.to_le_bytes());
        };
        put(exchange, TARGET, state.rip);
        put(exchange, RFLAGS, state.rflags);
        put(exchange, MXCSR, 0x1f80);
        put(exchange, HOST_RSP, 0);
        for (n, value) in state.general.into_iter().enumerate() {
            put(exchange, GENERAL + n * 8, value);
        }
        exchange[AREA..AREA + state.area.len()].copy_from_slice(&state.area);
        RUNNING.set(true);
        // SAFETY: the stub keeps the ABI's registers; the state's code ends in a signal whose handler leads
        // to the exit stub, on the alternate stack.
        unsafe { bodhi_differential_enter() };
        RUNNING.set(false);
        let (trap, error, address, rip) = FAULT.get();
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|n| exchange[at + n]));
        let after = State {
            general: std::array::from_fn(|n| word(GENERAL + n * 8)),
            // The kernel reports INT3 behind the byte.
            rip: if trap == 3 { rip.wrapping_sub(1) } else { rip },
            rflags: word(RFLAGS),
            area: exchange[AREA..AREA + state.area.len()].to_vec(),
        };
        (after, Outcome::from_trap(trap, error, address))
    }
}

fn slice(at: u64, size: usize) -> &'static mut [u8] {
    // SAFETY: the pages were mapped by `Native::new`, which every caller holds; one test thread uses them.
    unsafe { std::slice::from_raw_parts_mut(at as *mut u8, size) }
}
