//! The signals that end a process.
//!
//! Those that ask it to end are blocked in every thread, and one thread waits for them: the guest is asked to
//! power off, and the machine is stopped when it has not done so after [`crate::GRACE`], or at a second
//! signal. Those that tell of a defect restore the terminal and then take their usual way.

use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use machine::MachineHandle;

/// Told by the processor or by abort(3).
const DEFECTS: [libc::c_int; 5] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGABRT];

/// How the terminal was before it became raw, for the handler of a defect.
static TERMINAL: OnceLock<libc::termios> = OnceLock::new();

/// Remembers how the terminal of standard input is.
pub(crate) fn remember_terminal() {
    let mut terminal = MaybeUninit::uninit();
    // SAFETY: tcgetattr fills the structure that it is given, or fails.
    if unsafe { libc::tcgetattr(libc::STDIN_FILENO, terminal.as_mut_ptr()) } == 0 {
        // SAFETY: it has been filled.
        TERMINAL.get_or_init(|| unsafe { terminal.assume_init() });
    }
}

/// Lets defects restore the terminal. To be called before others install handlers for the same signals: they
/// pass on what is not theirs.
pub(crate) fn restore_terminal_on_defects() -> io::Result<()> {
    for signal in DEFECTS {
        // SAFETY: an all-zero sigaction is a valid one without flags and with an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_defect as *const () as libc::sighandler_t;
        // The second time it takes its usual way.
        action.sa_flags = libc::SA_RESETHAND | libc::SA_SIGINFO;
        // SAFETY: the action is initialised and its handler calls async-signal-safe functions only.
        if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Restores the terminal. On return the instruction is carried out again, or abort(3) goes on, and the
/// process ends as it would have without.
extern "C" fn on_defect(signal: libc::c_int, information: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel gives the handler of an SA_SIGINFO action a valid structure.
    let sent_by_a_process = unsafe { (*information).si_code } <= 0;
    if sent_by_a_process {
        // No instruction to carry out again: the signal comes again when this returns.
        // SAFETY: raise is async-signal-safe.
        unsafe { libc::raise(signal) };
    }
    if let Some(terminal) = TERMINAL.get() {
        // SAFETY: tcsetattr is async-signal-safe, and the structure has been filled by tcgetattr.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, terminal) };
    }
}

/// Asked by other processes, by the terminal, or by its end.
const ENDING: [libc::c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];

/// Blocks the signals for this thread and those that it starts.
pub(crate) fn block() -> io::Result<()> {
    let set = ending_set();
    // SAFETY: `set` is an initialised signal set; a null pointer says that the old mask is not wanted.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Whether the machine had to be stopped.
#[derive(Clone, Default)]
pub(crate) struct Ending(Arc<AtomicBool>);

impl Ending {
    pub(crate) fn forced(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Starts the thread that waits.
pub(crate) fn watch(machine: MachineHandle) -> io::Result<Ending> {
    let ending = Ending::default();
    let told = ending.clone();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let set = ending_set();
        if !matches!(wait(&set, None), Ok(true)) {
            return;
        }
        tracing::info!("asking the guest to power off");
        machine.power_button();
        let deadline = Instant::now() + crate::GRACE;
        // A second signal, or the end of the grace: either way it is over.
        let _ = wait(&set, Some(deadline));
        told.0.store(true, Ordering::SeqCst);
        machine.stop();
    })?;
    Ok(ending)
}

fn ending_set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set that it is given; sigaddset gets an initialised set and valid
    // signal numbers, so that neither can fail.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in ENDING {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

/// Waits for one of the signals: true when one came, false at the deadline.
fn wait(set: &libc::sigset_t, deadline: Option<Instant>) -> io::Result<bool> {
    loop {
        let left =
            deadline.map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(Instant::now()));
        let timeout = libc::timespec {
            tv_sec: left.as_secs() as libc::time_t,
            tv_nsec: left.subsec_nanos() as libc::c_long,
        };
        // SAFETY: set and timeout are initialised; a null pointer says that the signal's details are not
        // wanted.
        let signal = unsafe { libc::sigtimedwait(set, std::ptr::null_mut(), &raw const timeout) };
        if signal > 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EAGAIN) if deadline.is_none_or(|at| Instant::now() < at) => {}
            Some(libc::EAGAIN) => return Ok(false),
            _ => return Err(error),
        }
    }
}
