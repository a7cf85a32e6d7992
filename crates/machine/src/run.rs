//! A machine from power-on to its end: one thread per processor, resets in between.

use std::any::Any;
use std::io::{ErrorKind, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use counters::{Kind, Registry};
use processor::{Exit, Processor};
use synthetic::socket::Sockets;

use crate::Error;
use crate::boot::BootSource;
use crate::build::{Board, Engine, Parts};
use crate::config::{InputError, MachineConfig, MemorySize};
use crate::control::{Control, End, Failure, Wish};
use crate::debug::{Access, Debug};
use crate::disks::Disks;
use crate::handle::{MachineHandle, Shared};
use crate::networks::Networks;
use crate::pause::Gate;

/// Where the serial port's output goes, across resets.
pub(crate) type SerialOutput = Arc<Mutex<Box<dyn Write + Send>>>;

/// A machine with all it needs, ready to run.
pub struct Machine {
    shared: Arc<Shared>,
    source: BootSource,
    serial: SerialOutput,
    board: Board,
    choice: Option<String>,
}

impl Machine {
    /// Opens what `config` names, builds the machine and loads its kernel. The output of the serial port
    /// goes to `serial`.
    ///
    /// # Errors
    /// When the configuration is wrong, a file does not do, or the host lacks something. Nothing has been
    /// created or changed then, but for files that tell of translated code.
    pub fn new(config: MachineConfig, serial: Box<dyn Write + Send>) -> Result<Self, Error> {
        clock::begin_tsc_measurement();
        config.validate()?;
        check_host_memory(&config)?;
        let mut source = BootSource::open(&config)?;
        let (engine, choice) = Engine::choose(&config)?;
        let disks = Arc::new(Disks::open(&config)?);
        let networks = Arc::new(Networks::new(&config)?);
        let inspection = Arc::new(config.translator.open()?);
        let control = Arc::<Control>::default();
        let gdb = config.gdb.as_ref();
        let debug = gdb.map(|gdb| Debug::new(config.cpus, gdb.wait, Arc::clone(&control)));
        let config_services = config.integration;
        let registry = Arc::new(Registry::new());
        let sockets = config.vsock.as_ref().map(|path| open_sockets(path, &registry)).transpose()?;
        let shared = Arc::new(Shared {
            config,
            engine,
            disks,
            networks,
            sockets,
            services: Mutex::new(config_services),
            control,
            registry,
            inspection,
            panel: Mutex::default(),
            last_table: Mutex::default(),
            resets: AtomicU64::new(0),
            started: Instant::now(),
            debug,
            gate: Arc::new(Gate::default()),
        });
        let serial = Arc::new(Mutex::new(serial));
        let mut board = power_on(&shared, &mut source, &serial)?;
        if shared.debug.is_some() && !board.can_be_debugged() {
            return Err(InputError::bare("gdb", "this kind of processor cannot be debugged").into());
        }
        Ok(Self { shared, source, serial, board, choice })
    }

    /// Which processor was chosen and why, where the configuration leaves that open.
    pub fn processor_choice(&self) -> Option<&str> {
        self.choice.as_deref()
    }

    /// How others reach this machine.
    pub fn handle(&self) -> MachineHandle {
        MachineHandle { shared: Arc::clone(&self.shared) }
    }

    /// Runs until the guest powers off, the machine is stopped or fails. The disks are flushed then.
    pub fn run(self) -> End {
        let Self { shared, mut source, serial, mut board, choice: _ } = self;
        let end = loop {
            match power_cycle(board, &shared) {
                Wish::End(end) => break end,
                Wish::Reset => {}
            }
            // Nothing keeps the old board's memory while the new one gets its own.
            *lock(&shared.panel) = None;
            shared.resets.fetch_add(1, Ordering::Relaxed);
            board = match power_on(&shared, &mut source, &serial) {
                Ok(board) => board,
                Err(error) => break End::Failed(Failure::Restart(Box::new(error))),
            };
        };
        *lock(&shared.panel) = None;
        shared.control.set_ended();
        if let Some(sockets) = &shared.sockets {
            sockets.end();
        }
        shared.networks.end();
        let end = match shared.disks.end() {
            Err(failure) if !matches!(end, End::Failed(_)) => End::Failed(failure),
            _ => end,
        };
        if let Some(debug) = &shared.debug {
            debug.end(&end);
        }
        end
    }
}

/// A machine larger than its host only swaps.
fn check_host_memory(config: &MachineConfig) -> Result<(), InputError> {
    let host = rustix::system::sysinfo();
    let total = host.totalram.saturating_mul(u64::from(host.mem_unit));
    if config.memory.0 > total {
        let reason = format!("larger than this host's memory of {} MiB", total >> 20);
        return Err(InputError::new("memory", MemorySize(config.memory.0), reason));
    }
    Ok(())
}

/// The guest's sockets with their row in `registry`.
fn open_sockets(path: &Path, registry: &Registry) -> Result<Arc<Sockets>, InputError> {
    let open = |counters| Sockets::new(path, counters);
    let opened = registry.owner("sockets", Kind::Synthetic, Sockets::state, open);
    opened.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => InputError::file("vsock", path, "is there already"),
        _ => InputError::io("vsock", path, &error),
    })
}

fn power_on(shared: &Arc<Shared>, source: &mut BootSource, serial: &SerialOutput) -> Result<Board, Error> {
    let board = Board::build(Parts {
        config: &shared.config,
        engine: &shared.engine,
        control: Arc::clone(&shared.control),
        registry: Arc::clone(&shared.registry),
        inspection: Arc::clone(&shared.inspection),
        disks: &shared.disks,
        networks: &shared.networks,
        sockets: shared.sockets.as_deref(),
        services: *lock(&shared.services),
        source,
        serial: Arc::clone(serial),
    })?;
    *lock(&shared.panel) = Some(board.panel());
    Ok(board)
}

/// Lets the processors run until something is wished, and stops them.
fn power_cycle(mut board: Board, shared: &Shared) -> Wish {
    let control = &shared.control;
    let threads = start_all(&mut board, shared);
    control.wait();
    shared.gate.leave();
    if let Some(debug) = &shared.debug {
        debug.leave();
    }
    board.stop();
    for thread in threads {
        // Its panic has been caught and reported as a failure.
        let _ = thread.join();
    }
    if let Some(debug) = &shared.debug {
        debug.end_board();
    }
    let wish = control.take().unwrap_or(Wish::End(End::Stopped));
    if matches!(wish, Wish::End(_)) {
        // What devices say of themselves is to be had as long as they live.
        *lock(&shared.last_table) = Some(shared.registry.table());
    }
    board.shut_down();
    wish
}

fn start_all(board: &mut Board, shared: &Shared) -> Vec<JoinHandle<()>> {
    let processors = board.take_processors();
    let count = processors.len();
    let processors = (0..).zip(processors);
    let control = || Arc::clone(&shared.control);
    match &shared.debug {
        None => {
            let Access { partition, clock, .. } = board.debug_access();
            shared.gate.begin(partition, clock, count);
            let run = |(vp, mut processor): (u32, Box<dyn Processor>)| {
                let gate = Arc::clone(&shared.gate);
                start(vp, move || gate.run(&mut *processor), control())
            };
            processors.filter_map(run).collect()
        }
        Some(debug) => {
            let (indices, processors): (Vec<u32>, Vec<_>) = processors.unzip();
            debug.begin(board.debug_access(), processors);
            let run = |vp| {
                let debug = Arc::clone(debug);
                start(vp, move || debug.run(vp), control())
            };
            indices.into_iter().filter_map(run).collect()
        }
    }
}

fn start(
    vp: u32,
    run: impl FnOnce() -> Exit + Send + 'static,
    control: Arc<Control>,
) -> Option<JoinHandle<()>> {
    let failed = Arc::clone(&control);
    let run = move || match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Exit::Stopped) => {}
        Ok(Exit::Debug(stop)) => {
            let reason = format!("it has stopped for a debugger that is not there: {stop:?}");
            control.fail(Failure::Processor { vp, reason });
        }
        Ok(Exit::TripleFault { state }) => {
            // Software that has asked for a reset may go on to one.
            if !control.is_wished() {
                tracing::error!("the state after a triple fault:\n{state}");
            }
            control.fail(Failure::TripleFault { vp });
        }
        Ok(Exit::Failed { reason, state }) => {
            tracing::error!("the state of a processor that cannot go on:\n{state}");
            control.fail(Failure::Processor { vp, reason });
        }
        Err(panic) => control.fail(Failure::Panic(panic_text(&*panic))),
    };
    match std::thread::Builder::new().name(format!("vp{vp}")).spawn(run) {
        Ok(thread) => Some(thread),
        Err(error) => {
            failed.fail(Failure::Processor { vp, reason: format!("the host gives no thread: {error}") });
            None
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no text").to_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
